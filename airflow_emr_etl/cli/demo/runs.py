"""Runs the DAG for each day in worker processes, and shows how far they are."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from airflow_emr_etl.cli.airflow_home import AirflowHome
from airflow_emr_etl.exceptions import ConfigurationError

_MARKS = {
    "success": "[green]✓[/]",
    "running": "[cyan]▶[/]",
    "failed": "[red]✗[/]",
    "skipped": "[dim]–[/]",
    "upstream_failed": "[dim]✗[/]",
}
_SHOWN_DAYS = 5
_FOLLOW_SECONDS = 0.2
_END_SECONDS = 10


@dataclass
class TaskProgress:
    """One task of one run. ``seconds`` is filled when it has ended."""

    state: str = "none"
    seconds: float = 0.0
    since: float = 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.since if self.state == "running" else self.seconds


@dataclass
class RunProgress:
    """One run of the DAG, for one UTC day."""

    day: str
    state: str = "waiting"
    seconds: float = 0.0
    tasks: dict[str, TaskProgress] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass
class Runs:
    """All runs, as the events of the workers tell them."""

    tasks: list[str]
    days: dict[str, RunProgress]
    error: str | None = None

    def take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "tasks":
            self.tasks = event["tasks"]
            return
        if kind == "error":
            self.error = event["message"]
            return
        run = self.days[event["day"]]
        if kind == "task":
            progress = run.tasks.setdefault(event["task"], TaskProgress())
            progress.state, progress.seconds = event["state"], event["seconds"]
            progress.since = time.monotonic() - event["seconds"]
            if run.state == "waiting":
                run.state = "running"
        elif kind == "value":
            run.values[event["task"]] = event["value"]
        elif kind == "failure":
            run.failures[event["task"]] = event["error"]
        elif kind == "run":
            run.state, run.seconds = event["state"], event["seconds"]
            if not run.tasks:
                # Airflow calls a run without a task a success; it has done nothing.
                run.state = "failed"
                run.failures["run"] = (
                    f"Airflow ran no task for {run.day}: it lies before the DAG's start_date."
                )

    @property
    def succeeded(self) -> bool:
        return self.error is None and all(run.state == "success" for run in self.days.values())

    def table(self) -> Table:
        """Tasks down, days across; with many days, those under way and the last that ended."""
        table = Table(title="clickstream_nightly", title_justify="left")
        table.add_column("task")
        shown = self._shown()
        for run in shown:
            mark = _MARKS.get(run.state, "")
            table.add_column(f"{run.day} {mark}", justify="right", min_width=12)
        for task in self.tasks:
            table.add_row(task, *(_cell(run.tasks.get(task)) for run in shown))
        done = sum(run.state in ("success", "failed") for run in self.days.values())
        if len(self.days) > len(shown):
            table.caption = f"{done} of {len(self.days)} days done"
        return table

    def _shown(self) -> list[RunProgress]:
        runs = list(self.days.values())
        if len(runs) <= _SHOWN_DAYS:
            return runs
        started = [i for i, run in enumerate(runs) if run.state != "waiting"]
        last = max(started, default=0)
        first = max(0, min(last - _SHOWN_DAYS + 2, len(runs) - _SHOWN_DAYS))
        return runs[first : first + _SHOWN_DAYS]


def _cell(progress: TaskProgress | None) -> str:
    if progress is None or progress.state not in _MARKS:
        return ""
    return f"{progress.elapsed:.1f} s {_MARKS[progress.state]}"


def _follow(path: Path, alive: Callable[[], bool]) -> Iterator[dict[str, Any] | None]:
    """Events as they are written, None when there is none just now; ends when the writers have ended."""
    with path.open() as file:
        rest = ""
        while True:
            running = alive()
            rest += file.read()
            *lines, rest = rest.split("\n")
            for line in lines:
                yield json.loads(line)
            if not running:
                return
            yield None
            time.sleep(_FOLLOW_SECONDS)


def run_days(
    home: AirflowHome,
    days: Sequence[str],
    *,
    dag_id: str,
    folder: Path,
    console: Console,
    workers: int = 1,
) -> Runs:
    """Run ``dag_id`` once for each day and return what came of it.

    ``folder`` takes the events and one Airflow log for each day. Workers take every n-th day. A worker that
    dies leaves its days unfinished, and ``Runs.error`` says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    events = folder / "events.jsonl"
    events.write_text("")
    runs = Runs(tasks=[], days={day: RunProgress(day) for day in days})
    dag_file = home.dags / f"{dag_id}.py"
    if not dag_file.is_file():
        raise ConfigurationError(f"There is no DAG file {dag_file}.")
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(min(workers, len(days))):
            with (folder / f"worker-{number}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [
                            *(sys.executable, "-m", "airflow_emr_etl.cli.demo.worker"),
                            *(str(dag_file), dag_id, str(events), str(folder), *days[number::workers]),
                        ],
                        env=home.environment(),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
                )
        _show(runs, _follow(events, lambda: any(p.poll() is None for p in processes)), console)
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    unfinished = [day for day, run in runs.days.items() if run.state in ("waiting", "running")]
    if unfinished and runs.error is None:
        codes = ", ".join(str(process.returncode) for process in processes)
        runs.error = (
            f"Airflow ended (exit code {codes}) before {', '.join(unfinished)}; its logs are in {folder}"
        )
    return runs


def _show(runs: Runs, events: Iterator[dict[str, Any] | None], console: Console) -> None:
    if console.is_terminal:
        with Live(console=console, get_renderable=runs.table, refresh_per_second=4):
            for event in events:
                if event:
                    runs.take(event)
        return
    for event in events:
        if not event:
            continue
        runs.take(event)
        if event["type"] == "task" and event["state"] != "running":
            console.print(
                f"{event['day']}  {event['task']:<24} {event['state']:<16} {event['seconds']:6.1f} s",
                highlight=False,
            )
        elif event["type"] == "run":
            console.print(
                f"{event['day']}  {'run':<24} {event['state']:<16} {event['seconds']:6.1f} s", highlight=False
            )
