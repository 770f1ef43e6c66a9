"""What happens to deferred tasks when their triggerer goes away, and when one that stalled comes back.

Each test has all of Airflow to itself: every deferred task depends on the triggerer.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from standalone.airflow_parts import until
from standalone.world import Run, World

#: The shortest stall worth the name: Airflow's own threshold for a dead triggerer is 30 s.
STALL_SECONDS = 45.0


def deferred_pair(world: World, run_id: str) -> Run:
    run = world.run("pair_deferred", run_id)
    run.until_held("victim", "neighbour", task_state="deferred")
    return run


def untouched(run: Run) -> None:
    assert run.steps("victim") == run.steps("neighbour") == ["RUNNING"], run.told()


def ends_well_in_its_first_try(run: Run) -> None:
    run.release("victim", "neighbour")
    run.until_over("success")
    assert run.steps("victim") == run.steps("neighbour") == ["COMPLETED"]
    assert run.clusters == 1
    assert [run.task(task)["try_number"] for task in ("victim", "neighbour")] == [1, 1]


def test_a_triggerer_that_is_restarted(alone: World) -> None:
    run = deferred_pair(alone, "triggerer-restarted")
    alone.airflow.stop_part("triggerer")
    untouched(run)
    alone.airflow.start_part("triggerer")
    run.until(lambda: len(trigger_logs(run, "victim")) == 2, "the trigger in the new triggerer")
    untouched(run)
    ends_well_in_its_first_try(run)


def test_a_triggerer_that_is_killed(alone: World) -> None:
    run = deferred_pair(alone, "triggerer-killed")
    alone.airflow.signal_part("triggerer", signal.SIGKILL)
    alone.airflow.stop_part("triggerer")
    alone.airflow.start_part("triggerer")
    run.until(lambda: len(trigger_logs(run, "victim")) == 2, "the trigger in the new triggerer")
    untouched(run)
    ends_well_in_its_first_try(run)


def test_a_triggerer_that_stalls_until_another_has_taken_over(alone: World) -> None:
    run = deferred_pair(alone, "triggerer-stalled")
    [first] = trigger_logs(run, "victim")
    alone.airflow.signal_part("triggerer", signal.SIGSTOP)
    stalled_at = time.monotonic()
    try:
        alone.airflow.start_part("triggerer", "second-triggerer")
        for task in ("victim", "neighbour"):
            run.until(
                lambda task=task: len(trigger_logs(run, task)) == 2, f"the trigger of {task} taken over"
            )
        untouched(run)
        until(lambda: time.monotonic() - stalled_at >= STALL_SECONDS, "the clock stands")
    finally:
        alone.airflow.signal_part("triggerer", signal.SIGCONT)
    # Airflow 3.3 tells the triggers of the first that a user has cancelled them.
    run.until(lambda: "invoking on_kill" in first.read_text(), "a false on_kill")
    run.until(lambda: "trigger completed" in first.read_text(), "its end")
    untouched(run)
    ends_well_in_its_first_try(run)
    alone.airflow.stop_part("second-triggerer")
    until(alone.api.healthy, "Airflow is not healthy with its first triggerer alone")


def test_marked_failed_before_its_trigger_has_started(alone: World) -> None:
    """Nobody is there to be told: the step goes on until the teardown ends its cluster."""
    run = alone.run("late_trigger", "marked-failed-early")
    run.until_held("neighbour", task_state="running")
    alone.airflow.stop_part("triggerer")
    run.release("first")
    run.until(
        lambda: run.began("victim") and run.task("victim")["state"] == "deferred", "the victim deferred"
    )
    run.mark("victim", "failed")
    alone.airflow.start_part("triggerer")
    run.release("neighbour")
    run.until_over("failed")
    assert run.effects("victim") == []
    assert run.steps("neighbour") == ["COMPLETED"]
    assert run.clusters == 1


def trigger_logs(run: Run, task_id: str) -> list[Path]:
    """One for each triggerer that has started the trigger of the task's first try."""
    folder = run.world.airflow.log_folder(run.dag_id, run.run_id) / f"task_id={task_id}"
    found = [path for path in folder.glob("attempt=1.log.trigger.*") if "starting" in path.read_text()]
    return sorted(found, key=lambda path: path.stat().st_ctime)
