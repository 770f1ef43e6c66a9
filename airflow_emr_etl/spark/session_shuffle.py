"""Hits through the shuffle in columns: Arrow batches go in as one row for each partition they have hits for.

A shuffle of rows copies, compares and compresses hit by hit. Here a map task sorts a chunk of hits by partition,
visitor and time, and hands each partition's share to Spark as one binary value; a reduce task puts the shares together
and sorts once more. Spark still moves, spills, retries and places the data: only what it calls a row is larger.

Texts are most of the bytes, so they travel only where they can matter: the visitor where it differs from the hit
before, path and referrer not for hits in the middle of what is one session already within the chunk.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_emr_etl.models.session_rules import SessionRules
from airflow_emr_etl.spark import session_pass

HITS = pa.schema(
    [
        ("visitor_hash", pa.int64()),
        ("visitor_id", pa.string()),
        ("owner", pa.int32()),
        *((field.name, field.type) for field in session_pass.INPUT if field.name != "visitor"),
    ]
)
"""``visitor_hash`` spreads and groups; two visitors with the same one are told apart. Of equal events that with the
least ``owner`` counts."""

SHARES = pa.schema([("partition_key", pa.int32()), ("hits", pa.binary())])

CHUNK_ROWS = 1 << 19
"""Hits that a map task holds at a time, some 100 MB."""


def pack(batches: Iterable[Any], rules: SessionRules, keys: Sequence[int]) -> Iterator[Any]:
    """Batches of :data:`HITS` to batches of :data:`SHARES`. ``keys``: for each partition what Spark sends there."""
    waiting: List[Any] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= CHUNK_ROWS:
            yield _shares(waiting, rules, keys)
            waiting, rows = [], 0
    if rows:
        yield _shares(waiting, rules, keys)


def unpack(batches: Iterable[Any]) -> Tuple[Any, Iterator[Any]]:
    """The shares of a partition as the visitors' ids, and batches of ``session_pass.INPUT`` in the pass's order.

    ``visitor`` in a batch is a place in the ids.
    """
    shares = [
        pa.ipc.read_record_batch(pa.py_buffer(blob.as_buffer()), HITS)
        for batch in batches
        for blob in batch.column("hits")
    ]
    if not shares:
        return pa.array([], pa.string()), iter(())
    table = pa.Table.from_batches(shares)
    column = {name: table.column(name).combine_chunks() for name in HITS.names}
    visitor, names = _visitors(column)
    order = _order(visitor, column)
    where = pa.array(order)
    column["visitor"] = pa.array(visitor)
    hits = pa.table([column[name].take(where) for name in session_pass.INPUT.names], session_pass.INPUT)
    return names, iter(hits.to_batches(max_chunksize=session_pass.CHUNK_ROWS))


def _shares(waiting: List[Any], rules: SessionRules, keys: Sequence[int]) -> Any:
    column = _columns(pa.Table.from_batches(waiting))
    visitor_hash, ts = _numbers(column["visitor_hash"]), _numbers(column["ts"])
    order = _by_visitor_and_time(visitor_hash, ts)
    partition = _partition(visitor_hash[order], len(keys))
    where = pa.array(order)
    visitor = column["visitor_id"].take(where)
    first = np.ones(len(order), bool)
    first[1:] = pc.not_equal(visitor[1:], visitor[:-1]).to_numpy(zero_copy_only=False)
    bounds = np.flatnonzero(np.append(True, partition[1:] != partition[:-1]))
    first[bounds] = True
    texts = {"visitor_id": visitor.take(pa.array(np.arange(len(order)), mask=~first))}
    if not rules.cut_on and rules.max_micros is None and rules.midnight_zone is None:
        useful = _ends(first, ts[order], column, order, rules)
        if useful is not None:
            seldom = pa.array(order, mask=~useful)
            texts.update((name, column[name].take(seldom)) for name in ("path", "referrer"))
    sorted_ = [texts[name] if name in texts else column[name].take(where) for name in HITS.names]
    batch = pa.RecordBatch.from_arrays(sorted_, schema=HITS)
    ends = np.append(bounds[1:], len(order))
    places = [0]
    sink = pa.BufferOutputStream()
    for begin, end in zip(bounds.tolist(), ends.tolist()):
        sink.write(batch.slice(begin, end - begin).serialize())
        places.append(sink.tell())
    blobs = pa.Array.from_buffers(
        pa.binary(), len(bounds), [None, pa.py_buffer(np.array(places, np.int32)), sink.getvalue()]
    )
    to = pa.array([keys[place] for place in partition[bounds].tolist()], pa.int32())
    return pa.RecordBatch.from_arrays([to, blobs], schema=SHARES)


def _columns(table: Any) -> Dict[str, Any]:
    """The columns of :data:`HITS`; those that were not sent are the same for every hit."""
    column = {}
    for field in HITS:
        if field.name in table.column_names:
            column[field.name] = table.column(field.name).combine_chunks().cast(field.type)
        elif field.name in ("owner", "kind"):
            same = pa.scalar(session_pass.FRESH if field.name == "kind" else 0, field.type)
            column[field.name] = pa.repeat(same, table.num_rows)
        else:
            column[field.name] = pa.nulls(table.num_rows, field.type)
    return column


def _partition(visitor_hash: Any, count: int) -> Any:
    """Of ``count`` equal ranges of hashes the one that each is in: in the order of the hashes, so one sort does."""
    high = (visitor_hash >> np.int64(32)) + np.int64(1 << 31)
    return (high * np.int64(count)) >> np.int64(32)


def _by_visitor_and_time(visitor: Any, ts: Any) -> Any:
    # Two sorts by one number each, which vector instructions do, are several times faster than one by two.
    order = np.argsort(visitor)
    in_order = visitor[order]
    code = np.empty(len(order), np.int64)
    code[order] = np.cumsum(np.append(False, in_order[1:] != in_order[:-1]))
    return np.argsort(_joined(code, ts)) if _fits(code, ts) else np.lexsort((ts, visitor))


def _fits(code: Any, ts: Any) -> bool:
    span = int(ts.max()) - int(ts.min()) + 1
    return (int(code.max()) + 1) * span < 1 << 63


def _joined(code: Any, ts: Any) -> Any:
    """One number that sorts as ``code`` and then ``ts`` do."""
    least = ts.min()
    return code * (ts.max() - least + 1) + (ts - least)


def _ends(first: Any, ts: Any, column: Any, order: Any, rules: SessionRules) -> Any:
    """Whether a hit, or its page, may be the first or last one of a session once all chunks are together.

    Hits of one time count as first and last alike: which of them comes first is decided later, by their hashes. A hit
    that is dropped then as a copy has the same path as the one that stays. None where gone hits forbid the shortcut:
    what they hold together may fall apart.
    """
    kind = _numbers(column["kind"])
    if (kind == session_pass.GONE).any():
        return None
    begins = first.copy()
    begins[1:] |= ts[1:] - ts[:-1] > rules.inactivity_micros
    starts = np.flatnonzero(begins)
    piece = np.cumsum(begins) - 1
    lasts = np.append(starts[1:], len(ts)) - 1
    useful = (ts == ts[starts][piece]) | (ts == ts[lasts][piece])
    page = pc.fill_null(column["is_page_view"], False).to_numpy(zero_copy_only=False)[order]
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


def _visitors(column: Any) -> Tuple[Any, Any]:
    """For each row a number for its visitor, and the ids of these numbers."""
    told = column["visitor_id"].is_valid().to_numpy(zero_copy_only=False)
    entry = np.cumsum(told) - 1
    ids = column["visitor_id"].drop_null()
    visitor_hash = _numbers(column["visitor_hash"])[told]
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
