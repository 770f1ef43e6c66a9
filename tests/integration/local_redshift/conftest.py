"""One local Redshift for these tests; each test that changes something has a database of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_emr_etl.local.redshift import RedshiftDataApi

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
