"""SQLAlchemy on the Data API: names, values, types, and the life of a statement."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import pytest
import sqlalchemy as sa

from airflow_emr_etl.exceptions import ConfigurationError, StatementFailedError, WaitTimeoutError
from airflow_emr_etl.hooks.redshift_data import RedshiftDataHook
from airflow_emr_etl.hooks.redshift_sql import (
    DataApiConnection,
    column_type,
    python_value,
    sql_engine,
    sql_value,
)
from airflow_emr_etl.models.table import Column, RedshiftTarget

TARGET = RedshiftTarget(workgroup_name="w", iam_role="default")


class Statements(RedshiftDataHook):
    """Keeps what it is sent, and ends as it is told."""

    def __init__(self, end: Exception | None = None) -> None:
        super().__init__(TARGET, client=object())
        self.sent: list[str] = []
        self.cancelled: list[str] = []
        self.end = end

    def execute(self, sql: str, *_: Any, **__: Any) -> str:
        self.sent.append(sql)
        return f"id{len(self.sent)}"

    def wait(self, statement_id: str, **_: Any) -> dict[str, Any]:
        if self.end is not None:
            raise self.end
        return {"Id": statement_id, "HasResultSet": True}

    def result(self, statement_id: str) -> Any:
        return [{"name": "n", "typeName": "numeric"}], [["1.50"], [None]]

    def cancel(self, statement_id: str) -> bool:
        self.cancelled.append(statement_id)
        return True


def engine(hook: RedshiftDataHook) -> sa.engine.Engine:
    columns = [Column(name="Status", type="INTEGER"), Column(name="path", type="VARCHAR(9)", nullable=False)]
    return sql_engine(DataApiConnection(hook, name="x"), {"shop.events": columns})


def test_names_and_values_of_a_statement() -> None:
    hook = Statements()
    events = sa.table("Events", sa.column("Status"), schema="shop")
    query = sa.select(sa.func.count().label("table.rows")).where(events.c.Status == "it's \\ 100%")
    with engine(hook).connect() as connection:
        assert connection.execute(query).scalars().all() == [decimal.Decimal("1.50"), None]
    [sent] = hook.sent
    assert " ".join(sent.split()) == (
        'SELECT count(*) AS "table.rows" FROM "shop"."events" '
        'WHERE "shop"."events"."status" = \'it\'\'s \\\\ 100%\''
    )


@pytest.mark.parametrize("name", ['a"b', "a b", "", "a;b"])
def test_a_name_that_is_none_is_not_sent(name: str) -> None:
    hook = Statements()
    with engine(hook).connect() as connection, pytest.raises(ConfigurationError, match="not a name"):
        connection.execute(sa.select(sa.column(name)).select_from(sa.table("events", schema="shop")))
    assert hook.sent == []


def test_columns_are_those_that_were_told() -> None:
    hook = Statements()
    inspector = sa.inspect(engine(hook))
    found = inspector.get_columns("events", schema="shop")
    assert [(column["name"], str(column["type"]), column["nullable"]) for column in found] == [
        ("status", "INTEGER", True),
        ("path", "VARCHAR(9)", False),
    ]
    assert (inspector.has_table("events", "shop"), inspector.has_table("gone", "shop")) == (True, False)
    assert hook.sent == []


@pytest.mark.parametrize(
    ("value", "sql"),
    [
        (None, "NULL"),
        (True, "TRUE"),
        (3, "3"),
        (0.1, "CAST('0.1' AS DOUBLE PRECISION)"),
        (float("inf"), "CAST('inf' AS DOUBLE PRECISION)"),
        (decimal.Decimal("1E+2"), "100"),
        ("it's", "'it''s'"),
        (dt.date(2026, 1, 5), "CAST('2026-01-05' AS DATE)"),
        (dt.datetime(2026, 1, 5, 1, 2, 3, tzinfo=dt.UTC), "CAST('2026-01-05 01:02:03+00:00' AS TIMESTAMPTZ)"),
    ],
)
def test_a_value_in_sql(value: Any, sql: str) -> None:
    assert sql_value(value) == sql


def test_a_value_of_no_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is a list, which cannot stand"):
        sql_value([1])


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("1.50", "numeric", decimal.Decimal("1.50")),
        ("2026-01-05", "date", dt.date(2026, 1, 5)),
        ("2026-01-05 01:02:03+00", "timestamptz", dt.datetime(2026, 1, 5, 1, 2, 3, tzinfo=dt.UTC)),
        ("2026-01-05", "varchar", "2026-01-05"),
        (None, "date", None),
        (7, "int4", 7),
    ],
)
def test_a_value_from_the_data_api(value: Any, kind: str, expected: Any) -> None:
    assert python_value(value, kind) == expected


def test_a_type_that_sqlalchemy_lacks_is_of_no_type() -> None:
    assert str(column_type("DECIMAL(10, 2)")) == "DECIMAL(10, 2)"
    assert isinstance(column_type("SUPER"), sa.types.NullType)


def test_a_statement_that_fails_is_its_own_fault() -> None:
    connection = DataApiConnection(Statements(StatementFailedError("no such column")), name="x")
    with pytest.raises(StatementFailedError):
        connection.run("SELECT 1")
    assert connection.broken is None


def test_a_time_out_cancels_and_ends_the_work() -> None:
    hook = Statements(WaitTimeoutError("late"))
    connection = DataApiConnection(hook, name="x")
    for _ in range(2):
        with pytest.raises(WaitTimeoutError):
            connection.run("SELECT 1")
    assert isinstance(connection.broken, WaitTimeoutError)
    assert (hook.sent, hook.cancelled) == (["SELECT 1"], ["id1"])
