"""Parsed lines through the shuffle in columns: one row for each partition that a batch of lines has hits for.

As for sessions (``session_shuffle.py``): a shuffle of wide rows copies, compares and compresses text by text, and what
stands in nearly every line is a few thousand texts. Here each share is a table with dictionaries in Arrow's own format.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_emr_etl.spark.arrow_text import places
from airflow_emr_etl.spark.storage import after_scheme

TEXTS = ("host", "method", "path", "query", "protocol", "referrer", "user_agent", "user_id")
_TEXT = pa.dictionary(pa.int32(), pa.string())

HITS = pa.schema(
    [
        ("visitor_id", pa.dictionary(pa.int32(), pa.binary(32))),
        ("ts", pa.int64()),
        ("key", pa.binary(32)),
        ("file", pa.int64()),
        *((name, _TEXT) for name in TEXTS),
        ("status", pa.int16()),
        ("bytes", pa.int64()),
        ("is_named_page", pa.bool_()),
    ]
)
"""``visitor_id`` and ``key`` are digests, and ``file`` a number for the file that the line is in; of an event with an
id of its own, a number for the line. ``ts`` in microseconds since 1970."""

SHARED_ROWS = 1 << 18
"""Lines that are shared out together, some 100 MB while that is done."""

_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


def hits(
    columns: Dict[str, Any], keys: Optional[Any], files: Any, positions: Any, page_views: Sequence[str]
) -> Any:
    """Parsed lines as a table of :data:`HITS`.

    Args:
        columns: of the parsed lines, as ``plain_access_log.read`` gives them.
        keys: for each line the digest of its bytes (binary); may be None where all lines have an id of their own.
        files: for each line the :func:`file_number` of its file, in numpy.
        positions: for each line its place in the file, in numpy.
        page_views: names of events that are page views.
    """
    count = len(positions)
    column = {
        name: columns.get(name) for name in (*HITS.names, "visitor_cookie", "source_event_id", "event_name")
    }
    visitors = _visitors(column["host"], column["user_agent"], column["visitor_cookie"], count)
    column["file"] = pa.array(files)
    column["key"] = keys
    own = column["source_event_id"]
    if own is not None and own.null_count < count:
        column["key"] = _own_keys(own, columns["ts"], visitors, keys)
        # Each of its lines counts as a delivery, in one file too.
        with np.errstate(over="ignore"):
            numbers = files ^ (positions.astype(np.int64) * np.int64(-7046029254386353131))
        column["file"] = pc.if_else(own.is_valid(), pa.array(numbers), column["file"])
    ids = [sha256(text.encode()).digest() for text in visitors.dictionary.to_pylist()]
    column["visitor_id"] = pa.DictionaryArray.from_arrays(visitors.indices, pa.array(ids, pa.binary(32)))
    names = column["event_name"]
    if page_views and names is not None:
        column["is_named_page"] = pc.if_else(names.is_valid(), _among(names, page_views), None)
    arrays = []
    for field in HITS:
        array = column[field.name]
        arrays.append(_typed(pa.nulls(count, field.type) if array is None else array, field.type))
    return pa.table(arrays, HITS)


def of_rows(batch: Any, page_views: Sequence[str]) -> Any:
    """Parsed lines in Arrow's rows, with ``key``, the name of the ``file``, and ``position``, as a table of HITS."""
    columns = {name: batch.column(name) for name in batch.schema.names}
    columns = {
        name: column.dictionary_encode() if pa.types.is_string(column.type) else column
        for name, column in columns.items()
    }
    file, keys = columns.pop("file"), columns.pop("key").cast(pa.binary(32))
    numbers = np.array([file_number(name) for name in file.dictionary.to_pylist()], np.int64)
    positions = columns.pop("position").to_numpy()
    return hits(columns, keys, numbers[np.asarray(file.indices)], positions, page_views)


def file_number(name: str) -> int:
    """A number for a file, the same wherever it is asked for and however the name is spelled."""
    return int.from_bytes(sha256(after_scheme(name).encode()).digest()[:8], "big", signed=True)


def shares(table: Any, partitions: int) -> Iterable[Any]:
    """For each partition that ``table`` has hits for its number and its share, as bytes."""
    visitors = table.column("visitor_id").combine_chunks()
    of_visitor = _partition(visitors.dictionary, partitions)
    partition = of_visitor[np.asarray(visitors.indices)]
    order = np.argsort(partition, kind="stable")
    in_order = partition[order]
    bounds = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1])) if len(order) else order
    ends = np.append(bounds[1:], len(order))
    arranged = table.take(pa.array(order)).combine_chunks()
    for begin, end in zip(bounds.tolist(), ends.tolist()):
        batch = _compact(arranged.slice(begin, end - begin))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, HITS, options=_OPTIONS) as stream:
            stream.write_table(batch)
        yield int(in_order[begin]), sink.getvalue().to_pybytes()


def gathered(tables: Iterable[Any]) -> Iterator[Any]:
    """``tables`` of :data:`HITS` as tables of about as many rows as are shared out together."""
    waiting: List[Any] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        if rows >= SHARED_ROWS:
            yield joined(waiting)
            waiting, rows = [], 0
    if rows:
        yield joined(waiting)


def joined(tables: List[Any]) -> Any:
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def by_partition(batches: Iterable[Any]) -> Iterator[List[Any]]:
    """The shares of one partition after the other, from batches with ``partition_key`` and ``content``."""
    waiting: List[Any] = []
    current = None
    for batch in batches:
        for key, blob in zip(batch.column("partition_key").to_pylist(), batch.column("content")):
            if key != current and waiting:
                yield waiting
                waiting = []
            current = key
            waiting.append(blob.as_buffer())
    if waiting:
        yield waiting


def opened(blobs: Iterable[Any]) -> Any:
    """The hits of all shares (buffers) as one table with one dictionary for each text."""
    tables = [pa.ipc.open_stream(blob).read_all() for blob in blobs]
    if not tables:
        return HITS.empty_table()
    return joined(tables)


def _visitors(host: Any, agent: Any, cookie: Any, count: int) -> Any:
    """The texts that say who sent each line, as a dictionary; see ``visitor_privacy.visitor_of``."""
    texts = [pc.fill_null(_plain(text, count), "") for text in (host, agent)]
    visitors = pc.binary_join_element_wise(*texts, "\n")
    if cookie is not None:
        visitors = pc.coalesce(pc.binary_join_element_wise("\n\n", _plain(cookie, count), ""), visitors)
    return visitors.dictionary_encode()


def _plain(text: Any, count: int) -> Any:
    if text is None:
        return pa.nulls(count, pa.string())
    return text.dictionary_decode() if pa.types.is_dictionary(text.type) else text


def digests(content: Any, begins: Any, ends: Any) -> Any:
    """SHA-256 of the parts of ``content`` (bytes) from ``begins`` to ``ends`` (numpy)."""
    view, digest = memoryview(content), sha256
    parts = [digest(view[begin:end]).digest() for begin, end in zip(begins.tolist(), ends.tolist())]
    return pa.Array.from_buffers(pa.binary(32), len(parts), [None, pa.py_buffer(b"".join(parts))])


def _own_keys(own: Any, ts: Any, visitors: Any, keys: Optional[Any]) -> Any:
    """The identity of an event with an id of its own: that id, its time and its visitor, not the bytes of its line."""
    identities = pc.binary_join_element_wise(
        _plain(own, len(own)), ts.cast(pa.string()), visitors.dictionary_decode(), ":"
    )
    _, offsets, content = identities.buffers()
    places_ = np.frombuffer(offsets, np.int32)[identities.offset : identities.offset + len(identities) + 1]
    found = digests(content, places_[:-1], places_[1:])
    return found if not own.null_count else pc.if_else(own.is_valid(), found, keys)


def _among(names: Any, values: Sequence[str]) -> Any:
    each = pc.is_in(names.dictionary, pa.array(values, pa.string()))
    return each.take(names.indices)


def _typed(array: Any, kind: Any) -> Any:
    if array.type == kind:
        return array
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    return array.cast(kind)


def _partition(digests: Any, count: int) -> Any:
    """Of ``count`` equal ranges of digests the one that each is in."""
    first = np.frombuffer(digests.buffers()[1], ">u4")[:: 32 // 4][
        digests.offset : digests.offset + len(digests)
    ]
    return (first.astype(np.int64) * count) >> 32


def _compact(table: Any) -> Any:
    """``table`` with dictionaries that have nothing which is not in it."""
    columns = []
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if pa.types.is_dictionary(column.type):
            at = places(column)
            used = np.zeros(len(column.dictionary) + 1, bool)
            used[at] = True
            used[-1] = False
            renumbered = (np.cumsum(used) - 1).astype(np.int32)
            indices = pa.array(renumbered[at], mask=at == len(column.dictionary))
            column = pa.DictionaryArray.from_arrays(indices, column.dictionary.filter(pa.array(used[:-1])))
        columns.append(column)
    return pa.table(columns, HITS)
