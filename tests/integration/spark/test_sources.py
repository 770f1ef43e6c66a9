"""Each kind of source, line by line: what is read, what is quarantined and what is said about drift."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
from datetime import datetime
from typing import Any

import pytest
import zstandard

from airflow_emr_etl.models.log_source import LogSource, log_format_source
from airflow_emr_etl.spark.line_parser import FIELDS, MAX_LINE_BYTES
from airflow_emr_etl.spark.source_reader import HEADER, drift_counts, load_source, read_source
from airflow_emr_etl.spark.sources import BUILT_IN, built_in_source, parse_source

pytestmark = pytest.mark.spark

at = datetime.fromisoformat  # naive: UTC


@pytest.fixture
def read(spark: Any, tmp_path: Any, collect: Any) -> Any:
    """A function: lines and a source, to a row for each line, in order; ``read.drift`` has the messages."""
    from airflow_emr_etl.spark.log_files import LogFiles

    def run(lines: list[bytes] | dict[str, list[bytes]], source: LogSource) -> list[Any]:
        files = lines if isinstance(lines, dict) else {"a.log": lines}
        for name, content in files.items():
            (tmp_path / name).write_bytes(b"\n".join(content))
        frame = LogFiles(spark, [str(tmp_path / name) for name in files]).lines()
        parsed = read_source(frame, source, MAX_LINE_BYTES)
        rows = collect(parsed.lines)
        run.drift = {**drift_counts(parsed.lines), **parsed.file_drift}  # type: ignore[attr-defined]
        return sorted(rows, key=lambda row: (row.file, row.split, row.position))

    return run


def digest(event_id: str, cookie: str) -> str:
    """The identity of an event with this id, of this visitor, at the time that the tests take."""
    micros = int(at("2026-01-05T10:00+00:00").timestamp()) * 1_000_000
    return hashlib.sha256(f"{event_id}:{micros}:\n\n{cookie}".encode()).hexdigest()


def shown(rows: list[Any], *names: str) -> list[Any]:
    return [row.reason or tuple(row[name] for name in names) for row in rows]


CF = b"2026-01-05\t10:00:00\tFRA2\t512\t2001:db8::1\tGET\td1.cloudfront.net\t/a%2520b\t200\t"
CF_END = (
    b"\tHit\tid-1==\twww.example.com\thttps\t20\t0.001\t-\tTLSv1.3\tX\tHit\tHTTP/2.0"
    b"\t-\t-\t1\t0.1\tHit\ttext/html\t1\t-\t-"
)
CF_FIELDS = b"#Fields: " + " ".join(built_in_source("cloudfront").record_fields).encode()


def test_cloudfront(read: Any) -> None:
    rows = read(
        [
            b"\xef\xbb\xbf#Version: 1.0\r",
            CF_FIELDS,
            CF + b"https://r.example/%2520x\tMozilla/5.0%2520(X11;%20a+b)\tq=%2541\t-" + CF_END + b"\r",
            CF + b"-\t-\t-\t-" + CF_END,
            CF + b"-\tcaf%E9 %00\t-\t-" + CF_END,
            CF[:60],
            CF + b"-\t-\t-\t-" + CF_END + b"\tmore",
            CF.replace(b"10:00:00", b"25:00:00") + b"-\t-\t-\t-" + CF_END,
            CF.replace(b"\t200\t", b"\t2x0\t") + b"-\t-\t-\t-" + CF_END,
            CF.replace(b"2001:db8::1", b"-") + b"-\t-\t-\t-" + CF_END,
            b"",
            CF[:30] + b"\0",
            b"\xff",
        ],
        built_in_source("cloudfront"),
    )
    first = rows[2]
    assert (first.ts, first.host, first.method, first.path, first.query, first.protocol) == (
        at("2026-01-05T10:00"), "2001:db8::1", "GET", "/a%20b", "q=%41", "HTTP/2.0",
    )  # fmt: skip
    assert (first.status, first.bytes, first.referrer, first.user_agent, first.source_event_id, first.site) == (
        200, 512, "https://r.example/%20x", "Mozilla/5.0 (X11; a+b)", "id-1==", "www.example.com",
    )  # fmt: skip
    assert shown(rows, "referrer", "user_agent") == [
        HEADER, HEADER, ("https://r.example/%20x", "Mozilla/5.0 (X11; a+b)"), (None, None), (None, "caf%E9 %00"),
        "truncated", "malformed", "bad_timestamp", "bad_status", "missing_field", "empty_line", "nul_byte", "not_utf8",
    ]  # fmt: skip
    assert read.drift == {}


def test_each_file_has_the_fields_that_its_header_says(read: Any) -> None:
    short = b"#Fields: date time c-ip cs-uri-stem cs-method x-new"
    turned = b"#Fields: time date cs-uri-stem c-ip cs-method"
    files = {
        "a.log": [
            short,
            b"2026-01-05\t10:00:00\th1\t/a\tGET\t1",
            turned,
            b"10:00:01\t2026-01-05\t/b\th2\tPOST",
        ],
        "b.log": [turned, b"10:00:02\t2026-01-05\t/c\th3\tPUT"],
        "c.log": [CF + b"-\t-\t-\t-" + CF_END],
    }
    rows = read(files, built_in_source("cloudfront"))
    assert shown(rows, "host", "path", "method", "status") == [
        HEADER, ("h1", "/a", "GET", None), HEADER, ("h2", "/b", "POST", None), HEADER, ("h3", "/c", "PUT", None),
        ("2001:db8::1", "/a%20b", "GET", 200),
    ]  # fmt: skip
    assert (read.drift["new field x-new"], read.drift["missing field sc-status"]) == (1, 3)
    strict = LogSource.from_document(
        {
            "kind": "w3c", "fields": ["date", "time", "c-ip", "cs-uri-stem", "cs-method"],
            "columns": {"ts": {"from": ["date", "time"], "join": " "}, "host": "c-ip", "path": "cs-uri-stem"},
            "zone": "UTC", "drift": {"new_field": "quarantine"},
        },
        "strict",
    )  # fmt: skip
    rows = read({name: files[name] for name in ("a.log", "b.log")}, strict)
    assert shown(rows, "host") == [HEADER, "new_field", HEADER, ("h2",), HEADER, ("h3",)]


ALB = (
    b"h2 2026-01-05T10:00:01.186641Z app/lb/1 %b 10.0.0.1:80 0.0 0.0 0.0 200 200 34 366 "
    b'"GET https://www.example.com:443/p?q=1 HTTP/2.0" "curl \\"x\\" 7" - - arn:aws:x "Root=1-5" "www.example.com" "a" '
    b'0 2026-01-05T10:00:00.000000Z "forward" "-" "-" "10.0.0.1:80" "200" "-" "-"'
)


def test_alb(read: Any) -> None:
    whole = ALB.replace(b"%b", b"192.0.2.1:2817")
    rows = read(
        [
            whole + b" TID_1",
            whole + b' TID_1 "host" "uri" "ok"',
            ALB.replace(b"%b", b"[2001:db8::1]:2817"),
            whole[: whole.index(b" 0 2026")],
            whole[:150],
            whole.replace(b" 200 200 ", b" - - "),
            whole.replace(b'"curl', b'curl" "curl'),
        ],
        built_in_source("alb"),
    )
    first = rows[0]
    assert (first.ts, first.host, first.method, first.path, first.query, first.protocol, first.status, first.bytes) == (
        at("2026-01-05T10:00"), "192.0.2.1", "GET", "/p", "q=1", "HTTP/2.0", 200, 366,
    )  # fmt: skip
    assert (first.user_agent, first.source_event_id, first.site) == (
        'curl "x" 7',
        "Root=1-5",
        "www.example.com",
    )
    assert shown(rows, "ts", "host", "status")[1:6] == [
        (at("2026-01-05T10:00"), "192.0.2.1", 200),
        (at("2026-01-05T10:00"), "2001:db8::1", 200),
        (at("2026-01-05T10:00:01.186641"), "192.0.2.1", 200),
        "truncated",
        (at("2026-01-05T10:00"), "192.0.2.1", None),
    ]
    assert rows[6].reason is not None
    assert read.drift["missing field conn_trace_id"] == 3


JSON_LINES: list[tuple[Any, Any]] = [
    ({"ts": "2026-01-05T10:00:00Z"}, at("2026-01-05T10:00")),
    ({"ts": "2026-01-05T10:00:00.5+05:30"}, at("2026-01-05T04:30:00.500")),
    ({"ts": "2026-01-05T10:00:00.123456789-0800"}, at("2026-01-05T18:00:00.123456")),
    ({"ts": "2026-01-05 10:00:00,25 +01"}, at("2026-01-05T09:00:00.250")),
    ({"timestamp": "2026-01-05t10:00:00z"}, at("2026-01-05T10:00")),
    ({"ts": "2026-01-05T10:00:00"}, "bad_timestamp"),  # without an offset it is no point in time
    ({"ts": "2026-02-29T10:00:00Z"}, "bad_timestamp"),
    ({"ts": "2026"}, "bad_timestamp"),
    ({"ts": 1767607200}, "bad_timestamp"),
    ({"ts": None}, "missing_field"),
    ({}, "missing_field"),
    ({"ts": "2026-01-05T10:00:00Z", "status": "ok"}, "bad_status"),
    ({"ts": "2026-01-05T10:00:00Z", "status": "404", "bytes": 12}, at("2026-01-05T10:00")),
    ({"ts": "2026-01-05T10:00:00Z", "bytes": 1.5}, "bad_bytes"),
    ({"ts": "2026-01-05T10:00:00Z", "referrer": {"url": "/"}}, "retyped_field"),
    ({"ts": "2026-01-05T10:00:00Z", "referrer": "{not an object}"}, at("2026-01-05T10:00")),
    ({"ts": "2026-01-05T10:00:00Z", "user_id": "a\0b"}, "nul_byte"),
    ({"ts": "2026-01-05T10:00:00Z", "user_id": "u" * 256}, "bad_user_id"),
    (b'{"ts": "2026-01-05T10:00:00Z", "url": "/a', "truncated"),
    (b'{"ts": "2026-01-05T10:00:00Z"}{"ts": "2026-01-05T10:00:00Z"}', "malformed"),
    (b'{"ts": "2026-01-05T10:00:00Z"}, {"ts": "2026-01-05T10:00:00Z"}', "malformed"),
    (b'["ts"]', "malformed"),
    (b"no json", "malformed"),
    (b"{'ts': '2026-01-05T10:00:00Z'}", "malformed"),
    (b'\xef\xbb\xbf {"ts": "2026-01-05T10:00:00Z"} \r', at("2026-01-05T10:00")),
]


def test_json_lines(read: Any) -> None:
    lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line, _ in JSON_LINES]
    rows = read(lines, built_in_source("json_events"))
    assert [row.reason or row.ts for row in rows] == [expected for _, expected in JSON_LINES]
    assert rows[12].status == 404


def test_a_nul_that_is_written_by_way_of_a_text_within_a_text_is_found(read: Any) -> None:
    source = parse_source(
        "description: mine\nkind: json_lines\ncolumns: {ts: ts, user_agent: request.agent}\ntime_format: iso8601\n",
        "mine.yaml",
    )
    inner = r'{"agent": "x\u005cu0000y"}'
    line = f'{{"ts": "2026-01-05T10:00:00Z", "request": {json.dumps(inner)}}}'.replace(r"\\u005c", r"\u005c")
    (row,) = read([line.encode()], source)
    assert "\\u0000" not in line
    assert row.reason == "nul_byte"


def test_json_events_give_all_columns(read: Any) -> None:
    event = {
        "event_id": "e1", "ts": "2026-01-05T10:00:00Z", "visitor_id": "v1", "user_id": 42, "event": "page_view",
        "url": "https://WWW.example.com:8080/a/b?x=\u00e9&y=1#top", "referrer": "https://r.example/",
        "ip": "2001:db8::1",
        "user_agent": "UA", "method": "GET", "status": 200, "bytes": 7, "surprise": [1], "more": {"a": 1},
    }  # fmt: skip
    (row,) = read([json.dumps(event).encode()], built_in_source("json_events"))
    assert row.reason is None
    assert {name: row[name] for name in built_in_source("json_events").columns} == {
        "ts": at("2026-01-05T10:00"), "host": "2001:db8::1", "method": "GET", "path": "/a/b", "query": "x=\u00e9&y=1",
        "protocol": None, "status": 200, "bytes": 7, "referrer": "https://r.example/", "user_agent": "UA",
        "source_event_id": "e1", "user_id": "42", "visitor_cookie": "v1", "event_name": "page_view",
        "site": "www.example.com",
    }  # fmt: skip
    assert read.drift == {"new field surprise": 1, "new field more": 1}


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        ("epoch_s", 1767607200, at("2026-01-05T10:00")),
        ("epoch_s", 1767607200.25, at("2026-01-05T10:00:00.250")),
        ("epoch_s", 1767607200123, "bad_timestamp"),
        ("epoch_ms", 1767607200123, at("2026-01-05T10:00:00.123")),
        ("epoch_us", "1767607200123456", at("2026-01-05T10:00:00.123456")),
        ("epoch_ms", "soon", "bad_timestamp"),
        ("%Y/%m/%d %H:%M:%S", "2026/07/05 10:00:00", at("2026-07-05T08:00")),  # summer in Berlin
        ("%d.%b.%Y %H:%M:%S %z", "05.Jan.2026 10:00:00 +0100", at("2026-01-05T09:00")),
        ("%d.%b.%Y %H:%M:%S %z", "31.Feb.2026 10:00:00 +0100", "bad_timestamp"),
        ("iso8601", "2026-01-05T10:00:00", at("2026-01-05T09:00")),  # winter in Berlin
    ],
)
def test_time_formats(read: Any, form: str, value: Any, expected: Any) -> None:
    document = {
        "kind": "json_lines",
        "columns": {"ts": "at.time"},
        "time_format": form,
        "zone": "Europe/Berlin",
    }
    (row,) = read([json.dumps({"at": {"time": value}}).encode()], LogSource.from_document(document, "test"))
    assert (row.reason or row.ts) == expected


def test_snowplow(read: Any) -> None:
    fields = built_in_source("snowplow").record_fields
    values = {
        "collector_tstamp": "2026-01-05 10:00:00.123", "event_id": "e-1", "event": "page_view",
        "user_ipaddress": "192.0.2.1",
        "page_urlpath": "/p", "page_urlquery": "a=b", "useragent": "UA", "domain_userid": "d1", "user_id": "",
    }  # fmt: skip
    cells = [values.get(name, "") for name in fields]
    good = "\t".join(cells).encode()
    rows = read([good, good[:-30], good + b"\tx", b"shop" + b"\t" * 130], built_in_source("snowplow"))
    assert shown(rows, "ts", "host", "path", "query", "user_agent", "visitor_cookie", "user_id", "event_name") == [
        (at("2026-01-05T10:00:00.123"), "192.0.2.1", "/p", "a=b", "UA", "d1", None, "page_view"), "truncated",
        (at("2026-01-05T10:00:00.123"), "192.0.2.1", "/p", "a=b", "UA", "d1", None, "page_view"), "missing_field",
    ]  # fmt: skip
    assert read.drift == {"new field column 132": 1}


def test_a_source_of_ones_own(spark: Any, read: Any, tmp_path: Any) -> None:
    (tmp_path / "mine.yaml").write_text("""
kind: delimited
delimiter: ","
quote: '"'
fields: [when, page, kind, size]
columns:
  ts: when
  path: page
  event_name: {from: kind, values: {pv: page_view}}
  bytes: size
defaults: {method: GET, status: "200", bytes: "0"}
drift: {retyped_field: null, new_field: quarantine}
comment: ";"
least_fields: 2
""")
    rows = read(
        [
            b"; a comment",
            b'2026-01-05T10:00:00Z,"/a,""b""",pv,7',
            b"2026-01-05T10:00:00Z,/a,click,many",
            b"2026-01-05T10:00:00Z,/a",
            b"2026-01-05T10:00:00Z,/a,pv,1,what?",
            b"soon,/a,pv,1",
            b"2026-01-05T10:00:00Z",
        ],
        load_source(spark, str(tmp_path / "mine.yaml")),
    )
    assert shown(rows, "path", "event_name", "bytes", "method", "status") == [
        HEADER, ('/a,"b"', "page_view", 7, "GET", 200), ("/a", "click", None, "GET", 200), ("/a", None, 0, "GET", 200),
        "new_field", "bad_timestamp", "truncated",
    ]  # fmt: skip
    assert read.drift == {
        "retyped field bytes": 1, "missing field kind": 1, "missing field size": 1, "new field column 5": 1,
    }  # fmt: skip


def test_a_log_format(read: Any) -> None:
    rows = read(
        [
            b'192.0.2.1 - frank [05/Jan/2026:03:00:00 +0530] "GET /\\"x?y HTTP/1.0" 200 12',
            b'192.0.2.1 - - [05/Jan/2026:03:00:00 +0530] "-" 408 -\r',
            b'192.0.2.1 - - [05/Foo/2026:03:00:00 +0530] "GET / HTTP/1.0" 200 1',
            b'192.0.2.1 - - [05/Jan/2026:03:00:00 +0530] "GET / HTTP/1.0" 2 1',
            b'192.0.2.1 - - [05/Jan/2026:03:00:00 +0530] "GET / HT',
        ],
        log_format_source('%h %l %u %t "%r" %>s %b'),
    )
    assert shown(rows, "ts", "user_id", "method", "path", "query", "status", "bytes") == [
        (at("2026-01-04T21:30"), "frank", "GET", '/"x', "y", 200, 12),
        (at("2026-01-04T21:30"), None, None, None, None, 408, None),
        "bad_timestamp", "bad_status", "malformed",
    ]  # fmt: skip
    (row,) = read(
        [b'1767607200.5 www.example.com 192.0.2.1 "/a" "?b=c" "UA"'],
        log_format_source('%{sec}t.%{msec_frac}t %v %a "%U" "%q" "%{user-agent}i"'),
    )
    assert (row.ts, row.site, row.path, row.query) == (
        at("2026-01-05T10:00:00.5"),
        "www.example.com",
        "/a",
        "b=c",
    )
    rows = read(
        [b"h 2026-01-05T10:00:00+0530 200", b"h 2026-01-05T10:00:00-0800 200", b"h 2026-01-05T10:00:00Z 200"],
        log_format_source("%h %{%Y-%m-%dT%H:%M:%S%z}t %>s"),
    )
    assert shown(rows, "ts", "status") == [
        (at("2026-01-05T04:30"), 200), (at("2026-01-05T18:00"), 200), (at("2026-01-05T10:00"), 200),
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", ["gz", "bz2", "zst"])
def test_compressed_files_are_read_line_by_line(spark: Any, normalize_files: Any, suffix: str) -> None:
    lines = [b"bad %d" % n for n in range(1, 3001)]
    content = b"\n".join(lines)
    half = content.index(b"bad 1500")
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstandard.compress}[suffix]
    # Two members one after the other, as parallel compressors and log shippers write them.
    packed = pack(content[:half]) + pack(content[half:])
    run = normalize_files({f"a.log.{suffix}": packed}, expected_lines=3000)
    assert sorted((row.line_number, bytes(row.line)) for row in run.rows("quarantine")) == list(
        enumerate(lines, 1)
    )


def test_headers_are_counted_and_events_have_the_source_in_them(normalize_files: Any) -> None:
    good = CF + b"-\tUA\t-\t-" + CF_END
    run = normalize_files(
        {"a.log": b"\n".join([b"#Version: 1.0", CF_FIELDS + b" brand-new", good + b"\t1", good])},
        source=built_in_source("cloudfront"),
        expected_lines=4,
    )
    account = run.accounting
    assert (account.lines_in, account.headers, account.valid, dict(account.quarantined)) == (
        4,
        2,
        1,
        {"truncated": 1},
    )
    assert dict(account.drift) == {"new field brand-new": 1}
    (event,) = run.rows("events")
    assert (event.path, event.user_agent) == ("/a%20b", "UA")


def test_events_that_are_no_requests_are_page_views_by_name(normalize_files: Any) -> None:
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"event": "page_view"}, True),
        ({"event": "pv", "url": "/manual.pdf"}, True),
        ({"event": "pageview", "status": 200}, True),
        ({"event": "click"}, False),
        ({}, False),
        ({"event": "page_view", "user_agent": "Googlebot/2.1"}, False),
        ({"event": "page_view", "method": "GET", "status": 404}, False),
        ({"event": "request", "method": "GET", "status": 200}, True),
    ]
    lines = [
        json.dumps(
            {"ts": "2026-01-05T10:00:00Z", "visitor_id": f"v{n}", "url": "/a", "event_id": f"e{n}", **case}
        )
        for n, (case, _) in enumerate(cases)
    ]
    run = normalize_files({"a.json": "\n".join(lines).encode()}, source=built_in_source("json_events"))
    expected = sum(is_page for _, is_page in cases)
    assert (run.accounting.valid, run.accounting.page_views) == (len(cases), expected)
    names = {digest(f"e{n}", f"v{n}"): is_page for n, (_, is_page) in enumerate(cases)}
    assert {row.event_id: row.is_page_view for row in run.rows("events")} == names


def test_snowplow_page_views_are_page_views(normalize_files: Any) -> None:
    fields = built_in_source("snowplow").record_fields

    def line(number: int, event: str) -> str:
        values = {
            "collector_tstamp": "2026-01-05 10:00:00.123", "event_id": f"e{number}", "event": event,
            "page_urlpath": f"/{event}", "domain_userid": "d1", "useragent": "UA",
        }  # fmt: skip
        return "\t".join(values.get(name, "") for name in fields)

    lines = [line(n, event) for n, event in enumerate(["page_view", "page_ping", "struct", "page_view"])]
    run = normalize_files({"a.tsv": "\n".join(lines).encode()}, source=built_in_source("snowplow"))
    assert sorted((row.path, row.is_page_view) for row in run.rows("events")) == [
        ("/page_ping", False), ("/page_view", True), ("/page_view", True), ("/struct", False),
    ]  # fmt: skip


def test_plain_lines_are_read_as_the_checks_would_read_them(spark: Any, collect: Any) -> None:
    """The quick way and the long way over the same lines, and over what comes of them by small damages."""
    import random

    from pyspark.sql import functions as F

    from airflow_emr_etl.spark.line_parser import _parse_doubtful, parse_lines

    seeds = [
        '192.0.2.1 - - [05/Jan/2026:10:00:00 +0000] "GET /a?b=c HTTP/1.1" 200 12 "http://r/" "Mozilla/5.0 (X)"',
        'www.example.com:443 2001:db8::1 - frank [29/Feb/2026:23:59:59 -0930] "POST / HTTP/2" 404 - "-" "" "x" 7',
        'a:1 - - - [31/Dec/1999:00:00:00 +1759] "HEAD //x? HTTP/1.0" 304 0',
        'h - - [05/Jan/2026:10:00:00 +1800] "GET /[x] HTTP/1.0" 000 999999999999999999 "-" "-"\r',
    ]
    random.seed(7)
    lines = list(seeds)
    signs = ' "\\[]:-/?.,0123456789aZ\t\u00e9\r'
    for _ in range(3000):
        line = random.choice(seeds)
        for _ in range(random.choice([1, 1, 2, 3])):
            place = random.randrange(len(line))
            line = line[:place] + random.choice([*signs, "", ""]) + line[place + random.choice([0, 1, 1]) :]
        lines.append(line)
    frame = spark.createDataFrame(list(enumerate(lines)), "number int, value string")
    quick = collect(parse_lines(frame, MAX_LINE_BYTES))
    slow = _parse_doubtful(frame.withColumn("doubtful", F.col("value")), MAX_LINE_BYTES).select(
        "number", "value", "reason", *(F.col(f"doubtful_{name}").alias(name) for name in FIELDS)
    )
    key = "number"
    assert sorted(quick, key=lambda row: row[key]) == sorted(collect(slow), key=lambda row: row[key])
    assert sum(row.reason is None for row in quick) > 800
    assert len({row.reason for row in quick}) > 4


def test_all_built_in_sources_are_whole() -> None:
    for name in BUILT_IN:
        assert "ts" in built_in_source(name).columns
    assert len(built_in_source("snowplow").record_fields) == 131
    assert parse_source("kind: ncsa", "x").columns == built_in_source("combined").columns
