"""The transaction that makes marts anew in the warehouse, for the days that loads touched.

Each mart's days (or, without a day column, all of it) are deleted and selected anew, in one transaction behind the
lock that mart builds share: a build reads what was committed before it, so the last one to run is right, and
running one again changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from airflow_emr_etl.models.mart import Mart, Scope
from airflow_emr_etl.models.table import RedshiftTable
from airflow_emr_etl.warehouse import literals, schema
from airflow_emr_etl.warehouse.clickstream import EVENTS, SESSIONS
from airflow_emr_etl.warehouse.history import FENCE
from airflow_emr_etl.warehouse.identifiers import column_list, qualified, quote
from airflow_emr_etl.warehouse.load_plan import check_limits

SCHEMA = "marts"
SOURCES = {"events": EVENTS.name, "sessions": SESSIONS.name}
#: What builds take turns by; it is no table, so no load waits for it.
FENCE_TARGET = "marts"


def table_of(mart: Mart) -> RedshiftTable:
    """The mart as a table of the warehouse."""
    return RedshiftTable(
        f"{SCHEMA}.{mart.name}",
        mode="merge",
        keys=mart.keys,
        columns=[(column.name, column.type) for column in mart.columns],
        dist_key=mart.dist_key,
        sort_keys=[mart.day] if mart.day else [],
    )


def relations(marts: Sequence[Mart], sources: Mapping[str, str] = SOURCES) -> dict[str, str]:
    """Where each name that a SELECT may read is in the warehouse, quoted."""
    names = {**sources, **{mart.name: table_of(mart).name for mart in marts}}
    return {name: qualified(table) for name, table in names.items()}


def create_all(marts: Sequence[Mart]) -> list[str]:
    """Schemas and tables that a build needs. Idempotent."""
    return [
        f"CREATE SCHEMA IF NOT EXISTS {quote(schema.CONTROL_SCHEMA)}",
        f"CREATE SCHEMA IF NOT EXISTS {quote(SCHEMA)}",
        schema.create_table(FENCE),
        f"CREATE TABLE IF NOT EXISTS {qualified(schema.lock_table(FENCE_TARGET))} (unused SMALLINT)",
        *(schema.create_table(table_of(mart)) for mart in marts),
    ]


def select_reach(days: Sequence[date], sources: Mapping[str, str] = SOURCES) -> str:
    """The first and the last moment (``since``, ``until``) of the sessions that have a part in ``days``.

    They go into the statements as literals, so that only the blocks of the days are read, not the history.
    """
    scope = Scope({name: qualified(table) for name, table in sources.items()}, tuple(days))
    return (
        f"SELECT MIN(started_at) AS since, MAX(ended_at) AS until FROM {scope['sessions']} "  # noqa: S608 - quoted
        f"WHERE {scope.overlaps('started_at', 'ended_at')}"
    )


def build_transaction(
    marts: Sequence[Mart],
    days: Sequence[date],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    sources: Mapping[str, str] = SOURCES,
) -> list[str]:
    """The statements of one BatchExecuteStatement; ``marts`` in the order of ``in_order``.

    Raises ConfigurationError where they exceed its limits.
    """
    scope = Scope(relations(marts, sources), tuple(days), since, until)
    statements = [
        f"LOCK TABLE {qualified(schema.lock_table(FENCE_TARGET))}",
        f"UPDATE {qualified(FENCE.name)} SET epoch = epoch + 1 WHERE target = {literals.text(FENCE_TARGET)}",  # noqa: S608
    ]
    for mart in marts:
        target = qualified(table_of(mart).name)
        names = column_list([column.name for column in mart.columns])
        where = f" WHERE {scope.of(quote(mart.day))}" if mart.day else ""
        statements += [
            f"DELETE FROM {target}{where}",  # noqa: S608 - quoted, and literals
            f"INSERT INTO {target} ({names}){mart.select(scope)}",
        ]
    check_limits(statements, f"The build of {len(marts)} marts", "Build fewer marts or days in one task.")
    return statements


def insert_positions(marts: Sequence[Mart]) -> dict[str, int]:
    """Which statement of ``build_transaction`` fills each mart, counted from 0."""
    return {mart.name: 3 + 2 * n for n, mart in enumerate(marts)}
