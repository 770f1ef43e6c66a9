from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from airflow.exceptions import AirflowFailException, TaskDeferred
from fakes.emr import MAX_ACTIVE_STEPS, FakeCluster, FakeEmr, FakeStep, outage, refusal
from fakes.task_instance import FakeTaskInstance
from moto import mock_aws

from airflow_emr_etl.exceptions import (
    BootstrapFailedError,
    ClusterClosedError,
    ClusterError,
    ClusterLostError,
    ConfigurationError,
    GateFailedError,
    PoolFullError,
    ServiceUnavailableError,
    StepCancelledError,
    StepFailedError,
    TaskKilledError,
    WaitTimeoutError,
)
from airflow_emr_etl.hooks.s3_lake import S3LakeHook
from airflow_emr_etl.models.cluster import ClusterSpec, Fleet
from airflow_emr_etl.models.intent import TAG_GENERATION, TAG_RUNG, Scope, StepMark, tags_for_run
from airflow_emr_etl.models.plan import MAX_GENERATIONS, ClusterPlan
from airflow_emr_etl.models.step import CommandStep
from airflow_emr_etl.operators.base import site
from airflow_emr_etl.operators.emr_cluster import PLAN_KEY, EmrTerminateClusterOperator
from airflow_emr_etl.operators.emr_step import EmrSparkOperator, EmrStepOperator
from airflow_emr_etl.operators.quality_gate import EmrQualityGateOperator
from airflow_emr_etl.triggers.emr_room import EmrRoomTrigger
from airflow_emr_etl.triggers.emr_step import EmrStepTrigger
from airflow_emr_etl.triggers.polling import PollingTrigger

STEP = CommandStep(name="work", command=["true"])
SPEC = ClusterSpec(
    name="x",
    log_uri="s3://emr-logs/emr/",
    core=Fleet(types=["m5.xlarge"], spot_units=2),
    fallback_types="r5.xlarge",
)


@pytest.fixture
def plan() -> ClusterPlan:
    """What the task ``up`` of the same run made."""
    scope = Scope("d", "r", "up", site=site())
    return ClusterPlan.of_spec(SPEC, scope.lineage, tags_for_run(scope))


@pytest.fixture
def cluster(emr: FakeEmr, plan: ClusterPlan) -> FakeCluster:
    return cluster_up(emr, plan)


def cluster_up(emr: FakeEmr, plan: ClusterPlan, generation: int = 1) -> FakeCluster:
    cluster = emr.clusters[emr.run_job_flow(**plan.request(0, generation))["JobFlowId"]]
    cluster.state = "WAITING"
    return cluster


@pytest.fixture(scope="module")
def mocked_s3() -> Iterator[Any]:
    with mock_aws():
        yield boto3.client("s3", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")


@pytest.fixture
def s3(mocked_s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for bucket in ("emr-logs", "lake"):
        mocked_s3.create_bucket(Bucket=bucket)
    monkeypatch.setattr(S3LakeHook, "client", mocked_s3)
    yield mocked_s3
    for bucket in ("emr-logs", "lake"):
        for item in mocked_s3.list_objects_v2(Bucket=bucket).get("Contents", []):
            mocked_s3.delete_object(Bucket=bucket, Key=item["Key"])


def task(plan: ClusterPlan, task_id: str = "t", *, max_tries: int = 0) -> FakeTaskInstance:
    """A step's task instance that can read the plan."""
    ti = FakeTaskInstance(task_id, max_tries=max_tries)
    ti.others[("up", PLAN_KEY)] = json.loads(json.dumps(plan.document()))
    return ti


def step(cluster: FakeCluster, **kwargs: Any) -> EmrStepOperator:
    defaults = {
        "task_id": "t",
        "cluster_id": cluster.id,
        "step": STEP,
        "deferrable": False,
        "poll_interval": 1,
    }
    return EmrStepOperator(**{**defaults, **kwargs})


def kept(cluster: FakeCluster, **kwargs: Any) -> EmrStepOperator:
    """A step of an ``EmrCluster``: it knows what the cluster is made of."""
    return step(cluster, cluster_task_id="up", **kwargs)


def spark(cluster: FakeCluster, **kwargs: Any) -> EmrSparkOperator:
    defaults = {"cluster_id": cluster.id, "script": "s3://lake/x.py", "deferrable": False, "poll_interval": 1}
    return EmrSparkOperator(task_id="t", **{**defaults, **kwargs})


def deferred(make: Callable[[], Any]) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as raised:
        make()
    return raised.value


def event_of(emr: FakeEmr, deferral: TaskDeferred) -> dict[str, Any]:
    """What the trigger, made again from what is stored of it, comes to."""
    _, fields = deferral.trigger.serialize()
    trigger: PollingTrigger = type(deferral.trigger)(**json.loads(json.dumps(fields)))
    payload = trigger.wait_here(sleep=emr.clock.sleep, now=emr.clock.now)
    return dict(json.loads(json.dumps(payload)))


def run(
    emr: FakeEmr, operator: EmrStepOperator, ti: FakeTaskInstance, event: dict[str, Any] | None = None
) -> Any:
    """Execute, or complete from an event; and run the triggers of every deferral that follows."""
    while True:
        try:
            return operator.execute_complete(ti.context, event) if event else operator.execute(ti.context)
        except TaskDeferred as deferral:
            event = event_of(emr, deferral)


def mark_of(made: FakeStep) -> StepMark:
    mark = StepMark.read(made.request["Name"])
    assert mark is not None
    return mark


def test_it_returns_what_ran(cluster: FakeCluster) -> None:
    ti = FakeTaskInstance()
    result = step(cluster).execute(ti.context)
    [step_id] = cluster.steps
    assert result == {"cluster_id": cluster.id, "step_id": step_id, "state": "COMPLETED"}
    assert ti.xcoms["emr_step"] == {"cluster_id": cluster.id, "step_id": step_id}
    assert step_id in ti.xcoms["_link_EmrLogsLink"]


def test_it_defers_and_completes_without_what_defer_would_carry(emr: FakeEmr, cluster: FakeCluster) -> None:
    ti = FakeTaskInstance()
    deferral = deferred(lambda: step(cluster, deferrable=True).execute(ti.context))
    assert deferral.timeout is not None
    assert not deferral.kwargs
    path, fields = deferral.trigger.serialize()
    assert EmrStepTrigger(**fields).serialize() == (path, fields)
    assert fields["cancel_on_kill"]
    event = event_of(emr, deferral)
    assert step(cluster, deferrable=True).execute_complete(ti.context, event)["state"] == "COMPLETED"


def test_a_failure_tells_what_the_step_said(
    emr: FakeEmr, cluster: FakeCluster, s3: Any, caplog: pytest.LogCaptureFixture
) -> None:
    emr.step_ends["work"] = "FAILED"
    emr.step_details["work"] = {
        "Reason": "Unknown Error.",
        "Message": "exit 1",
        "LogFile": "s3://emr-logs/x/stderr.gz",
    }
    operator = step(cluster, deferrable=True)
    deferral = deferred(lambda: operator.execute(FakeTaskInstance().context))
    [step_id] = cluster.steps
    folder = f"emr/{cluster.id}/steps/{step_id}"
    output = "".join(f"line {n}\n" for n in range(100)) + "Traceback …\nZeroDivisionError: division by zero\n"
    s3.put_object(Bucket="emr-logs", Key=f"{folder}/stdout.gz", Body=gzip.compress(output.encode()))
    s3.put_object(Bucket="emr-logs", Key=f"{folder}/controller.gz", Body=gzip.compress(b"controller\n"))
    event = event_of(emr, deferral)
    with caplog.at_level(logging.ERROR), pytest.raises(AirflowFailException) as raised:
        operator.execute_complete(FakeTaskInstance().context, event)
    said = str(raised.value)
    for part in ("'work'", "Unknown Error.", "exit 1", "s3://emr-logs/x/stderr.gz", "ZeroDivisionError"):
        assert part in said
    assert "controller" not in said
    cause = raised.value.__cause__
    assert isinstance(cause, StepFailedError)
    assert (cause.step_id, cause.reason, cause.log_file) == (
        step_id,
        "Unknown Error.",
        "s3://emr-logs/x/stderr.gz",
    )


def test_a_failure_without_logs_says_where_they_will_be(emr: FakeEmr, cluster: FakeCluster, s3: Any) -> None:
    emr.step_ends["work"] = "FAILED"
    with pytest.raises(AirflowFailException, match=r"not in s3://emr-logs/emr/j-\d+/steps/s-\d+/ yet"):
        step(cluster).execute(FakeTaskInstance().context)


def test_a_cancelled_step_fails_the_task(emr: FakeEmr, cluster: FakeCluster, s3: Any) -> None:
    emr.step_ends["work"] = "CANCELLED"
    with pytest.raises(AirflowFailException) as raised:
        step(cluster).execute(FakeTaskInstance().context)
    assert isinstance(raised.value.__cause__, StepCancelledError)


@pytest.mark.parametrize("how", ["kill", "timeout", "airflow's timeout", "failure of the wait"])
def test_what_is_given_up_is_cancelled(emr: FakeEmr, cluster: FakeCluster, how: str) -> None:
    ti = FakeTaskInstance(max_tries=3)
    operator = step(cluster, deferrable=True)
    fields = deferred(lambda: operator.execute(ti.context)).trigger.serialize()[1]
    made = cluster.only_step
    if how == "kill":
        operator.on_kill()
    elif how == "timeout":
        with pytest.raises(WaitTimeoutError):
            step(cluster).execute_complete(ti.context, {**fields, "status": "timeout"})
    elif how == "airflow's timeout":
        with pytest.raises(Exception, match="Trigger timeout"):
            step(cluster).resume_execution("__fail__", {"error": "Trigger timeout"}, ti.context)
    else:
        error = {"type": "AccessDeniedError", "message": "no", "details": {}}
        with pytest.raises(AirflowFailException):
            step(cluster).execute_complete(ti.context, {**fields, "status": "error", "error": error})
    assert made.state == "CANCELLED"
    [option] = [request["StepCancellationOption"] for name, request in emr.log if name == "CancelSteps"]
    assert option == "SEND_INTERRUPT", "the program may clean up"


def test_a_step_that_does_not_listen_is_killed(emr: FakeEmr, cluster: FakeCluster) -> None:
    operator = step(cluster, deferrable=True)
    deferred(lambda: operator.execute(FakeTaskInstance().context))
    emr.frozen = cluster.only_step.is_deaf = True
    operator.on_kill()
    assert cluster.only_step.state == "CANCELLED"
    assert emr.calls["CancelSteps"] == 2


def test_a_kill_before_there_is_a_step_does_nothing(emr: FakeEmr, cluster: FakeCluster) -> None:
    step(cluster).on_kill()
    assert emr.calls["CancelSteps"] == 0


def test_a_kill_while_it_waits_in_the_worker_can_be_retried(emr: FakeEmr, cluster: FakeCluster) -> None:
    emr.step_ends["work"] = "RUNNING"
    operator = step(cluster)
    emr.clock.after(60, operator.on_kill)
    with pytest.raises(TaskKilledError):
        operator.execute(FakeTaskInstance().context)
    assert cluster.only_step.state == "CANCELLED"


@pytest.mark.parametrize(("max_tries", "state"), [(1, "RUNNING"), (0, "CANCELLED")])
def test_what_can_pass_leaves_the_step_to_the_next_try_where_there_is_one(
    emr: FakeEmr, cluster: FakeCluster, max_tries: int, state: str
) -> None:
    ti = FakeTaskInstance(max_tries=max_tries)
    event = deferred(lambda: step(cluster, deferrable=True).execute(ti.context)).trigger.serialize()[1]
    emr.frozen, cluster.only_step.state = True, "RUNNING"
    error = {"type": "ServiceUnavailableError", "message": "no", "details": {}}
    with pytest.raises(ServiceUnavailableError):
        step(cluster).execute_complete(ti.context, {**event, "status": "error", "error": error})
    assert cluster.only_step.state == state


def test_a_list_that_fails_does_not_lose_what_was_added(emr: FakeEmr, cluster: FakeCluster) -> None:
    emr.errors["ListSteps"] = [outage("ListSteps") for _ in range(50)]
    assert run(emr, step(cluster), FakeTaskInstance())["step_id"] == cluster.only_step.id


@pytest.mark.parametrize(("max_tries", "state"), [(1, "PENDING"), (0, "CANCELLED")])
def test_a_failure_that_is_not_amazons_leaves_nothing_running_either(
    emr: FakeEmr, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, max_tries: int, state: str
) -> None:
    def refuse(self: Any, key: str, value: Any) -> None:
        raise RuntimeError("Airflow's API does not answer")

    monkeypatch.setattr(FakeTaskInstance, "xcom_push", refuse)
    with pytest.raises(RuntimeError):
        run(emr, step(cluster), FakeTaskInstance(max_tries=max_tries))
    assert cluster.only_step.state == state


# Another try


def test_an_answer_that_was_lost_is_looked_for(emr: FakeEmr, cluster: FakeCluster) -> None:
    emr.lost_answers["AddJobFlowSteps"] = [outage("AddJobFlowSteps")]
    assert run(emr, step(cluster), FakeTaskInstance())["step_id"] == cluster.only_step.id


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETED"])
def test_a_retry_takes_over_the_step_and_its_path(emr: FakeEmr, cluster: FakeCluster, state: str) -> None:
    ti = FakeTaskInstance(max_tries=1)
    operator = spark(cluster, output="s3://lake/out", deferrable=True)
    deferred(lambda: operator.execute(ti.context))  # and the worker dies
    cluster.only_step.state = state
    result = run(emr, spark(cluster, output="s3://lake/out"), ti.next_try())
    assert result["step_id"] == cluster.only_step.id
    assert cluster.only_step.args[-2:] == ["--output", result["output"]]


def test_a_step_that_failed_runs_again_and_writes_elsewhere(
    emr: FakeEmr, cluster: FakeCluster, s3: Any
) -> None:
    emr.step_ends["t"] = ["FAILED", "COMPLETED"]
    ti = FakeTaskInstance(max_tries=1)
    with pytest.raises(AirflowFailException):
        run(emr, spark(cluster, output="s3://lake/out"), ti)
    result = run(emr, spark(cluster, output="s3://lake/out"), ti.next_try())
    failed, again = cluster.steps.values()
    assert [mark_of(failed).number, mark_of(again).number] == [1, 2]
    assert again.args[-2:] == ["--output", result["output"]]
    assert result["output"] == f"s3://lake/out/attempt={mark_of(again).attempt}/"
    assert failed.args[-1] != again.args[-1]


def test_a_cleared_task_runs_its_step_again(emr: FakeEmr, cluster: FakeCluster) -> None:
    ti = FakeTaskInstance(max_tries=2)
    first = run(emr, step(cluster, retries=2), ti)
    again = run(emr, step(cluster, retries=2), ti.cleared(retries=2))
    assert first["step_id"] != again["step_id"]
    assert [mark_of(made).clears for made in cluster.steps.values()] == [0, 1]


def test_a_clear_ends_what_was_running(emr: FakeEmr, cluster: FakeCluster) -> None:
    ti = FakeTaskInstance()
    deferred(lambda: step(cluster, deferrable=True).execute(ti.context))
    old = cluster.only_step
    old.state = "RUNNING"
    run(emr, step(cluster), ti.cleared())
    assert [made.state for made in cluster.steps.values()] == ["CANCELLED", "COMPLETED"]


@pytest.mark.parametrize("try_number", [1, 2])
def test_a_deleted_run_of_the_same_name_does_not_count(
    emr: FakeEmr, cluster: FakeCluster, try_number: int
) -> None:
    old = run(emr, step(cluster), FakeTaskInstance())
    emr.clock.sleep(3600)
    ti = FakeTaskInstance(try_number=try_number, max_tries=1)
    ti.run_started = emr.clock.now()
    new = run(emr, step(cluster, retries=1), ti)
    assert new["step_id"] != old["step_id"]
    assert [made.state for made in cluster.steps.values()] == ["COMPLETED", "COMPLETED"]


def test_a_late_cancel_of_the_first_try_does_not_fail_the_second(emr: FakeEmr, cluster: FakeCluster) -> None:
    ti = FakeTaskInstance(max_tries=1)
    first = step(cluster, deferrable=True)
    deferred(lambda: first.execute(ti.context))
    emr.step_ends["work"] = "COMPLETED"
    cluster.only_step.ends_as = "RUNNING"
    emr.clock.after(60, first.on_kill)
    result = run(emr, step(cluster), ti.next_try())
    one, two = cluster.steps.values()
    assert (one.state, two.id, mark_of(two).number) == ("CANCELLED", result["step_id"], 2)


def test_two_tries_at_once_come_to_one_step(emr: FakeEmr, cluster: FakeCluster) -> None:
    ti = FakeTaskInstance(max_tries=1)
    other: list[Any] = []
    emr.meanwhile["AddJobFlowSteps"] = [lambda: other.append(run(emr, step(cluster), ti))]
    assert [run(emr, step(cluster), ti)] == other
    assert sorted(made.state for made in cluster.steps.values()) == ["CANCELLED", "COMPLETED"]


# A lost cluster


def test_without_its_plan_a_lost_cluster_is_a_failure_that_can_pass(
    emr: FakeEmr, cluster: FakeCluster
) -> None:
    operator = step(cluster, deferrable=True)
    deferral = deferred(lambda: operator.execute(FakeTaskInstance().context))
    emr.lose(cluster.id)
    with pytest.raises(ClusterLostError, match="spot"):
        operator.execute_complete(FakeTaskInstance().context, event_of(emr, deferral))


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize("when", ["pending", "running", "open"])
def test_a_step_goes_on_on_the_replacement(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan, when: str, deferrable: bool
) -> None:
    ti = task(plan)
    deferral = deferred(lambda: kept(cluster, deferrable=True).execute(ti.context))
    cluster.only_step.state = "PENDING" if when == "pending" else "RUNNING"
    if when == "open":
        emr.end(cluster.id, "INSTANCE_FAILURE", "spot")
    else:
        emr.lose(cluster.id)
    result = run(emr, kept(cluster, deferrable=deferrable), ti, event_of(emr, deferral))
    replacement = emr.last
    assert result == {
        "cluster_id": replacement.id,
        "step_id": replacement.only_step.id,
        "state": "COMPLETED",
    }
    assert replacement.tags[TAG_GENERATION] == "2"
    assert ti.xcoms["emr_step"] == {"cluster_id": replacement.id, "step_id": replacement.only_step.id}
    assert replacement.id in ti.xcoms["_link_EmrClusterLink"]


def test_a_step_with_a_limit_waits_for_its_turn_on_the_replacement_too(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan
) -> None:
    ti, operator = task(plan), kept(cluster, deferrable=True, max_active_steps=8)
    deferral = deferred(lambda: operator.execute(ti.context))
    emr.lose(cluster.id)
    up = deferred(lambda: operator.execute_complete(ti.context, room(deferral)))
    replacement = emr.last
    turn = deferred(lambda: operator.execute_complete(ti.context, event_of(emr, up)))
    assert isinstance(turn.trigger, EmrRoomTrigger)
    assert turn.trigger.cluster_ids == [replacement.id] != [cluster.id]
    assert run(emr, operator, ti, room(turn))["cluster_id"] == replacement.id
    assert len(replacement.steps) == 1


def test_a_step_that_the_loss_failed_goes_on_too(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan
) -> None:
    ti = task(plan)
    deferral = deferred(lambda: kept(cluster, deferrable=True).execute(ti.context))
    cluster.only_step.state = "FAILED"
    emr.lose(cluster.id)
    assert run(emr, kept(cluster), ti, event_of(emr, deferral))["cluster_id"] != cluster.id


def test_a_step_that_failed_and_took_its_cluster_along_has_failed(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan, s3: Any
) -> None:
    ti = task(plan, max_tries=3)
    deferral = deferred(lambda: kept(cluster, deferrable=True).execute(ti.context))
    cluster.only_step.state = "FAILED"
    emr.end(cluster.id, "STEP_FAILURE", "Shut down as step failed")
    with pytest.raises(AirflowFailException) as raised:
        run(emr, kept(cluster), ti, event_of(emr, deferral))
    assert isinstance(raised.value.__cause__, StepFailedError)
    assert len(emr.clusters) == 1


def test_a_cluster_that_was_lost_before_the_step_came_is_replaced(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan
) -> None:
    emr.lose(cluster.id)
    assert run(emr, kept(cluster), task(plan))["cluster_id"] == emr.last.id != cluster.id


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_parallel_steps_meet_on_one_replacement(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan, order: tuple[int, ...]
) -> None:
    names = ["a", "b", "c"]
    tis = [task(plan, name) for name in names]
    deferrals = [
        deferred(lambda ti=ti: kept(cluster, task_id=ti.task_id, deferrable=True).execute(ti.context))
        for ti in tis
    ]
    emr.clock.sleep(60)
    emr.list_lag_seconds = 10
    emr.lose(cluster.id)
    waits = {
        n: deferred(
            lambda n=n: kept(cluster, task_id=names[n], deferrable=True).execute_complete(
                tis[n].context, event_of(emr, deferrals[n])
            )
        )
        for n in order
    }
    results = [
        run(emr, kept(cluster, task_id=names[n]), tis[n], event_of(emr, deferral))
        for n, deferral in waits.items()
    ]
    assert {result["cluster_id"] for result in results} == {emr.live[0].id}
    assert len(emr.live[0].steps) == 3
    assert len(emr.live) == 1
    if order[0] == 0:
        assert len(emr.clusters) == 2, "and where the first comes first, none was made in vain"


def test_what_completed_is_not_run_again_on_a_replacement(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan
) -> None:
    run(emr, kept(cluster, task_id="a"), task(plan, "a"))
    emr.lose(cluster.id)
    run(emr, kept(cluster, task_id="b"), task(plan, "b"))
    assert len(emr.last.steps) == 1


def test_a_teardown_is_not_taken_for_a_loss(emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan) -> None:
    ti = task(plan, max_tries=3)
    deferral = deferred(lambda: kept(cluster, deferrable=True).execute(ti.context))
    down = EmrTerminateClusterOperator(task_id="down", cluster_id=cluster.id, cluster_task_id="up")
    down.execute(FakeTaskInstance("down").context)
    with pytest.raises(AirflowFailException, match="clear it together with") as raised:
        run(emr, kept(cluster), ti, event_of(emr, deferral))
    assert isinstance(raised.value.__cause__, ClusterClosedError)
    assert emr.live == []


def test_want_of_capacity_for_the_replacement_walks_down_the_ladder(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan
) -> None:
    emr.lose(cluster.id)
    emr.cluster_ends = [("VALIDATION_ERROR", "insufficient capacity"), None]
    result = run(emr, kept(cluster), task(plan))
    assert result["cluster_id"] == emr.last.id
    assert [each.tags[TAG_RUNG] for each in emr.clusters.values()] == ["0", "0", "1"]


def test_a_replacement_that_cannot_come_up_is_final(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan
) -> None:
    emr.lose(cluster.id)
    emr.cluster_end = ("BOOTSTRAP_FAILURE", "bootstrap action 1 failed")
    with pytest.raises(AirflowFailException) as raised:
        run(emr, kept(cluster), task(plan, max_tries=3))
    assert isinstance(raised.value.__cause__, BootstrapFailedError)


def test_a_cluster_is_not_replaced_for_ever(emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan) -> None:
    emr.lose(cluster.id)
    emr.cluster_end = ("INSTANCE_FAILURE", "spot")
    with pytest.raises(AirflowFailException, match=f"generation {MAX_GENERATIONS}") as raised:
        run(emr, kept(cluster), task(plan, max_tries=3))
    assert isinstance(raised.value.__cause__, ClusterError)
    assert len(emr.clusters) == MAX_GENERATIONS


def test_a_replacement_that_is_lost_as_soon_as_it_is_up_is_replaced(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan
) -> None:
    emr.lose(cluster.id)
    ti = task(plan)
    event = event_of(emr, deferred(lambda: kept(cluster, deferrable=True).execute(ti.context)))
    emr.lose(emr.last.id)
    assert run(emr, kept(cluster), ti, event)["cluster_id"] == emr.last.id
    assert len(emr.clusters) == 3


def test_a_cluster_that_refuses_before_it_shows_its_end_is_asked_with_patience(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan
) -> None:
    words = "A job flow that is shutting down, terminated, or finished may not be modified."
    emr.errors["AddJobFlowSteps"] = [
        refusal("AddJobFlowSteps", "ValidationException", words) for _ in range(100)
    ]

    def show() -> None:
        emr.errors.clear()
        emr.lose(cluster.id)

    emr.clock.after(10, show)
    assert run(emr, kept(cluster), task(plan))["cluster_id"] == emr.last.id
    assert emr.calls["AddJobFlowSteps"] < 20


def test_a_retry_finds_its_step_on_the_replacement(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan
) -> None:
    ti = task(plan, max_tries=1)
    emr.lose(cluster.id)
    waiting = event_of(emr, deferred(lambda: kept(cluster, deferrable=True).execute(ti.context)))
    deferred(lambda: kept(cluster, deferrable=True).execute_complete(ti.context, waiting))  # the worker dies
    replacement = emr.last
    result = run(emr, kept(cluster), ti.next_try())
    assert result["step_id"] == replacement.only_step.id
    assert len(emr.clusters) == 2


def test_a_retry_finds_what_was_done_elsewhere(emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan) -> None:
    """The step completed on a replacement, which was lost in its turn before the next try asked."""
    ti = task(plan, max_tries=1)
    emr.lose(cluster.id)
    operator = kept(cluster, retries=1, deferrable=True)
    waiting = event_of(emr, deferred(lambda: operator.execute(ti.context)))
    deferred(lambda: operator.execute_complete(ti.context, waiting))
    replacement = emr.last
    replacement.only_step.state = "COMPLETED"
    emr.lose(replacement.id)
    result = run(emr, kept(cluster, retries=1), ti.next_try())
    assert (result["cluster_id"], result["step_id"]) == (replacement.id, replacement.only_step.id)
    assert len(emr.clusters) == 2
    again = run(emr, kept(cluster, retries=1), ti.next_try().cleared(retries=1))
    assert again["cluster_id"] not in (cluster.id, replacement.id), "a cleared task runs its step again"


# Work that lived in HDFS


def test_what_lived_in_hdfs_is_done_again_first(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan
) -> None:
    first = CommandStep(name="first", command=["s3-dist-cp", "--dest", "hdfs:///a"])
    run(emr, kept(cluster, task_id="a", step=first, on_hdfs=True), task(plan, "a"))
    run(emr, kept(cluster, task_id="b"), task(plan, "b"))
    ti = task(plan, "c")
    deferral = deferred(lambda: kept(cluster, task_id="c", deferrable=True).execute(ti.context))
    emr.lose(cluster.id)
    result = run(emr, kept(cluster, task_id="c", deferrable=True), ti, event_of(emr, deferral))
    restored, own = emr.last.steps.values()
    assert (restored.name, own.id) == ("first", result["step_id"])
    assert restored.request["HadoopJarStep"] == next(iter(cluster.steps.values())).request["HadoopJarStep"]
    calls = [request.get("StepId") for operation, request in emr.log if operation == "DescribeStep"]
    assert calls.index(restored.id) < calls.index(own.id), "it waits for what is restored"
    assert restored.state == own.state == "COMPLETED"


def test_parallel_steps_restore_it_once(emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan) -> None:
    first = CommandStep(name="first", command=["load"])
    run(emr, kept(cluster, task_id="a", step=first, on_hdfs=True), task(plan, "a"))
    emr.lose(cluster.id)
    for name in ("b", "c"):
        run(emr, kept(cluster, task_id=name), task(plan, name))
    assert [made.name for made in emr.last.steps.values()] == ["first", "work", "work"]


def test_a_deleted_runs_work_in_hdfs_is_not_done_again(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan
) -> None:
    run(emr, kept(cluster, task_id="a", on_hdfs=True), task(plan, "a"))
    emr.end(cluster.id, "USER_REQUEST", "", state="TERMINATED")
    emr.clock.sleep(3600)
    began = emr.clock.now()
    second = cluster_up(emr, plan)
    emr.lose(second.id)
    ti = task(plan, "b")
    ti.run_started = began
    run(emr, kept(second, task_id="b"), ti)
    assert len(emr.last.steps) == 1


def test_a_restore_that_fails_is_a_failure(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan, s3: Any
) -> None:
    emr.step_ends["first"] = ["COMPLETED", "FAILED"]
    first = CommandStep(name="first", command=["load"])
    run(emr, kept(cluster, task_id="a", step=first, on_hdfs=True), task(plan, "a"))
    emr.lose(cluster.id)
    with pytest.raises(AirflowFailException, match="'first") as raised:
        run(emr, kept(cluster, task_id="b"), task(plan, "b"))
    assert isinstance(raised.value.__cause__, StepFailedError)


def test_a_restored_step_that_is_lost_with_its_cluster_is_restored_again(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan
) -> None:
    first = CommandStep(name="first", command=["load"])
    run(emr, kept(cluster, task_id="a", step=first, on_hdfs=True), task(plan, "a"))
    emr.lose(cluster.id)
    ti = task(plan, "b")
    operator = kept(cluster, task_id="b", deferrable=True)
    up = event_of(emr, deferred(lambda: operator.execute(ti.context)))
    restoring = deferred(lambda: operator.execute_complete(ti.context, up))
    second = emr.last
    assert [made.name for made in second.steps.values()] == ["first"]
    emr.lose(second.id)
    run(emr, operator, ti, event_of(emr, restoring))
    assert [made.name for made in emr.last.steps.values()] == ["first", "work"]
    assert emr.last.id != second.id


def test_a_completed_step_whose_hdfs_has_gone_runs_again_on_a_retry(
    emr: FakeEmr, cluster: FakeCluster, plan: ClusterPlan
) -> None:
    ti = task(plan, max_tries=1)
    deferred(lambda: kept(cluster, on_hdfs=True, deferrable=True).execute(ti.context))
    cluster.only_step.state = "COMPLETED"
    emr.lose(cluster.id)
    result = run(emr, kept(cluster, on_hdfs=True), ti.next_try())
    assert result["cluster_id"] == emr.last.id != cluster.id
    assert emr.last.only_step.id == result["step_id"]


# Room


def fill(emr: FakeEmr, cluster: FakeCluster) -> list[FakeStep]:
    emr.add_job_flow_steps(
        JobFlowId=cluster.id, Steps=[CommandStep(name="x", command=["a"]).to_api()] * MAX_ACTIVE_STEPS
    )
    return list(cluster.steps.values())


def test_a_full_cluster_is_waited_for(emr: FakeEmr, cluster: FakeCluster) -> None:
    others = fill(emr, cluster)
    ti = FakeTaskInstance()
    operator = step(cluster, deferrable=True, poll_interval=30)
    deferral = deferred(lambda: operator.execute(ti.context))
    assert isinstance(deferral.trigger, EmrRoomTrigger)
    assert deferral.trigger.cluster_ids == [cluster.id]
    # Somebody else was quicker than the trigger: the worker finds it full again.
    again = deferred(lambda: operator.execute_complete(ti.context, room(deferral)))
    assert isinstance(again.trigger, EmrRoomTrigger)
    others[0].state = "COMPLETED"
    assert run(emr, operator, ti, room(again))["state"] == "COMPLETED"
    assert len(cluster.steps) == MAX_ACTIVE_STEPS + 1


def room(deferral: TaskDeferred) -> dict[str, Any]:
    assert isinstance(deferral.trigger, EmrRoomTrigger)
    return {**deferral.trigger.fields(), "carry": deferral.trigger.carry, "status": "done"}


def test_a_step_that_has_a_limit_waits_for_its_turn_before_it_is_added(
    emr: FakeEmr, cluster: FakeCluster
) -> None:
    ti = FakeTaskInstance(map_index=3)
    operator = step(cluster, deferrable=True, max_active_steps=8)
    deferral = deferred(lambda: operator.execute(ti.context))
    assert isinstance(deferral.trigger, EmrRoomTrigger)
    assert (deferral.trigger.cluster_ids, deferral.trigger.most_active) == ([cluster.id], 8)
    assert emr.calls["AddJobFlowSteps"] == 0
    assert run(emr, operator, ti, room(deferral))["state"] == "COMPLETED"
    assert len(cluster.steps) == 1


def test_a_retry_whose_step_is_there_does_not_wait_for_its_turn_again(
    emr: FakeEmr, cluster: FakeCluster
) -> None:
    ti = FakeTaskInstance(max_tries=1)
    operator = step(cluster, deferrable=True, max_active_steps=8)
    deferral = deferred(lambda: operator.execute(ti.context))
    deferred(lambda: operator.execute_complete(ti.context, room(deferral)))
    again = deferred(
        lambda: step(cluster, deferrable=True, max_active_steps=8).execute(ti.next_try().context)
    )
    assert not isinstance(again.trigger, EmrRoomTrigger)
    assert len(cluster.steps) == 1


def test_a_retry_whose_step_has_failed_waits_for_its_turn(emr: FakeEmr, cluster: FakeCluster) -> None:
    """A day of bad data would otherwise bring hundreds of retries past the limit."""
    ti = FakeTaskInstance(max_tries=1)
    operator = step(cluster, deferrable=True, max_active_steps=8)
    deferral = deferred(lambda: operator.execute(ti.context))
    deferred(lambda: operator.execute_complete(ti.context, room(deferral)))
    next(iter(cluster.steps.values())).state = "FAILED"
    retry = step(cluster, deferrable=True, max_active_steps=8)
    ti = ti.next_try()
    again = deferred(lambda: retry.execute(ti.context))
    assert isinstance(again.trigger, EmrRoomTrigger)
    assert len(cluster.steps) == 1
    assert run(emr, retry, ti, room(again))["state"] == "COMPLETED"
    assert len(cluster.steps) == 2


@pytest.mark.parametrize(("map_index", "looks"), [(-1, False), (255, False), (256, True)])
def test_mapped_tasks_beyond_emrs_limit_look_before_they_are_refused(
    emr: FakeEmr, cluster: FakeCluster, map_index: int, looks: bool
) -> None:
    ti = FakeTaskInstance(map_index=map_index)
    deferral = deferred(lambda: step(cluster, deferrable=True).execute(ti.context))
    assert isinstance(deferral.trigger, EmrRoomTrigger) == looks
    assert emr.calls["AddJobFlowSteps"] == (not looks)


@pytest.mark.parametrize("limit", [0, 257, -1])
def test_a_limit_that_emr_does_not_have_is_refused(cluster: FakeCluster, limit: int) -> None:
    with pytest.raises(ConfigurationError, match="from 1 to 256"):
        step(cluster, max_active_steps=limit)


@pytest.mark.parametrize("deferrable", [True, False])
def test_room_is_not_waited_for_for_ever(emr: FakeEmr, cluster: FakeCluster, deferrable: bool) -> None:
    fill(emr, cluster)
    operator = step(cluster, deferrable=deferrable, poll_interval=30, wait_timeout=300)
    with pytest.raises(WaitTimeoutError, match="no room"):
        run(emr, operator, FakeTaskInstance())
    assert emr.clock.passed == pytest.approx(300)
    assert len(cluster.steps) == MAX_ACTIVE_STEPS


# A cluster of a pool


class FakePool:
    """Hands out one cluster; ``full`` times it has no room first."""

    def __init__(self, cluster: FakeCluster, full: int = 0) -> None:
        self.cluster_id, self.full = cluster.id, full
        self.details: dict[str, Any] = {}
        self.taken: list[str] = []
        self.left: list[str] = []

    def take(self, key: str) -> Any:
        if self.full:
            self.full -= 1
            raise PoolFullError("Every cluster of the pool is full.", pool="p", **self.details)
        self.taken.append(key)
        return self

    def leave(self, key: str) -> None:
        self.left.append(key)


POOL = {"name": "p", "spec": {"name": "x"}, "lock": "s3://lake/locks/"}


@pytest.fixture
def pool(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> FakePool:
    pool = FakePool(cluster)
    monkeypatch.setattr(EmrStepOperator, "_pool_keeper", lambda self: pool)
    return pool


def pooled(cluster: FakeCluster, **kwargs: Any) -> EmrStepOperator:
    return step(cluster, cluster_id=None, cluster_pool=POOL, **kwargs)


def test_a_pool_gives_the_cluster_and_gets_it_back(
    emr: FakeEmr, cluster: FakeCluster, pool: FakePool
) -> None:
    cluster.state = "STARTING"
    result = run(emr, pooled(cluster, deferrable=True), FakeTaskInstance())
    assert result["cluster_id"] == cluster.id
    assert pool.taken == pool.left != []


@pytest.mark.parametrize("end", ["FAILED", "CANCELLED"])
def test_a_pools_place_is_given_back_after_a_failure(
    emr: FakeEmr, cluster: FakeCluster, pool: FakePool, s3: Any, end: str
) -> None:
    emr.step_ends["work"] = end
    with pytest.raises(AirflowFailException):
        run(emr, pooled(cluster), FakeTaskInstance())
    assert pool.left == pool.taken


def test_room_on_a_pools_full_clusters_is_waited_for(
    emr: FakeEmr, cluster: FakeCluster, pool: FakePool
) -> None:
    pool.full, pool.details = 1, {"clusters": f"{cluster.id} j-OTHER", "max_active_steps": 8}
    operator, ti = pooled(cluster, deferrable=True), FakeTaskInstance()
    deferral = deferred(lambda: operator.execute(ti.context))
    assert isinstance(deferral.trigger, EmrRoomTrigger)
    assert deferral.trigger.cluster_ids == [cluster.id, "j-OTHER"]
    assert deferral.trigger.most_active == 8
    assert run(emr, operator, ti, room(deferral))["state"] == "COMPLETED"


def test_a_full_pool_is_waited_for(emr: FakeEmr, cluster: FakeCluster, pool: FakePool) -> None:
    pool.full = 3
    assert (
        run(emr, pooled(cluster, poll_interval=30, deferrable=True), FakeTaskInstance())["state"]
        == "COMPLETED"
    )
    assert emr.clock.passed >= 45


def test_a_pools_lost_cluster_is_asked_for_again(emr: FakeEmr, cluster: FakeCluster, pool: FakePool) -> None:
    ti = FakeTaskInstance()
    operator = pooled(cluster, deferrable=True)
    up = event_of(emr, deferred(lambda: operator.execute(ti.context)))
    deferral = deferred(lambda: operator.execute_complete(ti.context, up))
    emr.lose(cluster.id)
    other = emr.clusters[emr.run_job_flow(**SPEC.to_api())["JobFlowId"]]
    pool.cluster_id = other.id
    assert run(emr, operator, ti, event_of(emr, deferral))["cluster_id"] == other.id
    assert len(set(pool.taken)) == 1, "by the same key"


@pytest.mark.parametrize("where", [{"cluster_id": None}, {"cluster_pool": POOL}])
def test_a_step_runs_in_one_place(cluster: FakeCluster, where: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="where does the step run"):
        step(cluster, **where)


# Spark


def test_output_path_is_a_template(cluster: FakeCluster) -> None:
    template = spark(cluster, output="s3://lake/out").output_path("events/manifest.json")
    assert template == "{{ ti.xcom_pull(task_ids='t')['output'] }}events/manifest.json"


def test_a_local_script_is_uploaded_once_by_its_content(
    cluster: FakeCluster, s3: Any, tmp_path: Path
) -> None:
    script = tmp_path / "job.py"
    script.write_text("print('x')")
    for _ in range(2):
        spark(cluster, script=str(script), artifacts="s3://lake/artifacts").execute(
            FakeTaskInstance().context
        )
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="lake")["Contents"]]
    assert len(keys) == 1
    entry = next(iter(cluster.steps.values())).request["HadoopJarStep"]["Args"][-1]
    assert entry == f"s3://lake/{keys[0]}"


def test_a_job_of_this_package_comes_with_its_code(cluster: FakeCluster, s3: Any) -> None:
    spark(
        cluster,
        script=None,
        job="clickstream_normalize",
        artifacts="s3://lake/artifacts",
        args={"day": "2026-01-05"},
    ).execute(FakeTaskInstance().context)
    args = next(iter(cluster.steps.values())).request["HadoopJarStep"]["Args"]
    entry, archive = args[-3], args[args.index("--py-files") + 1]
    keys = {f"s3://lake/{item['Key']}" for item in s3.list_objects_v2(Bucket="lake")["Contents"]}
    assert {entry, archive} <= keys
    assert entry.endswith("/clickstream_normalize.py")
    assert args[-2:] == ["--day", "2026-01-05"]


def test_a_job_that_does_not_exist(cluster: FakeCluster, s3: Any) -> None:
    with pytest.raises(AirflowFailException, match="clickstream_normalize"):
        spark(cluster, script=None, job="x", artifacts="s3://lake/a").execute(FakeTaskInstance().context)


def test_a_script_that_is_not_there(cluster: FakeCluster, s3: Any, emr: FakeEmr) -> None:
    with pytest.raises(AirflowFailException, match="relative to the DAG's file"):
        spark(cluster, script="/nowhere/x.py", artifacts="s3://lake/a").execute(FakeTaskInstance().context)
    assert emr.calls["AddJobFlowSteps"] == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"script": None}, "neither job and script"),
        ({"job": "x"}, "both job and script"),
        ({"script": "x.py"}, "Set artifacts="),
        ({"script": None, "job": "x"}, "Set artifacts="),
    ],
)
def test_what_cannot_be_is_said_at_once(cluster: FakeCluster, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        spark(cluster, **fields)


RESULT = {
    "passed": True,
    "suite": "sessions",
    "datasets": {
        "events": {
            "rows": 12,
            "expectations": [
                {
                    "id": "e1", "type": "expect_column_values_to_not_be_null", "column": "ts", "severity": "critical",
                    "success": True, "observed": None, "unexpected_count": 0, "examples": [], "message": "",
                },
                {
                    "id": "e2", "type": "expect_column_max_to_be_between", "column": "bytes", "severity": "warning",
                    "success": False, "observed": 9, "unexpected_count": None, "examples": [], "message": "9 > 8",
                },
            ],
        }
    },
    "failed_critical": 0,
    "failed_warning": 1,
    "data_docs": "s3://lake/gate/data_docs/index.html",
}  # fmt: skip


def gate(cluster: FakeCluster, **kwargs: Any) -> EmrQualityGateOperator:
    fields = {
        "suite": "s3://lake/s.yaml",
        "data": {"events": "s3://lake/m.json"},
        "output": "s3://lake/gate/",
    }
    return EmrQualityGateOperator(
        task_id="t", cluster_id=cluster.id, job=None, script="s3://lake/g.py", deferrable=False, poll_interval=1,
        **{**fields, **kwargs},
    )  # fmt: skip


def run_gate(emr: FakeEmr, cluster: FakeCluster, s3: Any, result: Any) -> Any:
    """The gate, whose step writes this result where it is told to."""

    def write() -> None:
        folder = cluster.only_step.args[-1].removeprefix("s3://lake/")
        s3.put_object(Bucket="lake", Key=f"{folder}result.json", Body=json.dumps(result).encode())

    emr.meanwhile["DescribeStep"] = [write]
    return gate(cluster).execute(FakeTaskInstance().context)


def test_a_gate_that_passes_logs_every_check(
    emr: FakeEmr, cluster: FakeCluster, s3: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        result = run_gate(emr, cluster, s3, RESULT)
    assert result["passed"]
    assert (result["rows"], result["checks"], result["failed_warning"]) == ({"events": 12}, 2, 1)
    args = next(iter(cluster.steps.values())).request["HadoopJarStep"]["Args"]
    assert [
        "--suite",
        "s3://lake/s.yaml",
        "--data",
        "events=s3://lake/m.json",
        "--output",
        result["output"],
    ] == args[-6:]


def test_a_gate_that_fails_is_final_and_names_the_expectation(
    emr: FakeEmr, cluster: FakeCluster, s3: Any
) -> None:
    failed = json.loads(json.dumps(RESULT))
    failed |= {"passed": False, "failed_critical": 1}
    failed["datasets"]["events"]["expectations"][0] |= {
        "success": False,
        "message": "3 are null",
        "examples": [None],
    }
    with pytest.raises(AirflowFailException) as raised:
        run_gate(emr, cluster, s3, failed)
    for part in ("sessions", "expect_column_values_to_not_be_null on ts", "3 are null", "index.html"):
        assert part in str(raised.value)
    assert isinstance(raised.value.__cause__, GateFailedError)
    assert raised.value.__cause__.failed == ["e1"]


def failed_result() -> dict[str, Any]:
    failed: dict[str, Any] = json.loads(json.dumps(RESULT))
    failed |= {"passed": False, "failed_critical": 1}
    failed["datasets"]["events"]["expectations"][0] |= {"success": False, "message": "3 are null"}
    return failed


def asked_gate(emr: FakeEmr, cluster: FakeCluster, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A failed gate that asks: the operator, its task instance, and what it asked."""
    from airflow.providers.standard.operators import hitl

    asked: dict[str, Any] = {}
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **question: asked.update(question))
    ti: Any = FakeTaskInstance()
    ti.id = "0198-ti"

    def write() -> None:
        folder = cluster.only_step.args[-1].removeprefix("s3://lake/")
        s3.put_object(Bucket="lake", Key=f"{folder}result.json", Body=json.dumps(failed_result()).encode())

    emr.meanwhile["DescribeStep"] = [write]
    operator = gate(cluster, on_failure="ask")
    with pytest.raises(BaseException) as parked:  # noqa: PT011 - TaskAwaitingInput since 3.3, TaskDeferred before
        operator.execute({**ti.context, "task_instance": ti})
    assert parked.value.method_name == "execute_complete"  # type: ignore[attr-defined]
    return operator, ti, asked


def test_a_failed_gate_asks_and_goes_on_where_somebody_says_so(
    emr: FakeEmr, cluster: FakeCluster, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, ti, asked = asked_gate(emr, cluster, s3, monkeypatch)
    assert (asked["ti_id"], asked["options"]) == ("0198-ti", ["Go on", "Stop"])
    assert "3 are null" in asked["body"]
    answer = {
        "chosen_options": ["Go on"],
        "params_input": {},
        "responded_by_user": {"id": "1", "name": "ada"},
    }
    operator._verdict = None  # another process, which has nothing but the XCom
    result = operator.execute_complete(ti.context, answer)
    assert (result["approved"], result["passed"], result["failed_critical"]) == (True, False, 1)
    assert operator._verdict == failed_result()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"chosen_options": ["Stop"]}, "the answer was no"),
        ({"error": "too late", "error_type": "timeout"}, "nobody answered in time"),
    ],
)
def test_a_failed_gate_that_is_not_let_through_fails(
    emr: FakeEmr, cluster: FakeCluster, s3: Any, monkeypatch: pytest.MonkeyPatch, answer: Any, said: str
) -> None:
    operator, ti, _ = asked_gate(emr, cluster, s3, monkeypatch)
    with pytest.raises(AirflowFailException, match=said) as raised:
        operator.execute_complete(ti.context, answer)
    assert "3 are null" in str(raised.value)


def test_a_gate_tells_its_outlets_and_names_the_clean_rows(
    emr: FakeEmr, cluster: FakeCluster, s3: Any
) -> None:
    from collections import defaultdict
    from types import SimpleNamespace

    from airflow.sdk import Asset

    found: dict[str, Any] = json.loads(json.dumps(RESULT))
    found["datasets"]["events"] |= {"quarantined": 2, "clean": "s3://lake/gate/clean/events/manifest.json"}

    def write() -> None:
        folder = cluster.only_step.args[-1].removeprefix("s3://lake/")
        s3.put_object(Bucket="lake", Key=f"{folder}result.json", Body=json.dumps(found).encode())

    emr.meanwhile["DescribeStep"] = [write]
    asset = Asset("events")
    events: Any = defaultdict(lambda: SimpleNamespace(extra={}))
    operator = gate(cluster, outlets=[asset], history="s3://lake/gates/")
    result = operator.execute({**FakeTaskInstance().context, "outlet_events": events})
    assert result["clean"] == {"events": "s3://lake/gate/clean/events/manifest.json"}
    assert events[asset].extra["quality"] == {
        "passed": True,
        "suite": RESULT["suite"],
        "rows": {"events": 12},
        "checks": 2,
        "failed_critical": 0,
        "failed_warning": 1,
        "quarantined": {"events": 2},
    }
    args = cluster.only_step.args
    assert args[args.index("--history") + 1] == "s3://lake/gates/"


def test_a_gate_refuses_another_way_to_fail(cluster: FakeCluster) -> None:
    with pytest.raises(ConfigurationError, match="valid: 'fail', 'ask'"):
        gate(cluster, on_failure="warn")


@pytest.mark.parametrize("result", [{}, [], {"passed": True}])
def test_a_gate_without_a_verdict_does_not_pass(
    emr: FakeEmr, cluster: FakeCluster, s3: Any, result: Any
) -> None:
    with pytest.raises(AirflowFailException, match="not the result of a gate"):
        run_gate(emr, cluster, s3, result)


def test_a_gate_whose_step_left_no_result_does_not_pass(cluster: FakeCluster, s3: Any) -> None:
    with pytest.raises(AirflowFailException, match=r"result\.json"):
        gate(cluster).execute(FakeTaskInstance().context)
