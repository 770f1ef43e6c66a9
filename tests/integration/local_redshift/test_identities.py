"""Who a visitor is, and when: by hand, and against the rule in plain Python over many random histories."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from fakes.task_instance import FakeTaskInstance
from integration.local_redshift.test_mart_tables import Pipeline, event

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.clickstream_marts import IDENTITIES, identities
from airflow_emr_etl.operators.build_marts import BuildMartsOperator

Row = dict[str, Any]
Span = tuple[str, str, datetime, datetime, datetime, datetime]


def build(loader: Any, mart: Any, days: list[str]) -> None:
    task = BuildMartsOperator(
        task_id="build_marts",
        target=loader.target,
        marts=[mart],
        days=days,
        deferrable=False,
        poll_interval=0.1,
    )
    task.execute(FakeTaskInstance("build_marts").context)


def spans(loader: Any) -> list[Span]:
    names = ", ".join(column.name for column in IDENTITIES.columns)
    rows = loader.rows(f"SELECT {names} FROM marts.identities ORDER BY visitor_id, valid_from")
    return [(row[0], row[1], *(datetime.fromisoformat(text) for text in row[2:])) for row in rows]


def owner(events: list[Row], visitor: str, at: datetime, window: timedelta) -> str | None:
    """The rule, asked at one moment: nothing of runs and spans."""
    signed = sorted(
        (e["ts"], e["user_id"], e["event_id"])
        for e in events
        if e["visitor_id"] == visitor and e["user_id"] is not None
    )
    before = [each for each in signed if each[0] <= at]
    after = [each for each in signed if each[0] > at]
    # Whoever signed in last stays until somebody else does, or for the window.
    if before:
        last_ts, last_user, _ = before[-1]
        if at < last_ts + window or (after and after[0][1] == last_user):
            return str(last_user)
    if after and at >= after[0][0] - window:
        return str(after[0][1])
    return None


def history(chance: random.Random, number: int) -> list[Row]:
    visitor, ts = f"v{number:03d}", datetime.fromisoformat("2026-01-02 20:00")
    events = []
    for n in range(chance.randrange(9)):
        ts += timedelta(hours=chance.choice((0, 0.5, 5, 23.9, 24, 24.1, 47.9, 48, 48.1, 80)))
        user = chance.choice((None, "ann", "ann", "bob", "Zoë"))
        events.append(
            event(visitor, f"{ts:%d %H:%M:%S.%f}", "/") | {"event_id": f"{visitor}-{n}", "user_id": user}
        )
    return events


@pytest.mark.parametrize("seed", range(2))
def test_the_spans_are_the_rule_at_every_moment(loader: Any, seed: int) -> None:
    chance = random.Random(seed)
    events = [each for number in range(150) for each in history(chance, number)]
    Pipeline(loader).deliver("2026-01-05", events)
    window = timedelta(days=1)
    build(loader, identities(days=1), sorted({str(each["ts"].date()) for each in events}))

    found = spans(loader)
    assert {span[1] for span in found} == {"ann", "bob", "Zoë"}
    by_visitor: dict[str, list[Span]] = {}
    for span in found:
        by_visitor.setdefault(span[0], []).append(span)
    hair = timedelta(microseconds=1)
    for visitor in {each["visitor_id"] for each in events}:
        own = by_visitor.get(visitor, [])
        for (*_, end, _, _), (_, _, begin, *_) in pairwise(own):
            assert end <= begin, "no two spans of a visitor overlap"
        times = [each["ts"] for each in events if each["visitor_id"] == visitor]
        edges = {ts + shift for ts in times for shift in (-window, timedelta(), window)}
        for at in sorted({edge + shift for edge in edges for shift in (-hair, timedelta(), hair)}):
            told = [span[1] for span in own if span[2] <= at < span[3]]
            expected = owner(events, visitor, at, window)
            assert told == ([] if expected is None else [expected]), (visitor, at)


def test_one_user_has_several_visitors_and_a_shared_machine_merges_nobody(loader: Any) -> None:
    lines = [
        event("phone", "05 08:00:00", "/"),
        event("phone", "05 08:01:00", "/account", user_id="ann"),
        event("shared", "05 09:00:00", "/account", user_id="ann"),
        event("shared", "06 09:00:00", "/account", user_id="bob", dt="2026-01-05"),
        event("nobody", "05 09:00:00", "/"),
    ]
    Pipeline(loader).deliver("2026-01-05", lines)

    def at(text: str) -> datetime:
        return datetime.fromisoformat(text)

    assert spans(loader) == [
        ("phone", "ann", at("2025-12-06 08:01"), at("2026-02-04 08:01"), *[at("2026-01-05 08:01")] * 2),
        ("shared", "ann", at("2025-12-06 09:00"), at("2026-01-06 09:00"), *[at("2026-01-05 09:00")] * 2),
        ("shared", "bob", at("2026-01-06 09:00"), at("2026-02-05 09:00"), *[at("2026-01-06 09:00")] * 2),
    ]


@pytest.mark.parametrize("days", [0, 3651, True, 1.5])
def test_windows_that_are_none(days: Any) -> None:
    with pytest.raises(ConfigurationError, match="valid is 1 to 3650 whole days"):
        identities(days)
