"""What a trigger does when Airflow says that it was cancelled, which it also says by mistake."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from fakes.emr import FakeCluster, FakeEmr, FakeStep, outage
from fakes.task_instance import FakeTaskInstance

from airflow_emr_etl.models.cluster import ClusterSpec
from airflow_emr_etl.models.step import CommandStep
from airflow_emr_etl.triggers.emr_cluster import EmrClusterStateTrigger
from airflow_emr_etl.triggers.emr_step import EmrStepTrigger
from airflow_emr_etl.triggers.polling import PollingTrigger

DECIDED = ["success", "failed", "skipped", "upstream_failed", "removed"]
#: A try is under way or comes; also after a clear, and on a triggerer that lost its triggers to another.
UNDECIDED = [
    None,
    "deferred",
    "running",
    "queued",
    "scheduled",
    "restarting",
    "up_for_retry",
    "up_for_reschedule",
    "awaiting_input",
]


class FakeStates:
    """The API's answer about one task instance."""

    def __init__(self, state: str | None) -> None:
        self.state = state
        self.asked: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def __call__(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        if self.error is not None:
            raise self.error
        [run_id], [task_id] = asked["run_ids"], asked["task_ids"]
        name = task_id if asked["map_index"] < 0 else f"{task_id}_{asked['map_index']}"
        return {run_id: {name: self.state}}


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> FakeStates:
    states = FakeStates("failed")
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", states)
    return states


@pytest.fixture
def cluster(emr: FakeEmr) -> FakeCluster:
    return emr.clusters[emr.run_job_flow(**ClusterSpec(name="x").to_api())["JobFlowId"]]


@pytest.fixture
def step(emr: FakeEmr, cluster: FakeCluster) -> FakeStep:
    request = CommandStep(name="x", command=["true"]).to_api()
    emr.add_job_flow_steps(JobFlowId=cluster.id, Steps=[request])
    return cluster.only_step


def kill(trigger: PollingTrigger, ti: FakeTaskInstance | None = None) -> None:
    trigger.task_instance = ti or FakeTaskInstance()
    asyncio.run(trigger.on_kill())


def of_step(cluster: FakeCluster, step: FakeStep, **kwargs: Any) -> EmrStepTrigger:
    return EmrStepTrigger(cluster_id=cluster.id, step_id=step.id, **{"cancel_on_kill": True, **kwargs})


def of_cluster(cluster: FakeCluster, **kwargs: Any) -> EmrClusterStateTrigger:
    fields = {"target_states": ["WAITING"], "terminate_on_kill": True, **kwargs}
    return EmrClusterStateTrigger(cluster_id=cluster.id, **fields)


@pytest.mark.parametrize("state", DECIDED)
def test_a_decided_tasks_work_is_ended(
    states: FakeStates, cluster: FakeCluster, step: FakeStep, state: str
) -> None:
    states.state = state
    kill(of_step(cluster, step))
    assert (step.state, cluster.state) == ("CANCELLED", "STARTING")
    kill(of_cluster(cluster))
    # A task that has brought its cluster up is done with it; a triggerer that stalled may be told much later.
    assert cluster.state == ("STARTING" if state == "success" else "TERMINATED")


@pytest.mark.parametrize("state", UNDECIDED)
def test_a_task_that_goes_on_keeps_its_work(
    states: FakeStates, cluster: FakeCluster, step: FakeStep, state: str | None
) -> None:
    states.state = state
    kill(of_step(cluster, step))
    kill(of_cluster(cluster))
    assert (step.state, cluster.state) == ("PENDING", "STARTING")
    assert len(states.asked) == 2


def test_the_state_is_that_of_this_task_instance(
    states: FakeStates, cluster: FakeCluster, step: FakeStep
) -> None:
    kill(of_step(cluster, step), FakeTaskInstance("mine", map_index=3))
    assert states.asked == [{"dag_id": "d", "task_ids": ["mine"], "run_ids": ["r"], "map_index": 3}]
    assert step.state == "CANCELLED"


def test_states_come_as_text_or_as_airflows_enumeration(
    states: FakeStates, cluster: FakeCluster, step: FakeStep
) -> None:
    from airflow.sdk.api.datamodels._generated import TaskInstanceState

    states.state = TaskInstanceState.FAILED
    kill(of_step(cluster, step))
    assert step.state == "CANCELLED"


def test_where_the_state_is_not_known_work_goes_on(
    states: FakeStates, cluster: FakeCluster, step: FakeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    states.error = RuntimeError("the API does not answer")
    kill(of_step(cluster, step))
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", lambda **asked: {})
    kill(of_step(cluster, step))
    kill(of_cluster(cluster))
    asyncio.run(of_step(cluster, step).on_kill())  # no task instance at all
    assert (step.state, cluster.state) == ("PENDING", "STARTING")


def test_what_the_task_only_watches_is_left_alone(
    states: FakeStates, cluster: FakeCluster, step: FakeStep
) -> None:
    kill(of_step(cluster, step, cancel_on_kill=False))
    kill(of_cluster(cluster, terminate_on_kill=False))
    assert (step.state, cluster.state) == ("PENDING", "STARTING")
    assert states.asked == []


def test_a_protected_cluster_is_ended_too(emr: FakeEmr, states: FakeStates) -> None:
    request = ClusterSpec(name="x", termination_protection=True).to_api()
    cluster = emr.clusters[emr.run_job_flow(**request)["JobFlowId"]]
    kill(of_cluster(cluster, lift_protection=True))
    assert cluster.state == "TERMINATED"


def test_a_program_that_does_not_listen_is_killed(
    emr: FakeEmr, states: FakeStates, cluster: FakeCluster, step: FakeStep
) -> None:
    emr.frozen = step.is_deaf = True
    kill(of_step(cluster, step))
    assert step.state == "CANCELLED"
    options = [
        request["StepCancellationOption"] for operation, request in emr.log if operation == "CancelSteps"
    ]
    assert options == ["SEND_INTERRUPT", "TERMINATE_PROCESS"]


def test_an_ended_step_is_well(states: FakeStates, cluster: FakeCluster, step: FakeStep) -> None:
    step.state = "COMPLETED"
    kill(of_step(cluster, step))
    assert step.state == "COMPLETED"


def test_a_step_that_told_nothing_of_its_interrupt_is_killed_all_the_same(
    emr: FakeEmr, states: FakeStates, cluster: FakeCluster, step: FakeStep
) -> None:
    emr.frozen = step.is_deaf = True
    emr.errors["DescribeStep"] = [outage("DescribeStep")]
    kill(of_step(cluster, step))
    assert step.state == "CANCELLED"
