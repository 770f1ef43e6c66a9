"""Events to sessions and daily totals. Reads only the files that normalize's manifest lists.

Writes the datasets ``events`` (as for the warehouse, with ``session_id``), ``sessions`` and ``daily_traffic``.
The rules are in docs/clickstream.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from datetime import date
from typing import Optional, Sequence

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import AccountingError, ConfigurationError, ManifestError
from airflow_emr_etl.models import access_log
from airflow_emr_etl.models.manifest import FILE_NAME, Accounting
from airflow_emr_etl.spark import columns, storage
from airflow_emr_etl.spark.arguments import job_parser, whole_number
from airflow_emr_etl.spark.dataset import Dataset, read_manifest
from airflow_emr_etl.spark.session import job_session

NAME = "clickstream_sessionize"


def parse_arguments(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = job_parser(NAME, "Group the events of one day into sessions.")
    parser.add_argument("--input", required=True, help="the output of clickstream_normalize")
    parser.add_argument("--inactivity-minutes", type=whole_number, default=30)
    arguments = parser.parse_args(argv)
    if arguments.inactivity_minutes < 1:
        raise ConfigurationError("--inactivity-minutes is 0; valid is 1 and more.")
    return arguments


def main(argv: Optional[Sequence[str]] = None) -> None:
    arguments = parse_arguments(argv)
    spark = job_session(NAME)
    try:
        accounting = sessionize(
            spark,
            source=arguments.input,
            day=arguments.day,
            output=arguments.output,
            inactivity_minutes=arguments.inactivity_minutes,
        )
        print(f"{NAME}: {accounting.to_dict()}")  # noqa: T201 - the step's stdout
    finally:
        spark.stop()


def sessionize(
    spark: SparkSession, source: str, day: date, output: str, inactivity_minutes: int = 30
) -> Accounting:
    """Run the job in ``spark``; see the module. Raise MissingInputError, ManifestError or AccountingError."""
    uri = storage.join(source, "events", FILE_NAME)
    given = read_manifest(spark, uri)
    if given.accounting is None or given.partition.get("dt") != day.isoformat():
        raise ManifestError(
            f"{uri} is of {dict(given.partition)}, not of the day {day}, or has no accounting."
        )
    given.accounting.check()

    events = Dataset(spark, output, "events", day, columns.EVENTS)
    sessions = Dataset(spark, output, "sessions", day, columns.SESSIONS)
    traffic = Dataset(spark, output, "daily_traffic", day, columns.DAILY_TRAFFIC)

    normalized = Dataset(spark, source, "events", day, columns.NORMALIZED).read(given.urls)
    events.write(_with_sessions(normalized, inactivity_minutes))
    event_files, _ = events.measure()
    written = sum(file.record_count for file in event_files)
    if written != given.accounting.valid or given.record_count != written:
        raise AccountingError(
            f"{given.accounting.valid} valid events were announced by {uri}, {given.record_count} are listed, "
            f"and {written} were written.",
        )

    hits = events.read([file.url for file in event_files])
    sessions.write(_sessions(hits, day))
    session_files, _ = sessions.measure()
    traffic.write(_traffic(hits, sessions.read([file.url for file in session_files]), day))
    traffic_files, _ = traffic.measure()

    accounting = dataclasses.replace(
        given.accounting, sessions=sum(file.record_count for file in session_files)
    )
    traffic.finish(traffic_files, NAME, accounting)
    sessions.finish(session_files, NAME, accounting)
    events.finish(event_files, NAME, accounting)
    return accounting


def _with_sessions(events: DataFrame, inactivity_minutes: int) -> DataFrame:
    """Add ``session_id``. A gap of *more* than the inactivity starts a session; times are totally ordered by
    (ts, event_id), because equal times in no fixed order would cut the same events differently each run."""
    in_order = Window.partitionBy("visitor_id").orderBy("ts", "event_id")
    previous = F.lag("ts").over(in_order)
    starts = previous.isNull() | (
        F.unix_micros("ts") - F.unix_micros(previous) > inactivity_minutes * 60_000_000
    )
    first_event = F.last(F.when(F.col("starts"), F.col("event_id")), ignorenulls=True).over(
        in_order.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    )
    return (
        events.withColumn("starts", starts)
        .withColumn("first_event", first_event)
        .withColumn("session_id", F.sha2(F.concat_ws(":", "visitor_id", "first_event"), 256))
    )


def _sessions(hits: DataFrame, day: date) -> DataFrame:
    # The least and the greatest of (ts, event_id, ...) are the first and the last hit; event_id decides ties.
    with_path = F.struct("ts", "event_id", "path")
    page_with_path = F.when(F.col("is_page_view"), with_path)
    first_hit = F.min(F.struct("ts", "event_id", "path", "referrer"))
    return (
        hits.groupBy("session_id", "visitor_id")
        .agg(
            F.min("ts").alias("started_at"),
            F.max("ts").alias("ended_at"),
            F.count(F.lit(1)).alias("hits"),
            F.count(F.when(F.col("is_page_view"), 1)).alias("page_views"),
            first_hit.alias("first_hit"),
            F.max(with_path).alias("last_hit"),
            F.min(page_with_path).alias("first_page"),
            F.max(page_with_path).alias("last_page"),
        )
        .select(
            "session_id",
            "visitor_id",
            "started_at",
            "ended_at",
            "hits",
            "page_views",
            F.coalesce("first_page.path", "first_hit.path").alias("entry_path"),
            F.coalesce("last_page.path", "last_hit.path").alias("exit_path"),
            _host(F.col("first_hit.referrer")).alias("referrer_host"),
            F.lit(day.isoformat()).cast("date").alias("dt"),
        )
    )


def _host(uri: Column) -> Column:
    host = F.lower(F.regexp_extract(uri, access_log.URI_HOST, 1))
    return F.when(host != "", host)


def _traffic(hits: DataFrame, sessions: DataFrame, day: date) -> DataFrame:
    def count_where(condition: Column) -> Column:
        return F.count(F.when(condition, 1))

    of_hits = hits.agg(
        F.count(F.lit(1)).alias("hits"),
        count_where(F.col("is_page_view")).alias("page_views"),
        count_where(F.col("is_bot")).alias("bot_hits"),
        F.coalesce(F.sum("bytes"), F.lit(0)).alias("bytes"),
        count_where(F.col("status").between(400, 499)).alias("client_errors"),
        count_where(F.col("status").between(500, 599)).alias("server_errors"),
    )
    of_sessions = sessions.agg(
        F.count(F.lit(1)).alias("sessions"), F.count_distinct("visitor_id").alias("visitors")
    )
    return of_hits.crossJoin(of_sessions).withColumn("dt", F.lit(day.isoformat()).cast("date")).coalesce(1)


if __name__ == "__main__":
    main(sys.argv[1:])
