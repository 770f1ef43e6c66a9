"""What the tests of the jobs share."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

DAY = date(2026, 1, 5)


def collected(frame: DataFrame) -> list[Any]:
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
        return collected(self.spark.read.parquet(str(self.output / dataset / "dt=*")))


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


@pytest.fixture
def collect() -> Any:
    """:func:`collected`, for tests that have frames of their own."""
    return collected
