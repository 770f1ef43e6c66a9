"""Which calls a fault rule hits, and what their callers see."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import botocore.parsers
import botocore.session
import pytest

from airflow_emr_etl.local.faults import (
    ConnectionFault,
    FaultError,
    FaultInjector,
    FaultKind,
    FaultRule,
    fault_answer,
)
from airflow_emr_etl.local.protocols import Answer, Protocol


class Calls:
    """Makes calls through an injector and notes which of them were carried out."""

    def __init__(self) -> None:
        self.injector = FaultInjector()
        self.carried_out = 0

    def add(self, operation: str, kind: FaultKind, **options: Any) -> FaultRule:
        return self.injector.add(FaultRule(operation, kind, **options))

    def __call__(self, name: str = "emr:RunJobFlow") -> str:
        """ok, the code of the error, or the kind of connection fault."""
        service, _, operation = name.partition(":")
        try:
            answer = self.injector.around(service, operation, Protocol.JSON, self._do)
        except ConnectionFault as fault:
            return str(fault.kind)
        if answer == "done":
            return "ok"
        assert isinstance(answer, Answer)
        code: str = json.loads(answer.body)["__type"]
        return code

    def _do(self) -> str:
        self.carried_out += 1
        return "done"


@pytest.fixture
def calls() -> Calls:
    return Calls()


def test_without_rules_everything_goes_through(calls: Calls) -> None:
    assert [calls() for _ in range(3)] == ["ok"] * 3
    assert calls.injector.fired() == []


def test_a_rule_without_a_number_hits_every_call_it_names(calls: Calls) -> None:
    calls.add("emr:RunJobFlow", FaultKind.THROTTLE)
    assert [calls(), calls("emr:ListClusters"), calls()] == [
        "ThrottlingException",
        "ok",
        "ThrottlingException",
    ]


def test_the_nth_call_is_hit_once(calls: Calls) -> None:
    calls.add("emr:*", FaultKind.UNAVAILABLE, nth=2)
    seen = [calls("emr:ListSteps"), calls("emr:AddJobFlowSteps"), calls("emr:ListSteps")]
    assert seen == ["ok", "ServiceUnavailable", "ok"]


def test_times_bounds_how_often_it_fires_from_the_nth_call_on(calls: Calls) -> None:
    calls.add("*", FaultKind.THROTTLE, nth=2, times=2)
    assert [calls() for _ in range(5)] == ["ok", "ThrottlingException", "ThrottlingException", "ok", "ok"]


def test_counting_begins_when_the_rule_is_added(calls: Calls) -> None:
    calls()
    calls.add("emr:RunJobFlow", FaultKind.THROTTLE, nth=1)
    assert [calls(), calls()] == ["ThrottlingException", "ok"]


@pytest.mark.parametrize("kind", FaultKind)
def test_before_is_not_carried_out_and_after_is(calls: Calls, kind: FaultKind) -> None:
    calls.add("emr:RunJobFlow", kind, nth=1)
    calls.add("emr:RunJobFlow", kind, when="after", nth=2)
    before = calls()
    assert calls.carried_out == 0
    assert calls() == before != "ok"
    assert calls.carried_out == 1
    assert [(each.when, each.call) for each in calls.injector.fired()] == [("before", 1), ("after", 2)]


def test_one_fault_a_call_and_the_others_are_not_used_up(calls: Calls) -> None:
    calls.add("emr:RunJobFlow", FaultKind.RESET, when="after", nth=1)
    calls.add("emr:RunJobFlow", FaultKind.THROTTLE, times=1)
    calls.add("emr:RunJobFlow", FaultKind.TIMEOUT, times=1)
    assert [calls() for _ in range(4)] == ["ThrottlingException", "timeout", "reset", "ok"]


def test_a_probability_is_drawn_from_its_seed(calls: Calls) -> None:
    def pattern(seed: int) -> list[str]:
        fresh = Calls()
        fresh.add("*", FaultKind.RESET, probability=0.3, seed=seed)
        return [fresh() for _ in range(200)]

    assert pattern(7) == pattern(7) != pattern(8)
    assert 30 < pattern(7).count("reset") < 90
    calls.add("*", FaultKind.RESET, probability=0.0)
    assert calls() == "ok"


def test_rules_do_not_disturb_each_others_draws() -> None:
    alone, together = Calls(), Calls()
    alone.add("*", FaultKind.RESET, probability=0.3, seed=1)
    together.add("*", FaultKind.THROTTLE, nth=3)
    together.add("*", FaultKind.RESET, probability=0.3, seed=1)
    expected = [alone() for _ in range(50)]
    seen = [together() for _ in range(50)]
    assert seen[:2] == expected[:2]
    assert seen[3:] == expected[3:]


def test_rules_can_be_removed_and_counted(calls: Calls) -> None:
    rule = calls.add("emr:*", FaultKind.THROTTLE)
    calls()
    calls("s3:PutObject")
    assert calls.injector.counts() == {rule.id: (1, 1)}
    calls.injector.remove(rule.id)
    assert calls() == "ok"
    with pytest.raises(FaultError, match=r"no fault rule 'fault-1'; there are: none"):
        calls.injector.remove(rule.id)
    assert len(calls.injector.fired()) == 1
    calls.injector.clear()
    assert calls.injector.fired() == []


def test_an_answer_that_nobody_reads_is_let_go(calls: Calls) -> None:
    class Body:
        closed = False

        def close(self) -> None:
            self.closed = True

    class Response:
        body = Body()

    calls.add("s3:GetObject", FaultKind.INTERNAL_ERROR, when="after")
    calls.injector.around("s3", "GetObject", Protocol.S3, Response)
    assert Response.body.closed


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"operation": "RunJobFlow"}, "service:Operation"),
        ({"operation": "emr:runjobflow"}, r"Did you mean emr:RunJobFlow\?"),
        ({"operation": "emr:Fly*"}, "no operation 'Fly"),
        ({"operation": "emrr:RunJobFlow"}, "no service 'emrr'"),
        ({"kind": "flood"}, "there are: throttle, 500"),
        ({"when": "during"}, "'before' or 'after'"),
        ({"nth": 0}, "counted from 1"),
        ({"times": 0}, "at least once"),
        ({"probability": 1.5}, "from 0 to 1"),
        ({"hold_seconds": -1}, "0 or more"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(FaultError, match=match):
        FaultRule(**{"operation": "emr:*", "kind": FaultKind.RESET, **options})


def test_a_rule_survives_json_and_what_is_wrong_there_is_told() -> None:
    rule = FaultRule("elasticmapreduce:RunJobFlow", FaultKind.TIMEOUT, when="after", nth=3, id="mine")
    assert rule.operation == "emr:RunJobFlow"
    assert FaultRule.from_json(json.loads(json.dumps(rule.to_json()))) == rule
    for document, match in [
        ({"operation": "*", "kind": "reset", "colour": 1}, "no colour"),
        ({"kind": "reset"}, "'operation'"),
        ({"operation": "*", "kind": "reset", "nth": "2"}, "nth is a number"),
        ({"operation": "*", "kind": "reset", "times": True}, "times is a number"),
    ]:
        with pytest.raises(FaultError, match=match):
            FaultRule.from_json(document)


Parse = Callable[[str, str, Protocol, FaultKind], tuple[str, int]]


@pytest.fixture(scope="module")
def parse() -> Parse:
    """What botocore makes of a fault's answer: the code that ClientError has, and the status."""

    def parsed(service: str, operation: str, protocol: Protocol, kind: FaultKind) -> tuple[str, int]:
        model = botocore.session.get_session().get_service_model(service)
        answer = fault_answer(kind, service, operation, protocol)
        parser = botocore.parsers.create_parser(model.metadata["protocol"])
        found = parser.parse(
            {"status_code": answer.status, "headers": dict(answer.headers), "body": answer.body},
            model.operation_model(operation).output_shape,
        )
        assert found["Error"]["Message"]
        return found["Error"]["Code"], found["ResponseMetadata"]["HTTPStatusCode"]

    return parsed


@pytest.mark.parametrize(
    ("service", "operation", "protocol", "codes"),
    [
        (
            *("emr", "RunJobFlow", Protocol.JSON),
            {
                FaultKind.THROTTLE: ("ThrottlingException", 400),
                FaultKind.INTERNAL_ERROR: ("InternalServerError", 500),
                FaultKind.UNAVAILABLE: ("ServiceUnavailable", 503),
                FaultKind.ACCESS_DENIED: ("AccessDeniedException", 400),
                FaultKind.EXPIRED_TOKEN: ("ExpiredTokenException", 400),
            },
        ),
        (
            *("emr", "ListClusters", Protocol.JSON),
            {FaultKind.INTERNAL_ERROR: ("InternalServerException", 500)},
        ),
        (
            *("redshift-data", "ExecuteStatement", Protocol.JSON),
            {FaultKind.INTERNAL_ERROR: ("InternalServerException", 500)},
        ),
        (
            *("s3", "PutObject", Protocol.S3),
            {
                FaultKind.THROTTLE: ("SlowDown", 503),
                FaultKind.INTERNAL_ERROR: ("InternalError", 500),
                FaultKind.UNAVAILABLE: ("ServiceUnavailable", 503),
                FaultKind.ACCESS_DENIED: ("AccessDenied", 403),
                FaultKind.EXPIRED_TOKEN: ("ExpiredToken", 400),
            },
        ),
        (
            *("iam", "ListRoles", Protocol.QUERY),
            {
                FaultKind.THROTTLE: ("Throttling", 400),
                FaultKind.ACCESS_DENIED: ("AccessDenied", 403),
                FaultKind.EXPIRED_TOKEN: ("ExpiredToken", 403),
                FaultKind.INTERNAL_ERROR: ("InternalFailure", 500),
            },
        ),
        (
            *("ec2", "DescribeSubnets", Protocol.EC2),
            {
                FaultKind.THROTTLE: ("RequestLimitExceeded", 503),
                FaultKind.ACCESS_DENIED: ("UnauthorizedOperation", 403),
            },
        ),
    ],
)
def test_errors_are_what_aws_calls_them(
    parse: Parse,
    service: str,
    operation: str,
    protocol: Protocol,
    codes: dict[FaultKind, tuple[str, int]],
) -> None:
    assert {kind: parse(service, operation, protocol, kind) for kind in codes} == codes


def test_access_denied_names_the_action_as_a_policy_would() -> None:
    answer = fault_answer(FaultKind.ACCESS_DENIED, "emr", "RunJobFlow", Protocol.JSON)
    assert "is not authorized to perform: elasticmapreduce:RunJobFlow" in json.loads(answer.body)["message"]
