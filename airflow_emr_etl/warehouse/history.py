"""The history of loads: the only truth about what is in the warehouse."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.models.table import RedshiftTable
from airflow_emr_etl.warehouse import literals
from airflow_emr_etl.warehouse.identifiers import column_list, qualified

HISTORY = RedshiftTable(
    "etl.load_history",
    mode="merge",
    keys=["load_id"],
    dist_style="ALL",
    sort_keys=["loaded_at"],
    columns=[
        {"name": "load_id", "type": "VARCHAR(64)", "nullable": False},
        {"name": "target", "type": "VARCHAR(255)", "nullable": False},
        "partition_value VARCHAR(64)",
        "dag_id VARCHAR(255)",
        "run_id VARCHAR(255)",
        "manifest VARCHAR(1024)",
        "rows_loaded BIGINT",
        "bytes_loaded BIGINT",
        "lines_in BIGINT",
        "valid BIGINT",
        "quarantined BIGINT",
        "delivered_twice BIGINT",
        "loaded_at TIMESTAMP",
        "restatement BIGINT",
    ],
)
LOAD_DAYS = RedshiftTable(
    "etl.load_days",
    mode="merge",
    keys=["load_id", "first_day", "last_day"],
    dist_style="ALL",
    sort_keys=["load_id"],
    columns=["load_id VARCHAR(64)", "first_day DATE", "last_day DATE"],
)
"""The days that a load touched: those of the rows that it brought and of the rows that it took away."""
FENCE = RedshiftTable(
    "etl.load_fence",
    mode="merge",
    keys=["target"],
    dist_style="ALL",
    columns=[
        {"name": "target", "type": "VARCHAR(255)", "nullable": False},
        {"name": "epoch", "type": "BIGINT", "nullable": False},
    ],
)


@dataclass(frozen=True)
class Load:
    """One batch into one table. ``load_id`` names its content: the same manifest is the same load."""

    load_id: str
    target: str
    partition: str | None
    dag_id: str
    run_id: str
    manifest_uri: str
    manifest: Manifest


def load_id(dag_id: str, target: str, partition: str | None, manifest: bytes) -> str:
    """sha256 over dag | target | partition | manifest bytes, as 64 hexadecimal digits."""
    head = "|".join((dag_id, target, partition or "")) + "|"
    return hashlib.sha256(head.encode() + manifest).hexdigest()


def select_load(load_id: str) -> str:
    """The history row of a load; the names are those of the table."""
    names = [column.name for column in HISTORY.columns]
    return (
        f"SELECT {column_list(names)} FROM {qualified(HISTORY.name)} "  # noqa: S608 - quoted, and literals
        f"WHERE load_id = {literals.text(load_id)}"
    )


def insert_load(load: Load) -> str:
    """The statement that records a load, last in its transaction."""
    accounting = load.manifest.accounting
    values: Mapping[str, str] = {
        "load_id": literals.text(load.load_id),
        "target": literals.text(load.target),
        "partition_value": "NULL" if load.partition is None else literals.text(load.partition),
        "dag_id": literals.text(_cut(load.dag_id, 255)),
        "run_id": literals.text(_cut(load.run_id, 255)),
        "manifest": literals.text(load.manifest_uri),
        "rows_loaded": literals.integer(load.manifest.record_count),
        "bytes_loaded": literals.integer(load.manifest.content_length),
        "lines_in": literals.integer(accounting.lines_in if accounting else None),
        "valid": literals.integer(accounting.valid if accounting else None),
        "quarantined": literals.integer(accounting.quarantined_lines if accounting else None),
        "delivered_twice": literals.integer(accounting.delivered_twice if accounting else None),
        "loaded_at": "GETDATE()",
        "restatement": literals.integer(load.manifest.restatement),
    }
    names = list(values)
    return (
        f"INSERT INTO {qualified(HISTORY.name)} ({column_list(names)}) VALUES ({', '.join(values.values())})"  # noqa: S608
    )


def select_days(load_ids: Sequence[str]) -> str:
    """The spans of days, ``first_day`` to ``last_day``, that these loads touched."""
    wanted = ", ".join(literals.text(each) for each in load_ids)
    return (
        f"SELECT DISTINCT first_day, last_day FROM {qualified(LOAD_DAYS.name)} WHERE load_id IN ({wanted}) "  # noqa: S608
        "ORDER BY 1, 2"
    )


def _cut(text: str, size_bytes: int) -> str:
    return text.encode()[:size_bytes].decode(errors="ignore")


def recorded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A history row as plain JSON, without columns that are NULL."""
    return {name: value for name, value in row.items() if value is not None}
