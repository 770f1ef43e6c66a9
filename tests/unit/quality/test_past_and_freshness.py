"""What is near the past, what is fresh, and how a suite gets its past and its modules."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.quality.expectations import NEAR_PAST, age_hours, near_past, register, share_near_past
from airflow_emr_etl.quality.suite import CRITICAL, QUARANTINE, WARNING, load_suite

NOW = datetime.datetime(2026, 1, 6, 6, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("rows", "past", "expected"),
    [
        (100, [90, 100, 110], (True, 100.0)),
        (50, [90, 100, 110], (True, 100.0)),
        (49, [90, 100, 110], (False, 100.0)),
        (150, [90, 100, 110], (True, 100.0)),
        (151, [90, 100, 110], (False, 100.0)),
        (100, [100, 100, 9000], (True, 100.0)),  # one odd night moves no median
        (0, [100, 100], (True, None)),  # too little of a past
        (0, [0, 0, 0], (True, 0.0)),
        (1, [0, 0, 0], (False, 0.0)),
    ],
)
def test_near_the_median_of_the_past(rows: int, past: list[int], expected: Any) -> None:
    assert near_past(rows, past, tolerance=0.5, at_least=3) == expected


@pytest.mark.parametrize(
    ("share", "past", "expected"),
    [
        (0.3, [0.1, 0.2, 0.3], (True, 0.2)),
        (0.1, [0.1, 0.2, 0.3], (True, 0.2)),
        (0.31, [0.1, 0.2, 0.3], (False, 0.2)),
        (0.09, [0.1, 0.2, 0.3], (False, 0.2)),
        (None, [0.1, 0.2, 0.3], (False, 0.2)),  # no rows
        (0.9, [0.1, 0.1], (True, None)),  # too little of a past
        (None, [], (True, None)),
    ],
)
def test_a_share_near_the_mean_of_the_past(share: float | None, past: list[float], expected: Any) -> None:
    holds, mean = share_near_past(share, past, tolerance=0.1, at_least=3)
    assert (holds, mean) == (expected[0], pytest.approx(expected[1]))


@pytest.mark.parametrize(
    ("newest", "hours"),
    [
        ("2026-01-06T00:00:00+00:00", 6),
        ("2026-01-06T01:00:00+01:00", 6),
        ("2026-01-06T00:00:00Z", 6),
        (datetime.datetime(2026, 1, 6, tzinfo=datetime.UTC), 6),
        ("2026-01-05", 6),  # a day is as new as its end
        (datetime.date(2026, 1, 4), 30),
        (None, None),
    ],
)
def test_age_of_the_newest_value(newest: Any, hours: float | None) -> None:
    assert age_hours(newest, NOW) == hours


def test_a_time_without_a_zone_is_in_utc_where_that_is_said() -> None:
    assert age_hours("2026-01-06T00:00:00", NOW, naive_is_utc=True) == 6
    assert age_hours("2026-01-06T01:00:00+01:00", NOW, naive_is_utc=True) == 6


def test_the_past_goes_to_entries_that_name_none() -> None:
    suite = load_suite(
        "suite: s\ndatasets:\n"
        f"  a:\n    - {NEAR_PAST}: {{tolerance: 0.5}}\n    - {NEAR_PAST}: {{tolerance: 0.5, past: [1]}}\n"
        f"    - expect_table_row_count_to_equal: {{value: 1}}\n  b:\n    - {NEAR_PAST}: {{tolerance: 0.5}}\n",
        "s.yaml",
    ).with_past(NEAR_PAST, lambda entry: {"a": [5, 6]}.get(entry.dataset, []))
    assert [entry.parameters.get("past") for entry in suite.datasets["a"]] == [[5, 6], [1], None]
    assert "past" not in suite.datasets["b"][0].parameters


def test_a_query_names_another_dataset_by_a_variable() -> None:
    suite = load_suite(
        "suite: s\ndatasets:\n  a-1:\n    - unexpected_rows_expectation:\n"
        '        unexpected_rows_query: "SELECT 1 FROM {batch} JOIN ${dataset.a-1}"\n',
        "s.yaml",
    ).for_partitions({})
    assert (
        suite.datasets["a-1"][0].parameters["unexpected_rows_query"] == "SELECT 1 FROM {batch} JOIN gate_a_1"
    )


def test_severities_have_two_names() -> None:
    entries = "".join(f"    - expect_b: {{severity: {word}}}\n" for word in ("stop", "warn", "quarantine"))
    suite = load_suite(f"suite: s\ndatasets:\n  a:\n{entries}", "s.yaml")
    assert [entry.severity for entry in suite.datasets["a"]] == [CRITICAL, WARNING, QUARANTINE]


def test_modules_of_a_team() -> None:
    text = "suite: s\nmodules: {}\ndatasets:\n  a:\n    - expect_b: {{column: c}}\n"
    assert load_suite(text.format("[my_team.checks]"), "s.yaml").modules == ("my_team.checks",)
    with pytest.raises(ConfigurationError, match="give a list of Python modules"):
        load_suite(text.format("my_team.checks"), "s.yaml")
    pytest.importorskip("great_expectations", reason="the quality extra is not installed")
    with pytest.raises(
        ConfigurationError, match=r"s\.yaml: module no_such_team cannot be imported .* --py-files"
    ):
        register(["no_such_team"], "s.yaml")
