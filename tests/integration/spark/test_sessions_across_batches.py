"""Night by night, late, twice, out of order and over again: the sessions are those of one run over everything.

Many small histories share each Spark run, told apart by their visitors.
"""

from __future__ import annotations

import hashlib
from datetime import date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from integration.spark.conftest import collected

from airflow_emr_etl.models.manifest import Accounting, Manifest
from airflow_emr_etl.models.session_rules import SessionRules
from airflow_emr_etl.spark import columns
from airflow_emr_etl.spark.dataset import Dataset, schema
from airflow_emr_etl.spark.jobs.clickstream_sessionize import sessionize
from airflow_emr_etl.spark.session_engine import event_hash

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

FIRST = date(2026, 1, 5)
NIGHTS = 4
HISTORIES = 250
MINUTE = timedelta(minutes=1)

Event = tuple[datetime, str, str]
"""Time, visitor, event id."""


def digest(*parts: object) -> str:
    return hashlib.sha256(":".join(map(str, parts)).encode()).hexdigest()


class World:
    """Batches that are delivered, a lake with a catalog, and a warehouse that loads as the SQL does."""

    def __init__(self, spark: SparkSession, folder: Path, rules: SessionRules) -> None:
        self.spark, self.folder, self.rules = spark, folder, rules
        self.batches: dict[date, list[Event]] = {}
        self.events: dict[str, tuple[str, date]] = {}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.runs = 0

    def deliver(self, day: date, events: list[Event]) -> Accounting:
        self.runs += 1
        self.batches[day] = events
        source, output = self.folder / f"normalized-{self.runs}", self.folder / f"sessions-{self.runs}"
        rows = [
            {
                "event_id": event_id,
                "ts": ts.isoformat(sep=" "),
                "visitor_id": visitor,
                "path": f"/{event_id[:4]}",
                "is_page_view": event_id[0] < "8",
                "is_bot": False,
                "status": 200,
                "bytes": 1,
                "dt": day.isoformat(),
                "dropped_copies": 0,
            }
            for ts, visitor, event_id in events
        ]
        names = [name.split()[0] for name in schema(columns.NORMALIZED).split(", ")]
        texts = ", ".join(f"{name} string" for name in names)
        frame = self.spark.createDataFrame(
            [[None if name not in row else str(row[name]) for name in names] for row in rows], texts
        )
        dataset = Dataset(self.spark, str(source), "events", day, columns.NORMALIZED)
        dataset.write(frame)
        files, _ = dataset.measure()
        dataset.finish(files, "test", Accounting(lines_in=len(events), valid=len(events)))
        accounting = sessionize(
            self.spark, str(source), day, str(output), rules=self.rules, catalog=str(self.folder / "catalog")
        )
        self._load(day, output)
        return accounting

    def _load(self, day: date, output: Path) -> None:
        staged = self._staged(output, "sessions")
        for row in staged:
            for key, old in list(self.sessions.items()):
                if old["visitor_id"] == row["visitor_id"] and (
                    row["restates_from"] <= old["started_at"] <= row["restates_to"]
                ):
                    del self.sessions[key]
        for row in staged:
            assert row["restates_from"] <= row["started_at"] <= row["restates_to"]
            if not row["retracted"]:
                assert row["session_id"] not in self.sessions
                self.sessions[row["session_id"]] = row
        self.events = {key: value for key, value in self.events.items() if value[1] != day}
        for row in self._staged(output, "events"):
            self.events[row["event_id"]] = (row["session_id"], row["dt"])

    def _staged(self, output: Path, dataset: str) -> list[dict[str, Any]]:
        manifest = Manifest.from_json((output / dataset / "manifest.json").read_text())
        if not manifest.urls:
            return []
        return [row.asDict() for row in collected(self.spark.read.parquet(*manifest.urls))]

    def _hashes(self, events: set[Event]) -> dict[str, int]:
        frame = self.spark.createDataFrame([[event_id] for _, _, event_id in events], "event_id string")
        return {row[0]: row[1] for row in frame.select("event_id", event_hash()).collect()}

    def check(self) -> None:
        """The warehouse is what the rules say of all distinct events that there are now."""
        everything = {event for events in self.batches.values() for event in events}
        expected, session_of = one_run(everything, self._hashes(everything), self.rules)
        found = {
            key: (row["visitor_id"], row["started_at"], row["ended_at"], row["hits"], row["page_views"])
            for key, row in self.sessions.items()
        }
        assert found == expected
        assert {key: value[0] for key, value in self.events.items()} == session_of
        owner: dict[str, date] = {}
        for day, events in sorted(self.batches.items()):
            for _, _, event_id in events:
                owner.setdefault(event_id, day)
        assert {key: value[1] for key, value in self.events.items()} == owner
        assert all(row["dt"] == row["started_at"].date() for row in self.sessions.values())


def one_run(
    events: set[Event], hashes: dict[str, int], rules: SessionRules
) -> tuple[dict[str, Any], dict[str, str]]:
    sessions: list[list[Event]] = []
    for event in sorted(events, key=lambda event: (event[1], event[0], hashes[event[2]])):
        last = sessions[-1] if sessions else None
        if (
            last is None
            or last[-1][1] != event[1]
            or event[0] - last[-1][0] > rules.inactivity_minutes * MINUTE
            or (rules.max_minutes is not None and event[0] - last[0][0] > rules.max_minutes * MINUTE)
            or (rules.midnight_zone is not None and event[0].date() != last[-1][0].date())
        ):
            sessions.append([])
        sessions[-1].append(event)
    rows, session_of = {}, {}
    for session in sessions:
        key = digest(session[0][1], f"{hashes[session[0][2]] % (1 << 64):X}")
        pages = sum(event_id[0] < "8" for _, _, event_id in session)
        rows[key] = (session[0][1], session[0][0], session[-1][0], len(session), pages)
        session_of.update((event_id, key) for _, _, event_id in session)
    return rows, session_of


def history(random: Random, number: int) -> list[tuple[date, Event]]:
    """Events of one or two visitors, each with the batch that brings it; some come late, some twice."""
    delivered = []
    begin = datetime.combine(FIRST, datetime.min.time())
    for visitor in range(random.choice([1, 1, 2])):
        name = digest("visitor", number, visitor)
        for _ in range(random.randrange(1, 5)):
            # Bursts, most of them about a midnight, with pauses about the inactivity.
            at = begin + timedelta(
                days=random.randrange(NIGHTS), minutes=random.choice([-45, -5, 0, 15, 600])
            )
            for _ in range(random.randrange(1, 8)):
                at += random.choice([0, 1, 5, 29, 30, 31, 40, 400]) * MINUTE
                event = (at, name, digest(number, visitor, at, random.randrange(3)))
                own = min(max(at.date(), FIRST), FIRST + timedelta(days=NIGHTS - 1))
                late = random.choice([0] * 12 + [1, 1, 2, -1])
                day = min(max(own + timedelta(days=late), FIRST), FIRST + timedelta(days=NIGHTS - 1))
                delivered.append((day, event))
                if random.random() < 0.1:
                    again = FIRST + timedelta(days=random.randrange(NIGHTS))
                    delivered.append((again, event))
    return delivered


def histories(random: Random, count: int) -> dict[date, set[Event]]:
    """The batches of so many histories, by day."""
    batches: dict[date, set[Event]] = {}
    for number in range(count):
        for day, event in history(random, number):
            batches.setdefault(day, set()).add(event)
    return batches


RULES = {
    "inactivity": SessionRules(),
    "cuts": SessionRules(inactivity_minutes=45, max_minutes=60, midnight_zone="UTC"),
}


@pytest.mark.parametrize("rules", ["inactivity", pytest.param("cuts", marks=pytest.mark.slow)])
@settings(
    max_examples=1,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(random=st.randoms(use_true_random=True))
def test_nights_are_one_run(spark: SparkSession, tmp_path_factory: Any, rules: str, random: Random) -> None:
    world = World(spark, tmp_path_factory.mktemp("nights"), RULES[rules])
    days = [FIRST + timedelta(days=night) for night in range(NIGHTS)]
    batches: dict[date, set[Event]] = {day: set() for day in days}
    for number in range(HISTORIES):
        for day, event in history(random, number):
            batches[day].add(event)
    for day in days:
        world.deliver(day, sorted(batches[day]))
        world.check()
    # A night in the middle comes again, with lines that a mended parser reads and without some that it refuses.
    middle = days[random.randrange(1, NIGHTS - 1)]
    kept = {event for event in sorted(batches[middle]) if random.random() < 0.9}
    more = {event for day, event in history(random, HISTORIES) if day == middle}
    world.deliver(middle, sorted(kept | more))
    world.check()


def test_a_history_that_comes_backwards(spark: SparkSession, tmp_path: Path) -> None:
    world = World(spark, tmp_path, SessionRules())
    batches = histories(Random(11), 40)
    for day in sorted(batches, reverse=True):
        world.deliver(day, sorted(batches[day]))
    world.check()


@pytest.mark.slow
def test_the_same_batch_again_changes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    world = World(spark, tmp_path, SessionRules())
    batches = histories(Random(5), 20)
    for day in sorted(batches):
        world.deliver(day, sorted(batches[day]))
    before = (dict(world.events), {key: row["hits"] for key, row in world.sessions.items()})
    for day in sorted(batches):
        world.deliver(day, sorted(batches[day]))
    assert before == (world.events, {key: row["hits"] for key, row in world.sessions.items()})


@pytest.mark.slow
def test_a_visitor_without_a_pause_for_days(spark: SparkSession, tmp_path: Path) -> None:
    world = World(spark, tmp_path, SessionRules())
    begin = datetime.combine(FIRST, datetime.min.time())
    events = [
        (begin + step * timedelta(minutes=20), digest("robot"), digest("robot", step))
        for step in range(72 * 5)
    ]
    for night in range(5):
        day = FIRST + timedelta(days=night)
        world.deliver(day, [event for event in events if event[0].date() == day])
    world.check()
    assert len(world.sessions) == 1
    # One late line between two of them changes no more than what it touches: this one session.
    late = (events[3][0] + MINUTE, digest("robot"), digest("late"))
    last = FIRST + timedelta(days=5)
    world.deliver(last, [late])
    world.check()
