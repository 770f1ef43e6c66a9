"""Marts: by hand; and night by night in the warehouse against one Spark run over everything."""

from __future__ import annotations

import json
import random
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from fakes.task_instance import FakeTaskInstance

from airflow_emr_etl.models.clickstream_marts import MARTS, funnels
from airflow_emr_etl.models.mart import Funnel
from airflow_emr_etl.models.table import RedshiftTable, Restatement
from airflow_emr_etl.operators.build_marts import BuildMartsOperator
from airflow_emr_etl.warehouse.clickstream import EVENTS, SESSIONS

Row = dict[str, Any]
RESTATED_EVENTS = RedshiftTable(**{**EVENTS.model_dump(), "mode": "restate"})
RESTATED_SESSIONS = RedshiftTable(
    **{
        **SESSIONS.model_dump(),
        "mode": "restate",
        "staging_columns": ["restates_from TIMESTAMP", "restates_to TIMESTAMP", "retracted BOOLEAN"],
        "restates": Restatement(
            by="visitor_id", at="started_at", begin="restates_from", end="restates_to", retracted="retracted"
        ),
    }
)
INACTIVITY = timedelta(minutes=30)


def event(visitor: str, at: str, path: str, *, dt: str = "2026-01-05", **changes: Any) -> Row:
    ts = datetime.fromisoformat(f"2026-01-{at}")
    page = changes.get("is_page_view", True)
    return {
        "event_id": f"{visitor}@{at}{path}",
        "ts": ts,
        "host": visitor,
        "method": "GET",
        "path": path,
        "query": None,
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 10,
        "referrer": None,
        "user_agent": "UA",
        "is_bot": False,
        "is_page_view": page,
        "visitor_id": visitor,
        "user_id": None,
        "dt": date.fromisoformat(dt),
        **changes,
    }


def sessionize(events: list[Row]) -> tuple[dict[str, Row], dict[str, Row]]:
    """Events with their session, and sessions, each by id: the rules of docs/clickstream.md over whole time."""
    seen: dict[str, Row] = {}
    groups: list[list[Row]] = []
    for each in sorted(events, key=lambda e: (e["visitor_id"], e["ts"], e["event_id"])):
        last = groups[-1][-1] if groups else None
        if last is None or last["visitor_id"] != each["visitor_id"] or each["ts"] - last["ts"] > INACTIVITY:
            groups.append([])
        groups[-1].append(each)
    sessions = {}
    for group in groups:
        pages = [e for e in group if e["is_page_view"]] or [group[0], group[-1]]
        session_id = f"s:{group[0]['event_id']}"
        sessions[session_id] = {
            "session_id": session_id,
            "visitor_id": group[0]["visitor_id"],
            "started_at": group[0]["ts"],
            "ended_at": group[-1]["ts"],
            "hits": len(group),
            "page_views": sum(e["is_page_view"] for e in group),
            "entry_path": pages[0]["path"],
            "exit_path": pages[-1]["path"],
            "referrer_host": group[0]["referrer"],
            "dt": group[0]["ts"].date(),
        }
        seen.update({e["event_id"]: {**e, "session_id": session_id} for e in group})
    return seen, sessions


class Pipeline:
    """Deliveries of days, each loaded as a re-statement, with the marts after it."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.lines: dict[str, list[Row]] = {}
        self.events: dict[str, Row] = {}
        self.sessions: dict[str, Row] = {}
        self.runs = self.builds = 0

    def deliver(self, day: str, lines: list[Row]) -> dict[str, Any]:
        self.runs += 1
        self.lines[day] = lines
        old_events, old_sessions = self.events, self.sessions
        everything = [line for lines in self.lines.values() for line in lines]
        self.events, self.sessions = sessionize(everything)
        batch = [
            row
            for key, row in self.events.items()
            if str(row["dt"]) == day or row["session_id"] != old_events.get(key, row)["session_id"]
        ]
        staged = []
        for key in sorted(old_sessions.keys() | self.sessions.keys()):
            old, new = old_sessions.get(key), self.sessions.get(key)
            if old == new:
                continue
            known = [row for row in (old, new) if row]
            staged.append(
                (new or old or {})
                | {
                    "restates_from": min(row["started_at"] for row in known),
                    "restates_to": max(row["ended_at"] for row in known),
                    "retracted": new is None,
                }
            )
        loads = []
        for table, rows in ((RESTATED_EVENTS, batch), (RESTATED_SESSIONS, staged)):
            manifest = self.loader.write(table, f"run{self.runs}", rows, partition=day, restatement=self.runs)
            loads.append(self.loader.load(table, manifest))
        return self.build(loads=loads)

    def build(self, **kwargs: Any) -> dict[str, Any]:
        task = BuildMartsOperator(
            task_id="build_marts",
            target=self.loader.target,
            deferrable=False,
            poll_interval=0.1,
            **kwargs,
        )
        ti = FakeTaskInstance("build_marts")
        # Of its own run: the Data API takes the same statements of the same try for a request that was sent twice.
        self.builds += 1
        ti.run_id = f"run {self.builds}"
        result: dict[str, Any] = task.execute(ti.context)
        return result

    def marts(self) -> dict[str, list[tuple[Any, ...]]]:
        return {mart.name: self.mart(mart.name) for mart in MARTS}

    def mart(self, name: str) -> list[tuple[Any, ...]]:
        [mart] = [mart for mart in MARTS if mart.name == name]
        names = ", ".join(column.name for column in mart.columns)
        rows = self.loader.rows(f"SELECT {names} FROM marts.{name}")
        return sorted(rows, key=repr)


def test_marts_by_hand(loader: Any) -> None:
    pipeline = Pipeline(loader)
    first = [
        # Across midnight: two pages on the 5th, one on the 6th.
        event("a", "05 23:50:00", "/products", referrer="search.example"),
        event("a", "05 23:50:01", "/style.css", is_page_view=False, bytes=None),
        event("a", "05 23:58:30.600", "/products/7"),
        event("a", "06 00:10:00.500", "/checkout", dt="2026-01-05"),
        # One page, and one robot.
        event("b", "05 10:00:00", "/"),
        event("c", "05 11:00:00", "/x", is_bot=True, is_page_view=False, status=404),
    ]
    # The cart comes late, before the checkout: the funnel goes on, and so do the marts of both days.
    second = [
        event("a", "06 00:05:00", "/cart", dt="2026-01-06"),
        event("b", "06 12:00:00", "/products", dt="2026-01-06", status=304),
        event("b", "06 12:00:05", "/crash", dt="2026-01-06", status=500, is_page_view=False),
    ]
    assert pipeline.deliver("2026-01-05", first)["days"] == ["2026-01-05", "2026-01-06"]
    assert pipeline.mart("funnels") == [
        ("2026-01-05", "purchase", 1, "products", 1),
        ("2026-01-05", "purchase", 2, "product", 1),
        ("2026-01-05", "purchase", 3, "cart", 0),
        ("2026-01-05", "purchase", 4, "checkout", 0),
    ]
    assert pipeline.deliver("2026-01-06", second)["days"] == ["2026-01-05", "2026-01-06"]
    assert pipeline.mart("funnels") == [
        ("2026-01-05", "purchase", 1, "products", 1),
        ("2026-01-05", "purchase", 2, "product", 1),
        ("2026-01-05", "purchase", 3, "cart", 1),
        ("2026-01-05", "purchase", 4, "checkout", 1),
        ("2026-01-06", "purchase", 1, "products", 1),
        ("2026-01-06", "purchase", 2, "product", 0),
        ("2026-01-06", "purchase", 3, "cart", 0),
        ("2026-01-06", "purchase", 4, "checkout", 0),
    ]
    views = loader.rows(
        "SELECT dt, path, position, next_path, seconds_on_page, session_dt FROM marts.page_views "
        "WHERE visitor_id = 'a' ORDER BY position"
    )
    assert views == [
        ("2026-01-05", "/products", 1, "/products/7", 510, "2026-01-05"),
        ("2026-01-05", "/products/7", 2, "/cart", 389, "2026-01-05"),
        ("2026-01-06", "/cart", 3, "/checkout", 300, "2026-01-05"),
        ("2026-01-06", "/checkout", 4, None, None, "2026-01-05"),
    ]
    assert pipeline.mart("daily_traffic") == [
        ("2026-01-05", 5, 3, 1, 3, 3, 40, 1, 0),
        ("2026-01-06", 4, 3, 0, 2, 1, 40, 0, 1),
    ]
    assert pipeline.mart("entry_pages") == [
        ("2026-01-05", "/", 1, 1, 1),
        ("2026-01-05", "/products", 1, 0, 4),
        ("2026-01-06", "/products", 1, 1, 1),
    ]
    assert pipeline.mart("exit_pages") == [
        ("2026-01-05", "/", 1),
        ("2026-01-05", "/checkout", 1),
        ("2026-01-06", "/products", 1),
    ]
    assert pipeline.mart("path_transitions") == [
        ("2026-01-05", "/products", "/products/7", 1, 1),
        ("2026-01-05", "/products/7", "/cart", 1, 1),
        ("2026-01-06", "/cart", "/checkout", 1, 1),
    ]
    assert loader.rows(
        "SELECT visitor_id, active_days, sessions, hits, page_views, first_path, first_referrer_host, "
        "first_seen, last_seen FROM marts.users ORDER BY 1"
    ) == [
        ("a", 1, 1, 5, 4, "/products", "search.example", "2026-01-05 23:50:00", "2026-01-06 00:10:00.5"),
        ("b", 2, 2, 3, 2, "/", None, "2026-01-05 10:00:00", "2026-01-06 12:00:05"),
        ("c", 1, 1, 1, 0, "/x", None, "2026-01-05 11:00:00", "2026-01-05 11:00:00"),
    ]
    assert pipeline.mart("retention_days") == [("2026-01-05", 0, 2), ("2026-01-05", 1, 1)]
    assert pipeline.mart("retention_weeks") == [("2026-01-05", 0, 2)]


def test_a_day_with_pages_of_no_step_has_a_row_for_each(loader: Any) -> None:
    pipeline = Pipeline(loader)
    pipeline.deliver("2026-01-05", [event("a", "05 10:00:00", "/about"), event("b", "05 11:00:00", "/")])
    assert pipeline.mart("funnels") == [
        ("2026-01-05", "purchase", 1, "products", 0),
        ("2026-01-05", "purchase", 2, "product", 0),
        ("2026-01-05", "purchase", 3, "cart", 0),
        ("2026-01-05", "purchase", 4, "checkout", 0),
    ]
    # Without a page there is none.
    pipeline.deliver("2026-01-06", [event("a", "06 10:00:00", "/x", dt="2026-01-06", is_page_view=False)])
    assert {row[0] for row in pipeline.mart("funnels")} == {"2026-01-05"}


def deliveries(seed: int) -> list[tuple[str, list[Row]]]:
    """Days in order, one of them delivered again with fewer and other lines; some lines come a day late."""
    chance = random.Random(seed)
    paths = [
        "/",
        "/products",
        "/products/1",
        "/products/2",
        "/cart",
        "/checkout",
        "/100%_^",
        "/it's",
        "/é\\n",
    ]
    lines: dict[str, list[Row]] = {f"2026-01-{day:02d}": [] for day in range(3, 7)}
    for visitor in "abcdefgh":
        ts = datetime.fromisoformat("2026-01-03 20:00")
        for n in range(chance.randrange(25)):
            ts += timedelta(seconds=chance.choice((0, 5, 600.25, 1800, 1800.000001, 30_000, 60_000)))
            day = min(ts.date() + timedelta(days=chance.choice((0, 0, 0, 1))), date(2026, 1, 6))
            if ts.date() > day:
                break
            is_page = chance.random() < 0.7
            lines[str(day)].append(
                event(visitor, f"{ts:%d %H:%M:%S.%f}", chance.choice(paths), dt=str(day))
                | {
                    "event_id": f"{visitor}{n:03d}",
                    "is_page_view": is_page,
                    "is_bot": not is_page and visitor == "b",
                    "status": chance.choice((200, 304, 404, 500)),
                    "bytes": chance.choice((None, 0, 5_000_000_000)),
                    "referrer": chance.choice((None, "x.example")),
                    "user_id": chance.choice((None, None, "ann", "bob")),
                }
            )
    again = chance.choice(sorted(lines))
    fewer = [line for line in lines[again] if chance.random() < 0.7]
    return [*lines.items(), (again, fewer)]


def spark_marts(spark: Any, pipeline: Pipeline, folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    from airflow_emr_etl.spark.jobs.clickstream_marts import build

    loader = pipeline.loader
    manifests = {}
    sessions = [
        {**row, "restates_from": row["started_at"], "restates_to": row["ended_at"], "retracted": False}
        for row in pipeline.sessions.values()
    ]
    for table, rows in ((EVENTS, list(pipeline.events.values())), (SESSIONS, sessions)):
        uri = loader.write(table, "whole", rows, partition="2026-01-06")
        text = (loader.local.objects / uri.removeprefix("s3://")).read_text()
        manifests[table.table_name] = folder / f"{table.table_name}.json"
        manifests[table.table_name].write_text(text.replace("s3://", f"{loader.local.objects}/"))
    written = build(
        spark, str(manifests["events"]), str(manifests["sessions"]), date(2026, 1, 6), str(folder / "out")
    )

    def shown(value: Any) -> Any:
        if isinstance(value, datetime):
            text = str(value)
            return text.rstrip("0") if "." in text else text
        return str(value) if isinstance(value, date) else value

    found = {}
    for name, manifest in written.items():
        frame = spark.read.parquet(*manifest.urls)
        times = [column for column, kind in frame.dtypes if kind == "timestamp"]
        frame = frame.withColumns({column: frame[column].cast("timestamp_ntz") for column in times})
        found[name] = sorted((tuple(map(shown, row)) for row in frame.collect()), key=repr)
    return found


@pytest.mark.spark
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_night_by_night_in_the_warehouse_is_one_run_of_spark_over_everything(
    loader: Any, spark: Any, tmp_path: Path, seed: int
) -> None:
    pipeline = Pipeline(loader)
    for day, lines in deliveries(seed):
        result = pipeline.deliver(day, lines)
    ours, theirs = pipeline.marts(), spark_marts(spark, pipeline, tmp_path)
    assert ours.keys() == theirs.keys()
    for name, rows in theirs.items():
        assert ours[name] == rows, name
        assert rows, name
    # Again, and from nothing: the same.
    days = sorted({row["ts"].date() for row in pipeline.events.values()})
    for mart in MARTS:
        loader.hook.query(f"DELETE FROM marts.{mart.name}")
    again = pipeline.build(days=[days[0], *map(str, days)])
    assert again["rows"] == {name: len(rows) for name, rows in theirs.items()}
    assert pipeline.marts() == ours
    assert result["days"] == sorted(result["days"])


def test_loads_that_are_found_done_still_say_their_days(loader: Any) -> None:
    pipeline = Pipeline(loader)
    first = pipeline.deliver("2026-01-05", [event("a", "05 10:00:00", "/")])
    manifest = f"s3://{loader.name}/events/run1/manifest.json"
    load = loader.load(RESTATED_EVENTS, manifest)
    assert load["already_loaded"]
    assert pipeline.build(loads=[load]) == first
    assert pipeline.build(loads=[]) == {"days": [], "rows": {}}
    with pytest.raises(AirflowFailException, match="no result of a load task"):
        pipeline.build(loads=[None])
    with pytest.raises(AirflowFailException, match="write them as YYYY-MM-DD"):
        pipeline.build(days="yesterday")


def test_a_deferred_build_of_some_marts_and_of_funnels_of_ones_own(loader: Any) -> None:
    pipeline = Pipeline(loader)
    lines = [
        event("a", "05 10:00:00", "/x_y"),
        event("a", "05 10:00:01", "/xzy"),
        event("b", "05 10:00:00", "/xzy"),
    ]
    pipeline.deliver("2026-01-05", lines)
    own = funnels(Funnel("own", {"literal": "/x_y", "any": "/x*"}), Funnel("other", {"only": "*"}))
    task = BuildMartsOperator(
        task_id="build_marts",
        target=loader.target,
        marts=[own, "exit_pages"],
        days="2026-01-05",
        deferrable=True,
    )
    assert [mart.name for mart in task.marts] == ["page_views", "funnels", "exit_pages"]
    ti = FakeTaskInstance("build_marts")
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(ti.context)
    payload = deferred.value.trigger.wait_here()
    json.dumps(payload)
    result = task.execute_complete(ti.context, payload)
    assert result == {"days": ["2026-01-05"], "rows": {"page_views": 3, "funnels": 3, "exit_pages": 1}}
    assert loader.rows("SELECT funnel, step_name, sessions FROM marts.funnels ORDER BY 1, step") == [
        ("other", "only", 2),
        ("own", "literal", 1),
        ("own", "any", 1),
    ]
