"""The simulator itself: virtual time, processes that die, and the same run for the same seed."""

from __future__ import annotations

import asyncio
import time

import pytest
from simulation.airflow import State
from simulation.contenders import Contender, Official, Ours, Plan
from simulation.network import Blows
from simulation.run import Trouble, simulate
from simulation.verdict import judge, report
from simulation.world import KilledError, Process, VirtualLoop, World

from airflow_emr_etl.local.faults import FaultKind, FaultRule

PLAN = Plan({"a": (), "b": (), "c": ("a", "b")}, cluster_minutes=1.0, step_minutes={"a": 2, "b": 3, "c": 1})
CONTENDERS = [Ours(), Official()]


def names(contender: Contender) -> str:
    return type(contender).__name__


def test_sleepers_take_turns_in_virtual_time() -> None:
    world, seen = World(1), []

    def sleeper(name: str, seconds: float) -> None:
        for _ in range(2):
            world.sleep(seconds)
            seen.append((name, world.seconds))

    began = time.monotonic()
    world.spawn(Process("a"), lambda: sleeper("a", 3600))
    world.spawn(Process("b"), lambda: sleeper("b", 5000))
    world.run(lambda: len(seen) == 4)
    assert seen == [("a", 3600), ("b", 5000), ("a", 7200), ("b", 10000)]
    assert time.monotonic() - began < 1


def test_a_killed_process_does_nothing_more() -> None:
    world, process, done = World(1), Process("p"), []

    def work() -> None:
        try:
            world.sleep(10)
            done.append("slept")
        finally:
            with pytest.raises(KilledError):
                world.sleep(0)
            done.append("cannot even clean up")

    world.spawn(process, work)
    world.call_later(5, lambda: world.kill(process))
    world.run(lambda: False)
    assert done == ["cannot even clean up"]
    assert process.fibers == []


def test_an_asyncio_loop_and_its_threads_run_in_virtual_time() -> None:
    world, process = World(1), Process("triggerer")
    seen: list[tuple[str, float]] = []

    def blocking() -> str:
        world.sleep(100)
        return "done"

    async def waits() -> None:
        seen.append((await asyncio.to_thread(blocking), world.seconds))

    async def sleeps() -> None:
        await asyncio.sleep(30)
        seen.append(("slept", world.seconds))

    async def both() -> None:
        await asyncio.gather(waits(), sleeps())

    loop = VirtualLoop(world, lambda: fiber)
    fiber = world.spawn(process, lambda: loop.run_until_complete(both()))
    world.run(lambda: len(seen) == 2)
    assert seen == [("slept", 30), ("done", 100)]
    loop.close()


@pytest.mark.parametrize("contender", CONTENDERS, ids=names)
def test_a_run_in_which_nothing_goes_wrong_is_well(contender: Contender) -> None:
    outcome = simulate(contender, PLAN)
    verdict = judge(PLAN, Trouble(), outcome)
    assert verdict.passed, report("clean", verdict, outcome)
    assert set(outcome.states.values()) == {State.SUCCESS}
    assert sorted(each.task for each in outcome.effects) == ["a", "b", "c"]
    assert outcome.clusters == 1


@pytest.mark.parametrize("contender", CONTENDERS, ids=names)
def test_the_same_seed_gives_the_same_run(contender: Contender) -> None:
    trouble = Trouble(rules=(FaultRule("emr:*", FaultKind.RESET, probability=0.05, seed=3),), races=True)
    stories = [simulate(contender, PLAN, trouble, seed=5).story for _ in range(2)]
    assert stories[0] == stories[1]


def test_a_lost_answer_meets_botocores_own_retries() -> None:
    trouble = Trouble(rules=(FaultRule("emr:RunJobFlow", FaultKind.RESET, "after", nth=1),))
    outcome = simulate(Official(), PLAN, trouble)
    assert [each.operation for each in outcome.calls[:2]] == ["RunJobFlow", "RunJobFlow"]
    assert len(outcome.orphans) == 1
    assert not judge(PLAN, trouble, outcome).passed


def test_a_killed_worker_is_tried_again_after_its_heartbeats_stay_out() -> None:
    outcome = simulate(Official(), PLAN, Trouble(blows=lambda: Blows(kill_at=(1, "before"))))
    assert "cluster_up#2" in {each.process for each in outcome.calls}
    assert set(outcome.states.values()) == {State.SUCCESS}


def test_a_fault_that_never_passes_fails_the_task_and_those_behind_it() -> None:
    rule = FaultRule("emr:AddJobFlowSteps", FaultKind.ACCESS_DENIED)
    outcome = simulate(Official(), PLAN, Trouble(rules=(rule,), curable=False))
    assert outcome.states["a"] is State.FAILED
    assert outcome.states["c"] is State.UPSTREAM_FAILED
    assert outcome.states["cluster_down"] is State.SUCCESS
