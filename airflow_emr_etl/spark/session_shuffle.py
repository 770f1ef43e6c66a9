"""Hits through the shuffle in columns: Arrow batches go in as one row for each partition they have hits for.

A shuffle of rows copies, compares and compresses hit by hit. Here a map task sorts a chunk of hits by partition,
visitor and time, and hands each partition's share to Spark as one binary value; a reduce task puts the shares together
and sorts once more. Spark still moves, spills, retries and places the data: only what it calls a row is larger.

Texts are most of the bytes, so they travel only where they can matter: a visitor once for all its hits of a chunk, path
and referrer not for hits in the middle of what is one session already within the chunk. What is the same for all hits
of a source, or is not there at all, is not written hit by hit.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Iterable, Iterator, List, Sequence, Tuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_emr_etl.models.session_rules import SessionRules
from airflow_emr_etl.spark import session_pass
from airflow_emr_etl.spark.xxhash64 import xxhash64

HITS = pa.schema(
    [
        ("visitor_id", pa.string()),
        ("owner", pa.int32()),
        *((field.name, field.type) for field in session_pass.INPUT if field.name != "visitor"),
        ("file", pa.int32()),
    ]
)
"""What is known of a hit; texts may be dictionaries. A source whose hits all have the same ``owner`` and ``kind``
leaves these out, and one without referrers, rules that cut or numbered files leaves those columns out. Of equal events
that with the least ``owner`` counts."""

FILES = pa.list_(pa.int32())
"""Numbers of files."""

SHARES = pa.schema([("partition_key", pa.int32()), ("hits", pa.binary())])

CHUNK_ROWS = 1 << 19
"""Hits that a map task holds at a time, some 100 MB."""

_VISITORS = pa.schema([("hash", pa.int64()), ("visitor_id", pa.string()), ("hits", pa.int32())])
_COLUMNS = tuple(name for name in HITS.names if name != "visitor_id")
_HEADER = struct.Struct("<HbxiQ")
"""Of a share: which of the columns it has, one bit each; kind and owner of all its hits if they are no columns; the
length of the visitors, which come first."""


_ROOM_A_SHARE = 8 << 10
"""More than what stands beside the data: the header and, for each column of both batches, descriptions and padding."""


def pack(
    batches: Iterable[Any],
    rules: SessionRules,
    keys: Sequence[int],
    owner: int = 0,
    kind: int = session_pass.FRESH,
) -> Iterator[Any]:
    """Batches of columns of :data:`HITS` to batches of :data:`SHARES`.

    ``keys``: for each partition what Spark sends there. ``owner`` and ``kind`` are those of hits without the column.
    """
    waiting: List[Any] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= CHUNK_ROWS:
            yield _shares(waiting, rules, keys, owner, kind)
            waiting, rows = [], 0
    if rows:
        yield _shares(waiting, rules, keys, owner, kind)


@dataclass(frozen=True)
class Visitors:
    """Those of a partition, by their place: ``ids``; ``files``, the numbers of the files that have hits of each, as
    lists; ``elsewhere``, whether each has hits beside those files that are not gone."""

    ids: Any
    files: Any
    elsewhere: Any


def unpack(batches: Iterable[Any]) -> Tuple[Visitors, Iterator[Any]]:
    """The shares of a partition as its visitors, and batches of ``session_pass.INPUT`` in the pass's order.

    ``visitor`` in a batch is a place among the visitors.
    """
    told, shares = [], []
    for batch in batches:
        for blob in batch.column("hits"):
            visitors, hits = _opened(blob.as_buffer())
            told.append(visitors)
            shares.append(hits)
    if not shares:
        nobody = (pa.array([], kind) for kind in (pa.string(), FILES, pa.bool_()))
        return Visitors(*nobody), iter(())
    table = pa.concat_tables(shares, promote_options="default")
    visitor, names = _visitors(pa.Table.from_batches(told))
    column = {
        name: table.column(name).combine_chunks()
        if name in table.column_names
        else pa.nulls(table.num_rows, HITS.field(name).type)
        for name in _COLUMNS
    }
    order = _order(visitor, column)
    where = pa.array(order)
    column["visitor"] = pa.array(visitor)
    hits = pa.table([column[name].take(where) for name in session_pass.INPUT.names], session_pass.INPUT)
    visitors = Visitors(names, *_places(visitor, len(names), column["file"], column["kind"]))
    return visitors, iter(hits.to_batches(max_chunksize=session_pass.CHUNK_ROWS))


def _places(visitor: Any, count: int, file: Any, kind: Any) -> Tuple[Any, Any]:
    """For each of ``count`` visitors the numbers of its files, and whether it has hits elsewhere."""
    in_file = file.is_valid().to_numpy(zero_copy_only=False)
    elsewhere = np.zeros(count, bool)
    elsewhere[visitor[~in_file & (_numbers(kind) != session_pass.GONE)]] = True
    numbers = _numbers(file.drop_null())
    span = int(numbers.max(initial=0)) + 1
    pairs = np.unique(visitor[in_file] * span + numbers)
    offsets = np.searchsorted(pairs, np.arange(count + 1) * span)
    files = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(pairs % span, pa.int32()))
    return files, pa.array(elsewhere)


def _opened(share: Any) -> Tuple[Any, Any]:
    present, kind, owner, length = _HEADER.unpack_from(share)
    schema = pa.schema([HITS.field(name) for place, name in enumerate(_COLUMNS) if present >> place & 1])
    begin = _HEADER.size + length
    visitors = pa.ipc.read_record_batch(share.slice(_HEADER.size, length), _VISITORS)
    hits = pa.Table.from_batches([pa.ipc.read_record_batch(share.slice(begin), schema)])
    for name, value in (("owner", owner), ("kind", kind)):
        if name not in schema.names:
            same = pa.repeat(pa.scalar(value, HITS.field(name).type), hits.num_rows)
            hits = hits.append_column(HITS.field(name), same)
    return visitors, hits


def _shares(waiting: List[Any], rules: SessionRules, keys: Sequence[int], owner: int, kind: int) -> Any:
    table = pa.Table.from_batches(waiting).unify_dictionaries().combine_chunks()
    column = {name: table.column(name).chunk(0) for name in table.column_names}
    code, ids, hashes = _codes(column.pop("visitor_id"))
    ts = _numbers(column["ts"])
    order = _by_code_and_time(code, ts)
    code = code[order]
    first = np.ones(len(order), bool)
    first[1:] = code[1:] != code[:-1]
    begins = np.flatnonzero(first)
    runs = np.append(begins[1:], len(order)) - begins
    run = code[begins]
    visitors = pa.RecordBatch.from_arrays(
        [pa.array(hashes[run]), ids.take(pa.array(run)), pa.array(runs, pa.int32())], schema=_VISITORS
    )
    seldom: Any = None
    if not rules.cut_on and rules.max_micros is None and rules.midnight_zone is None:
        kinds = _numbers(column["kind"]) if "kind" in column else np.array([kind])
        # What gone hits hold together may fall apart.
        if not (kinds == session_pass.GONE).any():
            seldom = pa.array(order, mask=~_ends(first, ts[order], column["is_page_view"], order, rules))
    where = pa.array(order)
    names = [name for name in _COLUMNS if name in column]
    sorted_ = []
    for name in names:
        of = seldom if seldom is not None and name in ("path", "referrer") else where
        sorted_.append(column[name].take(of).cast(HITS.field(name).type))
    hits = pa.RecordBatch.from_arrays(sorted_, schema=pa.schema([HITS.field(name) for name in names]))
    present = sum(1 << place for place, name in enumerate(_COLUMNS) if name in column)

    partition = _partition(hashes[run], len(keys))
    bounds = np.flatnonzero(np.append(True, partition[1:] != partition[:-1]))
    ends = np.append(bounds[1:], len(run))
    hit_begins, hit_ends = begins[bounds], np.append(begins, len(order))[ends]
    # Room for all of it at once: to make room share by share is half of the work.
    room = visitors.nbytes + hits.nbytes + len(bounds) * _ROOM_A_SHARE
    blob = pa.allocate_buffer(room)
    sink = pa.FixedSizeBufferWriter(blob)
    places = [0]
    for begin, end, hit_begin, hit_end in zip(
        bounds.tolist(), ends.tolist(), hit_begins.tolist(), hit_ends.tolist()
    ):
        told = visitors.slice(begin, end - begin).serialize()
        sink.write(_HEADER.pack(present, kind, owner, told.size))
        sink.write(told)
        sink.write(hits.slice(hit_begin, hit_end - hit_begin).serialize())
        places.append(sink.tell())
    blobs = pa.Array.from_buffers(
        pa.binary(), len(bounds), [None, pa.py_buffer(np.array(places, np.int32)), blob.slice(0, places[-1])]
    )
    to = pa.array([keys[place] for place in partition[bounds].tolist()], pa.int32())
    return pa.RecordBatch.from_arrays([to, blobs], schema=SHARES)


def _codes(visitor: Any) -> Tuple[Any, Any, Any]:
    """For each row a number for its visitor, and the ids and hashes of these numbers, in the order of the hashes."""
    if not pa.types.is_dictionary(visitor.type):
        visitor = visitor.dictionary_encode()
    ids = visitor.dictionary.cast(pa.string())
    hashes = xxhash64(ids)
    order = np.argsort(hashes, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[_numbers(visitor.indices)], ids.take(pa.array(order)), hashes[order]


def _partition(visitor_hash: Any, count: int) -> Any:
    """Of ``count`` equal ranges of hashes the one that each is in: in the order of the hashes, so one sort does."""
    high = (visitor_hash >> np.int64(32)) + np.int64(1 << 31)
    return (high * np.int64(count)) >> np.int64(32)


def _by_code_and_time(code: Any, ts: Any) -> Any:
    # One sort by one number, which vector instructions do, is several times as fast as one by two.
    return np.argsort(_joined(code, ts)) if _fits(code, ts) else np.lexsort((ts, code))


def _fits(code: Any, ts: Any) -> bool:
    span = int(ts.max()) - int(ts.min()) + 1
    return (int(code.max()) + 1) * span < 1 << 63


def _joined(code: Any, ts: Any) -> Any:
    """One number that sorts as ``code`` and then ``ts`` do."""
    least = ts.min()
    return code * (ts.max() - least + 1) + (ts - least)


def _ends(first: Any, ts: Any, is_page_view: Any, order: Any, rules: SessionRules) -> Any:
    """Whether a hit, or its page, may be the first or last one of a session once all chunks are together.

    Hits of one time count as first and last alike: which of them comes first is decided later, by their hashes. A hit
    that is dropped then as a copy has the same path as the one that stays.
    """
    begins = first.copy()
    begins[1:] |= ts[1:] - ts[:-1] > rules.inactivity_micros
    starts = np.flatnonzero(begins)
    piece = np.cumsum(begins) - 1
    lasts = np.append(starts[1:], len(ts)) - 1
    useful = (ts == ts[starts][piece]) | (ts == ts[lasts][piece])
    page = pc.fill_null(is_page_view, False).to_numpy(zero_copy_only=False)[order]
    pages = np.flatnonzero(page)
    if len(pages):
        of = piece[pages]
        changes = np.flatnonzero(np.append(True, of[1:] != of[:-1]))
        first_page, last_page = pages[changes], pages[np.append(changes[1:], len(pages)) - 1]
        earliest = np.full(len(starts), np.iinfo(np.int64).min)
        latest = earliest.copy()
        earliest[of[changes]], latest[of[changes]] = ts[first_page], ts[last_page]
        useful |= page & ((ts == earliest[piece]) | (ts == latest[piece]))
    return useful


def _visitors(told: Any) -> Tuple[Any, Any]:
    """For each hit a number for its visitor, and the ids of these numbers."""
    ids = told.column("visitor_id").combine_chunks()
    visitor_hash = _numbers(told.column("hash"))
    entry = np.repeat(np.arange(len(ids)), _numbers(told.column("hits")))
    order = np.argsort(visitor_hash)
    in_order, ids_in_order = visitor_hash[order], ids.take(pa.array(order))
    other_hash = np.append(True, in_order[1:] != in_order[:-1])
    other_id = pc.not_equal(ids_in_order[1:], ids_in_order[:-1]).to_numpy(zero_copy_only=False)
    if (other_id & ~other_hash[1:]).any():
        # Two visitors with one hash: their names decide.
        encoded = ids.dictionary_encode()
        return _numbers(encoded.indices).astype(np.int64)[entry], encoded.dictionary
    code = np.empty(len(order), np.int64)
    code[order] = np.cumsum(other_hash) - 1
    return code[entry], ids_in_order.filter(pa.array(other_hash))


def _order(visitor: Any, column: Any) -> Any:
    """Row numbers by visitor, time, event and owner."""
    ts = _numbers(column["ts"])
    if _fits(visitor, ts):
        joined = _joined(visitor, ts)
        order = np.argsort(joined)
        in_order = joined[order]
        same = in_order[1:] == in_order[:-1]
    else:
        order = np.lexsort((ts, visitor))
        same = (ts[order][1:] == ts[order][:-1]) & (visitor[order][1:] == visitor[order][:-1])
    if same.any():
        rows = np.flatnonzero(np.append(False, same) | np.append(same, False))
        tied = order[rows]
        group = np.cumsum(~np.append(False, same)[rows])
        by = np.lexsort((_numbers(column["owner"])[tied], _numbers(column["event"])[tied], group))
        order[rows] = tied[by]
    return order


def _numbers(array: Any) -> Any:
    return array.to_numpy(zero_copy_only=False)
