"""A triggerer in virtual time: triggers side by side in one event loop, over a fake EMR."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from fakes.emr import FakeCluster, FakeEmr
from simulation.world import Process, VirtualLoop, World

from airflow_emr_etl.models.cluster import ClusterSpec
from airflow_emr_etl.models.step import CommandStep
from airflow_emr_etl.triggers import poller as poller_module
from airflow_emr_etl.triggers.emr_step import EmrStepTrigger
from airflow_emr_etl.triggers.polling import PollingTrigger

Ends = list[tuple[float, Any]]


LINGERS_SECONDS = 6.0
"""A listener's last long poll may be under way."""


class Triggerer:
    """Runs triggers side by side, as a triggerer does, until all have an event or the time is over."""

    def __init__(self, emr: FakeEmr, world: World | None = None) -> None:
        self.emr = emr
        self.world = world or World(7)
        self.process = Process("triggerer")
        self.loop = VirtualLoop(self.world, lambda: self._fiber)
        self._fiber: Any = None
        self.tasks: list[asyncio.Task[Any]] = []
        self._starts: dict[int, float] = {}

    def start_later(self, trigger: PollingTrigger, seconds: float) -> None:
        """Let a trigger of the next run begin only then."""
        self._starts[id(trigger)] = seconds

    def at(self, seconds: float, what: Callable[[], object]) -> None:
        self.world.call_later(seconds, lambda: (what(), None)[1])

    def cancel(self, number: int) -> None:
        self.loop.call_soon_threadsafe(self.tasks[number].cancel)

    def run(
        self, triggers: Sequence[PollingTrigger], *, seconds: float = 4 * 3600, within: Any = None
    ) -> Ends:
        """``(when, payload)`` for each trigger in order; the exception where it raised one."""
        ends = self.start(triggers, within=within)
        self.world.run(lambda: bool(ends) and not self.process.fibers, seconds=seconds)
        assert ends, "some trigger waits for ever"
        assert not [key for key in poller_module._pollers if key[0] is self.loop]
        return ends

    def start(self, triggers: Sequence[PollingTrigger], *, within: Any = None) -> Ends:
        """The same, to be filled when the world runs."""
        ends: Ends = []

        async def one(trigger: PollingTrigger) -> tuple[float, Any]:
            try:
                await asyncio.sleep(self._starts.get(id(trigger), 0.0))
                if within is not None:
                    within(trigger)
                [event] = [event async for event in trigger.run()]
            except BaseException as error:
                return self.world.seconds, error
            return self.world.seconds, event.payload

        async def main() -> None:
            self.tasks = [asyncio.ensure_future(one(trigger)) for trigger in triggers]
            ends.extend(await asyncio.gather(*self.tasks))
            await asyncio.sleep(LINGERS_SECONDS)
            left = [str(task.get_coro()) for task in asyncio.all_tasks()]
            assert not [name for name in left if "Poller." in name], "the poller has gone with its last wait"

        self._fiber = self.world.spawn(self.process, lambda: self.loop.run_until_complete(main()))
        return ends


def clusters(emr: FakeEmr, number: int, steps: int) -> list[FakeCluster]:
    """Clusters that are up, each with so many running steps."""
    made = []
    for _ in range(number):
        cluster = emr.clusters[emr.run_job_flow(**ClusterSpec(name="x").to_api())["JobFlowId"]]
        cluster.state = "RUNNING"
        add_steps(emr, cluster, steps, "RUNNING")
        made.append(cluster)
    emr.calls.clear()
    emr.log.clear()
    return made


def add_steps(emr: FakeEmr, cluster: FakeCluster, number: int, state: str) -> list[str]:
    before = set(cluster.steps)
    for _ in range(number):
        emr.add_job_flow_steps(JobFlowId=cluster.id, Steps=[CommandStep(name="x", command=["true"]).to_api()])
        cluster.steps[next(reversed(cluster.steps))].state = state
    emr.calls.clear()
    return [step_id for step_id in cluster.steps if step_id not in before]


def waiting_for(*made: FakeCluster, **common: Any) -> list[EmrStepTrigger]:
    return [
        EmrStepTrigger(cluster_id=cluster.id, step_id=step_id, **common)
        for cluster in made
        for step_id in cluster.steps
    ]


def end(cluster: FakeCluster, step_id: str, state: str = "COMPLETED") -> Callable[[], None]:
    def happens() -> None:
        cluster.steps[step_id].state = state

    return happens


def later(triggerer: Triggerer, seconds: float) -> str:
    return (triggerer.world.now + timedelta(seconds=seconds)).isoformat()


def reads(emr: FakeEmr) -> int:
    return sum(emr.calls.values())
