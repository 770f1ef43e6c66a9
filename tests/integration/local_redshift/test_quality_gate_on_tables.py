"""The gate on tables: Great Expectations' own SQL, through the Data API."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import Asset
from fakes.task_instance import FakeTaskInstance

from airflow_emr_etl.exceptions import MissingInputError, ServiceUnavailableError
from airflow_emr_etl.hooks.redshift_data import RedshiftDataHook
from airflow_emr_etl.operators.redshift_quality_gate import RedshiftQualityGateOperator
from airflow_emr_etl.quality.expectations import SHARE_NEAR_PAST
from airflow_emr_etl.quality.result import DatasetResult, ExpectationResult, GateResult
from tests.integration.local_redshift.conftest import Loader

pytest.importorskip("great_expectations", reason="the quality extra is not installed")

DDL = (
    "CREATE SCHEMA shop",
    "CREATE TABLE shop.events (event_id VARCHAR(64) NOT NULL, ts TIMESTAMP, status INTEGER, bytes BIGINT, "
    "path VARCHAR(200), share DOUBLE PRECISION, price DECIMAL(10,2), is_bot BOOLEAN, session_id VARCHAR(64), dt DATE)",
    "CREATE TABLE shop.sessions (session_id VARCHAR(64), dt DATE)",
    "INSERT INTO shop.sessions VALUES ('s1', '2026-01-05'), ('s2', '2026-01-05'), ('s9', '2026-01-04')",
    """INSERT INTO shop.events VALUES
    ('a', '2026-01-05 01:00:00', 200, 10, '/', 0.5, 1.50, false, 's1', '2026-01-05'),
    ('b', '2026-01-05 02:00:00', 404, NULL, '/100%', 0.25, 2.50, false, 's1', '2026-01-05'),
    ('c', '2026-01-05 03:00:00', 999, 30, '/it''s', 0.75, 9.99, true, 's2', '2026-01-05'),
    ('c', '2026-01-05 04:00:00', 200, 40, '/back\\\\slash', NULL, NULL, false, 's9', '2026-01-05'),
    ('x', '2026-01-04 04:00:00', 777, 40, 'no', NULL, NULL, false, 's9', '2026-01-04')""",
)

GOOD = """
suite: good
datasets:
  events:
    - expect_table_row_count_to_equal: {value: 4}
    - expect_column_to_exist: {column: status}
    - expect_column_values_to_not_be_null: {column: event_id}
    - expect_column_values_to_be_in_set: {column: dt, value_set: ["${partition.dt}"]}
    - expect_column_values_to_be_in_set: {column: path, value_set: ["/", "/100%", "/it's", '/back\\slash']}
    - expect_column_values_to_match_regex: {column: path, regex: "^/"}
    - expect_column_value_lengths_to_be_between: {column: event_id, min_value: 1, max_value: 1}
    - expect_column_mean_to_be_between: {column: share, min_value: 0.49, max_value: 0.51}
    - expect_column_sum_to_be_between: {column: price, min_value: 13.99, max_value: 13.99}
    - expect_column_stdev_to_be_between: {column: bytes, min_value: 15, max_value: 16}
    - expect_column_max_to_be_between: {column: ts, min_value: "2026-01-05 04:00:00", max_value: "2026-01-05 04:00:00"}
    - expect_column_distinct_values_to_be_in_set: {column: is_bot, value_set: [true, false]}
    - expect_column_unique_value_count_to_be_between: {column: event_id, min_value: 3, max_value: 3}
    - expect_column_max_to_be_recent: {column: ts, max_age_hours: 5, now: "2026-01-05T08:00:00Z"}
    - expect_column_values_to_be_between: {column: Status, min_value: 200, max_value: 404, mostly: 0.7}
    - expect_column_pair_values_a_to_be_greater_than_b:
        column_A: status
        column_B: bytes
        ignore_row_if: either_value_is_missing
    - expect_compound_columns_to_be_unique: {column_list: [event_id, ts]}
    - expect_column_value_share_to_be_near_past:
        {id: bots, column: is_bot, value: true, tolerance: 0.01, past: [0.25, 0.25, 0.25]}
  sessions:
    - expect_column_values_to_be_unique: {column: session_id}
"""


@pytest.fixture
def shop(loader: Loader) -> Loader:
    for statement in DDL:
        loader.hook.query(statement)
    return loader


def gate(loader: Loader, tmp_path: Path, suite: str, **changes: Any) -> RedshiftQualityGateOperator:
    (tmp_path / "suite.yaml").write_text(suite)
    given: dict[str, Any] = {
        "data": {"events": "shop.events", "sessions": "shop.sessions"},
        "partition": {"dt": "2026-01-05"},
        "output": f"s3://{loader.name}/quality/",
        **changes,
    }
    return RedshiftQualityGateOperator(
        task_id="check", suite=str(tmp_path / "suite.yaml"), target=loader.target, **given
    )


def document(loader: Loader) -> GateResult:
    [path] = (loader.local.objects / loader.name / "quality").glob("attempt=*/result.json")
    return GateResult.from_json(path.read_text())


def test_a_suite_that_holds(shop: Loader, tmp_path: Path) -> None:
    task = gate(shop, tmp_path, GOOD)
    told = task.execute(FakeTaskInstance().context)
    assert told["passed"]
    assert told["rows"] == {"events": 4, "sessions": 2}
    assert told["checks"] == 19
    assert told["output"].startswith(f"s3://{shop.name}/quality/attempt=")
    page = shop.local.objects / told["data_docs"].removeprefix("s3://")
    assert "Suite good" in page.read_text()
    assert list(page.parent.glob("validations/**/events.html"))
    by_id = {entry.id: entry for entry in document(shop).datasets["events"].expectations}
    assert by_id["events.ts.column_max_to_be_recent"].observed == "2026-01-05T04:00:00"
    assert by_id["events.bytes.column_stdev_to_be_between"].observed == pytest.approx(15.275, abs=0.001)
    server = f"redshift://tests.{shop.hook.client.meta.region_name}:5439"
    assert task._connection is not None
    assert task._connection.statements < told["checks"]  # what can go together does
    assert task._lineage_names() == {
        "events": (server, f"{shop.name}.shop.events"),
        "sessions": (server, f"{shop.name}.shop.sessions"),
    }


BAD = """
suite: bad
datasets:
  events:
    - expect_column_values_to_be_in_set: {column: status, value_set: [200, 404], severity: warn}
    - expect_column_values_to_be_unique: {column: event_id}
    - expect_column_values_to_match_regex: {column: path, regex: "^/[a-z]*$"}
    - expect_column_values_to_be_null: {column: no_such_column}
    - expect_column_values_to_not_match_like_pattern: {column: path, like_pattern: "%100!%%"}
    - expect_column_values_to_match_strftime_format: {column: path, strftime_format: "%Y"}
    - expect_column_quantile_values_to_be_between:
        column: bytes
        quantile_ranges: {quantiles: [0.5], value_ranges: [[0, 100]]}
    - unexpected_rows_expectation:
        id: events.session.known
        severity: warn
        unexpected_rows_query: >-
          SELECT e.session_id FROM {batch} e LEFT JOIN ${dataset.sessions} s ON e.session_id = s.session_id
          WHERE s.session_id IS NULL AND e.path LIKE '/%'
  sessions:
    - expect_table_row_count_to_equal: {value: 2}
"""


def test_a_suite_that_fails_tells_examples(shop: Loader, tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException) as caught:
        gate(shop, tmp_path, BAD).execute(FakeTaskInstance().context)
    result = document(shop)
    assert (result.failed_critical, result.failed_warning) == (4, 2)
    found = {entry.id: entry for dataset in result.datasets.values() for entry in dataset.expectations}
    assert {name: entry.examples for name, entry in found.items() if entry.examples} == {
        "events.status.column_values_to_be_in_set": (999,),
        "events.event_id.column_values_to_be_unique": ("c",),
        "events.path.column_values_to_match_regex": ("/100%", "/it's", "/back\\slash"),
    }
    assert found["events.status.column_values_to_be_in_set"].unexpected_percent == 25
    assert found["events.session.known"].message == "the query returned 1 rows, expected none"
    absent = found["events.no_such_column.column_values_to_be_null"].message
    assert 'The column "no_such_column" in BatchData does not exist' in absent
    elsewhere = found["events.path.column_values_to_match_strftime_format"].message
    assert "Great Expectations cannot compute this where the data is" in elsewhere
    assert "unexpected_rows_expectation" in elsewhere
    assert "Examples: ['c']" in str(caught.value)


def test_warnings_alone_let_it_pass_and_the_outlets_are_told(shop: Loader, tmp_path: Path) -> None:
    suite = """
suite: mild
datasets:
  events:
    - expect_column_values_to_be_in_set: {column: status, value_set: [200], severity: warn}
"""
    sales = Asset("sales")
    context = FakeTaskInstance().context
    context["outlet_events"] = {sales: SimpleNamespace(extra={})}
    task = gate(shop, tmp_path, suite, data={"events": "shop.events"}, partition=None, outlets=[sales])
    told = task.execute(context)
    assert (told["passed"], told["failed_warning"], told["rows"]) == (True, 1, {"events": 5})
    assert context["outlet_events"][sales].extra["quality"] == {
        "passed": True,
        "suite": "mild",
        "rows": {"events": 5},
        "checks": 1,
        "failed_critical": 0,
        "failed_warning": 1,
    }


@pytest.mark.parametrize(
    ("entry", "changes", "message"),
    [
        ("{column: status, value_set: [1], severity: quarantine}", {}, "use severity stop or warn"),
        (
            "{column: status, value_set: [1]}",
            {"data": {"events": "shop.gone"}},
            "There is no table shop.gone",
        ),
        ("{column: status, value_set: [1]}", {"data": {"events": "events"}}, "name the schema too"),
        ("{column: status, value_set: [1]}", {"data": {"hits": "shop.events"}}, "gives tables for hits"),
        ("{column: status, value_set: [1]}", {"data": {"events": 'shop."x'}}, "is not a name for Redshift"),
        ("{column: status, value_set: [1]}", {"partition": {"dt;": "x"}}, "is not a name for Redshift"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    shop: Loader, tmp_path: Path, entry: str, changes: dict[str, Any], message: str
) -> None:
    suite = f"suite: s\ndatasets:\n  events:\n    - expect_column_values_to_be_in_set: {entry}\n"
    task = gate(shop, tmp_path, suite, **{"data": {"events": "shop.events"}, **changes})
    with pytest.raises((AirflowFailException, MissingInputError), match=re.escape(message)):
        task.execute(FakeTaskInstance().context)
    assert not (shop.local.objects / shop.name / "quality").exists()


def test_values_and_names_cannot_become_sql(shop: Loader, tmp_path: Path) -> None:
    suite = """
suite: hostile
datasets:
  events:
    - expect_column_values_to_be_in_set: {column: path, value_set: ["'; DROP TABLE shop.events; --", '\\']}
    - expect_column_values_to_be_null: {column: 'path" IS NULL OR 1=1 --', severity: warn}
"""
    with pytest.raises(AirflowFailException, match="1 critical expectations do not hold"):
        gate(shop, tmp_path, suite, data={"events": "shop.events"}).execute(FakeTaskInstance().context)
    assert shop.rows("SELECT count(*) FROM shop.events") == [(5,)]


def test_the_past_is_read_from_earlier_nights(shop: Loader, tmp_path: Path) -> None:
    suite = """
suite: past
datasets:
  events:
    - expect_table_row_count_to_be_near_past: {tolerance: 0.5, severity: warn}
    - expect_column_value_share_to_be_near_past: {id: bots, column: is_bot, value: true, tolerance: 0.1}
"""
    share = ExpectationResult("bots", SHARE_NEAR_PAST, "is_bot", "critical", True, observed=0.4)
    night = GateResult("past", {"events": DatasetResult(100, (share,))}, seconds=1).to_json()
    for day in ("2026-01-02", "2026-01-03", "2026-01-04"):
        folder = shop.local.objects / shop.name / "nights" / f"dt={day}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(night)
    task = gate(shop, tmp_path, suite, data={"events": "shop.events"}, history=f"s3://{shop.name}/nights/")
    with pytest.raises(AirflowFailException):
        task.execute(FakeTaskInstance().context)
    result = document(shop)
    assert [(one.success, one.observed) for one in result.failed()] == [(False, 4), (False, 0.25)]
    with pytest.raises(AirflowFailException, match="has no day"):
        gate(
            shop, tmp_path, suite, data={"events": "shop.events"}, partition=None, history="s3://x/"
        ).execute(FakeTaskInstance().context)


class LosesConnections(RedshiftDataHook):
    """Whatever reads the table itself is cut off."""

    def execute(self, sql: str, *rest: Any, **more: Any) -> str:
        if '"shop"."events"' in sql:
            raise ServiceUnavailableError("connection lost")
        return super().execute(sql, *rest, **more)


def test_a_lost_connection_is_no_verdict_and_can_be_tried_again(shop: Loader, tmp_path: Path) -> None:
    task = gate(shop, tmp_path, GOOD)
    task.hook = LosesConnections(shop.target)
    with pytest.raises(ServiceUnavailableError, match="connection lost"):
        task.execute(FakeTaskInstance().context)
    assert not (shop.local.objects / shop.name / "quality").exists()
