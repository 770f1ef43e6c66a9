from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.exceptions import AirflowFailException, TaskDeferred
from fakes.emr import FakeCluster, FakeEmr, denial, outage, throttle
from fakes.task_instance import FakeTaskInstance

from airflow_emr_etl.exceptions import (
    AccessDeniedError,
    BootstrapFailedError,
    ClusterClosedError,
    ClusterError,
    ClusterFailedError,
    LadderEndedError,
    ServiceUnavailableError,
    TaskKilledError,
    WaitTimeoutError,
)
from airflow_emr_etl.hooks.attempts import LIST_LAG_SECONDS
from airflow_emr_etl.models.cluster import ClusterSpec, Fleet
from airflow_emr_etl.models.intent import TAG_CLOSED, TAG_DAG, TAG_GENERATION, TAG_RUN, TAG_RUNG, TAG_TASK
from airflow_emr_etl.models.plan import MAX_GENERATIONS, ClusterPlan
from airflow_emr_etl.operators.emr_cluster import (
    CLUSTER_ID_KEY,
    PLAN_KEY,
    EmrCreateClusterOperator,
    EmrTerminateClusterOperator,
)
from airflow_emr_etl.triggers.emr_cluster import EmrClusterStateTrigger

SPEC = ClusterSpec(name="x", log_uri="s3://logs/emr/")
SPOT = ClusterSpec(name="x", core=Fleet(types=["m5.xlarge"], spot_units=2), fallback_types=["r5.xlarge"])
NO_CAPACITY = ("VALIDATION_ERROR", "We no longer have sufficient m7g.xlarge capacity: insufficient capacity")
EMRS_FAULT = ("INTERNAL_ERROR", "An error occurred")


def create(emr: FakeEmr, **kwargs: Any) -> EmrCreateClusterOperator:
    fields = {"spec": SPEC, "poll_interval": 1, "deferrable": False, **kwargs}
    operator = EmrCreateClusterOperator(task_id="t", **fields)
    operator.clock = emr.clock
    return operator


def terminate(emr: FakeEmr, **kwargs: Any) -> EmrTerminateClusterOperator:
    operator = EmrTerminateClusterOperator(task_id="down", poll_interval=1, **kwargs)
    operator.clock = emr.clock
    return operator


def deferred(operator: EmrCreateClusterOperator, ti: FakeTaskInstance) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as raised:
        operator.execute(ti.context)
    return raised.value


def event_of(emr: FakeEmr, deferral: TaskDeferred) -> dict[str, Any]:
    """What the trigger, made again from what is stored of it, comes to."""
    _, fields = deferral.trigger.serialize()
    return EmrClusterStateTrigger(**fields).wait_here(sleep=emr.clock.sleep, now=emr.clock.now)


def final(raised: pytest.ExceptionInfo[BaseException]) -> BaseException | None:
    """The error of ours behind one that Airflow does not retry."""
    assert isinstance(raised.value, AirflowFailException)
    return raised.value.__cause__


# It comes up


def test_it_waits_in_the_worker_when_told_to(emr: FakeEmr) -> None:
    ti = FakeTaskInstance()
    cluster_id = create(emr).execute(ti.context)
    assert emr.clusters[cluster_id].state == "WAITING"
    assert ti.xcoms[CLUSTER_ID_KEY] == cluster_id
    assert cluster_id in ti.xcoms["_link_EmrClusterLink"]
    assert ti.xcoms["_link_EmrLogsLink"].endswith(
        f"/s3/buckets/logs?region=eu-west-1&prefix=emr/{cluster_id}/"
    )


def test_it_defers_with_a_timeout_and_everything_the_trigger_needs(emr: FakeEmr) -> None:
    ti = FakeTaskInstance()
    deferral = deferred(create(emr, deferrable=True, wait_timeout=timedelta(minutes=10)), ti)
    assert deferral.timeout == timedelta(minutes=12)
    assert not deferral.kwargs
    path, fields = deferral.trigger.serialize()
    assert path == f"{EmrClusterStateTrigger.__module__}.EmrClusterStateTrigger"
    assert EmrClusterStateTrigger(**fields).serialize() == (path, fields)
    assert fields["cluster_id"] == emr.only_cluster().id == ti.xcoms[CLUSTER_ID_KEY]
    assert fields["target_states"] == ["RUNNING", "WAITING"]
    assert fields["terminate_on_kill"]


def test_it_goes_on_from_what_the_event_carries(emr: FakeEmr) -> None:
    ti = FakeTaskInstance()
    event = event_of(emr, deferred(create(emr, deferrable=True), ti))
    assert create(emr, deferrable=True).execute_complete(ti.context, event) == emr.only_cluster().id
    assert emr.only_cluster().is_live


def test_execution_timeout_bounds_the_wait(emr: FakeEmr) -> None:
    operator = create(emr, deferrable=True, execution_timeout=timedelta(minutes=1))
    assert deferred(operator, FakeTaskInstance()).timeout == timedelta(minutes=3)


def test_the_rendered_spec_is_checked_again(emr: FakeEmr) -> None:
    operator = create(emr, spec=ClusterSpec(name="x", log_uri="{{ params.logs }}"))
    operator.spec = {**operator.spec, "log_uri": "/var/log"}
    with pytest.raises(AirflowFailException, match="s3://bucket/key"):
        operator.execute(FakeTaskInstance().context)
    assert emr.calls["RunJobFlow"] == 0


def test_the_cluster_says_whose_it_is_from_its_first_second(emr: FakeEmr) -> None:
    create(emr, wait=False).execute(FakeTaskInstance("t").context)
    tags = emr.only_cluster().tags
    assert (tags[TAG_DAG], tags[TAG_RUN], tags[TAG_TASK], tags[TAG_GENERATION]) == ("d", "r", "t", "1")
    assert emr.calls["AddTags"] == 0


def test_the_plan_is_there_before_the_cluster(emr: FakeEmr) -> None:
    ti = FakeTaskInstance()
    emr.meanwhile["RunJobFlow"] = [lambda: plans.append(ti.xcoms[PLAN_KEY])]
    plans: list[dict[str, Any]] = []
    create(emr).execute(ti.context)
    plan = ClusterPlan.from_document(plans[0])
    assert plan.mark().on("x") == emr.only_cluster().request["Name"]


# It does not come up


def test_a_bootstrap_that_fails_is_final(emr: FakeEmr) -> None:
    emr.cluster_end = ("BOOTSTRAP_FAILURE", "bootstrap action 1 failed")
    with pytest.raises(AirflowFailException, match="bootstrap action 1 failed") as raised:
        create(emr).execute(FakeTaskInstance().context)
    assert isinstance(final(raised), BootstrapFailedError)
    assert len(emr.clusters) == 1


def test_somebodys_hand_is_final(emr: FakeEmr) -> None:
    emr.cluster_end = ("USER_REQUEST", "Terminated by user request")
    with pytest.raises(AirflowFailException) as raised:
        create(emr).execute(FakeTaskInstance().context)
    assert isinstance(final(raised), ClusterFailedError)


@pytest.mark.parametrize("deferrable", [True, False])
def test_want_of_capacity_walks_down_the_ladder(emr: FakeEmr, deferrable: bool) -> None:
    emr.cluster_ends = [NO_CAPACITY, ("INSTANCE_FLEET_TIMEOUT", "spot timed out"), None]
    ti = FakeTaskInstance()
    if deferrable:
        deferral = deferred(create(emr, spec=SPOT, deferrable=True), ti)
        for _ in range(2):
            with pytest.raises(TaskDeferred) as again:
                create(emr, spec=SPOT, deferrable=True).execute_complete(ti.context, event_of(emr, deferral))
            deferral = again.value
        cluster_id = create(emr, spec=SPOT).execute_complete(ti.context, event_of(emr, deferral))
    else:
        cluster_id = create(emr, spec=SPOT).execute(ti.context)
    assert cluster_id == emr.last.id == ti.xcoms[CLUSTER_ID_KEY]
    assert [cluster.tags[TAG_RUNG] for cluster in emr.clusters.values()] == ["0", "1", "2"]
    assert emr.live == [emr.last]


def test_the_end_of_the_ladder_is_final(emr: FakeEmr) -> None:
    emr.cluster_end = NO_CAPACITY
    with pytest.raises(AirflowFailException, match="All 3 ways") as raised:
        create(emr, spec=SPOT).execute(FakeTaskInstance(max_tries=3).context)
    assert isinstance(final(raised), LadderEndedError)
    assert emr.live == []


def test_what_fails_on_emrs_side_is_made_again_some_times(emr: FakeEmr) -> None:
    emr.cluster_ends = [EMRS_FAULT, EMRS_FAULT, None]
    assert create(emr).execute(FakeTaskInstance().context) == emr.last.id
    emr.cluster_end = EMRS_FAULT
    with pytest.raises(AirflowFailException, match=f"generation {MAX_GENERATIONS}"):
        create(emr).execute(FakeTaskInstance("other").context)
    assert len(emr.clusters) == 3 + MAX_GENERATIONS


def test_the_wait_has_one_deadline_for_all_clusters(emr: FakeEmr) -> None:
    ti = FakeTaskInstance()
    emr.cluster_ends = [EMRS_FAULT, None]
    first = deferred(create(emr, deferrable=True), ti)
    emr.clock.sleep(600)
    with pytest.raises(TaskDeferred) as second:
        create(emr, deferrable=True).execute_complete(ti.context, event_of(emr, first))
    assert second.value.trigger.serialize()[1]["deadline"] == first.trigger.serialize()[1]["deadline"]
    assert second.value.timeout < first.timeout


def test_a_cluster_that_is_lost_as_soon_as_it_is_up_is_made_again(emr: FakeEmr) -> None:
    ti = FakeTaskInstance()
    event = event_of(emr, deferred(create(emr, deferrable=True), ti))
    emr.lose(emr.only_cluster().id)
    assert create(emr).execute_complete(ti.context, event) == emr.last.id
    assert emr.live == [emr.last]


# What is left and what is ended


def test_what_fails_for_good_after_the_creation_ends_the_cluster(emr: FakeEmr) -> None:
    emr.errors["DescribeCluster"] = [denial("DescribeCluster")]
    with pytest.raises(AirflowFailException, match="AccessDenied"):
        create(emr).execute(FakeTaskInstance(max_tries=3).context)
    assert emr.calls["RunJobFlow"] == 1
    assert emr.only_cluster().state == "TERMINATED"


def test_a_protected_cluster_that_fails_to_serve_is_ended_too(emr: FakeEmr) -> None:
    emr.errors["DescribeCluster"] = [denial("DescribeCluster")]
    spec = ClusterSpec(name="x", termination_protection=True)
    with pytest.raises(AirflowFailException, match="AccessDenied"):
        create(emr, spec=spec).execute(FakeTaskInstance().context)
    assert emr.only_cluster().state == "TERMINATED"


def test_an_answer_that_never_came_is_looked_for(emr: FakeEmr) -> None:
    emr.lost_answers["RunJobFlow"] = [outage("RunJobFlow")]
    assert create(emr).execute(FakeTaskInstance().context) == emr.only_cluster().id


@pytest.mark.parametrize(("max_tries", "left"), [(1, 1), (0, 0)])
def test_what_can_pass_is_left_to_the_next_try_where_there_is_one(
    emr: FakeEmr, max_tries: int, left: int
) -> None:
    ti = FakeTaskInstance(max_tries=max_tries)
    event = event_of(emr, deferred(create(emr, deferrable=True), ti))
    emr.errors["ListClusters"] = [outage("ListClusters")]
    with pytest.raises(ServiceUnavailableError):
        create(emr, deferrable=True).execute_complete(ti.context, event)
    assert len(emr.live) == left


@pytest.mark.parametrize(
    "status", [{"status": "timeout"}, {"status": "error", "error": {"type": "X", "message": "m"}}]
)
def test_a_wait_without_an_end_ends_the_cluster(emr: FakeEmr, status: dict[str, Any]) -> None:
    ti = FakeTaskInstance(max_tries=5)
    deferral = deferred(create(emr, deferrable=True), ti)
    _, fields = deferral.trigger.serialize()
    with pytest.raises((WaitTimeoutError, AirflowFailException)):
        create(emr).execute_complete(ti.context, {**fields, **status})
    assert emr.only_cluster().state == "TERMINATED"


def test_a_wait_in_the_worker_ends_by_its_deadline(emr: FakeEmr) -> None:
    emr.frozen = True
    with pytest.raises(WaitTimeoutError, match="longer timeout"):
        create(emr, wait_timeout=120).execute(FakeTaskInstance(max_tries=5).context)
    assert emr.only_cluster().state == "TERMINATED"
    assert 120 <= emr.clock.passed <= 136  # and a look for what the list may not show yet


def test_airflows_own_timeout_ends_the_cluster(emr: FakeEmr) -> None:
    ti = FakeTaskInstance()
    deferred(create(emr, deferrable=True), ti)
    with pytest.raises(Exception, match="Trigger timeout"):
        create(emr).resume_execution("__fail__", {"error": "Trigger timeout"}, ti.context)
    assert emr.only_cluster().state == "TERMINATED"


def test_a_kill_ends_the_cluster_and_before_there_is_one_does_nothing(emr: FakeEmr) -> None:
    create(emr, wait=False).on_kill()
    assert emr.calls == {}
    operator = create(emr, wait=False)
    operator.execute(FakeTaskInstance().context)
    operator.on_kill()
    assert emr.only_cluster().state == "TERMINATED"
    assert TAG_CLOSED not in emr.only_cluster().tags, "a next try may replace it"


def test_a_kill_in_the_middle_of_the_creation_ends_what_comes_of_it(emr: FakeEmr) -> None:
    operator = create(emr)
    emr.clock.after(0.5, operator.on_kill)
    with pytest.raises(TaskKilledError):
        operator.execute(FakeTaskInstance(max_tries=2).context)
    assert emr.live == []
    assert emr.calls["RunJobFlow"] == 1


def test_a_kill_before_the_id_was_known_ends_the_cluster_too(emr: FakeEmr) -> None:
    operator = create(emr)
    emr.meanwhile["RunJobFlow"] = [operator.on_kill]
    with pytest.raises(TaskKilledError):
        operator.execute(FakeTaskInstance(max_tries=2).context)
    assert (len(emr.clusters), emr.live) == (1, [])


def test_airflows_own_timeout_before_there_was_a_cluster(emr: FakeEmr) -> None:
    with pytest.raises(Exception, match="x"):
        create(emr).resume_execution("__fail__", {"error": "x"}, FakeTaskInstance().context)
    assert emr.clusters == {}


# The next try


def test_a_retry_takes_over_what_its_first_try_made(emr: FakeEmr) -> None:
    ti = FakeTaskInstance(max_tries=1)
    deferred(create(emr, deferrable=True), ti)  # and the worker dies
    assert create(emr).execute(ti.next_try().context) == emr.only_cluster().id


def test_a_retry_takes_over_what_the_list_does_not_show_yet(emr: FakeEmr) -> None:
    emr.list_lag_seconds = LIST_LAG_SECONDS - 1
    ti = FakeTaskInstance(max_tries=1)
    deferred(create(emr, deferrable=True), ti)
    assert create(emr).execute(ti.next_try().context) == emr.only_cluster().id


def test_a_cleared_creation_takes_over_what_is_up(emr: FakeEmr) -> None:
    ti = FakeTaskInstance()
    cluster_id = create(emr).execute(ti.context)
    assert create(emr).execute(ti.cleared().context) == cluster_id


def test_another_spec_makes_another_cluster_and_ends_the_old_one(emr: FakeEmr) -> None:
    ti = FakeTaskInstance()
    old = create(emr).execute(ti.context)
    new = create(emr, spec=SPEC.model_copy(update={"release": "emr-6.15.0"})).execute(ti.cleared().context)
    assert new != old
    assert emr.live == [emr.clusters[new]]


def test_a_closed_cluster_can_be_made_again_by_a_clear(emr: FakeEmr) -> None:
    ti = FakeTaskInstance()
    old = create(emr).execute(ti.context)
    terminate(emr, cluster_id=old, cluster_task_id="t").execute(FakeTaskInstance("down").context)
    new = create(emr).execute(ti.cleared().context)
    assert new != old
    assert emr.live == [emr.clusters[new]]


def test_a_teardown_during_the_wait_is_not_answered_by_another_cluster(emr: FakeEmr) -> None:
    ti = FakeTaskInstance(max_tries=3)
    deferral = deferred(create(emr, deferrable=True), ti)
    terminate(emr, cluster_id="None", cluster_task_id="t").execute(FakeTaskInstance("down").context)
    with pytest.raises(AirflowFailException) as raised:
        create(emr).execute_complete(ti.context, event_of(emr, deferral))
    assert isinstance(final(raised), ClusterClosedError)
    assert emr.live == []


def test_two_tries_at_once_come_to_one_cluster(emr: FakeEmr) -> None:
    ti = FakeTaskInstance(max_tries=1)
    second: list[str] = []
    emr.meanwhile["RunJobFlow"] = [lambda: second.append(create(emr).execute(ti.context))]
    first = create(emr).execute(ti.context)
    assert [first] == second == [cluster.id for cluster in emr.live]
    assert len(emr.clusters) == 2


def test_a_late_kill_of_the_first_try_does_not_fail_the_second(emr: FakeEmr) -> None:
    ti = FakeTaskInstance(max_tries=0)
    first = create(emr, deferrable=True)
    deferred(first, ti)
    emr.clock.after(0.5, first.on_kill)  # it was cleared; its old worker is told late
    cluster_id = create(emr).execute(ti.cleared().context)
    assert emr.live == [emr.clusters[cluster_id]]


# The end


def cluster_of(emr: FakeEmr, **kwargs: Any) -> FakeCluster:
    return emr.clusters[create(emr, wait=False, **kwargs).execute(FakeTaskInstance().context)]


def test_terminate_looks_at_nothing_first_and_twice_is_once(emr: FakeEmr) -> None:
    cluster = cluster_of(emr)
    described = emr.calls["DescribeCluster"]
    for _ in range(2):
        terminate(emr, cluster_id=cluster.id).execute(FakeTaskInstance("down").context)
    assert emr.calls["DescribeCluster"] == described
    assert cluster.state == "TERMINATED"


def test_terminate_announces_the_end_first(emr: FakeEmr) -> None:
    cluster = cluster_of(emr)
    terminate(emr, cluster_id=cluster.id).execute(FakeTaskInstance("down").context)
    assert TAG_CLOSED in cluster.tags
    assert emr.operations()[-2:] == ["AddTags", "TerminateJobFlows"]


def test_terminate_ends_what_nobody_learnt_of(emr: FakeEmr) -> None:
    known = cluster_of(emr)
    plan = create(emr).make_plan(FakeTaskInstance().context)
    emr.run_job_flow(**plan.request(0, 2))
    operator = terminate(emr, cluster_id=known.id, cluster_task_id="t")
    operator.execute(FakeTaskInstance("down").context)
    assert emr.live == []


def test_terminate_leaves_other_runs_alone(emr: FakeEmr) -> None:
    cluster = cluster_of(emr)
    other = FakeTaskInstance("down")
    other.run_id = "another run"
    terminate(emr, cluster_id="None", cluster_task_id="t").execute(other.context)
    assert emr.live == [cluster]


def test_terminate_waits_when_told_to(emr: FakeEmr) -> None:
    cluster = cluster_of(emr, spec=ClusterSpec(name="x", termination_protection=True))
    described = emr.calls["DescribeCluster"]
    operator = terminate(emr, cluster_id=cluster.id, wait=True, deferrable=False, lift_protection=True)
    operator.execute(FakeTaskInstance("down").context)
    assert not cluster.is_live
    assert emr.calls["DescribeCluster"] == described + 1


def test_terminate_waits_for_every_one_of_them(emr: FakeEmr) -> None:
    cluster = cluster_of(emr)
    plan = create(emr).make_plan(FakeTaskInstance().context)
    emr.run_job_flow(**plan.request(0, 2))
    operator = terminate(emr, cluster_id=cluster.id, cluster_task_id="t", wait=True, deferrable=True)
    ti = FakeTaskInstance("down")
    with pytest.raises(TaskDeferred) as first:
        operator.execute(ti.context)
    with pytest.raises(TaskDeferred) as second:
        operator.execute_complete(ti.context, event_of(emr, first.value))
    operator.execute_complete(ti.context, event_of(emr, second.value))
    waited = [deferral.value.trigger.serialize()[1]["cluster_id"] for deferral in (first, second)]
    assert waited == list(emr.clusters)


@pytest.mark.parametrize("error", [denial, outage, throttle])
def test_terminate_is_retried_after_any_error(emr: FakeEmr, error: Callable[[str], Exception]) -> None:
    cluster = cluster_of(emr)
    emr.errors["TerminateJobFlows"] = [error("TerminateJobFlows")]
    with pytest.raises(ClusterError) as raised:
        terminate(emr, cluster_id=cluster.id).execute(FakeTaskInstance("down").context)
    assert not isinstance(raised.value, AirflowFailException | AccessDeniedError)
    terminate(emr, cluster_id=cluster.id).execute(FakeTaskInstance("down", try_number=2).context)
    assert emr.live == []


@pytest.mark.parametrize("cluster_id", ["None", "", "j-NONE"])
def test_no_cluster_is_well(emr: FakeEmr, cluster_id: str) -> None:
    terminate(emr, cluster_id=cluster_id, cluster_task_id="t").execute(FakeTaskInstance("down").context)
    assert emr.calls["TerminateJobFlows"] == (1 if cluster_id == "j-NONE" else 0)
