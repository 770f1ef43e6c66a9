"""The Spark session of a job: what the jobs depend on is set here, the rest is the cluster's own choice."""

from __future__ import annotations

from typing import Mapping, Optional

from pyspark.sql import SparkSession

_SETTINGS = {
    # Times in the files are UTC, whatever the zone of the machine.
    "spark.sql.session.timeZone": "UTC",
    # Bad dates are NULL, never an "upgrade exception" (the default up to Spark 3.5).
    "spark.sql.legacy.timeParserPolicy": "CORRECTED",
    # Redshift and everything else reads these; INT96 is deprecated and has no statistics.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # Damaged or vanished input fails the job; it is never skipped.
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    # Java compiles no method longer than this; one that is longer is interpreted, row by row, and many times slower.
    # Spark's own choice is to let it be. With this it takes such a stage apart instead.
    "spark.sql.codegen.hugeMethodLimit": "8000",
    # Sizes its own partitions, so one setting serves a laptop and a cluster.
    "spark.sql.adaptive.enabled": "true",
    "spark.sql.adaptive.coalescePartitions.enabled": "true",
    # The smaller side of a join is hashed instead of sorting both, where the shuffle has found each of its partitions
    # to be at most this large, compressed: the size that small partitions are put together to by default.
    "spark.sql.adaptive.maxShuffledHashJoinLocalMapThreshold": "64m",
}


def job_session(name: str, settings: Optional[Mapping[str, str]] = None) -> SparkSession:
    """The session of this process, made if there is none, with the settings that the jobs rely on, and its own."""
    spark = SparkSession.builder.appName(name).getOrCreate()
    configure(spark)
    for key, value in (settings or {}).items():
        spark.conf.set(key, value)
    return spark


def configure(spark: SparkSession) -> None:
    """Put the settings that the jobs rely on into ``spark``."""
    for key, value in _SETTINGS.items():
        spark.conf.set(key, value)
    # Two scans of the same files must split them alike (line numbers are counted over splits); without this the
    # split size follows the number of executors that happen to be registered.
    if spark.conf.get("spark.sql.files.minPartitionNum", None) is None:
        spark.conf.set("spark.sql.files.minPartitionNum", str(spark.sparkContext.defaultParallelism))
