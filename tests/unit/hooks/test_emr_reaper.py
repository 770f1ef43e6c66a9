"""The reaper's calls: few, one cluster after the other, and none that touches what is not ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.emr import refusal

from airflow_emr_etl.exceptions import ClusterNotEndedError, ThrottledError
from airflow_emr_etl.hooks.clock import Clock
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_reaper import Action, EmrReaper, raise_failures
from airflow_emr_etl.models.intent import (
    TAG_CLOSED,
    TAG_LINEAGE,
    TAG_MAX_IDLE,
    TAG_POOL,
    ClusterMark,
    Scope,
    tags_for_run,
)
from airflow_emr_etl.models.reaping import Limits, RunState

NOW = datetime(2026, 1, 6, 12, tzinfo=UTC)


class Still(Clock):
    def now(self) -> datetime:
        return NOW


class Emr:
    """Clusters as dicts, behind the calls that the reaper makes; pages of two."""

    def __init__(self) -> None:
        self.clusters: dict[str, dict[str, Any]] = {}
        self.steps: dict[str, list[dict[str, Any]]] = {}
        self.calls: list[tuple[str, str]] = []
        self.refusals: dict[tuple[str, str], Exception] = {}

    def add(self, run_id: str, *, state: str = "RUNNING", age_hours: float = 2, **more: Any) -> str:
        scope = Scope("d", run_id, "up")
        tags = {**tags_for_run(scope), TAG_LINEAGE: scope.lineage, **more.pop("tags", {})}
        return self.put(ClusterMark(scope.lineage, "0badcafe").on(run_id), tags, state, age_hours, **more)

    def put(self, name: str, tags: dict[str, str], state: str, age_hours: float = 2, **more: Any) -> str:
        cluster_id = f"j-{len(self.clusters) + 1}"
        created = NOW - timedelta(hours=age_hours)
        self.clusters[cluster_id] = {
            "Id": cluster_id,
            "Name": name,
            "Status": {"State": state, "Timeline": {"CreationDateTime": created}},
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            "NormalizedInstanceHours": 8,
            **more,
        }
        return cluster_id

    def tags(self, cluster_id: str) -> dict[str, str]:
        return {tag["Key"]: tag["Value"] for tag in self.clusters[cluster_id]["Tags"]}

    def count(self) -> Counter[str]:
        return Counter(operation for operation, _ in self.calls)

    def _called(self, operation: str, about: str = "") -> None:
        self.calls.append((operation, about))
        if (operation, about) in self.refusals:
            raise self.refusals[operation, about]

    def get_paginator(self, name: str) -> Any:
        return SimpleNamespace(paginate=getattr(self, f"_pages_of_{name}"))

    def _pages_of_list_clusters(self, ClusterStates: list[str]) -> Iterator[dict[str, Any]]:
        live = [each for each in self.clusters.values() if each["Status"]["State"] in ClusterStates]
        for start in range(0, max(len(live), 1), 2):
            self._called("ListClusters")
            some = live[start : start + 2]
            yield {"Clusters": [{key: each[key] for key in ("Id", "Name", "Status")} for each in some]}

    def _pages_of_list_steps(self, ClusterId: str) -> Iterator[dict[str, Any]]:
        steps = self.steps.get(ClusterId, [])
        for start in range(0, max(len(steps), 1), 50):
            self._called("ListSteps", ClusterId)
            yield {"Steps": steps[start : start + 50]}

    def describe_cluster(self, ClusterId: str) -> dict[str, Any]:
        self._called("DescribeCluster", ClusterId)
        return {"Cluster": self.clusters[ClusterId]}

    def add_tags(self, ResourceId: str, Tags: list[dict[str, str]]) -> None:
        self._called("AddTags", ResourceId)
        self.clusters[ResourceId]["Tags"] += Tags

    def set_termination_protection(self, JobFlowIds: list[str], TerminationProtected: bool) -> None:
        [cluster_id] = JobFlowIds
        self._called("SetTerminationProtection", cluster_id)
        self.clusters[cluster_id]["TerminationProtected"] = TerminationProtected

    def terminate_job_flows(self, JobFlowIds: list[str]) -> None:
        [cluster_id] = JobFlowIds
        self._called("TerminateJobFlows", cluster_id)
        if not self.clusters[cluster_id].get("TerminationProtected"):
            self.clusters[cluster_id]["Status"]["State"] = "TERMINATING"

    def ended(self) -> set[str]:
        return {key for key, each in self.clusters.items() if each["Status"]["State"] == "TERMINATING"}


@pytest.fixture
def emr() -> Emr:
    return Emr()


def reaper(emr: Emr, runs: dict[str, RunState] | None = None, **more: Any) -> EmrReaper:
    clients = EmrClients(None)
    clients.__dict__["reads"] = emr
    known = runs or {}
    return EmrReaper(clients, lambda dag_id, run_id: known.get(run_id, RunState.GOING), clock=Still(), **more)


def test_it_ends_what_is_over_and_leaves_the_rest(emr: Emr) -> None:
    over, going = emr.add("over", age_hours=3), emr.add("going")
    somebodys = emr.put("etl", {}, "WAITING", 99)
    copied = emr.put(emr.clusters[over]["Name"], {"team": "x"}, "WAITING", 99)
    past = emr.add("past", state="TERMINATED")

    done = reaper(emr, {"over": RunState.FAILED, "past": RunState.FAILED}).reap()

    assert [(each.cluster_id, each.name, each.action) for each in done] == [
        (over, "over", Action.ENDED),
        (going, "going", Action.KEPT),
    ]
    assert emr.ended() == {over}
    assert TAG_CLOSED in emr.tags(over)
    asked = {about for operation, about in emr.calls if operation == "DescribeCluster"}
    assert asked == {over, going, copied}
    assert not {somebodys, past} & asked
    assert emr.count()["ListClusters"] == 2
    assert emr.count()["ListSteps"] == 1  # of the copied one, which waits


def test_a_dry_run_changes_nothing(emr: Emr) -> None:
    emr.add("over")
    [row] = reaper(emr, {"over": RunState.SUCCEEDED}).reap(dry_run=True)
    assert row.action is Action.WOULD_END
    assert set(emr.count()) == {"ListClusters", "DescribeCluster"}


def test_an_idle_one_may_be_replaced_and_is_not_closed(emr: Emr) -> None:
    idle = emr.add("going", state="WAITING", tags={TAG_MAX_IDLE: "600"})
    [row] = reaper(emr).reap()
    assert (row.action, row.idle) == (Action.ENDED, timedelta(hours=2))
    assert TAG_CLOSED not in emr.tags(idle)


def test_only_the_latest_page_of_steps_is_read(emr: Emr) -> None:
    idle = emr.add("going", state="WAITING", tags={TAG_MAX_IDLE: "600"})
    ended = {"CreationDateTime": NOW - timedelta(hours=1), "EndDateTime": NOW - timedelta(minutes=5)}
    emr.steps[idle] = [{"Status": {"State": "COMPLETED", "Timeline": ended}} for _ in range(120)]
    [row] = reaper(emr).reap()
    assert (row.action, row.idle) == (Action.KEPT, timedelta(minutes=5))
    assert emr.count()["ListSteps"] == 1


def test_protection_is_respected_unless_it_is_lifted(emr: Emr) -> None:
    emr.add("over", TerminationProtected=True)
    runs = {"over": RunState.FAILED}
    [row] = reaper(emr, runs).reap()
    assert row.action is Action.PROTECTED
    assert emr.count()["TerminateJobFlows"] == 0
    [row] = reaper(emr, runs, lift_protection=True).reap()
    assert row.action is Action.ENDED
    assert emr.ended() == {row.cluster_id}


def test_the_trouble_of_one_does_not_stop_the_others(emr: Emr) -> None:
    hidden, stuck, gone, fine = (emr.add(f"run {number}") for number in range(4))
    denied = refusal("DescribeCluster", "AccessDeniedException", "no")
    emr.refusals["DescribeCluster", hidden] = denied
    emr.refusals["AddTags", fine] = denied  # the end is what counts
    emr.refusals["TerminateJobFlows", stuck] = refusal("TerminateJobFlows", "ThrottlingException", "slow")
    emr.refusals["DescribeCluster", gone] = refusal(
        "DescribeCluster", "InvalidRequestException", f"Cluster id '{gone}' is not valid."
    )

    done = reaper(emr, {f"run {number}": RunState.FAILED for number in range(4)}).reap()

    assert {each.cluster_id: each.action for each in done} == {
        hidden: Action.FAILED,
        stuck: Action.FAILED,
        fine: Action.ENDED,
    }
    assert emr.ended() == {fine}
    assert [each.name for each in done] == ["run 0", "run 1", "run 3"]
    with pytest.raises(ClusterNotEndedError, match="2 of 3 clusters") as raised:
        raise_failures(done)
    assert raised.value.cluster_ids == [hidden, stuck]
    assert all(each.document()["cluster_id"] for each in done)


def test_where_nothing_can_be_listed_it_raises(emr: Emr) -> None:
    emr.refusals["ListClusters", ""] = refusal("ListClusters", "ThrottlingException", "slow")
    with pytest.raises(ThrottledError):
        reaper(emr).reap()


def test_one_that_ends_meanwhile_is_not_touched(emr: Emr) -> None:
    emr.add("over")
    listed = emr._pages_of_list_clusters

    def list_then_end(ClusterStates: list[str]) -> Iterator[dict[str, Any]]:
        pages = [*listed(ClusterStates)]
        for each in emr.clusters.values():
            each["Status"] = {**each["Status"], "State": "TERMINATING"}
        yield from pages

    emr._pages_of_list_clusters = list_then_end  # type: ignore[method-assign]
    assert reaper(emr, {"over": RunState.FAILED}).reap() == []
    assert emr.count()["TerminateJobFlows"] == 0


def test_airflow_is_asked_only_for_runs_of_its_own_site(emr: Emr) -> None:
    asked = []
    emr.add("ours", tags={"emr-etl:site": "here"})
    emr.add("theirs", tags={"emr-etl:site": "there"})
    emr.add("pool", tags={TAG_POOL: "p", "emr-etl:site": "here"})
    clients = EmrClients(None)
    clients.__dict__["reads"] = emr

    def ask(dag_id: str, run_id: str) -> RunState:
        asked.append((dag_id, run_id))
        return RunState.FAILED

    done = EmrReaper(clients, ask, site="here", clock=Still(), limits=Limits()).reap()
    assert asked == [("d", "ours")]
    assert {each.name: each.action for each in done} == {
        "ours": Action.ENDED,
        "theirs": Action.KEPT,
        "pool": Action.KEPT,
    }


def test_the_document_of_a_row(emr: Emr) -> None:
    emr.add("over", state="WAITING")
    [row] = reaper(emr, {"over": RunState.FAILED}).reap(dry_run=True)
    assert row.document() == {
        "cluster_id": "j-1",
        "name": "over",
        "dag_id": "d",
        "run_id": "over",
        "task_id": "up",
        "pool": None,
        "site": "",
        "state": "WAITING",
        "age_seconds": 7200,
        "idle_seconds": 7200,
        "action": "would end",
        "why": "its run has ended (failed)",
        "normalized_instance_hours": 8,
        "cost_usd": None,
    }
