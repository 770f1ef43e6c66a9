"""Parsed lines of whole visitors to events, within Arrow: what a partition of the shuffle of lines does with its hits.

The same rules as those of ``enrichment.py``, which are Spark's own expressions, and the same events; docs/enrichment.md
has them. Each question is asked once for each distinct text, and what Python's libraries know comes as tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_emr_etl.models import access_log
from airflow_emr_etl.spark import campaigns, columns, referrers, robots, urls, user_agents
from airflow_emr_etl.spark.arrow_text import asked, dictionary_at, places, told
from airflow_emr_etl.spark.robots import BehaviourRules

_TEXT = pa.dictionary(pa.int32(), pa.string())
_TYPES = {
    "VARCHAR": _TEXT,
    "TIMESTAMP": pa.timestamp("us", "UTC"),
    "SMALLINT": pa.int16(),
    "BIGINT": pa.int64(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
}
EVENTS = pa.schema(
    [
        (c.name, pa.string() if c.name in ("event_id", "visitor_id") else _TYPES[c.type.split("(")[0]])
        for c in columns.NORMALIZED
    ]
)
"""The columns of ``columns.NORMALIZED``; texts that many events have are dictionaries."""

_EXTENSIONS = frozenset(access_log.ASSET_EXTENSIONS)


@dataclass(frozen=True)
class Judge:
    """What events are made by.

    ``agents`` has ``user_agent``, ``user_agents.COLUMNS`` and ``name_reason``; ``referrers`` has ``referrer`` and
    ``referrers.COLUMNS`` of those that are known; both are tables of texts, each value once.
    """

    day: date
    sites: Tuple[str, ...]
    behaviour: BehaviourRules
    agents: Any
    referrers: Any


def events(hits: Any, judge: Judge) -> Any:
    """All hits of some visitors (``line_shares.HITS``) as a table of :data:`EVENTS`, by visitor and time."""
    hits, occurrence, dropped = _counted(_in_order(hits))
    column = {name: hits.column(name).combine_chunks() for name in hits.column_names}
    visitor = places(column["visitor_id"])
    page = column["path"]
    asset = asked(page, is_asset)
    agents = _looked_up(column["user_agent"], judge.agents, (*user_agents.COLUMNS, "name_reason"))
    named = agents.pop("name_reason")
    behaviour = _behaviour(visitor, column, asset, judge.behaviour)
    reason = behaviour if named.null_count == len(named) else _coalesced(named, behaviour)
    is_bot = reason.is_valid()
    (host,) = told(column["referrer"], lambda text: (referrers.host_of(text),), 1)
    known = _looked_up(column["referrer"], judge.referrers, referrers.COLUMNS)
    known["referrer_medium"] = _medium(column["referrer"], host, known["referrer_medium"], judge.sites)
    marked = told(column["query"], campaigns.campaign_of, len(campaigns.COLUMNS))
    count = len(visitor)
    made: Dict[str, Any] = {
        **column,
        **agents,
        **known,
        **dict(zip(campaigns.COLUMNS, marked)),
        "event_id": _event_ids(column["key"], occurrence),
        "visitor_id": _hexadecimal(column["visitor_id"].dictionary).take(column["visitor_id"].indices),
        "ts": column["ts"].cast(EVENTS.field("ts").type),
        "page": told(page, lambda path: (urls.page(path),), 1)[0],
        "referrer_host": host,
        "is_internal": pa.repeat(pa.scalar(False), count),
        "is_bot": is_bot,
        "bot_reason": reason,
        "is_page_view": _is_page_view(column, asset, is_bot),
        "dt": pa.repeat(pa.scalar(judge.day, pa.date32()), count),
        "dropped_copies": pa.array(dropped),
        "dropped_repeats": pa.repeat(pa.scalar(0, pa.int64()), count),
    }
    return pa.table([made[field.name].cast(field.type) for field in EVENTS], EVENTS)


def is_asset(path: str) -> bool:
    """See ``enrichment.is_asset``."""
    return "." in path and path.lower().rpartition(".")[2] in _EXTENSIONS


def _in_order(hits: Any) -> Any:
    """By visitor (in the order of the ids), time and line."""
    visitors = hits.column("visitor_id").combine_chunks()
    by_id = pc.sort_indices(visitors.dictionary.cast(pa.binary())).to_numpy()
    rank = np.empty(len(by_id), np.int64)
    rank[by_id] = np.arange(len(by_id))
    code = rank[np.asarray(visitors.indices)]
    ts = hits.column("ts").to_numpy()
    if not len(ts):
        return hits
    span = int(ts.max()) - int(ts.min()) + 1
    if (int(code.max()) + 1) * span < 1 << 63:
        joined = code * span + (ts - ts.min())
        order = np.argsort(joined, kind="stable")
        same = joined[order][1:] == joined[order][:-1]
    else:
        order = np.lexsort((ts, code))
        same = (ts[order][1:] == ts[order][:-1]) & (code[order][1:] == code[order][:-1])
    if same.any():
        # Few hits have the time of another one of their visitor, so few keys have to be compared.
        rows = np.flatnonzero(np.append(False, same) | np.append(same, False))
        tied = order[rows]
        group = np.cumsum(~np.append(False, same)[rows])
        words = _words(hits.column("key").combine_chunks())[tied]
        file = hits.column("file").to_numpy()[tied]
        by = np.lexsort((file, words[:, 3], words[:, 2], words[:, 1], words[:, 0], group))
        order[rows] = tied[by]
    return hits.take(pa.array(order)).combine_chunks()


def _counted(hits: Any) -> Tuple[Any, Any, Any]:
    """The hits that count, the occurrence of each (of the same line, from 1), and how many copies it stands for.

    See ``enrichment._distinct``: a line counts as often as it is in the file that has it most often.
    """
    count = hits.num_rows
    occurrence, dropped = np.ones(count, np.int64), np.zeros(count, np.int64)
    if count < 2:
        return hits, occurrence, dropped
    visitor = np.asarray(hits.column("visitor_id").combine_chunks().indices)
    ts = hits.column("ts").to_numpy()
    equal = (visitor[1:] == visitor[:-1]) & (ts[1:] == ts[:-1])
    near = np.flatnonzero(equal)
    words = _words(hits.column("key").combine_chunks())
    equal[near] = (words[near] == words[near + 1]).all(axis=1)
    if not equal.any():
        return hits, occurrence, dropped
    first = np.append(True, ~equal)
    begins = np.flatnonzero(first)
    line = np.cumsum(first) - 1
    copies = np.diff(np.append(begins, count))
    occurrence = np.arange(count) - begins[line] + 1
    file = hits.column("file").to_numpy()
    run_begins = np.flatnonzero(first | np.append(True, file[1:] != file[:-1]))
    runs = np.diff(np.append(run_begins, count))
    most = np.zeros(len(begins), np.int64)
    np.maximum.at(most, line[run_begins], runs)
    dropped[begins] = copies - most
    kept = occurrence <= most[line]
    return hits.filter(pa.array(kept)).combine_chunks(), occurrence[kept], dropped[kept]


def _words(keys: Any) -> Any:
    """Digests as four numbers each, which sort as they do."""
    content = np.frombuffer(keys.buffers()[1], ">u8").reshape(-1, 4)
    return content[keys.offset : keys.offset + len(keys)].astype(np.uint64)


def _looked_up(texts: Any, table: Any, names: Sequence[str]) -> Dict[str, Any]:
    """The columns ``names`` of ``table`` for each of ``texts``, by its first column; NULL where it has no such text."""
    row = pc.index_in(texts.dictionary, table.column(0).combine_chunks()).take(texts.indices)
    return {name: dictionary_at(table.column(name).combine_chunks().cast(pa.string()), row) for name in names}


def _coalesced(first: Any, second: Any) -> Any:
    return pc.coalesce(first.dictionary_decode(), second.dictionary_decode()).dictionary_encode()


def _behaviour(visitor: Any, column: Dict[str, Any], asset: Any, rules: BehaviourRules) -> Any:
    """What the visitor of each hit gives himself away by; see ``robots.behaviour``."""
    count = len(visitor)
    if not rules.behaviours or not count:
        return pa.DictionaryArray.from_arrays(pa.nulls(count, pa.int32()), pa.array([], pa.string()))
    begins = np.flatnonzero(np.append(True, visitor[1:] != visitor[:-1]))
    hits = np.diff(np.append(begins, count))
    page = ~asset
    pages = np.add.reduceat(page.astype(np.int64), begins)
    # Whole seconds, as the expressions have it.
    seconds = column["ts"].to_numpy() // 1_000_000
    least, most = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    last = np.maximum.reduceat(np.where(page, seconds, least), begins)
    earliest = np.minimum.reduceat(np.where(page, seconds, most), begins)
    span = np.maximum(np.where(pages > 0, last - np.where(pages > 0, earliest, 0), 0), 60)

    def some(of_hit: Any) -> Any:
        return np.add.reduceat(of_hit.astype(np.int64), begins)

    found = {
        "robots_txt": some(asked(column["path"], lambda path: path.lower() == "/robots.txt")) > 0,
        "head_only": (hits >= rules.head_only_hits)
        & (some(asked(column["method"], lambda method: method == "HEAD")) == hits),
        "rate": (pages >= rules.rate_pages) & (pages * 60 >= span * rules.rate_pages_a_minute),
        "no_assets": (pages >= rules.no_assets_pages) & (hits == pages),
    }
    reason = np.full(len(begins), -1)
    for number, name in reversed(list(enumerate(robots.BEHAVIOURS))):
        if name in rules.behaviours:
            reason[found[name]] = number
    of_hit = np.repeat(reason, hits)
    return pa.DictionaryArray.from_arrays(
        pa.array(of_hit.astype(np.int32), mask=of_hit < 0), pa.array(robots.BEHAVIOURS)
    )


def _medium(referrer: Any, host: Any, known: Any, sites: Sequence[str]) -> Any:
    """Of each referrer its medium; see ``enrichment._event_columns``."""
    media = pc.fill_null(known.dictionary_decode(), "unknown")
    if sites:
        own = pa.array(asked(host, frozenset(sites).__contains__))
        media = pc.if_else(own, "internal", media)
    return pc.if_else(referrer.is_valid(), media, "direct").dictionary_encode()


def _is_page_view(column: Dict[str, Any], asset: Any, is_bot: Any) -> Any:
    """See ``enrichment.is_page_view``."""
    get = pa.array(asked(column["method"], lambda method: method == "GET"))
    status = column["status"]
    fine = pc.or_(pc.and_(pc.greater_equal(status, 200), pc.less_equal(status, 299)), pc.equal(status, 304))
    by_request = pc.and_(pc.and_(get, pc.fill_null(fine, False)), pa.array(~asset))
    request = pc.and_(column["method"].is_valid(), status.is_valid())
    page = pc.if_else(request, by_request, pc.fill_null(column["is_named_page"], False))
    return pc.and_(page, pc.invert(is_bot))


def _event_ids(keys: Any, occurrence: Any) -> Any:
    """The digest of a line; for a line that is there again, one of that and which of them it is."""
    ids = _hexadecimal(keys)
    again = np.flatnonzero(occurrence > 1)
    if not len(again):
        return ids
    made: List[str] = [
        sha256(f"{text}:{number}".encode()).hexdigest()
        for text, number in zip(ids.take(pa.array(again)).to_pylist(), occurrence[again].tolist())
    ]
    return pc.replace_with_mask(ids, pa.array(occurrence > 1), pa.array(made))


def _hexadecimal(digests: Any) -> Any:
    """Digests as texts of lower-case digits."""
    width = digests.type.byte_width
    whole = digests.buffers()[1]
    content = whole.slice(digests.offset * width, len(digests) * width) if whole is not None else b""
    offsets = np.arange(len(digests) + 1, dtype=np.int32) * (2 * width)
    data = memoryview(content).hex().encode()
    return pa.Array.from_buffers(pa.string(), len(digests), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
