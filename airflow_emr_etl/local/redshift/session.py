"""One connection that runs the statements of one Data API request."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from airflow_emr_etl.local.redshift.copy_files import run_copy
from airflow_emr_etl.local.redshift.dialect import Plan, TableAttributes, translate
from airflow_emr_etl.local.redshift.engine import Engine
from airflow_emr_etl.local.redshift.errors import LoadErrorRow, RedshiftError, from_postgres
from airflow_emr_etl.local.redshift.objects import Objects
from airflow_emr_etl.local.redshift.records import Outcome, read_outcome
from airflow_emr_etl.local.redshift.unload_files import run_unload


@dataclass(frozen=True)
class Failure:
    """Which statement of a batch failed (from zero), and how."""

    at: int
    error: RedshiftError


class Session:
    """Not for several threads at once, but for ``cancel``."""

    def __init__(self, engine: Engine, objects: Objects, database: str) -> None:
        self._engine = engine
        self._objects = objects
        self._database = database
        self._connection = engine.connect(database)
        self._in_transaction = False
        self._guard = threading.Lock()
        self._closed = False

    @property
    def pid(self) -> int:
        return int(self._connection.info.backend_pid)

    def close(self) -> None:
        with self._guard:
            self._closed = True
            self._connection.close()

    def cancel(self) -> None:
        """Interrupt what runs, from another thread."""
        with self._guard:
            if not self._closed:
                self._connection.cancel_safe(timeout=5)

    def run_transaction(
        self, texts: list[str], query_ids: list[int], done: Callable[[int, Outcome], None]
    ) -> Failure | None:
        """All or nothing. ``done`` hears of each statement that ran; its effect may still be rolled back."""
        for at, text in enumerate(texts):
            try:
                plan = translate(text)
                if plan.control:
                    raise RedshiftError(
                        f"{plan.verb} cannot be in a batch, which is a transaction of its own", "25001"
                    )
                if plan.outside_transaction or plan.create_database:
                    raise RedshiftError(f"{plan.verb} cannot run inside a transaction block", "25001")
                if at == 0:
                    self._begin()
                done(at, self._run(plan, query_ids[at]))
            except (RedshiftError, psycopg.Error) as error:
                return Failure(at, self._abandon(error, query_ids[at]))
        try:
            self._commit()
        except psycopg.Error as error:
            return Failure(len(texts) - 1, self._abandon(error, query_ids[-1]))
        return None

    def run_alone(self, text: str, query_id: int) -> Outcome:
        """One statement in a transaction of its own. Raises RedshiftError."""
        try:
            plan = translate(text)
            if plan.control:
                return Outcome()
            if plan.create_database:
                self._engine.ensure_database(plan.create_database)
                return Outcome()
            if plan.outside_transaction and plan.verb == "VACUUM":
                return self._run(plan, query_id)
            self._begin()
            outcome = self._run(plan, query_id)
            self._commit()
        except (RedshiftError, psycopg.Error) as error:
            raise self._abandon(error, query_id) from error
        return outcome

    # -- inside a transaction -------------------------------------------------------------------------------------

    def _begin(self) -> None:
        # Nothing may read before the first statement: LOCK has to come before the snapshot.
        self._connection.execute("BEGIN")
        self._in_transaction = True

    def _commit(self) -> None:
        if self._in_transaction:
            self._connection.execute("COMMIT")
            self._in_transaction = False

    def _abandon(self, error: RedshiftError | psycopg.Error, query_id: int) -> RedshiftError:
        failure = error if isinstance(error, RedshiftError) else from_postgres(error)
        with contextlib.suppress(psycopg.Error):
            if self._in_transaction:
                self._connection.execute("ROLLBACK")
        self._in_transaction = False
        if failure.load_error is not None:
            self._record(failure.load_error, query_id)
        return failure

    def _run(self, plan: Plan, query_id: int) -> Outcome:
        if plan.copy is not None:
            rows = run_copy(self._connection, self._objects, plan.copy)
            self._connection.execute(
                "SELECT set_config('redshift.last_copy_count', %s, false), "
                "set_config('redshift.last_copy_id', %s, false)",
                (str(rows), str(query_id)),
            )
            return Outcome(rows=rows)
        if plan.unload is not None:
            return Outcome(rows=run_unload(self._connection, self._objects, plan.unload, plan.postgres[0]))
        if plan.creates_if_absent and self._in_transaction:
            # Two sessions that both find nothing would both create, and one would fail.
            self._connection.execute("LOCK TABLE redshift_internal.ddl_lock IN ACCESS EXCLUSIVE MODE")
        outcome = Outcome()
        for statement in plan.postgres:
            cursor = self._connection.execute(statement.encode())
            outcome = read_outcome(cursor)
        if plan.attributes is not None:
            self._remember(plan.attributes)
        if plan.commits and self._in_transaction:
            self._connection.execute("COMMIT")
            self._connection.execute("BEGIN")
        return outcome

    def _remember(self, attributes: TableAttributes) -> None:
        self._connection.execute(
            "INSERT INTO redshift_internal.table_attributes (table_id, diststyle, distkey, sortkeys) "
            "VALUES (%s::regclass, %s, %s, %s) ON CONFLICT (table_id) DO NOTHING",
            (attributes.table, attributes.diststyle, attributes.distkey, list(attributes.sortkeys)),
        )

    def _record(self, row: LoadErrorRow, query_id: int) -> None:
        """On a connection of its own, so that the row outlives the rollback."""
        values: dict[str, Any] = {
            "query": query_id,
            "session": self.pid if not self._connection.closed else 0,
            "table": row.table,
            "file": row.file,
            "line": row.line,
            "column": row.column,
            "type": row.column_type,
            "length": row.column_length,
            "code": row.code,
            "message": row.message,
        }
        with self._engine.connect(self._database, admin=True) as connection:
            connection.execute(
                "INSERT INTO redshift_internal.load_errors VALUES (%(query)s, %(session)s, %(table)s, NULL, "
                "now() AT TIME ZONE 'UTC', %(file)s, %(line)s, %(column)s, %(type)s, %(length)s, %(code)s, "
                "%(message)s)",
                values,
            )
