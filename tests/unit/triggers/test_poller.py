"""The shared poller over a fake EMR, in an event loop whose time is virtual."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fakes.emr import FakeEmr, denial, outage, refusal, throttle
from fakes.triggerer import Triggerer, add_steps, clusters, end, later, reads, waiting_for

from airflow_emr_etl.exceptions import ServiceUnavailableError
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.triggers import poller as poller_module
from airflow_emr_etl.triggers.emr import EmrJobFlowTrigger, EmrStepsTrigger
from airflow_emr_etl.triggers.emr_cluster import EmrClusterStateTrigger
from airflow_emr_etl.triggers.emr_step import EmrStepTrigger
from airflow_emr_etl.triggers.polling import PollingTrigger


def test_one_step_is_seen_soon_and_its_payload_is_what_a_lone_wait_gives(
    emr: FakeEmr, triggerer: Triggerer
) -> None:
    [cluster] = clusters(emr, 1, 1)
    [trigger] = waiting_for(cluster, carry={"a": 1})
    triggerer.at(3, end(cluster, trigger.step_id))
    [(when, payload)] = triggerer.run([trigger])
    assert 3 <= when < 6
    alone = asyncio.run(waiting_for(cluster, carry={"a": 1})[0].wait())
    assert payload == alone
    assert emr.calls["ListSteps"] == 0


def test_a_hundred_steps_of_one_cluster_cost_twenty_calls_a_minute(
    emr: FakeEmr, triggerer: Triggerer
) -> None:
    [cluster] = clusters(emr, 1, 100)
    triggers = waiting_for(cluster)
    for number, trigger in enumerate(triggers):
        triggerer.at(60 + number * 9, end(cluster, trigger.step_id))
    counts: list[int] = []
    for minute in range(1, 16):
        triggerer.at(minute * 60, lambda: counts.append(reads(emr)))
    ends = triggerer.run(triggers)
    delays = sorted(when - (60 + number * 9) for number, (when, _) in enumerate(ends))
    assert all(payload["status"] == "done" for _, payload in ends)
    assert delays[0] >= 0
    assert delays[94] <= 25
    a_minute = [after - before for before, after in zip([0, *counts], counts, strict=False)]
    assert max(a_minute) <= 20, a_minute


def test_a_thousand_steps_of_ten_clusters_share_their_calls(emr: FakeEmr, triggerer: Triggerer) -> None:
    made = clusters(emr, 10, 100)
    triggers = waiting_for(*made)
    for number, trigger in enumerate(triggers):
        cluster = emr.clusters[trigger.cluster_id]
        triggerer.at(300 + number % 100, end(cluster, trigger.step_id))
    counts: list[int] = []
    for minute in range(1, 6):
        triggerer.at(minute * 60, lambda: counts.append(reads(emr)))
    moments: list[float] = []
    called = emr._called
    emr._called = lambda *args: (moments.append(triggerer.world.seconds), called(*args))[1]  # type: ignore[method-assign]
    ends = triggerer.run(triggers)
    assert {payload["status"] for _, payload in ends} == {"done"}
    assert max(after - before for before, after in zip([0, *counts], counts, strict=False)) <= 200
    assert max(sum(start <= each < start + 1 for each in moments) for start in moments) <= 10
    assert emr.calls["DescribeStep"] < 30
    assert emr.calls["ListClusters"] > 0
    assert emr.calls["DescribeCluster"] < 20, "the clusters are looked up in their list too"


@pytest.mark.parametrize("older", [0, 400], ids=["a new cluster", "a cluster that has lived for long"])
def test_a_flock_of_steps_that_end_together_is_looked_up_in_a_list(
    emr: FakeEmr, triggerer: Triggerer, older: int
) -> None:
    [cluster] = clusters(emr, 1, 0)
    add_steps(emr, cluster, older, "COMPLETED")
    ours = add_steps(emr, cluster, 200, "RUNNING")
    triggers = [EmrStepTrigger(cluster_id=cluster.id, step_id=step_id) for step_id in ours]
    for step_id in ours:
        triggerer.at(100, end(cluster, step_id))
    before: list[int] = []
    triggerer.at(99, lambda: before.append(reads(emr)))
    ends = triggerer.run(triggers)
    assert {payload["status"] for _, payload in ends} == {"done"}
    assert max(when for when, _ in ends) < 140
    assert reads(emr) - before[0] <= 8, "by their ids it would be twenty"


def test_steps_that_are_far_down_the_list_are_not_read_for_again_and_again(
    emr: FakeEmr, triggerer: Triggerer
) -> None:
    """Old steps, and many new ones of others before them in the list of all steps."""
    [cluster] = clusters(emr, 1, 30)
    triggers = waiting_for(cluster)
    add_steps(emr, cluster, 900, "COMPLETED")
    for trigger in triggers:
        triggerer.at(600, end(cluster, trigger.step_id))
    ends = triggerer.run(triggers)
    assert {payload["status"] for _, payload in ends} == {"done"}
    assert reads(emr) < 120


def test_clusters_that_come_up_are_looked_up_in_a_list(emr: FakeEmr, triggerer: Triggerer) -> None:
    made = clusters(emr, 30, 0)
    for cluster in made:
        cluster.state = "STARTING"
        triggerer.at(300, lambda cluster=cluster: setattr(cluster, "state", "WAITING"))
    ends = triggerer.run(
        [EmrClusterStateTrigger(cluster_id=each.id, target_states=["WAITING"]) for each in made]
    )
    assert {payload["cluster"]["Status"]["State"] for _, payload in ends} == {"WAITING"}
    assert all({"Name", "LogUri", "Tags"} <= payload["cluster"].keys() for _, payload in ends)
    assert max(when for when, _ in ends) < 360
    assert emr.calls["DescribeCluster"] == 30, "each once, for what the list does not tell"
    assert emr.calls["ListClusters"] < 60


def test_a_cluster_that_is_listed_twice_does_no_harm(
    emr: FakeEmr, triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes up between two pages moves the last of the first page to the second."""
    made = clusters(emr, 120, 0)
    triggers = [
        EmrClusterStateTrigger(cluster_id=c.id, target_states=["WAITING"], deadline=later(triggerer, 200))
        for c in made
    ]
    listed = emr.list_clusters
    last: list[Any] = []

    def shifted(**request: Any) -> dict[str, Any]:
        answer = listed(**request)
        if "Marker" in request:
            answer["Clusters"][:0] = last
        last[:] = answer["Clusters"][-1:]
        return answer

    monkeypatch.setattr(emr, "list_clusters", shifted)
    found = triggerer.run(triggers)
    assert {payload["status"] for _, payload in found} == {"timeout"}


def test_a_cluster_that_ends_is_told_whatever_was_waited_for(emr: FakeEmr, triggerer: Triggerer) -> None:
    made = clusters(emr, 2, 0)
    triggerer.at(30, lambda: emr.end(made[0].id, "BOOTSTRAP_FAILURE", "no"))
    triggerer.at(60, lambda: setattr(made[1], "state", "WAITING"))
    triggers = [EmrJobFlowTrigger(cluster_id=each.id, target_states=["WAITING"]) for each in made]
    (_, first), (_, second) = triggerer.run(triggers)
    assert first["cluster"]["Status"]["StateChangeReason"]["Code"] == "BOOTSTRAP_FAILURE"
    assert second["cluster"]["Status"]["State"] == "WAITING"


def test_a_cluster_that_ends_ends_the_waits_for_its_steps(emr: FakeEmr, triggerer: Triggerer) -> None:
    lost, healthy = clusters(emr, 2, 3)
    triggers = waiting_for(lost, healthy)
    for step_id in healthy.steps:
        triggerer.at(900, end(healthy, step_id))

    def lose() -> None:
        emr.end(lost.id, "INSTANCE_FAILURE", "spot")
        lost.steps[triggers[0].step_id].state = "COMPLETED"

    triggerer.at(40, lose)
    ends = triggerer.run(triggers)
    assert [payload["status"] for _, payload in ends] == ["done", *["cluster_ended"] * 2, *["done"] * 3]
    assert ends[1][1]["cluster"]["Status"]["StateChangeReason"]["Message"] == "spot"
    assert ends[1][1]["step"]["Id"] == triggers[1].step_id
    assert max(when for when, _ in ends[:3]) < 250
    assert min(when for when, _ in ends[3:]) >= 900


def test_a_trigger_of_several_steps_waits_for_all(emr: FakeEmr, triggerer: Triggerer) -> None:
    [cluster] = clusters(emr, 1, 12)
    ids = list(cluster.steps)
    for step_id in ids[:-1]:
        triggerer.at(50, end(cluster, step_id, "FAILED"))
    cluster.steps[ids[-1]].state = "PENDING"
    triggerer.at(200, end(cluster, ids[-1], "RUNNING"))
    trigger = EmrStepsTrigger(cluster_id=cluster.id, step_ids=ids, target_states=["RUNNING"])
    # Those that run already count as seen.
    [(when, payload)] = triggerer.run([trigger])
    assert payload["status"] == "done"
    assert [step["Id"] for step in payload["steps"]] == ids
    assert 200 <= when < 240


def test_fail_fast_ends_with_the_first_failure(emr: FakeEmr, triggerer: Triggerer) -> None:
    [cluster] = clusters(emr, 1, 3)
    ids = list(cluster.steps)
    trigger = EmrStepsTrigger(cluster_id=cluster.id, step_ids=ids, fail_fast=True)
    triggerer.at(100, end(cluster, ids[0]))
    triggerer.at(200, end(cluster, ids[1], "FAILED"))
    [(when, payload)] = triggerer.run([trigger])
    assert 200 <= when < 240
    states = {step["Id"]: step["Status"]["State"] for step in payload["steps"]}
    assert (states[ids[0]], states[ids[1]]) == ("COMPLETED", "FAILED")


def test_nothing_to_wait_for_is_done(emr: FakeEmr, triggerer: Triggerer) -> None:
    [cluster] = clusters(emr, 1, 0)
    [(_, payload)] = triggerer.run([EmrStepsTrigger(cluster_id=cluster.id, step_ids=[])])
    assert (payload["status"], payload["steps"]) == ("done", [])


def test_two_waits_for_one_step_both_end(emr: FakeEmr, triggerer: Triggerer) -> None:
    [cluster] = clusters(emr, 1, 1)
    triggers = [*waiting_for(cluster), *waiting_for(cluster)]
    triggerer.at(20, end(cluster, triggers[0].step_id))
    assert [payload["status"] for _, payload in triggerer.run(triggers)] == ["done", "done"]


def test_a_step_that_is_not_listed_yet_has_not_ended(emr: FakeEmr, triggerer: Triggerer) -> None:
    [cluster] = clusters(emr, 1, 30)
    emr.clock.now = lambda: triggerer.world.now  # type: ignore[method-assign]
    for step in cluster.steps.values():
        step.created = triggerer.world.now
    emr.list_lag_seconds = 300
    triggers = waiting_for(cluster)
    for step_id in cluster.steps:
        triggerer.at(100, end(cluster, step_id))
    ends = triggerer.run(triggers)
    assert {payload["status"] for _, payload in ends} == {"done"}
    assert all(100 <= when < 400 for when, _ in ends)


def test_deadlines_hold_each_for_itself(emr: FakeEmr, triggerer: Triggerer) -> None:
    [cluster] = clusters(emr, 1, 3)
    times = [100.0, 1000.0, -5.0]
    triggers = [
        EmrStepTrigger(cluster_id=cluster.id, step_id=step_id, deadline=later(triggerer, seconds))
        for step_id, seconds in zip(cluster.steps, times, strict=True)
    ]
    triggerer.at(99.5, end(cluster, triggers[1].step_id))
    ends = triggerer.run(triggers)
    assert [payload["status"] for _, payload in ends] == ["timeout", "done", "timeout"]
    assert ends[0][0] == pytest.approx(100, abs=0.1)
    assert ends[2][0] < 5


def test_what_has_come_by_the_deadline_counts(emr: FakeEmr, triggerer: Triggerer) -> None:
    [cluster] = clusters(emr, 1, 1)
    [trigger] = waiting_for(cluster, deadline=later(triggerer, 600))
    triggerer.at(597, end(cluster, trigger.step_id))
    assert triggerer.run([trigger])[0][1]["status"] == "done"


def test_a_deadline_holds_while_aws_hangs(
    emr: FakeEmr, triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cluster] = clusters(emr, 1, 1)
    monkeypatch.setattr(emr, "describe_step", lambda **request: triggerer.world.sleep(10_000))
    [trigger] = waiting_for(cluster, deadline=later(triggerer, 60))
    [(when, payload)] = triggerer.run([trigger])
    assert payload["status"] == "timeout"
    assert when == pytest.approx(60, abs=0.1)


def test_a_deadline_holds_while_airflow_has_no_connection_to_give(
    emr: FakeEmr, triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cluster] = clusters(emr, 1, 2)
    first = True

    def hang(self: Any) -> FakeEmr:
        nonlocal first
        if first:
            first = False
            triggerer.world.sleep(3000)
        return emr

    monkeypatch.setattr(EmrClients, "polls", property(hang))
    hurried, patient = waiting_for(cluster)
    hurried.deadline = later(triggerer, 60)
    triggerer.at(100, end(cluster, patient.step_id))
    (when, payload), (_, other) = triggerer.run([hurried, patient])
    assert payload["status"] == "timeout"
    assert when == pytest.approx(60, abs=0.1)
    assert other["status"] == "done"


def test_cancelling_one_wait_leaves_the_others_alone(emr: FakeEmr, triggerer: Triggerer) -> None:
    [cluster] = clusters(emr, 1, 20)
    triggers = waiting_for(cluster)
    triggerer.at(0.1, lambda: triggerer.cancel(0))  # the one that was first, and read the connection
    triggerer.at(70, lambda: triggerer.cancel(1))
    for trigger in triggers[2:]:
        triggerer.at(120, end(cluster, trigger.step_id))
    ends = triggerer.run(triggers)
    assert [type(payload) for _, payload in ends[:2]] == [asyncio.CancelledError] * 2
    assert {payload["status"] for _, payload in ends[2:]} == {"done"}
    asked = [request for operation, request in emr.log if operation == "ListSteps"]
    assert not any(triggers[0].step_id in request.get("StepIds", []) for request in asked[-2:])


def test_whoever_reads_the_connection_can_be_cancelled(
    emr: FakeEmr, triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cluster] = clusters(emr, 1, 3)

    def slow(self: Any) -> FakeEmr:
        triggerer.world.sleep(5)
        return emr

    monkeypatch.setattr(EmrClients, "polls", property(slow))
    triggers = waiting_for(cluster)
    triggerer.at(2, lambda: triggerer.cancel(0))
    for trigger in triggers[1:]:
        triggerer.at(60, end(cluster, trigger.step_id))
    ends = triggerer.run(triggers)
    assert isinstance(ends[0][1], asyncio.CancelledError)
    assert [payload["status"] for _, payload in ends[1:]] == ["done", "done"]


def test_a_step_that_emr_does_not_know_fails_alone(
    emr: FakeEmr, triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cluster] = clusters(emr, 1, 8)
    listed = emr.list_steps

    def picky(**request: Any) -> dict[str, Any]:
        if "s-NONE" in request.get("StepIds", []):
            emr.calls["ListSteps"] += 1
            raise refusal("ListSteps", "InvalidRequestException", "Step id 's-NONE' is not valid.")
        return listed(**request)

    monkeypatch.setattr(emr, "list_steps", picky)
    triggers = waiting_for(cluster)
    triggers.insert(3, EmrStepTrigger(cluster_id=cluster.id, step_id="s-NONE"))
    for step_id in cluster.steps:
        triggerer.at(60, end(cluster, step_id))
    ends = triggerer.run(triggers)
    assert [payload["status"] for _, payload in ends] == [*["done"] * 3, "error", *["done"] * 5]
    assert ends[3][1]["error"]["type"] == "StepError"
    assert ends[3][0] < 30


def test_a_cluster_that_emr_does_not_know_fails_its_own_waits(emr: FakeEmr, triggerer: Triggerer) -> None:
    [cluster] = clusters(emr, 1, 2)
    triggers: list[PollingTrigger] = [*waiting_for(cluster)]
    for step_id in cluster.steps:
        triggerer.at(60, end(cluster, step_id))
    triggers += [EmrStepTrigger(cluster_id="j-NONE", step_id=f"s-{number}") for number in range(20)]
    triggers += [EmrClusterStateTrigger(cluster_id="j-NONE", target_states=["WAITING"])]
    ends = triggerer.run(triggers)
    assert [payload["status"] for _, payload in ends] == ["done"] * 2 + ["error"] * 21
    assert {payload["error"]["type"] for _, payload in ends[2:]} == {"ClusterNotFoundError"}


@pytest.mark.parametrize("operations", [["ListSteps"], ["ListClusters"], ["ListSteps", "ListClusters"]])
def test_who_may_not_list_asks_one_by_one(emr: FakeEmr, triggerer: Triggerer, operations: list[str]) -> None:
    made = clusters(emr, 3, 4)
    for operation in operations:
        emr.errors[operation] = [denial(operation)] * 20
    for cluster in made:
        for step_id in cluster.steps:
            triggerer.at(60, end(cluster, step_id))
    ends = triggerer.run(waiting_for(*made))
    assert {payload["status"] for _, payload in ends} == {"done"}
    assert all(emr.calls[operation] <= 3 for operation in operations)


def test_who_may_do_nothing_is_told(emr: FakeEmr, triggerer: Triggerer) -> None:
    [cluster] = clusters(emr, 1, 3)
    for operation in ("ListSteps", "DescribeStep"):
        emr.errors[operation] = [denial(operation)] * 20
    ends = triggerer.run(waiting_for(cluster))
    assert [payload["error"]["type"] for _, payload in ends] == ["AccessDeniedError"] * 3


def test_throttling_makes_calls_fewer_and_nothing_wrong(emr: FakeEmr, triggerer: Triggerer) -> None:
    made = clusters(emr, 10, 100)
    triggers = waiting_for(*made)
    is_throttled = False
    counts: dict[bool, int] = {True: 0, False: 0}

    def called(operation: str, request: dict[str, Any]) -> None:
        counts[is_throttled] += 1
        if is_throttled:
            raise throttle(operation)

    emr._called = called  # type: ignore[method-assign]

    def set_throttled(value: bool) -> None:
        nonlocal is_throttled
        is_throttled = value

    triggerer.at(300, lambda: set_throttled(True))
    triggerer.at(600, lambda: set_throttled(False))
    for trigger in triggers:
        triggerer.at(450, end(emr.clusters[trigger.cluster_id], trigger.step_id))
    healthy: list[int] = []
    triggerer.at(300, lambda: healthy.append(counts[False]))
    ends = triggerer.run(triggers)
    assert {payload["status"] for _, payload in ends} == {"done"}
    assert min(when for when, _ in ends) > 600
    assert max(when for when, _ in ends) < 900
    assert 3 <= counts[True] <= healthy[0] / 10


def test_waits_end_by_their_deadline_when_throttled_for_ever(emr: FakeEmr, triggerer: Triggerer) -> None:
    made = clusters(emr, 3, 30)
    for operation in ("ListSteps", "DescribeStep", "ListClusters", "DescribeCluster"):
        emr.errors[operation] = [throttle(operation) for _ in range(1000)]
    ends = triggerer.run(waiting_for(*made, deadline=later(triggerer, 1800)))
    assert {payload["status"] for _, payload in ends} == {"timeout"}
    assert max(when for when, _ in ends) == pytest.approx(1800, abs=0.1)
    assert reads(emr) < 150


def test_outages_and_expired_credentials_are_ridden_out(
    emr: FakeEmr, triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cluster] = clusters(emr, 1, 3)
    made: list[float] = []

    def clients(self: Any) -> FakeEmr:
        made.append(triggerer.world.seconds)
        return emr

    trouble: list[Any] = [
        outage("ListSteps"),
        ConnectionResetError("reset"),
        refusal("ListSteps", "ExpiredTokenException", "expired"),
        refusal("ListSteps", "InternalServerError", "", 500),
    ]
    emr.errors["ListSteps"] = list(trouble)
    emr.errors["DescribeCluster"] = list(trouble)
    connected: list[int] = []

    def connect(self: Any) -> EmrClients:
        connected.append(1)
        return EmrClients()

    monkeypatch.setattr(EmrStepTrigger, "_connected_clients", connect)
    triggers = waiting_for(cluster)
    for trigger in triggers:
        triggerer.at(20, end(cluster, trigger.step_id))
    ends = triggerer.run(triggers)
    assert {payload["status"] for _, payload in ends} == {"done"}
    assert max(when for when, _ in ends) < 120
    assert 2 <= len(connected) <= 3, "made once, and anew for what had expired"


def test_a_connection_that_cannot_be_read_for_a_while_is_waited_for(
    emr: FakeEmr, triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cluster] = clusters(emr, 1, 2)
    trouble: list[Exception] = [ServiceUnavailableError("later"), ValueError("no such connection")]

    def connect(self: Any) -> EmrClients:
        if trouble:
            raise trouble.pop(0)
        return EmrClients()

    monkeypatch.setattr(EmrStepTrigger, "_connected_clients", connect)
    triggers = waiting_for(cluster)
    for trigger in triggers:
        triggerer.at(20, end(cluster, trigger.step_id))
    statuses = [payload["status"] for _, payload in triggerer.run(triggers)]
    assert sorted(statuses) == ["done", "error"], "who could not read it says so; another reads it"


def test_log_lines_go_to_the_task_that_waits(emr: FakeEmr, triggerer: Triggerer) -> None:
    whose: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="nobody's")
    lines: list[tuple[str, str]] = []
    [cluster] = clusters(emr, 1, 2)
    emr.errors["ListSteps"] = [outage("ListSteps")] * 3
    triggers = waiting_for(cluster)
    for trigger in triggers:
        triggerer.at(30, end(cluster, trigger.step_id))

    class Log:
        def warning(self, message: str) -> None:
            lines.append((whose.get(), message))

    def begin(trigger: PollingTrigger) -> None:
        whose.set(trigger.step_id)  # type: ignore[attr-defined]
        trigger._log = Log()  # type: ignore[assignment]

    seen: list[str] = []
    called = emr._called
    emr._called = lambda *args: (seen.append(whose.get()), called(*args))[1]  # type: ignore[method-assign]
    ends = triggerer.run(triggers, within=begin)
    assert {payload["status"] for _, payload in ends} == {"done"}
    assert {owner for owner, _ in lines} == {trigger.step_id for trigger in triggers}
    assert all("will try again" in message for _, message in lines)
    assert len(lines) == 4, "for each the first time and the second, and not the third"
    assert set(seen) == {"nobody's"}, "the poller is in no task's context"


def test_there_is_one_poller_for_each_connection_region_and_way_to_call(
    emr: FakeEmr, triggerer: Triggerer
) -> None:
    [cluster] = clusters(emr, 1, 1)
    [step_id] = cluster.steps
    common: dict[str, Any] = {"cluster_id": cluster.id}
    triggers: list[PollingTrigger] = [
        EmrStepTrigger(**common, step_id=step_id),
        EmrClusterStateTrigger(**common, target_states=["WAITING"]),
        EmrStepsTrigger(**common, step_ids=[step_id]),
        EmrJobFlowTrigger(**common, target_states=["WAITING"]),
        EmrStepTrigger(**common, step_id=step_id, aws_conn_id="other"),
        EmrStepTrigger(**common, step_id=step_id, region_name="eu-west-1"),
        EmrStepsTrigger(**common, step_ids=[step_id], botocore_config={"read_timeout": 5}),
        EmrStepsTrigger(**common, step_ids=[step_id], verify=False),
    ]
    keys: list[Any] = []
    triggerer.at(10, lambda: keys.extend(poller_module._pollers))
    triggerer.at(20, end(cluster, step_id))
    triggerer.at(20, lambda: setattr(cluster, "state", "WAITING"))
    triggerer.run(triggers)
    assert len([key for key in keys if key[0] is triggerer.loop]) == 5


def test_a_mistake_in_the_poller_ends_the_waits(
    emr: FakeEmr, triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cluster] = clusters(emr, 1, 2)
    monkeypatch.setattr(poller_module, "steps_to_ask", lambda *args: 1 / 0)
    ends = triggerer.run(waiting_for(cluster))
    assert [payload["status"] for _, payload in ends] == ["error", "error"]


def test_it_looks_often_when_a_step_should_be_about_to_end(emr: FakeEmr, triggerer: Triggerer) -> None:
    first, second = clusters(emr, 2, 1)
    [a], [b] = list(first.steps.values()), list(second.steps.values())
    answers = {a.id: a.answer, b.id: b.answer}

    def timed(step: Any, start: float, finish: float) -> Callable[[], dict[str, Any]]:
        from simulation.world import BEGINNING

        def answer() -> dict[str, Any]:
            told = answers[step.id]()
            timeline = told["Status"]["Timeline"]
            timeline["StartDateTime"] = BEGINNING + timedelta(seconds=start)
            if step.state == "COMPLETED":
                timeline["EndDateTime"] = BEGINNING + timedelta(seconds=finish)
            return told

        return answer

    a.answer, b.answer = timed(a, 0, 900), timed(b, 1000, 1900)  # type: ignore[method-assign]
    triggerer.at(900, end(first, a.id))
    triggerer.at(1900, end(second, b.id))
    ends = triggerer.run(waiting_for(first, second, poll_interval=120))
    assert ends[0][0] - 900 < 150
    assert ends[1][0] - 1900 < 10, "the same name ran for fifteen minutes before"
