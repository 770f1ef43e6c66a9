"""Where a visitor came from, out of the referrer that the browser sent."""

from __future__ import annotations

from typing import Optional, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from airflow_emr_etl.models import access_log
from airflow_emr_etl.spark.lookup import Answer, ask
from airflow_emr_etl.spark.referrer_database import find_source, load_database, sources_by_domain

_HOST = access_log.python_pattern(access_log.URI_HOST)

COLUMNS = ("referrer_medium", "referrer_source", "referrer_term")


def referrer_host(referrer: Column) -> Column:
    """The host of an absolute URI in lower case, without user and port; NULL where there is none."""
    host = F.lower(F.regexp_extract(referrer, access_log.URI_HOST, 1))
    return F.when(host != "", host)


def host_of(referrer: str) -> Optional[str]:
    """The same as :func:`referrer_host`, in Python."""
    found = _HOST.search(referrer)
    return found.group(1).lower() if found else None


def parse_referrers(referrers: DataFrame) -> DataFrame:
    """``referrers`` (one column of distinct texts) with :data:`COLUMNS`; those that are not known are left out."""
    database = load_database()

    def make() -> Answer:
        sources = sources_by_domain(database)

        def answer(referrer: str) -> Optional[Sequence[Optional[str]]]:
            found = find_source(referrer, sources)
            if found is None:
                return None
            medium, name, term = found
            # No warehouse stores a NUL.
            return medium, name, None if term is None else term.replace("\0", "\N{REPLACEMENT CHARACTER}")

        return answer

    return ask(referrers, make, COLUMNS)
