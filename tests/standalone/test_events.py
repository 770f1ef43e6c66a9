"""Deferred tasks whose triggerer listens to EMR's events. EMR refuses every look, so that nothing else can end them."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from standalone.airflow_parts import until
from standalone.test_triggerers import deferred_pair, ends_well_in_its_first_try, trigger_logs, untouched
from standalone.world import Run, World

from airflow_emr_etl.hooks.emr_events_setup import EmrEventsSetup

QUEUE = "triggerer-events"
SETTING = "AIRFLOW__EMR_ETL__EVENTS_QUEUE"
LOOKS = ("emr:ListSteps", "emr:DescribeStep")


@pytest.fixture
def listening(alone: World) -> Iterator[World]:
    """The world with a queue of events, and a triggerer that reads it."""
    setup = EmrEventsSetup(clients_of(alone))
    setup.setup([QUEUE])
    restart(alone, {SETTING: QUEUE})
    yield alone
    alone.aws.faults.clear()
    alone.airflow.environment.pop(SETTING)
    restart(alone, {})
    setup.teardown([QUEUE])


def clients_of(world: World) -> dict[str, Any]:
    env = world.aws.env()
    return {
        service: boto3.client(
            service,
            endpoint_url=env["AWS_ENDPOINT_URL"],
            region_name=env["AWS_DEFAULT_REGION"],
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        )
        for service in ("events", "sqs", "sns")
    }


def restart(world: World, variables: dict[str, str]) -> None:
    world.airflow.stop_part("triggerer")
    world.airflow.environment |= variables
    world.airflow.start_part("triggerer")
    until(world.api.healthy, "Airflow is not healthy with another triggerer")


def refuse_looks(run: Run) -> None:
    """Once the scheduler knows that both tasks have left their workers.

    A task that is resumed before that is taken by Airflow for one whose worker has died, and tried again.
    """
    log = run.world.airflow.home.path / "scheduler.log"
    for task in ("victim", "neighbour"):
        left = f"Received executor event .* task_id='{task}', run_id='{run.run_id}'"
        run.until(lambda left=left: re.search(left, log.read_text()), f"the scheduler's view of {task}")
    for operation in LOOKS:
        run.world.aws.faults.add(operation, "throttle")


def test_tasks_end_by_events_alone(listening: World) -> None:
    run = deferred_pair(listening, "events-alone")
    refuse_looks(run)
    run.release("victim", "neighbour")
    run.until(
        lambda: {run.task(task)["state"] for task in ("victim", "neighbour")} == {"success"},
        "both tasks at their end",
    )
    listening.aws.faults.clear()
    ends_well_in_its_first_try(run)


def test_an_event_of_the_time_without_a_triggerer_is_not_lost(listening: World) -> None:
    run = deferred_pair(listening, "events-killed")
    refuse_looks(run)
    listening.airflow.signal_part("triggerer", signal.SIGKILL)
    listening.airflow.stop_part("triggerer")
    run.release("victim")
    run.until(lambda: run.effects("victim"), "the victim's step at its end")
    listening.airflow.start_part("triggerer")
    run.until(lambda: run.task("victim")["state"] == "success", "the victim at its end")
    listening.aws.faults.clear()
    ends_well_in_its_first_try(run)


def test_a_triggerer_that_stalls_with_a_queue_of_its_own(listening: World) -> None:
    """Its events come to the other one by a queue of the other's own, and none is acted on twice."""
    run = deferred_pair(listening, "events-stalled")
    listening.airflow.signal_part("triggerer", signal.SIGSTOP)
    try:
        listening.airflow.start_part("triggerer", "second-triggerer")
        for task in ("victim", "neighbour"):
            run.until(
                lambda task=task: len(trigger_logs(run, task)) == 2, f"the trigger of {task} taken over"
            )
        untouched(run)
        run.release("victim")
        run.until(lambda: run.task("victim")["state"] == "success", "the victim at its end")
    finally:
        listening.airflow.signal_part("triggerer", signal.SIGCONT)
    ends_well_in_its_first_try(run)
    listening.airflow.stop_part("second-triggerer")
    until(listening.api.healthy, "Airflow is not healthy with its first triggerer alone")


def test_tasks_end_well_when_the_queue_is_lost(listening: World) -> None:
    run = deferred_pair(listening, "events-lost")
    listening.aws.faults.add("sqs:ReceiveMessage", "access-denied")
    ends_well_in_its_first_try(run)


def test_a_step_that_completes_starts_the_sample_dag(alone: World) -> None:
    setup = EmrEventsSetup(clients_of(alone))
    setup.setup(["emr-etl-assets"], rule="emr-etl-assets")
    # Airflow makes the watchers of a DAG that is not paused when it reads the DAG's file.
    alone.airflow.stop_part("dag-processor")
    alone.airflow.start_part("dag-processor")
    emr = alone.emr.client
    cluster = emr.run_job_flow(
        Name="events of an asset",
        ReleaseLabel="emr-7.9.0",
        ServiceRole="EMR_DefaultRole",
        JobFlowRole="EMR_EC2_DefaultRole",
        Instances={
            "InstanceCount": 1,
            "MasterInstanceType": "m5.xlarge",
            "KeepJobFlowAliveWhenNoSteps": True,
        },
        Steps=[
            {"Name": name, "HadoopJarStep": {"Jar": "command-runner.jar", "Args": ["true"]}}
            for name in ("normalize", "sessionize")
        ],
    )["JobFlowId"]
    steps = {step["Name"]: step["Id"] for step in emr.list_steps(ClusterId=cluster)["Steps"]}
    logs = alone.airflow.home.path / "logs" / "dag_id=emr_step_events"
    try:
        until(lambda: steps["sessionize"] in told(logs), lambda: f"no run of the sample DAG.\n{told(logs)}")
        assert steps["normalize"] not in told(logs)
    finally:
        emr.terminate_job_flows(JobFlowIds=[cluster])
        setup.teardown(["emr-etl-assets"], rule="emr-etl-assets")


def told(logs: Path) -> str:
    return "".join(path.read_text() for path in logs.rglob("*.log"))
