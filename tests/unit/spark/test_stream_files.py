from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from airflow_emr_etl.models.batch import Batch
from airflow_emr_etl.spark.stream_files import ArrivedFile, batch_name, by_day

DAY = date(2026, 1, 5)
LAST_SECOND = 1_767_657_599_000
"""Of 2026-01-05 UTC, in milliseconds."""
FILE = ArrivedFile("s3://raw/web-1.log.gz", 10, LAST_SECOND)


@pytest.mark.parametrize(
    ("path", "day"),
    [
        ("s3://raw/web-1.log.gz", DAY),
        ("s3://raw/dt=2026-01-04/web-1.log.gz", date(2026, 1, 4)),
        ("s3://raw/dt=2026-01-02/dt=2026-01-03/web-1.log.gz", date(2026, 1, 3)),
        ("s3://raw/dt=2026-01-04/dt=2026-02-30/web-1.log.gz", date(2026, 1, 4)),
        ("s3://raw/dt=2026-02-30/web-1.log.gz", DAY),
        ("s3://raw/web-dt=2026-01-04.log.gz", DAY),
    ],
)
def test_a_file_is_of_the_day_of_its_folder_or_of_its_arrival(path: str, day: date) -> None:
    assert replace(FILE, path=path).day == day


def test_the_next_millisecond_is_the_next_day() -> None:
    assert replace(FILE, modified=LAST_SECOND + 1000).day == date(2026, 1, 6)


def test_files_go_by_day_unless_one_is_given() -> None:
    other = replace(FILE, path="s3://raw/dt=2026-01-04/a.log")
    assert by_day([FILE, other]) == {DAY: [FILE], date(2026, 1, 4): [other]}
    assert by_day([FILE, other], DAY) == {DAY: [FILE, other]}


def test_a_name_is_that_of_the_same_files_in_any_order() -> None:
    other = replace(FILE, path="s3://raw/b.log")
    name = batch_name(3, DAY, [FILE, other])
    assert name == batch_name(3, DAY, [other, FILE])
    grown = replace(FILE, length=11)
    names = {
        name,
        batch_name(3, DAY, [FILE]),
        batch_name(3, DAY, [grown, other]),
        batch_name(4, DAY, [FILE, other]),
    }
    assert len(names) == 4


def test_names_are_in_the_order_of_the_micro_batches_and_valid() -> None:
    names = [batch_name(number, DAY, [FILE]) for number in (2, 10, 1_000_000)]
    assert names == sorted(names)
    assert [Batch(DAY, "s3://lake/manifest.json", name=name).name for name in names] == names
