"""The engine that reads the data few times: the numbers of Great Expectations' own, with fewer jobs."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_emr_etl.quality.runner import build_expectations, run_suite
from airflow_emr_etl.quality.spark_engine import datasource_type
from airflow_emr_etl.quality.suite import load_suite
from benchmarks.quality_suite import measure, one_scan, suite_of_twenty

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.spark
gx = pytest.importorskip("great_expectations", reason="the quality extra is not installed")

START = datetime.datetime(2026, 1, 5, 8, tzinfo=datetime.UTC)

MESSY = """
suite: messy
datasets:
  rows:
    - expect_table_row_count_to_equal: {value: 9}
    - expect_column_values_to_be_unique: {column: text}
    - expect_column_values_to_be_unique: {column: number}
    - expect_column_values_to_be_unique: {column: real}
    - expect_column_values_to_be_unique: {column: text, id: some, row_condition: number > 2, condition_parser: spark}
    - expect_column_unique_value_count_to_be_between: {column: text, max_value: 1}
    - expect_column_proportion_of_unique_values_to_be_between: {column: number, min_value: 1}
    - expect_compound_columns_to_be_unique: {column_list: [text, number]}
    - expect_compound_columns_to_be_unique: {column_list: [text, number], ignore_row_if: any_value_is_missing}
    - expect_compound_columns_to_be_unique: {column_list: [text, number], ignore_row_if: never}
    - expect_column_pair_values_a_to_be_greater_than_b: {column_A: number, column_B: other}
    - expect_column_pair_values_a_to_be_greater_than_b:
        column_A: number
        column_B: other
        ignore_row_if: either_value_is_missing
    - expect_column_pair_values_to_be_equal: {column_A: number, column_B: other, ignore_row_if: neither}
    - expect_select_column_values_to_be_unique_within_record: {column_list: [number, other]}
    - expect_multicolumn_sum_to_equal: {column_list: [number, other], sum_total: 4}
    - expect_column_values_to_not_be_null: {column: number}
    - expect_column_values_to_be_in_set: {column: text, value_set: [a, b]}
    - expect_column_mean_to_be_between: {column: number, max_value: 0}
    - expect_column_sum_to_be_between: {column: number, max_value: 0}
    - expect_column_stdev_to_be_between: {column: number, max_value: 0}
    - expect_column_max_to_be_between: {column: number, max_value: 0}
    - expect_column_median_to_be_between: {column: number, max_value: 0}
    - expect_column_values_to_be_between: {column: real, max_value: 1}
    - unexpected_rows_expectation: {unexpected_rows_query: "SELECT * FROM {batch} WHERE number > 2"}
"""
ROWS: list[tuple[Any, ...]] = [
    ("a", 1, 2, 0.0),
    ("a", 1, 1, -0.0),
    ("b", None, 2, 1.5),
    ("b", None, None, float("nan")),
    (None, 3, 1, float("nan")),
    (None, 3, None, None),
    ("c", 4, 4, 2.0),
    ("d", None, 0, None),
    (None, None, None, None),
]


def sessions(spark: SparkSession, folder: Path) -> Path:
    rows = [
        (
            f"{n:064x}",
            f"{n % 7:064x}",
            START,
            START,
            2 + n % 3,
            1,
            "/",
            "/x",
            None if n % 2 else "a.example",
            START,
        )
        for n in range(200)
    ]
    names = "session_id visitor_id started_at ended_at hits page_views entry_path exit_path referrer_host dt"
    spark.createDataFrame(rows, names.split()).write.parquet(f"file://{folder}")
    return folder


def outcomes(datasource: Any, frame: DataFrame) -> dict[str, Any]:
    suite = load_suite(MESSY, "messy.yaml")
    built = build_expectations(suite)
    asset = datasource.add_dataframe_asset(name="rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": frame})
    answer = batch.validate(
        gx.ExpectationSuite(name="rows", expectations=[one.copy(deep=True) for one in built.values()]),
        result_format={"result_format": "BASIC", "partial_unexpected_count": 0},
    )
    return {
        str(one.expectation_config.meta["airflow_emr_etl_id"]): (one.success, one.result, one.exception_info)
        for one in answer.results
    }


def test_finds_what_great_expectations_own_engine_finds(spark: SparkSession) -> None:
    frame = spark.createDataFrame(ROWS, "text string, number bigint, other bigint, real double").coalesce(1)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    expected = outcomes(context.data_sources.add_spark(name="own", persist=False), frame)
    assert datasource_type()
    found = outcomes(context.data_sources.add_few_scans_spark(name="ours", persist=False), frame)
    assert {name for name, (success, _, _) in expected.items() if success} != set(expected)
    for name, theirs in expected.items():
        assert found[name] == theirs, name


def test_twenty_expectations_take_three_scans(spark: SparkSession, tmp_path: Path) -> None:
    folder = sessions(spark, tmp_path / "sessions")
    frame = spark.read.parquet(f"file://{folder}")
    tracker = spark.sparkContext.statusTracker()
    before = set(tracker.getJobIdsForGroup(None))
    result = run_suite(suite_of_twenty(), {"sessions": frame})
    jobs = set(tracker.getJobIdsForGroup(None)) - before
    assert len(result.datasets["sessions"].expectations) == 20
    assert not result.failed()
    # One aggregate, one group-by, one query, and a count of the rows that the footers answer. With adaptive execution
    # each shuffle is a job as well: 2 + 3 + 2 + 2.
    assert len(jobs) <= 9


def test_the_peer_computes_the_same_numbers(spark: SparkSession, tmp_path: Path) -> None:
    folder = sessions(spark, tmp_path / "sessions")
    numbers = one_scan(spark.read.parquet(f"file://{folder}"))
    assert numbers["rows"] == numbers["different_session_ids"] == 200
    assert numbers["no_referrer_host"] == 100
    figures = measure(spark, f"file://{folder}", runs=1)
    assert figures["rows"] == 200
    assert [len(figures[name]) for name in ("quality_20", "one_scan")] == [1, 1]
    assert min(figures["quality_20"] + figures["one_scan"]) > 0
