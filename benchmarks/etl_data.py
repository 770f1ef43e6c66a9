"""A day of made-up clicks, seeded: as Parquet, as gzipped JSON lines and as gzipped Combined Log Format, by hour.

Visits start all day long and up to three hours before it; visits of one visitor may overlap, and some pauses are
longer than half an hour, so sessions are cut, go on from hour to hour and begin before the day. What an event looks
like is a pure function of its number, and the visits of an hour are one of the hour: so each file is made for
itself, in a few hundred MiB, by as many processes as there are cores. A file has the events of its hour in about the
order of their times, and some of the hour before once more (deliveries that were repeated).
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import etl_vocabulary as vocabulary

FOLDER = Path("build/bench/data")
DAY = date(2026, 1, 5)
KINDS = ("parquet", "json", "clf")
VERSION = 1
"""Of what is made from the same parameters; data of another version is made anew."""

HOURS = 24
_LONGEST_HOURS = 3
_HOUR_MS = 3_600_000
_MEAN_HITS, _MOST_HITS = 8, 60
_ROWS_AT_A_TIME = 250_000
_LINES_AT_A_TIME = 100_000
_DAY_MICROS = int(datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC).timestamp()) * 1_000_000

#: One for each attribute that is drawn from an event's or a visitor's number.
_SALTS = {
    name: index
    for index, name in enumerate(
        "event_a event_b visitor_a visitor_b agent_kind agent asset path status bytes query referrer late again user".split(),  # noqa: E501, SIM905
        start=1,
    )
}


@dataclass(frozen=True)
class Clicks:
    """What is made. ``events`` is met within 1 %; how many there are is in :meth:`summary`."""

    events: int = 20_000_000
    kind: str = "parquet"
    skew: float = 0.0
    """The share of all hits that one visitor has."""
    repeated: float = 0.01
    """The share of the events that are delivered twice."""
    seed: int = 7

    @property
    def visitors(self) -> int:
        return max(self.events // 10, 10)

    @property
    def folder(self) -> Path:
        text = json.dumps([VERSION, asdict(self)], sort_keys=True)
        return FOLDER / f"{self.kind}-{self.events}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def summary(self) -> dict[str, Any]:
        """Rows, repeated rows, files and bytes of what :func:`make` made."""
        found: dict[str, Any] = json.loads((self.folder / "_made.json").read_text())
        return found


def make(clicks: Clicks, processes: int | None = None) -> Path:
    """The folder with the files of ``clicks``; makes them unless they are there."""
    folder = clicks.folder
    if (folder / "_made.json").is_file():
        return folder
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    part.mkdir(parents=True)
    try:
        processes = processes or min(4, os.cpu_count() or 1)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            made = list(pool.map(_write_hour, [clicks] * HOURS, range(HOURS), [part] * HOURS))
        sizes = [path.stat().st_size for path in part.iterdir()]
        summary = {
            **asdict(clicks),
            "rows": sum(rows for rows, _ in made),
            "repeated_rows": sum(again for _, again in made),
            "files": len(sizes),
            "bytes": sum(sizes),
        }
        (part / "_made.json").write_text(json.dumps(summary, indent=2) + "\n")
        with contextlib.suppress(OSError):  # another one was quicker
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class Events:
    """Columns of equal length. ``ms`` counts from the day's midnight; ``first``: the first of its visit."""

    number: np.ndarray[Any, Any]
    visitor: np.ndarray[Any, Any]
    ms: np.ndarray[Any, Any]
    first: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.number)

    def take(self, chosen: Any) -> Events:
        return Events(self.number[chosen], self.visitor[chosen], self.ms[chosen], self.first[chosen])


def events_of(clicks: Clicks, hour: int) -> Events:
    """What the file of ``hour`` has, in its order: the repeated ones of the hour before come first."""
    fresh = _within(clicks, hour)
    late = fresh.ms + (_mixed(fresh.number, "late") % np.uint64(2000)).astype(np.int64)
    fresh = fresh.take(np.argsort(late, kind="stable"))
    if hour == 0 or not clicks.repeated:
        return fresh
    before = _within(clicks, hour - 1)
    # The last hour's are not repeated, so the others are a little more often.
    before = before.take(_uniform(before.number, "again") < clicks.repeated * HOURS / (HOURS - 1))
    return _joined([before, fresh])


def _joined(parts: list[Events]) -> Events:
    return Events(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in Events.__annotations__)
    )


def _within(clicks: Clicks, hour: int) -> Events:
    parts = []
    for start in range(hour - _LONGEST_HOURS, hour + 1):
        events = _starting(clicks, start)
        parts.append(events.take((events.ms >= hour * _HOUR_MS) & (events.ms < (hour + 1) * _HOUR_MS)))
    return _joined(parts)


def _starting(clicks: Clicks, hour: int) -> Events:
    """The events of all visits that start in ``hour``, which may be before the day."""
    random = np.random.default_rng([clicks.seed, hour + HOURS])
    visits = round(clicks.events / _mean_hits() * _share(hour))
    visitor = (clicks.visitors * random.random(visits) ** 2).astype(np.int64)
    visitor[random.random(visits) < clicks.skew] = clicks.visitors
    begins = hour * _HOUR_MS + random.integers(0, _HOUR_MS, visits)
    hits, offset, kept = _visits(random, visits)
    number = ((hour + HOURS) << 32) + np.arange(len(offset))
    first = np.zeros(len(offset), bool)
    first[np.cumsum(hits) - hits] = True
    everything = Events(number, np.repeat(visitor, hits), np.repeat(begins, hits) + offset, first)
    return everything.take(kept)


def _visits(random: np.random.Generator, visits: int) -> tuple[Any, Any, Any]:
    """Hits of each visit; for each hit, milliseconds since the visit's start and whether it is near enough to it."""
    hits = np.minimum(random.geometric(1 / _MEAN_HITS, visits), _MOST_HITS)
    gaps = np.clip(np.exp(random.normal(9.8, 1.3, hits.sum())), 1000, 2_400_000).astype(np.int64)
    kind = random.random(len(gaps))
    pause = kind < 0.03
    gaps[pause] = random.integers(300_000, 2_400_000, pause.sum())
    # Some end a session by a millisecond, and some do not.
    gaps[kind > 0.998] = 1_800_000
    gaps[kind > 0.999] = 1_800_001
    firsts = np.cumsum(hits) - hits
    gaps[firsts] = 0
    offset = np.cumsum(gaps)
    offset -= np.repeat(offset[firsts], hits)
    return hits, offset, offset < _LONGEST_HOURS * _HOUR_MS


@lru_cache
def _mean_hits() -> float:
    sample = 200_000
    _, _, kept = _visits(np.random.default_rng(0), sample)
    return float(kept.sum()) / sample


def _share(hour: int) -> float:
    """Of the visits of a day, how many start in ``hour``: four times as many in the evening as before dawn."""
    return (1 + 0.6 * float(np.sin((hour % HOURS - 9) / HOURS * 2 * np.pi))) / HOURS


def _mixed(numbers: Any, salt: str) -> Any:
    """64 bits that look random, and are a function of number and salt (the finalizer of SplitMix64)."""
    x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(
        _SALTS[salt] * 0x632BE59BD9B4E019 % 2**64
    )
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(numbers: Any, salt: str) -> Any:
    return (_mixed(numbers, salt) >> np.uint64(11)).astype(np.float64) / 2**53


def _hex(numbers: Any, salts: tuple[str, str]) -> pa.Array:
    """32 hexadecimal digits for each number."""
    both = np.stack([_mixed(numbers, salt) for salt in salts], axis=1)
    pairs = np.array([int.from_bytes(b"%02x" % byte, "little") for byte in range(256)], "<u2")
    text = pairs[both.view(np.uint8)].tobytes()
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets.tobytes()), pa.py_buffer(text))


class _Tables:
    """The vocabulary as Arrow arrays."""

    def __init__(self) -> None:
        pages, assets = vocabulary.pages(), vocabulary.assets()
        self.pages, self.assets = len(pages), len(assets)
        self.paths = pa.array(pages + assets)
        self.browsers, robots = vocabulary.browsers(), vocabulary.robots()
        self.agents = pa.array(self.browsers + robots)
        self.robots = len(robots)
        queries = vocabulary.queries()
        self.queries = pa.array([*queries, None])
        external = vocabulary.external_referrers()
        self.external = len(external)
        self.referrers = pa.array(external + [vocabulary.SITE + path for path in pages])
        self.statuses = np.array([200] * 92 + [304] * 3 + [404] * 3 + [301, 500], np.int16)
        seconds = [f"{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}" for s in range(86_400)]
        self.iso = pa.array([f"{DAY.isoformat()}T{text}." for text in seconds])
        self.milliseconds = pa.array([f"{number:03}" for number in range(1000)])
        self.apache = pa.array([f"{DAY:%d/%b/%Y}:{text} +0000" for text in seconds])
        self.octets = pa.array([str(number) for number in range(256)])


@lru_cache
def _tables() -> _Tables:
    return _Tables()


def _ranked(uniform: Any, size: int, steepness: float) -> Any:
    """Places in a list of ``size``, the first ones more often."""
    return (size * uniform**steepness).astype(np.int64)


def _pages(number: Any) -> Any:
    return _ranked(_uniform(number, "path"), _tables().pages, 2.5)


def _paths(number: Any) -> Any:
    tables = _tables()
    asset = tables.pages + _ranked(_uniform(number, "path"), tables.assets, 1.5)
    return np.where(_uniform(number, "asset") < 0.35, asset, _pages(number))


def columns_of(events: Events) -> dict[str, pa.Array]:
    """The attributes of ``events``; ``is_page_view`` by the rule of docs/clickstream.md, by known robots."""
    tables, number = _tables(), events.number
    is_robot = _uniform(events.visitor, "agent_kind") < 0.04
    agent = np.where(
        is_robot,
        len(tables.browsers) + _ranked(_uniform(events.visitor, "agent"), tables.robots, 2.0),
        _ranked(_uniform(events.visitor, "agent"), len(tables.browsers), 2.0),
    )
    path = _paths(number)
    status = tables.statuses[(_mixed(number, "status") % np.uint64(100)).astype(np.int64)]
    is_page = path < tables.pages
    tagged = is_page & (_uniform(number, "query") < np.where(events.first, 0.25, 0.03))
    nothing = len(tables.queries) - 1
    query = np.where(tagged, (_mixed(number, "query") % np.uint64(nothing)).astype(np.int64), nothing)
    outside = _ranked(_uniform(number, "referrer"), tables.external, 2.0)
    referrer = np.where(events.first, outside, tables.external + _pages(number - 1))
    seen = np.isin(status, (200, 304))
    return {
        "event_id": _hex(number, ("event_a", "event_b")),
        "ts": pa.array(_DAY_MICROS + events.ms * 1000, pa.int64()).cast(pa.timestamp("us", "UTC")),
        "visitor_id": _hex(events.visitor, ("visitor_a", "visitor_b")),
        "path": tables.paths.take(pa.array(path)),
        "query": tables.queries.take(pa.array(query)),
        "referrer": tables.referrers.take(pa.array(referrer)),
        "user_agent": tables.agents.take(pa.array(agent)),
        "status": pa.array(status),
        "bytes": pa.array((300 + np.exp(_uniform(number, "bytes") * 6) * 400).astype(np.int64)),
        "is_page_view": pa.array(is_page & seen & ~is_robot),
    }


def _hosts(visitor: Any) -> pa.Array:
    """An address of its own for each visitor below 2**24."""
    tables = _tables()
    spread = (visitor * 0x9E3779B1) % 2**24
    high = spread >> 16
    parts = [20 + high % 100, high, spread >> 8 & 255, spread & 255]
    return pc.binary_join_element_wise(*(tables.octets.take(pa.array(part)) for part in parts), ".")


def _target(columns: dict[str, pa.Array]) -> pa.Array:
    query = pc.fill_null(pc.binary_join_element_wise("?", columns["query"], ""), "")
    return pc.binary_join_element_wise(columns["path"], query, "")


def json_lines(events: Events) -> pa.Array:
    """A JSON object and a newline for each event."""
    tables, columns = _tables(), columns_of(events)
    second, millisecond = events.ms // 1000, events.ms % 1000
    quoted = pc.binary_join_element_wise('"', columns["referrer"], '"', "")
    user = np.where(_uniform(events.visitor, "user") < 0.2, events.visitor, -1)
    users = pc.binary_join_element_wise('"u', pa.array(user, mask=user < 0).cast(pa.string()), '"', "")
    return pc.binary_join_element_wise(
        '{"event_id":"',
        columns["event_id"],
        '","ts":"',
        tables.iso.take(pa.array(second)),
        tables.milliseconds.take(pa.array(millisecond)),
        'Z","event":"',
        "request",
        '","visitor_id":"',
        columns["visitor_id"],
        '","user_id":',
        pc.fill_null(users, "null"),
        f',"method":"GET","url":"{vocabulary.SITE}',
        _target(columns),
        '","referrer":',
        pc.fill_null(quoted, "null"),
        ',"user_agent":"',
        columns["user_agent"],
        '","ip":"',
        _hosts(events.visitor),
        '","status":',
        columns["status"].cast(pa.string()),
        ',"bytes":',
        columns["bytes"].cast(pa.string()),
        "}\n",
        "",
    )


def clf_lines(events: Events) -> pa.Array:
    """A line of Combined Log Format for each event; times are cut to seconds."""
    tables, columns = _tables(), columns_of(events)
    return pc.binary_join_element_wise(
        _hosts(events.visitor),
        " - - [",
        tables.apache.take(pa.array(events.ms // 1000)),
        '] "GET ',
        _target(columns),
        ' HTTP/1.1" ',
        columns["status"].cast(pa.string()),
        " ",
        columns["bytes"].cast(pa.string()),
        ' "',
        pc.fill_null(columns["referrer"], "-"),
        '" "',
        columns["user_agent"],
        '"\n',
        "",
    )


def _write_hour(clicks: Clicks, hour: int, folder: Path) -> tuple[int, int]:
    """Write the file; return its rows, and how many of them are in the hour before too."""
    pa.set_cpu_count(1)
    events = events_of(clicks, hour)
    stem = f"{DAY.isoformat()}T{hour:02}"
    if clicks.kind == "parquet":
        _write_parquet(events, folder / f"{stem}.parquet")
    else:
        lines, suffix = {"json": (json_lines, "json"), "clf": (clf_lines, "log")}[clicks.kind]
        # No name and no time in the header: the same parameters give the same bytes.
        with (
            (folder / f"{stem}.{suffix}.gz").open("wb") as raw,
            gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=1, mtime=0) as file,
        ):
            for chunk in _chunks(events, _LINES_AT_A_TIME):
                text = lines(chunk)
                end = np.frombuffer(text.buffers()[1], np.int32)[len(text)]
                # The array's values, end to end, are the file's text.
                file.write(memoryview(text.buffers()[2])[:end])
    return len(events), int((events.ms < hour * _HOUR_MS).sum())


def _write_parquet(events: Events, path: Path) -> None:
    writer = None
    try:
        for chunk in _chunks(events, _ROWS_AT_A_TIME):
            table = pa.table(columns_of(chunk))
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer:
            writer.close()


def _chunks(events: Events, rows: int) -> Iterator[Events]:
    for begin in range(0, max(len(events), 1), rows):
        yield events.take(slice(begin, begin + rows))
