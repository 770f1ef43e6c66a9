"""The way of EMR's events: an EventBridge rule, the SQS queues that it feeds, and the SNS topic between, if any.

::

    aws.emr ──▶ rule ──▶ queue, queue, …               at most five to a rule
    aws.emr ──▶ rule ──▶ topic ──▶ queue, queue, …     as many as are wanted

What is made here carries the tag ``emr-etl:events-rule``, whose value is the rule's name; nothing else is ever removed.
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from airflow_emr_etl.exceptions import AwsError, ConfigurationError, EmrEtlError
from airflow_emr_etl.hooks.aws_errors import aws_call
from airflow_emr_etl.models.emr_event import DETAIL_TYPES, SOURCE
from airflow_emr_etl.models.resource_policy import (
    Statement,
    has_statement,
    with_statement,
    without_statement,
)

RULE: Final = "emr-etl-events"
QUEUE: Final = "emr-etl-events"
SID: Final = "EmrEtlEvents"
"""Of our statement in the policies."""
TAG_RULE: Final = "emr-etl:events-rule"
MOST_TARGETS: Final = 5
"""Of a rule; EventBridge has no more: https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html"""
PATTERN: Final = {"source": [SOURCE], "detail-type": list(DETAIL_TYPES)}
QUEUE_ATTRIBUTES: Final = {
    # An event that nobody has read for an hour ends no wait that a look has not ended long before.
    "MessageRetentionPeriod": "3600",
    # A triggerer deletes what it has read within seconds.
    "VisibilityTimeout": "60",
    "SqsManagedSseEnabled": "true",
}
_DESCRIPTION: Final = "State changes of EMR steps and clusters, for the waits of airflow-emr-etl."
_TARGET_PREFIX: Final = "emr-etl-"
_NAMES: Final = {
    "rule": (re.compile(r"[A-Za-z0-9._-]{1,64}"), "1 to 64 letters, digits and . _ -"),
    "topic": (re.compile(r"[A-Za-z0-9_-]{1,256}"), "1 to 256 letters, digits and _ -"),
    "queue": (re.compile(r"[A-Za-z0-9_-]{1,80}"), "1 to 80 letters, digits and _ -"),
}
_MISSING: Final = frozenset(
    {
        "NonExistentQueue",
        "QueueDoesNotExist",
        "NotFound",
        "NotFoundException",
        "ResourceNotFound",
        "ResourceNotFoundException",
    }
)


class Done(enum.StrEnum):
    """What was done about a part."""

    MADE = "made"
    KEPT = "is there"
    REMOVED = "removed"
    LEFT = "left"
    ABSENT = "was not there"


@dataclass(frozen=True)
class EventsPart:
    """A rule, a topic or a queue."""

    kind: str
    name: str
    done: Done
    why: str = ""


@dataclass(frozen=True)
class _Queue:
    url: str
    arn: str
    policy: str
    rule: str | None
    """By its tag; None: somebody else made the queue."""


@dataclass(frozen=True)
class _Topic:
    arn: str
    policy: str
    rule: str | None


@dataclass(frozen=True)
class _Rule:
    arn: str
    is_ours: bool
    targets: dict[str, str]
    """Their ARNs by their ids."""


class EmrEventsSetup:
    """Makes the way of EMR's events, and takes it away again.

    :param clients: boto3's for ``events``, ``sqs`` and ``sns``, all of one region

    Its methods can be repeated, also after one that failed half-way. They raise this package's errors.
    """

    def __init__(self, clients: Mapping[str, Any]) -> None:
        self._clients = clients

    def setup(
        self, queues: Sequence[str], *, rule: str = RULE, topic: str | None = None
    ) -> tuple[EventsPart, ...]:
        """Let the rule feed these queues, besides those that it feeds already.

        What is missing is made, what this package has made before is set right. Queues and topics that others have
        made are taken as they are, but for the statement in their policy that lets events in.

        Raises:
            ConfigurationError: a name is not valid or taken by a rule of others; or the rule would have too many
                targets, or feeds a topic that was not named.
        """
        names = list(dict.fromkeys(queues))
        if not names:
            raise ConfigurationError(f"No queue is named. Name at least one, such as {QUEUE}.")
        _check("rule", rule)
        for name in names:
            _check("queue", name)
        if topic is not None:
            _check("topic", topic)
        known = self._rule(rule)
        if known is not None and not known.is_ours:
            raise ConfigurationError(
                f"The EventBridge rule {rule} is there and was not made by emr-etl. Choose another name with --rule."
            )
        self._check_targets(rule, known.targets if known else {}, names, topic)

        rule_arn = self._put_rule(rule, is_new=known is None)
        made = EventsPart("rule", rule, Done.KEPT if known else Done.MADE)
        if topic is None:
            fed = [self._feed_queue(name, rule, "events.amazonaws.com", rule_arn) for name in names]
            self._put_targets(rule, [queue.arn for queue, _ in fed])
            return (made, *(part for _, part in fed))
        topic_arn, topic_part = self._feed_topic(topic, rule, rule_arn)
        fed = [self._feed_queue(name, rule, "sns.amazonaws.com", topic_arn) for name in names]
        self._subscribe(topic_arn, [queue.arn for queue, _ in fed])
        self._put_targets(rule, [topic_arn])
        # As targets of the rule too they would get each event twice.
        self._remove_targets(rule, [_target_id(queue.arn) for queue, _ in fed])
        return (made, topic_part, *(part for _, part in fed))

    def teardown(self, queues: Sequence[str] = (), *, rule: str = RULE) -> tuple[EventsPart, ...]:
        """Remove the rule, and the queues and topics that were made for it; what others have made stays, and is told.

        :param queues: to be removed besides those that the rule feeds, such as those of a setup that failed
        """
        _check("rule", rule)
        for name in queues:
            _check("queue", name)
        known = self._rule(rule)
        if known is not None and not known.is_ours:
            return (EventsPart("rule", rule, Done.LEFT, "emr-etl did not make it"),)
        targets = known.targets if known else {}
        ours = {key: arn for key, arn in targets.items() if key.startswith(_TARGET_PREFIX)}
        topics = [arn for arn in ours.values() if _service(arn) == "sns"]
        subscriptions = {topic: dict(self._subscriptions(topic)) for topic in topics}
        fed = [arn for arn in ours.values() if _service(arn) == "sqs"]
        fed += [arn for of_topic in subscriptions.values() for arn in of_topic]
        # The rule goes last: as long as it is there, it tells what a teardown that failed has left over.
        names = dict.fromkeys([*map(_name, fed), *queues])
        of_queues = [self._remove_queue(name, rule, subscriptions) for name in names]
        of_topics = [self._remove_topic(arn, rule) for arn in topics]
        of_rule = self._remove_rule(rule, known, set(targets) - set(ours))
        return (of_rule, *of_topics, *of_queues)

    # The rule

    def _rule(self, name: str) -> _Rule | None:
        found = self._find("events", "DescribeRule", Name=name)
        if found is None:
            return None
        tags = self._call("events", "ListTagsForResource", ResourceARN=found["Arn"])["Tags"]
        targets = self._call("events", "ListTargetsByRule", Rule=name)["Targets"]
        return _Rule(
            found["Arn"],
            any(tag["Key"] == TAG_RULE for tag in tags),
            {each["Id"]: each["Arn"] for each in targets},
        )

    @staticmethod
    def _check_targets(rule: str, targets: dict[str, str], names: list[str], topic: str | None) -> None:
        fed = [_name(arn) for arn in targets.values() if _service(arn) == "sns"]
        if topic is None and fed:
            raise ConfigurationError(
                f"The rule {rule} feeds the topic {fed[0]}, from which its queues get their events. "
                f"Give --topic {fed[0]}, or choose another --rule."
            )
        wanted = {("sqs", name) for name in names} if topic is None else {("sns", topic)}
        others = {(_service(arn), _name(arn)) for arn in targets.values()} - wanted
        if topic is not None:  # these get their events from the topic from now on
            others -= {("sqs", name) for name in names}
        if len(others) + len(wanted) > MOST_TARGETS:
            raise ConfigurationError(
                f"The rule {rule} would have {len(others) + len(wanted)} targets; EventBridge allows {MOST_TARGETS}. "
                "Set a topic that feeds them all (--topic), or give the others a rule of their own (--rule)."
            )

    def _put_rule(self, name: str, *, is_new: bool) -> str:
        tags = {"Tags": [{"Key": TAG_RULE, "Value": name}]} if is_new else {}
        answer = self._call(
            "events",
            "PutRule",
            Name=name,
            Description=_DESCRIPTION,
            EventPattern=json.dumps(PATTERN),
            State="ENABLED",
            **tags,
        )
        return str(answer["RuleArn"])

    def _put_targets(self, rule: str, arns: Sequence[str]) -> None:
        targets = [{"Id": _target_id(arn), "Arn": arn} for arn in arns]
        _raise_failed(
            "events:PutTargets", self._call("events", "PutTargets", Rule=rule, Targets=targets), rule
        )

    def _remove_targets(self, rule: str, ids: Sequence[str]) -> None:
        if ids:
            answer = self._call("events", "RemoveTargets", Rule=rule, Ids=list(ids))
            failed = [
                each for each in answer.get("FailedEntries", ()) if each.get("ErrorCode") not in _MISSING
            ]
            _raise_failed("events:RemoveTargets", {"FailedEntries": failed}, rule)

    def _remove_rule(self, name: str, known: _Rule | None, foreign: set[str]) -> EventsPart:
        if known is None:
            return EventsPart("rule", name, Done.ABSENT)
        self._remove_targets(name, [each for each in known.targets if each not in foreign])
        if foreign:
            why = f"it has targets that emr-etl did not make: {', '.join(sorted(foreign))}"
            return EventsPart("rule", name, Done.LEFT, why)
        self._find("events", "DeleteRule", Name=name)
        return EventsPart("rule", name, Done.REMOVED)

    # Queues

    def _queue(self, name: str) -> _Queue | None:
        found = self._find("sqs", "GetQueueUrl", QueueName=name)
        return None if found is None else self._queue_at(found["QueueUrl"])

    def _queue_at(self, url: str) -> _Queue | None:
        # Within a minute of its end a queue may still have a URL.
        attributes = self._find(
            "sqs", "GetQueueAttributes", QueueUrl=url, AttributeNames=["QueueArn", "Policy"]
        )
        tags = self._find("sqs", "ListQueueTags", QueueUrl=url)
        if attributes is None or tags is None:
            return None
        values = attributes["Attributes"]
        return _Queue(url, values["QueueArn"], values.get("Policy", ""), tags.get("Tags", {}).get(TAG_RULE))

    def _feed_queue(self, name: str, rule: str, service: str, source_arn: str) -> tuple[_Queue, EventsPart]:
        found = self._queue(name)
        part = EventsPart("queue", name, Done.KEPT)
        if found is None:
            answer = self._call(
                "sqs", "CreateQueue", QueueName=name, Attributes=QUEUE_ATTRIBUTES, tags={TAG_RULE: rule}
            )
            part = replace(part, done=Done.MADE)
            found = self._queue_at(answer["QueueUrl"])
            if found is None:
                raise AwsError(
                    f"The queue {name} was made and is not there. Run the command again in a minute."
                )
        elif found.rule is None:
            part = replace(part, why="emr-etl did not make it: only its policy lets the events in")
        elif found.rule != rule:
            raise ConfigurationError(
                f"The queue {name} was made for the rule {found.rule}, not for {rule}. Choose another queue, "
                f"or end that one with `emr-etl events teardown --rule {found.rule}` first."
            )
        statement: Statement = {
            "Sid": SID,
            "Effect": "Allow",
            "Principal": {"Service": service},
            "Action": "sqs:SendMessage",
            "Resource": found.arn,
            "Condition": {"ArnEquals": {"aws:SourceArn": source_arn}},
        }
        attributes = {"Policy": with_statement(found.policy, statement)}
        if found.rule is not None:
            attributes |= QUEUE_ATTRIBUTES
        self._call("sqs", "SetQueueAttributes", QueueUrl=found.url, Attributes=attributes)
        return found, part

    def _remove_queue(
        self, name: str, rule: str, subscriptions: Mapping[str, Mapping[str, str]]
    ) -> EventsPart:
        """``subscriptions``: of each topic, by the ARNs of the queues."""
        found = self._queue(name)
        if found is None:
            return EventsPart("queue", name, Done.ABSENT)
        # Another rule's queue has a statement of that Sid too: it is that rule's, and stays.
        was_fed = found.rule is None and has_statement(found.policy, SID)
        if found.rule == rule or was_fed:
            for of_topic in subscriptions.values():
                if found.arn in of_topic:
                    self._find("sns", "Unsubscribe", SubscriptionArn=of_topic[found.arn])
        if found.rule == rule:
            self._find("sqs", "DeleteQueue", QueueUrl=found.url)
            return EventsPart("queue", name, Done.REMOVED)
        if was_fed:
            policy = {"Policy": without_statement(found.policy, SID)}
            self._call("sqs", "SetQueueAttributes", QueueUrl=found.url, Attributes=policy)
        why = "emr-etl did not make it" if found.rule is None else f"it was made for the rule {found.rule}"
        return EventsPart("queue", name, Done.LEFT, why)

    # Topics

    def _topic(self, arn: str) -> _Topic | None:
        attributes = self._find("sns", "GetTopicAttributes", TopicArn=arn)
        if attributes is None:
            return None
        tags = self._call("sns", "ListTagsForResource", ResourceArn=arn)["Tags"]
        rule = next((tag["Value"] for tag in tags if tag["Key"] == TAG_RULE), None)
        return _Topic(arn, attributes["Attributes"].get("Policy", ""), rule)

    def _feed_topic(self, name: str, rule: str, rule_arn: str) -> tuple[str, EventsPart]:
        partition, _, region, account = rule_arn.split(":")[1:5]
        arn = f"arn:{partition}:sns:{region}:{account}:{name}"
        found = self._topic(arn)
        part = EventsPart("topic", name, Done.KEPT)
        if found is None:
            self._call("sns", "CreateTopic", Name=name, Tags=[{"Key": TAG_RULE, "Value": rule}])
            part = replace(part, done=Done.MADE)
            found = self._topic(arn)
            if found is None:
                raise AwsError(
                    f"The topic {name} was made and is not there. Run the command again in a minute."
                )
        elif found.rule is None:
            part = replace(part, why="emr-etl did not make it: only its policy lets the events in")
        elif found.rule != rule:
            raise ConfigurationError(
                f"The topic {name} was made for the rule {found.rule}, not for {rule}. Choose another --topic."
            )
        statement: Statement = {
            "Sid": SID,
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sns:Publish",
            "Resource": arn,
            # No condition: EventBridge gives SNS nothing that one could hold, so the topic would get no event.
        }
        policy = with_statement(found.policy, statement)
        self._call("sns", "SetTopicAttributes", TopicArn=arn, AttributeName="Policy", AttributeValue=policy)
        return arn, part

    def _subscribe(self, topic_arn: str, queue_arns: Sequence[str]) -> None:
        there = dict(self._subscriptions(topic_arn))
        raw = {"RawMessageDelivery": "true"}
        for arn in queue_arns:
            if arn in there:
                self._call(
                    "sns",
                    "SetSubscriptionAttributes",
                    SubscriptionArn=there[arn],
                    AttributeName="RawMessageDelivery",
                    AttributeValue="true",
                )
            else:
                self._call(
                    "sns", "Subscribe", TopicArn=topic_arn, Protocol="sqs", Endpoint=arn, Attributes=raw
                )

    def _subscriptions(self, topic_arn: str) -> Iterator[tuple[str, str]]:
        """The queues' ARNs, with those of their subscriptions."""
        more: dict[str, str] = {}
        while True:
            page = self._find("sns", "ListSubscriptionsByTopic", TopicArn=topic_arn, **more) or {}
            for each in page.get("Subscriptions", ()):
                if each["Protocol"] == "sqs" and each["SubscriptionArn"].startswith("arn:"):
                    yield each["Endpoint"], each["SubscriptionArn"]
            if not page.get("NextToken"):
                return
            more = {"NextToken": page["NextToken"]}

    def _remove_topic(self, arn: str, rule: str) -> EventsPart:
        name = _name(arn)
        found = self._topic(arn)
        if found is None:
            return EventsPart("topic", name, Done.ABSENT)
        if found.rule == rule:
            self._call("sns", "DeleteTopic", TopicArn=arn)
            return EventsPart("topic", name, Done.REMOVED)
        if found.rule is None and has_statement(found.policy, SID):
            policy = without_statement(found.policy, SID)
            self._call(
                "sns", "SetTopicAttributes", TopicArn=arn, AttributeName="Policy", AttributeValue=policy
            )
        return EventsPart("topic", name, Done.LEFT, "emr-etl did not make it")

    # Calls

    def _call(self, service: str, operation: str, **request: Any) -> dict[str, Any]:
        method = re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
        with aws_call(f"{service}:{operation}"):
            answer: dict[str, Any] = getattr(self._clients[service], method)(**request)
            return answer

    def _find(self, service: str, operation: str, **request: Any) -> dict[str, Any] | None:
        """None: what it is about does not exist."""
        try:
            return self._call(service, operation, **request)
        except EmrEtlError as error:
            if str(error.details.get("code", "")).rpartition(".")[2] in _MISSING:
                return None
            raise


def _check(kind: str, name: str) -> None:
    form, valid = _NAMES[kind]
    if name.endswith(".fifo"):
        raise ConfigurationError(
            f"{name!r} is a FIFO {kind}. Events need no order: name a standard {kind}, such as {name[:-5]}."
        )
    if not form.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is not the name of a {kind}: that has {valid}, and is not an address."
        )


def _raise_failed(operation: str, answer: Mapping[str, Any], rule: str) -> None:
    failed = answer.get("FailedEntries")
    if failed:
        code, message = failed[0].get("ErrorCode"), failed[0].get("ErrorMessage", "")
        raise AwsError(
            f"{operation}: {len(failed)} targets of the rule {rule} were refused: {code}: {message}",
            operation=operation,
            code=code,
        )


def _service(arn: str) -> str:
    return arn.split(":")[2]


def _name(arn: str) -> str:
    return arn.rpartition(":")[2]


def _target_id(arn: str) -> str:
    return _TARGET_PREFIX + hashlib.sha256(arn.encode()).hexdigest()[:16]
