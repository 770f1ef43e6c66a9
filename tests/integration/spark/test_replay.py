"""Quarantined lines read again after a mend: the day is then what a run that never failed would have stated."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.spark.conftest import DAY, collected

from airflow_emr_etl.exceptions import AccountingError, ConfigurationError, ManifestError
from airflow_emr_etl.models.log_source import log_format_source
from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.spark import columns
from airflow_emr_etl.spark.enrichment import Enrichment
from airflow_emr_etl.spark.jobs.clickstream_erase import erase
from airflow_emr_etl.spark.jobs.clickstream_erasure_list import list_visitors
from airflow_emr_etl.spark.jobs.clickstream_normalize import normalize
from airflow_emr_etl.spark.sources import built_in_source, parse_source
from airflow_emr_etl.spark.visitor_privacy import Privacy

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

STRICT = """
kind: json_lines
columns: {ts: ts, host: ip, path: path, method: method, status: status, user_agent: agent, source_event_id: id}
"""
MENDED = STRICT.replace("status: status", "status: {from: status, values: {OK: '200'}}")


def record(number: int, **changes: Any) -> bytes:
    given = {
        "ts": f"2026-01-05T10:{number % 60:02}:00Z",
        "ip": f"198.51.100.{number % 5}",
        "path": f"/{number}",
        "method": "GET",
        "status": 200,
        "agent": "Mozilla/5.0",
        **changes,
    }
    return json.dumps({name: value for name, value in given.items() if value is not None}).encode()


def rows(spark: SparkSession, output: Path, dataset: str, *left_out: str) -> list[Any]:
    manifest = Manifest.from_json((output / dataset / "manifest.json").read_text())
    frame = spark.read.parquet(*manifest.urls).drop(*left_out)
    found = collected(frame)
    assert len(found) == manifest.record_count
    return sorted(tuple("" if value is None else str(value) for value in row) for row in found)


def test_replay_is_a_run_that_never_failed(spark: SparkSession, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = [record(n, status="OK" if n % 4 == 0 else 200) for n in range(40)]
    twice = record(100, status="OK")
    lines += [
        twice,
        twice,
        record(101, id="e1"),
        record(101, id="e1", status="OK"),  # the same event again, and this time its line is bad
        record(102, id="e2", status="OK"),
        record(102, id="e2", status="OK", extra=1),
        record(103, path="/robots.txt", ip="203.0.113.9"),
        record(104, path="/seen", ip="203.0.113.9", status="OK"),
        record(105, status="never"),
        b"\xff not text",
        b'{"ts": "2026-01-05T1',
    ]
    (raw / "a.json").write_bytes(b"\n".join(lines))
    (raw / "b.json.gz").write_bytes(
        gzip.compress(b"\n".join([twice, lines[0], lines[1], lines[-2], lines[-3]]))
    )
    strict, mended = parse_source(STRICT, "strict"), parse_source(MENDED, "mended")
    failed, replayed, whole = (str(tmp_path / name) for name in ("failed", "replayed", "whole"))

    before = normalize(spark, [str(raw)], DAY, failed, source=strict)
    assert before.quarantined == {"bad_status": 17, "not_utf8": 1, "truncated": 1}
    after = normalize(spark, [], DAY, replayed, expected_lines=56, source=mended, replay=failed)
    expected = normalize(spark, [str(raw)], DAY, whole, source=mended)

    assert after == expected
    assert after.drift == {"new field extra": 1}
    # Which delivery of an event is kept, and how many others of it are noted there, is the one thing left open.
    assert rows(spark, tmp_path / "replayed", "events", "dropped_copies") == rows(
        spark, tmp_path / "whole", "events", "dropped_copies"
    )
    for dataset in ("quarantine", "quarantine_counts"):
        assert rows(spark, tmp_path / "replayed", dataset) == rows(spark, tmp_path / "whole", dataset)

    # Replayed again with nothing new, the day stays as it is.
    again = normalize(spark, [], DAY, str(tmp_path / "again"), source=mended, replay=replayed)
    assert again == after
    assert rows(spark, tmp_path / "again", "events") == rows(spark, tmp_path / "replayed", "events")
    assert rows(spark, tmp_path / "again", "quarantine") == rows(spark, tmp_path / "replayed", "quarantine")


@pytest.mark.slow
def test_erased_visitors_stay_away_only_where_the_list_is_given(spark: SparkSession, tmp_path: Path) -> None:
    """Raw and quarantined lines do not say whose they are before they are read."""
    raw = tmp_path / "raw.json"
    # Of each of five visitors eight lines, two of which can be read after the mend only.
    lines = [record(n, status="OK" if n % 4 == 0 else 200) for n in range(40)]
    raw.write_bytes(b"\n".join(lines))
    strict, mended = parse_source(STRICT, "strict"), parse_source(MENDED, "mended")
    rules = Enrichment(privacy=Privacy("hash", b"0123456789abcdef"))
    first, replayed, whole = (str(tmp_path / name) for name in ("first", "replayed", "whole"))
    normalize(spark, [str(raw)], DAY, first, source=strict, rules=rules)
    place = [column.name for column in columns.NORMALIZED].index("visitor_id")
    visitor = rows(spark, tmp_path / "first", "events")[0][place]
    (tmp_path / "ids.txt").write_text(visitor)
    list_visitors(spark, str(tmp_path / "list"), visitors=str(tmp_path / "ids.txt"))
    erased = str(tmp_path / "list" / "visitors" / "manifest.json")
    erase(spark, erased, str(tmp_path / "report"), data=[first])
    of_others = normalize(spark, [], DAY, replayed, source=mended, rules=rules, replay=first, erased=[erased])

    assert (of_others.valid, of_others.erased, of_others.quarantined) == (32, 8, {})
    found = rows(spark, tmp_path / "replayed", "events")
    assert not any(visitor in row for row in found)
    again = normalize(spark, [str(raw)], DAY, whole, source=mended, rules=rules, erased=[erased])
    assert (again.valid, again.erased) == (32, 8)
    assert rows(spark, tmp_path / "whole", "events") == found
    back = normalize(spark, [], DAY, str(tmp_path / "back"), source=mended, rules=rules, replay=first)
    assert (back.valid, back.erased) == (34, 6)


@pytest.mark.slow
def test_a_day_in_two_formats(spark: SparkSession, normalize_files: Any, tmp_path: Path) -> None:
    """A server that was updated at noon: no source reads both halves, a replay puts them together."""
    old = [f'h{n} - - [05/Jan/2026:10:00:{n:02} +0000] "GET /{n} HTTP/1.1" 200 1'.encode() for n in range(9)]
    new = [f'2026-01-05 13:00:{n:02} +0000 h{n} "GET /{n} HTTP/1.1" 200'.encode() for n in range(7)]
    long = b"x" * 300
    run = normalize_files({"a.log": b"\n".join([*old, *new, long + b"1", long + b"2"])}, max_line_bytes=200)
    assert (run.accounting.valid, run.accounting.quarantined) == (9, {"malformed": 7, "too_long": 2})

    source = log_format_source('%{%Y-%m-%d %H:%M:%S %z}t %h "%r" %>s')
    output = tmp_path / "replayed"
    account = normalize(spark, [], DAY, str(output), source=source, replay=str(run.output))
    assert (account.lines_in, account.valid, account.quarantined) == (18, 16, {"too_long": 2})
    found = {row[0] for row in rows(spark, output, "events")}
    assert found == {hashlib.sha256(line).hexdigest() for line in [*old, *new]}
    kept = rows(spark, output, "quarantine")
    assert kept == [row for row in rows(spark, run.output, "quarantine") if row[1] == "too_long"]
    # What was good the first time is listed where it is.
    first = Manifest.from_json((run.output / "events" / "manifest.json").read_text())
    assert set(first.urls) < set(Manifest.from_json((output / "events" / "manifest.json").read_text()).urls)


def test_what_cannot_be_replayed_says_what_to_do(
    spark: SparkSession, normalize_files: Any, tmp_path: Path
) -> None:
    run = normalize_files({"a.log": b"bad\nworse\n"})
    first, output = str(run.output), str(tmp_path / "o")
    with pytest.raises(ConfigurationError, match="output folder of its own"):
        normalize(spark, [], DAY, first + "/", replay=first)
    with pytest.raises(ConfigurationError, match=r"--input"):
        normalize(spark, [], DAY, output, source=built_in_source("cloudfront"), replay=first)
    with pytest.raises(ConfigurationError, match="--dedupe-window-seconds"):
        normalize(spark, [], DAY, output, rules=Enrichment(repeat_window_seconds=5), replay=first)
    with pytest.raises(ManifestError, match="not of the day 2026-01-06"):
        normalize(spark, [], DAY.replace(day=6), output, replay=first)
    with pytest.raises(AccountingError, match="2 lines, but the ingest counted 3"):
        normalize(spark, [], DAY, output, expected_lines=3, replay=first)
    assert not Path(output).exists()
