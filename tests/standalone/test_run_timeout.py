"""A timeout of the whole run skips the teardown; the reaper, as a command and as a DAG, ends what is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from standalone.world import REAPER, Run, World


def emr_etl_reap(world: World, *options: str) -> dict[str, dict[str, Any]]:
    """What ``emr-etl reap`` says of each cluster, by its id."""
    done = subprocess.run(
        [Path(sys.executable).parent / "emr-etl", "reap", "--format", "json", *options],
        env=world.airflow.environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {each["cluster_id"]: each for each in json.loads(done.stdout)}


def timed_out(world: World, mode: str, state: str) -> Run:
    """A run whose own timeout has struck, with its cluster left over."""
    run = world.run(f"run_timeout_{mode}", f"run-timeout-{state}")
    run.until_held("victim", "neighbour", task_state=state)
    world.database.let_run_time_run_out(run.dag_id, run.run_id)
    run.until(lambda: run.state == "failed", "the run timed out")
    run.until(lambda: not world.emr.active(run.run_id), "its steps cancelled")
    assert run.live_clusters == 1, "if this is 0, Airflow no longer skips the teardown"
    assert run.task_states["cluster_down"] in (None, "skipped", "failed")
    return run


def test_what_a_run_timeout_leaves_is_reaped(alone: World) -> None:
    going = alone.run("pair_worker", "reaped-never")
    going.until_held("victim", "neighbour", task_state="running")

    first = timed_out(alone, "worker", "running")
    [left] = alone.emr.live(first.run_id)
    assert emr_etl_reap(alone, "--dry-run")[left.id]["action"] == "would end"
    assert first.live_clusters == 1
    told = {each["run_id"]: each["action"] for each in emr_etl_reap(alone).values()}
    assert (told[first.run_id], told[going.run_id]) == ("ended", "kept")
    first.until_over("failed")

    second = timed_out(alone, "deferred", "deferred")
    alone.api.set_paused(REAPER, False)
    reaped = alone.run(REAPER, "by-hand")
    reaped.until(lambda: reaped.state == "success", "the reaper's run")
    alone.api.set_paused(REAPER, True)
    second.until_over("failed")

    assert going.steps("victim") == going.steps("neighbour") == ["RUNNING"]
    going.release("victim", "neighbour")
    going.until_over("success")
    assert first.clusters == second.clusters == going.clusters == 1
