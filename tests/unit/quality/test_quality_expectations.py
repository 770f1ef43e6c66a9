"""Suites against Great Expectations' own vocabulary; slow to import, but without Spark."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.quality.runner import build_expectations
from airflow_emr_etl.quality.suite import load_suite

pytest.importorskip("great_expectations", reason="the quality extra is not installed")

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            "expect_column_values_to_be_uniqe: {column: a}",
            [
                "no expectation 'expect_column_values_to_be_uniqe'",
                "did you mean expect_column_values_to_be_unique",
            ],
        ),
        ("frobnicate: {column: a}", ["no expectation 'frobnicate'", "valid:", "expect_column_to_exist"]),
        (
            "expect_column_values_to_be_between: {column: a, min_valu: 1}",
            ["no parameter 'min_valu'", "did you mean min_value", "max_value"],
        ),
        ("expect_column_values_to_be_unique: {column: a, result_format: COMPLETE}", ["'result_format'"]),
        ("expect_column_values_to_be_unique: {}", ["column: field required"]),
        (
            "expect_column_values_to_be_in_set: {column: a, value_set: b}",
            ["value_set: value is not a valid list"],
        ),
        ("expect_column_values_to_be_between: {column: a}", ["min_value and max_value cannot both be None"]),
    ],
)
def test_refuses_what_great_expectations_does_not_know(entry: str, said: list[str]) -> None:
    suite = load_suite(f"suite: s\ndatasets:\n  events:\n    - {entry}\n", "suite.yaml")
    with pytest.raises(ConfigurationError) as raised:
        build_expectations(suite)
    assert "suite.yaml, line 4: dataset events, entry 1" in str(raised.value)
    for piece in said:
        assert piece in str(raised.value)


def test_the_sample_suite_is_known_to_great_expectations() -> None:
    path = ROOT / "dags" / "suites" / "clickstream.yaml"
    suite = load_suite(path.read_text(encoding="utf-8"), str(path))
    built = build_expectations(suite)
    assert set(built) == {entry.id for entries in suite.datasets.values() for entry in entries}
