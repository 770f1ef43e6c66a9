"""What a statement fails with, in Redshift's words."""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg


@dataclass(frozen=True)
class LoadErrorRow:
    """A row of SYS_LOAD_ERROR_DETAIL."""

    table: str
    file: str
    line: int
    message: str
    code: int
    column: str | None = None
    column_type: str | None = None
    column_length: str | None = None


class RedshiftError(Exception):
    """A refused or failed statement. ``state`` is the SQLSTATE."""

    def __init__(self, message: str, state: str = "XX000", load_error: LoadErrorRow | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.state = state
        self.load_error = load_error


SERIALIZATION_STATES = frozenset({"40001", "40P01"})


def from_postgres(error: psycopg.Error) -> RedshiftError:
    """The Redshift wording of a Postgres error, where Redshift has one of its own."""
    diagnosis = error.diag
    state = diagnosis.sqlstate or ("57P01" if isinstance(error, psycopg.OperationalError) else "XX000")
    primary = diagnosis.message_primary or str(error).strip()
    if state == "40001":
        table = diagnosis.table_name or "unknown"
        return RedshiftError(
            f"1023 DETAIL: Serializable isolation violation on table - {table}, another transaction changed it first",
            state,
        )
    if state == "40P01":
        return RedshiftError("deadlock detected", state)
    if state == "23514" and (found := re.match(r"redshift_bytes_(\d+)_", diagnosis.constraint_name or "")):
        return RedshiftError(f"value too long for type character varying({found.group(1)})", "22001")
    if state == "23502":
        # Redshift says it in these words; Postgres 16 adds the relation.
        column = diagnosis.column_name
        return RedshiftError(f"Cannot insert a NULL value into column {column}", state)
    if state == "21000" and "MERGE" in primary:
        return RedshiftError("Found multiple matches to update the same tuple.", state)
    if state == "22012":
        return RedshiftError("Divide by zero", state)
    return RedshiftError(primary, state)
