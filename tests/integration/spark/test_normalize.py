from __future__ import annotations

import gzip
import json
from collections import Counter
from datetime import date, datetime
from typing import Any

import pytest

from airflow_emr_etl.clickstream.generator import generate_day
from airflow_emr_etl.exceptions import AccountingError, MissingInputError
from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.spark.sources import parse_source

pytestmark = pytest.mark.spark

DAY = date(2026, 1, 5)
at = datetime.fromisoformat  # naive: UTC
TIME = "05/Jan/2026:10:00:00 +0000"


def line(
    request: str = "GET / HTTP/1.1",
    host: str = "198.51.100.7",
    time: str = TIME,
    status: str = "200",
    size: str = "12",
    tail: str = ' "-" "Mozilla/5.0"',
    user: str = "- -",
) -> bytes:
    return f'{host} {user} [{time}] "{request}" {status} {size}{tail}'.encode("utf-8", "surrogateescape")


VALID: list[tuple[str, bytes, dict[str, Any]]] = [
    (
        "combined",
        line("GET /a?b=c?d HTTP/1.1", tail=' "https://ref.example/x" "Mozilla/5.0"'),
        {
            "ts": at("2026-01-05T10:00"),
            "host": "198.51.100.7",
            "method": "GET",
            "path": "/a",
            "query": "b=c?d",
            "protocol": "HTTP/1.1",
            "status": 200,
            "bytes": 12,
            "referrer": "https://ref.example/x",
            "user_agent": "Mozilla/5.0",
            "is_bot": False,
            "is_page_view": True,
            "dt": DAY,
        },
    ),
    (
        "common",
        line("GET /common HTTP/1.0", tail=""),
        {"referrer": None, "user_agent": None, "is_bot": False},
    ),
    ("carriage return", line("GET /cr HTTP/1.1") + b"\r", {"user_agent": "Mozilla/5.0"}),
    ("carriage return after the bytes", line("GET /cr2 HTTP/1.0", tail="\r"), {"path": "/cr2", "bytes": 12}),
    ("carriage return after further fields", line("GET /cr3 HTTP/1.0", tail=" 7\r"), {"bytes": 12}),
    ("carriage return and quotes", line('GET /cr4" HTTP/1.0', tail="\r"), {"path": '/cr4"'}),
    ("carriage return after no bytes", line("GET /cr5", size="-", tail=" \r"), {"path": "/cr5"}),
    ("byte order mark", b"\xef\xbb\xbf" + line("GET /bom HTTP/1.0", tail=""), {"host": "198.51.100.7"}),
    ("lone carriage return", line("GET /a\rb HTTP/1.1"), {"path": "/a\rb"}),
    ("ipv6", line("GET /v6 HTTP/1.1", host="2001:db8::1:80"), {"host": "2001:db8::1:80"}),
    ("host name", line("GET /n HTTP/1.1", host="crawl-1.example.org"), {"host": "crawl-1.example.org"}),
    (
        "virtual host first",
        line("GET /v HTTP/1.1", host="www.example.com:443 192.0.2.9"),
        {"host": "192.0.2.9"},
    ),
    (
        "user with spaces",
        line("GET /u HTTP/1.1", user="- frank smith"),
        {"path": "/u", "host": "198.51.100.7"},
    ),
    (
        "no protocol",
        line("GET /old"),
        {"method": "GET", "path": "/old", "protocol": None, "is_page_view": True},
    ),
    ("no request", line("-"), {"method": None, "path": None, "protocol": None, "is_page_view": False}),
    ("empty request", line(""), {"method": None, "path": None}),
    (
        "handshake",
        line(r"\x16\x03\x01?x", status="400"),
        {"method": None, "path": r"\x16\x03\x01?x", "query": None},
    ),
    ("spaces in target", line("GET /a b c HTTP/1.1"), {"path": "/a b c", "protocol": "HTTP/1.1"}),
    ("absolute", line("GET http://h.example:8080/p?q HTTP/1.1"), {"path": "/p", "query": "q"}),
    ("absolute root", line("GET http://h.example HTTP/1.1"), {"path": "/", "query": None}),
    ("connect", line("CONNECT h.example:443 HTTP/1.1"), {"method": "CONNECT", "path": "h.example:443"}),
    ("empty query", line("GET /e? HTTP/1.1"), {"path": "/e", "query": ""}),
    ("no bytes", line("HEAD /h HTTP/1.1", size="-"), {"bytes": None, "is_page_view": False}),
    (
        "escapes",
        line(r"GET /q\"uote HTTP/1.1", tail=r' "-" "a \"b\" \\ c\x22"'),
        {"path": '/q"uote', "user_agent": 'a "b" \\ c\\x22'},
    ),
    ("empty agent", line("GET /ea HTTP/1.1", tail=' "" ""'), {"referrer": None, "user_agent": None}),
    ("more fields", line("GET /m HTTP/1.1", tail=' "-" "UA" "192.0.2.1" 0.004 "x y"'), {"user_agent": "UA"}),
    ("utf-8", line("GET /caf\u00e9/\U0001f600/\ufffd HTTP/2.0"), {"path": "/caf\u00e9/\U0001f600/\ufffd"}),
    (
        "east",
        line("GET /east HTTP/1.1", time="05/Jan/2026:03:00:00 +0530"),
        {"ts": at("2026-01-04T21:30")},
    ),
    ("west", line("GET /west HTTP/1.1", time="05/Jan/2026:23:00:00 -0800"), {"ts": at("2026-01-06T07:00")}),
    (
        "leap day",
        line("GET /leap HTTP/1.1", time="29/Feb/2024:00:00:00 +0000"),
        {"ts": at("2024-02-29T00:00")},
    ),
    ("any status", line("GET /s HTTP/1.1", status="999"), {"status": 999, "is_page_view": False}),
    ("big", line("GET /big HTTP/1.1", size="9223372036854775807"), {"bytes": 2**63 - 1}),
    ("asset", line("GET /x.CSS?v=1 HTTP/1.1"), {"is_page_view": False}),
    ("revalidated", line("GET /r HTTP/1.1", status="304"), {"is_page_view": True}),
    ("moved", line("GET /mv HTTP/1.1", status="301"), {"is_page_view": False}),
    (
        "robot",
        line("GET /bot HTTP/1.1", tail=' "-" "Mozilla/5.0 (compatible; Googlebot/2.1)"'),
        {"is_bot": True, "is_page_view": False},
    ),
    ("quote in the target", line('GET /q"1 HTTP/1.0', tail=""), {"path": '/q"1', "protocol": "HTTP/1.0"}),
    (
        "quoted target",
        line('GET "/q2" HTTP/1.0', status="404", size="-", tail=""),
        {"path": '"/q2"', "bytes": None},
    ),
    ("quote at the end", line('GET /q3"'), {"method": "GET", "path": '/q3"', "user_agent": "Mozilla/5.0"}),
    ("backslash at the end", line("GET /q4\\", tail=""), {"method": "GET", "path": "/q4\\"}),
    (
        "quotes in the agent",
        line("GET /q5 HTTP/1.1", tail=' "-" "A "b" c (d)" "192.0.2.1" 0.1'),
        {"referrer": None, "user_agent": 'A "b" c (d)'},
    ),
    (
        "quotes in the referrer",
        line("GET /q6 HTTP/1.1", tail=' "http://r/?q="x"" "UA"'),
        {"referrer": 'http://r/?q="x"', "user_agent": "UA"},
    ),
    (
        "more fields after the bytes",
        line("GET /m2 HTTP/1.1", tail=" 1234 -"),
        {"path": "/m2", "user_agent": None},
    ),
    ("tab at the end", line("GET /m3 HTTP/1.1", tail="\t"), {"path": "/m3"}),
    ("empty user", line("GET /u2 HTTP/1.1", user='- ""'), {"path": "/u2"}),
    ("brackets in the user", line("GET /u3 HTTP/1.1", user="- [x]"), {"path": "/u3"}),
    (
        "month in lower case",
        line("GET /mo1", time="05/jan/2026:10:00:00 +0000"),
        {"ts": at("2026-01-05T10:00")},
    ),
    ("month in upper case", line("GET /mo2", time="05/JAN/2026:10:00:00 +0000"), {"path": "/mo2"}),
    ("longest", line("GET /" + "l" * (65535 - len(line("GET / HTTP/1.1"))) + " HTTP/1.1"), {"status": 200}),
]

QUARANTINED: list[tuple[str, bytes]] = [
    ("empty_line", b""),
    ("empty_line", b"  \t\r"),
    ("not_utf8", line("GET /caf\udce9 HTTP/1.1")),
    ("not_utf8", b"\xed\xa0\x80 surrogate"),
    ("not_utf8", b"\xc0\xaf overlong"),
    ("nul_byte", line("GET /\0 HTTP/1.1")),
    ("too_long", line("GET /" + "x" * 1_000_000 + " HTTP/1.1")),
    ("truncated", b'198.51.100.7 - - [05/Jan/2026:10:00:00 +0000] "GET /unclosed HTTP/1.1'),
    ("truncated", b'198.51.100.7 - - [05/Jan/2026:10:00:00 +0000] "GET / HTTP/1.1" 20'),
    ("truncated", b'198.51.100.7 - - [05/Jan/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 '),
    ("truncated", b'198.51.100.7 - - [05/Jan/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" "Mozilla\\'),
    ("truncated", b"198.51.100.7 - - [05/Jan/20"),
    ("malformed", b"hello world"),
    ("malformed", b"198.51.100.7"),
    ("malformed", b'extra 198.51.100.8 - - [05/Jan/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 1'),
    ("malformed", line('GET /"x" 200 y HTTP/1.1', tail="")),
    ("malformed", line("GET /1 HTTP/1.1") + line("GET /2 HTTP/1.1")),
    ("malformed", line("GET /1 HTTP/1.1")[:60] + line("GET /2 HTTP/1.1")),
    ("malformed", line("GET / HTTP/1.1").replace(b" ", b"\t")),
    ("malformed", line('GET /"' + "x" * 8192 + " HTTP/1.1")),
    ("truncated", line("GET / HTTP/1.1", tail=' "-" "Mozilla \\"cut\\"')),
    ("truncated", line("GET / HTTP/1.1", tail=' "http://ref.example/"')),
    ("malformed", b'{"host": "198.51.100.7", "status": 200}'),
    ("bad_timestamp", line(time="31/Feb/2026:10:00:00 +0000")),
    ("bad_timestamp", line(time="29/Feb/2026:10:00:00 +0000")),
    ("bad_timestamp", line(time="05/Jan/2026:24:00:00 +0000")),
    ("bad_timestamp", line(time="05/Jan/2026:10:00:60 +0000")),
    ("bad_timestamp", line(time="05/Foo/2026:10:00:00 +0000")),
    ("bad_timestamp", line(time="05/Jan/2026:10:00:00 +1900")),
    ("bad_timestamp", line(time="05/Jan/2026:10:00:00")),
    ("bad_timestamp", line(time="2026-01-05T10:00:00Z")),
    ("bad_status", line(status="20x")),
    ("bad_status", line(status="-")),
    ("bad_bytes", line(size="9223372036854775808")),
    ("bad_bytes", line(size="-5")),
    ("bad_bytes", line(size="1.5")),
    ("bad_host", line(host="h" * 256)),
]


@pytest.mark.parametrize("ansi", ["true", "false"])
def test_each_line_is_read_as_documented(spark: Any, normalize_files: Any, ansi: str) -> None:
    before = spark.conf.get("spark.sql.ansi.enabled")
    spark.conf.set("spark.sql.ansi.enabled", ansi)
    try:
        lines = [raw for _, raw, _ in VALID] + [raw for _, raw in QUARANTINED]
        run = normalize_files({"a.log": b"\n".join(lines) + b"\n"})
    finally:
        spark.conf.set("spark.sql.ansi.enabled", before)
    events = run.rows("events")
    assert len(events) == len(VALID)
    by_path = {(row.method, row.path): row for row in events}
    single = {(row.path, row.query, row.status, row.ts): row for row in events}
    assert len(by_path) >= len(VALID) - 3
    for name, _, expected in VALID:
        matching = [row for row in single.values() if all(row[k] == v for k, v in expected.items())]
        assert matching, f"{name}: no event with {expected}"
    quarantined = sorted((row.line_number, row.reason) for row in run.rows("quarantine"))
    assert quarantined == [(len(VALID) + n, reason) for n, (reason, _) in enumerate(QUARANTINED, start=1)]
    assert run.accounting.quarantined == Counter(reason for reason, _ in QUARANTINED)
    assert run.accounting.lines_in == len(lines)
    assert run.accounting.outside_day == 3


def test_quarantine_keeps_the_bytes_and_says_what_it_cut(normalize_files: Any) -> None:
    long = b"\xff" + b"y" * 5000
    run = normalize_files({"odd name [1] %20{a}.log": b"caf\xe9\0\r\n" + long}, max_line_bytes=100)
    short_row, long_row = sorted(run.rows("quarantine"), key=lambda row: row.line_number)
    assert (bytes(short_row.line), short_row.line_bytes) == (b"caf\xe9\0\r", 6)
    assert (bytes(long_row.line), long_row.line_bytes, long_row.reason) == (long[:100], 5001, "too_long")
    assert short_row.file.endswith("/raw/odd name [1] %20{a}.log")


def test_a_line_counts_as_often_as_in_the_file_that_has_it_most_often(normalize_files: Any) -> None:
    twice, once, bad = line("GET /twice HTTP/1.1"), line("GET /once HTTP/1.1"), b"bad"
    run = normalize_files(
        {
            "a.log": b"\n".join([twice, twice, once, bad]),
            "b.log.gz": gzip.compress(b"\n".join([twice, bad, bad, once])),
            "c.log": b"",
            "d.log.gz": gzip.compress(b""),
        }
    )
    assert Counter(row.path for row in run.rows("events")) == {"/twice": 2, "/once": 1}
    assert [(r.file.rsplit("/", 1)[-1], r.line_number) for r in run.rows("quarantine")] == [
        ("b.log.gz", 2),
        ("b.log.gz", 3),
    ]
    account = run.accounting
    assert (account.lines_in, account.valid, account.delivered_twice) == (8, 3, 3)
    assert (account.files, account.empty_files) == (4, 2)


def test_a_file_that_comes_again_adds_nothing(spark: Any, normalize_files: Any, tmp_path: Any) -> None:
    generated = generate_day(DAY, lines=600, seed=3)
    first = normalize_files(dict(generated.files))
    ids = {row.event_id for row in first.rows("events")}
    assert len(ids) == first.accounting.valid
    again = normalize_files({f"again/{name}": content for name, content in generated.files.items()})
    assert {row.event_id for row in again.rows("events")} == ids
    assert again.accounting.valid == first.accounting.valid
    assert again.accounting.quarantined == first.accounting.quarantined
    assert again.accounting.delivered_twice == first.accounting.delivered_twice + generated.lines


def test_what_the_generator_says_is_what_the_job_counts(normalize_files: Any) -> None:
    generated = generate_day(DAY, lines=5_000, seed=11)
    run = normalize_files(dict(generated.files), expected_lines=generated.lines)
    account = run.accounting
    assert account.lines_in == generated.lines
    assert account.valid == generated.valid
    assert dict(account.quarantined) == dict(generated.quarantined)
    assert account.delivered_twice == generated.delivered_twice
    assert account.empty_files == generated.empty_files
    assert account.outside_day == generated.outside_day
    manifest = Manifest.from_json((run.output / "events" / "manifest.json").read_text())
    assert manifest.record_count == generated.valid
    assert manifest.accounting == account
    counts = {row.reason: row.lines for row in run.rows("quarantine_counts")}
    assert counts == dict(generated.quarantined)


@pytest.mark.parametrize("last", [b"", pytest.param(b"\n", marks=pytest.mark.slow)])
def test_line_numbers_hold_where_files_are_split(spark: Any, normalize_files: Any, last: bytes) -> None:
    numbers = {n for n in range(1, 800) if n % 7 == 0 or n > 795}
    lines = [b"bad %d" % n if n in numbers else line(f"GET /{n} HTTP/1.1") for n in range(1, 800)]
    keys = ("spark.sql.files.maxPartitionBytes", "spark.sql.files.openCostInBytes")
    before = [spark.conf.get(key) for key in keys]
    spark.conf.set(keys[0], "1000")
    spark.conf.set(keys[1], "100")
    try:
        run = normalize_files(
            {"a.log": b"\n".join(lines) + last, "b.log": b"\n".join(reversed(lines)) + b"\n\n"}
        )
    finally:
        for key, value in zip(keys, before, strict=True):
            spark.conf.set(key, value)
    rows = run.rows("quarantine")
    empty = [row for row in rows if row.reason == "empty_line"]
    assert [(row.line_number, row.file[-5:]) for row in empty] == [(800, "b.log")]
    assert {(int(row.line[4:]), row.line_number) for row in rows if row not in empty} == {
        (n, n) for n in numbers
    }
    assert run.accounting.delivered_twice == 799


def test_order_and_partition_play_no_part(normalize_files: Any, tmp_path: Any) -> None:
    lines = [line(f"GET /{n % 50} HTTP/1.1") for n in range(200)]
    first = {row.event_id for row in normalize_files({"a.log": b"\n".join(lines)}).rows("events")}
    second = normalize_files({"a.log": b"\n".join(reversed(lines))})
    assert {row.event_id for row in second.rows("events")} == first
    assert len(first) == 200


def test_a_day_without_a_valid_line(spark: Any, normalize_files: Any) -> None:
    from airflow_emr_etl.spark.jobs.clickstream_sessionize import sessionize

    run = normalize_files({"a.log": b"", "b.log": b"garbage\n"})
    assert (run.accounting.lines_in, run.accounting.valid) == (1, 0)
    target = run.output.parent / "sessions"
    account = sessionize(spark, str(run.output), DAY, str(target))
    assert account.sessions == 0
    manifests = {
        name: Manifest.from_json((target / name / "manifest.json").read_text())
        for name in ("events", "sessions", "daily_traffic")
    }
    assert [manifests[name].record_count for name in manifests] == [0, 0, 1]
    (totals,) = spark.read.parquet(*manifests["daily_traffic"].urls).collect()
    assert totals.asDict() == {
        "dt": DAY, "hits": 0, "page_views": 0, "bot_hits": 0, "visitors": 0, "sessions": 0, "bytes": 0,
        "client_errors": 0, "server_errors": 0,
    }  # fmt: skip


def test_what_cannot_be_read_fails_and_leaves_no_manifest(
    spark: Any, normalize_files: Any, tmp_path: Any
) -> None:
    from airflow_emr_etl.spark.jobs.clickstream_normalize import normalize

    with pytest.raises(MissingInputError, match="nowhere"):
        normalize(spark, [str(tmp_path / "nowhere")], DAY, str(tmp_path / "out"))
    (tmp_path / "none").mkdir()
    with pytest.raises(MissingInputError, match="no log file"):
        normalize(spark, [str(tmp_path / "none")], DAY, str(tmp_path / "out"))
    with pytest.raises(AccountingError, match=r"2 lines were read .* counted 3"):
        normalize_files({"a.log": b"x\ny"}, expected_lines=3)
    whole = gzip.compress(b"\n".join(line(f"GET /{n} HTTP/1.1") for n in range(5000)))
    with pytest.raises(Exception, match=r"(?i)unexpected end|eof|FAILED_READ_FILE"):
        normalize_files({"cut.log.gz": whole[: len(whole) // 2]})
    assert not list(tmp_path.rglob("manifest.json"))


def test_an_event_is_told_by_its_id_its_time_and_its_visitor(normalize_files: Any) -> None:
    source = parse_source(
        "kind: json_lines\ncolumns: {ts: ts, host: ip, path: path, user_agent: agent, source_event_id: id}\n",
        "test",
    )
    same = {"ts": "2026-01-05T10:00:00Z", "ip": "198.51.100.1", "path": "/", "agent": "A", "id": "e1"}
    others = [{"ip": "198.51.100.2"}, {"agent": "B"}, {"ts": "2026-01-05T10:00:01Z"}, {"id": "e2"}]
    lines = [same, {**same, "path": "/again"}, *({**same, **other} for other in others)]
    day = normalize_files({"a.json": "\n".join(json.dumps(line) for line in lines).encode()}, source=source)
    assert (day.accounting.valid, day.accounting.delivered_twice) == (5, 1)
    assert len({row.event_id for row in day.rows("events")}) == 5
