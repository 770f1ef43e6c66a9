"""The load's decisions, without a warehouse. With one: tests/integration/local_redshift/test_load.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes.task_instance import FakeTaskInstance

from airflow_emr_etl.exceptions import (
    AccountingError,
    LoadError,
    ManifestError,
    RowCountMismatchError,
    ServiceUnavailableError,
    StaleLoadError,
    StatementFailedError,
)
from airflow_emr_etl.models.manifest import Accounting, Manifest
from airflow_emr_etl.models.table import RedshiftTarget
from airflow_emr_etl.operators import redshift_batch
from airflow_emr_etl.operators.redshift_batch import STATEMENT_KEY
from airflow_emr_etl.operators.waiting import RESUMED_TO_FAIL
from airflow_emr_etl.transfers.redshift_load import (
    RedshiftLoadOperator,
    check_accounting,
    client_token,
    load_error,
    partition_of,
)
from airflow_emr_etl.warehouse.clickstream import EVENTS, QUARANTINE_COUNTS, TABLES
from airflow_emr_etl.warehouse.history import Load

TARGET = RedshiftTarget(workgroup_name="{{ params.wg }}", iam_role="{{ params.role }}")


def manifest(**fields: Any) -> Manifest:
    return Manifest(
        **{
            "dataset": "events",
            "partition": {"dt": "2026-01-05"},
            "job": "j",
            "created_at": "2026-01-06T00:00:00Z",
            "entries": (),
            "columns": (),
            **fields,
        }
    )


def load() -> Load:
    return Load("f" * 64, EVENTS.name, "2026-01-05", "d", "r", "s3://lake/m.json", manifest())


def test_the_constructor_touches_nothing_and_shows_its_templates() -> None:
    for table in TABLES:
        operator = table.load("t", manifest="s3://lake/{{ ds }}/m.json", target=TARGET, partition="{{ ds }}")
        assert isinstance(operator, RedshiftLoadOperator)
        assert operator.target == {"workgroup_name": "{{ params.wg }}", "iam_role": "{{ params.role }}"}
        assert operator.deferrable
        assert not {"hook", "lake", "place"} & set(vars(operator))


def test_a_token_names_one_attempt_of_one_task_on_one_place() -> None:
    here, there = (RedshiftTarget(workgroup_name=name, iam_role="default") for name in ("a", "b"))
    tokens = {
        client_token(load(), here, -1, 1, 1),
        client_token(load(), there, -1, 1, 1),
        client_token(load(), here, -1, 1, 2),
        client_token(load(), here, -1, 2, 1),
        client_token(load(), here, 0, 1, 1),
    }
    assert len(tokens) == 5
    assert all(len(token) <= 64 for token in tokens)
    assert client_token(load(), here, -1, 1, 1) in tokens


def test_accounting_is_checked_again() -> None:
    check_accounting(manifest(accounting=None))
    check_accounting(manifest(accounting=Accounting(lines_in=2, valid=0, delivered_twice=2)))
    check_accounting(manifest(dataset="daily_traffic", accounting=Accounting(lines_in=2, valid=2)))
    # A re-statement also carries rows of other batches.
    check_accounting(manifest(restatement=1, accounting=Accounting(lines_in=2, valid=2)))
    with pytest.raises(AccountingError, match="counts 2 events"):
        check_accounting(manifest(accounting=Accounting(lines_in=2, valid=2)))
    with pytest.raises(AccountingError, match="counts 1 sessions"):
        check_accounting(manifest(dataset="sessions", accounting=Accounting(lines_in=2, valid=2, sessions=1)))
    with pytest.raises(AccountingError, match="3 lines came in"):
        check_accounting(manifest(accounting=Accounting(lines_in=3, valid=2)))


def test_the_partition_is_the_one_that_the_run_is_for() -> None:
    assert partition_of(EVENTS, manifest(), None) == "2026-01-05"
    assert partition_of(EVENTS, manifest(), "2026-01-05") == "2026-01-05"
    with pytest.raises(ManifestError, match="not 2026-01-06"):
        partition_of(EVENTS, manifest(), "2026-01-06")
    with pytest.raises(ManifestError, match="does not say its dt"):
        partition_of(EVENTS, manifest(partition={}), None)


def test_a_batch_that_is_one_of_several_of_its_day_clears_none() -> None:
    of_batch = manifest(partition={"batch": "stream-7"})
    assert partition_of(EVENTS, of_batch, None) is None
    with pytest.raises(
        ManifestError, match=r"is of the batch stream-7, .* not all of 2026-01-05. Leave out partit"
    ):
        partition_of(EVENTS, of_batch, "2026-01-05")
    with pytest.raises(
        ManifestError, match=r"must not take the place of a whole dt, as every load of etl\.quar"
    ):
        partition_of(QUARANTINE_COUNTS, of_batch, None)
    late = replace(load(), partition=None, manifest=of_batch)
    error = "ERROR: Cannot insert a NULL value into column no_later_state_is_loaded"
    made = load_error(EVENTS, late, {"Id": "i", "Status": "FAILED", "Error": error})
    assert "stream-7 comes too late: run the stream again, into another --output" in made.message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("ERROR: Cannot insert a NULL value into column row_count_matches", RowCountMismatchError),
        ("ERROR: Cannot insert a NULL value into column keys_are_distinct", LoadError),
        ("ERROR: Cannot insert a NULL value into column rows_are_of_the_partition", LoadError),
        ("ERROR: Cannot insert a NULL value into column no_later_state_is_loaded", StaleLoadError),
        ("ERROR: syntax error", StatementFailedError),
        ("ERROR: 1023 DETAIL: Serializable isolation violation", ServiceUnavailableError),
    ],
)
def test_what_a_rolled_back_transaction_means(error: str, kind: type[Exception]) -> None:
    made = load_error(EVENTS, load(), {"Id": "i", "Status": "FAILED", "Error": error})
    assert type(made) is kind
    assert made.error == error


def test_a_task_that_is_resumed_only_to_fail_cancels_its_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[str] = []

    class Hook:
        def __init__(self, *_: Any) -> None:
            pass

        def cancel(self, statement_id: str) -> bool:
            cancelled.append(statement_id)
            return True

    monkeypatch.setattr(redshift_batch, "RedshiftDataHook", Hook)
    target = RedshiftTarget(workgroup_name="wg", iam_role="default")
    operator = EVENTS.load("t", manifest="s3://lake/m.json", target=target)
    ti = FakeTaskInstance()
    ti.xcom_push(STATEMENT_KEY, "id-1")
    with pytest.raises(Exception, match=r".*"):
        operator.resume_execution(RESUMED_TO_FAIL, {"error": "Trigger timeout"}, ti.context)
    assert cancelled == ["id-1"]
