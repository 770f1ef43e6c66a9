"""Airflow's REST API v2, for an Airflow on this machine that takes everybody for an administrator."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

_PARTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")


class AirflowApi:
    """What a person does in the browser, as calls."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/v2{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=90) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()[:2000]}") from error

    def healthy(self) -> bool:
        try:
            health = self.call("GET", "/monitor/health")
        except (OSError, ValueError, AssertionError):
            return False
        return all((health.get(part) or {}).get("status") == "healthy" for part in _PARTS)

    def dags(self) -> set[str]:
        return {dag["dag_id"] for dag in self.call("GET", "/dags?limit=100")["dags"]}

    def set_paused(self, dag_id: str, paused: bool) -> None:
        self.call("PATCH", f"/dags/{dag_id}", {"is_paused": paused})

    def import_errors(self) -> list[str]:
        return [error["stack_trace"] for error in self.call("GET", "/importErrors")["import_errors"]]

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any] | None = None) -> None:
        body = {"logical_date": None, "dag_run_id": run_id, "conf": conf or {}}
        self.call("POST", f"/dags/{dag_id}/dagRuns", body)

    def run_state(self, dag_id: str, run_id: str) -> str:
        return str(self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        self.call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", {"state": state})

    def has_xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> bool:
        """Whether a task has told something under that key."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries"
        return key in {entry["key"] for entry in self.call("GET", path)["xcom_entries"]}

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        found = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}

    def set_task_state(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self.call("PATCH", path, {"new_state": state})

    def clear(self, dag_id: str, run_id: str, task_id: str, *, downstream: bool = True) -> list[str]:
        """Clear one task as the browser does it: with what comes behind it. Returns the tasks cleared."""
        body = {
            "dry_run": False,
            "only_failed": False,
            "reset_dag_runs": True,
            "task_ids": [task_id],
            "dag_run_id": run_id,
            "include_downstream": downstream,
        }
        answer = self.call("POST", f"/dags/{dag_id}/clearTaskInstances", body)
        return sorted(task["task_id"] for task in answer["task_instances"])
