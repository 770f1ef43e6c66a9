"""The drop-in sensors against a fake EMR: what the Amazon provider's fail at, and what must stay as there."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.exceptions import AirflowException, AirflowSensorTimeout, AirflowSkipException, TaskDeferred
from fakes.emr import FakeCluster, FakeEmr, refusal
from fakes.task_instance import FakeTaskInstance

from airflow_emr_etl.exceptions import BootstrapFailedError, ClusterLostError, StepFailedError
from airflow_emr_etl.models.intent import ClusterMark
from airflow_emr_etl.sensors.emr import EmrJobFlowSensor, EmrStepSensor
from airflow_emr_etl.triggers.emr import EmrJobFlowTrigger, EmrStepsTrigger

JAR = {"Jar": "command-runner.jar", "Args": ["true"]}


@pytest.fixture
def cluster(emr: FakeEmr) -> FakeCluster:
    cluster_id = emr.run_job_flow(Name="x", LogUri="s3://logs/emr/", Instances={})["JobFlowId"]
    emr.clusters[cluster_id].state = "WAITING"
    return emr.clusters[cluster_id]


@pytest.fixture
def step_id(emr: FakeEmr, cluster: FakeCluster) -> str:
    steps = [{"Name": "work", "HadoopJarStep": JAR}]
    [made] = emr.add_job_flow_steps(JobFlowId=cluster.id, Steps=steps)["StepIds"]
    return str(made)


def of_step(cluster: FakeCluster, step_id: str, **kwargs: Any) -> EmrStepSensor:
    return EmrStepSensor(
        task_id="t", job_flow_id=cluster.id, step_id=step_id, **{"poke_interval": 0, **kwargs}
    )


def of_cluster(cluster: FakeCluster, **kwargs: Any) -> EmrJobFlowSensor:
    return EmrJobFlowSensor(task_id="t", job_flow_id=cluster.id, **{"poke_interval": 0, **kwargs})


def test_it_looks_until_the_step_has_completed(cluster: FakeCluster, step_id: str) -> None:
    ti = FakeTaskInstance()
    assert of_step(cluster, step_id).execute(ti.context) is None  # type: ignore[func-returns-value]
    assert cluster.steps[step_id].state == "COMPLETED"
    assert "s3/buckets/logs" in ti.xcoms["_link_EmrLogsLink"]


def test_a_failed_step_fails_it_with_the_reason(emr: FakeEmr, cluster: FakeCluster) -> None:
    emr.step_ends["work"] = "FAILED"
    emr.step_details["work"] = {"Reason": "Unknown Error.", "Message": "exit 1", "LogFile": "s3://l/e.gz"}
    steps = [{"Name": "work", "HadoopJarStep": JAR}]
    [step_id] = emr.add_job_flow_steps(JobFlowId=cluster.id, Steps=steps)["StepIds"]
    with pytest.raises(AirflowException, match=r"EMR job failed: (.|\n)*exit 1(.|\n)*s3://l/e.gz") as raised:
        of_step(cluster, step_id).execute(FakeTaskInstance().context)
    assert isinstance(raised.value, StepFailedError)


@pytest.mark.parametrize("deferrable", [False, True])
def test_target_states_hold_either_way(
    emr: FakeEmr, cluster: FakeCluster, step_id: str, deferrable: bool
) -> None:
    sensor = of_step(cluster, step_id, target_states=["RUNNING"], deferrable=deferrable)
    if deferrable:
        with pytest.raises(TaskDeferred) as deferred:
            sensor.execute(FakeTaskInstance().context)
        path, fields = deferred.value.trigger.serialize()
        assert EmrStepsTrigger(**fields).serialize() == (path, fields)
        event = EmrStepsTrigger(**{**fields, "deadline": None}).wait_here(sleep=lambda _: None)
        sensor.execute_complete(FakeTaskInstance().context, event)
    else:
        sensor.execute(FakeTaskInstance().context)
    assert emr.calls["DescribeStep"] == 2


def test_a_failed_state_may_be_a_target(emr: FakeEmr, cluster: FakeCluster, step_id: str) -> None:
    cluster.steps[step_id].state = "FAILED"
    of_step(cluster, step_id, target_states=["COMPLETED", "FAILED"]).execute(FakeTaskInstance().context)


def test_it_does_not_wait_for_what_cannot_come(emr: FakeEmr, cluster: FakeCluster, step_id: str) -> None:
    cluster.steps[step_id].state = "CANCELLED"
    with pytest.raises(AirflowException, match=r"is CANCELLED, and will not be COMPLETED any more"):
        of_step(cluster, step_id, failed_states=["FAILED"]).execute(FakeTaskInstance().context)
    emr.end(cluster.id, "USER_REQUEST", "by hand", state="TERMINATED")
    with pytest.raises(
        AirflowException, match=r"ended as TERMINATED and will not be WAITING any more.*by hand"
    ):
        of_cluster(cluster, target_states=["WAITING"]).execute(FakeTaskInstance().context)


def test_a_step_whose_cluster_has_gone_is_told(emr: FakeEmr, cluster: FakeCluster, step_id: str) -> None:
    emr.frozen = True
    emr.end(cluster.id, "INSTANCE_FAILURE", "spot took it")
    with pytest.raises(ClusterLostError, match="spot took it"):
        of_step(cluster, step_id).execute(FakeTaskInstance().context)


def test_a_step_that_moved_to_the_replacement_is_found(emr: FakeEmr) -> None:
    name = ClusterMark("0123456789abcdef", "01234567").on("x")
    ids = [emr.run_job_flow(Name=name, Instances={})["JobFlowId"] for _ in range(2)]
    emr.end(ids[0], "INSTANCE_FAILURE", "spot took it")
    steps = [{"Name": "work", "HadoopJarStep": JAR}]
    [step_id] = emr.add_job_flow_steps(JobFlowId=ids[1], Steps=steps)["StepIds"]
    sensor = of_step(emr.clusters[ids[0]], step_id)
    sensor.execute(FakeTaskInstance().context)
    assert sensor.job_flow_id == ids[1]
    with pytest.raises(AirflowException, match="Step id 's-none' is not valid"):
        of_step(emr.clusters[ids[0]], "s-none").execute(FakeTaskInstance().context)


def test_a_deferred_sensor_keeps_the_shorter_of_its_limits(
    emr: FakeEmr, cluster: FakeCluster, step_id: str
) -> None:
    emr.frozen = True
    for kwargs, seconds in (
        ({"max_attempts": 5}, 300),
        ({"timeout": 120}, 120),
        ({}, 7 * 24 * 3600),
    ):
        sensor = of_step(cluster, step_id, deferrable=True, **{"poke_interval": 60, **kwargs})
        with pytest.raises(TaskDeferred) as deferred:
            sensor.execute(FakeTaskInstance().context)
        assert deferred.value.timeout is not None
        assert deferred.value.timeout.total_seconds() == seconds + 120


def test_time_that_is_over_is_a_sensor_s_timeout(emr: FakeEmr, cluster: FakeCluster, step_id: str) -> None:
    event = {"status": "timeout", "cluster_id": cluster.id, "step_ids": [step_id]}
    with pytest.raises(AirflowSensorTimeout, match="max_attempts"):
        of_step(cluster, step_id).execute_complete(FakeTaskInstance().context, event)
    soft = of_step(cluster, step_id, soft_fail=True)
    with pytest.raises(AirflowSkipException):
        soft.resume_execution("execute_complete", {"event": event}, FakeTaskInstance().context)


def test_a_throttled_look_is_no_failure(emr: FakeEmr, cluster: FakeCluster, step_id: str) -> None:
    emr.errors["DescribeStep"] = [refusal("DescribeStep", "ThrottlingException", "slow down")]
    of_step(cluster, step_id).execute(FakeTaskInstance().context)
    assert cluster.steps[step_id].state == "COMPLETED"


def test_a_cluster_that_ends_as_wanted(emr: FakeEmr, cluster: FakeCluster) -> None:
    emr.end(cluster.id, "USER_REQUEST", "by hand", state="TERMINATED")
    assert of_cluster(cluster).poke(FakeTaskInstance().context) is True
    emr.clusters[cluster.id].state = "WAITING"
    assert of_cluster(cluster).poke(FakeTaskInstance().context) is False
    sensor = of_cluster(cluster, deferrable=True, poke_interval=60)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(FakeTaskInstance().context)
    path, fields = deferred.value.trigger.serialize()
    assert EmrJobFlowTrigger(**fields).serialize() == (path, fields)
    emr.end(cluster.id, "BOOTSTRAP_FAILURE", "exit 1")
    event = deferred.value.trigger.wait_here(sleep=lambda _: None)  # type: ignore[attr-defined]
    with pytest.raises(BootstrapFailedError, match="EMR job failed: "):
        sensor.execute_complete(FakeTaskInstance().context, event)


def test_default_arguments_reach_it(cluster: FakeCluster, step_id: str) -> None:
    from airflow.sdk import DAG

    with DAG("d", default_args={"poke_interval": 7, "aws_conn_id": "other", "max_attempts": 3}):
        sensor = EmrStepSensor(task_id="t", job_flow_id=cluster.id, step_id=step_id)
        assert EmrJobFlowSensor(task_id="u", job_flow_id=cluster.id).aws_conn_id == "other"
    assert (sensor.poke_interval, sensor.aws_conn_id, sensor.max_attempts) == (7, "other", 3)


def test_they_can_be_mapped(cluster: FakeCluster) -> None:
    from airflow.sdk import DAG

    with DAG("d"):
        mapped = EmrStepSensor.partial(
            task_id="t", job_flow_id=cluster.id, region_name="eu-west-1", verify=False, poke_interval=5
        ).expand(step_id=["s-1", "s-2"])
    assert mapped.task_id == "t"
