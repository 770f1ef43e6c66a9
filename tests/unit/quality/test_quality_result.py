"""The verdict, its JSON and its text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_emr_etl.exceptions import CorruptInputError
from airflow_emr_etl.quality.page import render_page
from airflow_emr_etl.quality.result import DatasetResult, ExpectationResult, GateResult
from airflow_emr_etl.quality.runner import finding
from airflow_emr_etl.quality.suite import load_suite


def entry(severity: str, success: bool, **more: Any) -> ExpectationResult:
    kind = "expect_column_values_to_not_be_null"
    return ExpectationResult(f"a.{severity}", kind, "a", severity, success, **more)


def result(*entries: ExpectationResult) -> GateResult:
    return GateResult(
        "nightly", {"events": DatasetResult(1234, entries)}, seconds=1.23456, data_docs="s3://d/i.html"
    )


@pytest.mark.parametrize(
    ("entries", "passed", "critical", "warning"),
    [
        ([("critical", True), ("warning", True)], True, 0, 0),
        ([("critical", True), ("warning", False), ("info", False)], True, 0, 1),
        ([("critical", False), ("critical", False), ("warning", False)], False, 2, 1),
        ([], True, 0, 0),
    ],
)
def test_only_critical_failures_fail_the_gate(
    entries: list[tuple[str, bool]], passed: bool, critical: int, warning: int
) -> None:
    found = result(*(entry(severity, success) for severity, success in entries))
    assert (found.passed, found.failed_critical, found.failed_warning) == (passed, critical, warning)


def test_json_is_the_contract_and_comes_back() -> None:
    found = result(entry("critical", False, unexpected_count=2, examples=("x", [1, None]), message="bad"))
    document = json.loads(found.to_json())
    assert set(document) == {
        *("passed", "suite", "datasets", "failed_critical", "failed_warning", "data_docs", "seconds"),
    }
    assert document["passed"] is False
    assert document["datasets"]["events"]["rows"] == 1234
    assert document["datasets"]["events"]["expectations"][0] == {
        "id": "a.critical",
        "type": "expect_column_values_to_not_be_null",
        "column": "a",
        "severity": "critical",
        "success": False,
        "observed": None,
        "unexpected_count": 2,
        "unexpected_percent": None,
        "examples": ["x", [1, None]],
        "message": "bad",
    }
    again = GateResult.from_json(found.to_json())
    assert again.to_json() == found.to_json()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"suite": "s", "seconds": 1, "datasets": 7, "passed": true}']
)
def test_refuses_what_is_no_result(text: str) -> None:
    with pytest.raises(CorruptInputError, match="not the result of a quality gate"):
        GateResult.from_json(text)


def test_refuses_a_verdict_against_its_entries() -> None:
    document = json.loads(result(entry("critical", False)).to_json())
    document["passed"] = True
    with pytest.raises(CorruptInputError, match="passed=True, but lists 1 failed"):
        GateResult.from_json(json.dumps(document))


def test_renders_a_table_with_the_verdict_last() -> None:
    lines = (
        result(
            entry("critical", False, message="3 of 9 rows are unexpected"),
            entry("warning", False, message="odd"),
            entry("info", True, unexpected_count=0),
        )
        .render()
        .splitlines()
    )
    assert lines[0].split() == ["severity", "dataset", "column", "expectation", "found"]
    assert lines[2].startswith("FAILED  critical")
    assert lines[2].endswith("3 of 9 rows are unexpected")
    assert lines[3].startswith("failed  warning")
    assert lines[4].startswith("ok")
    assert (
        "suite nightly: FAILED; 3 expectations, 1 critical and 1 warnings failed; events 1,234 rows"
        in lines[-2]
    )
    assert lines[-1] == "data docs: s3://d/i.html"


def test_page_escapes_the_logs_bytes_and_needs_no_network() -> None:
    nasty = "<script>alert(1)</script>"
    page = render_page(
        result(entry("critical", False, examples=(nasty,), message=nasty)),
        {"events": "v/events.html"},
        {"a.critical": nasty},
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 3
    assert "http" not in page
    assert 'href="v/events.html"' in page
    assert '<span class="critical">failed</span>' in page


ENTRY = load_suite(
    "suite: s\ndatasets:\n  events:\n    - expect_column_max_to_be_between: {column: a, max_value: 3}",
    "s.yaml",
).datasets["events"][0]


@pytest.mark.parametrize(
    ("found", "success", "message"),
    [
        ({"success": True, "result": {"observed_value": 2}}, True, ""),
        ({"success": False, "result": {"observed_value": 5}}, False, "observed 5, expected max_value=3"),
        ({"success": False, "result": {}}, False, "observed no value, expected max_value=3"),
        (
            {
                "success": False,
                "result": {
                    "element_count": 2000,
                    "unexpected_count": 1500,
                    "unexpected_percent": 75.0,
                    "partial_unexpected_list": ["x", "x", None, "y"],
                },
            },
            False,
            "1,500 of 2,000 rows are unexpected (75 %), such as x, y",
        ),
        (
            {
                "success": True,
                "exception_info": {"raised_exception": True, "exception_message": "no\n  column"},
            },
            False,
            "could not be evaluated: no column",
        ),
        (
            {
                "success": False,
                "exception_info": {"metric-1": {"raised_exception": True, "exception_message": "bad"}},
            },
            False,
            "could not be evaluated: bad",
        ),
    ],
)
def test_finding_says_what_was_found(found: dict[str, Any], success: bool, message: str) -> None:
    one = finding(ENTRY, found)
    assert (one.success, one.message) == (success, message)


def test_finding_is_strict_json_of_bounded_length() -> None:
    values = [float("nan"), "x" * 5000, {"a": "y" * 5000}, *range(50)]
    one = finding(
        ENTRY,
        {
            "success": False,
            "result": {"observed_value": list(range(5000)), "partial_unexpected_list": values},
        },
    )
    assert len(one.examples) == 5
    assert len(result(one).to_json()) < 4000
