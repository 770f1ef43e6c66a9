"""The transaction that takes visitors out of the warehouse: out of every table that has them, all or nothing.

The visitors come by COPY from the list that the job wrote, so that no statement, log or rendered field has an id. The
days of the rows that go are recorded like those of a load, for marts to follow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from airflow_emr_etl.models.clickstream_marts import MARTS
from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.models.table import Column, RedshiftTable
from airflow_emr_etl.models.visitor_list import VISITOR
from airflow_emr_etl.warehouse import literals, marts
from airflow_emr_etl.warehouse.clickstream import TABLES
from airflow_emr_etl.warehouse.history import FENCE, LOAD_DAYS
from airflow_emr_etl.warehouse.identifiers import qualified, quote
from airflow_emr_etl.warehouse.load_plan import ROW_COUNT_MATCHES, assertion, check_limits
from airflow_emr_etl.warehouse.schema import lock_table


def tables_of_visitors(existing: Mapping[str, Iterable[Column]]) -> list[RedshiftTable]:
    """The tables of the pipeline, and its marts, that are there and have a row for a visitor."""
    known = [*TABLES, *(marts.table_of(mart) for mart in MARTS)]
    return [
        table
        for table in known
        if any(column.name == VISITOR for column in table.columns)
        and any(column.name == VISITOR for column in existing.get(table.name, ()))
    ]


def erasure_id(manifest: bytes) -> str:
    """What the erasure is called in ``etl.load_days``: a digest of the list's manifest, which holds no id."""
    return hashlib.sha256(b"erasure|" + manifest).hexdigest()


def fence_of(table: RedshiftTable) -> str:
    """By whose lock its writers take turns: loads have one for each table, and all marts share one."""
    return table.name if table in TABLES else marts.FENCE_TARGET


def erase_transaction(
    tables: Sequence[RedshiftTable], manifest: Manifest, uri: str, *, load_id: str, iam_role: str
) -> list[str]:
    """The statements of one BatchExecuteStatement; :func:`delete_positions` says where the DELETEs are."""
    staging = quote(f"erased_{load_id[:12]}")
    # In one order everywhere, so that two erasures never wait for each other's second lock.
    fences = sorted({fence_of(table) for table in tables})
    statements = [f"LOCK TABLE {qualified(lock_table(name))}" for name in fences]
    statements += [
        f"UPDATE {qualified(FENCE.name)} SET epoch = epoch + 1 WHERE target = {literals.text(name)}"  # noqa: S608
        for name in fences
    ]
    count = literals.integer(manifest.record_count)
    statements += [
        f"CREATE TEMP TABLE {staging} ({quote(VISITOR)} VARCHAR(64) NOT NULL)",
        f"COPY {staging} ({quote(VISITOR)}) FROM {literals.s3_url(uri)} "
        f"IAM_ROLE {literals.iam_role(iam_role)} FORMAT AS PARQUET MANIFEST",
        *assertion(load_id[:12], ROW_COUNT_MATCHES, f"COUNT(*) = {count} THEN 1 END FROM {staging}"),
    ]
    spans = [_spans(table, table.days, staging) for table in tables if table.days]
    if spans:
        statements.append(
            f"INSERT INTO {qualified(LOAD_DAYS.name)} (load_id, first_day, last_day) "  # noqa: S608
            f"SELECT {literals.text(load_id)}, first_day, last_day FROM ({' UNION '.join(spans)}) AS d "
            "WHERE first_day IS NOT NULL AND last_day IS NOT NULL"
        )
    statements += [
        f"DELETE FROM {qualified(table.name)} USING {staging} WHERE {_same_visitor(table, staging)}"  # noqa: S608
        for table in tables
    ]
    check_limits(statements, "The erasure", "Erase from fewer tables.")
    return statements


def delete_positions(tables: Sequence[str]) -> dict[str, int]:
    """Which statement of ``erase_transaction`` deletes from each of its tables, counted back from -1, the last."""
    return {name: at - len(tables) for at, name in enumerate(tables)}


def _spans(table: RedshiftTable, days: tuple[str, str], staging: str) -> str:
    target = qualified(table.name)
    first, last = (f"CAST({target}.{quote(name)} AS DATE)" for name in days)
    return (
        f"SELECT {first} AS first_day, {last} AS last_day FROM {target}, {staging} "  # noqa: S608
        f"WHERE {_same_visitor(table, staging)}"
    )


def _same_visitor(table: RedshiftTable, staging: str) -> str:
    return f"{qualified(table.name)}.{quote(VISITOR)} = {staging}.{quote(VISITOR)}"
