"""Each way in which a task can be taken away from its step, on a real scheduler, triggerer and workers.

The cluster runs the step of the task in question, ``victim``, and beside it that of ``neighbour``, which must
not notice. Beyond its own asserts each test ends in ``Run.nothing_is_left``.
"""

from __future__ import annotations

import signal

import pytest
from standalone.airflow_parts import is_running, kill
from standalone.world import Run, World

pytestmark = pytest.mark.beside

#: Where the task waits, and its state meanwhile.
MODES = [
    pytest.param(("worker", "running"), id="running"),
    pytest.param(("deferred", "deferred"), id="deferred"),
]


def started(world: World, kind: str, row: str, mode: tuple[str, str], *steps: str) -> Run:
    where, state = mode
    run = world.run(f"{kind}_{where}", f"{row}-{state}")
    run.until_held(*(steps or ("victim", "neighbour")), task_state=state)
    return run


def own_step_is_cancelled(run: Run) -> None:
    run.until(lambda: run.steps("victim")[0] == "CANCELLED", "the victim's step cancelled")
    assert run.steps("neighbour") == ["RUNNING"], run.told()


@pytest.mark.parametrize("mode", MODES)
def test_marked_failed(world: World, mode: tuple[str, str]) -> None:
    run = started(world, "pair", "marked-failed", mode)
    run.mark("victim", "failed")
    own_step_is_cancelled(run)
    run.release("neighbour")
    run.until_over("failed")
    assert run.steps("victim") == ["CANCELLED"]
    assert run.steps("neighbour") == ["COMPLETED"]
    assert run.clusters == 1
    assert run.task_states == {
        "cluster_up": "success",
        "victim": "failed",
        "neighbour": "success",
        "cluster_down": "success",
    }


@pytest.mark.parametrize("mode", MODES)
def test_marked_failed_while_the_teardown_does_not_wait(world: World, mode: tuple[str, str]) -> None:
    run = started(world, "alone", "marked-failed-alone", mode, "victim")
    run.mark("victim", "failed")
    run.until_over("failed")
    assert run.effects("victim") == []
    assert len(run.steps("victim")) == run.clusters == 1
    assert run.task_states["cluster_down"] == "success"


@pytest.mark.parametrize("operation", ["RunJobFlow", "AddJobFlowSteps"])
def test_marked_failed_before_the_answer_of_a_write(world: World, operation: str) -> None:
    """The signal comes when EMR has made something whose id is still on its way."""
    meddle = {"how": "hold", "operation": operation, "when": "after"}
    run = world.run("alone_worker", f"marked-failed-in-{operation}", {"meddle": meddle})
    run.until((run.folder / "meddled").exists, "the answer held back")
    task = "cluster_up" if operation == "RunJobFlow" else "victim"
    run.mark(task, "failed")
    run.until(lambda: "Terminating process" in run.logs(task), "the worker told to stop")
    (run.folder / "let-go").touch()
    run.until_over("failed")
    assert run.effects("victim") == []
    assert run.clusters == 1


@pytest.mark.parametrize("mode", MODES)
def test_marked_success(world: World, mode: tuple[str, str]) -> None:
    run = started(world, "pair", "marked-success", mode)
    run.mark("victim", "success")
    own_step_is_cancelled(run)
    run.release("neighbour")
    run.until_over("success")
    assert run.steps("victim") == ["CANCELLED"]
    assert run.effects("neighbour")
    assert run.clusters == 1


@pytest.mark.parametrize("mode", MODES)
def test_cleared(world: World, mode: tuple[str, str]) -> None:
    run = started(world, "pair", "cleared", mode)
    cluster, first = run.world.emr.live(run.run_id)[0].id, run.began("victim")
    assert "cluster_up" in run.clear("victim")
    own_step_is_cancelled(run)
    run.until(lambda: len(run.began("victim")) == 2, "the victim's second step")
    assert [each.id for each in run.world.emr.live(run.run_id)] == [cluster], run.told()
    run.release("victim", "neighbour")
    run.until_over("success")
    assert run.steps("victim") == ["CANCELLED", "COMPLETED"]
    assert run.effects("victim") == run.began("victim")[1:] != first
    assert run.steps("neighbour") == ["COMPLETED"]
    assert run.clusters == 1


@pytest.mark.parametrize("mode", MODES)
def test_cleared_after_it_had_succeeded_runs_again(world: World, mode: tuple[str, str]) -> None:
    run = started(world, "pair", "cleared-later", mode)
    run.release("victim")
    run.until(lambda: run.task("victim")["state"] == "success", "the victim's success")
    (run.folder / "victim.done").unlink()  # its second run is to have an effect of its own
    run.clear("victim")
    run.until(lambda: len(run.effects("victim")) == 1, "the second effect")
    assert run.steps("neighbour") == ["RUNNING"], run.told()
    run.release("neighbour")
    run.until_over("success")
    assert run.steps("victim") == ["COMPLETED", "COMPLETED"]
    assert run.clusters == 1


@pytest.mark.parametrize("mode", MODES)
def test_cleared_when_the_run_was_over_makes_a_cluster_anew(world: World, mode: tuple[str, str]) -> None:
    run = started(world, "alone", "cleared-over", mode, "victim")
    run.release("victim")
    run.until_over("success")
    (run.folder / "victim.done").unlink()
    run.clear("victim")
    run.until(lambda: run.state == "running" or run.effects("victim"), "the run going again")
    run.until_over("success")
    assert run.steps("victim") == ["COMPLETED", "COMPLETED"]
    assert len(run.effects("victim")) == 1
    assert run.clusters == 2


@pytest.mark.parametrize("mode", MODES)
def test_run_marked_failed(world: World, mode: tuple[str, str]) -> None:
    run = started(world, "pair", "run-failed", mode)
    world.api.set_run_state(run.dag_id, run.run_id, "failed")
    run.until_over("failed")
    assert run.effects("victim") == run.effects("neighbour") == []
    assert run.clusters == 1


@pytest.mark.parametrize("mode", MODES)
def test_wait_timeout(world: World, mode: tuple[str, str]) -> None:
    run = started(world, "wait_timeout", "wait-timeout", mode, "victim")
    run.until_over("failed")
    assert run.steps("victim") == ["CANCELLED"]
    assert run.clusters == 1
    assert run.task_states["cluster_down"] == "success"


@pytest.mark.parametrize("mode", MODES)
def test_execution_timeout(world: World, mode: tuple[str, str]) -> None:
    run = started(world, "execution_timeout", "execution-timeout", mode, "victim")
    run.until_over("failed")
    assert run.steps("victim") == ["CANCELLED"]
    assert run.clusters == 1
    assert run.task_states["cluster_down"] == "success"


def test_airflows_own_timeout_of_a_deferred_task(world: World) -> None:
    run = world.run("once_deferred", "trigger-timeout")
    run.until_held("victim", task_state="deferred")
    world.database.let_trigger_time_run_out(run.dag_id, run.run_id, "victim")
    run.until_over("failed")
    assert run.steps("victim") == ["CANCELLED"]
    assert run.clusters == 1
    assert run.task_states["cluster_down"] == "success"


def test_sigkill_of_the_task(world: World) -> None:
    run = started(world, "pair", "sigkill-task", ("worker", "running"))
    kill(run.task("victim")["pid"])
    run.until(lambda: run.task("victim")["try_number"] == 2, "the second try")
    run.until(lambda: run.task("victim")["state"] == "running", "the second try at work")
    run.release("victim", "neighbour")
    run.until_over("success")
    assert run.steps("victim") == run.steps("neighbour") == ["COMPLETED"], "the retry adopts the step"
    assert run.clusters == 1


def test_sigkill_of_the_supervisor(world: World) -> None:
    run = started(world, "pair", "sigkill-supervisor", ("worker", "running"))
    orphan = run.task("victim")["pid"]
    kill(world.airflow.supervisor_of(orphan).pid)
    run.until(lambda: run.task("victim")["try_number"] == 2, "the second try")
    run.until(lambda: run.task("victim")["state"] == "running", "the second try at work")
    run.release("victim", "neighbour")
    run.until_over("success")
    assert run.steps("victim") == run.steps("neighbour") == ["COMPLETED"], "the retry adopts the step"
    assert run.clusters == 1
    run.until(lambda: not is_running(orphan), "the end of the task that nobody watches")


def test_sigterm_of_the_supervisor(world: World) -> None:
    run = started(world, "pair", "sigterm-supervisor", ("worker", "running"))
    world.airflow.supervisor_of(run.task("victim")["pid"]).send_signal(signal.SIGTERM)
    own_step_is_cancelled(run)
    run.until(lambda: len(run.began("victim")) == 2, "the retry's step")
    run.release("victim", "neighbour")
    run.until_over("success")
    assert run.steps("victim") == ["CANCELLED", "COMPLETED"]
    assert run.clusters == 1


def coming_up(world: World, row: str, mode: tuple[str, str]) -> Run:
    where, state = mode
    run = world.run(f"held_up_{where}", f"{row}-{state}")
    run.until_cluster_held(state)
    return run


@pytest.mark.parametrize("mode", MODES)
def test_cluster_marked_failed_while_it_comes_up(world: World, mode: tuple[str, str]) -> None:
    run = coming_up(world, "cluster-failed", mode)
    run.mark("cluster_up", "failed")
    run.until_over("failed")
    assert run.clusters == 1
    assert run.steps("victim") == []


@pytest.mark.parametrize("mode", MODES)
def test_cluster_cleared_while_it_comes_up(world: World, mode: tuple[str, str]) -> None:
    run = coming_up(world, "cluster-cleared", mode)
    run.clear("cluster_up")
    run.until(lambda: run.task("cluster_up")["try_number"] == 2, "the second try")
    run.release("bootstrap", "victim")
    run.until_over("success")
    assert run.steps("victim") == ["COMPLETED"]
    assert run.clusters <= 2, "a worker that is told to stop ends its cluster; the next try makes another"


def test_sigkill_of_the_task_while_its_cluster_comes_up(world: World) -> None:
    run = coming_up(world, "cluster-sigkill", ("worker", "running"))
    kill(run.task("cluster_up")["pid"])
    run.until(lambda: run.task("cluster_up")["try_number"] == 2, "the second try")
    run.release("bootstrap", "victim")
    run.until_over("success")
    assert run.steps("victim") == ["COMPLETED"]
    assert run.clusters == 1, "the retry adopts the cluster"
