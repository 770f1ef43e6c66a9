"""How many files a dataset is written to: of about a target size, a multiple of what loads them, work for each core."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Dict

from pyspark.sql import SparkSession

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.spark.arguments import whole_number

MIB = 1024 * 1024
TARGET_MIB = 128
_TARGET, _SLICES = "spark.airflow_emr_etl.targetFileMib", "spark.airflow_emr_etl.slices"


@dataclass(frozen=True)
class FileLayout:
    """``target_mib``: of a file, compressed. ``slices``: of the cluster that loads the files; 1 where none does."""

    target_mib: int = TARGET_MIB
    slices: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.target_mib <= 4096:
            raise ConfigurationError(f"--target-file-mib is {self.target_mib}; valid is 1 to 4096.")
        if not 1 <= self.slices <= 10_000:
            raise ConfigurationError(f"--slices is {self.slices}; valid is 1 to 10000.")

    def most_rows(self, row_bytes: float) -> int:
        """Of a file: as many as make twice the target."""
        return max(1, int(2 * self.target_mib * MIB / max(row_bytes, 1)))

    def files(self, expected_bytes: int, cores: int = 1) -> int:
        """How many files ``expected_bytes`` make.

        At least one for each core, as long as none gets smaller than an eighth of the target: who writes few large
        files alone leaves the other cores idle.
        """
        by_size = _quotient(expected_bytes, self.target_mib * MIB)
        by_work = min(cores, _quotient(expected_bytes, self.target_mib * MIB // 8))
        return _quotient(max(by_size, by_work), self.slices) * self.slices


@dataclass(frozen=True)
class Expected:
    """What is known of a dataset before it is written: ``rows``, and bytes a row takes in a file, about."""

    rows: int
    row_bytes: float

    @property
    def bytes(self) -> int:
        return int(self.rows * self.row_bytes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target-file-mib",
        type=whole_number,
        default=TARGET_MIB,
        metavar="N",
        help=f"write files of about this size ({TARGET_MIB})",
    )
    parser.add_argument(
        "--slices",
        type=whole_number,
        default=1,
        metavar="N",
        help="the slices of the Redshift that loads the files, whose number is then a multiple of it where that is "
        "free (1)",
    )


def from_arguments(arguments: argparse.Namespace) -> FileLayout:
    """Raise ConfigurationError for what is not valid."""
    return FileLayout(arguments.target_file_mib, arguments.slices)


def settings(layout: FileLayout) -> Dict[str, str]:
    """Settings of a session by which all of its datasets are written so."""
    return {_TARGET: str(layout.target_mib), _SLICES: str(layout.slices)}


def of_session(spark: SparkSession) -> FileLayout:
    target, slices = spark.conf.get(_TARGET, None), spark.conf.get(_SLICES, None)
    return FileLayout(int(target or TARGET_MIB), int(slices or 1))


def _quotient(amount: int, unit: int) -> int:
    return max(1, -(-amount // unit))
