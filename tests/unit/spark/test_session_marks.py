"""Marks to the events of a file: against the rule as one would write it down, and through what Spark carries."""

from __future__ import annotations

import io
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow", reason="pyarrow comes with the extra spark")
import pyarrow.parquet as pq  # noqa: E402

from airflow_emr_etl.spark import session_marks  # noqa: E402
from airflow_emr_etl.spark.parquet_parts import without_dictionaries  # noqa: E402
from airflow_emr_etl.spark.session_marks import MARKS  # noqa: E402
from airflow_emr_etl.spark.xxhash64 import xxhash64  # noqa: E402

Event = tuple[str, int, str]
"""Visitor, time in microseconds, id."""
Mark = tuple[str, int, int, int, str]

COLUMNS = pa.schema(
    [
        ("event_id", pa.string()),
        ("ts", pa.timestamp("us", "UTC")),
        ("path", pa.string()),
        ("status", pa.int16()),
        ("visitor_id", pa.string()),
        ("session_id", pa.string()),
        ("dt", pa.date32()),
    ]
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FAR = 60 * 60 * 24 * 365 * 100 * 1_000_000
"""A century: with it, visitors and times do not fit into one number."""


def hash_of(event_id: str) -> int:
    return int(xxhash64(pa.array([event_id]))[0])


def file_of(events: list[Event], unit: str = "us", rows_a_group: int = 5, dictionaries: bool = True) -> Any:
    """A Parquet file with columns that are wanted and one that is not; it has no ``dt``."""
    target = io.BytesIO()
    table = pa.table(
        {
            "dropped_copies": pa.array([0] * len(events), pa.int64()),
            "visitor_id": pa.array([visitor for visitor, _, _ in events], pa.string()),
            "ts": pa.array([ts for _, ts, _ in events], pa.int64()).cast(pa.timestamp("us", "UTC")),
            "event_id": pa.array([event_id for _, _, event_id in events], pa.string()),
            "path": pa.array([None if ts % 3 else f"/{event_id}" for _, ts, event_id in events], pa.string()),
            "status": pa.array([ts % 600 for _, ts, _ in events], pa.int32()),
        }
    )
    if unit == "ns":
        pq.write_table(table, target, row_group_size=rows_a_group, use_deprecated_int96_timestamps=True)
    else:
        pq.write_table(table, target, row_group_size=rows_a_group, use_dictionary=dictionaries)
    return pa.BufferReader(target.getvalue())


def marks_of(marks: list[Mark]) -> Any:
    return pa.table(list(zip(*marks, strict=True)) or [[]] * len(MARKS), schema=MARKS)


def expected(events: list[Event], marks: list[Mark]) -> list[tuple[Event, str]]:
    """The events that are in a session, with it, in their order."""
    found = []
    for event in events:
        visitor, ts, event_id = event
        before = [mark for mark in marks if mark[0] == visitor and mark[1:3] <= (ts, hash_of(event_id))]
        if before:
            last = max(before, key=lambda mark: mark[1:3])
            if ts <= last[3]:
                found.append((event, last[4]))
    return found


def rows_of(batches: Any) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_pylist()]


def row(event: Event, session_id: str) -> dict[str, Any]:
    visitor, ts, event_id = event
    return {
        "event_id": event_id,
        "ts": EPOCH + timedelta(microseconds=ts),
        "path": None if ts % 3 else f"/{event_id}",
        "status": ts % 600,
        "visitor_id": visitor,
        "session_id": session_id,
        "dt": None,
    }


names = st.sampled_from(["v", "w", "é", ""])
times = st.one_of(st.integers(0, 6), st.integers(-3, 40), st.sampled_from([-FAR, FAR]))
ids = st.text("abc", max_size=2)


@st.composite
def data(draw: Any) -> tuple[list[Event], list[Mark]]:
    events = draw(st.lists(st.tuples(names, times, ids), max_size=25))
    begins = set(draw(st.lists(st.tuples(names, times, ids), max_size=6)))
    if events:
        begins |= set(draw(st.lists(st.sampled_from(events), max_size=8)))
    marks = [
        (visitor, ts, hash_of(event_id), ts + draw(st.integers(0, 20)), f"s{number}")
        for number, (visitor, ts, event_id) in enumerate(sorted(begins))
    ]
    return events, draw(st.permutations(marks))


@settings(deadline=None)
@given(data(), st.integers(1, 7), st.booleans(), st.sampled_from([1, 4, 1 << 17]))
def test_each_event_has_the_last_mark_before_it(
    given_data: tuple[list[Event], list[Mark]], rows_a_group: int, dictionaries: bool, slice_rows: int
) -> None:
    events, marks = given_data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_marks, "SLICE_ROWS", slice_rows)
        content = file_of(events, rows_a_group=rows_a_group, dictionaries=dictionaries)
        batches = list(session_marks.with_sessions(content, marks_of(marks), COLUMNS))
    wanted = [row(*found) for found in expected(events, marks)]
    assert rows_of(batches) == wanted
    plain = [without_dictionaries(pa.Table.from_batches([batch])) for batch in batches]
    assert all(part.schema.equals(COLUMNS) for part in plain)
    assert rows_of(plain) == wanted


def test_times_and_visitors_that_do_not_fit_into_one_number() -> None:
    visitors = [f"v{number}" for number in range(6000)]
    events = [(visitor, ts, "e") for visitor in visitors for ts in (-FAR, 0, 5, 11, FAR - 1, FAR)]
    marks = [
        (visitor, ts, hash_of("e"), ts + 10, f"{visitor}-{ts}") for visitor in visitors for ts in (0, FAR)
    ] + [("v0", -FAR, hash_of("e"), 0, "first")]
    assert len(visitors) * 2 * FAR > 1 << 63
    found = rows_of(session_marks.with_sessions(file_of(events, rows_a_group=1000), marks_of(marks), COLUMNS))
    assert Counter(row["session_id"] for row in found) == {
        **{f"{visitor}-0": 2 for visitor in visitors},
        **{f"{visitor}-{FAR}": 1 for visitor in visitors},
        "first": 1,
    }


def test_a_file_without_a_text_column_has_none_of_it() -> None:
    wider = COLUMNS.append(pa.field("campaign_source", pa.string()))
    content, marks = file_of([("v", 5, "a")]), marks_of([("v", 5, hash_of("a"), 9, "s")])
    [batch] = session_marks.with_sessions(content, marks, wider)
    assert batch.column("campaign_source").to_pylist() == [None]
    assert batch.column("session_id").to_pylist() == ["s"]


def test_a_file_that_counts_nanoseconds_and_an_empty_one() -> None:
    events, marks = [("v", 5, "a"), ("v", 1, "b")], [("v", 1, hash_of("b"), 9, "s")]
    found = rows_of(session_marks.with_sessions(file_of(events, unit="ns"), marks_of(marks), COLUMNS))
    assert [one["ts"] for one in found] == [EPOCH + timedelta(microseconds=ts) for ts in (5, 1)]
    assert rows_of(session_marks.with_sessions(file_of([]), marks_of(marks), COLUMNS)) == []


def test_marks_go_to_the_files_of_their_visitors(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(session_marks, "CHUNK_MARKS", 3)
    marks: list[Mark] = [(f"v{number}", number, 0, number, f"s{number}") for number in range(9)]
    numbers = [[number % 3] if number % 4 else [0, 1, 2] for number in range(8)] + [[]]
    table = marks_of(marks).append_column("files", pa.array(numbers, pa.list_(pa.int32())))
    keys = [70, 80, 90, 100]
    monkeypatch.setattr(session_marks, "PIECE_BYTES", 4)
    path = tmp_path / "file"
    path.write_bytes(b"local")
    contents = [None, b"in pieces!", None, b"four"]
    files = pa.table(
        {"file": [0, 1, 2, 3], "path": [str(path)] * 4, "content": pa.array(contents, pa.binary())}
    ).to_batches(3)
    keys = [70, 80, 90, 100]
    batches = [*session_marks.files_sent(files, keys), *session_marks.marks_sent(table.to_batches(2), keys)]
    rows = pa.Table.from_batches(batches, session_marks.SENT).to_pylist()
    for number, key in enumerate(keys):
        # In whatever order and batches Spark brings them.
        mine = [one for one in rows if one["partition_key"] == key][::-1]
        received = list(session_marks.received(pa.Table.from_pylist(mine, session_marks.SENT).to_batches(2)))
        wanted = [mark for mark, to in zip(marks, numbers, strict=True) if number in to]
        if not wanted:
            assert received == []
            continue
        ((content, found),) = received
        assert content.read() == (contents[number] or b"local")
        assert sorted(tuple(one.values()) for one in found.to_pylist()) == wanted
