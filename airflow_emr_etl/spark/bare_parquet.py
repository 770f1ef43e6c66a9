"""Parquet files that nobody wrote a manifest for, described as if somebody had."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import MissingInputError
from airflow_emr_etl.models.manifest import Column, Manifest, ManifestEntry
from airflow_emr_etl.spark import storage

_REDSHIFT_TYPES = {
    "bigint": "BIGINT",
    "binary": "VARBYTE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "double": "DOUBLE PRECISION",
    "float": "REAL",
    "int": "INTEGER",
    "smallint": "SMALLINT",
    "string": "VARCHAR(65535)",
    "timestamp": "TIMESTAMP",
    "timestamp_ntz": "TIMESTAMP",
    "tinyint": "SMALLINT",
}


def describe(spark: SparkSession, name: str, uri: str) -> Manifest:
    """A manifest of all Parquet files under ``uri``; the rows are counted from the files' footers.

    Its partition is what the path of ``uri`` says (``…/dt=2026-01-05/``). Columns of other types than Redshift's
    are called SUPER. Raise MissingInputError where there is no Parquet file.
    """
    files = [file for file in storage.list_files(spark, uri) if file.uri.endswith(".parquet")]
    if not files:
        raise MissingInputError(f"There is no Parquet file at {uri}", uri=uri)
    frame = spark.read.option("__globPaths__", "false").parquet(*(file.uri for file in files))
    # One scan without a column: Spark answers from the footers.
    rows = frame.select(F.col("_metadata.file_path").alias("path")).groupBy("path").count().collect()
    counted = {row["path"].rsplit("/", 1)[-1]: row["count"] for row in rows}
    return Manifest(
        dataset=name,
        partition=dict(re.findall(r"([A-Za-z_][A-Za-z0-9_]*)=([^/]+)", uri)),
        job="none",
        created_at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        entries=tuple(
            ManifestEntry(file.uri, file.size, counted.get(file.uri.rsplit("/", 1)[-1], 0)) for file in files
        ),
        columns=tuple(
            Column(column, kind.upper() if kind.startswith("decimal") else _REDSHIFT_TYPES.get(kind, "SUPER"))
            for column, kind in frame.dtypes
        ),
    )
