"""Waits for a time: for what has no state to look at, such as room that others may take first."""

from __future__ import annotations

from typing import Any

from airflow_emr_etl.triggers.polling import PollingTrigger


class PauseTrigger(PollingTrigger):
    """Fires at its deadline, with the status ``timeout``."""

    def fields(self) -> dict[str, Any]:
        return {}

    def connect(self) -> Any:
        return self

    def look(self, hook: Any) -> dict[str, Any] | None:
        return None
