"""Clusters that go away under their steps, and workers that are killed around the calls that make things."""

from __future__ import annotations

import pytest
from standalone.world import World

pytestmark = pytest.mark.beside

STEPS = ("first", "second", "third")


def test_spot_loss_in_the_middle_of_three_parallel_steps(world: World) -> None:
    run = world.run("spot", "spot-loss")
    run.until_held(*STEPS, task_state="deferred")
    [lost] = world.emr.live(run.run_id)
    world.aws.faults.spot_loss(lost.id)
    run.until(lambda: all(len(run.began(step)) == 2 for step in STEPS), "all steps on a replacement")
    run.release(*STEPS)
    run.until_over("success")
    before, after = world.emr.clusters(run.run_id)
    assert (before.id, before.state) == (lost.id, "TERMINATED_WITH_ERRORS")
    assert after.state in ("TERMINATING", "TERMINATED")
    for step in STEPS:
        assert run.steps(step)[1:] == ["COMPLETED"], run.told()
        assert run.effects(step) == run.began(step)[1:]
    assert set(run.task_states.values()) == {"success"}


def test_a_step_that_had_completed_is_not_run_again_after_spot_loss(world: World) -> None:
    run = world.run("spot", "spot-loss-later")
    run.until_held(*STEPS, task_state="deferred")
    run.release("first")
    run.until(lambda: run.task("first")["state"] == "success", "the first step's success")
    world.aws.faults.spot_loss(world.emr.live(run.run_id)[0].id)
    run.until(lambda: all(len(run.began(step)) == 2 for step in STEPS[1:]), "the others on a replacement")
    run.release(*STEPS)
    run.until_over("success")
    assert run.clusters == 2
    assert run.steps("first") == ["COMPLETED"]
    assert [run.steps(step)[1:] for step in STEPS[1:]] == [["COMPLETED"], ["COMPLETED"]]


#: Each call before and after it takes effect, with one way to wait or the other.
KILLS = [
    ("RunJobFlow", "before", "deferred"),
    ("RunJobFlow", "after", "worker"),
    ("AddJobFlowSteps", "before", "worker"),
    ("AddJobFlowSteps", "after", "deferred"),
    ("TerminateJobFlows", "before", "deferred"),
    ("TerminateJobFlows", "after", "worker"),
]


@pytest.mark.parametrize(("operation", "when", "mode"), KILLS)
def test_a_worker_killed_around_a_write(world: World, operation: str, when: str, mode: str) -> None:
    run_id = f"killed-{when}-{operation}"
    meddle = {"how": "die", "operation": operation, "when": when}
    run = world.run(f"alone_{mode}", run_id, {"meddle": meddle})
    run.release("victim")
    run.until_over("success")
    assert (run.folder / "meddled").exists(), run.told()
    assert run.steps("victim") == ["COMPLETED"], run.told()
    assert len(run.effects("victim")) == 1
    assert run.clusters == 1
