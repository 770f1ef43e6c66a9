"""Loads that state anew: whatever the order of re-statements and repeats, the table is what a dict would be."""

from __future__ import annotations

import random
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_emr_etl.models.table import RedshiftTable
from airflow_emr_etl.warehouse.clickstream import SESSIONS
from airflow_emr_etl.warehouse.history import select_days

FIRST = datetime.fromisoformat("2026-01-05")  # naive, as the warehouse has it: UTC
VISITS = RedshiftTable(
    "public.visits",
    mode="restate",
    partition="dt",
    keys=["id"],
    dist_key="who",
    columns=[
        "id VARCHAR(64)",
        "who VARCHAR(64)",
        "started_at TIMESTAMP",
        "ended_at TIMESTAMP",
        "hits BIGINT",
        "dt DATE",
    ],
    # As the sessions of the pipeline are stated anew.
    staging_columns=SESSIONS.staging_columns,
    restates=SESSIONS.restates and SESSIONS.restates.model_copy(update={"by": "who"}),
    days=("started_at", "ended_at"),
)
HITS = RedshiftTable(
    "public.hits",
    mode="restate",
    partition="dt",
    keys=["id"],
    columns=["id VARCHAR(64)", "ts TIMESTAMP", "visit VARCHAR(64)", "dt DATE"],
    days="ts",
)
TIMED_HITS = HITS.model_copy(update={"key_time": "ts"})
SELECT_VISITS = "SELECT id, who, started_at, ended_at, hits, dt FROM visits ORDER BY id"
Row = dict[str, Any]
Table = dict[str, Row]


def days_between(first: datetime, last: datetime) -> set[date]:
    return {first.date() + timedelta(days=n) for n in range((last.date() - first.date()).days + 1)}


def days_of(row: Row) -> set[date]:
    return days_between(row.get("started_at", row.get("ts")), row.get("ended_at", row.get("ts")))


def touched(loader: Any, load: Row) -> set[date]:
    days: set[date] = set()
    for first, last in loader.rows(select_days([load["load_id"]])):
        days |= days_between(datetime.fromisoformat(first), datetime.fromisoformat(last))
    return days


def changed(before: Table, after: Table) -> set[date]:
    """The days of every row that is not the same before and after."""
    rows = [
        side[key]
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
        for side in (before, after)
        if key in side
    ]
    return set().union(*map(days_of, rows)) if rows else set()


def shown(table: Table, *names: str) -> list[tuple[Any, ...]]:
    """The rows as the Data API gives them: times as texts, ordered by key."""

    def text(value: Any) -> Any:
        return str(value) if isinstance(value, (datetime, date)) else value

    return [tuple(text(row[name]) for name in names) for _, row in sorted(table.items())]


def visits_of(chance: random.Random, who: str) -> list[Row]:
    """Staged rows of one visitor: a span, the visits within it, or one retraction where none is left."""
    begin = FIRST + timedelta(hours=chance.randrange(72))
    end = begin + timedelta(hours=chance.randrange(30))
    span = {"who": who, "restates_from": begin, "restates_to": end}
    starts = {begin + (end - begin) * chance.random() for _ in range(chance.randrange(4))}
    visits = []
    for at in sorted(start.replace(microsecond=0, second=0, minute=0) for start in starts):
        if not begin <= at <= end or any(visit["started_at"] == at for visit in visits):
            continue
        hours = chance.randrange(1 + (end - at) // timedelta(hours=1))
        visits.append(
            {
                **span,
                "id": f"{who}-{at:%d%H}",
                "started_at": at,
                "ended_at": at + timedelta(hours=hours),
                "hits": chance.randrange(100),
                "dt": at.date(),
                "retracted": False,
            }
        )
    gone = {**span, "id": f"{who}-gone", "dt": begin.date(), "retracted": True}
    return visits or [gone | {"started_at": None, "ended_at": None, "hits": 0}]


def restate(table: Table, staged: list[Row]) -> Table:
    kept = {
        key: row
        for key, row in table.items()
        if not any(
            s["id"] == key
            or (s["who"] == row["who"] and s["restates_from"] <= row["started_at"] <= s["restates_to"])
            for s in staged
        )
    }
    return kept | {s["id"]: {c.name: s[c.name] for c in VISITS.columns} for s in staged if not s["retracted"]}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_visits_are_what_a_dict_would_be(loader: Any, seed: int) -> None:
    chance = random.Random(seed)
    table: Table = {}
    loaded: list[tuple[int, str]] = []
    for step in range(8):
        if loaded and chance.random() < 0.3:
            # A task that is cleared, or a zombie: loaded already, nothing happens.
            assert loader.load(VISITS, chance.choice(loaded)[1])["already_loaded"]
        staged = [
            row for who in chance.sample("abcdef", chance.randrange(5)) for row in visits_of(chance, who)
        ]
        manifest = loader.write(VISITS, str(step), staged, partition="2026-01-05", restatement=step)
        load = loader.load(VISITS, manifest)
        loaded.append((step, manifest))
        before, table = table, restate(table, staged)
        assert loader.rows(SELECT_VISITS) == shown(
            table, "id", "who", "started_at", "ended_at", "hits", "dt"
        ), step
        assert changed(before, table) <= touched(loader, load), step


@pytest.mark.parametrize("hits", [HITS, TIMED_HITS], ids=["by-key", "by-key-and-time"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_hits_are_what_a_dict_would_be(loader: Any, seed: int, hits: RedshiftTable) -> None:
    """A batch replaces its own day, and brings along hits of other days whose visit has changed."""
    chance = random.Random(seed)
    table: Table = {}
    for step in range(6):
        day = date(2026, 1, 5) + timedelta(days=chance.randrange(3))
        own = [
            {
                "id": f"{day}-{n}",
                # Late lines: the time is of the day before now and then.
                "ts": datetime.fromisoformat(f"{day} 12:00") - timedelta(hours=chance.choice((0, 0, 20))),
                "visit": f"v{step}",
                "dt": day,
            }
            for n in chance.sample(range(12), chance.randrange(9))
        ]
        others = [row | {"visit": f"v{step}"} for row in table.values() if row["dt"] != day]
        carried = chance.sample(others, chance.randrange(len(others) + 1))
        manifest = loader.write(hits, str(step), own + carried, partition=str(day), restatement=step)
        load = loader.load(hits, manifest)
        before = table
        table = {key: row for key, row in table.items() if row["dt"] != day}
        table |= {row["id"]: row for row in own + carried}
        assert loader.rows("SELECT id, ts, visit, dt FROM hits ORDER BY id") == shown(
            table, "id", "ts", "visit", "dt"
        ), step
        assert changed(before, table) <= touched(loader, load), step


def visit(id: str, hour: int, span: tuple[int, int], **changes: Any) -> Row:
    at, begin, end = (FIRST + timedelta(hours=n) for n in (hour, *span))
    row = {"id": id, "who": "a", "started_at": at, "ended_at": at, "hits": 1, "dt": at.date()}
    return {**row, "restates_from": begin, "restates_to": end, "retracted": False, **changes}


def test_a_key_that_moved_is_there_once(loader: Any) -> None:
    loader.load(
        VISITS, loader.write(VISITS, "1", [visit("x", 1, (0, 2))], partition="2026-01-05", restatement=1)
    )
    moved = [visit("x", 30, (30, 31))]
    loader.load(VISITS, loader.write(VISITS, "2", moved, partition="2026-01-06", restatement=2))
    assert loader.rows("SELECT id, dt FROM visits") == [("x", "2026-01-06")]


def test_the_ends_of_a_span_belong_to_it(loader: Any) -> None:
    rows = [visit(f"h{hour}", hour, (hour, hour)) for hour in range(5)]
    loader.load(VISITS, loader.write(VISITS, "1", rows, partition="2026-01-05", restatement=1))
    gone = [visit("gone", 0, (1, 3), retracted=True)]
    loader.load(VISITS, loader.write(VISITS, "2", gone, partition="2026-01-05", restatement=2))
    assert loader.rows("SELECT id FROM visits ORDER BY id") == [("h0",), ("h4",)]


def hit(id: str, at: datetime, visit: str, dt: date | None = None) -> Row:
    return {"id": id, "ts": at, "visit": visit, "dt": dt or at.date()}


def test_hits_of_other_days_are_found_by_their_key_up_to_the_ends_of_the_staged_times(loader: Any) -> None:
    """As with no bound: the first and the last of the staged times belong to it, and no other key is touched."""
    first, last = FIRST + timedelta(hours=1), FIRST + timedelta(days=9, microseconds=1)
    moments = {"first": first, "between": FIRST + timedelta(days=4), "last": last}
    others = {f"other-{name}": at for name, at in moments.items()}
    for hits, word in ((HITS, "plain"), (TIMED_HITS, "timed")):
        table = hits.model_copy(update={"name": f"public.{word}"})
        old = [hit(id, at, "old") for id, at in (moments | others).items()]
        loader.load(table, loader.write(table, "1", old, partition="2026-02-01", restatement=1))
        new = [hit(id, at, "new") for id, at in moments.items()]
        loader.load(table, loader.write(table, "2", new, partition="2026-02-01", restatement=2))
        loader.load(table, loader.write(table, "3", [], partition="2026-02-01", restatement=3))
    expected = [*((name, "new") for name in moments), *((name, "old") for name in others)]
    assert loader.rows("SELECT id, visit FROM timed ORDER BY id") == sorted(expected)
    assert loader.rows("SELECT * FROM plain EXCEPT SELECT * FROM timed") == []
    assert loader.rows("SELECT COUNT(*) AS n FROM plain") == [(6,)]


def test_a_time_that_was_mended_moves_its_hit_and_a_time_beyond_two_days_is_another_matter(
    loader: Any,
) -> None:
    zones, beyond = timedelta(hours=48), timedelta(hours=48, microseconds=1)
    middle = FIRST + timedelta(days=10)
    old = [hit("earlier", middle - zones, "old"), hit("later", middle + zones, "old")]
    old += [hit("far", middle + beyond, "old")]
    loader.load(TIMED_HITS, loader.write(TIMED_HITS, "1", old, partition="2026-02-01", restatement=1))
    new = [hit(row["id"], middle, "new") for row in old]
    loader.load(TIMED_HITS, loader.write(TIMED_HITS, "2", new, partition="2026-02-01", restatement=2))
    assert loader.rows("SELECT id, visit FROM hits ORDER BY id, visit") == [
        ("earlier", "new"),
        ("far", "new"),
        ("far", "old"),
        ("later", "new"),
    ]
    # The day that a mended batch is of is cleared, however far its times have moved.
    day = date(2026, 1, 17)
    again = [hit("far", middle, "mended", day)]
    loader.load(TIMED_HITS, loader.write(TIMED_HITS, "3", again, partition=str(day), restatement=3))
    assert loader.rows("SELECT visit FROM hits WHERE id = 'far'") == [("mended",)]


def test_a_hit_without_the_time_of_its_key_is_refused(loader: Any) -> None:
    nowhen = hit("a", FIRST, "v") | {"ts": None}
    manifest = loader.write(TIMED_HITS, "1", [nowhen], partition="2026-01-05", restatement=1)
    with pytest.raises(AirflowFailException, match="ts"):
        loader.load(TIMED_HITS, manifest)
    assert loader.rows("SELECT COUNT(*) AS n FROM hits") == [(0,)]


def test_an_older_state_is_refused_and_the_newer_one_stays(loader: Any) -> None:
    late = loader.write(VISITS, "1", [visit("old", 1, (0, 9))], partition="2026-01-05", restatement=1)
    loader.load(
        VISITS, loader.write(VISITS, "2", [visit("new", 2, (0, 9))], partition="2026-01-06", restatement=2)
    )
    with pytest.raises(AirflowFailException, match=r"StaleLoadError: .*Run sessionize for 2026-01-05 again"):
        loader.load(VISITS, late)
    assert loader.rows("SELECT id FROM visits") == [("new",)]
    # Parts of one state have one number, and another table has numbers of its own.
    loader.load(
        VISITS, loader.write(VISITS, "3", [visit("too", 20, (20, 20))], partition="2026-01-05", restatement=2)
    )
    loader.load(HITS, loader.write(HITS, "1", [hit("h", FIRST, "v")], partition="2026-01-05", restatement=1))
    assert loader.rows("SELECT (SELECT count(*) FROM visits) AS a, (SELECT count(*) FROM hits) AS b") == [
        (2, 1)
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"started_at": FIRST + timedelta(hours=10)},
        {"started_at": None},
        {"who": None},
        {"restates_to": None},
        {"retracted": None},
        {"restates_from": FIRST + timedelta(hours=9), "retracted": True},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_rows_that_would_not_be_replaced_by_the_next_load_are_refused(
    loader: Any, changes: dict[str, Any]
) -> None:
    manifest = loader.write(
        VISITS, "1", [visit("x", 1, (0, 2), **changes)], partition="2026-01-05", restatement=1
    )
    with pytest.raises(AirflowFailException, match=r"LoadError: .*is not within their restates_from"):
        loader.load(VISITS, manifest)
    assert loader.rows("SELECT id FROM visits") == []


def test_a_history_of_an_older_release_gets_the_new_column(loader: Any) -> None:
    loader.hook.query("CREATE SCHEMA etl")
    loader.hook.query(
        "CREATE TABLE etl.load_history (load_id VARCHAR(64) NOT NULL, target VARCHAR(255) NOT NULL, "
        "partition_value VARCHAR(64), dag_id VARCHAR(255), run_id VARCHAR(255), manifest VARCHAR(1024), "
        "rows_loaded BIGINT, bytes_loaded BIGINT, lines_in BIGINT, valid BIGINT, quarantined BIGINT, "
        "delivered_twice BIGINT, loaded_at TIMESTAMP)"
    )
    manifest = loader.write(VISITS, "1", [visit("x", 1, (0, 2))], partition="2026-01-05", restatement=5)
    assert loader.load(VISITS, manifest)["rows"] == 1
    assert loader.rows("SELECT restatement FROM etl.load_history") == [(5,)]
