from __future__ import annotations

import re
from typing import Any

import apachelogs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.access_log import python_pattern
from airflow_emr_etl.models.log_format import COMBINED, COMMON, compile_log_format, compile_time_format

FORMATS = {
    COMMON: r'192.0.2.1 - frank [05/Jan/2026:10:00:00 +0530] "GET /a?b HTTP/1.1" 200 12',
    COMBINED: r'2001:db8::1 - - [05/Jan/2026:10:00:00 +0000] "GET /\"x HTTP/1.1" 404 - "-" "a \"b\" \\ c"',
    '%v:%p %h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i"': (
        'www.example.com:443 192.0.2.1 - - [05/Jan/2026:10:00:00 -0800] "" 408 0 "-" ""'
    ),
    '%h %l %u [%{%d/%b/%Y:%H:%M:%S}t.%{msec_frac}t %{%z}t] "%r" %s %B %I %D': (
        '192.0.2.1 - - [05/Jan/2026:10:00:00.123 +0000] "GET / HTTP/2.0" 200 0 17 4711'
    ),
    '%a %A %m "%U" %H %>s %T %V %X %{X-Forwarded-For}i "%{Cookie}i" "%{ETag}o"': (
        '192.0.2.1 192.0.2.2 POST "/a b" HTTP/1.1 201 3 example.com + 198.51.100.7 "a=b; c=d" "\\"x\\""'
    ),
    "%{sec}t.%{usec_frac}t %h %>s": "1767607200.000123 host.example 200",
    '%h "%U%q" %>s': '192.0.2.1 "/path?a=b" 200',
    '%{%Y-%m-%dT%T}t%{%z}t "%{Host}i" %h': '2026-01-05T10:00:00+0100 "example.com" 192.0.2.1',
    "%h %u %t": "192.0.2.1 frank smith [05/Jan/2026:10:00:00 +0000]",
}


def ours(text: str, line: str) -> dict[str, str] | None:
    form = compile_log_format(text)
    found = python_pattern(form.expression).match(line)
    return None if found is None else dict(zip(form.fields, found.groups(), strict=True))


def theirs(text: str, line: str) -> dict[str, Any] | None:
    try:
        parsed = apachelogs.parse(text, line).directives
    except apachelogs.InvalidEntryError:
        return None
    return {re.sub(r"(?<=\{)[^}]*(?=\}[io])", lambda m: m[0].lower(), name): v for name, v in parsed.items()}


def unescaped(text: str) -> str | None:
    return None if text == "-" else re.sub(r'\\(["\\])', r"\1", text)


@pytest.mark.parametrize("text", FORMATS)
def test_a_line_of_each_format_gives_what_apachelogs_gives(text: str) -> None:
    mine, other = ours(text, FORMATS[text]), theirs(text, FORMATS[text])
    assert mine is not None
    assert other is not None
    for name, value in mine.items():
        if name.endswith("t") or "U%q" in text:  # times are objects there; two paths are tested below
            continue
        expected = other[name.replace("{referer}", "{referer}")]
        assert unescaped(value) == (None if expected is None else str(expected)), name


FIELD = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@settings(max_examples=300, deadline=None)
@given(host=st.from_regex(r"[a-z0-9.:]{1,20}", fullmatch=True), request=FIELD, agent=FIELD, referrer=FIELD)
def test_quoted_fields_are_found_as_they_were_written(
    host: str, request: str, agent: str, referrer: str
) -> None:
    def quoted(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"')

    line = f'{host} - - [05/Jan/2026:10:00:00 +0000] "{quoted(request)}" 200 1 "{quoted(referrer)}" "{quoted(agent)}"'
    mine, other = ours(COMBINED, line), theirs(COMBINED, line)
    assert mine is not None
    assert other is not None
    for name, value in (("%r", request), ("%{referer}i", referrer), ("%{user-agent}i", agent)):
        assert unescaped(mine[name]) == (None if value == "-" else value)
        assert other[name] == (None if value == "-" else value)


@pytest.mark.parametrize("text", FORMATS)
def test_a_line_that_is_cut_inside_its_last_quotes_does_not_match(text: str) -> None:
    line = FORMATS[text]
    if line.endswith('"'):
        assert ours(text, line[:-1]) is None
    assert ours(text, "") is None


def test_what_stands_next_to_each_other_is_told_apart() -> None:
    assert ours('%h "%U%q" %>s', '192.0.2.1 "/path?a=b" 200') == {
        "%h": "192.0.2.1", "%U": "/path", "%q": "?a=b", "%>s": "200",
    }  # fmt: skip
    found = ours("%h:%{remote}p %s", "2001:db8::1:8080 200")
    assert found == {"%h": "2001:db8::1", "%{remote}p": "8080", "%s": "200"}
    found = ours('%{X-Forwarded-For}i %l "%r"', '192.0.2.1, 198.51.100.2 - "GET /"')
    assert found is not None
    assert found["%{x-forwarded-for}i"] == "192.0.2.1, 198.51.100.2"


def test_a_long_line_takes_no_longer_than_it_is() -> None:
    # With a matcher that goes back and tries again this line would take hours.
    line = "h - - [05/Jan/2026:10:00:00 +0000] " + '"\\' * 30_000
    assert ours(COMBINED, line) is None
    assert ours("%h %l %u %t %r %s", "a " * 30_000) is None


@pytest.mark.parametrize("text", ["%h %Z", "%{x}h%{y}Z", "%", "words", "%h %{%Q}t"])
def test_what_is_no_format_says_what_is(text: str) -> None:
    def compiled() -> None:
        compile_time_format(compile_log_format(text).time_format or "")

    with pytest.raises(ConfigurationError, match=r"(?i)valid|LogFormat|directive"):
        compiled()


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("%d/%b/%Y:%H:%M:%S %z", "05/Jan/2026:10:00:00 +0530", "2026-Jan-05T10:00:00+0530"),
        ("%Y-%m-%d %T.%f", "2026-01-05 10:00:00.123", "2026-01-05T10:00:00.123"),
        ("%e %b %Y %R", " 5 Jan 2026 10:00", "2026-Jan-5T10:00:00"),
        ("%FT%T%z", "2026-01-05T10:00:00Z", "2026-01-05T10:00:00Z"),
        ("%FT%T%z", "2026-13-05T10:00:00Z", None),
        ("%FT%T%z", "2026-01-05T10:00:60Z", None),
    ],
)
def test_times_become_iso(form: str, text: str, expected: str | None) -> None:
    time = compile_time_format(form)
    expression = python_pattern(time.expression.replace("(?<", "(?P<").replace("(?P<=", "(?<="))
    found = expression.match(text)
    assert (found and found.expand(re.sub(r"\$\{(\w+)\}", r"\\g<\1>", time.iso))) == expected


@pytest.mark.parametrize(
    ("form", "time"),
    [
        ("%{%Y-%m-%dT%H:%M:%S%z}t", "2026-01-05T10:00:00+0530"),
        ("%{%Y-%m-%dT%H:%M:%S%z}t", "2026-01-05T10:00:00-08:00"),
        ("%{%Y-%m-%dT%H:%M:%S%z}t", "2026-01-05T10:00:00Z"),
        ("%{%Y-%m-%dT%H:%M:%SZ}t", "2026-01-05T10:00:00Z"),
        ("%{%Y%m%dT%H%M%S%z}t", "20260105T100000Z"),
        ("%{%FT%T%z}t", "2026-01-05T10:00:00-0800"),
        ("%{%F-%T}t", "2026-01-05-10:00:00"),
        ("%{%d%b%YT%R}t", "05Oct2026T10:00"),
        ("%{%F %T.%f%z}t", "2026-01-05 10:00:00.123Z"),
        ("%{%Y-%m-%dT%H:%M:%S}tZ", "2026-01-05T10:00:00"),
        ("%{%zx%F %T}t", "Zx2026-01-05 10:00:00"),
        ("%{%F %T %%}t", "2026-01-05 10:00:00 %"),
        ("%{%FT%H:%M:%S%z}t", "2026-13-05T10:61:xx+0530"),  # a bad time is one too
    ],
)
def test_a_directive_leaves_what_follows_it(form: str, time: str) -> None:
    literal = form.partition("}t")[2]
    found = ours(f"%h {form} %>s", f"h {time}{literal} 200")
    assert found is not None
    assert list(found.values()) == ["h", time, "200"]


def test_pieces_of_a_time_without_text_between_are_told_apart() -> None:
    found = ours("%{%FT%T}t%{%z}t %h", "2026-01-05T10:00:00-0800 h")
    assert found == {"%{%FT%T}t": "2026-01-05T10:00:00", "%{%z}t": "-0800", "%h": "h"}


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S%z", "%Y%m%dT%H%M%S%z", "%FT%T%z"])
def test_what_looks_like_a_long_time_takes_no_longer_than_it_is(form: str) -> None:
    # As Java reads it, with its possessive quantifiers.
    expression = re.compile(compile_log_format(f"%{{{form}}}t %h").expression.replace(r"\z", r"\Z"))
    for text in ("T" * 100_000, "0" * 100_000, "0T" * 50_000, "0-" * 50_000, "0:" * 50_000):
        assert expression.match(text) is None


@pytest.mark.parametrize("form", ["%H:%M", "%Y-%m-%d", "%Y-%m-%d %H:%M %j", "%Y %Y-%m-%d %H:%M"])
def test_a_time_format_that_gives_no_time_is_refused(form: str) -> None:
    with pytest.raises(ConfigurationError, match=r"[Vv]alid"):
        compile_time_format(form)
