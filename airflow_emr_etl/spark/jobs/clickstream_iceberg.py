"""What a run of clickstream_sessionize stated anew, into two Iceberg tables: events and sessions.

For clusters that have Iceberg's jars; elsewhere it says what is missing, before it reads anything. See docs/tables.md.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date
from typing import Dict, Optional, Sequence

from pyspark.sql import SparkSession

from airflow_emr_etl.exceptions import ConfigurationError, ManifestError
from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.spark.arguments import iso_day
from airflow_emr_etl.spark.dataset import read_manifest
from airflow_emr_etl.spark.iceberg_catalog import TableName, require
from airflow_emr_etl.spark.iceberg_merge import Merge, merge_all
from airflow_emr_etl.spark.iceberg_statements import EVENTS, SESSIONS
from airflow_emr_etl.spark.session import job_session

NAME = "clickstream_iceberg"


def parse_arguments(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=NAME,
        description="Bring what clickstream_sessionize wrote into Iceberg tables.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--events", required=True, metavar="URI", help="the manifest of clickstream_sessionize's events"
    )
    parser.add_argument("--sessions", required=True, metavar="URI", help="the manifest of its sessions")
    parser.add_argument(
        "--events-table",
        required=True,
        type=_table,
        metavar="CATALOG.DATABASE.TABLE",
        help="created where it is missing, partitioned by days(ts)",
    )
    parser.add_argument(
        "--sessions-table",
        required=True,
        type=_table,
        metavar="CATALOG.DATABASE.TABLE",
        help="created where it is missing, partitioned by days(started_at)",
    )
    parser.add_argument(
        "--day", type=iso_day, help="the day that the manifests must be of, YYYY-MM-DD; by default any"
    )
    arguments = parser.parse_args(argv)
    if arguments.events_table == arguments.sessions_table:
        parser.error(f"{arguments.events_table} cannot be the table of both; name another one")
    return arguments


def main(argv: Optional[Sequence[str]] = None) -> None:
    arguments = parse_arguments(argv)
    spark = job_session(NAME)
    try:
        done = merge(
            spark,
            events=arguments.events,
            sessions=arguments.sessions,
            events_table=arguments.events_table,
            sessions_table=arguments.sessions_table,
            day=arguments.day,
        )
        for table, rows in done.items():
            text = "merged already, nothing changed" if rows is None else f"{rows} rows merged"
            print(f"{NAME}: {table}: {text}")  # noqa: T201 - the step's stdout
    finally:
        spark.stop()


def merge(
    spark: SparkSession,
    events: str,
    sessions: str,
    events_table: TableName,
    sessions_table: TableName,
    day: Optional[date] = None,
) -> Dict[str, Optional[int]]:
    """Run the job in ``spark``; see the module. By table, the rows that were merged, or None for one that had them.

    Raise ConfigurationError where there is no Iceberg, MissingInputError, ManifestError, SchemaMismatchError,
    StaleLoadError where a table has a later state, RowCountMismatchError or LoadError.
    """
    for catalog in dict.fromkeys((events_table.catalog, sessions_table.catalog)):
        require(spark, catalog)
    merges = [
        Merge(sessions_table, SESSIONS, sessions, read_manifest(spark, sessions)),
        Merge(events_table, EVENTS, events, read_manifest(spark, events)),
    ]
    numbers = {each.restatement for each in merges}
    if len(numbers) > 1:
        raise ManifestError(
            f"{events} and {sessions} are of two runs of sessionize: their restatement numbers are "
            f"{' and '.join(map(str, sorted(numbers)))}. Give the two manifests of one run."
        )
    days = {each.manifest.partition["dt"] for each in merges if "dt" in each.manifest.partition}
    if len(days) > 1:
        raise ManifestError(
            f"{events} and {sessions} are of two days, {' and '.join(sorted(days))}. Give the two manifests of one run."
        )
    for each in merges:
        _check_day(each.uri, each.manifest, day)
    return merge_all(spark, merges)


def _check_day(uri: str, manifest: Manifest, day: Optional[date]) -> None:
    stated = manifest.partition.get("dt")
    if day is not None and stated is not None and stated != day.isoformat():
        raise ManifestError(f"{uri} is of {stated}, not of {day}: is it the output of another run?", uri=uri)


def _table(text: str) -> TableName:
    try:
        return TableName.parse(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(error.message) from error


if __name__ == "__main__":
    main(sys.argv[1:])
