"""Local EMR on the virtual clock: its steps take virtual minutes, and what they did is written down."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow_emr_etl.local.api import ApiError
from airflow_emr_etl.local.emr.machine import Pace
from airflow_emr_etl.local.emr.records import Cluster, Job, Outcome, Params, StopSignal
from airflow_emr_etl.local.emr.runner import StepRunner
from airflow_emr_etl.local.emr.service import EmrApi
from airflow_emr_etl.models.states import CLUSTER_ENDING

from .world import Handle, World

_ID_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


@dataclass(frozen=True)
class Effect:
    """A step that ran to its end: what it does to the world, it has done."""

    task: str
    cluster_id: str
    step_id: str
    name: str
    args: tuple[str, ...]
    minute: float


def task_of(args: tuple[str, ...]) -> str:
    """Steps say whose they are by their arguments, as the operators' own marks are not to be trusted here."""
    return args[args.index("--task") + 1]


class VirtualRunner(StepRunner):
    """Each job ends after ``seconds(job)`` of virtual time."""

    def __init__(self, world: World, seconds: Callable[[Job], float]) -> None:
        self._world = world
        self._seconds = seconds
        self._running: dict[str, tuple[Job, Handle, Callable[[Outcome], None]]] = {}
        self.effects: list[Effect] = []

    def start(self, job: Job, ended: Callable[[Outcome], None]) -> None:
        handle = self._world.call_later(self._seconds(job), lambda: self._done(job.key))
        self._running[job.key] = (job, handle, ended)
        if job.step_id:
            self._world.tell("emr", f"{job.cluster_id} {job.step_id} of {task_of(job.args)} runs")

    def end(self, key: str, how: StopSignal) -> None:
        found = self._running.get(key)
        if found is None:
            return
        job, handle, ended = found
        handle.cancel()
        polite = how is StopSignal.SEND_INTERRUPT
        stopped = self._world.call_later(5.0 if polite else 0.5, lambda: self._stopped(key))
        self._running[key] = (job, stopped, ended)

    def close(self) -> None:
        self._running.clear()

    def _done(self, key: str) -> None:
        job, _handle, ended = self._running.pop(key)
        if job.step_id:
            task = task_of(job.args)
            self.effects.append(
                Effect(task, job.cluster_id, job.step_id, "", job.args, self._world.seconds / 60)
            )
            self._world.tell("emr", f"{job.cluster_id} {job.step_id} of {task} COMPLETED")
        ended(Outcome(True, 0))

    def _stopped(self, key: str) -> None:
        job, _handle, ended = self._running.pop(key)
        if job.step_id:
            self._world.tell("emr", f"{job.cluster_id} {job.step_id} of {task_of(job.args)} was stopped")
        ended(Outcome(False, None, message="stopped"))


class VirtualEmr(EmrApi):
    """Local EMR without threads, files and processes."""

    def __init__(self, world: World, seed: int, *, pace: Pace, step_seconds: Callable[[Job], float]) -> None:
        self.runner = VirtualRunner(world, step_seconds)
        super().__init__(None, clock=lambda: world.now, runner=self.runner, pace=pace)
        self._world = world
        self._ids = random.Random(seed)
        self._machine._new_id = self._new_id  # or every run would be another one
        self._due: Handle | None = None
        self.broken: Exception | None = None

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        try:
            return super().call(operation, params)
        except ApiError:
            raise
        except Exception as error:
            self.broken = error  # a fault of this backend, which must not pass for one of EMR's
            raise
        finally:
            self.arrange()

    def run_job_flow(self, params: Params) -> Params:
        made = super().run_job_flow(params)
        self._world.tell("emr", f"{made['JobFlowId']} begins")
        return made

    def arrange(self) -> None:
        """Have the next change of state happen at its time."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        due = self.next_due()
        if due is not None:
            self._due = self._world.call_later((due - self._world.now).total_seconds() + 0.001, self._advance)

    def _advance(self) -> None:
        self._due = None
        before = {each.id for each in self.live()}
        self.tick()
        for gone in sorted(before - {each.id for each in self.live()}):
            self._world.tell("emr", f"{gone} ends: {self._machine.clusters[gone].reason}")
        self.arrange()

    def clusters(self) -> list[Cluster]:
        return list(self._machine.clusters.values())

    def live(self) -> list[Cluster]:
        """Clusters that cost, and that nobody has ended yet."""
        return [each for each in self.clusters() if each.state not in CLUSTER_ENDING]

    def lose(self, cluster_id: str) -> None:
        """EC2 takes the Spot instances of a cluster, in the middle of whatever runs on them."""
        self.faults.spot_loss(cluster_id)
        self.arrange()

    def _new_id(self, prefix: str) -> str:
        return prefix + "".join(self._ids.choices(_ID_DIGITS, k=13))


def pace_of(minutes: float) -> Pace:
    """A cluster that comes up in so many minutes, and goes in less, as those of AWS do."""
    return Pace(
        starting=timedelta(minutes=0.8 * minutes),
        bootstrapping=timedelta(minutes=0.2 * minutes),
        terminating=timedelta(seconds=45),
        spot_minute=timedelta(minutes=1),
    )
