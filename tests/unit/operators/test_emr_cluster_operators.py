from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow.exceptions import AirflowFailException, TaskDeferred
from fakes.emr import FakeEmr, refusal
from fakes.task_instance import FakeTaskInstance

from airflow_emr_etl.exceptions import (
    BootstrapFailedError,
    CapacityError,
    ClusterLostError,
    ServiceUnavailableError,
    WaitTimeoutError,
)
from airflow_emr_etl.models.cluster import ClusterSpec
from airflow_emr_etl.operators.emr_cluster import EmrCreateClusterOperator, EmrTerminateClusterOperator
from airflow_emr_etl.triggers.emr_cluster import EmrClusterStateTrigger

SPEC = ClusterSpec(name="x", log_uri="s3://logs/emr/")


def create(**kwargs: Any) -> EmrCreateClusterOperator:
    return EmrCreateClusterOperator(task_id="t", **{"spec": SPEC, "poll_interval": 0, **kwargs})


def test_it_waits_in_the_worker_when_told_to(emr: FakeEmr) -> None:
    ti = FakeTaskInstance()
    cluster_id = create(deferrable=False).execute(ti.context)
    assert emr.clusters[cluster_id].state == "WAITING"
    assert ti.xcoms["cluster_id"] == cluster_id
    assert cluster_id in ti.xcoms["_link_EmrClusterLink"]
    assert ti.xcoms["_link_EmrLogsLink"].endswith(
        f"/s3/buckets/logs?region=eu-west-1&prefix=emr/{cluster_id}/"
    )


def test_it_defers_with_a_timeout_and_everything_the_trigger_needs(emr: FakeEmr) -> None:
    ti = FakeTaskInstance()
    with pytest.raises(TaskDeferred) as deferred:
        create(wait_timeout=timedelta(minutes=10)).execute(ti.context)
    assert deferred.value.timeout == timedelta(minutes=12)
    path, fields = deferred.value.trigger.serialize()
    assert path == f"{EmrClusterStateTrigger.__module__}.EmrClusterStateTrigger"
    assert EmrClusterStateTrigger(**fields).serialize() == (path, fields)
    assert fields["cluster_id"] == emr.only_cluster().id == ti.xcoms["cluster_id"]
    assert fields["target_states"] == ["RUNNING", "WAITING"]


def test_execution_timeout_bounds_the_wait() -> None:
    operator = create(execution_timeout=timedelta(minutes=1))
    assert operator.execution_timeout == timedelta(minutes=1)


def test_the_rendered_spec_is_checked_again(emr: FakeEmr) -> None:
    operator = create(spec=ClusterSpec(name="x", log_uri="{{ params.logs }}"))
    operator.spec = {**operator.spec, "log_uri": "/var/log"}
    with pytest.raises(AirflowFailException, match="s3://bucket/key"):
        operator.execute(FakeTaskInstance().context)
    assert emr.calls["RunJobFlow"] == 0


@pytest.mark.parametrize(
    ("end", "error", "final"),
    [
        (("BOOTSTRAP_FAILURE", "bootstrap action 1 failed"), BootstrapFailedError, True),
        (("INSTANCE_FLEET_TIMEOUT", "spot timed out"), CapacityError, False),
        (("VALIDATION_ERROR", "We have no longer has sufficient m7g.xlarge capacity"), CapacityError, False),
        (("INTERNAL_ERROR", "An error occurred"), ClusterLostError, False),
    ],
)
def test_a_cluster_that_does_not_come_up(
    emr: FakeEmr, end: tuple[str, str], error: type[Exception], final: bool
) -> None:
    emr.cluster_end = end
    with pytest.raises(Exception, match=end[1]) as raised:
        create(deferrable=False).execute(FakeTaskInstance().context)
    if final:
        assert isinstance(raised.value, AirflowFailException)
        assert isinstance(raised.value.__cause__, error)
    else:
        assert isinstance(raised.value, error)


def test_what_fails_after_the_creation_ends_the_cluster(emr: FakeEmr) -> None:
    emr.errors["DescribeCluster"] = [refusal("DescribeCluster", "AccessDeniedException", "no", 403)]
    with pytest.raises(AirflowFailException, match="AccessDenied"):
        create(deferrable=False).execute(FakeTaskInstance().context)
    assert emr.calls["RunJobFlow"] == 1
    assert emr.only_cluster().state == "TERMINATED"


def test_a_protected_cluster_that_fails_to_serve_is_ended_too(emr: FakeEmr) -> None:
    emr.errors["DescribeCluster"] = [refusal("DescribeCluster", "AccessDeniedException", "no", 403)]
    spec = ClusterSpec(name="x", termination_protection=True)
    with pytest.raises(AirflowFailException, match="AccessDenied"):
        create(spec=spec, deferrable=False).execute(FakeTaskInstance().context)
    assert emr.calls["SetTerminationProtection"] == 1
    assert emr.only_cluster().state == "TERMINATED"


def test_an_answer_that_never_came_is_not_asked_for_again(emr: FakeEmr) -> None:
    emr.errors["RunJobFlow"] = [refusal("RunJobFlow", "ServiceUnavailableException", "", 503)]
    with pytest.raises(ServiceUnavailableError):
        create(deferrable=False).execute(FakeTaskInstance().context)
    assert emr.calls["RunJobFlow"] == 1


@pytest.mark.parametrize(
    "event", [{"status": "timeout"}, {"status": "error", "error": {"type": "X", "message": "m"}}]
)
def test_a_wait_without_an_end_ends_the_cluster(emr: FakeEmr, event: dict[str, Any]) -> None:
    ti = FakeTaskInstance()
    with pytest.raises(TaskDeferred):
        create().execute(ti.context)
    cluster = emr.only_cluster()
    with pytest.raises((WaitTimeoutError, AirflowFailException)):
        create().execute_complete(ti.context, {"cluster_id": cluster.id, **event})
    assert cluster.state == "TERMINATED"


def test_airflows_own_timeout_ends_the_cluster(emr: FakeEmr) -> None:
    ti = FakeTaskInstance()
    with pytest.raises(TaskDeferred):
        create().execute(ti.context)
    with pytest.raises(Exception, match="Trigger timeout"):
        create().resume_execution("__fail__", {"error": "Trigger timeout"}, ti.context)
    assert emr.only_cluster().state == "TERMINATED"


def test_a_kill_ends_the_cluster_and_before_there_is_one_does_nothing(emr: FakeEmr) -> None:
    operator = create(wait=False)
    operator.on_kill()
    assert emr.calls == {}
    operator.execute(FakeTaskInstance().context)
    operator.on_kill()
    assert emr.only_cluster().state == "TERMINATED"


def test_terminate_asks_nothing_first_and_twice_is_once(emr: FakeEmr) -> None:
    cluster_id = create(wait=False).execute(FakeTaskInstance().context)
    for _ in range(2):
        EmrTerminateClusterOperator(task_id="t", cluster_id=cluster_id).execute(FakeTaskInstance().context)
    assert emr.calls["DescribeCluster"] == 0
    assert emr.only_cluster().state == "TERMINATED"


def test_terminate_waits_when_told_to(emr: FakeEmr) -> None:
    cluster_id = create(wait=False).execute(FakeTaskInstance().context)
    operator = EmrTerminateClusterOperator(
        task_id="t", cluster_id=cluster_id, wait=True, deferrable=False, lift_protection=True
    )
    operator.execute(FakeTaskInstance().context)
    assert emr.calls["SetTerminationProtection"] == 1
    assert emr.calls["DescribeCluster"] == 1


def test_no_cluster_is_well(emr: FakeEmr) -> None:
    EmrTerminateClusterOperator(task_id="t", cluster_id="None").execute(FakeTaskInstance().context)
    assert emr.calls == {}
