"""One local Redshift for these tests; each test that changes something has a database of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.task_instance import FakeTaskInstance

from airflow_emr_etl.hooks.redshift_data import RedshiftDataHook
from airflow_emr_etl.local.redshift import RedshiftDataApi
from airflow_emr_etl.local.stack import LocalAws
from airflow_emr_etl.models.manifest import Column, Manifest, ManifestEntry
from airflow_emr_etl.models.table import RedshiftTable, RedshiftTarget

_numbers = itertools.count(1)


@dataclass
class Warehouse:
    """The Data API on one database, as a client without HTTP sees it."""

    api: RedshiftDataApi
    objects: Path
    database: str

    def submit(self, *statements: str, **params: Any) -> str:
        where = {"WorkgroupName": "tests", "Database": self.database}
        if len(statements) == 1 and "ExecutionMode" not in params:
            answer = self.api.execute_statement({"Sql": statements[0], **where, **params})
        else:
            answer = self.api.batch_execute_statement({"Sqls": list(statements), **where, **params})
        return str(answer["Id"])

    def wait(self, id: str) -> dict[str, Any]:
        description = self.api.describe_statement({"Id": id, "WaitTimeSeconds": 30})
        assert description["Status"] in ("FINISHED", "FAILED", "ABORTED"), description
        return description

    def run(self, *statements: str, **params: Any) -> dict[str, Any]:
        return self.wait(self.submit(*statements, **params))

    def ok(self, *statements: str, **params: Any) -> dict[str, Any]:
        description = self.run(*statements, **params)
        assert description["Status"] == "FINISHED", description["Error"]
        return description

    def error(self, *statements: str, **params: Any) -> str:
        description = self.run(*statements, **params)
        assert description["Status"] == "FAILED", description
        return str(description["Error"])

    def rows(self, statement: str, **params: Any) -> list[tuple[Any, ...]]:
        return self.result(self.ok(statement, **params)["Id"])

    def result(self, id: str) -> list[tuple[Any, ...]]:
        records = self.api.get_statement_result({"Id": id})["Records"]
        return [
            tuple(None if f.get("isNull") else next(iter(f.values())) for f in record) for record in records
        ]

    def value(self, expression: str) -> Any:
        return self.rows(f"SELECT {expression}")[0][0]


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedshiftDataApi]:
    root = tmp_path_factory.mktemp("local-redshift")
    (root / "s3" / "lake").mkdir(parents=True)
    api = RedshiftDataApi(root / "redshift", root / "s3")
    api.start()
    yield api
    api.stop()


@pytest.fixture(scope="session")
def open_warehouse(api: RedshiftDataApi) -> Callable[[], Warehouse]:
    return lambda: Warehouse(api, api._state.parent / "s3", f"db{next(_numbers)}")


@pytest.fixture
def warehouse(open_warehouse: Callable[[], Warehouse]) -> Warehouse:
    """An empty database."""
    return open_warehouse()


@pytest.fixture(scope="module")
def shared(open_warehouse: Callable[[], Warehouse]) -> Warehouse:
    """A database for tests that only read, or that use names of their own."""
    return open_warehouse()


_ARROW = {
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us"),
    "BOOLEAN": pa.bool_(),
    "SMALLINT": pa.int16(),
    "BIGINT": pa.int64(),
}


@dataclass
class Loader:
    """A bucket and a database of their own, and batches of any table that are loaded by the operator."""

    local: LocalAws
    name: str

    @property
    def target(self) -> RedshiftTarget:
        role = "arn:aws:iam::123456789012:role/loader"
        return RedshiftTarget(workgroup_name="tests", database=self.name, iam_role=role)

    @property
    def hook(self) -> RedshiftDataHook:
        return RedshiftDataHook(self.target)

    def write(
        self,
        table: RedshiftTable,
        attempt: str,
        rows: list[dict[str, Any]],
        *,
        partition: str | dict[str, str],
        restatement: int | None = None,
    ) -> str:
        """One Parquet file, or none without rows, and the manifest; the manifest's address.

        ``partition`` is the day, or what the manifest says instead.
        """
        folder = self.local.objects / self.name / table.table_name / attempt
        folder.mkdir(parents=True)
        columns = [Column(c.name, c.type) for c in (*table.columns, *table.staging_columns)]
        entries = []
        if rows:
            fields = [(c.name, _ARROW.get(c.type, pa.string())) for c in columns]
            pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), folder / "part-0.parquet")
            size = (folder / "part-0.parquet").stat().st_size
            url = f"s3://{self.name}/{table.table_name}/{attempt}/part-0.parquet"
            entries.append(ManifestEntry(url, size, len(rows)))
        manifest = Manifest(
            dataset=table.table_name,
            partition={"dt": partition} if isinstance(partition, str) else partition,
            job="test",
            created_at="2026-01-06T00:00:00Z",
            entries=tuple(entries),
            columns=tuple(columns),
            restatement=restatement,
        )
        (folder / "manifest.json").write_text(manifest.to_json())
        return f"s3://{self.name}/{table.table_name}/{attempt}/manifest.json"

    def load(self, table: RedshiftTable, manifest: str) -> dict[str, Any]:
        task = table.load("load", manifest=manifest, target=self.target, deferrable=False, poll_interval=0.1)
        result: dict[str, Any] = task.execute(FakeTaskInstance().context)
        return result

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in self.hook.query(query)]


@pytest.fixture
def loader(aws_environment: LocalAws) -> Loader:
    loader = Loader(aws_environment, f"loader{next(_numbers)}")
    (aws_environment.objects / loader.name).mkdir(parents=True)
    return loader
