from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from fakes.emr import MAX_ACTIVE_STEPS, FakeCluster, FakeEmr, FakeStep, denial, outage, refusal, throttle

from airflow_emr_etl.exceptions import (
    AccessDeniedError,
    ClusterFullError,
    ClusterLostError,
    ConfigurationError,
    ServiceUnavailableError,
    StepError,
)
from airflow_emr_etl.hooks.attempts import LIST_LAG_SECONDS, WRITE_ATTEMPTS
from airflow_emr_etl.hooks.emr_step import EmrStepHook
from airflow_emr_etl.hooks.step_keeper import INTERRUPT_SECONDS, FoundStep, StepKeeper, WantedStep, again
from airflow_emr_etl.models.cluster import ClusterSpec
from airflow_emr_etl.models.intent import Scope, StepIntent, StepMark
from airflow_emr_etl.models.step import CommandStep

LINEAGE = Scope("d", "r", "t").lineage


@pytest.fixture
def cluster(emr: FakeEmr) -> FakeCluster:
    cluster = emr.clusters[emr.run_job_flow(**ClusterSpec(name="x").to_api())["JobFlowId"]]
    cluster.state = "WAITING"
    return cluster


@pytest.fixture
def keeper(emr: FakeEmr) -> StepKeeper:
    return StepKeeper(EmrStepHook(), emr.clock)


def wanted(lineage: str = LINEAGE, word: str = "true", **intent: Any) -> WantedStep:
    """A step whose last argument is its attempt, as a path of its own would be."""

    def make(mark: StepMark) -> dict[str, Any]:
        return CommandStep(name="work", command=[word, mark.attempt]).to_api()

    return WantedStep(StepIntent(lineage, **intent), make)


def ensure(keeper: StepKeeper, cluster: FakeCluster, *, look: bool = True, **fields: Any) -> FoundStep:
    [found] = keeper.ensure(cluster.id, [wanted(**fields)], look_first=look)
    return found


def first(keeper: StepKeeper, cluster: FakeCluster, state: str = "RUNNING", **fields: Any) -> FakeStep:
    """What an earlier try added, and how far it has come."""
    made = cluster.steps[ensure(keeper, cluster, look=False, **fields).id]
    made.state = state
    return made


def mark_of(step: FakeStep) -> StepMark:
    mark = StepMark.read(step.request["Name"])
    assert mark is not None
    return mark


# The first try


def test_a_first_try_adds_at_once(emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster) -> None:
    found = ensure(keeper, cluster, look=False)
    made = cluster.only_step
    assert (found.id, found.adopted, found.mark) == (made.id, False, mark_of(made))
    assert (found.mark.lineage, found.mark.number, found.mark.clears) == (LINEAGE, 1, 0)
    assert made.name == "work"
    assert emr.clock.passed == 0
    assert emr.operations("AddJobFlowSteps", "ListSteps", "DescribeStep")[0] == "AddJobFlowSteps"


def test_each_addition_writes_to_a_path_of_its_own(keeper: StepKeeper, cluster: FakeCluster) -> None:
    for _ in range(3):
        first(keeper, cluster, "FAILED")
    attempts = [step.args[-1] for step in cluster.steps.values()]
    assert attempts == [mark_of(step).attempt for step in cluster.steps.values()]
    assert len(set(attempts)) == 3


def test_the_digest_does_not_depend_on_the_attempt(keeper: StepKeeper, cluster: FakeCluster) -> None:
    one, other = first(keeper, cluster, "FAILED"), first(keeper, cluster, "FAILED")
    assert mark_of(one).content == mark_of(other).content == wanted().digest()
    assert wanted(word="false").digest() != wanted().digest()


def test_a_long_name_still_carries_the_mark(keeper: StepKeeper, cluster: FakeCluster) -> None:
    step = WantedStep(
        StepIntent(LINEAGE), lambda mark: CommandStep(name="n" * 256, command=["true"]).to_api()
    )
    [found] = keeper.ensure(cluster.id, [step], look_first=False)
    assert len(cluster.only_step.request["Name"]) == 256
    assert keeper.ensure(cluster.id, [step], look_first=True)[0].id == found.id


# A later try


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETED"])
def test_a_retry_takes_over_what_goes_on_or_has_completed(
    emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster, state: str
) -> None:
    made = first(keeper, cluster, state)
    found = ensure(keeper, cluster)
    assert (found.id, found.state, found.adopted) == (made.id, state, True)
    assert found.mark.attempt == made.args[-1]
    assert emr.calls["AddJobFlowSteps"] == 1


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "INTERRUPTED"])
def test_what_failed_runs_again_under_the_next_number(
    keeper: StepKeeper, cluster: FakeCluster, state: str
) -> None:
    first(keeper, cluster, state)
    assert ensure(keeper, cluster).mark.number == 2
    cluster.steps[list(cluster.steps)[-1]].state = state
    assert ensure(keeper, cluster).mark.number == 3


def test_what_is_being_cancelled_is_not_taken_over(
    emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster
) -> None:
    made = first(keeper, cluster, "CANCEL_PENDING")
    found = ensure(keeper, cluster)
    assert (found.adopted, found.mark.number) == (False, 2)
    assert made.state == "CANCELLED", "and it is gone before the next one begins"


def test_another_tasks_step_is_nobodys_business(keeper: StepKeeper, cluster: FakeCluster) -> None:
    strangers = [
        first(keeper, cluster, lineage=Scope("d", "r", "other").lineage),
        first(keeper, cluster, lineage=Scope("d", "r", "t", map_index=1).lineage),
        first(keeper, cluster, lineage=Scope("d", "r2", "t").lineage),
    ]
    plain = cluster.steps[EmrStepHook().add(cluster.id, [CommandStep(name="w", command=["a"]).to_api()])[0]]
    plain.state = "RUNNING"
    assert not ensure(keeper, cluster).adopted
    assert [step.state for step in (*strangers, plain)] == ["RUNNING"] * 4


def test_other_content_cancels_what_goes_on_and_runs_anew(
    emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster
) -> None:
    old = first(keeper, cluster)
    found = ensure(keeper, cluster, word="false")
    assert (found.adopted, found.mark.number) == (False, 2)
    assert old.state == "CANCELLED"
    assert emr.operations("CancelSteps", "AddJobFlowSteps") == [
        "AddJobFlowSteps",
        "CancelSteps",
        "AddJobFlowSteps",
    ]


def test_other_content_that_completed_does_not_count(keeper: StepKeeper, cluster: FakeCluster) -> None:
    old = first(keeper, cluster, "COMPLETED")
    assert not ensure(keeper, cluster, word="false").adopted
    assert old.state == "COMPLETED"


@pytest.mark.parametrize(("state", "end"), [("COMPLETED", "COMPLETED"), ("RUNNING", "CANCELLED")])
def test_a_cleared_task_runs_its_step_again(
    keeper: StepKeeper, cluster: FakeCluster, state: str, end: str
) -> None:
    old = first(keeper, cluster, state)
    found = ensure(keeper, cluster, clears=1)
    assert (found.adopted, found.mark.number, found.mark.clears) == (False, 2, 1)
    assert old.state == end
    assert ensure(keeper, cluster, clears=1).id == found.id, "and its own retry takes that over"


def test_a_deleted_runs_step_does_not_count(emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster) -> None:
    old = first(keeper, cluster, "COMPLETED")
    emr.clock.sleep(3600)
    began = emr.clock.now()
    assert ensure(keeper, cluster, not_before=began - timedelta(hours=2)).id == old.id
    assert not ensure(keeper, cluster, not_before=began).adopted


def test_a_deleted_runs_step_does_not_count_in_a_first_try_either(
    emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster
) -> None:
    old = first(keeper, cluster, "COMPLETED")
    emr.clock.sleep(3600)
    found = ensure(keeper, cluster, look=False, not_before=emr.clock.now())
    assert found.id != old.id
    assert cluster.steps[found.id].state == "PENDING"


def test_what_is_too_old_is_not_even_read(emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster) -> None:
    for _ in range(3):
        keeper.hook.add(cluster.id, [CommandStep(name="x", command=["a"]).to_api()] * 60)
    emr.clock.sleep(3600)
    assert keeper.found(cluster.id, not_before=emr.clock.now()) == []
    assert emr.calls["ListSteps"] == 1
    assert keeper.found(cluster.id) == []
    assert emr.calls["ListSteps"] == 5


def test_of_two_that_go_on_one_is_kept(keeper: StepKeeper, cluster: FakeCluster) -> None:
    [one] = keeper.hook.add(cluster.id, [named(StepMark(LINEAGE, wanted().digest(), nonce="aaaa"))])
    [two] = keeper.hook.add(cluster.id, [named(StepMark(LINEAGE, wanted().digest(), nonce="bbbb"))])
    assert ensure(keeper, cluster).id == one
    assert cluster.steps[two].state == "CANCELLED"


def named(mark: StepMark) -> dict[str, Any]:
    config = CommandStep(name="work", command=["true", mark.attempt]).to_api()
    return {**config, "Name": mark.on("work")}


def test_a_retry_waits_for_what_its_first_try_may_have_added(
    emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster
) -> None:
    emr.list_lag_seconds = LIST_LAG_SECONDS - 1
    [step_id] = keeper.hook.add(cluster.id, [named(StepMark(LINEAGE, wanted().digest()))])
    assert ensure(keeper, cluster).id == step_id
    assert emr.calls["AddJobFlowSteps"] == 1


# Ambiguous ends


@pytest.mark.parametrize("error", [outage, throttle])
@pytest.mark.parametrize("lag", [0.0, LIST_LAG_SECONDS - 1])
def test_an_answer_that_was_lost_is_looked_for_and_not_asked_for_again(
    emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster, error: Callable[[str], Exception], lag: float
) -> None:
    if error is throttle:
        lag = 0.0  # a call that was throttled had no effect; the look is for good measure
    emr.list_lag_seconds = lag
    emr.lost_answers["AddJobFlowSteps"] = [error("AddJobFlowSteps")]
    found = ensure(keeper, cluster, look=False)
    assert (found.id, found.adopted) == (cluster.only_step.id, True)
    assert emr.calls["AddJobFlowSteps"] == 1


@pytest.mark.parametrize("error", [outage, throttle])
def test_a_call_without_effect_is_made_again_after_a_look(
    emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster, error: Callable[[str], Exception]
) -> None:
    emr.errors["AddJobFlowSteps"] = [error("AddJobFlowSteps"), error("AddJobFlowSteps")]
    assert ensure(keeper, cluster, look=False).id == cluster.only_step.id
    calls = emr.operations("AddJobFlowSteps", "ListSteps")
    assert calls.count("AddJobFlowSteps") == 3
    assert ("AddJobFlowSteps", "AddJobFlowSteps") not in set(pairwise(calls))


def test_it_gives_up_after_some_attempts(emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster) -> None:
    emr.errors["AddJobFlowSteps"] = [outage("AddJobFlowSteps") for _ in range(20)]
    with pytest.raises(ServiceUnavailableError):
        ensure(keeper, cluster, look=False)
    assert emr.calls["AddJobFlowSteps"] == WRITE_ATTEMPTS
    assert emr.operations()[-1] == "ListSteps"


def test_the_last_attempt_may_have_added_it(emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster) -> None:
    emr.errors["AddJobFlowSteps"] = [outage("AddJobFlowSteps") for _ in range(WRITE_ATTEMPTS - 1)]
    emr.lost_answers["AddJobFlowSteps"] = [outage("AddJobFlowSteps")]
    assert ensure(keeper, cluster, look=False).id == cluster.only_step.id


def test_a_refusal_is_final(emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster) -> None:
    emr.errors["AddJobFlowSteps"] = [
        refusal("AddJobFlowSteps", "ValidationException", "Args are too long"),
        denial("AddJobFlowSteps"),
    ]
    for error in (ConfigurationError, AccessDeniedError):
        with pytest.raises(error):
            ensure(keeper, cluster)
    assert emr.calls["AddJobFlowSteps"] == 2


def test_a_full_cluster_says_so_at_once(emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster) -> None:
    keeper.hook.add(cluster.id, [CommandStep(name="x", command=["a"]).to_api()] * MAX_ACTIVE_STEPS)
    with pytest.raises(ClusterFullError, match="room when one of them ends") as raised:
        ensure(keeper, cluster, look=False)
    assert raised.value.retryable
    assert emr.calls["AddJobFlowSteps"] == 2
    next(iter(cluster.steps.values())).state = "COMPLETED"
    assert not ensure(keeper, cluster).adopted


def test_a_lost_cluster_takes_no_step(emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster) -> None:
    emr.lose(cluster.id)
    with pytest.raises(ClusterLostError):
        ensure(keeper, cluster)
    assert emr.calls["AddJobFlowSteps"] == 1


def test_what_completed_on_a_lost_cluster_is_still_adopted(
    emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster
) -> None:
    made = first(keeper, cluster, "COMPLETED")
    emr.lose(cluster.id)
    assert ensure(keeper, cluster).id == made.id


# Two workers at once


def test_of_two_that_add_at_once_the_earlier_wins_for_both(
    emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster
) -> None:
    others: list[FoundStep] = []
    emr.meanwhile["AddJobFlowSteps"] = [lambda: others.append(ensure(keeper, cluster, look=False))]
    found = ensure(keeper, cluster, look=False)
    assert found.id == others[0].id
    one, two = cluster.steps.values()
    assert (one.id, one.state, two.state) == (found.id, "PENDING", "CANCELLED")
    assert one.args[-1] != two.args[-1], "the loser cannot write where the winner does"
    assert found.mark == mark_of(one)


def test_who_added_first_keeps_his_own(emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster) -> None:
    later: list[str] = []
    mark = StepMark(LINEAGE, wanted().digest(), nonce="cccc")
    emr.meanwhile["ListSteps"] = [lambda: later.extend(keeper.hook.add(cluster.id, [named(mark)]))]
    found = ensure(keeper, cluster, look=False)
    assert later != []
    assert found.id not in later
    assert cluster.steps[found.id].state == "PENDING"


def test_they_agree_although_the_list_lags(emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster) -> None:
    emr.list_lag_seconds = 10
    mark = StepMark(LINEAGE, wanted().digest(), nonce="cccc")
    emr.meanwhile["AddJobFlowSteps"] = [lambda: keeper.hook.add(cluster.id, [named(mark)])]
    found = ensure(keeper, cluster, look=False)
    assert found.mark == mark
    assert [step.state for step in cluster.steps.values()] == ["PENDING", "CANCELLED"]


# Several in one call


def test_a_batch_adds_what_is_missing_in_one_call(
    emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster
) -> None:
    lineages = [Scope("d", "r", "t", n).lineage for n in range(4)]
    batch = [wanted(lineage) for lineage in lineages]
    running = first(keeper, cluster, "RUNNING", lineage=lineages[1])
    failed = first(keeper, cluster, "FAILED", lineage=lineages[2])
    found = keeper.ensure(cluster.id, batch, look_first=True)
    assert [each.mark.lineage for each in found] == lineages
    assert [each.adopted for each in found] == [False, True, False, False]
    assert [each.mark.number for each in found] == [1, 1, 2, 1]
    assert found[1].id == running.id
    assert found[2].id != failed.id
    added = [len(request["Steps"]) for operation, request in emr.log if operation == "AddJobFlowSteps"]
    assert added == [1, 1, 3]


def test_a_batch_whose_answer_was_lost_is_added_once(
    emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster
) -> None:
    batch = [wanted(Scope("d", "r", "t", n).lineage) for n in range(3)]
    emr.lost_answers["AddJobFlowSteps"] = [outage("AddJobFlowSteps")]
    found = keeper.ensure(cluster.id, batch, look_first=False)
    assert [each.id for each in found] == list(cluster.steps)


def test_a_batch_runs_under_the_role_that_it_is_given(
    emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster
) -> None:
    role = "arn:aws:iam::123456789012:role/steps"
    keeper.ensure(cluster.id, [wanted()], look_first=False, execution_role=role)
    [request] = [request for operation, request in emr.log if operation == "AddJobFlowSteps"]
    assert request["ExecutionRoleArn"] == role


def test_nothing_wanted_is_nothing_added(emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster) -> None:
    assert keeper.ensure(cluster.id, [], look_first=False) == []
    assert emr.calls["AddJobFlowSteps"] == 0


# To run it on another cluster


def test_what_runs_again_elsewhere_is_the_same_step(
    emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster
) -> None:
    jar = CommandStep(
        name="j", jar="s3://b/x.jar", main_class="M", properties={"k": "v"}, command=["a"]
    ).to_api()
    keeper.ensure(
        cluster.id, [WantedStep(StepIntent(LINEAGE, on_hdfs=True), lambda mark: jar)], look_first=False
    )
    old = cluster.only_step
    old.state = "COMPLETED"
    [seen] = keeper.found(cluster.id)
    assert seen.config == jar
    emr.lose(cluster.id)
    replacement = emr.run_job_flow(**ClusterSpec(name="x").to_api())["JobFlowId"]
    for _ in range(2):
        [found] = keeper.ensure(replacement, [again(seen)], look_first=True)
    made = emr.clusters[replacement].only_step
    assert found.id == made.id
    assert made.request["HadoopJarStep"] == old.request["HadoopJarStep"]
    assert (mark_of(made).content, mark_of(made).on_hdfs) == (mark_of(old).content, True)


# To stop it


def options(emr: FakeEmr) -> list[str]:
    return [request["StepCancellationOption"] for operation, request in emr.log if operation == "CancelSteps"]


def test_stop_asks_first(emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster) -> None:
    made = first(keeper, cluster)
    keeper.stop(cluster.id, made.id)
    assert made.state == "CANCELLED"
    assert options(emr) == ["SEND_INTERRUPT"]
    assert emr.clock.passed == 0


def test_stop_kills_what_does_not_listen(emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster) -> None:
    emr.frozen = True
    made = first(keeper, cluster)
    made.is_deaf = True
    keeper.stop(cluster.id, made.id)
    assert made.state == "CANCELLED"
    assert options(emr) == ["SEND_INTERRUPT", "TERMINATE_PROCESS"]
    assert emr.clock.passed == pytest.approx(INTERRUPT_SECONDS)


def test_stop_of_what_has_ended_does_nothing(emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster) -> None:
    made = first(keeper, cluster, "COMPLETED")
    keeper.stop(cluster.id, made.id)
    assert made.state == "COMPLETED"
    assert options(emr) == ["SEND_INTERRUPT"]


def test_what_cannot_be_stopped_is_not_run_beside(
    emr: FakeEmr, keeper: StepKeeper, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    emr.frozen = True
    made = first(keeper, cluster)
    monkeypatch.setattr(emr, "cancel_steps", lambda **request: {"CancelStepsInfoList": []})
    with pytest.raises(StepError, match="goes on after"):
        ensure(keeper, cluster, clears=1)
    assert list(cluster.steps) == [made.id]
