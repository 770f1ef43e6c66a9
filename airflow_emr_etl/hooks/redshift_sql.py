"""Redshift as a SQLAlchemy engine whose driver is the Data API, for programs that write their SQL themselves.

Only for reading: every statement is a transaction of its own. Names are quoted and values are written by
``warehouse/identifiers.py`` and ``warehouse/literals.py``, like in all other SQL of this package; which columns a table
has is told, not looked up.
"""

from __future__ import annotations

import datetime as dt
import decimal
import re
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.base import PGDialect, PGIdentifierPreparer
from sqlalchemy.pool import StaticPool

from airflow_emr_etl.exceptions import ConfigurationError, EmrEtlError, StatementFailedError, WaitTimeoutError
from airflow_emr_etl.hooks.redshift_data import RedshiftDataHook
from airflow_emr_etl.models.table import Column
from airflow_emr_etl.warehouse import identifiers, literals

_DRIVER = "emr_etl_data_api"
_TYPES: Mapping[str, type[sa.types.TypeEngine[Any]]] = {
    "BIGINT": sa.BIGINT,
    "BOOLEAN": sa.BOOLEAN,
    "CHAR": sa.CHAR,
    "DATE": sa.DATE,
    "DECIMAL": sa.DECIMAL,
    "DOUBLE PRECISION": sa.DOUBLE_PRECISION,
    "INTEGER": sa.INTEGER,
    "NUMERIC": sa.NUMERIC,
    "REAL": sa.REAL,
    "SMALLINT": sa.SMALLINT,
    "TIMESTAMP": sa.TIMESTAMP,
    "TIMESTAMPTZ": sa.TIMESTAMP,
    "VARCHAR": sa.VARCHAR,
}


def sql_engine(connection: DataApiConnection, tables: Mapping[str, Sequence[Column]]) -> sa.engine.Engine:
    """An engine on *connection* that knows the columns of *tables*, by ``schema.table``."""
    engine = sa.create_engine(
        f"postgresql+{_DRIVER}://",
        module=_DBAPI,
        creator=lambda: connection,
        poolclass=StaticPool,
    )
    assert isinstance(engine.dialect, DataApiDialect)
    engine.dialect.tables = tables
    return engine


class DataApiConnection:
    """What SQLAlchemy calls a connection (PEP 249). Knows its running statement, so that it can be cancelled.

    :param timeout_seconds: how long one statement may take
    """

    def __init__(self, hook: RedshiftDataHook, *, name: str, timeout_seconds: float = 3600.0) -> None:
        self.hook = hook
        self.name = name
        self.timeout_seconds = timeout_seconds
        self.statements = 0
        """How many were sent."""
        self.broken: EmrEtlError | None = None
        """What ended the work but is no fault of a statement, such as a lost connection. Programs that take every error
        for a statement's do not raise it; so look here."""
        self._running: str | None = None

    def run(self, sql: str) -> tuple[list[Mapping[str, Any]], list[tuple[Any, ...]]]:
        """Run a statement to its end; the columns and rows of its result. Raises this package's errors."""
        if self.broken is not None:
            raise self.broken
        try:
            return self._run(sql)
        except StatementFailedError:
            raise
        except EmrEtlError as error:
            self.broken = error
            raise

    def _run(self, sql: str) -> tuple[list[Mapping[str, Any]], list[tuple[Any, ...]]]:
        self.statements += 1
        self._running = self.hook.execute(sql, name=self.name)
        try:
            description = self.hook.wait(self._running, timeout_seconds=self.timeout_seconds)
        except WaitTimeoutError:
            self.cancel()
            raise
        self._running = None
        if not description.get("HasResultSet"):
            return [], []
        columns, records = self.hook.result(description["Id"])
        kinds = [str(column.get("typeName", "")).lower() for column in columns]
        return columns, [
            tuple(python_value(value, kind) for value, kind in zip(record, kinds, strict=True))
            for record in records
        ]

    def cancel(self) -> None:
        """Cancel the statement that runs, if one does."""
        if self._running is not None:
            self.hook.cancel(self._running)

    def cursor(self) -> _Cursor:
        return _Cursor(self)

    def commit(self) -> None:
        """Nothing to do: every statement is committed at its end."""

    def rollback(self) -> None:
        """Nothing to do: see ``commit``."""

    def close(self) -> None:
        """Nothing to do: the Data API has no connections."""


class _Cursor:
    arraysize = 1

    def __init__(self, connection: DataApiConnection) -> None:
        self._connection = connection
        self._rows: Iterator[tuple[Any, ...]] = iter(())
        self.description: list[tuple[Any, ...]] | None = None
        self.rowcount = -1

    def execute(self, operation: str, parameters: Mapping[str, Any] | None = None) -> None:
        sql = operation % {name: sql_value(value) for name, value in (parameters or {}).items()}
        try:
            columns, rows = self._connection.run(sql)
        except EmrEtlError as error:
            raise _DatabaseError(str(error)) from error
        self._rows, self.rowcount = iter(rows), len(rows)
        self.description = [
            (column["name"], column.get("typeName"), None, None, None, None, None) for column in columns
        ] or None

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(self._rows, None)

    def fetchmany(self, size: int = 1) -> list[tuple[Any, ...]]:
        return [row for _, row in zip(range(size), self._rows, strict=False)]

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self._rows)

    def close(self) -> None:
        self._rows = iter(())


class _Error(Exception):
    pass


class _DatabaseError(_Error):
    pass


_DBAPI = SimpleNamespace(
    paramstyle="pyformat",
    apilevel="2.0",
    threadsafety=1,
    Error=_Error,
    DatabaseError=_DatabaseError,
    **{
        name: type(name, (_DatabaseError,), {})
        for name in (
            *("DataError", "IntegrityError", "InternalError", "NotSupportedError"),
            *("OperationalError", "ProgrammingError"),
        )
    },
    InterfaceError=type("InterfaceError", (_Error,), {}),
)


class _Preparer(PGIdentifierPreparer):
    """Leaves names to the one place that quotes them."""

    def quote(self, ident: str, force: Any = None) -> str:
        return identifiers.quote(ident)

    def format_label(self, label: Any, name: str | None = None) -> str:
        # A name that the program makes up for a column of the result, such as table.row_count: of no table's.
        return self.quote_identifier(name or str(label.name))


class DataApiDialect(PGDialect):
    """PostgreSQL's as far as Redshift shares it, without a look at the server."""

    driver = _DRIVER
    preparer = _Preparer
    supports_statement_cache = True
    default_paramstyle = "pyformat"
    tables: Mapping[str, Sequence[Column]] = {}

    def initialize(self, connection: Any) -> None:
        """Asks the server nothing: PostgreSQL's questions are none that Redshift answers."""
        self.server_version_info = (8, 0, 2)
        self.default_schema_name = "public"

    def do_ping(self, dbapi_connection: Any) -> bool:
        return True

    def has_table(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> bool:
        return f"{schema or 'public'}.{table_name}" in self.tables

    def get_columns(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> Any:
        return [
            {
                "name": column.name,
                "type": column_type(column.type),
                "nullable": column.nullable,
                "default": None,
            }
            for column in self.tables[f"{schema or 'public'}.{table_name}"]
        ]

    def get_pk_constraint(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> Any:
        """None: Redshift enforces no key, so a declared one says nothing."""
        return {"constrained_columns": [], "name": None}

    def get_schema_names(self, connection: Any, **_: Any) -> list[str]:
        return sorted({name.partition(".")[0] for name in self.tables})


registry.register(f"postgresql.{_DRIVER}", __name__, "DataApiDialect")


def column_type(redshift: str) -> sa.types.TypeEngine[Any]:
    """``VARCHAR(64)`` as SQLAlchemy's; what it has none for is of no type."""
    found = re.fullmatch(r"([A-Z ]+?)\s*(?:\((\d+)(?:\s*,\s*(\d+))?\))?", redshift.upper())
    kind = _TYPES.get(found.group(1)) if found else None
    if found is None or kind is None:
        return sa.types.NullType()
    return kind(*(int(size) for size in found.groups()[1:] if size is not None))


def sql_value(value: Any) -> str:
    """A Python value in SQL. ConfigurationError for a kind that Redshift has none for."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return literals.integer(int(value))
    if isinstance(value, float):
        # Without an exponent a number is a DECIMAL, with up to 38 digits.
        return f"CAST({literals.text(repr(value))} AS DOUBLE PRECISION)"
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    if isinstance(value, str):
        return literals.text(value)
    if isinstance(value, dt.datetime):
        kind = "TIMESTAMPTZ" if value.tzinfo else "TIMESTAMP"
        return f"CAST({literals.text(value.isoformat(' '))} AS {kind})"
    if isinstance(value, dt.date):
        return f"CAST({literals.text(value.isoformat())} AS DATE)"
    raise ConfigurationError(
        f"{value!r:.200} is a {type(value).__name__}, which cannot stand in a statement for Redshift. Valid: texts, "
        "numbers, booleans, dates and times.",
        value=value,
    )


def python_value(value: Any, kind: str) -> Any:
    """The Data API writes DECIMAL, dates and times as texts."""
    if not isinstance(value, str):
        return value
    if kind in ("numeric", "decimal"):
        return decimal.Decimal(value)
    if kind == "date":
        return dt.date.fromisoformat(value)
    if kind in ("timestamp", "timestamptz"):
        return dt.datetime.fromisoformat(value)
    return value
