"""One contender of ``benchmarks.waiting``, run as a script by its own Python: N triggers in one real triggerer.

``waiting_contender.py '{"whose": "ours", "steps": 100, "clusters": 1, "seconds": 300, "endpoint": "http://…"}'``
prints ``BEGUN`` when all triggers wait and the steps begin to run, and ``RESULT`` with JSON at the end. Imports nothing
of the repository but, for ``ours``, the package itself: the peer's environment has neither.

It is Airflow's own ``TriggerRunnerSupervisor`` and, in a process of its own, ``TriggerRunner``, with their sockets,
their event loop and a log file for each trigger. Only the database is not there: what the supervisor would read
from it (triggers and the connection) is given to it here, and the events that it would write are kept with the
moments at which they came.

Moments are seconds since 1970, of one machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import time
import urllib.request
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow.executors import workloads
from airflow.jobs.triggerer_job_runner import TriggerLoggingFactory, TriggerRunner, TriggerRunnerSupervisor
from airflow.models.trigger import Trigger
from airflow.sdk.api.datamodels._generated import ConnectionResponse

POLL_SECONDS = 30
TICK_SECONDS = 0.02
#: All wait when the runner hardly computes any more, at the latest after so many seconds.
CALM_SHARE, CALM_SECONDS, LONGEST_START_SECONDS = 0.3, 3.0, 900.0
LAGS = "lags.json"
WARM_UP = -1


class Runner(TriggerRunner):
    """Measures how late the event loop is."""

    async def arun(self) -> None:
        lags: list[float] = []
        ticking = asyncio.create_task(self.tick(lags))
        try:
            await super().arun()
        finally:
            ticking.cancel()
            Path(LAGS).write_text(json.dumps(lags))

    @staticmethod
    async def tick(lags: list[float]) -> None:
        while True:
            due = time.perf_counter() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            lags.append(time.perf_counter() - due)


class Connections:
    """What the API server answers: a connection that leaves everything to the environment."""

    @staticmethod
    def get(conn_id: str) -> ConnectionResponse:
        fields = dict.fromkeys(("host", "schema", "login", "password", "port", "extra"))
        return ConnectionResponse.model_validate({"conn_id": conn_id, "conn_type": "aws", **fields})


class Supervisor(TriggerRunnerSupervisor):
    """Airflow's, without a database."""

    def prepare(self) -> None:
        self.resumed: dict[int, float] = {}
        self.wrong: dict[int, str] = {}
        self.again: list[int] = []

    @classmethod
    def run_in_process(cls) -> None:
        Runner().run()

    def make_client(self) -> Any:
        return SimpleNamespace(connections=Connections())

    def create(self, triggers: list[workloads.RunTrigger]) -> None:
        for each in triggers:
            self.logger_cache[each.id] = TriggerLoggingFactory(log_path=f"trigger/{each.id}.log", ti=each.ti)
        self.creating_triggers.extend(triggers)

    def on_trigger_event(self, trigger_id: int, event: Any) -> None:
        if trigger_id in self.resumed or trigger_id in self.wrong:
            self.again.append(trigger_id)
        elif event.payload.get("status") in ("done", "success"):
            self.resumed[trigger_id] = time.time()
        else:
            self.wrong[trigger_id] = str(event.payload)[:300]

    def on_trigger_failure(self, trigger_id: int, exc: list[str] | None) -> None:
        self.wrong.setdefault(trigger_id, exc[-1].strip()[:300] if exc else "no event")

    def load_triggers(self) -> None:
        """``create`` is told of them."""

    def clean_unused(self) -> None:
        """Nothing is kept."""

    def heartbeat(self) -> None:
        """To nobody."""

    def metric_tags(self) -> dict[str, str]:
        return {"hostname": "localhost"}


def workload(whose: str, trigger_id: int, number: int, clusters: int) -> workloads.RunTrigger:
    cluster_id, step_id = f"j-{number % clusters}", f"s-{number}"
    if whose == "ours":
        classpath = "airflow_emr_etl.triggers.emr_step.EmrStepTrigger"
        fields: dict[str, Any] = {
            "cluster_id": cluster_id,
            "step_id": step_id,
            "poll_interval": POLL_SECONDS,
            "region_name": "us-east-1",
        }
    else:
        classpath = "airflow.providers.amazon.aws.triggers.emr.EmrAddStepsTrigger"
        fields = {
            "job_flow_id": cluster_id,
            "step_ids": [step_id],
            "waiter_delay": POLL_SECONDS,
            "waiter_max_attempts": 10_000,
            "aws_conn_id": "aws_default",
            "region_name": "us-east-1",
        }
    task = {"id": uuid.uuid4(), "task_id": "wait", "dag_id": "waiting", "run_id": "manual", "try_number": 1}
    more = {"map_index": trigger_id, "pool_slots": 1, "priority_weight": 1, "dag_version_id": uuid.uuid4()}
    return workloads.RunTrigger.model_validate(
        {
            "id": trigger_id,
            "classpath": classpath,
            "encrypted_kwargs": Trigger.encrypt_kwargs(fields),
            "ti": {**task, **more},
        }
    )


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def post(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, data=b"", method="POST")) as answer:
        answer.read()


def run_until_calm(supervisor: Supervisor) -> None:
    """Until all triggers wait: the runner has them, and hardly computes any more."""
    latest = time.monotonic() + LONGEST_START_SECONDS
    since, cpu = time.monotonic(), cpu_seconds(supervisor.pid)
    while time.monotonic() < latest:
        supervisor.run_once()
        now = time.monotonic()
        if now - since >= CALM_SECONDS:
            spent = cpu_seconds(supervisor.pid) - cpu
            if not supervisor.creating_triggers and spent < CALM_SHARE * (now - since):
                return
            since, cpu = now, cpu + spent


def measure(whose: str, steps: int, clusters: int, seconds: float, endpoint: str) -> dict[str, Any]:
    """``seconds`` from when all wait."""
    supervisor = Supervisor.start(job=None, capacity=steps + 1)
    supervisor.prepare()
    # One trigger ends at once: what the first one loads is not what each one holds.
    supervisor.create([workload(whose, steps, WARM_UP, clusters)])
    while steps not in supervisor.resumed and steps not in supervisor.wrong and supervisor.is_alive():
        supervisor.run_once()
    run_until_calm(supervisor)
    if not supervisor.resumed.pop(steps, None):
        raise RuntimeError(f"The trigger to warm up with has failed: {supervisor.wrong}")
    post(f"{endpoint}/start")
    before, cpu, started = resident(supervisor.pid), cpu_seconds(supervisor.pid), time.monotonic()
    supervisor.create([workload(whose, number, number, clusters) for number in range(steps)])
    run_until_calm(supervisor)
    held, starting = resident(supervisor.pid), time.monotonic() - started
    cpu_start = cpu_seconds(supervisor.pid) - cpu
    post(f"{endpoint}/begin")
    print("BEGUN", flush=True)
    until = time.monotonic() + seconds
    while len(supervisor.resumed) + len(supervisor.wrong) < steps and time.monotonic() < until:
        if not supervisor.is_alive():
            raise RuntimeError("The runner has died.")
        supervisor.run_once()
    # A wait that ends twice does so at once.
    for _ in range(3):
        supervisor.run_once()
    ended = time.time()
    spent = cpu_seconds(supervisor.pid) - cpu
    supervisor.kill(signal.SIGTERM, escalation_delay=30.0, force=True)
    lags = sorted(json.loads(Path(LAGS).read_text()))
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "resumed": {f"s-{number}": moment for number, moment in supervisor.resumed.items()},
        "failed": {f"s-{number}": why for number, why in supervisor.wrong.items()},
        "twice": len(supervisor.again),
        "ended": ended,
        "start_seconds": starting,
        "bytes_per_trigger": (held - before) / steps,
        "peak_memory_mib": children.ru_maxrss / 1024,
        "cpu_seconds": spent,
        "cpu_seconds_to_start": cpu_start,
        "loop_lag_p99_ms": 1000 * lags[int(len(lags) * 0.99)],
        "loop_lag_max_ms": 1000 * lags[-1],
    }


def main() -> None:
    os.chdir(os.environ["AIRFLOW_HOME"])
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (most, most)
    )  # each trigger has its log file, the peer's a socket
    found = measure(**json.loads(sys.argv[1]))
    print("RESULT " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
