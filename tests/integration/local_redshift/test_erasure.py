"""Visitors are deleted from the warehouse, and the marts are then those of a warehouse that never had them."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from fakes.task_instance import FakeTaskInstance
from integration.local_redshift.test_mart_tables import Pipeline, event

from airflow_emr_etl.models.manifest import Column, Manifest, ManifestEntry
from airflow_emr_etl.operators.erase_visitors import EraseVisitorsOperator

LINES = {
    "2026-01-05": [
        event("a", "05 10:00:00", "/products"),
        event("a", "05 10:00:05", "/cart", user_id="ann"),
        event("b", "05 23:50:00", "/products"),
        event("b", "06 00:10:00", "/products/1"),
        event("c", "05 11:00:00", "/", user_id="carl"),
    ],
    "2026-01-07": [
        event("a", "07 10:00:00", "/", dt="2026-01-07"),
        event("c", "07 11:00:00", "/products", dt="2026-01-07"),
    ],
    "2026-01-08": [event("c", "08 11:00:00", "/products", dt="2026-01-08")],
}


def write_list(loader: Any, visitors: list[str], name: str = "list") -> str:
    folder: Path = loader.local.objects / loader.name / name / "visitors"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"visitor_id": visitors}), folder / "part-0.parquet")
    url = f"s3://{loader.name}/{name}/visitors/part-0.parquet"
    entry = ManifestEntry(url, (folder / "part-0.parquet").stat().st_size, len(visitors))
    manifest = Manifest(
        dataset="visitors",
        partition={"dt": "2026-01-09"},
        job="test",
        created_at="2026-01-09T00:00:00Z",
        entries=(entry,),
        columns=(Column("visitor_id", "VARCHAR(64)"),),
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return f"s3://{loader.name}/{name}/visitors/manifest.json"


def erase(loader: Any, visitors: str, run: str = "r") -> dict[str, Any]:
    task = EraseVisitorsOperator(
        task_id="erase", visitors=visitors, target=loader.target, deferrable=False, poll_interval=0.1
    )
    ti = FakeTaskInstance("erase")
    ti.run_id = run
    result: dict[str, Any] = task.execute(ti.context)
    return result


@pytest.mark.slow
def test_the_marts_are_those_of_a_warehouse_that_never_had_them(loader: Any) -> None:
    pipeline = Pipeline(loader)
    for day, lines in LINES.items():
        pipeline.deliver(day, lines)
    visitors = write_list(loader, ["a", "b", "unknown"])

    result = erase(loader, visitors)

    assert result["rows"] == {
        "analytics.events": 5,
        "analytics.sessions": 3,
        "marts.page_views": 5,
        "marts.user_days": 3,
        "marts.users": 2,
        "marts.sign_ins": 1,
        "marts.identities": 1,
    }
    for table in result["rows"]:
        assert loader.rows(f"SELECT DISTINCT visitor_id FROM {table}") == [("c",)]
    # The day on which only others were is left as it is; the 6th is one that the session of b reached.
    assert pipeline.build(loads=[result])["days"] == ["2026-01-05", "2026-01-06", "2026-01-07"]
    found = pipeline.marts()
    loader.hook.query("DELETE FROM analytics.events")
    loader.hook.query("DELETE FROM analytics.sessions")
    days = [date(2026, 1, day) for day in range(5, 9)]
    fresh = Pipeline(loader)
    fresh.runs, fresh.builds = 10, 10
    for day, lines in LINES.items():
        fresh.deliver(day, [line for line in lines if line["visitor_id"] == "c"])
    fresh.build(days=days)
    assert found == fresh.marts()
    assert found["users"]


def test_to_run_it_again_changes_nothing_and_still_says_the_days(loader: Any) -> None:
    pipeline = Pipeline(loader)
    for day, lines in LINES.items():
        pipeline.deliver(day, lines)
    visitors = write_list(loader, ["a"])
    first = erase(loader, visitors)
    again = erase(loader, visitors, run="cleared")
    assert again["load_id"] == first["load_id"]
    assert set(again["rows"].values()) == {0}
    assert pipeline.build(loads=[again])["days"] == ["2026-01-05", "2026-01-07"]


def test_deferred_and_without_an_id_in_what_airflow_keeps(loader: Any) -> None:
    Pipeline(loader).deliver("2026-01-05", [event("somebody", "05 10:00:00", "/")])
    task = EraseVisitorsOperator(
        task_id="erase", visitors=write_list(loader, ["somebody"]), target=loader.target, deferrable=True
    )
    ti = FakeTaskInstance("erase")
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(ti.context)
    payload = deferred.value.trigger.wait_here()
    result = task.execute_complete(ti.context, payload)
    assert result["rows"]["analytics.events"] == 1
    kept = json.dumps([payload, ti.xcoms, deferred.value.trigger.serialize(), result], default=str)
    assert "somebody" not in kept


def test_a_warehouse_without_tables_and_a_list_that_is_none(loader: Any) -> None:
    visitors = write_list(loader, ["a"])
    assert erase(loader, visitors)["rows"] == {}
    with pytest.raises(AirflowFailException, match="There is no list of visitors at s3://"):
        erase(loader, visitors.replace("list", "other"))
    pipeline = Pipeline(loader)
    pipeline.deliver("2026-01-05", [event("a", "05 10:00:00", "/")])
    with pytest.raises(AirflowFailException, match="is the manifest of events, which is no list of visitors"):
        erase(loader, f"s3://{loader.name}/events/run1/manifest.json")
    assert loader.rows("SELECT COUNT(*) AS n FROM analytics.events") == [(1,)]
