"""Rows that the quality gate puts aside, and the rows that may go on.

::

    <output>/quarantine/<dataset>/manifest.json   the rows that broke an expectation, with its id
    <output>/clean/<dataset>/manifest.json        the others, in the form that the load takes

Where no row breaks anything, nothing is copied: the clean manifest lists the files that came. The rows of the two
add up to those that came, each counted in the files that were written, or nothing is complete.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import AccountingError
from airflow_emr_etl.models.manifest import FILE_NAME, Accounting, Column, Manifest, ManifestEntry
from airflow_emr_etl.spark import storage

BROKEN = "failed_expectations"
"""The column of the quarantined rows that names what they broke, as text with commas."""

REASON = "quality"
"""What the accounting of ``events`` calls the rows that were put aside."""

_JOB = "quality_gate"


def split(
    spark: SparkSession, given: Manifest, marked: Optional[DataFrame], source: str, output: str
) -> Tuple[int, str]:
    """Write the rows that broke something, the others, and their manifests.

    Args:
        given: the manifest of the rows.
        marked: the rows with an array ``failed_expectations``; None where no row broke anything.
        source: the URI of *given*, for messages.
        output: the folder of the gate.

    Returns:
        how many rows were put aside, and the URI of the manifest of the others.

    Raises:
        AccountingError: the rows that were written are not those that came.
    """
    apart_folder = storage.join(output, "quarantine", given.dataset)
    clean_folder = storage.join(output, "clean", given.dataset)
    for folder in (apart_folder, clean_folder):
        storage.delete(spark, folder)
    columns = (*given.columns, Column(BROKEN, "VARCHAR(65535)"))
    clean, apart = given, dataclasses.replace(given, entries=(), columns=columns, accounting=None, job=_JOB)
    if marked is not None:
        rows = marked.withColumn(BROKEN, F.array_join(BROKEN, ","))
        broken = rows.filter(F.col(BROKEN) != "")
        apart_entries, parts = _written(spark, broken, apart_folder, valid_parts(rows.columns))
        clean_entries, _ = _written(spark, rows.filter(F.col(BROKEN) == "").drop(BROKEN), clean_folder, {})
        apart = dataclasses.replace(apart, entries=tuple(apart_entries), created_at=_now())
        clean = dataclasses.replace(
            given,
            entries=tuple(clean_entries),
            created_at=_now(),
            accounting=_accounting(given, apart.record_count, parts),
        )
        if clean.record_count + apart.record_count != given.record_count:
            raise AccountingError(
                f"{source} promises {given.record_count} rows, but {clean.record_count} clean ones and "
                f"{apart.record_count} for the quarantine were written; run the step that wrote them again",
                lines_in=given.record_count,
                lines_out=clean.record_count + apart.record_count,
            )
    uri = storage.join(clean_folder, FILE_NAME)
    storage.write_text(spark, storage.join(apart_folder, FILE_NAME), apart.to_json())
    storage.write_text(spark, uri, clean.to_json())
    return apart.record_count, uri


def _written(
    spark: SparkSession, rows: DataFrame, folder: str, sums: Mapping[str, Any]
) -> Tuple[List[ManifestEntry], Mapping[str, int]]:
    """Write the rows; the files with what they really hold, and *sums* over all of them."""
    data = storage.join(folder, "data")
    rows.write.mode("overwrite").parquet(data)
    sizes = {
        file.uri.rsplit("/", 1)[-1]: file
        for file in storage.list_files(spark, data)
        if file.uri.endswith(".parquet")
    }
    if not sizes:
        return [], dict.fromkeys(sums, 0)
    counted = (
        spark.read.schema(rows.schema)
        .parquet(data)
        .groupBy(F.col("_metadata.file_name").alias("_file"))
        .agg(F.count(F.lit(1)).alias("_rows"), *(one.alias(name) for name, one in sums.items()))
        .collect()
    )
    entries = [
        ManifestEntry(sizes[row["_file"]].uri, sizes[row["_file"]].size, row["_rows"]) for row in counted
    ]
    return sorted(entries, key=lambda entry: entry.url), {
        name: sum(row[name] for row in counted) for name in sums
    }


def valid_parts(names: Sequence[str]) -> Mapping[str, Any]:
    """The parts of the valid lines that an accounting has, counted in rows of ``events``."""
    conditions = {
        "bots": (("is_bot",), F.col("is_bot")),
        "page_views": (("is_page_view",), F.col("is_page_view")),
        "outside_day": (("ts", "dt"), F.to_date("ts") != F.col("dt")),
    }
    return {
        part: F.count(F.when(condition, 1))
        for part, (needed, condition) in conditions.items()
        if set(needed) <= set(names)
    }


def _accounting(given: Manifest, apart: int, parts: Mapping[str, int]) -> Optional[Accounting]:
    accounting = given.accounting
    if accounting is None:
        return None
    if given.dataset == "events":
        quarantined = {**accounting.quarantined, REASON: accounting.quarantined.get(REASON, 0) + apart}
        changes = {name: max(0, getattr(accounting, name) - count) for name, count in parts.items()}
        accounting = dataclasses.replace(
            accounting, valid=accounting.valid - apart, quarantined=quarantined, **changes
        )
    elif given.dataset == "sessions" and accounting.sessions is not None:
        accounting = dataclasses.replace(accounting, sessions=accounting.sessions - apart)
    accounting.check()
    return accounting


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
