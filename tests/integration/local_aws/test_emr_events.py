"""EMR's events, from a step that really runs to the queue that waits listen to, over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.hooks.emr_events import EmrEventQueue
from airflow_emr_etl.hooks.emr_events_setup import EmrEventsSetup, with_statement
from airflow_emr_etl.local.stack import LocalAws
from airflow_emr_etl.models.emr_event import EmrEvent

PATTERN = {
    "source": ["aws.emr"],
    "detail-type": ["EMR Step Status Change", "EMR Cluster State Change"],
}


@pytest.fixture
def clients(client: Any) -> Iterator[dict[str, Any]]:
    found = {service: client(service) for service in ("events", "sqs", "sns")}
    yield found
    setup = EmrEventsSetup(found)
    setup.teardown(["q-1", "q-2"], rule="emr-etl-events")


def done(changes: Any) -> list[tuple[str, str, str]]:
    return [(each.kind, each.name, each.done) for each in changes]


def test_set_up_twice_and_torn_down_twice(clients: dict[str, Any]) -> None:
    setup = EmrEventsSetup(clients)
    assert done(setup.setup(["q-1"])) == [("rule", "emr-etl-events", "made"), ("queue", "q-1", "made")]
    assert done(setup.setup(["q-1"])) == [
        ("rule", "emr-etl-events", "is there"),
        ("queue", "q-1", "is there"),
    ]
    rule = clients["events"].describe_rule(Name="emr-etl-events")
    assert json.loads(rule["EventPattern"]) == PATTERN
    url = clients["sqs"].get_queue_url(QueueName="q-1")["QueueUrl"]
    attributes = clients["sqs"].get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    [statement] = json.loads(attributes["Policy"])["Statement"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert statement["Action"] == "sqs:SendMessage"
    assert statement["Resource"] == attributes["QueueArn"]
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": rule["Arn"]}}
    [target] = clients["events"].list_targets_by_rule(Rule="emr-etl-events")["Targets"]
    assert target["Arn"] == attributes["QueueArn"]
    assert done(setup.teardown(["q-1"])) == [
        ("rule", "emr-etl-events", "removed"),
        ("queue", "q-1", "removed"),
    ]
    assert done(setup.teardown(["q-1"])) == [
        ("rule", "emr-etl-events", "was not there"),
        ("queue", "q-1", "was not there"),
    ]


def test_several_queues_by_way_of_a_topic(clients: dict[str, Any]) -> None:
    setup = EmrEventsSetup(clients)
    setup.setup(["q-1", "q-2"])
    setup.setup(["q-1", "q-2"], topic="emr-etl-topic")
    [target] = clients["events"].list_targets_by_rule(Rule="emr-etl-events")["Targets"]
    assert target["Arn"].endswith(":emr-etl-topic")
    url = clients["sqs"].get_queue_url(QueueName="q-2")["QueueUrl"]
    attributes = clients["sqs"].get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])["Attributes"]
    [statement] = json.loads(attributes["Policy"])["Statement"]
    assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
    assert statement["Condition"]["ArnEquals"]["aws:SourceArn"] == target["Arn"]
    assert {(kind, name) for kind, name, what in done(setup.teardown()) if what == "removed"} == {
        ("rule", "emr-etl-events"),
        ("topic", "emr-etl-topic"),
        ("queue", "q-1"),
        ("queue", "q-2"),
    }


def test_what_is_not_ours_is_left(clients: dict[str, Any]) -> None:
    url = clients["sqs"].create_queue(QueueName="theirs")["QueueUrl"]
    theirs = {
        "Sid": "Theirs",
        "Effect": "Allow",
        "Principal": "*",
        "Action": "sqs:SendMessage",
        "Resource": "*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [theirs]})
    clients["sqs"].set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    setup = EmrEventsSetup(clients)
    assert ("queue", "theirs", "is there") in done(setup.setup(["theirs"]))
    found = clients["sqs"].get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])["Attributes"]
    assert [each["Sid"] for each in json.loads(found["Policy"])["Statement"]] == ["Theirs", "EmrEtlEvents"]
    assert ("queue", "theirs", "left") in done(setup.teardown(["theirs"]))
    clients["events"].put_rule(Name="theirs", EventPattern='{"source": ["my.app"]}')
    with pytest.raises(ConfigurationError, match="another name"):
        setup.setup(["q-1"], rule="theirs")
    assert ("rule", "theirs", "left") in done(setup.teardown(["q-1"], rule="theirs"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queues": ["a b"]}, "name of a queue"),
        ({"queues": ["https://sqs.us-east-1.amazonaws.com/123456789012/q"]}, "not an address"),
        ({"queues": ["x" * 81]}, "name of a queue"),
        ({"queues": ["q"], "rule": "x" * 65}, "name of a rule"),
        ({"queues": ["q"], "topic": ""}, "name of a topic"),
        ({"queues": []}, "at least one"),
        ({"queues": [f"q-{n}" for n in range(6)]}, "Set a topic"),
    ],
)
def test_names_that_aws_would_refuse(
    clients: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EmrEventsSetup(clients).setup(**arguments)
    assert not [name for name in clients["sqs"].list_queues().get("QueueUrls", []) if "/q" in name]


def test_a_policy_of_one_statement_is_read_too() -> None:
    found = with_statement(json.dumps({"Statement": {"Sid": "A"}}), {"Sid": "B"})
    assert [each["Sid"] for each in json.loads(found)["Statement"]] == ["A", "B"]


@pytest.mark.parametrize("queue", ["missing", "arn:aws:sqs:us-east-1:123456789012:missing"])
def test_a_queue_that_is_not_there_is_told(client: Any, queue: str) -> None:
    with pytest.raises(ConfigurationError, match="emr-etl events setup"):
        _ = EmrEventQueue(client("sqs"), queue).url


@pytest.mark.parametrize("queue", ["", "a b", "https://x/y", "x" * 81])
def test_what_is_no_queue_is_told(client: Any, queue: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an SQS queue"):
        EmrEventQueue(client("sqs"), queue)


def test_messages_come_and_go(client: Any) -> None:
    sqs = client("sqs")
    url = sqs.create_queue(QueueName="come-and-go")["QueueUrl"]
    for number in range(12):
        sqs.send_message(QueueUrl=url, MessageBody=f"foreign {number}")
    queue = EmrEventQueue(sqs, "come-and-go")
    received = queue.receive(0) + queue.receive(0)
    assert len(received) == 12
    assert {each.event for each in received} == {None}
    queue.delete([each.receipt for each in received])
    queue.delete([each.receipt for each in received])
    assert queue.account == "123456789012"


def collect(queue: EmrEventQueue, until: tuple[str, str]) -> list[EmrEvent]:
    """Events until one of ``(id, state)``."""
    found: list[EmrEvent] = []
    last = time.monotonic() + 60
    while time.monotonic() < last:
        received = queue.receive(1)
        queue.delete([each.receipt for each in received])
        found += [each.event for each in received if each.event is not None]
        if any((each.step_id or each.cluster_id, each.state) == until for each in found):
            return found
    raise AssertionError(f"no {until} among {found}")


@pytest.mark.parametrize("topic", [None, "emr-etl-topic"])
def test_a_step_that_runs_is_told_of(aws_environment: LocalAws, topic: str | None) -> None:
    clients = {service: boto3.client(service) for service in ("events", "sqs", "sns")}
    setup = EmrEventsSetup(clients)
    setup.setup(["real"], topic=topic)
    queue = EmrEventQueue(clients["sqs"], "real")
    emr = boto3.client("emr")
    cluster = emr.run_job_flow(
        Name="told of",
        ReleaseLabel="emr-7.9.0",
        ServiceRole="EMR_DefaultRole",
        JobFlowRole="EMR_EC2_DefaultRole",
        Instances={
            "InstanceCount": 1,
            "MasterInstanceType": "m5.xlarge",
            "KeepJobFlowAliveWhenNoSteps": True,
        },
    )["JobFlowId"]
    jar = {"Jar": "command-runner.jar", "Args": ["true"]}
    bad = {"Jar": "command-runner.jar", "Args": ["false"]}
    steps = emr.add_job_flow_steps(
        JobFlowId=cluster,
        Steps=[
            {"Name": "good", "HadoopJarStep": jar, "ActionOnFailure": "CONTINUE"},
            {"Name": "bad", "HadoopJarStep": bad, "ActionOnFailure": "CONTINUE"},
        ],
    )["StepIds"]
    found = collect(queue, (steps[1], "FAILED"))
    emr.terminate_job_flows(JobFlowIds=[cluster])
    found += collect(queue, (cluster, "TERMINATED"))
    ours = [event for event in found if event.cluster_id == cluster]
    states = [event.state for event in ours if event.step_id == steps[0]]
    assert states == ["PENDING", "RUNNING", "COMPLETED"]
    assert [event.name for event in ours if event.step_id == steps[1]] == ["bad"] * 3
    of_cluster = [event.state for event in ours if event.step_id is None]
    assert (of_cluster[0], of_cluster[-1]) == ("STARTING", "TERMINATED")
    assert {event.region for event in ours} == {emr.meta.region_name}
    setup.teardown(["real"])


def test_the_commands(aws_environment: LocalAws) -> None:
    from typer.testing import CliRunner

    from airflow_emr_etl.cli.main import app

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["events", *arguments])
        assert result.exit_code == code, result.output
        return str(result.output)

    told = run("setup", "--queue", "t-1", "--queue", "t-2", "--rule", "by-command")
    assert "AIRFLOW__EMR_ETL__EVENTS_QUEUE=t-2" in told
    assert "rule   by-command: made" in told
    assert "queue  t-1: removed" in run("teardown", "--rule", "by-command")
    assert "was not there" in run("teardown", "--rule", "by-command")
    assert "is not the name of a queue" in run("setup", "--queue", "a b", code=1)


def test_the_template_is_what_setup_makes() -> None:
    import yaml
    from typer.testing import CliRunner

    from airflow_emr_etl.cli.main import app

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, suffix, node: f"{suffix} {node.value}")
    printed = CliRunner().invoke(app, ["events", "template"]).output
    resources = yaml.load(printed, Loader)["Resources"]
    assert resources["Rule"]["Properties"]["EventPattern"] == PATTERN
    [statement] = resources["QueuePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": "GetAtt Rule.Arn"}}
