"""Suite files: what is read, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.quality.suite import load_suite

ROOT = Path(__file__).resolve().parents[3]

GOOD = """
suite: clickstream
datasets:
  events:
    - expect_column_values_to_be_unique: {column: event_id}
    - expect_column_values_to_be_in_set:
        column: dt
        value_set: ["${partition.dt}"]
        severity: warning
        note: one day
    - expect_column_values_to_be_unique: {column: event_id, mostly: 0.5}
    - expect_table_row_count_to_equal: {value: 1, id: just.one}
  sessions:
    - expect_column_pair_values_a_to_be_greater_than_b: {column_A: hits, column_B: page_views}
    - expect_compound_columns_to_be_unique: {column_list: [a, b]}
    - expect_table_columns_to_match_set:
"""


def test_reads_entries_in_order_with_defaults() -> None:
    suite = load_suite(GOOD, "suite.yaml")
    assert suite.name == "clickstream"
    assert list(suite.datasets) == ["events", "sessions"]
    unique, in_set, again, table = suite.datasets["events"]
    assert (unique.severity, unique.note, unique.column) == ("critical", None, "event_id")
    assert (in_set.severity, in_set.note) == ("warning", "one day")
    assert in_set.parameters == {"column": "dt", "value_set": ["${partition.dt}"]}
    assert unique.id == "events.event_id.column_values_to_be_unique"
    assert again.id == "events.event_id.column_values_to_be_unique.2"
    assert (table.id, table.column) == ("just.one", None)
    assert [entry.column for entry in suite.datasets["sessions"]] == ["hits, page_views", "a, b", None]
    assert suite.datasets["sessions"][1].id == "sessions.a+b.compound_columns_to_be_unique"


def test_fills_partition_variables_at_any_depth() -> None:
    suite = load_suite(GOOD, "suite.yaml").for_partitions({"events": {"dt": "2026-01-05"}})
    assert suite.datasets["events"][1].parameters["value_set"] == ["2026-01-05"]


@pytest.mark.parametrize(
    ("partitions", "said"),
    [
        ({}, r"valid: \$\{dataset.events\}"),
        ({"events": {"day": "2026-01-05"}}, r"valid: \$\{partition.day\}, \$\{dataset.events\}"),
    ],
)
def test_refuses_an_unknown_variable(partitions: dict[str, dict[str, str]], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as raised:
        load_suite(GOOD, "suite.yaml").for_partitions(partitions)
    assert "suite.yaml, line 6: dataset events, entry 2" in str(raised.value)
    assert "${partition.dt}" in str(raised.value)


def one(entry: str) -> str:
    return f"suite: s\ndatasets:\n  events:\n    - expect_a: {{column: a}}\n    - {entry}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["the file is empty"]),
        ("- a", ["a suite is a mapping", "['a']"]),
        ("suite: [", ["not plain YAML"]),
        ("suite: s\ndatasets: !!python/object/apply:os.system [id]", ["not plain YAML"]),
        ("suite: s\nsets: {}\ndatasets: {}", ["key 'sets' is unknown", "valid: suite, datasets"]),
        ("datasets: {a: [x: {}]}", ["suite is nothing"]),
        ("suite: 7\ndatasets: {a: [x: {}]}", ["suite is 7"]),
        ("suite: s", ["datasets is nothing"]),
        ("suite: s\ndatasets: [events]", ["datasets is ['events']"]),
        ("suite: s\ndatasets: {1: [x: {}]}", ["dataset 1"]),
        ("suite: s\ndatasets: {events: {}}", ["dataset events", "list of expectations"]),
        ("suite: s\ndatasets: {events: []}", ["dataset events", "list of expectations"]),
        ("suite: s\nsuite: t\ndatasets: {a: [x: {}]}", ["line 2", "'suite' is there twice"]),
        (one("expect_b: {column: a, column: b}"), ["line 5", "'column' is there twice"]),
        (one("expect_b"), ["line 5", "dataset events, entry 2", "'expect_b' came", "such as"]),
        (one("{expect_b: {}, expect_c: {}}"), ["entry 2", "an entry is one expectation"]),
        (one("7: {}"), ["entry 2", "7 is not the name of an expectation"]),
        (one("expect_b: a"), ["entry 2 (expect_b)", "'a' came", "mapping"]),
        (one("expect_b: {severity: fatal}"), ["severity is 'fatal'", "valid: critical, warning, info"]),
        (one("expect_b: {severity: [info]}"), ["severity is ['info']"]),
        (one("expect_b: {note: 7}"), ["note is 7"]),
        (one("expect_b: {id: a b}"), ["id is 'a b'"]),
        (one("expect_b: {id: events.a.a}"), ["'events.a.a' is already", "entry 1"]),
    ],
)
def test_refuses_with_place_value_and_cure(text: str, said: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_suite(text, "s3://lake/suite.yaml")
    assert str(raised.value).startswith("s3://lake/suite.yaml")
    for piece in said:
        assert piece in str(raised.value)


def test_a_suite_that_refers_to_itself_ends() -> None:
    with pytest.raises(ConfigurationError):
        load_suite("suite: s\ndatasets: &loop\n  events: *loop\n", "suite.yaml")


def test_the_sample_suite_is_valid_yaml() -> None:
    path = ROOT / "dags" / "suites" / "clickstream.yaml"
    suite = load_suite(path.read_text(encoding="utf-8"), str(path))
    assert set(suite.datasets) == {"events", "sessions", "daily_traffic"}
