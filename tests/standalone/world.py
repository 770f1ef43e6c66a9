"""One Airflow and one local AWS for all tests here, and the runs that the tests start on them."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from standalone.airflow_api import AirflowApi
from standalone.airflow_database import AirflowDatabase
from standalone.airflow_parts import PATIENCE_SECONDS, AirflowParts, until
from standalone.emr_seen import EmrSeen, most_clusters_at_once, most_steps_at_once

from airflow_emr_etl.cli.airflow_home import AirflowHome
from airflow_emr_etl.local.api import JsonApi
from airflow_emr_etl.local.emr import EmrApi
from airflow_emr_etl.local.emr.machine import Pace
from airflow_emr_etl.local.stack import LocalAws
from airflow_emr_etl.operators.emr_cluster import CLUSTER_ID_KEY
from airflow_emr_etl.operators.emr_step import STEP_KEY

DAGS = Path(__file__).parent / "dags"
SAMPLES = Path(__file__).parents[2] / "dags"
#: The sample DAG; paused but in its own test, for it looks at everybody's clusters.
REAPER = "emr_reaper"
_AFTERMATH_SECONDS = 60.0
#: Of nobody's run: a cluster with a step that must outlive everything that is done to others.
BYSTANDER = "bystander"


@dataclass
class World:
    aws: LocalAws
    airflow: AirflowParts
    database: AirflowDatabase
    emr: EmrSeen
    folder: Path

    @property
    def api(self) -> AirflowApi:
        return self.airflow.api

    def run(self, dag_id: str, run_id: str, conf: dict[str, Any] | None = None) -> Run:
        """Start a run. Its cluster has the run's id for its name."""
        self.api.trigger(dag_id, run_id, conf)
        return Run(self, dag_id, run_id)

    @property
    def bystander_runs(self) -> bool:
        return self.emr.states(BYSTANDER, BYSTANDER) == ["RUNNING"]


@dataclass
class Run:
    """One run of a DAG in ``dags/held_steps.py``, as its test sees it."""

    world: World
    dag_id: str
    run_id: str

    @property
    def folder(self) -> Path:
        return self.world.folder / self.run_id

    # What a person does

    def mark(self, task_id: str, state: str) -> None:
        self.world.api.set_task_state(self.dag_id, self.run_id, task_id, state)

    def clear(self, task_id: str, *, downstream: bool = True) -> list[str]:
        return self.world.api.clear(self.dag_id, self.run_id, task_id, downstream=downstream)

    def release(self, *steps: str) -> None:
        """Let steps end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for step in steps:
            (self.folder / f"{step}.go").touch()

    # What is seen

    @property
    def state(self) -> str:
        return self.world.api.run_state(self.dag_id, self.run_id)

    def task(self, task_id: str) -> dict[str, Any]:
        return self.world.api.tasks(self.dag_id, self.run_id)[task_id]

    @property
    def task_states(self) -> dict[str, str | None]:
        return {name: task["state"] for name, task in self.world.api.tasks(self.dag_id, self.run_id).items()}

    def logs(self, task_id: str) -> str:
        """What the tries of a task have logged so far."""
        folder = self.world.airflow.log_folder(self.dag_id, self.run_id) / f"task_id={task_id}"
        return "".join(path.read_text(errors="replace") for path in sorted(folder.glob("attempt=*.log")))

    def is_waiting(self, task_id: str, state: str, attempt: int, key: str = STEP_KEY) -> bool:
        """Whether the task has come to its wait: seconds after its step began, or after it was deferred."""
        if state != "deferred":
            return self.world.api.has_xcom(self.dag_id, self.run_id, task_id, key)
        logs = self.world.airflow.log_folder(self.dag_id, self.run_id) / f"task_id={task_id}"
        return any("starting" in path.read_text() for path in logs.glob(f"attempt={attempt}.log.trigger.*"))

    def steps(self, name: str) -> list[str]:
        """The states of the steps of that name, the earliest first."""
        return self.world.emr.states(self.run_id, name)

    def began(self, step: str) -> list[str]:
        """The ids of the steps that began to work, once for each time."""
        return self._lines(f"{step}.began")

    def effects(self, step: str) -> list[str]:
        """The ids of the steps that did their work to its end, once for each time."""
        return self._lines(f"{step}.done")

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().split() if path.exists() else []

    @property
    def clusters(self) -> int:
        """How many were ever made for this run."""
        return len(self.world.emr.clusters(self.run_id))

    @property
    def live_clusters(self) -> int:
        return len(self.world.emr.live(self.run_id))

    # Waiting

    def until(self, probe: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        over_since: list[float] = []

        def probe_or_give_up() -> object:
            found = probe()
            if found or self.state not in ("success", "failed"):
                over_since.clear()
            else:
                over_since.append(time.monotonic())
                # Nothing more will happen; a moment for what ends behind the run.
                assert over_since[-1] - over_since[0] < _AFTERMATH_SECONDS, explain()
            return found

        def explain() -> str:
            return f"{self.run_id}: not seen: {what}\n{self.told()}"

        until(probe_or_give_up, explain, seconds)

    def until_held(self, *steps: str, task_state: str) -> None:
        """Until the steps run and their tasks wait for them in that state."""

        def held() -> bool:
            tasks = self.world.api.tasks(self.dag_id, self.run_id)
            return all(
                self.began(step)
                and tasks[step]["state"] == task_state
                and self.is_waiting(step, task_state, tasks[step]["try_number"])
                for step in steps
            )

        self.until(held, f"{steps} running, their tasks {task_state}")

    def until_cluster_held(self, task_state: str) -> None:
        """Until the cluster's bootstrap action runs and the task that brings it up waits for it in that state."""

        def held() -> bool:
            task = self.task("cluster_up")
            waits = self.is_waiting("cluster_up", task_state, task["try_number"], CLUSTER_ID_KEY)
            return bool(self.began("bootstrap")) and task["state"] == task_state and waits

        self.until(held, f"a cluster coming up, its task {task_state}")

    def until_over(self, state: str) -> None:
        """Until the run is over, in that state, and everything it made is gone."""
        self.until(lambda: self.state in ("success", "failed"), "the run's end")
        assert self.state == state, f"{self.run_id} is {self.state}, not {state}\n{self.told()}"
        self.until(lambda: self.live_clusters == 0, "no live cluster")
        self.nothing_is_left()

    def nothing_is_left(self) -> None:
        """That nothing of this run goes on, that it never had two of anything, and that others were left alone."""
        self.until(lambda: not self.world.emr.active(self.run_id), "no step going on")
        self.until(lambda: not self.programs(), "no program of a step on the machine")
        assert most_clusters_at_once(self.world.emr.clusters(self.run_id)) <= 1, self.told()
        steps = self.world.emr.steps(self.run_id)
        for name in {step.name for step in steps}:
            assert most_steps_at_once([step for step in steps if step.name == name]) <= 1, self.told()
            assert len(self.effects(name)) <= 1, self.told()
        assert self.world.bystander_runs, f"someone touched the bystander\n{self.told()}"

    def programs(self) -> list[int]:
        """The processes of this run's steps."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and str(self.folder) in process.cmdline():
                    found.append(process.pid)
        return found

    def told(self) -> str:
        """All that helps to understand a failure."""
        api = self.world.api
        tasks = {
            name: (task["state"], task["try_number"], task["pid"])
            for name, task in api.tasks(self.dag_id, self.run_id).items()
        }
        lines = [f"{self.dag_id} {self.run_id} is {self.state}", f"tasks (state, try, pid): {tasks}"]
        lines += [str(cluster) for cluster in self.world.emr.clusters(self.run_id)]
        lines += [str(step) for step in self.world.emr.steps(self.run_id)]
        lines.append(f"files: {sorted(path.name for path in self.folder.glob('*'))}")
        return "\n".join([*lines, self.world.airflow.task_logs(self.dag_id, self.run_id)])


def _unhurried(local: LocalAws) -> Sequence[JsonApi]:
    """EMR alone, whose clusters take some seconds to come up.

    Airflow 3.3 fails a task that resumes before the scheduler has heard that its worker had deferred it.
    """
    pace = Pace(starting=timedelta(seconds=5))
    return [EmrApi(state=local.state / "emr", objects=local.objects, environment=local.env, pace=pace)]


@contextlib.contextmanager
def a_world(folder: Path) -> Iterator[World]:
    """Local AWS in this process and Airflow in others; all of it ends with the block."""
    held = folder / "held"
    held.mkdir(parents=True)
    dags = shutil.copytree(DAGS, folder / "dags")
    for sample in ("emr_reaper.py", "emr_step_events.py"):
        shutil.copy(SAMPLES / sample, dags)
    with contextlib.ExitStack() as stack:
        aws = stack.enter_context(LocalAws(folder / "state", services=_unhurried))
        database = stack.enter_context(AirflowDatabase(folder / "database"))
        home = AirflowHome(folder / "state", dags, aws.env() | database.environment())
        airflow = AirflowParts(home, EMR_ETL_TEST_FOLDER=str(held))
        stack.callback(airflow.stop)
        world = World(aws, airflow, database, EmrSeen(aws.env()), held)
        airflow.start()
        until(
            lambda: world.api.dags() >= {"late_trigger", "emr_step_events", REAPER},
            lambda: f"no DAGs\n{world.api.import_errors()}",
        )
        for dag_id in world.api.dags() - {REAPER}:
            world.api.set_paused(dag_id, False)
        cluster_id = world.emr.client.run_job_flow(
            Name=BYSTANDER,
            ReleaseLabel="emr-7.9.0",
            Instances={
                "MasterInstanceType": "m5.xlarge",
                "InstanceCount": 1,
                "KeepJobFlowAliveWhenNoSteps": True,
            },
            JobFlowRole="EMR_EC2_DefaultRole",
            ServiceRole="EMR_DefaultRole",
            Steps=[
                {
                    "Name": BYSTANDER,
                    "ActionOnFailure": "CONTINUE",
                    "HadoopJarStep": {"Jar": "command-runner.jar", "Args": ["sleep", "3600"]},
                }
            ],
        )["JobFlowId"]
        until(lambda: world.bystander_runs, "the bystander does not run")
        yield world
        assert world.bystander_runs
        world.emr.client.terminate_job_flows(JobFlowIds=[cluster_id])
        until(lambda: not world.emr.active(BYSTANDER), "the bystander does not end")
    left = airflow.processes()
    assert left == [], left
