"""Waits for the end of a Data API statement."""

from __future__ import annotations

import asyncio
from typing import Any

from airflow_emr_etl.hooks.redshift_data import RedshiftDataHook, statement_state
from airflow_emr_etl.models.statement import STATEMENT_ENDED
from airflow_emr_etl.models.table import RedshiftTarget
from airflow_emr_etl.triggers.ownership import is_over, whatever_comes
from airflow_emr_etl.triggers.polling import PollingTrigger, in_task_thread, plain


class RedshiftStatementTrigger(PollingTrigger):
    """Fires when the statement has ended, well or not.

    Payload: ``{"status": "done", "statement": {…}}``, what DescribeStatement says, without the texts.
    ``attempt`` travels through, since a task that resumes knows nothing else of its past.
    """

    def __init__(
        self,
        *,
        statement_id: str,
        target: dict[str, Any],
        attempt: int = 1,
        cancel_on_kill: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.statement_id = statement_id
        self.target = target
        self.attempt = attempt
        self.cancel_on_kill = cancel_on_kill

    def fields(self) -> dict[str, Any]:
        return {
            "statement_id": self.statement_id,
            "target": self.target,
            "attempt": self.attempt,
            "cancel_on_kill": self.cancel_on_kill,
        }

    def connect(self) -> RedshiftDataHook:
        hook = RedshiftDataHook(
            RedshiftTarget.model_validate(self.target), self.aws_conn_id, self.region_name
        )
        _ = hook.client
        return hook

    def look(self, hook: RedshiftDataHook) -> dict[str, Any] | None:
        description = hook.describe(self.statement_id)
        if statement_state(description) not in STATEMENT_ENDED:
            return None
        statement = plain(description, "Id", "Status", "Error", "Duration", "ResultRows")
        statement["SubStatements"] = [
            plain(part, "Id", "Status", "Error", "ResultRows")
            for part in description.get("SubStatements", ())
        ]
        return {"status": "done", "statement": statement}

    async def on_kill(self) -> None:
        """Cancel the statement, where a user has failed or skipped the task (Airflow 3.3).

        A cleared task's next try finds in the load history what this one has still loaded.
        """
        if self.cancel_on_kill:
            await whatever_comes(self._cancel_if_over())

    async def _cancel_if_over(self) -> None:
        if await is_over(self):
            hook = self.hook or await in_task_thread(self.connect)
            await asyncio.to_thread(hook.cancel, self.statement_id)
