"""What a stream wrote, loaded batch by batch into the tables that the nights load."""

from __future__ import annotations

import json
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from integration.spark.conftest import DAY
from integration.spark.test_stream import Streamed, log_line

from airflow_emr_etl.warehouse.clickstream import EVENTS, QUARANTINE_COUNTS, SESSIONS
from airflow_emr_etl.warehouse.history import select_days

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NOON = datetime.combine(DAY, time(12))
MINUTE = timedelta(minutes=1)


def in_the_lake(loader: Any, streamed: Streamed) -> list[str]:
    """The addresses of the batches' folders, in the order of ``restatement``, with manifests that name the bucket."""
    root = f"s3://{loader.name}"
    folder: Path = loader.local.objects / loader.name
    for manifest in streamed.output.rglob("manifest.json"):
        manifest.write_text(manifest.read_text().replace(str(folder), root))
    entries = [json.loads(entry.read_text()) for entry in (streamed.output / "catalog").glob("*.json")]
    ordered = sorted(entries, key=lambda entry: entry["restatement"])
    return [f"{root}/stream/batches/{entry['name']}" for entry in ordered]


@pytest.mark.spark
@pytest.mark.slow
def test_batches_of_one_day_add_up_to_it(loader: Any, spark: SparkSession) -> None:
    folder = loader.local.objects / loader.name
    streamed = Streamed(spark, folder)
    streamed.arrive({"a.log": log_line(NOON, "/a") + log_line(NOON, "/other", "192.0.2.9") + b"broken\n"})
    streamed.run()
    # Before the others in time: the first hit of the session, whose events are all stated anew.
    streamed.arrive({"b.log": log_line(NOON - 20 * MINUTE, "/b") + log_line(NOON, "/a")})
    streamed.run()
    streamed.arrive({"c.log": log_line(NOON + 90 * MINUTE, "/c")})
    streamed.run()
    first, second, third = in_the_lake(loader, streamed)

    def load(batch: str) -> None:
        loader.load(SESSIONS, f"{batch}/sessions/manifest.json")
        loaded = loader.load(EVENTS, f"{batch}/events/manifest.json")
        assert loaded["partition"] is None
        assert loader.load(EVENTS, f"{batch}/events/manifest.json")["already_loaded"]
        assert loader.rows(select_days([loaded["load_id"]])) == [(str(DAY), str(DAY))]

    load(first)
    before = loader.rows("SELECT path, session_id FROM analytics.events ORDER BY path")
    assert [path for path, _ in before] == ["/a", "/other"]
    load(second)
    after = dict(loader.rows("SELECT path, session_id FROM analytics.events ORDER BY path"))
    assert list(after) == ["/a", "/b", "/other"]
    assert after["/other"] == dict(before)["/other"], "the day of the first batch was cleared"
    assert after["/a"] == after["/b"] != dict(before)["/a"]
    load(third)
    assert loader.rows("SELECT COUNT(*) AS n, COUNT(DISTINCT event_id) AS ids FROM analytics.events") == [
        (4, 4)
    ]
    assert (
        loader.rows(
            "SELECT session_id FROM analytics.events EXCEPT SELECT session_id FROM analytics.sessions"
        )
        == []
    )
    assert loader.rows("SELECT hits FROM analytics.sessions ORDER BY hits") == [(1,), (1,), (2,)]

    with pytest.raises(
        AirflowFailException, match=r"one of several of its dt: it must not take the place of a"
    ):
        loader.load(QUARANTINE_COUNTS, f"{first}/quarantine_counts/manifest.json")


def test_a_batch_after_a_later_one_is_refused(loader: Any) -> None:
    columns: dict[str, Any] = {column.name: None for column in EVENTS.columns}

    def write(name: str, restatement: int, session: str) -> str:
        row = {**columns, "event_id": "e", "ts": NOON, "dt": DAY, "session_id": session}
        address: str = loader.write(EVENTS, name, [row], partition={"batch": name}, restatement=restatement)
        return address

    late = write("stream-1", 1, "old")
    loader.load(EVENTS, write("stream-2", 2, "new"))
    with pytest.raises(AirflowFailException, match=r"StaleLoadError: .* stream-1 comes too late"):
        loader.load(EVENTS, late)
    assert loader.rows("SELECT session_id FROM analytics.events") == [("new",)]
