"""What tasks that run one transaction of the Redshift Data API have in common."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_emr_etl.exceptions import EmrEtlError, StatementFailedError
from airflow_emr_etl.hooks.redshift_data import RedshiftDataHook, error_text, is_conflict, raise_if_failed
from airflow_emr_etl.models.table import RedshiftTable, RedshiftTarget
from airflow_emr_etl.operators.failures import checked
from airflow_emr_etl.operators.waiting import (
    RESUMED_TO_FAIL,
    as_timedelta,
    deadline_of,
    defers_by_default,
    raise_if_not_waited,
    wait_for,
)
from airflow_emr_etl.triggers.redshift_data import RedshiftStatementTrigger
from airflow_emr_etl.warehouse import schema

if TYPE_CHECKING:
    from airflow.sdk import Context

STATEMENT_KEY = "redshift_statement"
#: How often a transaction starts again when it met another one.
MAX_ATTEMPTS = 5

_DDL_ATTEMPTS = 4
_MADE_BY_ANOTHER = re.compile(
    r"already exists|duplicate key|unique constraint|tuple concurrently", re.IGNORECASE
)


class RedshiftBatchOperator(BaseOperator):
    """Submits batches to one target, waits for their end, deferred or not, and cancels what nobody waits for."""

    template_fields: Sequence[str] = ("target", "aws_conn_id", "region_name")
    ui_color = "#d5c8f5"

    def __init__(
        self,
        *,
        target: RedshiftTarget | Mapping[str, Any],
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        wait_timeout: timedelta | float = timedelta(hours=2),
        poll_interval: float = 15.0,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.target = target if isinstance(target, Mapping) else target.document()
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.wait_timeout = as_timedelta(wait_timeout)
        self.poll_interval = poll_interval
        self.deferrable = defers_by_default() if deferrable is None else deferrable
        self._statement_id: str | None = None

    @cached_property
    def place(self) -> RedshiftTarget:
        found: RedshiftTarget = checked(RedshiftTarget, self.target, of=f"The target of task {self.task_id}")
        return found

    @cached_property
    def hook(self) -> RedshiftDataHook:
        return RedshiftDataHook(self.place, self.aws_conn_id, self.region_name)

    # -- the end of a task ----------------------------------------------------------------------------------------

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        if next_method == RESUMED_TO_FAIL:
            # What defer() carried is gone on this path, so the id comes from the XCom pushed before it.
            ti: Any = context["ti"]
            self._statement_id = ti.xcom_pull(
                task_ids=self.task_id, key=STATEMENT_KEY, map_indexes=ti.map_index
            )
            self._cancel()
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        self._cancel()

    def _cancel(self) -> None:
        if self._statement_id is None:
            return
        try:
            self.hook.cancel(self._statement_id)
        except EmrEtlError as error:
            # Nothing is lost by it: what commits now is as good as what the next try would do.
            self.log.warning("Could not cancel statement %s: %s", self._statement_id, error)

    # -- statements -----------------------------------------------------------------------------------------------

    def _submit(
        self, context: Context, statements: list[str], *, token: str, name: str, attempt: int
    ) -> dict[str, Any]:
        """Submit a transaction and wait: its trigger's payload, here or in ``execute_complete``."""
        self._statement_id = self.hook.batch(statements, token=token, name=name)
        self.log.info("%s: statement %s, attempt %d", name, self._statement_id, attempt)
        ti: Any = context["ti"]
        ti.xcom_push(key=STATEMENT_KEY, value=self._statement_id)

        def trigger(deadline: str) -> RedshiftStatementTrigger:
            assert self._statement_id is not None
            return RedshiftStatementTrigger(
                statement_id=self._statement_id,
                target=dict(self.target),
                attempt=attempt,
                cancel_on_kill=True,
                aws_conn_id=self.aws_conn_id,
                region_name=self.region_name,
                poll_interval=self.poll_interval,
                deadline=deadline,
            )

        deadline = deadline_of(self, self.wait_timeout)
        return wait_for(self, trigger, deadline=deadline, deferrable=self.deferrable)

    def _token(self, context: Context, what: str, attempt: int) -> str:
        """The idempotency token of a transaction that does ``what``: another for each try, place and attempt."""
        ti: Any = context["ti"]
        place = "|".join(f"{name}={value}" for name, value in sorted(self.place.request().items()))
        owner = f"{ti.dag_id}|{ti.run_id}|{self.task_id}|{ti.map_index}|{place}|{what}"
        return f"{hashlib.sha256(owner.encode()).hexdigest()[:40]}-{ti.try_number}-{attempt}"

    def _ended(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        """The statement that has ended well; None where another transaction was in the way, and it is to start again.

        For transactions that may run twice. Raise what the end means otherwise.
        """
        if payload["status"] != "done":
            self._cancel()
            raise_if_not_waited(payload, f"statement {payload['statement_id']}")
        statement: dict[str, Any] = payload["statement"]
        text = error_text(statement)
        if is_conflict(text) and payload["attempt"] < MAX_ATTEMPTS:
            self.log.warning("Another transaction was in the way, starting again: %s", text)
            return None
        raise_if_failed(statement)
        return statement

    def _run_ddl(self, statements: list[str]) -> None:
        """Make what is missing. Tasks that start together all try, and Redshift's IF NOT EXISTS is no lock."""
        for attempt in range(1, _DDL_ATTEMPTS + 1):
            try:
                self.hook.wait(self.hook.batch(statements, name=f"emr-etl schema for {self.task_id}"))
            except StatementFailedError as error:
                if attempt == _DDL_ATTEMPTS or not _MADE_BY_ANOTHER.search(str(error)):
                    raise
                self.log.info("Another task made the same table at the same time; looking again: %s", error)
            else:
                return

    def _add_columns(self, table: RedshiftTable, existing: dict[str, Any]) -> None:
        """Add the columns that an existing table lacks; one that another task adds meanwhile is there as well."""
        if table.name not in existing:
            return
        for statement in schema.changes(table, existing[table.name]):
            self.log.info("%s", statement)
            try:
                self.hook.wait(self.hook.batch([statement], name=f"emr-etl schema for {self.task_id}"))
            except StatementFailedError as error:
                if not _MADE_BY_ANOTHER.search(str(error)):
                    raise
                self.log.info("Another task added the same column at the same time: %s", error)
