from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from airflow.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred
from airflow.providers.common.compat.sdk import AirflowSensorTimeout
from fakes.emr import FakeEmr, denial
from fakes.task_instance import FakeTaskInstance
from moto import mock_aws

from airflow_emr_etl.exceptions import (
    ClusterFailedError,
    ClusterLostError,
    ConfigurationError,
    MissingInputError,
    StepFailedError,
)
from airflow_emr_etl.hooks.s3_lake import S3LakeHook
from airflow_emr_etl.models.cluster import ClusterSpec
from airflow_emr_etl.models.step import CommandStep
from airflow_emr_etl.sensors.emr_cluster import EmrClusterSensor
from airflow_emr_etl.sensors.emr_step import EmrStepSensor
from airflow_emr_etl.sensors.s3_logs import S3LogsSensor


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("s3", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        client.create_bucket(Bucket="source")
        monkeypatch.setattr(S3LakeHook, "client", client)
        yield client


def run(sensor: Any) -> Any:
    """Execute, and where it defers, run its trigger and complete."""
    context = FakeTaskInstance().context
    try:
        return sensor.execute(context)
    except TaskDeferred as deferred:
        event = deferred.trigger.wait_here(sleep=lambda _: None)
        return sensor.execute_complete(context, event)


def logs(**kwargs: Any) -> S3LogsSensor:
    return S3LogsSensor(
        task_id="t", **{"prefix": "s3://source/dt=2026-01-05/", "day": "2026-01-05", **kwargs}
    )


def test_logs_that_are_there_need_no_wait(s3: Any) -> None:
    s3.put_object(Bucket="source", Key="dt=2026-01-05/a.log", Body=b"x")
    assert logs().execute(FakeTaskInstance().context) is None


@pytest.mark.parametrize("deferrable", [True, False])
def test_no_time_to_wait_fails_at_once_and_names_prefix_and_day(s3: Any, deferrable: bool) -> None:
    s3.put_object(Bucket="source", Key="dt=2026-01-05/", Body=b"")  # the console's folder marker is no log
    with pytest.raises(AirflowSensorTimeout) as raised:
        logs(timeout=0, deferrable=deferrable).execute(FakeTaskInstance().context)
    for part in ("MissingInputError", "s3://source/dt=2026-01-05/", "the day 2026-01-05"):
        assert part in str(raised.value)


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_day_long_past_is_looked_at_once(s3: Any, deferrable: bool) -> None:
    with pytest.raises(AirflowSensorTimeout, match="until 2026-01-06T12:00:00"):
        logs(until="2026-01-06T12:00:00+00:00", deferrable=deferrable).execute(FakeTaskInstance().context)


def test_a_time_yet_to_come_bounds_the_wait(s3: Any) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    with pytest.raises(TaskDeferred) as deferred:
        logs(until=until.isoformat()).execute(FakeTaskInstance().context)
    deadline = datetime.fromisoformat(deferred.value.trigger.deadline)
    assert abs(deadline - until) < timedelta(minutes=1)


@pytest.mark.parametrize("until", ["tomorrow", "2026-01-06T12:00:00"])
def test_a_limit_that_is_no_time_is_refused(s3: Any, until: str) -> None:
    with pytest.raises(AirflowFailException, match="with an offset"):
        logs(until=until).execute(FakeTaskInstance().context)


def test_a_marker_is_waited_for_and_is_no_log(s3: Any) -> None:
    s3.put_object(Bucket="source", Key="dt=2026-01-05/a.log", Body=b"x")
    with pytest.raises(TaskDeferred):
        logs(marker="_SUCCESS").execute(FakeTaskInstance().context)
    s3.put_object(Bucket="source", Key="dt=2026-01-05/_SUCCESS", Body=b"")
    assert logs(marker="_SUCCESS").execute(FakeTaskInstance().context) is None
    s3.delete_object(Bucket="source", Key="dt=2026-01-05/a.log")
    with pytest.raises(TaskDeferred):
        logs(marker="_SUCCESS").execute(FakeTaskInstance().context)


def test_time_that_runs_out_says_the_same(s3: Any) -> None:
    sensor = logs(timeout=60)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(FakeTaskInstance().context)
    assert deferred.value.timeout is not None
    with pytest.raises(AirflowSensorTimeout, match="no log for the day 2026-01-05") as raised:
        sensor.execute_complete(FakeTaskInstance().context, {"status": "timeout"})
    assert isinstance(raised.value.__cause__, MissingInputError)


def test_soft_fail_skips(s3: Any) -> None:
    with pytest.raises(AirflowSkipException):
        logs(timeout=0, soft_fail=True).execute(FakeTaskInstance().context)


def test_a_bucket_that_is_not_there_is_final(s3: Any) -> None:
    with pytest.raises(AirflowFailException, match="NoSuchBucket"):
        logs(prefix="s3://nowhere/").execute(FakeTaskInstance().context)


def test_a_cluster_that_comes_up(emr: FakeEmr) -> None:
    cluster_id = emr.run_job_flow(**ClusterSpec(name="x").to_api())["JobFlowId"]
    assert run(EmrClusterSensor(task_id="t", cluster_id=cluster_id)) == "WAITING"


def test_an_end_can_be_what_is_waited_for(emr: FakeEmr) -> None:
    cluster_id = emr.run_job_flow(**ClusterSpec(name="x").to_api())["JobFlowId"]
    emr.end(cluster_id, "USER_REQUEST", "", state="TERMINATED")
    assert (
        run(EmrClusterSensor(task_id="t", cluster_id=cluster_id, target_states=["TERMINATED"]))
        == "TERMINATED"
    )
    with pytest.raises(AirflowFailException) as raised:
        run(EmrClusterSensor(task_id="t", cluster_id=cluster_id))
    assert isinstance(raised.value.__cause__, ClusterFailedError)


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_step(emr: FakeEmr, deferrable: bool) -> None:
    cluster_id = emr.run_job_flow(**ClusterSpec(name="x").to_api())["JobFlowId"]
    emr.step_ends["bad"] = "FAILED"
    steps = [CommandStep(name=name, command=["true"]).to_api() for name in ("good", "bad")]
    good, bad = emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)["StepIds"]
    common: dict[str, Any] = {"cluster_id": cluster_id, "deferrable": deferrable, "poke_interval": 0}
    assert run(EmrStepSensor(task_id="t", step_id=good, **common)) == "COMPLETED"
    with pytest.raises(AirflowFailException) as raised:
        run(EmrStepSensor(task_id="t", step_id=bad, **common))
    assert isinstance(raised.value.__cause__, StepFailedError)


def test_a_step_whose_cluster_has_gone(emr: FakeEmr) -> None:
    cluster_id = emr.run_job_flow(**ClusterSpec(name="x").to_api())["JobFlowId"]
    [step_id] = emr.add_job_flow_steps(
        JobFlowId=cluster_id, Steps=[CommandStep(name="x", command=["true"]).to_api()]
    )["StepIds"]
    emr.frozen = True
    emr.end(cluster_id, "INSTANCE_FAILURE", "gone")
    with pytest.raises(ClusterLostError):
        run(EmrStepSensor(task_id="t", cluster_id=cluster_id, step_id=step_id))


@pytest.fixture
def three(emr: FakeEmr) -> tuple[str, list[str]]:
    """A cluster with three running steps; nothing moves by itself."""
    cluster_id = emr.run_job_flow(**ClusterSpec(name="x").to_api())["JobFlowId"]
    steps = [CommandStep(name=name, command=["true"]).to_api() for name in ("a", "b", "c")]
    ids = emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)["StepIds"]
    emr.frozen = True
    for step in emr.clusters[cluster_id].steps.values():
        step.state = "RUNNING"
    return cluster_id, ids


def of_steps(three: tuple[str, list[str]], **kwargs: Any) -> EmrStepSensor:
    return EmrStepSensor(task_id="t", cluster_id=three[0], **{"step_ids": three[1], **kwargs})


def become(emr: FakeEmr, three: tuple[str, list[str]], *states: str) -> None:
    for step_id, state in zip(three[1], states, strict=True):
        emr.clusters[three[0]].steps[step_id].state = state


def test_several_steps_are_waited_for(emr: FakeEmr, three: tuple[str, list[str]]) -> None:
    become(emr, three, "COMPLETED", "COMPLETED", "COMPLETED")
    assert run(of_steps(three)) == dict.fromkeys(three[1], "COMPLETED")


class Lazy(Sequence[str]):
    """As the output of a mapped task is rendered."""

    def __init__(self, items: list[str]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, at: Any) -> Any:
        return self._items[at]


@pytest.mark.parametrize("form", [json.dumps, ",".join, tuple, str, Lazy])
def test_step_ids_as_they_render(emr: FakeEmr, three: tuple[str, list[str]], form: Any) -> None:
    become(emr, three, "COMPLETED", "COMPLETED", "COMPLETED")
    assert list(run(of_steps(three, step_ids=form(three[1])))) == three[1]


@pytest.mark.parametrize("given", ["", "[]", [], "None", [1], [""], "a,,b", "{}", "['a'", "1"])
def test_step_ids_that_are_none(given: Any) -> None:
    sensor = EmrStepSensor(task_id="t", cluster_id="j-1", step_ids=given)
    with pytest.raises(ConfigurationError, match="step_ids of task t"):
        _ = sensor.wanted


@pytest.mark.parametrize("ids", [{}, {"step_id": "s-1", "step_ids": ["s-2"]}])
def test_which_steps_must_be_said_once(ids: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="step_id and step_ids"):
        EmrStepSensor(task_id="t", cluster_id="j-1", **ids)


def test_all_that_failed_are_named_and_all_others_were_waited_for(
    emr: FakeEmr, three: tuple[str, list[str]]
) -> None:
    become(emr, three, "FAILED", "RUNNING", "FAILED")
    assert not of_steps(three, deferrable=False).poke(FakeTaskInstance().context)
    become(emr, three, "FAILED", "COMPLETED", "FAILED")
    with pytest.raises(AirflowFailException, match="2 of 3 steps have failed") as told:
        run(of_steps(three))
    assert three[1][0] in str(told.value)
    assert three[1][2] in str(told.value)


def test_fail_fast_does_not_wait_for_the_others(emr: FakeEmr, three: tuple[str, list[str]]) -> None:
    become(emr, three, "RUNNING", "FAILED", "RUNNING")
    with pytest.raises(AirflowFailException, match=three[1][1]):
        run(of_steps(three, fail_fast=True))


def test_a_cluster_that_ends_under_several_steps(emr: FakeEmr, three: tuple[str, list[str]]) -> None:
    become(emr, three, "COMPLETED", "RUNNING", "RUNNING")
    emr.clusters[three[0]].state = "TERMINATED_WITH_ERRORS"
    with pytest.raises(Exception, match=three[0]):
        run(of_steps(three))


def test_several_steps_that_do_not_end(emr: FakeEmr, three: tuple[str, list[str]]) -> None:
    become(emr, three, "RUNNING", "COMPLETED", "RUNNING")
    first, _, last = three[1]
    with pytest.raises(AirflowSensorTimeout, match=f"2 of 3 steps, {first}, {last}, on {three[0]}"):
        of_steps(three, timeout=0).execute(FakeTaskInstance().context)
    with pytest.raises(AirflowSensorTimeout, match=f"2 of 3 steps, {first}, {last},"):
        of_steps(three, timeout=60).execute_complete(FakeTaskInstance().context, {"status": "timeout"})
    emr.errors["ListSteps"] = [denial("ListSteps")]
    with pytest.raises(AirflowSensorTimeout, match="3 of 3 steps"):
        of_steps(three).execute_complete(FakeTaskInstance().context, {"status": "timeout"})
