"""Loads end to end: manifest, Data API, Postgres. Each batch is in the table once, whatever dies or races."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from fakes.task_instance import FakeTaskInstance

from airflow_emr_etl.hooks.redshift_data import RedshiftDataHook
from airflow_emr_etl.local.stack import LocalAws
from airflow_emr_etl.models.manifest import Accounting, Column, Manifest, ManifestEntry
from airflow_emr_etl.models.table import RedshiftTable, RedshiftTarget
from airflow_emr_etl.transfers.redshift_load import RedshiftLoadOperator
from airflow_emr_etl.warehouse import load_plan, schema
from airflow_emr_etl.warehouse.history import Load, load_id, select_load

ROLE = "arn:aws:iam::123456789012:role/loader"
DAY = "2026-01-05"
ORDERS = RedshiftTable(
    "public.orders",
    partition="dt",
    keys=["id"],
    dist_key="id",
    sort_keys=["dt"],
    columns=["id BIGINT", "what VARCHAR(20)", "dt DATE"],
)
_numbers = itertools.count(1)


@dataclass
class Lake:
    """A bucket of its own and a database of its own."""

    local: LocalAws
    name: str

    @property
    def target(self) -> RedshiftTarget:
        return RedshiftTarget(workgroup_name="tests", database=self.name, iam_role=ROLE)

    @property
    def hook(self) -> RedshiftDataHook:
        return RedshiftDataHook(self.target)

    def write(
        self,
        attempt: str,
        ids: list[int] | None = None,
        *,
        day: str = DAY,
        what: str = "x",
        dataset: str = "orders",
        accounting: Accounting | None = None,
        files: int = 2,
        **changes: Any,
    ) -> str:
        """Parquet files and their manifest; the manifest's address."""
        ids = list(range(30)) if ids is None else ids
        folder = self.local.objects / self.name / attempt
        folder.mkdir(parents=True)
        entries = []
        for n in range(files):
            part = ids[n::files]
            path = folder / f"part-{n}.parquet"
            table = pa.table(
                {
                    "id": pa.array(part, pa.int64()),
                    "what": pa.array([what] * len(part), pa.string()),
                    "dt": pa.array([dt.date.fromisoformat(day)] * len(part), pa.date32()),
                }
            )
            pq.write_table(table, path)
            url = f"s3://{self.name}/{attempt}/{path.name}"
            entries.append(ManifestEntry(url, path.stat().st_size, len(part)))
        manifest = Manifest(
            dataset=dataset,
            partition={"dt": day},
            job="test",
            created_at="2026-01-06T00:00:00Z",
            entries=tuple(entries),
            columns=tuple(Column(column.name, column.type) for column in ORDERS.columns),
            accounting=accounting,
        )
        (folder / "manifest.json").write_text(replace(manifest, **changes).to_json())
        return f"s3://{self.name}/{attempt}/manifest.json"

    def operator(self, manifest: str, table: RedshiftTable = ORDERS, **kwargs: Any) -> RedshiftLoadOperator:
        return table.load(
            "load",
            manifest=manifest,
            target=self.target,
            **{"deferrable": False, "poll_interval": 0.1, **kwargs},
        )

    def load(self, manifest: str, table: RedshiftTable = ORDERS, **kwargs: Any) -> dict[str, Any]:
        result: dict[str, Any] = self.operator(manifest, table, **kwargs).execute(FakeTaskInstance().context)
        return result

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in self.hook.query(query)]

    def counts(self) -> tuple[Any, ...]:
        """Rows, distinct rows, rows of history."""
        return self.rows(
            "select (select count(*) from orders) as a, (select count(distinct id) from orders) as b, "
            "(select count(*) from etl.load_history) as c"
        )[0]


@pytest.fixture
def lake(aws_environment: LocalAws) -> Lake:
    lake = Lake(aws_environment, f"load{next(_numbers)}")
    (aws_environment.objects / lake.name).mkdir(parents=True)
    return lake


def test_a_batch_is_loaded_once_and_a_second_time_says_so(lake: Lake) -> None:
    manifest = lake.write(
        "a1", accounting=Accounting(lines_in=40, valid=30, quarantined={"bad": 8}, delivered_twice=2)
    )
    first = lake.load(manifest, partition=DAY)
    assert first == {
        "load_id": first["load_id"],
        "target": "public.orders",
        "partition": DAY,
        "rows": 30,
        "already_loaded": False,
    }
    second = lake.load(manifest)
    assert second == first | {"already_loaded": True}
    assert lake.counts() == (30, 30, 1)
    [history] = lake.hook.query(select_load(first["load_id"]))
    assert history["manifest"] == manifest
    assert (history["lines_in"], history["valid"], history["quarantined"], history["delivered_twice"]) == (
        40,
        30,
        8,
        2,
    )
    assert (history["dag_id"], history["run_id"], history["rows_loaded"]) == ("d", "r", 30)
    json.dumps(first)


def test_a_new_run_of_the_day_replaces_it_and_leaves_the_others(lake: Lake) -> None:
    lake.load(lake.write("a1"))
    lake.load(lake.write("a2", list(range(100, 105)), day="2026-01-06"))
    lake.load(lake.write("a3", list(range(10)), what="again"))
    assert lake.rows("select dt, what, count(*) from orders group by 1, 2 order by 1") == [
        ("2026-01-05", "again", 10),
        ("2026-01-06", "x", 5),
    ]


def test_an_empty_manifest_empties_the_partition(lake: Lake) -> None:
    lake.load(lake.write("a1"))
    assert lake.load(lake.write("a2", [], files=0))["rows"] == 0
    assert lake.counts() == (0, 0, 2)


def test_merge_replaces_rows_by_key(lake: Lake) -> None:
    table = RedshiftTable(**{**ORDERS.model_dump(), "mode": "merge", "partition": None})
    lake.load(lake.write("a1", [1, 2, 3]), table)
    lake.load(lake.write("a2", [3, 4], what="new"), table)
    assert lake.rows("select id, what from orders order by 1") == [(1, "x"), (2, "x"), (3, "new"), (4, "new")]


def test_six_loads_at_once_are_one(lake: Lake) -> None:
    manifest = lake.write("a1")
    operators = [lake.operator(manifest) for _ in range(6)]

    def run(n: int) -> Any:
        ti = FakeTaskInstance()
        ti.run_id = f"run {n}"  # its own token, as a worker has that nobody knows of
        return operators[n].execute(ti.context)

    # boto3's default session must not be made by several threads at once.
    assert all(operator.hook.client and operator.lake.client for operator in operators)
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(run, range(6)))
    assert lake.counts() == (30, 30, 1)
    assert sorted(result["already_loaded"] for result in results) == [False] + [True] * 5
    assert len({result["load_id"] for result in results}) == 1


def plan(lake: Lake, manifest_uri: str) -> tuple[Load, list[str]]:
    data = (lake.local.objects / manifest_uri.removeprefix("s3://")).read_bytes()
    load = Load(
        load_id=load_id("d", ORDERS.name, DAY, data),
        target=ORDERS.name,
        partition=DAY,
        dag_id="d",
        run_id="r",
        manifest_uri=manifest_uri,
        manifest=Manifest.from_json(data.decode()),
    )
    return load, load_plan.load_transaction(ORDERS, load, iam_role=ROLE)


def test_six_identical_transactions_at_once_leave_one(lake: Lake) -> None:
    """The transaction itself holds, also where no loader has read the history first."""
    _, statements = plan(lake, lake.write("a1"))
    hook = lake.hook
    hook.wait(hook.batch(schema.create_all(ORDERS)))
    hook.wait(hook.batch(schema.create_fence(ORDERS.name)))
    ids = [hook.batch(statements) for _ in range(6)]
    states = []
    for id in ids:
        described = hook.describe(id, long_poll_seconds=20)
        states.append(described["Status"])
        if described["Status"] == "FAILED":
            assert load_plan.failed_assertion(described["Error"]) == "not_already_loaded"
    assert sorted(states) == ["FAILED"] * 5 + ["FINISHED"]
    assert lake.counts() == (30, 30, 1)


def test_a_backend_that_dies_at_any_statement_leaves_nothing_and_the_next_try_is_exact(lake: Lake) -> None:
    manifest = lake.write("a1")
    lake.load(lake.write("a0", [7], what="before"))
    load, statements = plan(lake, manifest)
    hook = lake.hook
    for at in range(len(statements) + 1):
        deadly = [*statements[:at], "select pg_terminate_backend(pg_backend_pid())", *statements[at:]]
        described = hook.describe(hook.batch(deadly), long_poll_seconds=20)
        assert described["Status"] == "FAILED", at
        assert hook.query(select_load(load.load_id)) == [], at
        assert hook.query("select id, what from orders") == [{"id": 7, "what": "before"}], at
    lake.load(manifest)
    assert lake.counts() == (30, 30, 2)


def test_a_request_that_is_sent_twice_is_one_statement(lake: Lake) -> None:
    hook = lake.hook
    hook.query("create table x (a int)")
    ids = {hook.batch(["insert into x values (1)"], token=f"twice-{lake.name}") for _ in range(3)}
    assert len(ids) == 1
    hook.wait(ids.pop())
    assert lake.rows("select count(*) from x") == [(1,)]


def test_a_commit_whose_answer_was_lost_is_found_in_the_history(lake: Lake) -> None:
    operator = lake.operator(lake.write("a1"), deferrable=True)
    ti = FakeTaskInstance()
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(ti.context)
    trigger = deferred.value.trigger
    payload = trigger.wait_here()
    assert payload["statement"]["Status"] == "FINISHED"
    lost = payload | {"status": "error", "error": {"type": "AwsError", "message": "gone", "details": {}}}
    del lost["statement"]
    result = lake.operator(operator.manifest).execute_complete(ti.context, lost)
    assert result["already_loaded"] is True
    assert lake.counts() == (30, 30, 1)


def test_a_deferred_load_goes_on_where_it_was(lake: Lake) -> None:
    operator = lake.operator(lake.write("a1"), deferrable=True)
    ti = FakeTaskInstance()
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(ti.context)
    assert deferred.value.method_name == "execute_complete"
    assert deferred.value.timeout is not None
    path, fields = deferred.value.trigger.serialize()
    assert path == "airflow_emr_etl.triggers.redshift_data.RedshiftStatementTrigger"
    assert ROLE not in str({k: v for k, v in fields.items() if k != "target"})
    payload = type(deferred.value.trigger)(**fields).wait_here()
    json.dumps(payload)
    assert lake.operator(operator.manifest).execute_complete(ti.context, payload)["already_loaded"] is False
    assert lake.counts() == (30, 30, 1)


def fails(lake: Lake, manifest: str, table: RedshiftTable = ORDERS, **kwargs: Any) -> str:
    with pytest.raises(AirflowFailException) as raised:
        lake.load(manifest, table, **kwargs)
    return str(raised.value)


def test_a_wrong_row_count_is_refused(lake: Lake) -> None:
    lake.load(lake.write("a1"))
    manifest = lake.write("a2", [1, 2, 3])
    path = lake.local.objects / manifest.removeprefix("s3://")
    document = json.loads(path.read_text())
    document["entries"][0]["meta"]["record_count"] += 1
    document["meta"]["record_count"] += 1
    path.write_text(json.dumps(document))
    assert "RowCountMismatchError" in fails(lake, manifest)
    assert lake.counts() == (30, 30, 1)


def test_keys_that_are_not_distinct_and_rows_of_another_day_are_refused(lake: Lake) -> None:
    assert "id is not distinct" in fails(lake, lake.write("a1", [1, 1, 2]))
    assert "dt is not 2026-01-05" in fails(lake, lake.write("a2", day="2026-01-06", partition={"dt": DAY}))
    assert lake.counts() == (0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "kwargs", "message"),
    [
        ({"accounting": Accounting(lines_in=31, valid=30)}, {}, "AccountingError: 31 lines came in, but 30"),
        (
            {"dataset": "events", "accounting": Accounting(lines_in=31, valid=31)},
            {},
            "AccountingError: The manifest counts 31 events, but its files have 30 rows",
        ),
        (
            {"partition": {"dt": "2026-01-07"}},
            {"partition": DAY},
            "ManifestError: The manifest of orders is for dt=2026-01-07",
        ),
        ({"partition": {}}, {}, "does not say its dt"),
        (
            {"columns": (Column("id", "BIGINT"), Column("what", "VARCHAR(30)"), Column("dt", "DATE"))},
            {},
            "SchemaMismatchError: The manifest of orders does not fit public.orders. column 2: what VARCHAR(30) in "
            "the manifest, what VARCHAR(20) in the table",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_before_anything(
    lake: Lake, changes: dict[str, Any], kwargs: dict[str, Any], message: str
) -> None:
    assert message in fails(lake, lake.write("a1", **changes), **kwargs)
    assert lake.rows("select count(*) from svv_tables where table_schema in ('etl', 'public')") == [(0,)]


def test_a_manifest_that_is_not_there_or_broken(lake: Lake) -> None:
    assert "There is no manifest at" in fails(lake, f"s3://{lake.name}/none/manifest.json")
    (lake.local.objects / lake.name / "broken.json").write_text("{")
    assert "not JSON" in fails(lake, f"s3://{lake.name}/broken.json")


def test_a_file_that_was_changed_is_refused(lake: Lake) -> None:
    manifest = lake.write("a1")
    with (lake.local.objects / lake.name / "a1" / "part-0.parquet").open("ab") as file:
        file.write(b"more")
    assert "content_length" in fails(lake, manifest)
    assert lake.counts() == (0, 0, 0)


def test_columns_are_added_and_never_changed(lake: Lake) -> None:
    lake.hook.query("create table orders (id bigint not null, dt date)")
    lake.hook.query("insert into orders values (1, '2026-01-04')")
    lake.load(lake.write("a1", [2]))
    assert lake.rows("select id, what, dt from orders order by 1") == [(1, None, "2026-01-04"), (2, "x", DAY)]
    narrow = RedshiftTable(**{**ORDERS.model_dump(), "columns": ["id BIGINT", "what VARCHAR(9)", "dt DATE"]})
    columns = tuple(Column(column.name, column.type) for column in narrow.columns)
    message = fails(lake, lake.write("a2", columns=columns), narrow)
    assert "what is VARCHAR(20) in the warehouse and VARCHAR(9)" in message


def test_columns_come_from_the_manifest_where_the_table_states_none(lake: Lake) -> None:
    lake.load(lake.write("a1"), RedshiftTable("public.orders", partition="dt", keys=["id"]))
    assert lake.counts() == (30, 30, 1)


def test_the_task_is_cancelled_while_it_waits(lake: Lake) -> None:
    operator = lake.operator(lake.write("a1"), deferrable=True)
    lake.hook.wait(lake.hook.batch(schema.create_all(ORDERS)))
    # A transaction that holds the lock keeps the load waiting.
    blocker = lake.hook.batch([f"lock table {schema.lock_table(ORDERS.name)}", "select pg_sleep(60)"])
    ti = FakeTaskInstance()
    operator._prepare = lambda table, load: None  # type: ignore[method-assign]
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(ti.context)
    operator.on_kill()
    payload = deferred.value.trigger.wait_here()
    assert payload["statement"]["Status"] == "ABORTED"
    with pytest.raises(AirflowFailException, match="was cancelled"):
        lake.operator(operator.manifest).execute_complete(ti.context, payload)
    lake.hook.cancel(blocker)


def test_nothing_that_airflow_shows_is_a_secret(lake: Lake) -> None:
    operator = lake.operator("s3://lake/m.json")
    shown = json.dumps({name: getattr(operator, name) for name in operator.template_fields})
    assert ROLE in shown
    assert lake.local.secret_key not in shown
