from __future__ import annotations

from datetime import UTC, datetime

import pytest

from airflow_emr_etl.models.access_log import (
    LINE,
    LINE_GROUPS,
    TRUNCATED,
    find_time,
    python_pattern,
    read_time,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("05/Jan/2026:23:59:59 +0000", datetime(2026, 1, 5, 23, 59, 59, tzinfo=UTC)),
        ("05/Jan/2026:03:00:00 +0530", datetime(2026, 1, 4, 21, 30, tzinfo=UTC)),
        ("31/Dec/2025:20:00:00 -0800", datetime(2026, 1, 1, 4, tzinfo=UTC)),
        ("29/Feb/2024:00:00:00 +0000", datetime(2024, 2, 29, tzinfo=UTC)),
        ("29/Feb/2026:00:00:00 +0000", None),
        ("05/Foo/2026:00:00:00 +0000", None),
        ("05/Jan/2026:24:00:00 +0000", None),
        ("05/Jan/2026:00:00:00 +1801", None),
        ("05/Jan/2026:00:00:00 +0060", None),
        ("05/Jan/2026:00:00:00", None),
    ],
)
def test_times_are_read_in_utc(text: str, expected: datetime | None) -> None:
    assert read_time(text) == expected


def test_the_first_time_of_a_line_is_found() -> None:
    assert find_time(b'\xff - - [05/Jan/2026:10:00:00 +0000] "GET /[06/Jan/2026:10:00:00 +0000]') == (
        "05/Jan/2026:10:00:00 +0000"
    )
    assert find_time(b"no time [here]") is None


HEAD = "h - - [05/Jan/2026:10:00:00 +0000] "


def test_the_groups_of_a_line() -> None:
    found = python_pattern(LINE).match(HEAD + r'"GET /\"x HTTP/1.1" 200 - "ref" "agent" "more" 7')
    assert found is not None
    assert dict(zip(LINE_GROUPS, found.groups(), strict=True)) == {
        "host": "h",
        "time": "05/Jan/2026:10:00:00 +0000",
        "request": r"GET /\"x HTTP/1.1",
        "status": "200",
        "bytes": "-",
        "referrer": "ref",
        "user_agent": "agent",
    }


def test_every_beginning_of_a_line_is_truncated_or_a_common_line() -> None:
    whole = HEAD + r'"GET /\"x HTTP/1.1" 200 12 "ref\\" "agent"'
    line, truncated = python_pattern(LINE), python_pattern(TRUNCATED)
    for length in range(len("h - - ["), len(whole)):
        assert line.match(whole[:length]) or truncated.match(whole[:length]), whole[:length]
    for text in ("h - -", "", "hello world", HEAD + '"GET /"x" 200 1', HEAD + "GET / 200 1"):
        assert not line.match(text)
        assert not truncated.match(text)
