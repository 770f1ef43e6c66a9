"""The transaction that loads one batch.

Redshift's batch has no control flow, so each assertion inserts NULL into a NOT NULL column unless it holds, and
the column's name says what went wrong. The lock and the fence come before the first read: under snapshot isolation
a check alone would let two loads through.
"""

from __future__ import annotations

import datetime as dt
import re

from airflow_emr_etl.exceptions import ConfigurationError, ManifestError
from airflow_emr_etl.models.batch import KEY_MOVES_DAYS
from airflow_emr_etl.models.table import RedshiftTable, Restatement
from airflow_emr_etl.warehouse import literals
from airflow_emr_etl.warehouse.history import FENCE, HISTORY, LOAD_DAYS, Load, insert_load
from airflow_emr_etl.warehouse.identifiers import column_list, qualified, quote
from airflow_emr_etl.warehouse.schema import column_definition, lock_table

NOT_ALREADY_LOADED = "not_already_loaded"
ROW_COUNT_MATCHES = "row_count_matches"
KEYS_ARE_DISTINCT = "keys_are_distinct"
ROWS_ARE_OF_THE_PARTITION = "rows_are_of_the_partition"
NO_LATER_STATE_IS_LOADED = "no_later_state_is_loaded"
ROWS_ARE_WITHIN_THEIR_SPANS = "rows_are_within_their_spans"
ASSERTIONS = (
    NOT_ALREADY_LOADED,
    ROW_COUNT_MATCHES,
    KEYS_ARE_DISTINCT,
    ROWS_ARE_OF_THE_PARTITION,
    NO_LATER_STATE_IS_LOADED,
    ROWS_ARE_WITHIN_THEIR_SPANS,
)

MAX_STATEMENTS = 40
MAX_BYTES = 100_000


def load_transaction(table: RedshiftTable, load: Load, *, iam_role: str) -> list[str]:
    """The statements of one BatchExecuteStatement. Raises ConfigurationError where they exceed its limits."""
    mark = load.load_id[:12]
    staging = quote(f"staged_{mark}")
    staged = (*table.columns, *table.staging_columns)
    statements = [
        f"LOCK TABLE {qualified(lock_table(table.name))}",
        f"UPDATE {qualified(FENCE.name)} SET epoch = epoch + 1 WHERE target = {literals.text(table.name)}",  # noqa: S608
        *assertion(
            mark,
            NOT_ALREADY_LOADED,
            f"COUNT(*) = 0 THEN 1 END FROM {qualified(HISTORY.name)} WHERE load_id = {literals.text(load.load_id)}",
        ),
        *(_no_later_state(mark, table, load) if table.mode == "restate" else ()),
        f"CREATE TEMP TABLE {staging} ("
        + ", ".join(column_definition(c, required=c.name in (*table.keys, table.key_time)) for c in staged)
        + ")",
    ]
    if load.manifest.entries:  # COPY refuses a manifest without files
        statements.append(
            f"COPY {staging} ({column_list([c.name for c in staged])}) FROM {literals.s3_url(load.manifest_uri)} "
            f"IAM_ROLE {literals.iam_role(iam_role)} FORMAT AS PARQUET MANIFEST"
        )
    statements += _assertions_on_rows(mark, table, load, staging)
    if table.days:
        statements.append(_insert_days(table, table.days, load, staging))
    names = column_list([column.name for column in table.columns])
    statements += [
        *_deletes(table, load, staging),
        f"INSERT INTO {qualified(table.name)} ({names}) SELECT {names} FROM {staging}"  # noqa: S608
        + (f" WHERE NOT {quote(table.restates.retracted)}" if table.restates else ""),
        insert_load(load),
    ]
    check_limits(statements, f"The load of {table.name}", "Load fewer columns.")
    return statements


def check_limits(statements: list[str], what: str, remedy: str) -> None:
    """Raise ConfigurationError where a batch has more than the Data API takes."""
    size = sum(len(statement.encode()) for statement in statements)
    if len(statements) > MAX_STATEMENTS or size > MAX_BYTES:
        raise ConfigurationError(
            f"{what} has {len(statements)} statements of {size} bytes; the Data API takes "
            f"{MAX_STATEMENTS} and {MAX_BYTES}. {remedy}"
        )


def _no_later_state(mark: str, table: RedshiftTable, load: Load) -> list[str]:
    """A late task must not bring back what a later run has stated anew; equal numbers are parts of one state."""
    if load.manifest.restatement is None:
        raise ManifestError(
            f"{load.manifest_uri} has no restatement number, by which {table.name} (mode='restate') tells which of "
            "two loads is the later state. The job that writes it must set Manifest.restatement.",
            manifest=load.manifest_uri,
        )
    return assertion(
        mark,
        NO_LATER_STATE_IS_LOADED,
        f"COUNT(*) = 0 THEN 1 END FROM {qualified(HISTORY.name)} WHERE target = {literals.text(table.name)} "
        f"AND restatement > {literals.integer(load.manifest.restatement)}",
    )


def _assertions_on_rows(mark: str, table: RedshiftTable, load: Load, staging: str) -> list[str]:
    count = literals.integer(load.manifest.record_count)
    statements = assertion(mark, ROW_COUNT_MATCHES, f"COUNT(*) = {count} THEN 1 END FROM {staging}")
    if table.keys:
        statements += assertion(
            mark,
            KEYS_ARE_DISTINCT,
            f"COUNT(*) = {count} THEN 1 END FROM (SELECT DISTINCT {column_list(table.keys)} FROM {staging}) AS k",  # noqa: S608
        )
    if table.mode != "restate" and table.partition is not None and load.partition is not None:
        column, value = quote(table.partition), partition_literal(table, load.partition)
        statements += assertion(
            mark,
            ROWS_ARE_OF_THE_PARTITION,
            f"COUNT(*) = 0 THEN 1 END FROM {staging} WHERE {column} IS NULL OR {column} <> {value}",
        )
    if table.restates:
        # A row outside its own span would be inserted beside the one that an earlier load of it left.
        by, at = quote(table.restates.by), quote(table.restates.at)
        begin, end, retracted = map(
            quote, (table.restates.begin, table.restates.end, table.restates.retracted)
        )
        statements += assertion(
            mark,
            ROWS_ARE_WITHIN_THEIR_SPANS,
            f"COUNT(*) = 0 THEN 1 END FROM {staging} WHERE {by} IS NULL OR {retracted} IS NULL "
            f"OR {begin} IS NULL OR {end} IS NULL OR {begin} > {end} "
            f"OR (NOT {retracted} AND ({at} IS NULL OR {at} < {begin} OR {at} > {end}))",
        )
    return statements


def assertion(mark: str, name: str, condition: str) -> list[str]:
    table = quote(f"assert_{ASSERTIONS.index(name)}_{mark}")
    return [
        f"CREATE TEMP TABLE {table} ({quote(name)} INTEGER NOT NULL)",
        f"INSERT INTO {table} SELECT CASE WHEN {condition}",
    ]


def _same_keys(table: RedshiftTable, staging: str) -> str:
    target = qualified(table.name)
    same = [f"{target}.{quote(key)} = {staging}.{quote(key)}" for key in table.keys]
    if table.key_time:
        at = quote(table.key_time)
        same += [
            f"{target}.{at} >= (SELECT MIN({at}) FROM {staging}) - INTERVAL '{KEY_MOVES_DAYS} days'",  # noqa: S608
            f"{target}.{at} <= (SELECT MAX({at}) FROM {staging}) + INTERVAL '{KEY_MOVES_DAYS} days'",  # noqa: S608
        ]
    return " AND ".join(same)


def _same_span(table: RedshiftTable, restates: Restatement, staging: str) -> str:
    target, at = qualified(table.name), f"{qualified(table.name)}.{quote(restates.at)}"
    return (
        f"{target}.{quote(restates.by)} = {staging}.{quote(restates.by)} "
        f"AND {at} >= {staging}.{quote(restates.begin)} AND {at} <= {staging}.{quote(restates.end)}"
    )


def _same_partition(table: RedshiftTable, load: Load) -> str:
    if table.partition is None or load.partition is None:
        raise ConfigurationError(f"{table.name} has no partition to replace.")
    return f"{quote(table.partition)} = {partition_literal(table, load.partition)}"


def _clears_partition(table: RedshiftTable, load: Load) -> bool:
    """Of a batch that is not a whole partition's, a table that restates takes the rows by their keys alone."""
    return table.mode == "replace" or (table.mode == "restate" and load.partition is not None)


def _deletes(table: RedshiftTable, load: Load, staging: str) -> list[str]:
    """What makes room for the staged rows, by the table's mode."""
    target = qualified(table.name)
    statements = []
    if table.restates:
        statements.append(
            f"DELETE FROM {target} USING {staging} WHERE {_same_span(table, table.restates, staging)}"  # noqa: S608
        )
    elif _clears_partition(table, load):
        statements.append(f"DELETE FROM {target} WHERE {_same_partition(table, load)}")  # noqa: S608
    if table.mode != "replace":
        statements.append(f"DELETE FROM {target} USING {staging} WHERE {_same_keys(table, staging)}")  # noqa: S608
    return statements


def _insert_days(table: RedshiftTable, days: tuple[str, str], load: Load, staging: str) -> str:
    """The days of the rows that come and of those that go, before any goes.

    Rows that go by their key alone are left out: a key keeps its days, so those are the days of the row that comes.
    """
    target = qualified(table.name)

    def spans(first: str, last: str, relation: str) -> str:
        return f"SELECT CAST({first} AS DATE) AS first_day, CAST({last} AS DATE) AS last_day FROM {relation}"  # noqa: S608

    first, last = map(quote, days)
    found = [spans(first, last, staging)]
    of_target = spans(f"{target}.{first}", f"{target}.{last}", target)
    if table.restates:
        found += [
            spans(quote(table.restates.begin), quote(table.restates.end), staging),
            f"{of_target}, {staging} WHERE {_same_span(table, table.restates, staging)}",
        ]
    elif _clears_partition(table, load):
        found.append(f"{of_target} WHERE {_same_partition(table, load)}")
    return (
        f"INSERT INTO {qualified(LOAD_DAYS.name)} (load_id, first_day, last_day) "  # noqa: S608
        f"SELECT {literals.text(load.load_id)}, first_day, last_day FROM ({' UNION '.join(found)}) AS d "
        "WHERE first_day IS NOT NULL AND last_day IS NOT NULL"
    )


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
