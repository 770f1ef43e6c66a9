from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.spark.jobs import (
    clickstream_erase,
    clickstream_erasure_list,
    clickstream_normalize,
    clickstream_sessionize,
)

COMMON = ["--input", "s3://raw/2026-01-05/", "--day", "2026-01-05", "--output", "s3://lake/attempt=1/"]


def test_the_arguments_of_the_jobs() -> None:
    given = clickstream_normalize.parse_arguments(
        [*COMMON, "--input", "s3://raw/more/", "--expected-lines", "7"]
    )
    assert given.input == ["s3://raw/2026-01-05/", "s3://raw/more/"]
    assert (given.day, given.expected_lines, given.max_line_bytes) == (date(2026, 1, 5), 7, 65535)
    assert clickstream_sessionize.parse_arguments(COMMON).inactivity_minutes == 30


def test_limits_of_sessions_can_be_left_out_by_a_template() -> None:
    rules = clickstream_sessionize.parse_arguments(
        [*COMMON, "--max-minutes", "none", "--cut-at-midnight", "none"]
    ).rules
    assert (rules.max_minutes, rules.midnight_zone) == (None, None)
    rules = clickstream_sessionize.parse_arguments(
        [*COMMON, "--max-minutes", "600", "--cut-at-midnight", "Europe/Berlin"]
    ).rules
    assert (rules.max_minutes, rules.midnight_zone) == (600, "Europe/Berlin")
    for given, cuts in (
        ([], ()),
        (["none", "none"], ()),
        (["none", "referrer"], ("referrer",)),
        (["campaign", "referrer"], ("campaign", "referrer")),
    ):
        options = [word for cut in given for word in ("--cut-on", cut)]
        assert clickstream_sessionize.parse_arguments([*COMMON, *options]).rules.cut_on == cuts


@pytest.mark.parametrize("job", [clickstream_erase, clickstream_erasure_list])
def test_both_jobs_of_an_erasure_look_in_the_same_places(job: Any) -> None:
    given = job.parse_arguments(
        ["--visitors", "v", "--output", "o", "--catalog", "c", "--data", "a", "--data", "b"]
    )
    assert (given.catalog, given.data) == ("c", ["a", "b"])
    given = job.parse_arguments(["--visitors", "v", "--output", "o"])
    assert (given.catalog, given.data) == (None, [])


@pytest.mark.parametrize(
    "extra", [["--day", "05.01.2026"], ["--day", "20260105"], ["--expected-lines", "-1"], ["--exp", "1"]]
)
def test_wrong_arguments_are_refused(extra: list[str]) -> None:
    with pytest.raises(SystemExit):
        clickstream_normalize.parse_arguments([*COMMON, *extra])


def test_limits() -> None:
    for value in ("0", "65536"):
        with pytest.raises(ConfigurationError, match="1 to 65535"):
            clickstream_normalize.parse_arguments([*COMMON, "--max-line-bytes", value])
    with pytest.raises(ConfigurationError, match="1 and more"):
        clickstream_sessionize.parse_arguments([*COMMON, "--inactivity-minutes", "0"])
