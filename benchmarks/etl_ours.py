"""Our own jobs: ``python -m benchmarks.etl_ours sessions|pipeline|quality --input FOLDER --output FOLDER``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from airflow_emr_etl.spark.session import configure
from benchmarks.etl_data import DAY
from benchmarks.etl_process import Laps, arguments, report
from benchmarks.etl_spark import session

if TYPE_CHECKING:
    import argparse

    from pyspark.sql import DataFrame, SparkSession

EVENTS = (
    "event_id string, ts timestamp, visitor_id string, path string, query string, referrer string, "
    "user_agent string, status smallint, bytes bigint, is_page_view boolean"
)


def main() -> None:
    chosen = arguments("sessions", "pipeline", "quality")
    with session(f"ours {chosen.command}", chosen) as spark:
        configure(spark)
        {"sessions": sessions, "pipeline": pipeline, "quality": quality}[chosen.command](spark, chosen)


def sessions(spark: SparkSession, chosen: argparse.Namespace) -> None:
    events = spark.read.schema(EVENTS).parquet(chosen.input)
    sessions_of(events).write.parquet(chosen.output)


def sessions_of(events: DataFrame) -> DataFrame:
    """The sessions of ``events``, some of which are there twice. What the jobs do with theirs, and nothing else."""
    from airflow_emr_etl.spark.jobs import clickstream_sessionize as job

    hits = job._with_sessions(events.dropDuplicates(["event_id"]), inactivity_minutes=30)
    return job._sessions(hits, DAY)


def pipeline(spark: SparkSession, chosen: argparse.Namespace) -> None:
    """The jobs of a night, one after the other, in one Spark: what their start costs is left out."""
    from airflow_emr_etl.spark.jobs import clickstream_normalize, clickstream_sessionize

    laps = Laps()
    # Combined is what normalize takes when it is not told.
    source = {} if chosen.source == "combined" else {"source": chosen.source}
    normalized = f"{chosen.output}/normalized"
    clickstream_normalize.normalize(spark, inputs=[chosen.input], day=DAY, output=normalized, **source)
    laps.lap("normalize")
    clickstream_sessionize.sessionize(spark, source=normalized, day=DAY, output=chosen.output)
    laps.lap("sessionize")
    laps.report()


def quality(spark: SparkSession, chosen: argparse.Namespace) -> None:
    """The suite of 20 expectations over sessions, beside one scan that computes the same numbers."""
    suite = importlib.import_module("benchmarks.quality_suite")
    report({"quality": suite.measure(spark, chosen.input, chosen.runs)})


if __name__ == "__main__":
    main()
