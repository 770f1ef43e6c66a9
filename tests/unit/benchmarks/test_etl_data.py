"""The made-up clicks of ``make bench-etl``."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from airflow_emr_etl.models import access_log
from benchmarks import etl_data, etl_vocabulary
from benchmarks.etl_data import DAY, HOURS, Clicks, Events, clf_lines, columns_of, events_of, json_lines

EVENTS = 20_000


@pytest.fixture(scope="module")
def day() -> list[Events]:
    clicks = Clicks(EVENTS)
    return [events_of(clicks, hour) for hour in range(HOURS)]


def joined(parts: list[Events]) -> Events:
    return etl_data._joined(parts)


def test_as_many_events_as_were_asked_for_and_one_in_a_hundred_twice(day: list[Events]) -> None:
    everything = joined(day)
    distinct = len(np.unique(everything.number))
    assert distinct == pytest.approx(EVENTS, rel=0.05)
    assert len(everything) - distinct == pytest.approx(EVENTS * 0.01, rel=0.2)


def test_the_day_goes_on_as_it_grows() -> None:
    events = joined([events_of(Clicks(10 * EVENTS), hour) for hour in range(HOURS)])
    assert len(np.unique(events.number)) == pytest.approx(10 * EVENTS, rel=0.02)


def test_a_repeated_event_is_in_the_next_file_and_the_same_in_all(day: list[Events]) -> None:
    for hour in range(1, HOURS):
        again = day[hour].ms < hour * 3_600_000
        copies, before = day[hour].take(again), day[hour - 1]
        place = {number: index for index, number in enumerate(before.number)}
        originals = before.take([place[number] for number in copies.number])
        assert columns_of(originals) == columns_of(copies)
    assert not (day[0].ms < 0).any()


def test_files_are_about_in_order_but_not_quite(day: list[Events]) -> None:
    steps = np.diff(day[12].take(day[12].ms >= 12 * 3_600_000).ms)
    assert (steps < 0).any()
    assert steps.min() >= -2000


def test_sessions_cross_hours_and_begin_before_the_day(day: list[Events]) -> None:
    started = [(part.number >> 32) - HOURS for part in day]
    assert (started[0] < 0).any()
    assert all((part < hour).any() for hour, part in enumerate(started))


def test_pauses_of_exactly_half_an_hour_and_a_millisecond_more() -> None:
    _, offset, _ = etl_data._visits(np.random.default_rng(1), 20_000)
    gaps = np.diff(offset)
    assert (gaps == 1_800_000).any()
    assert (gaps == 1_800_001).any()


def test_one_visitor_has_a_tenth_of_a_skewed_day() -> None:
    clicks = Clicks(EVENTS, skew=0.1)
    events = joined([events_of(clicks, hour) for hour in range(HOURS)])
    _, hits = np.unique(events.visitor, return_counts=True)
    assert hits.max() / len(events) == pytest.approx(0.1, abs=0.02)
    _, uniform = np.unique(
        joined([events_of(Clicks(EVENTS), hour) for hour in range(HOURS)]).visitor, return_counts=True
    )
    assert uniform.max() / len(events) < 0.05


def test_ids_and_addresses_are_distinct() -> None:
    numbers = np.arange(50_000)
    assert len(set(etl_data._hex(numbers, ("event_a", "event_b")).to_pylist())) == 50_000
    assert len(set(etl_data._hosts(numbers).to_pylist())) == 50_000
    assert re.fullmatch("[0-9a-f]{32}", etl_data._hex(numbers[:1], ("event_a", "event_b"))[0].as_py())


def test_json_lines_and_log_lines_say_what_the_columns_say(day: list[Events]) -> None:
    events = day[9].take(slice(0, 300))
    rows = pa.table(columns_of(events)).to_pylist()
    pattern = access_log.python_pattern(access_log.LINE)
    for expected, text, line in zip(rows, json_lines(events), clf_lines(events), strict=True):
        found: dict[str, Any] = json.loads(text.as_py())
        target = expected["path"] + (f"?{expected['query']}" if expected["query"] else "")
        assert text.as_py().endswith("}\n")
        assert found["url"] == etl_vocabulary.SITE + target
        assert found["ts"] == expected["ts"].isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for name in ("event_id", "visitor_id", "referrer", "user_agent", "status", "bytes"):
            assert found[name] == expected[name]
        match = pattern.match(line.as_py().removesuffix("\n"))
        assert match, line
        host, time, request, status, size, referrer, agent = match.groups()
        assert access_log.read_time(time) == expected["ts"].replace(microsecond=0)
        assert request == f"GET {target} HTTP/1.1"
        assert (int(status), int(size)) == (expected["status"], expected["bytes"])
        assert (referrer, agent) == (expected["referrer"] or "-", expected["user_agent"])
        assert host == found["ip"]


def test_a_page_view_is_what_the_docs_say(day: list[Events]) -> None:
    columns = columns_of(day[15])
    robots = set(etl_vocabulary.robots())
    for path, agent, status, is_page_view in zip(
        *(columns[name].to_pylist() for name in ("path", "user_agent", "status", "is_page_view")), strict=True
    ):
        asset = path.rpartition(".")[2] in access_log.ASSET_EXTENSIONS
        good = 200 <= status < 300 or status == 304
        assert is_page_view == (good and not asset and agent not in robots)


def test_the_vocabulary_needs_no_escaping_and_has_no_doubles() -> None:
    lists: list[list[str | None]] = [
        [*getattr(etl_vocabulary, name)()] for name in ("pages", "assets", "queries", "browsers", "robots")
    ]
    for words in lists:
        assert len(set(words)) == len(words)
    for word in filter(None, sum(lists, etl_vocabulary.external_referrers())):
        assert word.isascii()
        assert word.isprintable()
        assert not {'"', "\\"} & set(word)
    assert 4000 < len(lists[3]) + len(lists[4]) < 8000


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(etl_data, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", etl_data.KINDS)
def test_files_have_what_was_made(kind: str, tmp_path: Path) -> None:
    clicks = Clicks(2000, kind=kind)
    rows, again = etl_data._write_hour(clicks, 12, tmp_path)
    expected = events_of(clicks, 12)
    (path,) = tmp_path.iterdir()
    assert (rows, again) == (len(expected), int((expected.ms < 12 * 3_600_000).sum()))
    if kind == "parquet":
        found = duckdb.execute(
            "SELECT count(*), min(ts)::TIMESTAMP::DATE, any_value(typeof(ts)) FROM read_parquet(?)",
            [str(path)],
        ).fetchone()
        assert found == (rows, DAY, "TIMESTAMP WITH TIME ZONE")
    else:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)
        assert lines == {"json": json_lines, "clf": clf_lines}[kind](expected).to_pylist()


def test_the_same_parameters_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        etl_data._write_hour(Clicks(2000, kind="clf"), 5, tmp_path / name)
    (a,), (b,) = ([*(tmp_path / name).iterdir()] for name in "ab")
    assert a.read_bytes() == b.read_bytes()
    (tmp_path / "c").mkdir()
    etl_data._write_hour(Clicks(2000, kind="clf", seed=8), 5, tmp_path / "c")
    assert (tmp_path / "c" / a.name).read_bytes() != a.read_bytes()


def test_a_day_is_made_once(folder: Path) -> None:
    clicks = Clicks(1000)
    made = etl_data.make(clicks, processes=1)
    files = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    assert len(files) == HOURS + 1
    assert etl_data.make(clicks) == made
    assert {path: path.stat().st_mtime_ns for path in made.iterdir()} == files
    assert list(folder.iterdir()) == [made]
    assert clicks.summary()["rows"] == sum(len(events_of(clicks, hour)) for hour in range(HOURS))
    assert Clicks(1000, skew=0.1).folder != made
