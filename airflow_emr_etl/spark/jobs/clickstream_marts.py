"""Marts in the lake: the same SELECTs as in the warehouse, over the events and sessions that two manifests list.

Writes one dataset for each mart. Rows whose ``retracted`` is true only clear what a warehouse has, and are left out.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date
from typing import Dict, List, Optional, Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import ManifestError
from airflow_emr_etl.models.clickstream_marts import MARTS
from airflow_emr_etl.models.manifest import Column, Manifest
from airflow_emr_etl.models.mart import Mart, Scope, in_order
from airflow_emr_etl.spark.arguments import job_parser
from airflow_emr_etl.spark.dataset import Dataset, read_manifest
from airflow_emr_etl.spark.session import job_session

NAME = "clickstream_marts"
_RETRACTED = "retracted"


def parse_arguments(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = job_parser(NAME, "Make marts of events and sessions.")
    parser.add_argument("--events", required=True, help="the manifest of clickstream_sessionize's events")
    parser.add_argument("--sessions", required=True, help="the manifest of its sessions")
    parser.add_argument(
        "--mart", action="append", choices=[mart.name for mart in MARTS], help="only this one; repeatable"
    )
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    arguments = parse_arguments(argv)
    wanted = [mart for mart in MARTS if arguments.mart is None or mart.name in arguments.mart]
    spark = job_session(NAME)
    try:
        manifests = build(
            spark,
            events=arguments.events,
            sessions=arguments.sessions,
            day=arguments.day,
            output=arguments.output,
            marts=wanted,
        )
        for name, manifest in manifests.items():
            print(f"{NAME}: {name}: {manifest.record_count} rows")  # noqa: T201 - the step's stdout
    finally:
        spark.stop()


def build(
    spark: SparkSession, events: str, sessions: str, day: date, output: str, marts: Sequence[Mart] = MARTS
) -> Dict[str, Manifest]:
    """Run the job in ``spark``; see the module. The manifests, by mart; those that others read are among them.

    Raise MissingInputError or ManifestError.
    """
    _read(spark, events, "events", day).createOrReplaceTempView("events")
    _read(spark, sessions, "sessions", day).createOrReplaceTempView("sessions")
    views = ["events", "sessions"]
    written: Dict[str, Manifest] = {}
    try:
        for mart in in_order(marts, MARTS):
            scope = Scope({name: name for name in views})
            columns = [Column(column.name, column.type) for column in mart.columns]
            dataset = Dataset(spark, output, mart.name, day, columns)
            dataset.write(spark.sql(mart.select(scope)))
            files, _ = dataset.measure()
            written[mart.name] = dataset.finish(files, NAME, None)
            # From its files, so that what reads this one does not compute it again.
            dataset.read([file.url for file in files]).createOrReplaceTempView(mart.name)
            views.append(mart.name)
    finally:
        for name in views:
            spark.catalog.dropTempView(name)
    return written


def _read(spark: SparkSession, uri: str, dataset: str, day: date) -> DataFrame:
    manifest = read_manifest(spark, uri)
    if manifest.dataset != dataset:
        raise ManifestError(f"{uri} is the manifest of {manifest.dataset}, not of {dataset}.", uri=uri)
    columns: List[Column] = list(manifest.columns)
    rows = Dataset(spark, "", dataset, day, columns).read(manifest.urls)
    if _RETRACTED in rows.columns:
        rows = rows.where(~F.col(_RETRACTED))
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
