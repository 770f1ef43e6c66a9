"""What the reaper decides, over what EMR and Airflow say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_emr_etl.models.intent import (
    TAG_CLOSED,
    TAG_LINEAGE,
    TAG_MAX_AGE,
    TAG_MAX_IDLE,
    TAG_POOL,
    TAG_SITE,
    ClusterMark,
    Scope,
    tags_for_run,
)
from airflow_emr_etl.models.reaping import TAG_OUTLIVES_RUN, Candidate, Limits, RunState, Why, judge
from airflow_emr_etl.models.states import ClusterState

NOW = datetime(2026, 1, 6, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SCOPE = Scope("d", "r", "t", site="here")
MARK = ClusterMark(SCOPE.lineage, "0badcafe")
NO_LIMITS = Limits()


def cluster(
    *,
    tags: dict[str, str] | None = None,
    age: timedelta = 2 * HOUR,
    idle: timedelta | None = None,
    name: str = MARK.on("nightly"),
    state: ClusterState = ClusterState.RUNNING,
) -> Candidate:
    own = {**tags_for_run(SCOPE), TAG_LINEAGE: SCOPE.lineage, **(tags or {})}
    return Candidate(
        id="j-1",
        name=name,
        state=ClusterState.WAITING if idle is not None else state,
        created=NOW - age,
        tags={key: value for key, value in own.items() if value},
        idle_since=None if idle is None else NOW - idle,
    )


def pooled(**more: Any) -> Candidate:
    tags = {"emr-etl:dag": "", "emr-etl:run": "", "emr-etl:task": "", TAG_POOL: "shared"}
    return cluster(**{**more, "tags": {**tags, **more.get("tags", {})}})


def reason(
    seen: Candidate, run: RunState = RunState.GOING, *, site: str = "here", limits: Limits = NO_LIMITS
) -> Why | None:
    return judge(seen, run, site=site, limits=limits, now=NOW).reason


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (RunState.GOING, None),
        (RunState.UNKNOWN, None),
        (RunState.SUCCEEDED, Why.RUN_OVER),
        (RunState.FAILED, Why.RUN_OVER),
        (RunState.GONE, Why.RUN_GONE),
    ],
)
def test_the_run_decides(run: RunState, expected: Why | None) -> None:
    assert reason(cluster(), run) is expected


def test_a_cluster_whose_run_is_not_known_is_left_alone_while_it_is_young() -> None:
    assert reason(cluster(age=0.9 * HOUR), RunState.GONE) is None
    assert reason(cluster(age=1.1 * HOUR), RunState.GONE) is Why.RUN_GONE


@pytest.mark.parametrize("run", [RunState.SUCCEEDED, RunState.FAILED, RunState.GONE])
def test_some_clusters_outlive_their_runs_but_not_their_limits(run: RunState) -> None:
    tagged = cluster(tags={TAG_OUTLIVES_RUN: "true"})
    ends_itself = replace(cluster(), ends_itself=True)
    for lasting in (tagged, ends_itself):
        assert reason(lasting, run) is None
        assert reason(lasting, run, limits=Limits(max_age=HOUR)) is Why.AGE
    assert reason(cluster(tags={TAG_OUTLIVES_RUN: "False"}), run) is not None


def test_what_a_teardown_closed_is_ended_whatever_its_run_does() -> None:
    assert reason(cluster(tags={TAG_CLOSED: "2026-01-06T11:00:00+00:00"})) is Why.CLOSED


@pytest.mark.parametrize(
    "odd",
    [
        cluster(name="nightly"),
        cluster(tags={TAG_LINEAGE: ""}),
        cluster(tags={TAG_LINEAGE: "0123456789abcdef"}),
    ],
    ids=["no mark", "no tag", "they disagree"],
)
def test_never_others(odd: Candidate) -> None:
    everything = Limits(max_age=timedelta(0), max_idle=timedelta(0))
    assert reason(odd, RunState.FAILED, limits=everything) is None


def test_age_ends_a_run_s_cluster_even_at_work() -> None:
    assert reason(cluster(tags={TAG_MAX_AGE: "3600"})) is Why.AGE
    assert reason(cluster(tags={TAG_MAX_AGE: "7201"})) is None


def test_the_shorter_of_tag_and_limit_counts() -> None:
    long = cluster(tags={TAG_MAX_AGE: str(7 * 86_400)})
    assert reason(long, limits=Limits(max_age=HOUR)) is Why.AGE
    assert reason(cluster(tags={TAG_MAX_AGE: "3600"}), limits=Limits(max_age=9 * HOUR)) is Why.AGE


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf", "1e400", "9" * 40])
def test_a_tag_that_is_no_number_is_no_limit(text: str) -> None:
    assert reason(cluster(tags={TAG_MAX_AGE: text, TAG_MAX_IDLE: text}, idle=2 * HOUR)) is None


def test_idleness_has_a_grace_behind_emr_s_own_end() -> None:
    tags = {TAG_MAX_IDLE: "1800"}
    assert reason(cluster(tags=tags, idle=timedelta(minutes=34))) is None
    assert reason(cluster(tags=tags, idle=timedelta(minutes=36))) is Why.IDLE
    assert reason(cluster(tags=tags, idle=None)) is None
    assert reason(cluster(idle=HOUR), limits=Limits(max_idle=timedelta(minutes=30))) is Why.IDLE


def test_another_site_s_cluster_is_bound_by_its_own_tags_alone() -> None:
    everything = Limits(max_age=timedelta(0), max_idle=timedelta(0))
    for foreign in (cluster(), cluster(tags={TAG_CLOSED: "x"}), cluster(idle=HOUR)):
        assert reason(foreign, RunState.FAILED, site="elsewhere", limits=everything) is None
    assert reason(cluster(tags={TAG_MAX_AGE: "60"}), site="elsewhere") is Why.AGE
    assert reason(cluster(tags={TAG_SITE: ""}), RunState.FAILED) is None
    assert reason(cluster(tags={TAG_SITE: ""}), RunState.FAILED, site="") is Why.RUN_OVER


def test_a_pool_s_cluster_has_no_run_and_is_not_ended_at_work() -> None:
    tags = {TAG_MAX_AGE: "3600", TAG_MAX_IDLE: "1800"}
    assert reason(pooled(tags=tags), RunState.FAILED) is None
    assert reason(pooled(tags=tags, idle=timedelta(minutes=1))) is Why.AGE
    assert reason(pooled(tags={TAG_MAX_IDLE: "1800"}, idle=HOUR)) is Why.IDLE
    assert reason(pooled(tags={TAG_MAX_IDLE: "1800"}, idle=timedelta(minutes=1))) is None


def test_every_verdict_is_explained() -> None:
    for run in RunState:
        for seen in (cluster(), cluster(age=timedelta(0)), cluster(idle=HOUR), pooled()):
            for site in ("here", "elsewhere"):
                assert judge(seen, run, site=site, limits=NO_LIMITS, now=NOW).told


def answer(state: str, **timeline: datetime) -> dict[str, Any]:
    return {
        "Id": "j-1",
        "Name": "n",
        "Status": {"State": state, "Timeline": {"CreationDateTime": NOW - 5 * HOUR, **timeline}},
        "Tags": [{"Key": "a", "Value": "b"}],
        "TerminationProtected": True,
        "NormalizedInstanceHours": 24,
    }


def step(state: str, **timeline: datetime) -> dict[str, Any]:
    return {"Status": {"State": state, "Timeline": timeline}}


def test_idle_since_the_latest_end_of_a_step() -> None:
    steps = [
        step("CANCELLED", CreationDateTime=NOW - 2 * HOUR),
        step("COMPLETED", CreationDateTime=NOW - 4 * HOUR, EndDateTime=NOW - HOUR),
    ]
    waiting = answer("WAITING", ReadyDateTime=NOW - 4.5 * HOUR)
    assert Candidate.of(waiting, steps).idle_since == NOW - HOUR
    assert Candidate.of(waiting, []).idle_since == NOW - 4.5 * HOUR
    assert Candidate.of(answer("WAITING"), []).idle_since == NOW - 5 * HOUR


@pytest.mark.parametrize("state", ["STARTING", "BOOTSTRAPPING", "RUNNING"])
def test_what_comes_up_or_works_is_not_idle(state: str) -> None:
    assert Candidate.of(answer(state), []).idle_since is None


def test_a_step_that_was_just_added_is_work() -> None:
    assert Candidate.of(answer("WAITING"), [step("PENDING", CreationDateTime=NOW)]).idle_since is None


def test_what_emr_says_else() -> None:
    seen = Candidate.of(answer("RUNNING"), [])
    assert (seen.protected, seen.instance_hours, seen.tags) == (True, 24, {"a": "b"})
