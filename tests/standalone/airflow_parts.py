"""A real Airflow in separate processes that can be stopped, killed and stalled one by one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from standalone.airflow_api import AirflowApi

import airflow_emr_etl
from airflow_emr_etl.cli.airflow_home import AirflowHome

#: Patience for a machine that does other things too; nothing waits as long as this where all is well.
PATIENCE_SECONDS = 240.0
_STOP_SECONDS = 20.0

# How fast Airflow notices what died. The heartbeats still leave room for a machine that is busy.
_QUICK = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "25",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    "AIRFLOW__SCHEDULER__PARSING_CLEANUP_INTERVAL": "86400",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "12",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "86400",
    "AIRFLOW__DAG_PROCESSOR__STALE_DAG_THRESHOLD": "86400",
}


def until(
    probe: Callable[[], object], what: Callable[[], str] | str, seconds: float = PATIENCE_SECONDS
) -> None:
    """Ask again, calmly, until ``probe`` says yes; AssertionError with ``what`` when the time is over."""
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            raise AssertionError(what if isinstance(what, str) else what())
        time.sleep(0.7)


class AirflowParts:
    """``api-server``, ``scheduler`` with its local executor, ``dag-processor`` and any number of triggerers.

    Everything listens on 127.0.0.1 alone. Each part leads a session, by which those of its processes are found
    and ended, too, that have lost their parents.
    """

    def __init__(self, home: AirflowHome, **variables: str) -> None:
        self.home = home
        ports = _free_ports(2)
        self.api = AirflowApi(f"http://127.0.0.1:{ports[0]}")
        self.environment = home.environment(
            **_QUICK,
            **variables,
            PYTHONPATH=str(Path(airflow_emr_etl.__file__).parents[1]),
            AIRFLOW__API__HOST="127.0.0.1",
            AIRFLOW__API__PORT=str(ports[0]),
            AIRFLOW__API__BASE_URL=self.api.url,
            AIRFLOW__API__WORKERS="1",
            AIRFLOW__API_AUTH__JWT_SECRET="of-this-machine-alone-and-for-minutes-only",
            AIRFLOW__CORE__EXECUTION_API_SERVER_URL=f"{self.api.url}/execution/",
            AIRFLOW__CORE__EXECUTOR="LocalExecutor",
            AIRFLOW__CORE__PARALLELISM="16",
            AIRFLOW__CORE__MAX_ACTIVE_RUNS_PER_DAG="32",
            AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG="64",
            AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION="True",
            AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="True",
            AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT=str(ports[1]),
        )
        self._parts: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: dict[int, float] = {}

    # Start and stop

    def start(self) -> None:
        """Make the database, start all parts and return when they are healthy and have read the DAGs."""
        self.home.prepare()
        self.start_part("api-server")
        self.start_part("dag-processor")
        self.start_part("scheduler")
        self.start_part("triggerer")
        until(self.api.healthy, lambda: f"Airflow does not become healthy.\n{self.told()}")

    def start_part(self, command: str, name: str | None = None) -> None:
        """``airflow <command>`` in a session of its own; ``name`` tells a second one from the first."""
        name = name or command
        # Each triggerer serves its logs; a stalled one does not give its port away.
        port = str(_free_ports(1)[0])
        with (self.home.path / f"{name}.log").open("ab") as log:
            self._parts[name] = part = subprocess.Popen(
                [sys.executable, "-m", "airflow", command],
                env={**self.environment, "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": port},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._sessions[part.pid] = psutil.Process(part.pid).create_time()

    def stop_part(self, name: str) -> None:
        """End a part as an operator's ``systemctl stop`` does, and wait."""
        process = self._parts.pop(name)
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_SECONDS)

    def signal_part(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a part and to every process that it started."""
        leader = psutil.Process(self._parts[name].pid)
        for process in [leader, *leader.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def stop(self) -> None:
        """End every process of this Airflow, whatever state it is in."""
        for _ in range(5):
            found = self.processes()
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(found, timeout=_STOP_SECONDS)
            if not found:
                break
        for part in self._parts.values():
            part.wait(_STOP_SECONDS)
        self._parts.clear()

    def processes(self) -> list[psutil.Process]:
        """All processes of this Airflow, orphans included."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                # A session's number is not given away while one of its processes runs; the start tells it
                # from a later one all the same.
                began = self._sessions.get(os.getsid(process.pid))
                running = process.status() != psutil.STATUS_ZOMBIE
                if began is not None and running and process.create_time() >= began:
                    found.append(process)
        return found

    # What only the machine knows

    def supervisor_of(self, task_pid: int) -> psutil.Process:
        """The process that watches over a task's process."""
        parent = psutil.Process(task_pid).parent()
        assert parent is not None
        return parent

    # Logs

    def log_folder(self, dag_id: str, run_id: str) -> Path:
        return self.home.path / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"

    def task_logs(self, dag_id: str, run_id: str) -> str:
        """What the tasks of a run have logged."""
        folder = self.log_folder(dag_id, run_id)
        return "\n".join(f"--- {path.relative_to(folder)}\n{_told(path)}" for path in _files(folder))

    def told(self) -> str:
        """The ends of the parts' own logs."""
        return "\n".join(
            f"--- {name}\n{_tail(path)}"
            for name in self._parts
            if (path := self.home.path / f"{name}.log").exists()
        )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _told(path: Path) -> str:
    """The lines of a task's log as a person reads them, those of Airflow's own beginnings and ends left out."""
    lines = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            lines.append(line)
            continue
        if (
            entry.get("logger", "").startswith(("airflow.dag_processing", "botocore"))
            or "::" in entry["event"]
        ):
            continue
        errors = [f"{each['exc_type']}: {each['exc_value']}" for each in entry.get("error_detail") or []]
        lines.append(" ".join([entry["timestamp"][11:23], entry.get("level", ""), entry["event"], *errors]))
    return "\n".join(lines)[-6000:]


def _tail(path: Path, length: int = 6000) -> str:
    return path.read_text(errors="replace")[-length:]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(contextlib.closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def is_running(pid: int) -> bool:
    """Whether a process with this number runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(pid: int) -> None:
    """SIGKILL, to one process alone."""
    os.kill(pid, signal.SIGKILL)
