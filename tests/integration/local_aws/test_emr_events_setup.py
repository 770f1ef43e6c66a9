"""What a setup respects: limits of EventBridge, what others have made, and what half a run left over."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.hooks.emr_events_setup import QUEUE_ATTRIBUTES, SID, EmrEventsSetup, EventsPart


class Ways:
    """A setup over HTTP, with names of its own for each test."""

    def __init__(self, client: Any) -> None:
        self.clients = {service: client(service) for service in ("events", "sqs", "sns")}
        self.of = EmrEventsSetup(self.clients)
        self.rule = f"r-{uuid.uuid4().hex}"

    def queue(self, number: int) -> str:
        return f"{self.rule}-{number}"

    def targets(self) -> list[str]:
        found = self.clients["events"].list_targets_by_rule(Rule=self.rule)["Targets"]
        return sorted(target["Arn"].rpartition(":")[2] for target in found)

    def attributes(self, name: str) -> dict[str, str]:
        url = self.clients["sqs"].get_queue_url(QueueName=name)["QueueUrl"]
        found: dict[str, str] = self.clients["sqs"].get_queue_attributes(
            QueueUrl=url, AttributeNames=["All"]
        )["Attributes"]
        return found


@pytest.fixture
def ways(client: Any) -> Iterator[Ways]:
    made = Ways(client)
    yield made
    made.of.teardown(rule=made.rule)


def told(parts: tuple[EventsPart, ...]) -> list[tuple[str, str]]:
    return [(part.kind, part.done.value) for part in parts]


def test_a_setup_adds_to_the_queues_of_the_rule_up_to_five(ways: Ways) -> None:
    ways.of.setup([ways.queue(1), ways.queue(2)], rule=ways.rule)
    ways.of.setup([ways.queue(3), ways.queue(4), ways.queue(5), ways.queue(1)], rule=ways.rule)
    assert ways.targets() == [ways.queue(number) for number in range(1, 6)]
    with pytest.raises(ConfigurationError, match="6 targets; EventBridge allows 5"):
        ways.of.setup([ways.queue(6)], rule=ways.rule)


def test_a_topic_takes_the_queues_over_and_feeds_more_than_five(ways: Ways) -> None:
    queues = [ways.queue(number) for number in range(7)]
    ways.of.setup(queues[:5], rule=ways.rule)
    ways.of.setup(queues, rule=ways.rule, topic=ways.rule)
    assert ways.targets() == [ways.rule]
    with pytest.raises(ConfigurationError, match=f"Give --topic {ways.rule}"):
        ways.of.setup(queues[:1], rule=ways.rule)
    assert told(ways.of.teardown(rule=ways.rule)) == [
        ("rule", "removed"),
        ("topic", "removed"),
        *[("queue", "removed")] * 7,
    ]


def test_what_was_changed_by_hand_is_set_right(ways: Ways) -> None:
    ways.of.setup([ways.queue(1)], rule=ways.rule)
    ways.clients["events"].disable_rule(Name=ways.rule)
    url = ways.clients["sqs"].get_queue_url(QueueName=ways.queue(1))["QueueUrl"]
    ways.clients["sqs"].set_queue_attributes(
        QueueUrl=url, Attributes={"VisibilityTimeout": "1", "Policy": ""}
    )
    ways.of.setup([ways.queue(1)], rule=ways.rule)
    assert ways.clients["events"].describe_rule(Name=ways.rule)["State"] == "ENABLED"
    found = ways.attributes(ways.queue(1))
    assert QUEUE_ATTRIBUTES.items() <= found.items()
    assert [each["Sid"] for each in json.loads(found["Policy"])["Statement"]] == [SID]


def test_a_queue_of_another_rule_is_neither_taken_nor_removed(ways: Ways, client: Any) -> None:
    other = Ways(client)
    other.of.setup([other.queue(1)], rule=other.rule)
    with pytest.raises(ConfigurationError, match=f"teardown --rule {other.rule}"):
        ways.of.setup([other.queue(1)], rule=ways.rule)
    before = other.attributes(other.queue(1))["Policy"]
    assert told(ways.of.teardown([other.queue(1)], rule=ways.rule))[-1] == ("queue", "left")
    assert other.attributes(other.queue(1))["Policy"] == before
    assert told(other.of.teardown(rule=other.rule)) == [("rule", "removed"), ("queue", "removed")]


def test_targets_of_others_keep_the_rule(ways: Ways) -> None:
    ways.of.setup([ways.queue(1)], rule=ways.rule)
    theirs = {"Id": "pager", "Arn": "arn:aws:sns:us-east-1:123456789012:pager"}
    ways.clients["events"].put_targets(Rule=ways.rule, Targets=[theirs])
    [rule, queue] = ways.of.teardown(rule=ways.rule)
    assert (rule.done, "pager" in rule.why, queue.done) == ("left", True, "removed")
    assert ways.targets() == ["pager"]
    ways.clients["events"].remove_targets(Rule=ways.rule, Ids=["pager"])


def test_a_topic_of_others_keeps_its_policy_and_subscribers(ways: Ways) -> None:
    sns, sqs = ways.clients["sns"], ways.clients["sqs"]
    arn = sns.create_topic(Name=ways.rule)["TopicArn"]
    before = sns.get_topic_attributes(TopicArn=arn)["Attributes"]["Policy"]
    sqs.create_queue(QueueName=ways.queue(9))
    theirs = f"arn:aws:sqs:us-east-1:123456789012:{ways.queue(9)}"
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=theirs)
    ways.of.setup([ways.queue(1)], rule=ways.rule, topic=ways.rule)
    parts = ways.of.teardown(rule=ways.rule)
    assert {(part.kind, part.name): part.done.value for part in parts} == {
        ("rule", ways.rule): "removed",
        ("topic", ways.rule): "left",
        ("queue", ways.queue(1)): "removed",
        ("queue", ways.queue(9)): "left",
    }
    assert json.loads(sns.get_topic_attributes(TopicArn=arn)["Attributes"]["Policy"]) == json.loads(before)
    left = sns.list_subscriptions_by_topic(TopicArn=arn)["Subscriptions"]
    assert [each["Endpoint"] for each in left] == [theirs]
    sns.delete_topic(TopicArn=arn)


def test_queues_that_half_a_setup_left_are_removed_by_name(ways: Ways) -> None:
    ways.of.setup([ways.queue(1)], rule=ways.rule)
    ids = [each["Id"] for each in ways.clients["events"].list_targets_by_rule(Rule=ways.rule)["Targets"]]
    ways.clients["events"].remove_targets(Rule=ways.rule, Ids=ids)
    assert told(ways.of.teardown([ways.queue(1)], rule=ways.rule)) == [
        ("rule", "removed"),
        ("queue", "removed"),
    ]


def test_a_fifo_queue_is_refused(ways: Ways) -> None:
    with pytest.raises(ConfigurationError, match="name a standard queue"):
        ways.of.setup(["events.fifo"], rule=ways.rule)
