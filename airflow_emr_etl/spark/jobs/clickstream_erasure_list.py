"""Who is to be erased: the visitors of a list, and every visitor as which a user of another list has signed in.

This is a step of its own, before clickstream_erase: once the events are gone that say who signed in, nobody could find
the rest of that user's events any more. The ids are personal data: they come from files, and go into one.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from functools import reduce
from typing import List, Optional, Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import ConfigurationError, CorruptInputError
from airflow_emr_etl.models import visitor_list
from airflow_emr_etl.models.manifest import Column, Manifest
from airflow_emr_etl.models.visitor_list import VISITOR
from airflow_emr_etl.spark import visitor_datasets
from airflow_emr_etl.spark.batch_catalog import BatchCatalog
from airflow_emr_etl.spark.dataset import Dataset, read_files
from airflow_emr_etl.spark.session import job_session

NAME = "clickstream_erasure_list"
USER = "user_id"

_DIGEST = r"^[0-9a-f]{64}\z"


def parse_arguments(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=NAME, description="Find the visitors that are to be erased.", allow_abbrev=False
    )
    parser.add_argument("--visitors", help="file of visitor ids, one a line")
    parser.add_argument("--users", help="file of user ids, one a line")
    visitor_datasets.add_arguments(parser)
    parser.add_argument("--output", required=True, help="folder of this attempt alone")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    arguments = parse_arguments(argv)
    spark = job_session(NAME)
    try:
        manifest = list_visitors(
            spark,
            output=arguments.output,
            visitors=arguments.visitors,
            users=arguments.users,
            catalog=arguments.catalog,
            data=arguments.data,
        )
        print(f"{NAME}: {manifest.record_count} visitors")  # noqa: T201 - the step's stdout
    finally:
        spark.stop()


def list_visitors(
    spark: SparkSession,
    output: str,
    visitors: Optional[str] = None,
    users: Optional[str] = None,
    catalog: Optional[str] = None,
    data: Sequence[str] = (),
) -> Manifest:
    """Write the dataset ``visitors``; its manifest. ``catalog`` and ``data`` are where users are looked for.

    Raise ConfigurationError without a list; MissingInputError for one that is not there; CorruptInputError for a
    visitor id that is none, and where no visitor was found at all.
    """
    frames: List[DataFrame] = []
    if visitors:
        frames.append(_visitor_ids(spark, visitors))
    if users:
        frames.append(_visitors_of(spark, _ids(spark, users), catalog, data))
    if not frames:
        raise ConfigurationError("Give --visitors or --users, the address of a file with one id a line.")
    today = datetime.now(timezone.utc).date()
    dataset = Dataset(spark, output, visitor_list.DATASET, today, visitor_list.COLUMNS)
    dataset.write(reduce(DataFrame.unionByName, frames).distinct().coalesce(1))
    files, _ = dataset.measure()
    if not files:
        raise CorruptInputError(
            "The lists name nobody: they are empty, or none of the users is in the data. Look at the files, and at "
            "where the users are looked for.",
        )
    return dataset.finish(files, NAME, None)


def _ids(spark: SparkSession, uri: str) -> DataFrame:
    """The lines of a file as ``id``, without the empty ones."""
    text = spark.read.option("__globPaths__", "false").text(uri)
    # A byte order mark comes from spreadsheets, and a carriage return from Windows.
    lines = text.select(F.regexp_replace("value", "^\\uFEFF|\\r\\z", "").alias("id"))
    return lines.where(F.col("id") != "")


def _visitor_ids(spark: SparkSession, uri: str) -> DataFrame:
    ids = _ids(spark, uri).select(F.lower(F.trim("id")).alias(VISITOR))
    wrong = ids.where(~F.col(VISITOR).rlike(_DIGEST)).count()
    if wrong:
        raise CorruptInputError(
            f"{wrong} lines of {uri} are no visitor id: 64 hexadecimal digits, as in analytics.events. User ids go "
            "into a file of their own, for --users.",
            uri=uri,
        )
    return ids


def _visitors_of(
    spark: SparkSession, users: DataFrame, catalog: Optional[str], data: Sequence[str]
) -> DataFrame:
    batches = None if catalog is None else BatchCatalog(spark, catalog).entries().values()
    urls = {
        visitor_datasets.place(url): url
        for dataset in visitor_datasets.find(spark, batches, data)
        if USER in dataset.columns
        for url in dataset.manifest.urls
    }
    known = read_files(spark, sorted(urls.values()), [*visitor_list.COLUMNS, Column(USER, "VARCHAR(65535)")])
    wanted = F.broadcast(users.select(F.col("id").alias(USER)).distinct())
    return known.join(wanted, USER, "left_semi").select(VISITOR)


if __name__ == "__main__":
    main(sys.argv[1:])
