"""What the gate compares with: past nights, the clock, other datasets; data without a manifest; proposed suites."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_emr_etl.quality.expectations import SHARE_NEAR_PAST
from airflow_emr_etl.quality.result import DatasetResult, ExpectationResult, GateResult
from airflow_emr_etl.quality.runner import run_suite
from airflow_emr_etl.quality.suggestion import profile, suggest
from airflow_emr_etl.quality.suite import load_suite
from airflow_emr_etl.spark.gate_history import past_of
from airflow_emr_etl.spark.jobs import quality_gate

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark
pytest.importorskip("great_expectations", reason="the quality extra is not installed")

SUITE = """
suite: inputs
datasets:
  events:
    - expect_table_row_count_to_be_near_past: {id: near, tolerance: 0.2}
    - expect_column_max_to_be_recent: {id: fresh, column: ts, max_age_hours: 24, now: "2026-01-06T06:00:00Z"}
    - expect_column_max_to_be_recent: {id: stale, column: ts, max_age_hours: 24, now: "2026-01-09T06:00:00Z"}
    - unexpected_rows_expectation:
        id: known
        unexpected_rows_query: >-
          SELECT e.session_id FROM {batch} e LEFT ANTI JOIN ${dataset.sessions} s ON e.session_id = s.session_id
    - expect_column_value_share_to_be_near_past: {id: odd, column: session_id, value: s0, tolerance: 0.1}
    - expect_column_value_share_to_be_near_past: {id: new, column: session_id, value: s0, tolerance: 0.1}
    - expect_column_value_share_to_be_near_past:
        {id: given, column: session_id, value: s1, tolerance: 0.1, past: [0.2, 0.3, 0.4]}
  sessions:
    - expect_column_values_to_be_in_set: {id: day, column: dt, value_set: ["${partition.dt}"]}
"""
NOON = datetime.datetime(2026, 1, 5, 12, tzinfo=datetime.UTC)
DAY = datetime.date(2026, 1, 5)


def past_night(root: Path, day: str, rows: int, attempt: str = "1", holds: bool = True) -> None:
    entry = ExpectationResult("a", "expect_column_to_exist", "a", "critical", holds)
    share = ExpectationResult("odd", SHARE_NEAR_PAST, "session_id", "warning", True, observed=0.5)
    result = GateResult("inputs", {"events": DatasetResult(rows, (entry, share))}, seconds=1)
    folder = root / "gates" / f"dt={day}" / f"attempt={attempt}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(result.to_json())


def test_the_past_is_what_earlier_nights_passed_with(spark: SparkSession, tmp_path: Path) -> None:
    assert past_of(spark, f"file://{tmp_path}/gates", before="2026-01-05").rows == {}
    past_night(tmp_path, "2026-01-01", 10)
    past_night(tmp_path, "2026-01-02", 20, attempt="1")
    past_night(tmp_path, "2026-01-02", 21, attempt="2")
    past_night(tmp_path, "2026-01-03", 1, holds=False)
    past_night(tmp_path, "2026-01-04", 40)
    past_night(tmp_path, "2026-01-05", 50)
    folder = f"file://{tmp_path}/gates/"
    assert past_of(spark, folder, before="2026-01-05").rows == {"events": [10, 21, 40]}
    assert past_of(spark, folder, before="2026-01-05", nights=1).rows == {"events": [40]}
    assert past_of(spark, folder, before="2026-01-05").shares == {"odd": [0.5, 0.5, 0.5]}


def test_the_gate_over_bare_parquet_and_past_nights(spark: SparkSession, tmp_path: Path) -> None:
    for day in ("2026-01-02", "2026-01-03", "2026-01-04"):
        past_night(tmp_path, day, 100)
    events = [(f"e{n}", f"s{n % 3}", NOON) for n in range(9)]
    spark.createDataFrame(events, "event_id string, session_id string, ts timestamp").write.parquet(
        f"file://{tmp_path}/events/dt=2026-01-05"
    )
    spark.createDataFrame([("s0", DAY), ("s1", DAY)], "session_id string, dt date").write.parquet(
        f"file://{tmp_path}/sessions/dt=2026-01-05"
    )
    (tmp_path / "suite.yaml").write_text(SUITE)
    data = [f"--data={name}=file://{tmp_path}/{name}/dt=2026-01-05/" for name in ("events", "sessions")]
    output = f"--output=file://{tmp_path}/gates/dt=2026-01-05/attempt=1/"
    quality_gate.main(
        [f"--suite=file://{tmp_path}/suite.yaml", *data, output, f"--history=file://{tmp_path}/gates/"]
    )
    result = GateResult.from_json((tmp_path / "gates/dt=2026-01-05/attempt=1/result.json").read_text())
    found = {one.id: one for dataset in result.datasets.values() for one in dataset.expectations}
    assert {name: one.success for name, one in found.items()} == {
        **{"near": False, "fresh": True, "stale": False, "known": False, "day": True},
        **{"odd": False, "new": True, "given": True},
    }
    assert found["near"].observed == 9
    assert found["known"].observed == 3
    assert found["odd"].observed == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("value", "values", "share"),
    [("x", ["x", "y", None, "x"], 0.5), (True, [True, None, None, False], 0.25), (7, [1, 2, None, 3], 0.0)],
)
def test_a_share_is_of_all_rows(spark: SparkSession, value: Any, values: list[Any], share: float) -> None:
    kind = {"str": "string", "bool": "boolean", "int": "int"}[type(value).__name__]
    entry = f"{{column: a, value: {str(value).lower()}, tolerance: 0, past: [{share}, {share}, {share}]}}"
    suite = load_suite(f"suite: s\ndatasets:\n  d:\n    - {SHARE_NEAR_PAST}: {entry}\n", "s.yaml")
    for rows, seen in (([(one,) for one in values], share), ([], None)):
        [found] = run_suite(suite, {"d": spark.createDataFrame(rows, f"a {kind}")}).datasets["d"].expectations
        assert (found.success, found.observed) == (seen is not None, seen)


def test_a_proposed_suite_holds_on_its_data(spark: SparkSession) -> None:
    rows: list[tuple[Any, ...]] = [
        (f"k{n}", ["GET", "POST", "it's: #odd"][n % 3], n - 5, n / 2, None if n % 4 else "x", NOON, DAY, [1])
        for n in range(200)
    ]
    names = "key string, method string, number int, real double, rare string, ts timestamp, day date, nested array<int>"
    frame = spark.createDataFrame(rows, names)
    text = suggest("events", profile(frame))
    suite = load_suite(text, "proposed.yaml")
    result = run_suite(suite, {"events": frame})
    assert not result.failed(), result.render()
    kinds = {(entry.type, entry.column) for entry in suite.datasets["events"]}
    assert ("expect_column_values_to_be_unique", "key") in kinds
    assert ("expect_column_values_to_be_in_set", "method") in kinds
    assert ("expect_column_values_to_be_unique", "method") not in kinds
    assert text.count("    # ") == len(suite.datasets["events"])


def test_a_suite_is_proposed_for_no_rows_too(spark: SparkSession) -> None:
    frame = spark.createDataFrame([], "key string, number int")
    suite = load_suite(suggest("events", profile(frame)), "proposed.yaml")
    assert not run_suite(suite, {"events": frame}).failed()
