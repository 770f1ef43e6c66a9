"""Events of a Parquet file to the same events with ``session_id``, within Arrow: no event moves, only marks do.

A *mark* says where a session begins. It goes to the files that have hits of its visitor, and there each event gets the
id of the last mark at or before it, in the order of time and event. The rules that made the sessions are not asked
again: what they are, the marks say.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_emr_etl.spark.xxhash64 import xxhash64

MARKS = pa.schema(
    [
        ("visitor_id", pa.string()),
        ("ts", pa.int64()),
        ("event", pa.int64()),
        ("until", pa.int64()),
        ("session_id", pa.string()),
    ]
)
"""``ts`` and ``event`` (the hash of its id) are those of the event with which the session begins. ``until``: the last
moment of the activity; what comes later is in no session that is known here. Times in microseconds since 1970."""

SENT = pa.schema(
    [
        ("partition_key", pa.int32()),
        ("path", pa.string()),
        ("piece", pa.int32()),
        ("content", pa.binary()),
        ("marks", pa.binary()),
    ]
)
"""On the way to a file: the file itself, as its ``path`` on this machine or as pieces of its ``content``, which are
numbered; and some of the marks for it. Each is a row of its own, with NULL for the others."""

PIECE_BYTES = 4 << 20
"""Of a file's content: a row that Spark shuffles should not be as large as a file."""

CHUNK_MARKS = 1 << 17
"""Marks that a task sorts by file at a time, some 25 MB."""

SLICE_ROWS = 1 << 17
"""Events that are held at a time, some 50 MB."""


def files_sent(batches: Iterable[Any], keys: Sequence[int]) -> Iterator[Any]:
    """Batches of files (``file``, its number, ``path`` and ``content``, which is NULL where this machine has the path)
    to batches of :data:`SENT`.

    ``keys``: for each file what Spark sends to its partition.
    """
    for batch in batches:
        for number, path, content in zip(*(batch.column(name) for name in ("file", "path", "content"))):
            if number.as_py() < 0:
                raise ValueError(f"{path} is none of the files that were listed; was it replaced meanwhile?")
            key = keys[number.as_py()]
            if not content.is_valid:
                yield _one(key, path=path.as_py())
                continue
            whole = content.as_buffer()
            for piece, begin in enumerate(range(0, whole.size, PIECE_BYTES)):
                length = min(PIECE_BYTES, whole.size - begin)
                yield _one(key, piece=piece, content=whole.slice(begin, length).to_pybytes())


def _one(key: int, **given: Any) -> Any:
    values = {"partition_key": key, **given}
    return pa.RecordBatch.from_arrays(
        [pa.array([values.get(field.name)], field.type) for field in SENT], schema=SENT
    )


def marks_sent(batches: Iterable[Any], keys: Sequence[int]) -> Iterator[Any]:
    """Batches of :data:`MARKS` with ``files`` (numbers of the files that each goes to) to batches of :data:`SENT`."""
    waiting: List[Any] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= CHUNK_MARKS:
            yield _sent(waiting, keys)
            waiting, rows = [], 0
    if rows:
        yield _sent(waiting, keys)


def _sent(waiting: List[Any], keys: Sequence[int]) -> Any:
    table = pa.Table.from_batches(waiting).combine_chunks()
    to = table.column("files").combine_chunks()
    files, mark = pc.list_flatten(to).to_numpy(), pc.list_parent_indices(to).to_numpy()
    order = np.argsort(files, kind="stable")
    files, marks = files[order], table.select(MARKS.names).take(pa.array(mark[order])).combine_chunks()
    begins = np.flatnonzero(np.append(files[:1] >= 0, files[1:] != files[:-1]))
    ends = np.append(begins[1:], len(files))[: len(begins)]
    blobs = []
    for begin, end in zip(begins.tolist(), ends.tolist()):
        (batch,) = marks.slice(begin, end - begin).cast(MARKS).to_batches()
        blobs.append(batch.serialize().to_pybytes())
    values = {
        "partition_key": pa.array([keys[number] for number in files[begins].tolist()], pa.int32()),
        "marks": pa.array(blobs, pa.binary()),
    }
    return pa.RecordBatch.from_arrays(
        [values.get(field.name, pa.nulls(len(blobs), field.type)) for field in SENT], schema=SENT
    )


def by_file(batches: Iterable[Any]) -> Iterator[List[Any]]:
    """Batches of :data:`SENT` that come file after file, as those of one file after the other."""
    waiting: List[Any] = []
    current = None
    for batch in batches:
        keys = batch.column("partition_key").to_numpy()
        begins = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else keys
        for begin, end in zip(begins.tolist(), np.append(begins[1:], len(keys)).tolist()):
            if waiting and keys[begin] != current:
                yield waiting
                waiting = []
            current = keys[begin]
            waiting.append(batch.slice(begin, end - begin))
    if waiting:
        yield waiting


def received(batches: Iterable[Any]) -> Iterator[Tuple[Any, Any]]:
    """All batches of :data:`SENT` for one file, in any order: what pyarrow reads the file from, and its marks.

    Nothing where there is no mark, since no event of that file is in a session then.
    """
    path: Any = None
    pieces: Dict[int, Any] = {}
    marks: List[Any] = []
    for batch in batches:
        for row in zip(*(batch.column(name) for name in SENT.names[1:])):
            if row[3].is_valid:
                marks.append(pa.ipc.read_record_batch(row[3].as_buffer(), MARKS))
            elif row[2].is_valid:
                pieces[row[1].as_py()] = row[2].as_buffer()
            else:
                path = row[0].as_py()
    if marks:
        if pieces:
            whole = b"".join(pieces.pop(piece) for piece in sorted(pieces))
            # The pieces are within the batches: to hold these too would be to hold the file twice.
            del batch, row
            content = pa.BufferReader(whole)
        else:
            content = pa.memory_map(path)
        yield content, pa.Table.from_batches(marks)


def with_sessions(content: Any, marks: Any, columns: Any) -> Iterator[Any]:
    """The events of a Parquet file that are in a session of ``marks``, with ``session_id``, in the file's order.

    ``content`` is what pyarrow reads a file from, ``marks`` a table of :data:`MARKS` with all those of the visitors
    whose events are wanted. The batches have the columns of the schema ``columns``, NULL where the file has none of
    that name; their texts may be dictionaries, as the file has them.
    """
    if not marks.num_rows:
        return
    known = _Marks(marks)
    texts = [field.name for field in columns if field.type == pa.string() and field.name not in _PLAIN]
    there = set(pq.read_schema(content).names)
    file = pq.ParquetFile(content, read_dictionary=[name for name in texts if name in there])
    wanted = [name for name in file.schema_arrow.names if name in columns.names or name in _NEEDED]
    for rows in file.iter_batches(SLICE_ROWS, columns=wanted, use_threads=False):
        session = known.of(rows)
        in_one = session >= 0
        if not in_one.all():
            rows, session = rows.filter(pa.array(in_one)), session[in_one]
        if rows.num_rows:
            ids = pa.DictionaryArray.from_arrays(pa.array(session, pa.int32()), known.session_ids)
            yield _shaped(rows, ids, columns)


_PLAIN = ("event_id", "session_id")
_NEEDED = ("visitor_id", "ts", "event_id")


def _shaped(rows: Any, session_ids: Any, columns: Any) -> Any:
    shaped = []
    for field in columns:
        if field.name == "session_id":
            shaped.append(session_ids)
        elif field.name not in rows.schema.names:
            shaped.append(pa.nulls(rows.num_rows, field.type))
        else:
            column = rows.column(field.name)
            is_text = pa.types.is_dictionary(column.type) and column.type.value_type == field.type
            shaped.append(column if is_text else column.cast(field.type))
    return pa.RecordBatch.from_arrays(shaped, names=columns.names)


class _Marks:
    """Marks in the order of visitor, time and event, to look events up in."""

    def __init__(self, marks: Any) -> None:
        encoded = marks.column("visitor_id").combine_chunks().dictionary_encode()
        self.visitors = encoded.dictionary
        code = encoded.indices.to_numpy().astype(np.int64)
        ts, event, until = (marks.column(name).to_numpy() for name in ("ts", "event", "until"))
        order = np.lexsort((event, ts, code))
        self.code, self.event, self.until = code[order], event[order], until[order]
        self.session_ids = marks.column("session_id").combine_chunks().take(pa.array(order))
        self.times = np.unique(ts)
        self.place = self._places(self.code, ts[order])

    def _places(self, code: Any, ts: Any) -> Any:
        """Numbers that sort as ``code`` and then ``ts`` do; equal ones are those of one visitor and time, if it is the
        time of a mark."""
        least, most = int(self.times[0]), int(self.times[-1])
        span = most - least + 3
        if len(self.visitors) * span < 1 << 63:
            # What lies before or after all marks is as good as right before or after them.
            return code * span + (np.clip(ts, least - 1, most + 1) - (least - 1))
        among = np.searchsorted(self.times, ts)
        is_one = self.times[np.minimum(among, len(self.times) - 1)] == ts
        return code * (2 * len(self.times) + 1) + 2 * among + is_one

    def of(self, rows: Any) -> Any:
        """For each row the place of the mark whose session it is in; -1 for none."""
        visitor = rows.column("visitor_id")
        among = pc.index_in(visitor.dictionary, self.visitors)
        code = pc.fill_null(among, -1).to_numpy(zero_copy_only=False)[visitor.indices.to_numpy()]
        # First to microseconds: older files count nanoseconds.
        ts = rows.column("ts").cast(pa.timestamp("us", rows.column("ts").type.tz)).cast(pa.int64()).to_numpy()
        wanted = self._places(code.astype(np.int64), ts)
        found = np.searchsorted(self.place, wanted, side="right") - 1
        # A mark at the time of the event: of these two the hashes of their events say which comes first.
        tied = np.flatnonzero((found >= 0) & (self.place[found] == wanted) & (code >= 0))
        event = xxhash64(rows.column("event_id").take(pa.array(tied)))
        while len(tied):
            later = self.event[found[tied]] > event
            tied, event = tied[later], event[later]
            found[tied] -= 1
            still = (found[tied] >= 0) & (self.place[found[tied]] == wanted[tied])
            tied, event = tied[still], event[still]
        is_in = (found >= 0) & (code >= 0) & (self.code[found] == code) & (ts <= self.until[found])
        return np.where(is_in, found, -1)
