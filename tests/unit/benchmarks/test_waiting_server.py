"""The fake EMR of ``make bench-waiting`` keeps EMR's rules: what it measured would mean nothing otherwise."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from airflow_emr_etl.models.emr_event import EmrEvent
from benchmarks.waiting_server import BUCKETS, EventQueue, RefusedError, Server, TokenBuckets


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Server:
    made = Server(steps=250, clusters=2, first=10.0, last=20.0, health="healthy", now=clock)
    made.begun = clock.now
    return made


def listed(server: Server, **request: Any) -> list[str]:
    ids: list[str] = []
    while True:
        page = server.answer("ListSteps", {"ClusterId": "j-1", **request})
        assert len(page["Steps"]) <= 50
        ids += [step["Id"] for step in page["Steps"]]
        if "Marker" not in page:
            return ids
        request["Marker"] = page["Marker"]


def test_steps_are_listed_newest_first_fifty_to_a_page(server: Server) -> None:
    ids = listed(server)
    assert ids == [f"s-{number}" for number in range(249, 0, -2)]


def test_steps_end_evenly_and_a_filter_of_states_knows(server: Server, clock: Clock) -> None:
    clock.now += 15.0
    ended, active = (
        listed(server, StepStates=["COMPLETED"]),
        listed(server, StepStates=["PENDING", "RUNNING"]),
    )
    assert {*ended, *active} == set(listed(server))
    assert len(ended) + len(active) == 125
    assert abs(len(ended) - 62) < 20
    clock.now += 5.0
    assert listed(server, StepStates=["RUNNING"]) == []


def test_steps_that_end_between_two_pages_hide_no_others(server: Server, clock: Clock) -> None:
    active = {"ClusterId": "j-1", "StepStates": ["RUNNING"]}
    first = server.answer("ListSteps", active)
    clock.now += 15.0
    second = server.answer("ListSteps", {**active, "Marker": first["Marker"]})
    numbers = [int(step["Id"].removeprefix("s-")) for step in (*first["Steps"], *second["Steps"])]
    left_out = [n for n in range(249, numbers[-1], -2) if n not in numbers]
    assert all(server.has_ended(number) for number in left_out)


def test_more_than_ten_ids_are_refused(server: Server) -> None:
    assert len(listed(server, StepIds=[f"s-{n}" for n in range(1, 21, 2)])) == 10
    with pytest.raises(RefusedError, match="at most 10"):
        listed(server, StepIds=[f"s-{n}" for n in range(1, 23, 2)])


def test_clusters_are_listed_by_state() -> None:
    server = Server(steps=100, clusters=100, first=1.0, last=2.0, health="healthy")
    first = server.answer("ListClusters", {"ClusterStates": ["RUNNING"]})
    second = server.answer("ListClusters", {"ClusterStates": ["RUNNING"], "Marker": first["Marker"]})
    assert (len(first["Clusters"]), len(second["Clusters"]), "Marker" in second) == (50, 50, False)
    assert server.answer("ListClusters", {"ClusterStates": ["TERMINATED"]})["Clusters"] == []


def test_a_bucket_admits_its_burst_and_then_its_rate() -> None:
    buckets = TokenBuckets(BUCKETS["throttled"])
    assert [buckets.admits("ListSteps", 100.0) for _ in range(3)] == [True, True, False]
    assert not buckets.admits("ListSteps", 101.0)
    assert buckets.admits("ListSteps", 102.0), "half a call a second; a refused call took none"
    assert buckets.admits("DescribeStep", 102.0), "each operation has its own"


def test_all_operations_together_have_a_bucket_too() -> None:
    buckets = TokenBuckets(BUCKETS["healthy"])
    operations = ["DescribeStep", "ListSteps", "DescribeCluster", "ListClusters"]
    admitted = sum(buckets.admits(operation, 100.0) for operation in operations for _ in range(20))
    assert admitted == 25


def test_events_are_such_as_eventbridge_sends(server: Server) -> None:
    event = EmrEvent.parse(server.event(7, "COMPLETED"))
    assert event is not None
    assert (event.cluster_id, event.step_id, event.state) == ("j-1", "s-7", "COMPLETED")
    assert EmrEvent.parse(server.event(7, "COMPLETED")) == event, "one that comes twice is the same"


def test_a_message_is_hidden_once_received_and_gone_once_deleted() -> None:
    async def talk() -> None:
        queue = EventQueue("http://queue")
        for number in range(12):
            queue.send(json.dumps(number))
        first = await queue.receive({"MaxNumberOfMessages": 10})
        second = await queue.receive({"MaxNumberOfMessages": 10})
        assert [json.loads(each["Body"]) for each in (*first, *second)] == list(range(12))
        assert await queue.receive({"MaxNumberOfMessages": 10}) == []
        entries = [
            {"Id": str(place), "ReceiptHandle": each["ReceiptHandle"]} for place, each in enumerate(first)
        ]
        answer = await queue.answer("DeleteMessageBatch", {"Entries": entries})
        assert len(answer["Successful"]) == 10
        assert len(queue.messages) == 2
        for message in queue.messages.values():
            message.visible_at = 0.0
        assert len(await queue.receive({"MaxNumberOfMessages": 10})) == 2

    asyncio.run(talk())


def test_a_queue_that_is_lost_is_refused_as_sqs_does() -> None:
    async def talk() -> None:
        queue = EventQueue("http://queue")
        queue.lost_at = 0.0
        with pytest.raises(RefusedError) as refused:
            await queue.answer("ReceiveMessage", {})
        assert refused.value.query_code == "AWS.SimpleQueueService.NonExistentQueue"

    asyncio.run(talk())
