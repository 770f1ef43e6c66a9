"""Sorted hits in, sessions out: one pass over Arrow batches, in memory that does not grow with the data.

This is what a partition of the shuffle does with its rows; it knows nothing of Spark. The hits come sorted by
(visitor, ts, event) and then by which of equal events counts. What is open at the end of a chunk, one
session of one visitor, goes into the next chunk as a single row that stands for all of its hits, so that the
arithmetic needs no special case for it.

Words: an *activity* is a visitor's hits with no pause longer than the inactivity between them. Sessions lie within
one, because no rule looks farther; it is the unit that is stated anew as a whole when one of its hits is *fresh*.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_emr_etl.models.session_rules import SessionRules

KNOWN, FRESH, GONE = 0, 1, 2
"""``kind`` of a hit: of another batch, of the batch at hand, or of an earlier version of that one and now no more."""

INPUT = pa.schema(
    [
        ("visitor", pa.int64()),
        ("ts", pa.int64()),
        ("event", pa.int64()),
        ("kind", pa.int8()),
        ("is_page_view", pa.bool_()),
        ("path", pa.string()),
        ("referrer", pa.string()),
        ("cut_key", pa.int64()),
        ("cut_day", pa.int32()),
    ]
)
"""``visitor`` and ``event`` are numbers that stand for one. ``ts`` in microseconds since 1970. ``cut_key``: campaign
or referrer as a number, NULL where a hit has none. ``cut_day``: the day in the time zone of the cut at midnight."""

OUTPUT = pa.schema(
    [
        ("visitor", pa.int64()),
        ("first_event", pa.int64()),
        ("started_at", pa.int64()),
        ("ended_at", pa.int64()),
        ("hits", pa.int64()),
        ("page_views", pa.int64()),
        ("entry_path", pa.string()),
        ("exit_path", pa.string()),
        ("referrer", pa.string()),
        ("restates_from", pa.int64()),
        ("restates_to", pa.int64()),
        ("fresh", pa.bool_()),
        ("retracted", pa.bool_()),
    ]
)
"""``restates_*``: the activity that the session lies in. ``fresh``:
that has a fresh or gone hit. ``retracted``: nothing is left of the activity, and the row only says so."""

CHUNK_ROWS = 1 << 17
_SESSION = OUTPUT.names[:9]


def sessions(batches: Iterable[Any], rules: SessionRules) -> Iterator[Any]:
    """Record batches of :data:`INPUT`, in order, to record batches of :data:`OUTPUT`."""
    through = _Pass(rules)
    waiting: List[Any] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= CHUNK_ROWS:
            yield from through.feed(waiting)
            waiting, rows = [], 0
    if rows:
        yield from through.feed(waiting)
    yield from through.finish()


class _Hits:
    """One row a hit, but the first may stand for the open session, or for gone hits alone (``hits`` is 0)."""

    def __init__(
        self,
        number: Dict[str, Any],
        flag: Dict[str, Any],
        text: Dict[str, Any],
    ) -> None:
        self.number, self.flag, self.text = number, flag, text

    @classmethod
    def of(cls, batches: List[Any]) -> _Hits:
        table = pa.Table.from_batches(batches)
        column = {name: table.column(name).combine_chunks() for name in INPUT.names}

        def numbers(name: str) -> Any:
            return pc.fill_null(column[name], 0).to_numpy(zero_copy_only=False)

        ts, kind, event = numbers("ts"), numbers("kind"), numbers("event")
        pages = pc.fill_null(column["is_page_view"], False).to_numpy(zero_copy_only=False)
        live = kind != GONE
        path = column["path"]
        return cls(
            number={
                "visitor": numbers("visitor"),
                "event": event,
                "first_event": event,
                "ts": ts,
                "live_ts": ts,
                "start": ts,
                "begin": ts,
                "hits": live.astype(np.int64),
                "pages": (pages & live).astype(np.int64),
                "key": numbers("cut_key"),
                "day": numbers("cut_day"),
            },
            flag={
                "has_key": pc.is_valid(column["cut_key"]).to_numpy(zero_copy_only=False) & live,
                "fresh": kind != KNOWN,
                "gone": kind == GONE,
            },
            text={
                "first_path": path,
                "last_path": path,
                "first_page": path,
                "last_page": path,
                "referrer": column["referrer"],
            },
        )

    def __len__(self) -> int:
        return len(self.number["ts"])

    def after(self, row: _Hits) -> _Hits:
        """These hits with ``row`` before them."""
        return _Hits(
            {name: np.concatenate([row.number[name], self.number[name]]) for name in self.number},
            {name: np.concatenate([row.flag[name], self.flag[name]]) for name in self.flag},
            {name: pa.concat_arrays([row.text[name], self.text[name]]) for name in self.text},
        )

    def take(self, rows: Any) -> _Hits:
        where = pa.array(rows)
        return _Hits(
            {name: values[rows] for name, values in self.number.items()},
            {name: values[rows] for name, values in self.flag.items()},
            _taken(self.text, where),
        )

    def distinct(self) -> _Hits:
        """Without the hits that have time and event of the one before."""
        same = np.zeros(len(self), bool)
        for name in ("event", "ts", "visitor"):
            same[1:] |= _different(self.number[name])
        same = ~same
        same[0] = False
        if not same.any():
            return self
        kept = np.flatnonzero(~same)
        into = np.cumsum(~same) - 1
        hits = self.take(kept)
        # What this batch has no more and another has is that one's now: its row must be stated by it.
        gone = same & self.flag["gone"]
        hits.flag["fresh"] = hits.flag["fresh"].copy()
        hits.flag["fresh"][into[gone]] = True
        return hits


def _taken(columns: Dict[str, Any], where: Any) -> Dict[str, Any]:
    # The same array stands under several names; each is taken once.
    done: Dict[int, Any] = {}
    for values in columns.values():
        if id(values) not in done:
            done[id(values)] = values.take(where)
    return {name: done[id(values)] for name, values in columns.items()}


def _different(values: Any) -> Any:
    return values[1:] != values[:-1]


class _Pass:
    def __init__(self, rules: SessionRules) -> None:
        self.rules = rules
        self.open: Optional[_Hits] = None
        self.pending: List[Any] = []
        """Sessions of the open activity that have ended; whether they are stated anew is known at its end."""

    def feed(self, batches: List[Any]) -> Iterator[Any]:
        hits = _Hits.of(batches)
        if self.open is not None:
            hits = hits.after(self.open)
        if len(hits):
            yield from self._through(hits.distinct(), last=False)

    def finish(self) -> Iterator[Any]:
        if self.open is not None:
            yield from self._through(self.open, last=True)
            self.open = None

    def _through(self, hits: _Hits, last: bool) -> Iterator[Any]:
        number, rules = hits.number, self.rules
        begins = np.ones(len(hits), bool)
        begins[1:] = _different(number["visitor"]) | (
            number["ts"][1:] - number["ts"][:-1] > rules.inactivity_micros
        )
        first_rows = np.flatnonzero(begins)
        activity = np.cumsum(begins) - 1
        activities = {
            "restates_from": number["begin"][first_rows],
            "restates_to": number["ts"][np.append(first_rows[1:], len(hits)) - 1],
            "fresh": np.logical_or.reduceat(hits.flag["fresh"], first_rows),
        }
        alive = number["hits"] > 0
        if alive.all():
            living, of = hits, activity
        else:
            living, of = hits.take(np.flatnonzero(alive)), activity[alive]
        found, starts = self._sessions(living, of)
        of_session = of[starts]

        open_activity = len(first_rows) - 1
        done = of_session < open_activity
        if last:
            done[:] = True
        else:
            # The last session of the open activity may go on; those before it only wait for its end.
            going = ~done
            ends_with_one = len(going) > 0 and going[-1]
            if ends_with_one:
                going[-1] = False
        pieces = []
        if self.pending and (open_activity > 0 or last):
            ended = pa.concat_tables(self.pending)
            pieces.append((ended, np.zeros(ended.num_rows, np.int64)))
            self.pending = []
        if done.any():
            pieces.append((found.filter(pa.array(done)), of_session[done]))
        if not last and going.any():
            self.pending.append(found.filter(pa.array(going)))
        empty = self._without_a_hit(hits, activities, activity, alive, len(first_rows) - (0 if last else 1))
        for ended, which in pieces:
            yield from _table(ended, which, activities, retracted=False).to_batches()
        if empty is not None:
            yield from empty.to_batches()
        if not last:
            self.open = self._left_open(hits, living, found, starts, first_rows[-1], ends_with_one)

    def _sessions(self, hits: _Hits, activity: Any) -> Tuple[Any, Any]:
        """The sessions of hits that are there, and the row that each begins with."""
        count = len(hits)
        if not count:
            return _session_table(hits, np.zeros(0, np.int64)), np.zeros(0, np.int64)
        number, rules = hits.number, self.rules
        fresh_activity = np.ones(count, bool)
        fresh_activity[1:] = activity[1:] != activity[:-1]
        cuts = fresh_activity.copy()
        # Where gone hits hold an activity together, the pause between those that are left may be too long.
        cuts[1:] |= number["live_ts"][1:] - number["live_ts"][:-1] > rules.inactivity_micros
        if rules.midnight_zone is not None:
            cuts[1:] |= number["day"][1:] != number["day"][:-1]
        if rules.cut_on:
            cuts |= _key_changes(number["key"], hits.flag["has_key"], np.flatnonzero(fresh_activity))
        if rules.max_micros is not None:
            _cut_to_length(cuts, number["start"], number["live_ts"], rules.max_micros)
        starts = np.flatnonzero(cuts)
        return _session_table(hits, starts), starts

    def _without_a_hit(
        self, hits: _Hits, activities: Dict[str, Any], activity: Any, alive: Any, closed: int
    ) -> Any:
        """Rows that retract: for activities of gone hits alone."""
        if alive.all():
            return None
        has = np.zeros(int(activity[-1]) + 1, bool)
        has[activity[alive]] = True
        has[closed:] = True
        which = np.flatnonzero(~has)
        if not len(which):
            return None
        number = hits.number
        first_rows = np.searchsorted(activity, np.arange(len(has)))
        nothing, no_text = np.zeros(len(which), np.int64), pa.nulls(len(which), pa.string())
        table = pa.table(
            {
                "visitor": number["visitor"][first_rows[which]],
                "first_event": number["first_event"][first_rows[which]],
                "started_at": activities["restates_from"][which],
                "ended_at": activities["restates_to"][which],
                **dict.fromkeys(("hits", "page_views"), nothing),
                **dict.fromkeys(("entry_path", "exit_path", "referrer"), no_text),
            }
        )
        return _table(table, which, activities, retracted=True)

    def _left_open(
        self, hits: _Hits, living: _Hits, found: Any, starts: Any, begin_row: int, alive: bool
    ) -> _Hits:
        """The last session (or the gone hits) of the last activity as one row."""
        end = np.array([len(hits) - 1])
        row = hits.take(end)
        number = {name: values.copy() for name, values in row.number.items()}
        flag = {name: values.copy() for name, values in row.flag.items()}
        number["begin"] = hits.number["begin"][begin_row : begin_row + 1].copy()
        flag["fresh"] = np.array([bool(hits.flag["fresh"][begin_row:].any())])
        text = dict(row.text)
        if not alive:
            number["hits"][:] = 0
            number["first_event"][:] = hits.number["first_event"][begin_row]
            return _Hits(number, flag, text)
        session = found.slice(found.num_rows - 1).to_pydict()
        begin = int(starts[-1])
        number["live_ts"][:] = session["ended_at"][0]
        number["start"][:] = session["started_at"][0]
        number["hits"][:] = session["hits"][0]
        number["pages"][:] = session["page_views"][0]
        number["day"][:] = living.number["day"][-1]
        # The last campaign of the whole activity: a cut by length does not forget it.
        first_of_activity = len(living) - int((hits.number["hits"][begin_row:] > 0).sum())
        keyed = np.flatnonzero(living.flag["has_key"][first_of_activity:])
        flag["has_key"] = np.array([len(keyed) > 0])
        if len(keyed):
            number["key"][:] = living.number["key"][first_of_activity + keyed[-1]]
        pages = np.flatnonzero(living.number["pages"][begin:]) + begin
        first = pa.array([begin])
        number["first_event"][:] = living.number["first_event"][begin]
        text["first_path"] = living.text["first_path"].take(first)
        text["referrer"] = living.text["referrer"].take(first)
        text["last_path"] = living.text["last_path"].take(pa.array([len(living) - 1]))
        if len(pages):
            text["first_page"] = living.text["first_page"].take(pa.array(pages[:1]))
            text["last_page"] = living.text["last_page"].take(pa.array(pages[-1:]))
        return _Hits(number, flag, text)


def _key_changes(key: Any, has_key: Any, activity_starts: Any) -> Any:
    """Where a hit brings a campaign that is not the last one of its activity so far."""
    count = len(key)
    begin = np.zeros(count, np.int64)
    begin[activity_starts] = activity_starts
    begin = np.maximum.accumulate(begin)
    latest = np.maximum.accumulate(np.where(has_key, np.arange(count), -1))
    before = np.append(-1, latest[:-1])
    known = before >= begin
    changed = ~known | (key[np.maximum(before, 0)] != key)
    changes = has_key & changed
    changes[activity_starts] = False
    return changes


def _cut_to_length(cuts: Any, start: Any, ts: Any, longest: int) -> None:
    """Begin a session in ``cuts`` wherever the one before would get longer than ``longest``."""
    starts = np.flatnonzero(cuts)
    ends = np.append(starts[1:], len(cuts))
    for number in np.flatnonzero(ts[ends - 1] - start[starts] > longest):
        row, end, begin = starts[number], ends[number], start[starts[number]]
        while True:
            row = row + int(np.searchsorted(ts[row:end], begin + longest, side="right"))
            if row >= end:
                break
            cuts[row] = True
            begin = ts[row]


def _session_table(hits: _Hits, starts: Any) -> Any:
    number, text = hits.number, hits.text
    ends = np.append(starts[1:], len(hits))[: len(starts)] - 1
    if len(starts):
        page_views = np.add.reduceat(number["pages"], starts)
        count = np.add.reduceat(number["hits"], starts)
    else:
        page_views = count = np.zeros(0, np.int64)
    viewed = page_views > 0
    pages = np.flatnonzero(number["pages"])
    first_page = np.searchsorted(pages, starts)
    last_page = np.searchsorted(pages, ends, side="right") - 1
    entry, leave = starts.copy(), ends.copy()
    entry[viewed] = pages[first_page[viewed]]
    leave[viewed] = pages[last_page[viewed]]
    first = pa.array(starts)
    return pa.table(
        {
            "visitor": number["visitor"][starts],
            "first_event": number["first_event"][starts],
            "started_at": number["start"][starts],
            "ended_at": number["live_ts"][ends],
            "hits": count,
            "page_views": page_views,
            "entry_path": _either(viewed, text["first_page"], text["first_path"], entry),
            "exit_path": _either(viewed, text["last_page"], text["last_path"], leave),
            "referrer": text["referrer"].take(first),
        }
    )


def _either(viewed: Any, of_page: Any, of_hit: Any, rows: Any) -> Any:
    where = pa.array(rows)
    if of_page is of_hit:
        return of_hit.take(where)
    return pc.if_else(pa.array(viewed), of_page.take(where), of_hit.take(where))


def _table(table: Any, which: Any, activities: Dict[str, Any], retracted: bool) -> Any:
    columns = {name: table.column(name) for name in _SESSION}
    columns.update((name, pa.array(values[which])) for name, values in activities.items())
    columns["retracted"] = pa.array(np.full(len(which), retracted))
    return pa.table(columns).cast(OUTPUT)
