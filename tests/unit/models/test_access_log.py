from __future__ import annotations

from datetime import UTC, datetime

import pytest

from airflow_emr_etl.models.access_log import (
    LINE,
    LINE_GROUPS,
    LOOSE_LINE,
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
        ("29/feb/2024:00:00:00 +0000", datetime(2024, 2, 29, tzinfo=UTC)),
        ("29/FEB/2024:00:00:00 +1345", datetime(2024, 2, 28, 10, 15, tzinfo=UTC)),
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
    for text in ("h - -", "", "hello world", HEAD + '"GET /"x" 20x 1', HEAD + "GET / 200 1"):
        assert not line.match(text)
        assert not truncated.match(text)


@pytest.mark.parametrize("end", ["", "\r", " \r", "\t", " 17 -\r"])
def test_nothing_at_the_end_of_a_common_line_is_part_of_its_bytes(end: str) -> None:
    found = python_pattern(LINE).match(HEAD + '"GET / HTTP/1.0" 200 512' + end)
    assert found is not None
    assert found.group(5) == "512"


@pytest.mark.parametrize(
    ("rest", "request_line", "user_agent"),
    [
        ('"GET /a"b HTTP/1.0" 200 1', 'GET /a"b HTTP/1.0', None),
        ('"GET "/a" HTTP/1.0" 404 -', 'GET "/a" HTTP/1.0', None),
        ('""GET /" " 400 5', '"GET /" ', None),
        (r'"GET /a\" 404 - 17', "GET /a\\", None),
        ('"GET / HTTP/1.1" 200 1 "-" "a "b" c" "192.0.2.1" 0.1', "GET / HTTP/1.1", 'a "b" c'),
        ('"GET / HTTP/1.1" 200 1 "-" "a "b""', "GET / HTTP/1.1", 'a "b"'),
        ('"GET /"x HTTP/1.1" 200 1 "x?q="y"" "a"\r', 'GET /"x HTTP/1.1', "a"),
    ],
)
def test_quotes_that_no_server_escaped(rest: str, request_line: str, user_agent: str | None) -> None:
    assert not python_pattern(LINE).match(HEAD + rest)
    found = python_pattern(LOOSE_LINE).match(HEAD + rest)
    assert found is not None
    groups = dict(zip(LINE_GROUPS, found.groups(), strict=True))
    assert (groups["request"], groups["user_agent"]) == (request_line, user_agent)


@pytest.mark.parametrize(
    "rest",
    [
        '"GET / HTTP/1.1" 200 12' + HEAD + '"GET / HTTP/1.1" 200 1',  # two lines in one
        '"GET /a' + HEAD + '"GET / HTTP/1.1" 200 1 "-" "a"',
        '"GET / HTTP/1.1" 200 1 "-" "a"' + HEAD + '"GET / HTTP/1.1" 200 1 "-" "a"',
        r'"GET / HTTP/1.1" 200 1 "-" "a \"cut\"',
        '"GET / HTTP/1.1" 200 1 "ref" "cut',
        '"GET /" 200 x HTTP/1.1" 404 1',  # which status?
    ],
)
def test_what_is_no_line_even_loosely(rest: str) -> None:
    assert not python_pattern(LINE).match(HEAD + rest)
    assert not python_pattern(LOOSE_LINE).match(HEAD + rest)
