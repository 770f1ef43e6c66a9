"""The transaction that loads one batch.

Redshift's batch has no control flow, so each assertion inserts NULL into a NOT NULL column unless it holds, and
the column's name says what went wrong. The lock and the fence come before the first read: under snapshot isolation
a check alone would let two loads through.
"""

from __future__ import annotations

import datetime as dt
import re

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.table import RedshiftTable
from airflow_emr_etl.warehouse import literals
from airflow_emr_etl.warehouse.history import FENCE, HISTORY, Load, insert_load
from airflow_emr_etl.warehouse.identifiers import column_list, qualified, quote
from airflow_emr_etl.warehouse.schema import column_definition, lock_table

NOT_ALREADY_LOADED = "not_already_loaded"
ROW_COUNT_MATCHES = "row_count_matches"
KEYS_ARE_DISTINCT = "keys_are_distinct"
ROWS_ARE_OF_THE_PARTITION = "rows_are_of_the_partition"
ASSERTIONS = (NOT_ALREADY_LOADED, ROW_COUNT_MATCHES, KEYS_ARE_DISTINCT, ROWS_ARE_OF_THE_PARTITION)

MAX_STATEMENTS = 40
MAX_BYTES = 100_000


def load_transaction(table: RedshiftTable, load: Load, *, iam_role: str) -> list[str]:
    """The statements of one BatchExecuteStatement. Raises ConfigurationError where they exceed its limits."""
    mark = load.load_id[:12]
    staging = quote(f"staged_{mark}")
    names = column_list([column.name for column in table.columns])
    statements = [
        f"LOCK TABLE {qualified(lock_table(table.name))}",
        f"UPDATE {qualified(FENCE.name)} SET epoch = epoch + 1 WHERE target = {literals.text(table.name)}",  # noqa: S608
        *_assertion(
            mark,
            NOT_ALREADY_LOADED,
            f"COUNT(*) = 0 THEN 1 END FROM {qualified(HISTORY.name)} WHERE load_id = {literals.text(load.load_id)}",
        ),
        f"CREATE TEMP TABLE {staging} ("
        + ", ".join(column_definition(c, required=c.name in table.keys) for c in table.columns)
        + ")",
    ]
    if load.manifest.entries:  # COPY refuses a manifest without files
        statements.append(
            f"COPY {staging} ({names}) FROM {literals.s3_url(load.manifest_uri)} "
            f"IAM_ROLE {literals.iam_role(iam_role)} FORMAT AS PARQUET MANIFEST"
        )
    count = literals.integer(load.manifest.record_count)
    statements += _assertion(mark, ROW_COUNT_MATCHES, f"COUNT(*) = {count} THEN 1 END FROM {staging}")
    if table.keys:
        statements += _assertion(
            mark,
            KEYS_ARE_DISTINCT,
            f"COUNT(*) = {count} THEN 1 END FROM (SELECT DISTINCT {column_list(table.keys)} FROM {staging}) AS k",  # noqa: S608
        )
    if table.partition is not None and load.partition is not None:
        column, value = quote(table.partition), partition_literal(table, load.partition)
        statements += _assertion(
            mark,
            ROWS_ARE_OF_THE_PARTITION,
            f"COUNT(*) = 0 THEN 1 END FROM {staging} WHERE {column} IS NULL OR {column} <> {value}",
        )
    statements += [
        _delete(table, load, staging),
        f"INSERT INTO {qualified(table.name)} ({names}) SELECT {names} FROM {staging}",  # noqa: S608
        insert_load(load),
    ]
    size = sum(len(statement.encode()) for statement in statements)
    if len(statements) > MAX_STATEMENTS or size > MAX_BYTES:
        raise ConfigurationError(
            f"The load of {table.name} has {len(statements)} statements of {size} bytes; the Data API takes "
            f"{MAX_STATEMENTS} and {MAX_BYTES}. Load fewer columns."
        )
    return statements


def _assertion(mark: str, name: str, condition: str) -> list[str]:
    table = quote(f"assert_{ASSERTIONS.index(name)}_{mark}")
    return [
        f"CREATE TEMP TABLE {table} ({quote(name)} INTEGER NOT NULL)",
        f"INSERT INTO {table} SELECT CASE WHEN {condition}",
    ]


def _delete(table: RedshiftTable, load: Load, staging: str) -> str:
    target = qualified(table.name)
    if table.mode == "merge":
        same = " AND ".join(f"{target}.{quote(key)} = {staging}.{quote(key)}" for key in table.keys)
        return f"DELETE FROM {target} USING {staging} WHERE {same}"  # noqa: S608
    if table.partition is None or load.partition is None:
        raise ConfigurationError(f"{table.name} has no partition to replace.")
    return f"DELETE FROM {target} WHERE {quote(table.partition)} = {partition_literal(table, load.partition)}"  # noqa: S608


def partition_literal(table: RedshiftTable, value: str) -> str:
    """A partition's value as a literal of its column's type. Raises ConfigurationError where it is none."""
    kind = next((c.type for c in table.columns if c.name == table.partition), "")
    if kind == "DATE":
        try:
            return literals.text(dt.date.fromisoformat(value).isoformat())
        except ValueError as error:
            raise ConfigurationError(
                f"The partition {value!r} of {table.name} is not a date; write YYYY-MM-DD."
            ) from error
    if kind in ("SMALLINT", "INTEGER", "BIGINT"):
        if not re.fullmatch(r"-?\d{1,19}", value):
            raise ConfigurationError(f"The partition {value!r} of {table.name} is not a whole number.")
        return str(int(value))
    if kind.startswith(("VARCHAR", "CHAR")):
        return literals.text(value)
    raise ConfigurationError(
        f"{table.name} is partitioned by {table.partition} of type {kind or 'unknown'}; "
        "use a DATE, a whole number or a text."
    )


def failed_assertion(error: str) -> str | None:
    """Which assertion a statement's error names, if one."""
    return next((name for name in ASSERTIONS if re.search(rf"\b{name}\b", error)), None)
