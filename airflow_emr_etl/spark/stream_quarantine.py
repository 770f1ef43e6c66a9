"""Quarantined lines of a micro-batch, without those that came in an earlier one.

The rule is that of a batch: a line counts as often as it is in the file that has it most often. So of a line that
is there m times now and was counted n times before, m - n are new.
"""

from __future__ import annotations

import dataclasses
from datetime import date
from typing import Dict, Sequence

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from airflow_emr_etl.models.manifest import FILE_NAME, Accounting
from airflow_emr_etl.spark import columns, storage
from airflow_emr_etl.spark.dataset import Dataset, read_manifest

_LINE = ["line_digest", "line_bytes"]


def write_new_lines(
    spark: SparkSession,
    job: str,
    arrived: str,
    earlier: Sequence[str],
    output: str,
    day: date,
    accounting: Accounting,
    partition: Dict[str, str],
) -> Accounting:
    """Write the datasets ``quarantine`` and ``quarantine_counts`` to ``output``; return the accounting with them.

    ``arrived`` is where normalize wrote, ``earlier`` are the outputs of earlier micro-batches of the day.
    """
    quarantine = Dataset(spark, output, "quarantine", day, columns.QUARANTINE, partition)
    counts = Dataset(spark, output, "quarantine_counts", day, columns.QUARANTINE_COUNTS, partition)
    quarantine.write(_new(_lines(quarantine, [arrived]), _lines(quarantine, earlier)))
    files, _ = quarantine.measure()
    rows = quarantine.read([file.url for file in files]).groupBy("reason").count().collect()
    quarantined = {row["reason"]: row["count"] for row in rows}
    known = accounting.quarantined_lines - sum(quarantined.values())
    accounting = dataclasses.replace(
        accounting, quarantined=quarantined, delivered_twice=accounting.delivered_twice + known
    )
    accounting.check()
    by_reason = [(day, reason, lines) for reason, lines in sorted(quarantined.items())]
    counts.write(spark.createDataFrame(by_reason, "dt date, reason string, lines bigint").coalesce(1))
    count_files, _ = counts.measure()
    counts.finish(count_files, job, accounting)
    quarantine.finish(files, job, accounting)
    return accounting


def _lines(quarantine: Dataset, outputs: Sequence[str]) -> DataFrame:
    manifests = [storage.join(output, "quarantine", FILE_NAME) for output in outputs]
    urls = [url for uri in manifests for url in read_manifest(quarantine.spark, uri).urls]
    return quarantine.read(urls).withColumn("line_digest", F.sha2("line", 256))


def _new(arrived: DataFrame, earlier: DataFrame) -> DataFrame:
    known = earlier.groupBy(*_LINE).agg(F.count(F.lit(1)).alias("known"))
    in_order = Window.partitionBy(*_LINE).orderBy("file", "line_number")
    return (
        arrived.withColumn("number", F.row_number().over(in_order))
        .join(known, _LINE, "left")
        .where(F.col("number") > F.coalesce("known", F.lit(0)))
    )
