"""The part of a task instance that operators use, with its XComs in a dict."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


class FakeTaskInstance:
    def __init__(self, task_id: str = "t", try_number: int = 1) -> None:
        self.dag_id, self.run_id, self.task_id = "d", "r", task_id
        self.map_index, self.try_number = -1, try_number
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value

    def xcom_pull(self, task_ids: str, key: str, map_indexes: int) -> Any:
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key)

    @property
    def context(self) -> Any:
        return {"ti": self, "ds": "2026-01-05", "logical_date": datetime(2026, 1, 5, tzinfo=UTC)}
