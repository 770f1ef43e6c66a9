"""Steps that wait for their turn on a cluster: mapped tasks of hundreds, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError
from fakes.emr import MAX_ACTIVE_STEPS, FakeCluster, FakeEmr, denial
from fakes.event_queue import FakeEventQueue
from fakes.triggerer import LINGERS_SECONDS, Triggerer, add_steps, clusters, end, later, reads

from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.models.step import CommandStep
from airflow_emr_etl.triggers.emr_room import EmrRoomTrigger
from airflow_emr_etl.triggers.emr_step import EmrStepTrigger

WORKER_SECONDS = 3.0
STEP_SECONDS = 40.0


class Nightly:
    """A mapped task on clusters that run so many steps at a time, and its workers."""

    def __init__(self, emr: FakeEmr, triggerer: Triggerer, made: list[FakeCluster], concurrency: int) -> None:
        self.emr, self.world, self.made, self.concurrency = emr, triggerer.world, made, concurrency
        self.queue: FakeEventQueue | None = None
        self.refused = self.waiting = 0
        self.starts: Counter[int] = Counter()
        self.seats: Counter[str] = Counter()
        self.most_active = 0
        self.begun: dict[str, float] = {}
        #: Seconds that a place for a running step was empty although tasks waited for their turn.
        self.idle_seconds = 0.0
        self.world.call_later(1.0, self._second_passes)

    def _second_passes(self) -> None:
        for cluster in self.made:
            active = [step for step in cluster.steps.values() if step.state in ("PENDING", "RUNNING")]
            self.most_active = max(self.most_active, len(active))
            for step in active:
                if step.state == "RUNNING" and self.world.seconds >= self.begun[step.id] + STEP_SECONDS:
                    step.state, step.ended = "COMPLETED", self.world.now
                    if self.queue is not None:
                        self.queue.step(cluster.id, step.id, "COMPLETED")
            running = sum(step.state == "RUNNING" for step in active)
            for step in [step for step in active if step.state == "PENDING"][: self.concurrency - running]:
                step.state = "RUNNING"
                self.begun[step.id] = self.world.seconds
                running += 1
            if self.waiting and self.world.seconds > 60:
                self.idle_seconds += self.concurrency - running
        self.world.call_later(1.0, self._second_passes)

    async def task(self, number: int, cluster: FakeCluster, most: int) -> str:
        self.starts[number] += 1
        while True:
            self.waiting += 1
            trigger = EmrRoomTrigger(cluster_ids=[cluster.id], most_active=most)
            [event] = [event async for event in trigger.run()]
            self.waiting -= 1
            assert event.payload["status"] == "done"
            self.starts[number] += 1
            await asyncio.sleep(WORKER_SECONDS)
            try:
                answer = self.emr.add_job_flow_steps(
                    JobFlowId=cluster.id, Steps=[CommandStep(name="x", command=["a"]).to_api()]
                )
                break
            except ClientError:
                self.refused += 1
        return await self.end_of(number, cluster, answer["StepIds"][0])

    async def pooled_task(self, number: int, most: int) -> str:
        """The same in a pool, which counts seats, and gives the one of the cluster with the fewest."""
        self.starts[number] += 1
        await asyncio.sleep(WORKER_SECONDS)
        while True:
            cluster = min(self.made, key=self.load)
            if self.load(cluster) < most:
                break
            self.refused += 1
            self.waiting += 1
            trigger = EmrRoomTrigger(
                cluster_ids=[cluster.id for cluster in self.made], most_active=most, refused=True
            )
            [event] = [event async for event in trigger.run()]
            self.waiting -= 1
            assert event.payload["status"] == "done"
            self.starts[number] += 1
            await asyncio.sleep(WORKER_SECONDS)
        self.seats[cluster.id] += 1
        await asyncio.sleep(WORKER_SECONDS)
        self.seats[cluster.id] -= 1
        answer = self.emr.add_job_flow_steps(
            JobFlowId=cluster.id, Steps=[CommandStep(name="x", command=["a"]).to_api()]
        )
        return await self.end_of(number, cluster, answer["StepIds"][0])

    def load(self, cluster: FakeCluster) -> int:
        active = sum(step.state in ("PENDING", "RUNNING") for step in cluster.steps.values())
        return active + self.seats[cluster.id]

    async def end_of(self, number: int, cluster: FakeCluster, step_id: str) -> str:
        [event] = [event async for event in EmrStepTrigger(cluster_id=cluster.id, step_id=step_id).run()]
        self.starts[number] += 1
        return str(event.payload["step"]["Status"]["State"])

    def run(self, triggerer: Triggerer, tasks: int, most: int, *, pooled: bool = False) -> list[str]:
        ends: list[str] = []

        async def main() -> None:
            each = [
                self.pooled_task(n, most) if pooled else self.task(n, self.made[n % len(self.made)], most)
                for n in range(tasks)
            ]
            ends.extend(await asyncio.gather(*each))
            await asyncio.sleep(LINGERS_SECONDS)

        triggerer._fiber = self.world.spawn(
            triggerer.process, lambda: triggerer.loop.run_until_complete(main())
        )
        self.world.run(lambda: bool(ends) and not triggerer.process.fibers, seconds=4 * 3600)
        return ends


@pytest.mark.parametrize("events", [False, True], ids=["poll", "events"])
@pytest.mark.parametrize(("concurrency", "most"), [(4, 12), (10, 30), (10, MAX_ACTIVE_STEPS)])
def test_a_mapped_task_keeps_its_clusters_busy_and_within_their_limits(
    emr: FakeEmr,
    triggerer: Triggerer,
    monkeypatch: pytest.MonkeyPatch,
    concurrency: int,
    most: int,
    events: bool,
) -> None:
    tasks = 600
    made = clusters(emr, 2, 0)
    nightly = Nightly(emr, triggerer, made, concurrency)
    if events:
        nightly.queue = FakeEventQueue(triggerer.world)
        monkeypatch.setattr(EmrClients, "events", nightly.queue)
    assert nightly.run(triggerer, tasks, most) == ["COMPLETED"] * tasks
    assert nightly.most_active <= most
    assert nightly.refused == 0
    assert set(nightly.starts.values()) == {3}
    busy = tasks * STEP_SECONDS
    assert nightly.idle_seconds < 0.02 * busy, nightly.idle_seconds
    calls = reads(emr) - emr.calls["AddJobFlowSteps"]
    assert calls / (triggerer.world.seconds / 60) < 2 * 20


@pytest.mark.parametrize("events", [False, True], ids=["poll", "events"])
def test_a_mapped_task_in_a_pool_keeps_its_clusters_busy(
    emr: FakeEmr, triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch, events: bool
) -> None:
    tasks, most = 600, 12
    nightly = Nightly(emr, triggerer, clusters(emr, 2, 0), 4)
    if events:
        nightly.queue = FakeEventQueue(triggerer.world)
        monkeypatch.setattr(EmrClients, "events", nightly.queue)
    assert nightly.run(triggerer, tasks, most, pooled=True) == ["COMPLETED"] * tasks
    assert nightly.most_active <= most
    # Some are let in for a place that a task with a seat, and no step yet, has already.
    assert sum(nightly.starts.values()) <= 3.4 * tasks
    assert nightly.idle_seconds < 0.02 * tasks * STEP_SECONDS, nightly.idle_seconds
    assert reads(emr) - emr.calls["AddJobFlowSteps"] < 2 * 20 * triggerer.world.seconds / 60


def test_those_that_came_first_are_let_in_first(emr: FakeEmr, triggerer: Triggerer) -> None:
    [cluster] = clusters(emr, 1, MAX_ACTIVE_STEPS)
    triggers = [EmrRoomTrigger(cluster_ids=[cluster.id]) for _ in range(10)]
    for number, step_id in enumerate(list(cluster.steps)[:10]):
        triggerer.at(100 + 100 * number, end(cluster, step_id))
        triggerer.at(150 + 100 * number, lambda: add_steps(emr, cluster, 1, "RUNNING"))  # by who was let in
    found = triggerer.run(triggers)
    times = [when for when, _ in found]
    assert times == sorted(times)
    assert all(100 + 100 * number <= when < 200 + 100 * number for number, when in enumerate(times))


def test_late_events_of_steps_that_were_not_counted_let_nobody_in(
    emr: FakeEmr, triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = FakeEventQueue(triggerer.world)
    monkeypatch.setattr(EmrClients, "events", queue)
    [cluster] = clusters(emr, 1, 8)
    first = next(iter(cluster.steps))
    for number, step_id in enumerate(add_steps(emr, cluster, 3, "COMPLETED")):
        triggerer.at(100 + number, partial(queue.step, cluster.id, step_id, "COMPLETED"))
    triggerer.at(900, end(cluster, first))
    [(when, payload)] = triggerer.run([EmrRoomTrigger(cluster_ids=[cluster.id], most_active=8)])
    assert payload["status"] == "done"
    assert when >= 900


@pytest.mark.parametrize("events", [False, True], ids=["poll", "events"])
def test_waves_of_tasks_are_let_in_as_one(
    emr: FakeEmr, triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch, events: bool
) -> None:
    """As many come at a time as there are workers, and all of a wave are let in before the next one comes."""
    if events:
        monkeypatch.setattr(EmrClients, "events", FakeEventQueue(triggerer.world))
    [cluster] = clusters(emr, 1, 0)
    rooms = [
        EmrRoomTrigger(cluster_ids=[cluster.id], most_active=3, deadline=later(triggerer, 60))
        for _ in range(9)
    ]
    for number, room in enumerate(rooms):
        triggerer.start_later(room, number // 3 * 1.5)
    found = triggerer.run(rooms)
    assert [payload["status"] for _, payload in found] == ["done"] * 3 + ["timeout"] * 6


def test_room_on_any_of_several_clusters_will_do(emr: FakeEmr, triggerer: Triggerer) -> None:
    made = clusters(emr, 3, 8)
    triggerer.at(300, end(made[2], next(iter(made[2].steps))))
    trigger = EmrRoomTrigger(cluster_ids=[cluster.id for cluster in made], most_active=8)
    [(when, payload)] = triggerer.run([trigger])
    assert 300 <= when < 340
    assert payload["status"] == "done"


@pytest.mark.parametrize("state", ["TERMINATED", "TERMINATED_WITH_ERRORS"])
def test_a_cluster_that_has_ended_lets_all_find_out(emr: FakeEmr, triggerer: Triggerer, state: str) -> None:
    [cluster] = clusters(emr, 1, 8)

    def ended() -> None:
        cluster.state = state
        for step in cluster.steps.values():
            step.state = "RUNNING"  # EMR has not got round to them

    triggerer.at(100, ended)
    triggers = [EmrRoomTrigger(cluster_ids=[cluster.id], most_active=8) for _ in range(5)]
    found = triggerer.run(triggers)
    assert all(payload["status"] == "done" and when < 600 for when, payload in found)


def test_a_cluster_that_is_not_there_lets_all_find_out(emr: FakeEmr, triggerer: Triggerer) -> None:
    [(when, payload)] = triggerer.run([EmrRoomTrigger(cluster_ids=["j-NOBODYS"])])
    assert payload["status"] == "done"
    assert when < 60


def test_who_may_not_list_steps_is_let_in_one_by_one(emr: FakeEmr, triggerer: Triggerer) -> None:
    [cluster] = clusters(emr, 1, 8)
    emr.errors["ListSteps"] = [denial("ListSteps")] * 1000
    found = triggerer.run([EmrRoomTrigger(cluster_ids=[cluster.id], most_active=8) for _ in range(3)])
    assert all(payload["status"] == "done" for _, payload in found)


def test_room_has_its_deadline(emr: FakeEmr, triggerer: Triggerer) -> None:
    [cluster] = clusters(emr, 1, 8)
    trigger = EmrRoomTrigger(cluster_ids=[cluster.id], most_active=8, deadline=later(triggerer, 200))
    [(when, payload)] = triggerer.run([trigger])
    assert payload["status"] == "timeout"
    assert when == pytest.approx(200, abs=0.1)


def test_waits_for_room_and_for_steps_share_their_calls(emr: FakeEmr, triggerer: Triggerer) -> None:
    [cluster] = clusters(emr, 1, 8)
    steps: list[Any] = [EmrStepTrigger(cluster_id=cluster.id, step_id=step_id) for step_id in cluster.steps]
    rooms = [EmrRoomTrigger(cluster_ids=[cluster.id], most_active=8) for _ in range(50)]
    for number, step_id in enumerate(list(cluster.steps)):
        triggerer.at(300 + number, end(cluster, step_id))
    counts: list[int] = []
    triggerer.at(300, lambda: counts.append(reads(emr)))
    found = triggerer.run([*steps, *rooms])
    assert {payload["status"] for _, payload in found} == {"done"}
    assert counts[0] <= 5 * 15
