"""The Spark that both Spark contenders get: the same cores, the same heap, the same place for spilled data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.etl_process import report

if TYPE_CHECKING:
    import argparse

    from pyspark.sql import SparkSession

DRIVER_MEMORY = "4g"


@contextmanager
def session(name: str, chosen: argparse.Namespace) -> Iterator[SparkSession]:
    """A session on this machine, stopped at the end; what is not set here is Spark's own default."""
    from pyspark.sql import SparkSession

    began = time.perf_counter()
    builder = (
        SparkSession.builder.master(f"local[{chosen.cores}]")
        .appName(name)
        .config("spark.driver.memory", DRIVER_MEMORY)
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
    )
    if chosen.event_log:
        builder = (
            builder.config("spark.eventLog.enabled", "true")
            .config("spark.eventLog.dir", f"file://{chosen.event_log}")
            .config("spark.eventLog.compress", "false")
            .config("spark.eventLog.rolling.enabled", "false")
        )
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    started = time.perf_counter() - began
    try:
        yield spark
    finally:
        spark.stop()
    report({"start_seconds": round(started, 3)})
