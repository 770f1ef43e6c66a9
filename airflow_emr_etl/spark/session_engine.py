"""Events to sessions with one shuffle; see session_shuffle.py for what goes through it.

Correct for any number of partitions: a visitor's hits are all in one. Sized by rows, so that a partition's hits fit a
Python worker's memory on a laptop as on a hundred nodes; only the number of partitions grows.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Dict, Iterable, Iterator, List, Optional

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.session_rules import SessionRules

HITS_A_PARTITION = 1_000_000
"""Some 150 MB in a Python worker."""


def sessions_of(
    events: DataFrame, rules: SessionRules, rows: Optional[int] = None, known: bool = False
) -> DataFrame:
    """The sessions of ``events``: ``session_pass.OUTPUT`` with times, and ``session_id``.

    ``events`` has visitor_id, ts, event_id, is_page_view, path and, if it matters, referrer; for rules that cut also
    ``cut_key`` (bigint) or ``cut_day`` (int); with ``known`` also ``owner`` (int) and ``kind`` (tinyint), see
    session_pass. ``rows``, if known, sizes the partitions. Events of one visitor, time and id count once. Each string
    that goes to Python costs as much as five numbers, so event ids go as :func:`event_hash`.
    """
    _check_arrow()
    from airflow_emr_etl.spark import session_pass, session_shuffle

    spark = events.sparkSession
    keys = partition_keys(spark, partition_count(spark, rows))
    given = set(events.columns)
    columns: List[Column] = []
    for name in session_shuffle.HITS.names:
        if name == "visitor_hash":
            column = F.xxhash64("visitor_id")
        elif name == "event":
            column = event_hash()
        elif name == "ts":
            column = F.unix_micros(F.col("ts").cast("timestamp"))
        elif name in given and (known or name not in ("owner", "kind")):
            column = F.col(name)
        else:
            continue  # the same for all: not worth sending row by row
        columns.append(column.alias(name))

    def packed(batches: Iterable[Any]) -> Iterator[Any]:
        from airflow_emr_etl.spark import session_shuffle

        return session_shuffle.pack(batches, rules, keys)

    def found(batches: Iterable[Any]) -> Iterator[Any]:
        from airflow_emr_etl.spark import session_shuffle

        names, hits = session_shuffle.unpack(batches)
        for batch in session_pass.sessions(hits, rules):
            yield batch.set_column(0, "visitor_id", names.take(batch.column(0)))

    shares = events.select(*columns).mapInArrow(packed, "partition_key int, hits binary")
    out = shares.repartition(len(keys), "partition_key").mapInArrow(found, _schema())
    times = ("started_at", "ended_at", "restates_from", "restates_to")
    return out.withColumns({name: F.timestamp_micros(name) for name in times}).withColumn(
        "session_id", F.sha2(F.concat_ws(":", "visitor_id", F.hex("first_event")), 256)
    )


def event_hash() -> Column:
    """What orders the events of one visitor and time, and tells them apart: 64 bits of the event's id."""
    return F.xxhash64("event_id")


def partition_count(spark: SparkSession, rows: Optional[int]) -> int:
    """Enough partitions for every core, and for ``rows`` to fit."""
    cores = spark.sparkContext.defaultParallelism
    if rows is None:
        return max(cores, int(spark.conf.get("spark.sql.shuffle.partitions") or 200))
    return max(cores, -(-rows // HITS_A_PARTITION))


def partition_keys(spark: SparkSession, count: int) -> List[int]:
    """For each of ``count`` partitions a key that Spark's hash partitioning sends there, and to no other.

    Numbers 0, 1, 2 … would collide: some partitions get two of them, and others none.
    """
    found: Dict[int, int] = {}
    tried, width = 0, 8 * count + 64
    while len(found) < count:
        place = F.pmod(F.hash(F.col("id").cast("int")), F.lit(count))
        for row in spark.range(tried, tried + width, 1, 1).select("id", place.alias("place")).collect():
            found.setdefault(row["place"], row["id"])
        tried += width
    return [found[place] for place in range(count)]


def _check_arrow() -> None:
    missing = [name for name in ("numpy", "pyarrow") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"This Python has no {' and no '.join(missing)}, which sessions are found with. On a cluster, the "
            "bootstrap action install_great_expectations.sh of airflow_emr_etl.quality installs both; point "
            "spark.pyspark.python at its Python. Elsewhere, pip install 'airflow-emr-etl[spark]'."
        )


def _schema() -> str:
    from airflow_emr_etl.spark import session_pass

    names = {"string": "string", "int64": "bigint", "bool": "boolean"}
    fields = [f"{field.name} {names[str(field.type)]}" for field in session_pass.OUTPUT]
    return ", ".join(["visitor_id string", *fields[1:]])
