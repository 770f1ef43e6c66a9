"""Lines that Arrow takes are read, and made into events, as Spark's own expressions do it: row for row."""

from __future__ import annotations

import gzip
import json
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from airflow_emr_etl.clickstream.generator import generate_day
from airflow_emr_etl.models.log_source import LogSource
from airflow_emr_etl.spark import (
    campaigns,
    enrichment,
    event_pass,
    plain_access_log,
    referrers,
    storage,
    urls,
)
from airflow_emr_etl.spark.enrichment import Enrichment
from airflow_emr_etl.spark.line_parser import FIELDS, MAX_LINE_BYTES
from airflow_emr_etl.spark.log_chunks import chunks_of
from airflow_emr_etl.spark.log_files import LogFiles
from airflow_emr_etl.spark.plain_json import JsonReader
from airflow_emr_etl.spark.plain_lines import PlainLines
from airflow_emr_etl.spark.robots import BEHAVIOURS, BehaviourRules
from airflow_emr_etl.spark.source_reader import drift_counts, load_source, read_source
from airflow_emr_etl.spark.sources import built_in_source
from tests.integration.spark.conftest import DAY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

LINES = 3_000
ODD = [
    b'"',
    b"\\",
    b"\\\\",
    b'\\"',
    b" ",
    b"-",
    b"?",
    b"%41",
    b"\xff",
    "é".encode(),
    "\u2028".encode(),
    b"\r",
    b"\t",
    b"\0",
]
ODD += [
    b"",
    b"[",
    b"]",
    b"0",
    b"+",
    b"#",
    b":",
    b"::",
    b"{",
    b"}",
    b",",
    b"null",
    b"true",
    b"1.5",
    b"-0",
    b"/./",
    b"a" * 300,
]


def mangled(line: bytes, random_: random.Random) -> bytes:
    """A line with some bytes of it replaced, doubled or gone."""
    for _ in range(random_.choice([0, 1, 1, 2, 4])):
        at = random_.randrange(len(line) + 1)
        line = line[:at] + random_.choice(ODD) + line[at + random_.choice([0, 0, 1, 1, 3, 40]) :]
    return line.replace(b"\n", b"")


def access_line(random_: random.Random) -> bytes:
    def pick(values: list[str]) -> str:
        return values[0] if random_.random() < 0.8 else random_.choice(values)

    host = pick(["198.51.100.7", "2001:db8::1", "a.example", "www:80 198.51.100.7", "www.example.com:443 h"])
    user = pick(["-", "-", "-", "jane", "jane doe", "[x"])
    day = pick(
        [
            "05/Jan/2026",
            "05/Jan/2026",
            "05/Jan/2026",
            "29/Feb/2028",
            "29/Feb/2026",
            "31/Apr/2026",
            "05/JAN/2026",
        ]
    )
    time = pick(["00:00:00", "23:59:59", "12:30:01", "24:00:00", "07:00:60"])
    zone = pick(["+0000", "+0000", "-0730", "+1759", "+1800", "+0060", "Z"])
    method = pick(["GET", "GET", "POST", "HEAD", "get", "M-SEARCH", "G" * 40])
    target = pick(
        ["/", "/a/b.html", "/a?b=c", "/a?", "/a?b?c", "/x#y?z", "*", "http://h/p?q", "/%7e", "/a b"]
    )
    protocol = pick([" HTTP/1.1", " HTTP/2", " HTTP/1.10", "", "  HTTP/1.1"])
    status = pick(["200", "304", "404", "20", "2000", "-"])
    size = pick(["0", "5", "-", "1" * 18, "1" * 19, "-0"])
    referrer = pick(['"-"', '""', '"https://www.example.com/"', r'"a\"b"', '"x" "y"', '"a b"'])
    agent = pick(['"-"', '"Mozilla/5.0 (X11)"', '"curl/8"', '""', r'"\\"', '"é"'])
    rest = pick(["", "", "", " 0.5", ' "10.0.0.1"', "  x", " ", "\r"])
    line = f'{host} - {user} [{day}:{time} {zone}] "{method} {target}{protocol}" {status} {size}'
    if random_.random() < 0.8:
        line += f" {referrer} {agent}{rest}"
    return line.encode()


def json_line(random_: random.Random) -> bytes:
    def pick(values: list[Any]) -> Any:
        return values[0] if random_.random() < 0.5 else random_.choice(values)

    texts = ["", "-", "a", "GET", "é", "x y", "{", "[1]", "a" * 300, "u:v"]
    given: dict[str, Any] = {
        "ts": pick(
            [
                "2026-01-05T10:00:00Z",
                "2026-01-05 10:00:00.123456+01:00",
                "2026-01-05T10:00:00.1Z",
                "2026-02-29T00:00:00Z",
                "2028-02-29T00:00:00Z",
                "2026-01-05T10:00:00",
                "2026-01-05T10:00:00-0730",
                "2026-01-05T10:00:00.1234567Z",
                "2026-01-05T10:00:00+18:30",
                "nonsense",
                1767607200000,
                "1767607200000",
                None,
                1767607200,
                "2026-01-05T10:00:00z",
            ]
        )
    }
    choices: dict[str, list[Any]] = {
        "event_id": ["a1", "a2", "a3", *texts, 7, None],
        "user_id": [None, "u1", 12, 12345678901234567890123, True],
        "visitor_id": ["v1", "v2", None, "é"],
        "method": ["GET", "POST", None, "m" * 40],
        "url": [
            "https://www.example.com/a?b=c#d",
            "/a?",
            "//h/p",
            "/a#b?c",
            "http://H:80",
            "é://x/é\u2028#y",
            "",
            "https://a@B.com/?",
        ],
        "path": [None, "/own", ""],
        "query": ["?x=1", "x=1", "??", None],
        "status": [200, "200", "304", 20, "x", 200.0, -0.0, None],
        "bytes": [0, 5, "17", "-", 10**18, 10**19, -3, 1.5, None],
        "ip": ["198.51.100.7", None],
        "host": ["h", None],
        "user_agent": [*texts, "curl/8"],
        "event": ["pv", "click", None],
        "site": ["shop", None],
        "new": [1, None, {"a": 1}],
        "known": [{"a": [1, 2]}, 5, None],
    }
    for name, values in choices.items():
        if random_.random() < (0.1 if name == "new" else 0.7):
            given[name] = pick(values)
    if random_.random() < 0.3:
        given = dict(sorted(given.items(), key=lambda _: random_.random()))
    separators = pick([(",", ":"), (",", ":"), (", ", ": ")])
    line = json.dumps(given, ensure_ascii=random_.random() < 0.1, separators=separators)
    if random_.random() < 0.03:
        line = line[:-1] + pick(
            [',"host" :"twice"}', ',"host":"twice"}', ',"bytes":\r-0}', ',"n":' + "1" * 1001 + "}"]
        )
    if random_.random() < 0.03:
        line = line[:-1] + ',"ts":"2026-01-05T11:00:00Z"}'
    if random_.random() < 0.03:
        line = pick([" " + line, line + " ", line + line, "[" + line + "]", "\ufeff" + line, line + "\r"])
    return line.encode()


def spark_reads(
    spark: SparkSession, path: Path, source: LogSource, collect: Any
) -> tuple[list[Any], dict[str, int]]:
    parsed = read_source(LogFiles(spark, [str(path)]).lines(), source, MAX_LINE_BYTES)
    rows = collect(parsed.lines.drop("value"))
    return sorted(rows, key=lambda row: (row.split, row.position)), drift_counts(parsed.lines)


def plain_rows(plain: Any, columns: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    texts = {name: column.to_pylist() for name, column in columns.items()}
    return [
        (row, {name: texts[name][at] for name in texts})
        for at, row in enumerate(np.flatnonzero(plain).tolist())
    ]


def in_micros(row: Any, names: Any) -> dict[str, Any]:
    from datetime import datetime, timedelta

    found = {name: row[name] for name in names}
    found["ts"] = (row.ts - datetime(1970, 1, 1)) // timedelta(microseconds=1)  # noqa: DTZ001 - both are UTC
    return found


def test_a_plain_access_line_is_what_spark_reads(spark: SparkSession, tmp_path: Path, collect: Any) -> None:
    random_ = random.Random(1)
    lines = [mangled(access_line(random_), random_) for _ in range(LINES)]
    path = tmp_path / "a.log"
    path.write_bytes(b"\n".join(lines) + b"\n")
    expected, _ = spark_reads(spark, path, load_source(spark), collect)
    [chunk] = chunks_of(path.name, path.open("rb"))
    found = plain_rows(*plain_access_log.read(chunk.texts(), MAX_LINE_BYTES))
    assert len(expected) == len(chunk) == LINES
    for row, columns in found:
        assert expected[row].reason is None, lines[row]
        assert columns == in_micros(expected[row], FIELDS), lines[row]
    good = sum(row.reason is None for row in expected)
    # What is left to Spark of good lines is what is odd on purpose.
    assert good > LINES / 20
    assert len(found) > good / 4


def documents() -> dict[str, Any]:
    plain = {
        "ts": "ts",
        "host": ["ip", "host"],
        "method": "method",
        "status": "status",
        "bytes": "bytes",
        "user_agent": "user_agent",
        "source_event_id": "event_id",
        "query": "query",
        "event_name": {"from": "event", "values": {"click": "c", "pv": "-"}},
    }
    return {
        "epoch": {
            "kind": "json_lines",
            "columns": plain,
            "time_format": "epoch_ms",
            "known_fields": ["known", "site"],
        },
        "strict": {
            "kind": "json_lines",
            "columns": {**plain, "url": "url", "path": "path"},
            "drift": {"new_field": "quarantine", "retyped_field": "null"},
            "required": ["host"],
            "defaults": {"status": "200", "site": "main", "method": "GET"},
        },
        "whole": {
            "kind": "json_lines",
            "columns": {"ts": "ts", "url": "url", "visitor_cookie": "visitor_id", "site": "site"},
            "drift": {"new_field": "ignore", "missing_field": "quarantine"},
            "zone": "Europe/Berlin",
        },
    }


def seldom(name: str, *more: Any) -> Any:
    """A document as a parameter, of which only ``strict`` is read every day."""
    return pytest.param(name, *more, marks=() if name == "strict" else pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "alike"),
    [("json_events", True), ("json_events", False), *(seldom(name, False) for name in documents())],
)
def test_a_plain_json_line_is_what_spark_reads(
    spark: SparkSession, tmp_path: Path, collect: Any, name: str, alike: bool
) -> None:
    """``alike``: each line is read with others of its kind, so that Arrow can read them together."""
    document = documents().get(name)
    source = built_in_source(name) if document is None else LogSource.from_document(document, name)
    random_ = random.Random(name)
    lines = [
        mangled(json_line(random_), random_) if random_.random() < 0.1 else json_line(random_)
        for _ in range(LINES)
    ]
    path = tmp_path / "a.log"
    path.write_bytes(b"\n".join(lines) + b"\n")
    expected, drift = spark_reads(spark, path, source, collect)
    assert JsonReader.fits(source)
    reader = JsonReader(source, MAX_LINE_BYTES)
    found = []
    if alike:
        for row, line in enumerate(lines):
            plain, columns = reader.read(line + b"\n", np.array([len(line) + 1]))
            found += [(row, values) for _, values in plain_rows(plain, columns)]
    else:
        [chunk] = chunks_of(path.name, path.open("rb"))
        found = plain_rows(*reader.read(chunk.content, chunk.ends))
    for row, columns in found:
        assert expected[row].reason is None, lines[row]
        assert columns == in_micros(expected[row], source.columns), lines[row]
    rest = sorted(set(range(LINES)) - {row for row, _ in found})
    told = dict(reader.drift)
    for row in rest:
        for message in expected[row].drift or ():
            told[message] = told.get(message, 0) + 1
    # Only the most frequent messages are told.
    assert {message: told.get(message) for message in drift} == drift
    assert len(found) > sum(row.reason is None for row in expected) / 8


def odd_text(random_: random.Random, pieces: list[str]) -> str:
    return "".join(random_.choice(pieces) for _ in range(random_.randrange(9)))


def test_rules_for_texts_are_the_same_in_python_and_in_spark(spark: SparkSession) -> None:
    random_ = random.Random(2)
    path = [
        "/",
        "//",
        ".",
        "..",
        "/.",
        "a",
        "B",
        "%7e",
        "%2F",
        "%2f",
        "%",
        "%4",
        ";",
        ";jsessionid=1",
        ";JSESSIONID=",
    ]
    path += [
        "index.html",
        "/Index.PHP5",
        "default.aspx",
        "index.x",
        "é",
        "\u212a",
        "\n",
        ".css",
        ".JS",
        ".",
        "robots.txt",
    ]
    query = [
        "utm_source=",
        "UTM_Medium=",
        "utm_id=",
        "&",
        ";",
        "&amp;",
        "a",
        "%41",
        "%zz",
        "%",
        "+",
        "%00",
        "%c3%a9",
        "%ed%a0%80",
    ]
    query += [
        "%f0%9f%98%80",
        "%f0%9f",
        "%e2%82",
        "%c0%80",
        "%ff",
        "%f5",
        "%f4%90%80%80",
        "%e0%80",
        "é",
        "gclid=",
        "li_fat_id=",
        "=",
        "?",
    ]
    query += ["msclkid=", "m\u017fclkid=", "%80%80", "%F0%80%80%41"]
    referrer = [
        "https://",
        "HTTP://",
        "a.Example",
        "@",
        "u:p@",
        ":80",
        "/",
        "?",
        "#",
        "[::1]",
        "[",
        "é",
        "\u0130",
        " ",
        "x:",
        "\n",
    ]
    rows = [
        ("/" * (n % 2) + odd_text(random_, path), odd_text(random_, query), odd_text(random_, referrer))
        for n in range(20_000)
    ]
    frame = spark.createDataFrame(rows, "path string, query string, referrer string")
    from pyspark.sql import functions as F

    expected = frame.select(
        "path",
        "query",
        "referrer",
        urls.page_of(F.col("path")).alias("page"),
        enrichment.is_asset().alias("asset"),
        referrers.referrer_host(F.col("referrer")).alias("host"),
        *(column.alias(name) for name, column in campaigns.campaign_columns(F.col("query")).items()),
    ).collect()
    for row in expected:
        assert urls.page(row.path) == row.page, row.path
        assert event_pass.is_asset(row.path) == row.asset, row.path
        assert referrers.host_of(row.referrer) == row.host, row.referrer
        assert campaigns.campaign_of(row.query) == tuple(row[name] for name in campaigns.COLUMNS), row.query


def noted(function: Callable[..., None], calls: list[Any]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        calls.append(arguments)
        function(*arguments)

    return call


def both_ways(
    monkeypatch: pytest.MonkeyPatch, normalize_files: Any, files: dict[str, bytes], **options: Any
) -> Any:
    """What normalize makes of ``files`` with lines read in Arrow, and without: accounting and rows of each dataset.

    In Arrow both as on a disk of the machine, and as if it were elsewhere: these two are the same to the row.
    """
    found = []
    for arrow, elsewhere in ((True, False), (True, True), (False, False)):
        with monkeypatch.context() as patch:
            made: list[Any] = []
            patch.setattr(PlainLines, "write_events", noted(PlainLines.write_events, made))
            if elsewhere:
                patch.setattr(storage, "local_path", lambda *_: None)
                patch.setattr(storage, "local_paths", lambda *_: None)
            if not arrow:
                patch.setattr(PlainLines, "fits", staticmethod(lambda *_: False))
            run = normalize_files(files, **options)
        assert len(made) == arrow
        rows = {
            name: sorted(map(repr, run.rows(name))) for name in ("events", "quarantine", "quarantine_counts")
        }
        found.append((run.accounting.to_dict(), rows))
    assert found[0] == found[1]
    return found[1:]


def test_events_of_access_logs_are_the_same_both_ways(
    monkeypatch: pytest.MonkeyPatch, normalize_files: Any
) -> None:
    random_ = random.Random(3)
    files = dict(generate_day(DAY, lines=4_000, seed=5).files)
    odd = [mangled(access_line(random_), random_) for _ in range(1_500)]
    files["odd.log"] = b"\n".join([*odd, *odd[:300], *odd[:100]]) + b"\n"
    files["again/odd.log.gz"] = gzip.compress(b"\n".join(odd[200:900]))
    robot = [access_line(random_).replace(b"GET", b"HEAD") for _ in range(50)] * 3
    files["robot.log"] = b"\n".join(robot)
    files["empty.log"] = b""
    files["empty.log.bz2"] = b""
    files["marked.log"] = b"\xef\xbb\xbf" + odd[0] + b"\n\xef\xbb\xbf" + odd[1]
    files["mark.log"] = b"\xef\xbb\xbf"
    rules = Enrichment(
        sites=("www.example.com",), robot_rules=BehaviourRules(behaviours=BEHAVIOURS, rate_pages=5)
    )
    arrow, spark_ = both_ways(monkeypatch, normalize_files, files, rules=rules)
    assert arrow == spark_
    accounting = arrow[0]
    assert accounting["delivered_twice"] > 300
    assert len(accounting["quarantined"]) > 3


@pytest.mark.parametrize(
    "name", ["json_events", *(pytest.param(name, marks=pytest.mark.slow) for name in documents())]
)
def test_events_of_json_lines_are_the_same_both_ways(
    monkeypatch: pytest.MonkeyPatch, normalize_files: Any, name: str
) -> None:
    document = documents().get(name)
    source = built_in_source(name) if document is None else LogSource.from_document(document, name)
    random_ = random.Random(4)
    lines = [json_line(random_) for _ in range(2_000)]
    nested = b'{"ts":"2026-01-05T10:00:00Z","host":"a","o":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    files = {
        "a.json": b"\n".join([*lines, *lines[:300]]),
        "b.json": b"\n".join(lines[700:1_400]) + b"\n",
        "c.json": b'{"ts":"2026-01-05T10:00:00Z","event":"pv","url":"/x"}\n' * 3,
        "d.json": b'{"ts":"2026-01-05T10:00:00Z","ip":"a","url":"/x\\/y"}\r\n' + nested,
    }
    arrow, spark_ = both_ways(monkeypatch, normalize_files, files, source=source)
    # Of several lines with one id, time and visitor any may stand for the event.
    ids = [[row.split("ts=")[0] for row in way[1]["events"]] for way in (arrow, spark_)]
    assert ids[0] == ids[1]
    of_one_line = [[row for row in way[1]["events"] if "dropped_copies=0" in row] for way in (arrow, spark_)]
    assert of_one_line[0] == of_one_line[1]
    assert of_one_line[0] or name == "strict"
    for way in (arrow, spark_):
        way[0].update(page_views=0, bots=0)
    assert arrow[0] == spark_[0]
    assert arrow[1]["quarantine"] == spark_[1]["quarantine"]


def test_what_arrow_cannot_do_is_done_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"x\n")
    given = LogFiles(spark, [str(tmp_path)])
    combined = load_source(spark)
    assert PlainLines.fits(given, combined, Enrichment(), ())
    assert not PlainLines.fits(given, combined, Enrichment(), ("file:/list",))
    assert not PlainLines.fits(given, combined, Enrichment(repeat_window_seconds=1), ())
    assert not PlainLines.fits(given, built_in_source("alb"), Enrichment(), ())
    (tmp_path / "b.snappy").write_bytes(b"x\n")
    assert not PlainLines.fits(LogFiles(spark, [str(tmp_path)]), combined, Enrichment(), ())


def test_more_texts_than_a_worker_should_hold_are_joined_by_spark(
    monkeypatch: pytest.MonkeyPatch, normalize_files: Any
) -> None:
    from airflow_emr_etl.spark import lookup

    monkeypatch.setattr(lookup, "MOST_BROADCAST_ROWS", 10)
    day = generate_day(DAY, lines=2_000, seed=6)
    run = normalize_files(dict(day.files))
    assert run.accounting.lines_in == 2_000
    assert len({row.user_agent for row in run.rows("events")}) > 10
