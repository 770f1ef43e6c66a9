"""The part of a task instance that operators use, with its XComs in a dict."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from fakes.clock import MORNING


class FakeTaskInstance:
    """One try. ``max_tries`` is Airflow's: the retries of the task, and more once it was cleared."""

    def __init__(
        self, task_id: str = "t", try_number: int = 1, max_tries: int = 0, map_index: int = -1
    ) -> None:
        self.max_tries = max_tries
        self.dag_id, self.run_id, self.task_id = "d", "r", task_id
        self.map_index, self.try_number = map_index, try_number
        self.run_started = MORNING
        self.xcoms: dict[str, Any] = {}
        self.others: dict[tuple[str, str], Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value

    def xcom_pull(self, task_ids: str, key: str, map_indexes: int | None = None) -> Any:
        """What this task pushed; another's is put into ``others`` by the test."""
        if task_ids != self.task_id:
            return self.others.get((task_ids, key))
        assert map_indexes == self.map_index
        return self.xcoms.get(key)

    def next_try(self) -> FakeTaskInstance:
        """The next try of the same task: Airflow deletes what this one pushed."""
        ti = FakeTaskInstance(self.task_id, self.try_number + 1, self.max_tries, self.map_index)
        ti.run_started, ti.others = self.run_started, self.others
        return ti

    def cleared(self, retries: int = 0) -> FakeTaskInstance:
        """The first try after somebody cleared the task."""
        ti = self.next_try()
        ti.max_tries = self.try_number + retries
        return ti

    @property
    def context(self) -> Any:
        return {
            "ti": self,
            "dag_run": SimpleNamespace(start_date=self.run_started),
            "ds": "2026-01-05",
            "logical_date": datetime(2026, 1, 5, tzinfo=UTC),
        }
