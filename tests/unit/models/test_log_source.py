from __future__ import annotations

from typing import Any

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.log_source import FieldRule, LogSource, log_format_source

GOOD: dict[str, Any] = {"kind": "delimited", "fields": ["a", "b"], "columns": {"ts": "a", "path": ["b", "a"]}}


def test_what_a_document_does_not_say() -> None:
    source = LogSource.from_document(GOOD, "mine")
    assert source.columns == ["ts", "path"]
    assert source.rules["path"] == FieldRule(("b", "a"))
    assert (source.delimiter, source.least_fields, source.required, source.time_zone) == (
        "\t",
        2,
        ("ts",),
        None,
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "csv"}, "kind is 'csv'; valid is ncsa"),
        ({"colums": {}}, "there is no key 'colums'"),
        ({"columns": {"path": "b"}}, "has no 'ts'"),
        ({"columns": {"ts": "a", "pth": "b"}}, "there is no column 'pth'; valid are ts, host"),
        ({"columns": {"ts": "when"}}, "is from 'when', which is none of its fields: a, b"),
        ({"columns": {"ts": {"from": "a", "decode": "rot13"}}}, "valid is none, percent"),
        ({"columns": {"ts": {"form": "a"}}}, "valid are from, decode"),
        ({"fields": ["a", "a"]}, "one field twice"),
        ({"time_format": "yyyy-MM-dd"}, "valid is iso8601"),
        ({"time_format": "%H:%M"}, "gives no point in time"),
        ({"zone": 1}, "zone is 1"),
        ({"page_views": ["page_view"]}, "columns gives no event_name"),
        (
            {"page_views": [], "defaults": {"event_name": "x"}},
            "page_views is []; it has to be a name or a list",
        ),
        ({"required": ["host"]}, "required names 'host'"),
        ({"defaults": {"status": "ok"}}, "defaults.status is 'ok'"),
        ({"defaults": {"ts": "now"}}, "defaults has 'ts'"),
        ({"drift": {"new_field": "quarrantine"}}, "valid is ignore, warn, quarantine"),
        ({"drift": {"old_field": "warn"}}, "valid are new_field"),
        ({"delimiter": ", "}, "one character"),
        ({"least_fields": 3}, "valid is 1 to 2"),
    ],
)
def test_an_error_says_what_is_valid(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        LogSource.from_document({**GOOD, **change}, "mine")
    assert said in str(raised.value)


@pytest.mark.parametrize("document", [None, [], "text", {"kind": "ncsa", "format": "%h"}, {1: 2}])
def test_what_is_no_source_is_refused(document: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"The source 'mine'"):
        LogSource.from_document(document, "mine")


def test_a_bare_null_is_a_rule() -> None:
    assert (
        LogSource.from_document({**GOOD, "drift": {"retyped_field": None}}, "mine").drift.retyped_field
        == "null"
    )


def test_a_log_format_knows_its_columns() -> None:
    source = log_format_source('%v %h %u %t "%m %U%q %H" %>s %B "%{Referer}i" "%{USER-AGENT}i"')
    assert source.columns == [
        "ts", "host", "method", "path", "query", "protocol", "status", "bytes", "referrer", "user_agent",
        "user_id", "site",
    ]  # fmt: skip
    assert source.time_format == "%d/%b/%Y:%H:%M:%S %z"
    with pytest.raises(ConfigurationError, match=r"no 'ts'"):
        log_format_source("%h %>s")
