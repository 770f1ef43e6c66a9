from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from fakes.emr import FakeCluster, FakeEmr, denial, outage, refusal, throttle

from airflow_emr_etl.exceptions import (
    AccessDeniedError,
    BootstrapFailedError,
    ClusterClosedError,
    ClusterError,
    ClusterLostError,
    ConfigurationError,
    LadderEndedError,
    ServiceUnavailableError,
)
from airflow_emr_etl.hooks.attempts import LIST_LAG_SECONDS, WRITE_ATTEMPTS
from airflow_emr_etl.hooks.cluster_keeper import TURN_SECONDS, ClusterKeeper
from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook
from airflow_emr_etl.models.cluster import ClusterSpec, Fleet
from airflow_emr_etl.models.intent import TAG_CLOSED, TAG_RUNG, ClusterMark, Scope, tags_for_run
from airflow_emr_etl.models.plan import MAX_GENERATIONS, ClusterPlan

SCOPE = Scope("d", "r", "up")
LADDER = ClusterSpec(
    name="x", core=Fleet(types=["m5.xlarge"], spot_units=2), fallback_types=["r5.xlarge"], subnets="subnet-1"
)


def plan_of(spec: ClusterSpec, scope: Scope = SCOPE) -> ClusterPlan:
    return ClusterPlan.of_spec(spec, scope.lineage, tags_for_run(scope))


PLAN = plan_of(ClusterSpec(name="x"))


@pytest.fixture
def keeper(emr: FakeEmr) -> ClusterKeeper:
    return ClusterKeeper(EmrClusterHook(), emr.clock)


def make(emr: FakeEmr, plan: ClusterPlan = PLAN, *, rung: int = 0, generation: int = 1) -> FakeCluster:
    """A cluster that another worker made."""
    return emr.clusters[emr.run_job_flow(**plan.request(rung, generation))["JobFlowId"]]


def lose(emr: FakeEmr, cluster: FakeCluster, code: str, message: str) -> dict[str, Any]:
    emr.end(cluster.id, code, message)
    return cluster.answer()


def spot_loss(emr: FakeEmr, cluster: FakeCluster) -> dict[str, Any]:
    return lose(emr, cluster, "INSTANCE_FAILURE", "All core machines were taken")


def no_capacity(emr: FakeEmr, cluster: FakeCluster) -> dict[str, Any]:
    return lose(emr, cluster, "VALIDATION_ERROR", "EC2 has insufficient capacity for m5.xlarge")


# To have one


def test_what_is_not_there_is_made_at_once(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    found = keeper.ensure(PLAN)
    assert (found.id, found.adopted) == (emr.only_cluster().id, False)
    assert ClusterMark.read(emr.only_cluster().request["Name"]) == PLAN.mark()
    assert emr.clock.passed == 0
    assert emr.operations() == ["ListClusters", "RunJobFlow"]


def test_what_is_there_is_adopted(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    there = make(emr)
    found = keeper.ensure(PLAN, again=True)
    assert (found.id, found.name, found.adopted) == (there.id, "x", True)
    assert emr.calls["RunJobFlow"] == 1


@pytest.mark.parametrize(
    "scope",
    [
        Scope("d", "other run", "up"),
        Scope("d", "r", "other task"),
        Scope("other dag", "r", "up"),
        Scope("d", "r", "up", map_index=2),
        Scope("d", "r", "up", site="another Airflow"),
    ],
)
def test_what_is_somebody_elses_is_left_alone(emr: FakeEmr, keeper: ClusterKeeper, scope: Scope) -> None:
    strange = make(emr, plan_of(ClusterSpec(name="x"), scope))
    assert keeper.ensure(PLAN).id != strange.id
    keeper.end_all(PLAN.lineage, None)
    assert [cluster.id for cluster in emr.live] == [strange.id]


def test_a_name_without_a_mark_is_nobodys(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    strange = emr.run_job_flow(**ClusterSpec(name="x").to_api())["JobFlowId"]
    assert keeper.ensure(PLAN).id != strange
    assert keeper.live(PLAN.lineage) != []
    assert strange not in [each.id for each in keeper.live(PLAN.lineage)]


def test_a_cluster_behind_many_pages_is_found(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    there = make(emr)
    for n in range(120):
        make(emr, plan_of(ClusterSpec(name="y"), Scope("d", f"r{n}", "up")))
    assert keeper.ensure(PLAN).id == there.id


@pytest.mark.parametrize("error", [outage, throttle])
def test_an_answer_that_was_lost_is_looked_for_and_not_asked_for_again(
    emr: FakeEmr, keeper: ClusterKeeper, error: Callable[[str], Exception]
) -> None:
    emr.lost_answers["RunJobFlow"] = [error("RunJobFlow")]
    found = keeper.ensure(PLAN)
    assert (found.id, found.adopted) == (emr.only_cluster().id, True)
    assert emr.calls["RunJobFlow"] == 1


def test_a_lost_answer_is_looked_for_until_the_list_cannot_lag(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    emr.list_lag_seconds = LIST_LAG_SECONDS - 1
    emr.lost_answers["RunJobFlow"] = [outage("RunJobFlow")]
    assert keeper.ensure(PLAN).id == emr.only_cluster().id
    assert emr.calls["RunJobFlow"] == 1


@pytest.mark.parametrize("error", [outage, throttle])
def test_a_call_without_effect_is_made_again_after_a_look(
    emr: FakeEmr, keeper: ClusterKeeper, error: Callable[[str], Exception]
) -> None:
    emr.errors["RunJobFlow"] = [error("RunJobFlow"), error("RunJobFlow")]
    assert keeper.ensure(PLAN).id == emr.only_cluster().id
    calls = emr.operations()
    assert calls.count("RunJobFlow") == 3
    assert ("RunJobFlow", "RunJobFlow") not in set(pairwise(calls))


def test_it_gives_up_after_some_attempts_and_says_why(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    emr.errors["RunJobFlow"] = [outage("RunJobFlow") for _ in range(20)]
    with pytest.raises(ServiceUnavailableError, match="RunJobFlow"):
        keeper.ensure(PLAN)
    assert emr.calls["RunJobFlow"] == WRITE_ATTEMPTS
    assert emr.operations()[-1] == "ListClusters", "a last look at what the last attempt may have made"


def test_the_last_attempt_may_have_made_it(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    emr.errors["RunJobFlow"] = [outage("RunJobFlow") for _ in range(WRITE_ATTEMPTS - 1)]
    emr.lost_answers["RunJobFlow"] = [outage("RunJobFlow")]
    assert keeper.ensure(PLAN).id == emr.only_cluster().id


def test_a_refusal_is_final(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    emr.errors["RunJobFlow"] = [refusal("RunJobFlow", "ValidationException", "no such release")]
    with pytest.raises(ConfigurationError, match="no such release"):
        keeper.ensure(PLAN)
    emr.errors["RunJobFlow"] = [denial("RunJobFlow")]
    with pytest.raises(AccessDeniedError):
        keeper.ensure(PLAN)
    assert emr.calls["RunJobFlow"] == 2


def test_a_retry_waits_for_what_its_first_try_may_have_made(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    emr.list_lag_seconds = 10
    there = make(emr)
    assert keeper.ensure(PLAN, again=True).id == there.id
    assert emr.clock.passed >= 10


def test_a_retry_that_finds_nothing_makes_one(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    assert not keeper.ensure(PLAN, again=True).adopted
    assert LIST_LAG_SECONDS <= emr.clock.passed <= LIST_LAG_SECONDS + 5


def test_what_has_ended_is_not_adopted(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    ended = make(emr)
    spot_loss(emr, ended)
    assert keeper.ensure(PLAN).id != ended.id
    assert [each.id for each in keeper.ever(PLAN.lineage, None)] == list(emr.clusters)


def test_ever_begins_when_it_is_told_to(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    make(emr)
    emr.clock.sleep(3600)
    since = emr.clock.now() - timedelta(minutes=1)
    late = make(emr)
    assert [each.id for each in keeper.ever(PLAN.lineage, since)] == [late.id]


# To agree on one


def test_of_two_creators_the_earlier_wins_for_both(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    first, second = make(emr), make(emr)
    assert keeper.settle(PLAN, second.id).id == first.id
    assert keeper.settle(PLAN, first.id).id == first.id
    assert [cluster.id for cluster in emr.live] == [first.id]


def test_two_workers_that_create_at_once_settle(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    other: list[FakeCluster] = []
    emr.meanwhile["RunJobFlow"] = [lambda: other.append(make(emr))]
    mine = keeper.ensure(PLAN)
    assert len(emr.live) == 2
    assert keeper.settle(PLAN, mine.id).id == keeper.settle(PLAN, other[0].id).id == other[0].id
    assert len(emr.live) == 1


def test_settling_shows_how_far_the_winner_is(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    first, second = make(emr), make(emr)
    second.state = "WAITING"
    assert not keeper.settle(PLAN, second.id).is_ready
    first.state = "WAITING"
    assert keeper.settle(PLAN, first.id).is_ready


def test_a_protected_loser_is_ended_too(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    plan = plan_of(ClusterSpec(name="x", termination_protection=True))
    first, second = make(emr, plan), make(emr, plan)
    keeper.settle(plan, second.id)
    assert [cluster.id for cluster in emr.live] == [first.id]


def test_what_the_list_does_not_show_yet_is_described(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    emr.list_lag_seconds = 60
    mine = make(emr)
    assert keeper.settle(PLAN, mine.id).id == mine.id


def test_a_cluster_that_ended_meanwhile_wins_nothing(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    mine = make(emr)
    spot_loss(emr, mine)
    with pytest.raises(ClusterLostError):
        keeper.settle(PLAN, mine.id)
    other = make(emr, generation=2)
    assert keeper.settle(PLAN, mine.id).id == other.id


def test_what_an_earlier_form_of_the_task_made_is_ended(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    old = make(emr, plan_of(ClusterSpec(name="x", release="emr-6.15.0", termination_protection=True)))
    old.protected = False
    new = keeper.ensure(PLAN)
    assert new.id != old.id
    keeper.end_superseded(PLAN)
    assert [cluster.id for cluster in emr.live] == [new.id]


# To replace one


def test_a_lost_cluster_has_a_successor_of_the_same_make(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    first = make(emr)
    found = keeper.replace(PLAN, spot_loss(emr, first))
    assert found.mark == PLAN.mark(2)
    made = emr.clusters[found.id]
    same = ("ReleaseLabel", "Instances", "Applications", "AutoTerminationPolicy")
    assert {key: made.request[key] for key in same} == {key: first.request[key] for key in same}
    assert made.tags[TAG_RUNG] == "0"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("INTERNAL_ERROR", "An error occurred"),
        ("USER_REQUEST", "Terminated by user request"),
        ("ALL_STEPS_COMPLETED", "Auto-terminated"),
    ],
)
def test_an_end_that_nobodys_program_caused_is_a_loss(
    emr: FakeEmr, keeper: ClusterKeeper, code: str, message: str
) -> None:
    lost = lose(emr, make(emr), code, message)
    assert keeper.replace(PLAN, lost).mark.generation == 2


def test_want_of_capacity_walks_down_the_ladder(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    plan = plan_of(LADDER)
    assert len(plan.requests) == 3
    cluster = emr.clusters[keeper.ensure(plan).id]
    for rung in (1, 2):
        found = keeper.replace(plan, no_capacity(emr, cluster))
        cluster = emr.clusters[found.id]
        assert (cluster.tags[TAG_RUNG], found.mark.generation) == (str(rung), rung + 1)
        assert cluster.request["Instances"] == plan.requests[rung]["Instances"]
    with pytest.raises(LadderEndedError, match="All 3 ways") as raised:
        keeper.replace(plan, no_capacity(emr, cluster))
    assert not raised.value.retryable
    assert raised.value.cluster_id == cluster.id


def test_a_spot_loss_stays_on_its_rung(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    plan = plan_of(LADDER)
    found = keeper.replace(plan, no_capacity(emr, make(emr, plan)))
    found = keeper.replace(plan, spot_loss(emr, emr.clusters[found.id]))
    assert emr.clusters[found.id].tags[TAG_RUNG] == "1"


def test_what_a_teardown_ended_is_not_replaced(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    cluster = make(emr)
    keeper.end_all(PLAN.lineage, None)
    with pytest.raises(ClusterClosedError, match="clear it together with"):
        keeper.replace(PLAN, cluster.answer())
    assert emr.live == []


def test_a_bootstrap_that_fails_would_fail_again(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    with pytest.raises(BootstrapFailedError):
        keeper.replace(PLAN, lose(emr, make(emr), "BOOTSTRAP_FAILURE", "bootstrap action 1 failed"))
    assert emr.live == []


def test_no_cluster_is_replaced_for_ever(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    cluster = make(emr)
    for _ in range(PLAN.max_generations - 1):
        cluster = emr.clusters[keeper.replace(PLAN, spot_loss(emr, cluster)).id]
    with pytest.raises(ClusterError, match=f"generation {PLAN.max_generations}") as raised:
        keeper.replace(PLAN, spot_loss(emr, cluster))
    assert not raised.value.retryable
    assert len(emr.clusters) == PLAN.max_generations


def test_a_ladder_is_walked_to_its_end_however_long_it_is(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    subnets = [f"subnet-{n}" for n in range(10)]
    plan = plan_of(ClusterSpec(name="x", subnets=subnets))
    cluster = make(emr, plan)
    for _ in plan.requests[1:]:
        cluster = emr.clusters[keeper.replace(plan, no_capacity(emr, cluster)).id]
    with pytest.raises(LadderEndedError):
        keeper.replace(plan, no_capacity(emr, cluster))
    assert len(emr.clusters) == len(plan.requests) == 11


def test_who_comes_later_takes_the_replacement_that_is_there(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    lost = spot_loss(emr, make(emr))
    first = keeper.replace(PLAN, lost)
    assert [keeper.replace(PLAN, lost, turn=turn).id for turn in (0, 1, 2)] == [first.id] * 3
    assert emr.clock.passed == 0


def test_who_is_not_first_leaves_the_first_time_to_make_it(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    emr.list_lag_seconds = 5
    lost = spot_loss(emr, make(emr))
    others: list[FakeCluster] = []
    emr.clock.after(7, lambda: others.append(make(emr, generation=2)))
    found = keeper.replace(PLAN, lost, turn=2)
    assert found.id == others[0].id
    assert 12 <= emr.clock.passed < TURN_SECONDS


def test_who_waited_in_vain_makes_it(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    found = keeper.replace(PLAN, spot_loss(emr, make(emr)), turn=2)
    assert not found.adopted
    assert emr.clock.passed >= 2 * TURN_SECONDS


# To end them all


def test_the_end_is_announced_before_it_comes(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    cluster = make(emr)
    assert keeper.end_all(PLAN.lineage, cluster.id) == [cluster.id]
    assert emr.operations()[1:3] == ["AddTags", "TerminateJobFlows"]
    assert cluster.tags[TAG_CLOSED] == emr.clock.start.isoformat(timespec="seconds")


def test_an_end_that_is_not_for_good_leaves_the_cluster_replaceable(
    emr: FakeEmr, keeper: ClusterKeeper
) -> None:
    cluster = make(emr)
    keeper.end_all(PLAN.lineage, cluster.id, for_good=False)
    assert TAG_CLOSED not in cluster.tags
    assert keeper.replace(PLAN, cluster.answer()).mark.generation == 2


def test_the_limit_counts_every_loss_of_the_run_whichever_one_a_task_knows(
    emr: FakeEmr, keeper: ClusterKeeper
) -> None:
    first = make(emr)
    emr.lose(first.id)
    for generation in range(2, MAX_GENERATIONS + 1):
        found = keeper.replace(PLAN, first.answer(), since=first.created)
        assert found.mark.generation == generation
        emr.lose(found.id)
    with pytest.raises(ClusterError, match="no more are made"):
        keeper.replace(PLAN, first.answer(), since=first.created)


def test_nothing_is_made_after_its_time(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    with pytest.raises(ServiceUnavailableError, match="too late"):
        keeper.ensure(PLAN, until=emr.clock.now() - timedelta(seconds=1))
    assert emr.calls["RunJobFlow"] == 0


def test_everything_of_the_lineage_is_ended(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    known, replacement = make(emr), make(emr, generation=3)
    other_spec = make(emr, plan_of(ClusterSpec(name="x", release="emr-6.15.0")))
    assert set(keeper.end_all(PLAN.lineage, known.id)) == {known.id, replacement.id, other_spec.id}
    assert emr.live == []
    assert emr.calls["TerminateJobFlows"] == 3


def test_a_tag_that_fails_does_not_keep_the_cluster_up(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    cluster = make(emr)
    emr.errors["AddTags"] = [denial("AddTags")]
    assert keeper.end_all(PLAN.lineage, cluster.id) == [cluster.id]
    assert emr.live == []


def test_one_that_cannot_be_ended_does_not_save_the_others(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    first, second = make(emr), make(emr, generation=2)
    emr.errors["TerminateJobFlows"] = [denial("TerminateJobFlows")]
    with pytest.raises(ClusterError, match="what goes on costs"):
        keeper.end_all(PLAN.lineage, first.id)
    assert not second.is_live
    assert keeper.end_all(PLAN.lineage, first.id) == [first.id]


def test_what_cannot_be_ended_can_be_tried_again(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    cluster = make(emr)
    emr.errors["TerminateJobFlows"] = [throttle("TerminateJobFlows")] * 2
    with pytest.raises(ClusterError) as raised:
        keeper.end_all(None, cluster.id)
    assert raised.value.retryable


def test_a_list_that_fails_does_not_save_the_cluster_that_is_known(
    emr: FakeEmr, keeper: ClusterKeeper
) -> None:
    cluster = make(emr)
    emr.errors["ListClusters"] = [denial("ListClusters")]
    with pytest.raises(ClusterError, match="AccessDenied"):
        keeper.end_all(PLAN.lineage, cluster.id)
    assert emr.live == []


def test_a_cluster_that_was_never_there_is_ended(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    assert keeper.end_all(PLAN.lineage, "j-NONE") == []
    assert keeper.end_all(None, None) == []


def test_a_protected_cluster_is_ended_when_that_is_meant(emr: FakeEmr, keeper: ClusterKeeper) -> None:
    plan = plan_of(ClusterSpec(name="x", termination_protection=True))
    cluster = make(emr, plan)
    with pytest.raises(ClusterError, match="protected"):
        keeper.end_all(plan.lineage, cluster.id)
    assert keeper.end_all(plan.lineage, cluster.id, lift_protection=True) == [cluster.id]


def test_a_cluster_whose_id_nobody_learnt_is_found_although_the_list_lags(
    emr: FakeEmr, keeper: ClusterKeeper
) -> None:
    emr.list_lag_seconds = LIST_LAG_SECONDS - 1
    make(emr)
    keeper.end_all(PLAN.lineage, None)
    assert emr.live == []
