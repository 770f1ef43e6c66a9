"""One Spark for the tests of the jobs, in this process, on plain files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

DAY = date(2026, 1, 5)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    from pyspark.sql import SparkSession

    from airflow_emr_etl.local.java import find_java
    from airflow_emr_etl.spark.session import configure

    before = os.environ.get("JAVA_HOME")
    os.environ["JAVA_HOME"] = str(find_java(tmp_path_factory.mktemp("java")).home)
    session = (
        SparkSession.builder.master("local[2]")
        .appName("tests")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse")))
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    configure(session)
    yield session
    gateway = session.sparkContext._gateway
    session.stop()
    # Spark stops, its JVM would stay until this process ends.
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(timeout=60)
    from pyspark import SparkContext

    SparkContext._gateway = SparkContext._jvm = None
    if before is None:
        del os.environ["JAVA_HOME"]
    else:
        os.environ["JAVA_HOME"] = before


def collect(frame: DataFrame) -> list[Any]:
    """The rows, with times as naive UTC; PySpark would turn them into the machine's zone."""
    times = [name for name, kind in frame.dtypes if kind == "timestamp"]
    return frame.withColumns({name: frame[name].cast("timestamp_ntz") for name in times}).collect()


class Run:
    """What normalize made of some files."""

    def __init__(self, spark: SparkSession, folder: Path, day: date = DAY, **options: Any) -> None:
        from airflow_emr_etl.spark.jobs.clickstream_normalize import normalize

        self.spark = spark
        self.output = folder / "normalized"
        self.accounting = normalize(spark, [str(folder / "raw")], day, str(self.output), **options)

    def rows(self, dataset: str) -> list[Any]:
        return collect(self.spark.read.parquet(str(self.output / dataset / "dt=*")))


@pytest.fixture
def normalize_files(spark: SparkSession, tmp_path: Path) -> Any:
    """A function: files by name with their bytes, to the :class:`Run` over them."""

    def run(files: dict[str, bytes], **options: Any) -> Run:
        raw = tmp_path / "raw"
        for name, content in files.items():
            (raw / name).parent.mkdir(parents=True, exist_ok=True)
            (raw / name).write_bytes(content)
        return Run(spark, tmp_path, **options)

    return run
