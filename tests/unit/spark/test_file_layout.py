from __future__ import annotations

import argparse

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.spark.file_layout import MIB, FileLayout, add_arguments, from_arguments


@pytest.mark.parametrize(
    ("mib", "cores", "slices", "files"),
    [
        (0, 8, 1, 1),
        (1, 8, 1, 1),  # small data are one file, whatever there is to write it
        (16, 8, 1, 1),
        (17, 8, 1, 2),
        (100, 8, 1, 7),
        (200, 8, 1, 8),  # each core has work, and the files are 25 MiB
        (3000, 8, 1, 24),  # large data are files of the target
        (3000, 100, 1, 100),
        (1, 2, 4, 4),
        (3000, 8, 16, 32),
    ],
)
def test_how_many_files(mib: int, cores: int, slices: int, files: int) -> None:
    assert FileLayout(128, slices).files(mib * MIB, cores) == files


@hypothesis_given(
    size=st.integers(0, 2**44),
    cores=st.integers(1, 5000),
    slices=st.integers(1, 500),
    target=st.integers(1, 4096),
)
def test_files_are_never_larger_than_the_target_and_always_a_multiple(
    size: int, cores: int, slices: int, target: int
) -> None:
    files = FileLayout(target, slices).files(size, cores)
    assert files % slices == 0
    assert size <= files * target * MIB
    if size >= cores * target * MIB:
        assert files >= cores


@pytest.mark.parametrize(
    "given", [["--target-file-mib", "0"], ["--slices", "0"], ["--target-file-mib", "9999"]]
)
def test_what_is_no_layout_says_what_is(given: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert from_arguments(parser.parse_args([])) == FileLayout()
    with pytest.raises(ConfigurationError, match=rf"{given[0]} is {given[1]}; valid is 1 to"):
        from_arguments(parser.parse_args(given))
