from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import accumulate, islice
from typing import Any

import pytest
from airflow.sdk.serde import deserialize, serialize
from fakes.emr import FakeEmr, refusal

from airflow_emr_etl.exceptions import AccessDeniedError
from airflow_emr_etl.models.cluster import ClusterSpec
from airflow_emr_etl.models.step import CommandStep
from airflow_emr_etl.triggers.emr_cluster import EmrClusterStateTrigger
from airflow_emr_etl.triggers.emr_step import CLUSTER_CHECK_EVERY, EmrStepTrigger
from airflow_emr_etl.triggers.pause import PauseTrigger
from airflow_emr_etl.triggers.polling import PollingTrigger, error_document, error_from, poll_delays
from airflow_emr_etl.triggers.s3_logs import S3PrefixTrigger

COMMON: dict[str, Any] = {
    "aws_conn_id": "c",
    "region_name": "eu-west-1",
    "poll_interval": 7.0,
    "first_poll": 0.5,
    "deadline": "2026-01-05T00:00:00+00:00",
    "carry": {"phase": "step", "left": ["s-1"]},
}
TRIGGERS = [
    EmrClusterStateTrigger(
        cluster_id="j-1",
        target_states=["RUNNING"],
        terminate_on_kill=True,
        lift_protection=True,
        **COMMON,
    ),
    EmrStepTrigger(cluster_id="j-1", step_id="s-1", cancel_on_kill=True, **COMMON),
    S3PrefixTrigger(prefix="s3://b/p/", marker="s3://b/p/_SUCCESS", **COMMON),
    PauseTrigger(**COMMON),
]


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 5, tzinfo=UTC)
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        assert len(self.slept) < 1000, "runaway"
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)

    def wait(self, trigger: PollingTrigger) -> dict[str, Any]:
        return asyncio.run(trigger.wait(sleep=self.sleep, now=lambda: self.now))


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: type(trigger).__name__)
def test_it_survives_the_way_to_the_triggerer(trigger: PollingTrigger) -> None:
    path, fields = trigger.serialize()
    assert path.rpartition(".")[2] == type(trigger).__name__
    again = type(trigger)(**deserialize(serialize(fields)))
    assert again.serialize() == (path, fields)
    assert fields.items() >= COMMON.items()


def test_delays_grow_from_quick_to_calm_and_spread() -> None:
    delays = list(islice(poll_delays(30, draw=lambda: 0.5), 40))
    assert delays[0] == 1
    assert delays[-1] == 30
    assert delays == sorted(delays)
    ends = list(accumulate(delays))
    late = [delay / end for delay, end in zip(delays[5:], ends[5:], strict=True)]
    assert max(late) < 0.25, "a step is seen within a quarter of its own length"
    assert len([end for end in ends if end <= 300]) < 35, "and five minutes cost few looks"
    assert next(poll_delays(30, draw=lambda: 0.0)) == pytest.approx(0.8)
    assert next(poll_delays(30, draw=lambda: 1.0)) == pytest.approx(1.2)
    assert next(poll_delays(0.1, draw=lambda: 0.5)) == pytest.approx(0.1)


@pytest.fixture
def cluster_id(emr: FakeEmr) -> str:
    return str(emr.run_job_flow(**ClusterSpec(name="x").to_api())["JobFlowId"])


@pytest.fixture
def step(emr: FakeEmr, cluster_id: str) -> dict[str, str]:
    request = CommandStep(name="x", command=["true"]).to_api()
    [step_id] = emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[request])["StepIds"]
    return {"cluster_id": cluster_id, "step_id": step_id}


def test_a_short_step_is_seen_soon(emr: FakeEmr, step: dict[str, str]) -> None:
    clock = Clock()
    payload = clock.wait(EmrStepTrigger(**step))
    assert payload["status"] == "done"
    assert payload["step"]["Status"]["State"] == "COMPLETED"
    assert payload.items() >= step.items()
    assert sum(clock.slept) < 4
    assert emr.calls["DescribeStep"] == 3
    deserialize(serialize(payload))  # plain JSON: the times are text


def test_a_cluster_that_ends_ends_the_wait(emr: FakeEmr, step: dict[str, str]) -> None:
    emr.frozen = True
    emr.end(step["cluster_id"], "INSTANCE_FAILURE", "spot")
    payload = Clock().wait(EmrStepTrigger(**step))
    assert payload["status"] == "cluster_ended"
    assert payload["cluster"]["Status"]["StateChangeReason"]["Message"] == "spot"


def test_a_cluster_that_takes_its_steps_along_ends_the_wait_by_the_step(
    emr: FakeEmr, step: dict[str, str]
) -> None:
    emr.lose(step["cluster_id"])
    payload = Clock().wait(EmrStepTrigger(**step))
    assert (payload["status"], payload["step"]["Status"]["State"]) == ("done", "CANCELLED")


def test_a_step_that_completed_just_before_its_cluster_ended_has_completed(
    emr: FakeEmr, step: dict[str, str]
) -> None:
    made = emr.clusters[step["cluster_id"]].steps[step["step_id"]]

    def both() -> None:
        made.state = "COMPLETED"
        emr.end(step["cluster_id"], "USER_REQUEST", "")

    emr.meanwhile["DescribeCluster"] = [both]
    payload = Clock().wait(EmrStepTrigger(**step))
    assert (payload["status"], payload["step"]["Status"]["State"]) == ("done", "COMPLETED")


def test_the_cluster_is_asked_now_and_then_only(emr: FakeEmr, step: dict[str, str]) -> None:
    emr.frozen = True
    clock = Clock()
    clock.wait(EmrStepTrigger(**step, deadline=(clock.now + timedelta(minutes=10)).isoformat()))
    assert emr.calls["DescribeStep"] > 20
    assert emr.calls["DescribeCluster"] <= emr.calls["DescribeStep"] / CLUSTER_CHECK_EVERY + 1


def test_a_cluster_that_ends_is_told_whatever_was_waited_for(emr: FakeEmr, cluster_id: str) -> None:
    emr.cluster_end = None
    emr.end(cluster_id, "BOOTSTRAP_FAILURE", "bootstrap action 1 failed")
    payload = Clock().wait(EmrClusterStateTrigger(cluster_id=cluster_id, target_states=["WAITING"]))
    assert payload["status"] == "done"
    assert payload["cluster"]["Status"]["StateChangeReason"]["Code"] == "BOOTSTRAP_FAILURE"
    assert payload["cluster"]["Id"] == cluster_id
    assert {"Name", "LogUri", "Tags"} <= payload["cluster"].keys(), "what a replacement is made by"


def test_the_operators_baggage_comes_back_with_every_event(emr: FakeEmr, step: dict[str, str]) -> None:
    emr.errors["DescribeStep"] = [refusal("DescribeStep", "AccessDeniedException", "no", 403)]
    carry = {"phase": "step", "restoring": ["s-1"]}
    told = [Clock().wait(EmrStepTrigger(**step, carry=carry)) for _ in range(2)]
    assert [payload["status"] for payload in told] == ["error", "done"]
    assert [payload["carry"] for payload in told] == [carry, carry]
    assert Clock().wait(EmrStepTrigger(**step))["carry"] is None


def test_a_pause_ends_at_its_time_and_asks_nobody(emr: FakeEmr) -> None:
    clock = Clock()
    trigger = PauseTrigger(deadline=(clock.now + timedelta(seconds=45)).isoformat(), carry={"a": 1})
    assert clock.wait(trigger) == {"status": "timeout", "carry": {"a": 1}}
    assert sum(clock.slept) == pytest.approx(45)
    assert emr.calls == {}


def test_the_worker_waits_in_the_same_way(emr: FakeEmr, step: dict[str, str]) -> None:
    payload = EmrStepTrigger(**step).wait_here(sleep=emr.clock.sleep, now=emr.clock.now)
    assert payload["status"] == "done"
    emr.frozen = True
    emr.clusters[step["cluster_id"]].steps[step["step_id"]].state = "RUNNING"
    deadline = (emr.clock.now() + timedelta(minutes=10)).isoformat()
    payload = EmrStepTrigger(**step, deadline=deadline).wait_here(sleep=emr.clock.sleep, now=emr.clock.now)
    assert payload["status"] == "timeout"


def test_the_deadline_holds(emr: FakeEmr, step: dict[str, str]) -> None:
    emr.frozen = True
    clock = Clock()
    deadline = (clock.now + timedelta(minutes=10)).isoformat()
    assert clock.wait(EmrStepTrigger(**step, deadline=deadline))["status"] == "timeout"
    assert sum(clock.slept) == pytest.approx(600)


def test_throttling_and_outages_are_waited_out(emr: FakeEmr, step: dict[str, str]) -> None:
    emr.errors["DescribeStep"] = [
        refusal("DescribeStep", "ThrottlingException", "Rate exceeded"),
        refusal("DescribeStep", "InternalServerError", "", 500),
        ConnectionResetError("reset"),  # type: ignore[list-item]
    ]
    assert Clock().wait(EmrStepTrigger(**step))["status"] == "done"


def test_what_cannot_pass_is_told(emr: FakeEmr, step: dict[str, str]) -> None:
    emr.errors["DescribeStep"] = [refusal("DescribeStep", "AccessDeniedException", "no", 403)]
    payload = Clock().wait(EmrStepTrigger(**step))
    assert payload["status"] == "error"
    error = error_from(deserialize(serialize(payload))["error"])
    assert isinstance(error, AccessDeniedError)
    assert error.code == "AccessDeniedException"


def test_errors_that_are_not_known_come_back_as_the_root() -> None:
    document = error_document(AccessDeniedError("m", code="c", other=object()))
    assert document["details"] == {"code": "c"}
    assert str(error_from({**document, "type": "Unheard"})) == "m"


def test_run_yields_one_event(emr: FakeEmr, cluster_id: str) -> None:
    emr.clusters[cluster_id].state = "WAITING"

    async def events() -> list[Any]:
        trigger = EmrClusterStateTrigger(cluster_id=cluster_id, target_states=["WAITING"])
        return [event.payload async for event in trigger.run()]

    [payload] = asyncio.run(events())
    assert payload["status"] == "done"
