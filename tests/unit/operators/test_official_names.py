"""The drop-in operators against a fake EMR: what the Amazon provider's fail at, and what must stay as there."""

from __future__ import annotations

import asyncio
import json
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.exceptions import AirflowException, AirflowFailException, TaskDeferred
from airflow.sdk import DAG
from botocore.exceptions import ReadTimeoutError
from fakes.emr import MAX_ACTIVE_STEPS, FakeCluster, FakeEmr, refusal
from fakes.task_instance import FakeTaskInstance

from airflow_emr_etl.exceptions import (
    AccessDeniedError,
    BootstrapFailedError,
    ClusterClosedError,
    ClusterLostError,
    ConfigurationError,
    StepFailedError,
    ThrottledError,
    WaitTimeoutError,
)
from airflow_emr_etl.hooks.clock import Clock
from airflow_emr_etl.models.intent import ClusterMark, StepMark, without_mark
from airflow_emr_etl.operators.emr import (
    EmrAddStepsOperator,
    EmrCreateJobFlowOperator,
    EmrModifyClusterOperator,
    EmrTerminateJobFlowOperator,
)
from airflow_emr_etl.triggers.emr import EmrJobFlowRoomTrigger, EmrJobFlowTrigger, EmrStepsTrigger

GROUP = {"Name": "Primary", "InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1}
JOB_FLOW: dict[str, Any] = {
    "Name": "nightly",
    "ReleaseLabel": "emr-7.9.0",
    "LogUri": "s3://logs/emr/",
    "Instances": {"InstanceGroups": [GROUP], "KeepJobFlowAliveWhenNoSteps": True},
    "Tags": [{"Key": "team", "Value": "web"}],
}


def step(name: str, *args: str) -> dict[str, Any]:
    jar = {"Jar": "command-runner.jar", "Args": list(args) or ["true"]}
    return {"Name": name, "ActionOnFailure": "CONTINUE", "HadoopJarStep": jar}


class FastClock(Clock):
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 6, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def create(**kwargs: Any) -> EmrCreateJobFlowOperator:
    operator = EmrCreateJobFlowOperator(
        task_id="t", retries=2, **{"job_flow_overrides": JOB_FLOW, "emr_conn_id": None, **kwargs}
    )
    operator.clock = FastClock()
    return operator


def add(cluster: FakeCluster | None, steps: Any, **kwargs: Any) -> EmrAddStepsOperator:
    where = {} if cluster is None else {"job_flow_id": cluster.id}
    operator = EmrAddStepsOperator(
        task_id="t", retries=2, steps=steps, **{**where, "waiter_delay": 1, **kwargs}
    )
    operator.clock = FastClock()
    return operator


def terminate(job_flow_id: Any, **kwargs: Any) -> EmrTerminateJobFlowOperator:
    operator = EmrTerminateJobFlowOperator(task_id="down", job_flow_id=job_flow_id, **kwargs)
    operator.clock = FastClock()
    return operator


def lost_answer() -> ReadTimeoutError:
    return ReadTimeoutError(endpoint_url="https://emr")


def names(cluster: FakeCluster) -> list[str]:
    return [without_mark(each.request["Name"]) for each in cluster.steps.values()]


def first_try() -> FakeTaskInstance:
    return FakeTaskInstance(max_tries=2)


def again(**kwargs: Any) -> FakeTaskInstance:
    return FakeTaskInstance(**{"try_number": 2, "max_tries": 2, **kwargs})


def waited(trigger: Any) -> dict[str, Any]:
    """The event of a deferred task's trigger."""
    clock = FastClock()
    event: dict[str, Any] = trigger.wait_here(sleep=clock.sleep, now=clock.now)
    return event


@pytest.fixture
def emr(emr: FakeEmr, monkeypatch: pytest.MonkeyPatch) -> FakeEmr:
    """The fake, whose steps go on when they are listed by their ids, too."""
    listed = emr.list_steps

    def list_steps(**request: Any) -> Any:
        answer = listed(**request)
        for step_id in request.get("StepIds", []):
            emr.describe_step(ClusterId=request["ClusterId"], StepId=step_id)
        return answer

    monkeypatch.setattr(emr, "list_steps", list_steps)
    return emr


@pytest.fixture
def cluster(emr: FakeEmr) -> FakeCluster:
    cluster_id = emr.run_job_flow(**JOB_FLOW)["JobFlowId"]
    emr.clusters[cluster_id].state = "WAITING"
    emr.calls.clear()
    return emr.clusters[cluster_id]


def test_create_returns_the_id_at_once_and_leaves_the_request_as_it_is(emr: FakeEmr) -> None:
    ti = first_try()
    cluster_id = create().execute(ti.context)
    made = emr.only_cluster()
    assert cluster_id == made.id
    assert without_mark(made.request["Name"]) == "nightly"
    assert ClusterMark.read(made.request["Name"]) is not None
    assert made.tags["team"] == "web"
    assert made.tags["emr-etl:dag"] == "d"
    kept = {key: value for key, value in made.request.items() if key not in ("Name", "Tags")}
    assert kept == {
        **{key: value for key, value in JOB_FLOW.items() if key not in ("Name", "Tags")},
        "AutoTerminationPolicy": {"IdleTimeout": 86_400},
    }
    assert cluster_id in ti.xcoms["_link_EmrClusterLink"]
    assert "s3/buckets/logs" in ti.xcoms["_link_EmrLogsLink"]
    assert emr.calls["DescribeCluster"] == 0, "nothing that could be refused stands behind the creation"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"AutoTerminationPolicy": {"IdleTimeout": 600}}, {"IdleTimeout": 600}),
        ({"Instances": {"InstanceGroups": [GROUP]}}, None),
        ({"ReleaseLabel": "emr-5.29.0"}, None),
        ({"ReleaseLabel": "emr-6.0.0"}, None),
        ({"ReleaseLabel": "emr-5.30.1"}, {"IdleTimeout": 86_400}),
    ],
)
def test_only_a_cluster_that_would_stay_for_ever_gets_an_end(
    emr: FakeEmr, change: dict[str, Any], expected: Any
) -> None:
    create(job_flow_overrides=JOB_FLOW | change).execute(first_try().context)
    assert emr.only_cluster().request.get("AutoTerminationPolicy") == expected


def test_the_end_of_idle_clusters_can_be_turned_off(emr: FakeEmr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__EMR_ETL__DROP_IN_IDLE_TIMEOUT", "0")
    create().execute(first_try().context)
    assert "AutoTerminationPolicy" not in emr.only_cluster().request


def test_a_retry_takes_over_what_a_dead_worker_has_made(emr: FakeEmr) -> None:
    first = create().execute(first_try().context)
    assert create().execute(again().context) == first
    assert emr.calls["RunJobFlow"] == 1


def test_a_request_whose_answer_is_lost_is_not_sent_again(emr: FakeEmr) -> None:
    run = emr.run_job_flow

    def answer_is_lost(**request: Any) -> Any:
        run(**request)
        raise lost_answer()

    emr.run_job_flow = answer_is_lost  # type: ignore[method-assign]
    cluster_id = create().execute(first_try().context)
    assert emr.calls["RunJobFlow"] == 1
    assert cluster_id == emr.only_cluster().id


def test_a_retry_of_another_form_leaves_no_second_cluster(emr: FakeEmr) -> None:
    create(job_flow_overrides=JOB_FLOW | {"Name": "at 10:00:01"}).execute(first_try().context)
    second = create(job_flow_overrides=JOB_FLOW | {"Name": "at 10:00:09"}).execute(again().context)
    assert [each.id for each in emr.clusters.values() if each.state != "TERMINATED"] == [second]


def test_a_job_flow_that_has_run_its_steps_meanwhile_is_not_run_again(emr: FakeEmr) -> None:
    ends = JOB_FLOW | {"Instances": {"InstanceGroups": [GROUP]}, "Steps": [step("work")]}
    first = create(job_flow_overrides=ends).execute(first_try().context)
    emr.end(first, "ALL_STEPS_COMPLETED", "Steps completed", state="TERMINATED")  # type: ignore[arg-type]
    assert create(job_flow_overrides=ends).execute(again().context) == first
    cleared = FakeTaskInstance(try_number=2, max_tries=3)
    assert create(job_flow_overrides=ends).execute(cleared.context) != first


def test_overrides_as_text_and_over_the_connection(emr: FakeEmr, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"Name": "of the connection", "ReleaseLabel": "emr-7.1.0", "VisibleToAllUsers": True}
    monkeypatch.setenv(
        "AIRFLOW_CONN_EMR_DEFAULT", json.dumps({"conn_type": "emr", "extra": json.dumps(extra)})
    )
    text = json.dumps({"Name": "of the task", "Instances": {"KeepJobFlowAliveWhenNoSteps": False}})
    create(job_flow_overrides=text, emr_conn_id="emr_default").execute(first_try().context)
    request = emr.only_cluster().request
    assert without_mark(request["Name"]) == "of the task"
    assert (request["ReleaseLabel"], request["VisibleToAllUsers"]) == ("emr-7.1.0", True)
    create(job_flow_overrides=str(JOB_FLOW)).execute(FakeTaskInstance("other").context)
    assert len(emr.clusters) == 2


def test_no_such_connection_is_an_empty_beginning(emr: FakeEmr) -> None:
    create(emr_conn_id="nowhere").execute(first_try().context)
    assert emr.only_cluster()


def test_a_json_file_is_read_and_rendered(emr: FakeEmr, tmp_path: Path) -> None:
    (tmp_path / "flow.json").write_text(json.dumps(JOB_FLOW | {"Name": "for {{ ds }}"}))
    with DAG("d", template_searchpath=str(tmp_path)):
        operator = create(job_flow_overrides="flow.json")
    operator.resolve_template_files()
    operator.render_template_fields({"ds": "2026-01-05"})
    operator.execute(first_try().context)
    assert without_mark(emr.only_cluster().request["Name"]) == "for 2026-01-05"


def test_what_is_no_mapping_is_told(emr: FakeEmr) -> None:
    with pytest.raises(ConfigurationError, match="job_flow_overrides must be a mapping"):
        create(job_flow_overrides="cluster.yaml").execute(first_try().context)
    with pytest.raises(ConfigurationError, match="no name"):
        create(job_flow_overrides={}).execute(first_try().context)


def test_waiting_for_a_cluster_that_comes_up(emr: FakeEmr) -> None:
    cluster_id = create(wait_for_completion=True).execute(first_try().context)
    assert emr.clusters[str(cluster_id)].state == "WAITING"


def test_a_wait_policy_holds_in_the_triggerer_too(emr: FakeEmr) -> None:
    from airflow.providers.amazon.aws.utils.waiter import WaitPolicy

    for policy, states in (
        (WaitPolicy.WAIT_FOR_COMPLETION, ["RUNNING", "WAITING"]),
        ("wait_for_steps_completion", []),
    ):
        operator = create(wait_policy=policy, deferrable=True)
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute(first_try().context)
        path, fields = deferred.value.trigger.serialize()
        assert EmrJobFlowTrigger(**fields).serialize() == (path, fields)
        assert fields["target_states"] == states
        assert deferred.value.timeout is not None


def test_both_policies_know_their_end(emr: FakeEmr) -> None:
    def judged(policy: str, state: str, code: str) -> Any:
        operator = create(wait_policy=policy, deferrable=True)
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute(FakeTaskInstance(task_id=f"{policy} {state} {code}").context)
        emr.end(deferred.value.trigger.cluster_id, code, "told", state=state)  # type: ignore[attr-defined]
        event = waited(deferred.value.trigger)
        return create(wait_policy=policy).execute_complete(first_try().context, event)

    assert judged("wait_for_steps_completion", "TERMINATED", "ALL_STEPS_COMPLETED")
    assert judged("wait_for_completion", "TERMINATED", "ALL_STEPS_COMPLETED")
    with pytest.raises(AirflowException, match="told"):
        judged("wait_for_completion", "TERMINATED", "USER_REQUEST")
    with pytest.raises(BootstrapFailedError, match="told"):
        judged("wait_for_steps_completion", "TERMINATED_WITH_ERRORS", "BOOTSTRAP_FAILURE")


@pytest.mark.parametrize(("ends", "state"), [(True, "TERMINATED"), (False, "STARTING")])
def test_a_wait_in_vain_ends_the_cluster_unless_told_otherwise(emr: FakeEmr, ends: bool, state: str) -> None:
    emr.frozen = True
    operator = create(
        wait_for_completion=True, waiter_delay=1, waiter_max_attempts=3, terminate_job_flow_on_failure=ends
    )
    with pytest.raises(WaitTimeoutError):
        operator.execute(first_try().context)
    assert emr.only_cluster().state == state


def test_a_kill_ends_the_cluster_before_and_after_its_id_is_known(emr: FakeEmr) -> None:
    operator = create()
    operator.on_kill()
    operator.execute(first_try().context)
    operator.on_kill()
    assert emr.only_cluster().state == "TERMINATED"


def test_a_deferred_task_that_is_failed_by_airflow_ends_its_cluster(emr: FakeEmr) -> None:
    with pytest.raises(TaskDeferred):
        create(wait_for_completion=True, deferrable=True).execute(first_try().context)
    with pytest.raises(Exception, match="timed out"):
        create().resume_execution("__fail__", {"error": "Trigger timed out"}, first_try().context)
    assert emr.only_cluster().state == "TERMINATED"


def test_add_returns_the_ids_in_one_call(emr: FakeEmr, cluster: FakeCluster) -> None:
    ti = first_try()
    ids = add(cluster, [step("a"), step("b"), step("a")], execution_role_arn="arn:aws:iam::1:role/r").execute(
        ti.context
    )
    assert ids == list(cluster.steps)
    assert names(cluster) == ["a", "b", "a"]
    assert emr.calls["AddJobFlowSteps"] == 1
    assert ti.xcoms["job_flow_id"] == cluster.id
    assert cluster.id in ti.xcoms["_link_EmrClusterLink"]


def test_without_xcoms_nothing_is_pushed(emr: FakeEmr, cluster: FakeCluster) -> None:
    ti = first_try()
    add(cluster, [step("a")], do_xcom_push=False).execute(ti.context)
    assert ti.xcoms == {}


def test_a_retry_adds_only_what_is_missing(emr: FakeEmr, cluster: FakeCluster) -> None:
    steps = [step("a"), step("b"), step("c")]
    first = add(cluster, steps).execute(first_try().context)
    for step_id, state in zip(first, ("COMPLETED", "FAILED", "RUNNING"), strict=True):
        cluster.steps[step_id].state = state
    second = add(cluster, steps).execute(again().context)
    assert [second[0], second[2]] == [first[0], first[2]]
    assert names(cluster) == ["a", "b", "c", "b"]
    mark = StepMark.read(cluster.steps[second[1]].request["Name"])
    assert mark is not None
    assert mark.number == 2


def test_a_cleared_task_runs_its_steps_again(emr: FakeEmr, cluster: FakeCluster) -> None:
    [first] = add(cluster, [step("a")]).execute(first_try().context)
    cluster.steps[first].state = "COMPLETED"
    [second] = add(cluster, [step("a")]).execute(FakeTaskInstance(try_number=2, max_tries=3).context)
    assert first != second


def test_steps_whose_answer_is_lost_are_not_added_twice(emr: FakeEmr, cluster: FakeCluster) -> None:
    added = emr.add_job_flow_steps

    def answer_is_lost(**request: Any) -> Any:
        added(**request)
        raise lost_answer()

    emr.add_job_flow_steps = answer_is_lost  # type: ignore[method-assign]
    ids = add(cluster, [step("a"), step("b")]).execute(first_try().context)
    assert ids == list(cluster.steps)
    assert len(ids) == 2


def test_waiting_for_more_steps_than_a_call_takes(emr: FakeEmr, cluster: FakeCluster) -> None:
    steps = [step(f"s{n}") for n in range(23)]
    ids = add(cluster, steps, wait_for_completion=True).execute(first_try().context)
    assert len(ids) == 23
    assert {each.state for each in cluster.steps.values()} == {"COMPLETED"}


def test_a_step_that_fails_does_not_end_the_wait_for_the_others(emr: FakeEmr, cluster: FakeCluster) -> None:
    emr.step_ends["bad"] = "FAILED"
    emr.step_details["bad"] = {"Reason": "Unknown Error.", "Message": "exit 1", "LogFile": "s3://l/stderr.gz"}
    operator = add(cluster, [step("bad"), step("good"), step("better")], deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(first_try().context)
    path, fields = deferred.value.trigger.serialize()
    assert EmrStepsTrigger(**fields).serialize() == (path, fields)
    slow = list(cluster.steps.values())[2]
    slow.ends_as = "RUNNING"
    looks = iter(range(50))

    def sleep(_: float) -> None:
        if next(looks) == 20:
            slow.ends_as, slow.state = "COMPLETED", "COMPLETED"

    event = EmrStepsTrigger(**fields).wait_here(sleep=sleep, now=FastClock().now)
    assert next(looks) > 20
    with pytest.raises(StepFailedError, match="exit 1") as raised:
        add(cluster, [], deferrable=True).execute_complete(first_try().context, event)
    assert isinstance(raised.value, AirflowException)
    assert not isinstance(raised.value, AirflowFailException), "retries keep their meaning"
    assert {each.state for each in cluster.steps.values()} == {"COMPLETED", "FAILED"}


def test_a_deferred_task_returns_the_ids(emr: FakeEmr, cluster: FakeCluster) -> None:
    operator = add(cluster, [step("a"), step("b")], deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(first_try().context)
    event = waited(deferred.value.trigger)
    assert operator.execute_complete(first_try().context, event) == list(cluster.steps)


def test_a_cluster_that_ends_under_the_steps_is_told(emr: FakeEmr, cluster: FakeCluster) -> None:
    operator = add(cluster, [step("a"), step("b")], deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(first_try().context)
    emr.frozen = True
    emr.end(cluster.id, "INSTANCE_FAILURE", "spot took it")
    event = waited(deferred.value.trigger)
    with pytest.raises(ClusterLostError, match="spot took it"):
        operator.execute_complete(first_try().context, event)


def lost_run(emr: FakeEmr, **request: Any) -> tuple[FakeTaskInstance, FakeCluster]:
    """A run whose cluster is up, and the task instance of a task behind it."""
    up = FakeTaskInstance("up", max_tries=2)
    cluster_id = create(job_flow_overrides=JOB_FLOW | request).execute(up.context)
    emr.clusters[str(cluster_id)].state = "WAITING"
    ti = FakeTaskInstance("add", max_tries=2)
    ti.others = {("up", "emr_cluster_plan"): up.xcoms["emr_cluster_plan"]}
    return ti, emr.clusters[str(cluster_id)]


@pytest.mark.parametrize("ends_as", ["cluster alone", "steps too"])
def test_steps_go_on_on_the_replacement_of_a_lost_cluster(emr: FakeEmr, ends_as: str) -> None:
    ti, first = lost_run(emr)
    steps = [step("a"), step("b"), step("c", "s3-dist-cp", "--dest=hdfs:///x")]
    operator = add(first, steps, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(ti.context)
    for each, state in zip(first.steps.values(), ("COMPLETED", "RUNNING", "COMPLETED"), strict=True):
        each.state = each.ends_as = state
    if ends_as == "steps too":
        list(first.steps.values())[1].state = "INTERRUPTED"
    emr.end(first.id, "INSTANCE_FAILURE", "spot took it")
    event = waited(deferred.value.trigger)
    with pytest.raises(TaskDeferred) as deferred:
        add(first, steps, deferrable=True).execute_complete(ti.context, event)
    second = list(emr.clusters.values())[1]
    assert without_mark(second.request["Name"]) == "nightly"
    event = waited(deferred.value.trigger)
    with pytest.raises(TaskDeferred) as deferred:
        add(first, steps, deferrable=True).execute_complete(ti.context, event)
    assert names(second) == ["b", "c"], "what completed is not run again, unless it lived in HDFS"
    ids = add(first, steps, deferrable=True).execute_complete(ti.context, waited(deferred.value.trigger))
    assert ids == [next(iter(first.steps)), *second.steps]
    assert ti.xcoms["job_flow_id"] == second.id
    terminate(first.id).execute(FakeTaskInstance("down").context)
    assert second.state == "TERMINATED"


def test_a_retry_behind_a_lost_cluster_finds_what_has_completed(emr: FakeEmr) -> None:
    ti, first = lost_run(emr)
    [done] = add(first, [step("a")], wait_for_completion=True).execute(ti.context)
    emr.end(first.id, "INSTANCE_FAILURE", "spot took it")
    ti.try_number = 2
    assert add(first, [step("a")], wait_for_completion=True).execute(ti.context) == [done]
    [_, fresh] = add(first, [step("a"), step("b")], wait_for_completion=True).execute(ti.context)
    second = list(emr.clusters.values())[1]
    assert list(second.steps) == [fresh]


def test_a_cluster_that_was_ended_on_purpose_is_not_replaced(emr: FakeEmr) -> None:
    ti, first = lost_run(emr)
    terminate(first.id).execute(FakeTaskInstance("down").context)
    with pytest.raises(ClusterClosedError):
        add(first, [step("a")]).execute(ti.context)
    assert len(emr.clusters) == 1


def test_a_cluster_with_steps_of_its_own_is_not_replaced(emr: FakeEmr) -> None:
    ti, first = lost_run(emr, Steps=[step("prepare")])
    emr.end(first.id, "INSTANCE_FAILURE", "spot took it")
    with pytest.raises(ClusterLostError, match="spot took it"):
        add(first, [step("a")]).execute(ti.context)
    assert len(emr.clusters) == 1


def test_it_waits_for_room(emr: FakeEmr, cluster: FakeCluster) -> None:
    told = "Maximum number of active steps(State = 'Running', 'Pending' or 'Cancel_Pending') for cluster exceeded."
    emr.errors["AddJobFlowSteps"] = [
        refusal("AddJobFlowSteps", "ValidationException", told) for _ in range(3)
    ]
    assert len(add(cluster, [step("a")]).execute(first_try().context)) == 1
    emr.errors["AddJobFlowSteps"] = [
        refusal("AddJobFlowSteps", "ValidationException", told) for _ in range(90)
    ]
    with pytest.raises(WaitTimeoutError, match="no room"):
        add(cluster, [step("b")], waiter_max_attempts=20).execute(first_try().context)


def test_it_waits_for_room_for_all_of_its_steps(emr: FakeEmr, cluster: FakeCluster) -> None:
    emr.add_job_flow_steps(JobFlowId=cluster.id, Steps=[step("other")] * (MAX_ACTIVE_STEPS - 1))
    others = list(cluster.steps.values())
    operator, ti = add(cluster, [step("a"), step("b"), step("c")], deferrable=True), first_try()
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(ti.context)
    trigger = deferral.value.trigger
    assert isinstance(trigger, EmrJobFlowRoomTrigger)
    for other, there_is_room in zip(others, (False, True), strict=False):
        other.state = "COMPLETED"
        assert bool(trigger._has_room(operator.clients, cluster.id)) == there_is_room
    with pytest.raises(TaskDeferred) as added:
        operator.execute_complete(ti.context, {**trigger.fields(), "carry": trigger.carry, "status": "done"})
    assert isinstance(added.value.trigger, EmrStepsTrigger)
    assert names(cluster)[-3:] == ["a", "b", "c"]


def test_a_kill_cancels_the_steps(emr: FakeEmr, cluster: FakeCluster) -> None:
    operator = add(cluster, [step("a"), step("b")])
    operator.on_kill()
    operator.execute(first_try().context)
    operator.on_kill()
    assert {each.state for each in cluster.steps.values()} == {"CANCELLED"}


@pytest.mark.parametrize("over", [True, False])
def test_a_trigger_that_is_cancelled_ends_what_its_task_has_running_only_where_that_is_over(
    emr: FakeEmr, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, over: bool
) -> None:
    async def is_over(trigger: Any, *, unless: Any = ()) -> bool:
        return over

    for module in ("emr", "emr_cluster"):
        monkeypatch.setattr(f"airflow_emr_etl.triggers.{module}.is_over", is_over)
    with pytest.raises(TaskDeferred) as deferred:
        add(cluster, [step("a"), step("b")], deferrable=True).execute(first_try().context)
    asyncio.run(deferred.value.trigger.on_kill())
    expected = "CANCELLED" if over else "PENDING"
    assert {each.state for each in cluster.steps.values()} == {expected}
    with pytest.raises(TaskDeferred) as deferred:
        create(wait_for_completion=True, deferrable=True).execute(first_try().context)
    asyncio.run(deferred.value.trigger.on_kill())
    made = list(emr.clusters.values())[1]
    assert (made.state == "TERMINATED") is over


def test_a_deferred_task_that_is_failed_by_airflow_cancels_its_own_steps(
    emr: FakeEmr, cluster: FakeCluster
) -> None:
    steps = [step("a"), step("b")]
    [others] = add(cluster, [step("a")]).execute(FakeTaskInstance("other").context)
    with pytest.raises(TaskDeferred):
        add(cluster, steps, deferrable=True).execute(first_try().context)
    with pytest.raises(Exception, match="timed out"):
        add(cluster, steps).resume_execution("__fail__", {"error": "Trigger timed out"}, first_try().context)
    assert [each.state for each in cluster.steps.values()] == ["PENDING", "CANCELLED", "CANCELLED"]
    assert next(iter(cluster.steps)) == others


def test_a_wait_in_vain_cancels_the_steps(emr: FakeEmr, cluster: FakeCluster) -> None:
    emr.frozen = True
    with pytest.raises(WaitTimeoutError):
        add(cluster, [step("a")], wait_for_completion=True, waiter_max_attempts=5).execute(
            first_try().context
        )
    assert [each.state for each in cluster.steps.values()] == ["CANCELLED"]


def test_steps_as_text(emr: FakeEmr, cluster: FakeCluster) -> None:
    marked = step("a") | {"HadoopJarStep": {"Jar": "x.jar", "Properties": []}}
    for text in (json.dumps([marked]), str([marked])):
        add(cluster, text).execute(FakeTaskInstance(text[:8]).context)
    assert names(cluster) == ["a", "a"]
    with pytest.raises(ConfigurationError, match="steps must be a list"):
        add(cluster, "steps.yaml").execute(first_try().context)


def test_a_cluster_is_found_by_its_name_with_or_without_a_mark(emr: FakeEmr, cluster: FakeCluster) -> None:
    def by_name(name: str, **kwargs: Any) -> Any:
        return add(None, [step("a")], job_flow_name=name, **kwargs).execute(FakeTaskInstance(name).context)

    assert by_name("nightly", cluster_states=["WAITING"])
    long = "n" * 256
    marked = create(job_flow_overrides=JOB_FLOW | {"Name": long}).execute(FakeTaskInstance("up").context)
    assert by_name(long, cluster_states=["STARTING"])
    assert len(emr.clusters[str(marked)].steps) == 1
    create().execute(FakeTaskInstance("another").context)
    with pytest.raises(AirflowException, match="More than one cluster found for name nightly"):
        by_name("nightly")
    with pytest.raises(AirflowException, match="No cluster found for name: weekly"):
        by_name("weekly")
    with pytest.raises(ConfigurationError, match="WAITING"):
        by_name("nightly", cluster_states=["UP"])


def test_either_an_id_or_a_name() -> None:
    for both in ({}, {"job_flow_id": "j-1", "job_flow_name": "n"}):
        with pytest.raises(AirflowException, match="Exactly one of job_flow_id or job_flow_name"):
            EmrAddStepsOperator(task_id="t", **both)  # type: ignore[arg-type]


def test_the_parent_of_openlineage_does_not_make_another_step(
    emr: FakeEmr, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    spark = [step("a", "/usr/bin/spark-submit", "s3://x/y.py"), step("b", "s3-dist-cp", "--src=x")]
    for n, ti in enumerate((first_try(), again())):
        operator = add(cluster, spark, openlineage_inject_parent_job_info=True)
        words = ["--conf", f"spark.openlineage.parentRunId=try-{n}"]
        monkeypatch.setattr(operator, "_parent_arguments", lambda context, words=words: words)
        operator.execute(ti.context)
    assert [each.request["HadoopJarStep"]["Args"] for each in cluster.steps.values()] == [
        ["/usr/bin/spark-submit", "--conf", "spark.openlineage.parentRunId=try-0", "s3://x/y.py"],
        ["s3-dist-cp", "--src=x"],
    ]


def test_terminate_sends_the_end_first_and_ends_what_else_was_made(emr: FakeEmr) -> None:
    cluster_id = str(create().execute(first_try().context))
    [twin] = [emr.run_job_flow(**emr.clusters[cluster_id].request)["JobFlowId"]]
    other = emr.run_job_flow(**JOB_FLOW)["JobFlowId"]
    terminate(cluster_id).execute(FakeTaskInstance("down").context)
    assert {each.id for each in emr.clusters.values() if each.state == "TERMINATED"} == {cluster_id, twin}
    assert emr.clusters[other].state == "STARTING"


def test_terminate_works_where_describe_is_refused(emr: FakeEmr, cluster: FakeCluster) -> None:
    emr.errors["DescribeCluster"] = [
        refusal("DescribeCluster", "AccessDeniedException", "no", 400) for _ in range(9)
    ]
    terminate(cluster.id).execute(FakeTaskInstance("down").context)
    assert cluster.state == "TERMINATED"


def test_terminate_ends_a_cluster_whose_id_nobody_learnt(emr: FakeEmr) -> None:
    with DAG("d"):
        up = EmrCreateJobFlowOperator(task_id="up", job_flow_overrides=JOB_FLOW, emr_conn_id=None)
        down = EmrTerminateJobFlowOperator(task_id="down", job_flow_id=up.output, trigger_rule="all_done")
        up >> down
    up.execute(FakeTaskInstance("up").context)
    down.job_flow_id = None  # type: ignore[assignment]
    down.execute(FakeTaskInstance("down").context)
    assert emr.only_cluster().state == "TERMINATED"
    down.execute(FakeTaskInstance("down").context)


def test_terminate_of_an_unknown_id_is_told(emr: FakeEmr) -> None:
    with pytest.raises(AirflowException, match="no cluster j-none"):
        terminate("j-none").execute(FakeTaskInstance("down").context)


def test_terminate_waits_where_it_defers(emr: FakeEmr, cluster: FakeCluster) -> None:
    operator = terminate(cluster.id, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(FakeTaskInstance("down").context)
    event = waited(deferred.value.trigger)
    assert operator.execute_complete(FakeTaskInstance("down").context, event) is None


def test_modify_returns_the_level(
    emr: FakeEmr, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        emr,
        "modify_cluster",
        lambda **request: {"StepConcurrencyLevel": request["StepConcurrencyLevel"]},
        raising=False,
    )
    ti = first_try()
    operator = EmrModifyClusterOperator(task_id="t", cluster_id=cluster.id, step_concurrency_level=3)
    assert operator.execute(ti.context) == 3
    assert ti.xcoms["cluster_id"] == cluster.id


def test_failures_are_airflow_s_and_keep_their_type(emr: FakeEmr, cluster: FakeCluster) -> None:
    for code, kind in (("AccessDeniedException", AccessDeniedError), ("ThrottlingException", ThrottledError)):
        emr.errors["AddJobFlowSteps"] = [refusal("AddJobFlowSteps", code, "no", 400) for _ in range(20)]
        with pytest.raises(AirflowException, match="no") as raised:
            add(cluster, [step("a")]).execute(first_try().context)
        assert isinstance(raised.value, kind)
        copy = pickle.loads(pickle.dumps(raised.value))
        assert isinstance(copy, kind)
        assert isinstance(copy, AirflowException)
        assert (str(copy), copy.code) == (str(raised.value), code)


def test_region_has_no_effect_and_says_so() -> None:
    with pytest.warns(UserWarning, match="Write region_name='eu-west-1'"):
        operator = EmrModifyClusterOperator(
            task_id="t", cluster_id="j-1", step_concurrency_level=1, region="eu-west-1"
        )
    assert operator.region_name is None


def test_settings_of_the_client_reach_it_but_writes_are_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", "aws://")
    operator = EmrModifyClusterOperator(
        task_id="t",
        cluster_id="j-1",
        step_concurrency_level=1,
        region_name="eu-west-1",
        verify=False,
        botocore_config={"read_timeout": 7, "retries": {"max_attempts": 9, "mode": "standard"}},
    )
    asked = []

    class Hook:
        def __init__(self, **given: Any) -> None:
            asked.append(given)

        def get_client_type(self, **given: Any) -> Any:
            return SimpleNamespace(**given)

    monkeypatch.setattr("airflow.providers.amazon.aws.hooks.base_aws.AwsBaseHook", Hook)
    reads, writes = operator.clients.reads.config, operator.clients.writes.config
    assert asked[0]["verify"] is False
    assert (reads.read_timeout, reads.connect_timeout) == (7, 10)
    assert reads.retries["mode"] == "standard"
    assert writes.read_timeout == 7
    assert writes.retries["total_max_attempts"] == 1
