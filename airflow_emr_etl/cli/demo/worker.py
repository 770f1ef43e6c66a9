"""Runs one DAG for several days inside a real Airflow and reports each change as a line of JSON.

A process of its own, since Airflow reads its home from the environment when it is imported:
``python -m airflow_emr_etl.cli.demo.worker DAG_FILE DAG_ID EVENTS_FILE LOG_FOLDER DAY…``
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

_WATCH_SECONDS = 0.25
_STARTED = ("queued", "running", "deferred")
_ENDED = ("success", "failed", "skipped", "upstream_failed", "removed")


class Events:
    """A file of JSON lines that another process follows."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", buffering=1)
        self._lock = threading.Lock()

    def emit(self, **event: Any) -> None:
        with self._lock:
            self._file.write(json.dumps(event, default=str) + "\n")


class Watcher:
    """Follows the task instances of the run for one day, which is the next that is made, in the database."""

    def __init__(
        self,
        events: Events,
        dag_id: str,
        day: str,
        logical_date: datetime,
        on_made: Callable[[], None] = lambda: None,
    ) -> None:
        self._events, self._dag_id, self._day, self._logical_date = events, dag_id, day, logical_date
        self._on_made = on_made
        self._started: dict[str, float] = {}
        self._seen: dict[str, str] = {}
        self._earlier = {run_id for run_id, _, _ in self._states()}

    def _states(self) -> list[tuple[str, str | None, str]]:
        """Run, task and state of every run for the day; an earlier one stands there until the new one is made."""
        from airflow.models.dagrun import DagRun
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from sqlalchemy import select

        query = (
            select(DagRun.run_id, TaskInstance.task_id, TaskInstance.state)
            .outerjoin(
                TaskInstance, (DagRun.dag_id == TaskInstance.dag_id) & (DagRun.run_id == TaskInstance.run_id)
            )
            .where(DagRun.dag_id == self._dag_id, DagRun.logical_date == self._logical_date)
        )
        with create_session() as session:
            return [(run, task, str(state or "none")) for run, task, state in session.execute(query).all()]

    def look(self) -> None:
        now = time.monotonic()
        for run_id, task, found in self._states():
            if run_id in self._earlier:
                continue
            self._on_made()
            if task is None or self._seen.get(task) == found:
                continue
            state = found
            if state in _STARTED:
                self._started.setdefault(task, now)
                state = "running"
            if self._seen.get(task) == state:
                continue
            self._seen[task] = state
            if state == "running" or state in _ENDED:
                seconds = now - self._started.get(task, now)
                self._events.emit(type="task", day=self._day, task=task, state=state, seconds=seconds)

    @contextmanager
    def watching(self) -> Iterator[None]:
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(_WATCH_SECONDS):
                # A busy SQLite file is looked at again a moment later; the last look is made below.
                try:
                    self.look()
                except Exception as error:
                    print("progress:", error, file=sys.stderr)  # noqa: T201 - the worker's own log

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.look()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that all workers share."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _failure_listener(events: Events, days: dict[str, str]) -> Any:
    from airflow.listeners import hookimpl

    class FailureListener:
        @hookimpl
        def on_task_instance_failed(self, previous_state: Any, task_instance: Any, error: Any) -> None:
            del previous_state
            events.emit(
                type="failure",
                day=days.get("current"),
                task=task_instance.task_id,
                error=f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error),
            )

    return FailureListener()


def _listen(listener: Any) -> None:
    manager = _first_module("airflow.sdk.listener", "airflow.listeners.listener")
    manager.get_listener_manager().add_listener(listener)


def _first_module(now: str, earlier: str) -> Any:
    """A module that has moved since Airflow 3.0."""
    try:
        return import_module(now)
    except ImportError:
        return import_module(earlier)


def _returned_values(dag_id: str, run_id: str) -> dict[str, Any]:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        query: Any = XComModel.get_many(run_id=run_id, key="return_value", dag_ids=dag_id)
        return {row.task_id: XComModel.deserialize_value(row) for row in session.scalars(query)}


def main(argv: list[str]) -> int:
    dag_file, dag_id, events_file, log_folder, *days = argv
    events = Events(Path(events_file))
    logs = Path(log_folder)
    logs.mkdir(parents=True, exist_ok=True)

    bag = _first_module("airflow.dag_processing.dagbag", "airflow.models.dagbag").DagBag(dag_folder=dag_file)
    if bag.import_errors or dag_id not in bag.dags:
        reason = "\n".join(bag.import_errors.values()) or f"{dag_file} defines no DAG {dag_id}"
        events.emit(type="error", message=reason)
        return 1
    dag: Any = bag.dags[dag_id]
    tasks = [task.task_id for task in dag.topological_sort()]
    events.emit(type="tasks", tasks=tasks)

    current: dict[str, str] = {}
    _listen(_failure_listener(events, current))
    failed = False
    for day in days:
        current["current"] = day
        log = os.open(logs / f"{day}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        # The schedule would start the run for a day at one o'clock on the next.
        logical_date = datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1, hours=1)
        began = time.monotonic()
        with ExitStack() as starting:
            # Two first runs at once would both write the DAG into the database, and one would fail.
            starting.enter_context(_alone(logs / "starting.lock"))
            with Watcher(events, dag_id, day, logical_date, on_made=starting.close).watching():
                run = dag.test(logical_date=logical_date, run_conf={"day": day})
        for task, value in _returned_values(dag_id, run.run_id).items():
            events.emit(type="value", day=day, task=task, value=value)
        state = str(run.state)
        failed = failed or state != "success"
        events.emit(type="run", day=day, state=state, seconds=time.monotonic() - began)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
