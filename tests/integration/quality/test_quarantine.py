"""Rows that break a rule are put aside, the others get a manifest that the load takes, and nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_emr_etl.exceptions import AccountingError, ConfigurationError
from airflow_emr_etl.models.manifest import Accounting, Column, Manifest, ManifestEntry
from airflow_emr_etl.quality.result import GateResult
from airflow_emr_etl.quality.runner import build_expectations
from airflow_emr_etl.quality.suite import load_suite
from airflow_emr_etl.spark.jobs import quality_gate
from airflow_emr_etl.spark.quarantine import split
from airflow_emr_etl.transfers.redshift_load import check_accounting

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark
pytest.importorskip("great_expectations", reason="the quality extra is not installed")

SUITE = """
suite: apart
datasets:
  events:
    - expect_column_values_to_be_between: {id: status, column: status, max_value: 599, severity: quarantine}
    - expect_column_values_to_not_be_null: {id: host, column: host, severity: quarantine}
    - expect_column_values_to_be_unique: {id: once, column: event_id, severity: quarantine}
    - expect_column_pair_values_a_to_be_greater_than_b:
        id: pair
        column_A: status
        column_B: bytes
        severity: quarantine
        ignore_row_if: either_value_is_missing
    - expect_column_values_to_not_be_null: {id: sure, column: status, severity: stop, mostly: 0.5}
"""
#       event_id, status, host, bytes, is_bot
ROWS = [
    ("a", 200, "h", 1, True),
    ("b", 999, "h", 1, True),
    ("c", 999, None, 1, False),
    ("d", 200, "h", 1, False),
    ("d", 200, "h", None, False),
    (None, None, "h", None, False),
    (None, 200, "h", 500, False),
]
BROKEN = {"b": "status", "c": "status,host", "d": "once", None: "pair"}


def add_events(spark: SparkSession, root: Path, rows: list[tuple[Any, ...]]) -> Manifest:
    frame = spark.createDataFrame(
        rows, "event_id string, status int, host string, bytes bigint, is_bot boolean"
    )
    frame.coalesce(1).write.parquet(f"file://{root}/events")
    [file] = (root / "events").glob("*.parquet")
    kinds = ("VARCHAR(64)", "INTEGER", "VARCHAR(64)", "BIGINT", "BOOLEAN")
    manifest = Manifest(
        dataset="events",
        partition={"dt": "2026-01-05"},
        job="test",
        created_at="2026-01-06T00:00:00Z",
        entries=(ManifestEntry(f"file://{file}", file.stat().st_size, len(rows)),),
        columns=tuple(Column(name, kind) for name, kind in zip(frame.columns, kinds, strict=True)),
        accounting=Accounting(lines_in=len(rows), valid=len(rows), bots=sum(row[4] for row in rows)),
    )
    (root / "manifest.json").write_text(manifest.to_json())
    (root / "suite.yaml").write_text(SUITE)
    return manifest


def run_gate(root: Path) -> GateResult:
    data, output = f"events=file://{root}/manifest.json", f"file://{root}/gate/"
    quality_gate.main(["--suite", f"file://{root}/suite.yaml", "--data", data, "--output", output])
    return GateResult.from_json((root / "gate" / "result.json").read_text())


def read(spark: SparkSession, path: Path) -> tuple[Manifest, list[Any]]:
    manifest = Manifest.from_json(path.read_text())
    rows = spark.read.parquet(*manifest.urls).collect() if manifest.urls else []
    assert len(rows) == manifest.record_count
    for entry in manifest.entries:
        assert Path(entry.url.removeprefix("file://")).stat().st_size == entry.content_length
    return manifest, rows


def test_bad_rows_go_aside_and_good_ones_on(spark: SparkSession, tmp_path: Path) -> None:
    add_events(spark, tmp_path, ROWS)
    result = run_gate(tmp_path)
    assert result.passed
    events = result.datasets["events"]
    assert (events.rows, events.quarantined) == (7, 5)
    assert events.clean == f"file://{tmp_path}/gate/clean/events/manifest.json"
    assert "5 of 7 rows were put aside" in result.render()

    apart, rows = read(spark, tmp_path / "gate" / "quarantine" / "events" / "manifest.json")
    assert apart.columns[-1] == Column("failed_expectations", "VARCHAR(65535)")
    assert sorted((row.event_id or "", row.failed_expectations) for row in rows) == sorted(
        (row[0] or "", BROKEN[row[0]]) for row in ROWS if row[0] in BROKEN and row[1] is not None
    )

    clean, rows = read(spark, tmp_path / "gate" / "clean" / "events" / "manifest.json")
    assert {tuple(row) for row in rows} == {ROWS[0], ROWS[5]}
    assert clean.accounting is not None
    assert (clean.accounting.valid, clean.accounting.quarantined, clean.accounting.bots) == (
        2,
        {"quality": 5},
        1,
    )
    check_accounting(clean)  # as the load does


def test_good_rows_are_not_copied(spark: SparkSession, tmp_path: Path) -> None:
    given = add_events(spark, tmp_path, ROWS[:1])
    assert run_gate(tmp_path).datasets["events"].quarantined == 0
    clean, _ = read(spark, tmp_path / "gate" / "clean" / "events" / "manifest.json")
    assert clean == given
    apart, _ = read(spark, tmp_path / "gate" / "quarantine" / "events" / "manifest.json")
    assert apart.entries == ()


def test_rows_that_do_not_add_up_are_no_result(spark: SparkSession, tmp_path: Path) -> None:
    from pyspark.sql import functions as F

    given = add_events(spark, tmp_path, ROWS)
    fewer = spark.read.parquet(*given.urls).limit(6).withColumn("failed_expectations", F.array(F.lit("x")))
    with pytest.raises(AccountingError, match="7 rows, but 0 clean ones and 6 for the quarantine"):
        split(spark, given, fewer, "manifest.json", f"file://{tmp_path}/gate")
    assert not (tmp_path / "gate" / "clean" / "events" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("expect_table_row_count_to_equal: {value: 1, severity: quarantine}", "about the whole dataset"),
        (
            "expect_column_values_to_not_be_null: {column: a, row_condition: a > 1, condition_parser: spark, "
            "severity: quarantine}",
            "cannot be joined with row_condition",
        ),
    ],
)
def test_only_rules_about_rows_can_put_rows_aside(entry: str, said: str) -> None:
    suite = load_suite(f"suite: s\ndatasets:\n  events:\n    - {entry}\n", "s.yaml")
    with pytest.raises(ConfigurationError, match=said):
        build_expectations(suite)
