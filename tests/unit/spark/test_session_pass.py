"""The pass over sorted hits against sessions that are found one hit at a time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.session_rules import SessionRules

pa = pytest.importorskip("pyarrow", reason="pyarrow comes with the extra spark")

from airflow_emr_etl.spark import session_pass  # noqa: E402
from airflow_emr_etl.spark.session_pass import FRESH, GONE, INPUT, KNOWN  # noqa: E402

MINUTE = 60_000_000


def one_by_one(rows: list[dict[str, Any]], rules: SessionRules) -> list[dict[str, Any]]:
    """The rules as a person would apply them."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        if kept and all(kept[-1][name] == row[name] for name in ("visitor", "ts", "event")):
            kept[-1]["fresh"] |= row["kind"] == GONE
        else:
            kept.append({**row, "fresh": row["kind"] != KNOWN})
    activities: list[list[dict[str, Any]]] = []
    for row in kept:
        last = activities[-1][-1] if activities else None
        if (
            last is None
            or last["visitor"] != row["visitor"]
            or row["ts"] - last["ts"] > rules.inactivity_micros
        ):
            activities.append([])
        activities[-1].append(row)
    found = []
    for activity in activities:
        sessions: list[list[dict[str, Any]]] = []
        key = None
        for row in activity:
            if row["kind"] == GONE:
                continue
            session = sessions[-1] if sessions else None
            new = (
                session is None
                or row["ts"] - session[-1]["ts"] > rules.inactivity_micros
                or (rules.max_micros is not None and row["ts"] - session[0]["ts"] > rules.max_micros)
                or (rules.midnight_zone is not None and row["cut_day"] != session[-1]["cut_day"])
                or (bool(rules.cut_on) and row["cut_key"] is not None and row["cut_key"] != key)
            )
            if row["cut_key"] is not None:
                key = row["cut_key"]
            if new:
                sessions.append([])
            sessions[-1].append(row)
        of_all = {
            "restates_from": activity[0]["ts"],
            "restates_to": activity[-1]["ts"],
            "fresh": any(row["fresh"] for row in activity),
        }
        if not sessions:
            nothing = dict.fromkeys(("hits", "page_views"), 0)
            found.append(
                {
                    "visitor": activity[0]["visitor"],
                    "first_event": activity[0]["event"],
                    "started_at": activity[0]["ts"],
                    "ended_at": activity[-1]["ts"],
                    **nothing,
                    **dict.fromkeys(("entry_path", "exit_path", "referrer")),
                    **of_all,
                    "retracted": True,
                }
            )
        for session in sessions:
            pages = [row for row in session if row["is_page_view"]] or session
            found.append(
                {
                    "visitor": session[0]["visitor"],
                    "first_event": session[0]["event"],
                    "started_at": session[0]["ts"],
                    "ended_at": session[-1]["ts"],
                    "hits": len(session),
                    "page_views": sum(row["is_page_view"] for row in session),
                    "entry_path": pages[0]["path"],
                    "exit_path": pages[-1]["path"],
                    "referrer": session[0]["referrer"],
                    **of_all,
                    "retracted": False,
                }
            )
    return found


HITS = st.lists(
    st.fixed_dictionaries(
        {
            "visitor": st.sampled_from([1, 2]),
            "ts": st.integers(0, 200).map(lambda minute: minute * 5 * MINUTE),
            "event": st.integers(1, 5),
            "kind": st.sampled_from([KNOWN, FRESH, FRESH, GONE]),
            "is_page_view": st.booleans(),
            "path": st.sampled_from(["/1", "/2", "/3", None]),
            "referrer": st.sampled_from([None, "r"]),
            "cut_key": st.sampled_from([None, None, None, 1, 2]),
        }
    ),
    max_size=60,
)
RULES = st.builds(
    SessionRules,
    inactivity_minutes=st.sampled_from([5, 30, 60]),
    max_minutes=st.sampled_from([None, 20, 60]),
    midnight_zone=st.sampled_from([None, "UTC"]),
    cut_on=st.sampled_from([(), ("campaign",)]),
)


def through(rows: list[dict[str, Any]], rules: SessionRules, cuts: list[int], chunk: int) -> list[Any]:
    places = sorted({0, *(cut % (len(rows) + 1) for cut in cuts), len(rows)})
    batches = [
        pa.RecordBatch.from_pylist(rows[begin:end], schema=INPUT) for begin, end in itertools.pairwise(places)
    ]
    before = session_pass.CHUNK_ROWS
    session_pass.CHUNK_ROWS = chunk
    try:
        out = [row for batch in session_pass.sessions(batches, rules) for row in batch.to_pylist()]
    finally:
        session_pass.CHUNK_ROWS = before
    return out


@settings(max_examples=600, deadline=None)
@given(HITS, RULES, st.lists(st.integers(0, 100), max_size=8), st.integers(1, 20))
def test_it_finds_what_one_hit_at_a_time_finds(
    hits: list[dict[str, Any]], rules: SessionRules, cuts: list[int], chunk: int
) -> None:
    rows = sorted(
        ({**hit, "cut_day": hit["ts"] // (24 * 60 * MINUTE)} for hit in hits),
        key=lambda row: (row["visitor"], row["ts"], row["event"], row["kind"] == GONE, row["kind"]),
    )
    expected = one_by_one(rows, rules)

    def order(row: dict[str, Any]) -> Any:
        return row["visitor"], row["started_at"], row["first_event"]

    assert sorted(through(rows, rules, cuts, chunk), key=order) == sorted(expected, key=order)


def test_exactly_the_inactivity_is_one_session() -> None:
    rows = [
        {"visitor": 7, "ts": minute * MINUTE, "event": minute, "kind": FRESH, "path": "/"}
        for minute in (0, 30, 61)
    ]
    found = through(rows, SessionRules(), [], 100)
    assert [(row["hits"], row["page_views"]) for row in found] == [(2, 0), (1, 0)]


@pytest.mark.parametrize(
    "wrong",
    [{"inactivity_minutes": 0}, {"inactivity_minutes": 1441}, {"max_minutes": 0}, {"cut_on": ("colour",)}],
)
def test_rules_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="valid"):
        SessionRules(**wrong)
