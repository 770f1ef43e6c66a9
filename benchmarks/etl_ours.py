"""Our own jobs: ``python -m benchmarks.etl_ours sessions|table|pipeline|quality --input FOLDER --output FOLDER``."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_emr_etl.models.manifest import FILE_NAME
from airflow_emr_etl.spark.dataset import PARQUET_OPTIONS
from airflow_emr_etl.spark.session import configure
from benchmarks.etl_data import DAY
from benchmarks.etl_process import Laps, arguments, report
from benchmarks.etl_spark import session

if TYPE_CHECKING:
    import argparse

    from pyspark.sql import DataFrame, SparkSession

MARTS = ("page_views", "user_days", "users", "daily_traffic", "funnels", "entry_pages", "exit_pages")
"""Of our marts. ``user_days`` is what ``users`` are made of; the plain PySpark makes them of sessions."""

_MARTS_JOB = "airflow_emr_etl.spark.jobs.clickstream_marts"


def main() -> None:
    chosen = arguments("sessions", "table", "pipeline", "quality")
    with session(f"ours {chosen.command}", chosen) as spark:
        configure(spark)
        {"sessions": sessions, "table": table, "pipeline": pipeline, "quality": quality}[chosen.command](
            spark, chosen
        )


def sessions(spark: SparkSession, chosen: argparse.Namespace) -> None:
    """Sessions with the columns that the other contenders make."""
    found = sessions_of(spark, chosen.input, referrer=False).select(
        "session_id",
        "visitor_id",
        "started_at",
        "ended_at",
        "hits",
        "page_views",
        "entry_path",
        "exit_path",
    )
    found.write.options(**PARQUET_OPTIONS).parquet(chosen.output)


def table(spark: SparkSession, chosen: argparse.Namespace) -> None:
    """Sessions with all columns of the table that a night loads."""
    from pyspark.sql import functions as F

    from airflow_emr_etl.spark.columns import SESSIONS
    from airflow_emr_etl.spark.referrers import referrer_host

    found = sessions_of(spark, chosen.input, referrer=True).withColumns(
        {"referrer_host": referrer_host(F.col("referrer")), "dt": F.to_date("started_at")}
    )
    rows = found.select(*(column.name for column in SESSIONS))
    rows.write.options(**PARQUET_OPTIONS).parquet(chosen.output)


def sessions_of(spark: SparkSession, folder: str, referrer: bool) -> DataFrame:
    """The sessions of events, some of which are there twice. What the jobs do with theirs, and nothing else."""
    from pyarrow import parquet

    from airflow_emr_etl.models.session_rules import SessionRules
    from airflow_emr_etl.spark.session_engine import HitFiles, sessions_of

    files = sorted(Path(folder).glob("*.parquet"))
    # The jobs know the number from the manifest; here it comes from the files' footers.
    rows = sum(parquet.read_metadata(file).num_rows for file in files)
    hits = HitFiles(spark, [f"file://{file}" for file in files], referrer=referrer)
    return sessions_of([hits], SessionRules(), rows=rows)


def pipeline(spark: SparkSession, chosen: argparse.Namespace) -> None:
    """The jobs of a night, one after the other, in one Spark: what their start costs is left out."""
    from airflow_emr_etl.spark.jobs import clickstream_normalize, clickstream_sessionize
    from airflow_emr_etl.spark.source_reader import load_source

    laps = Laps()
    normalized = f"{chosen.output}/normalized"
    clickstream_normalize.normalize(
        spark, inputs=[chosen.input], day=DAY, output=normalized, source=load_source(spark, chosen.source)
    )
    laps.lap("normalize")
    clickstream_sessionize.sessionize(spark, source=normalized, day=DAY, output=chosen.output)
    laps.lap("sessionize")
    if marts(spark, chosen.output):
        laps.lap("marts")
    laps.report()


def marts(spark: SparkSession, output: str) -> bool:
    """The marts that the plain PySpark makes too; False, and none, where the package has no job for them."""
    if importlib.util.find_spec(_MARTS_JOB) is None:
        return False
    job = importlib.import_module(_MARTS_JOB)
    job.build(
        spark,
        events=f"{output}/events/{FILE_NAME}",
        sessions=f"{output}/sessions/{FILE_NAME}",
        day=DAY,
        output=f"{output}/marts",
        marts=[mart for mart in job.MARTS if mart.name in MARTS],
    )
    return True


def quality(spark: SparkSession, chosen: argparse.Namespace) -> None:
    """The suite of 20 expectations over sessions, beside one scan that computes the same numbers."""
    suite = importlib.import_module("benchmarks.quality_suite")
    report({"quality": suite.measure(spark, chosen.input, chosen.runs)})


if __name__ == "__main__":
    main()
