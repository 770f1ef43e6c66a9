"""EMR as a state machine, behind boto3's client methods.

Parameters are checked against botocore's own model of EMR, so a call that AWS would refuse is refused here.
Each Describe or List moves a cluster and its steps one state on: tests need no clock. A budget on calls
catches a loop that never ends.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import botocore.session
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator

CLUSTER_LIFE = ("STARTING", "BOOTSTRAPPING", "WAITING")
STEP_LIFE = ("PENDING", "RUNNING")
ENDED = ("TERMINATED", "TERMINATED_WITH_ERRORS")
STEP_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "INTERRUPTED")
BORN = datetime(2026, 1, 6, tzinfo=UTC)


@dataclass
class FakeStep:
    id: str
    request: dict[str, Any]
    ends_as: str = "COMPLETED"
    details: dict[str, str] = field(default_factory=dict)
    state: str = "PENDING"

    def answer(self) -> dict[str, Any]:
        status: dict[str, Any] = {
            "State": self.state,
            "StateChangeReason": {},
            "Timeline": {"CreationDateTime": BORN},
        }
        if self.state == "FAILED" and self.details:
            status["FailureDetails"] = self.details
        jar = self.request["HadoopJarStep"]
        return {
            "Id": self.id,
            "Name": self.request["Name"],
            "ActionOnFailure": self.request.get("ActionOnFailure"),
            "Config": {"Jar": jar["Jar"], "Args": jar.get("Args", [])},
            "Status": status,
        }


@dataclass
class FakeCluster:
    id: str
    request: dict[str, Any]
    state: str = "STARTING"
    reason: dict[str, str] = field(default_factory=dict)
    steps: dict[str, FakeStep] = field(default_factory=dict)

    def answer(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "Name": self.request["Name"],
            "LogUri": self.request.get("LogUri"),
            "Status": {
                "State": self.state,
                "StateChangeReason": self.reason,
                "Timeline": {"CreationDateTime": BORN},
            },
        }


class FakeEmr:
    """One account's EMR. ``calls`` counts operations; ``errors`` holds what each operation raises next."""

    def __init__(self, *, budget: int = 500) -> None:
        self.meta = SimpleNamespace(region_name="eu-west-1", partition="aws")
        self.clusters: dict[str, FakeCluster] = {}
        self.calls: Counter[str] = Counter()
        self.errors: dict[str, list[Exception]] = {}
        self.step_ends: dict[str, str] = {}
        self.step_details: dict[str, dict[str, str]] = {}
        #: What a cluster does instead of coming up: ``(code, message)``.
        self.cluster_end: tuple[str, str] | None = None
        #: Steps stay where they are; for waits that must not end.
        self.frozen = False
        self._budget = budget
        self._ids = itertools.count(1)
        self._model = botocore.session.get_session().get_service_model("emr")

    def _called(self, operation: str, request: dict[str, Any]) -> None:
        self.calls[operation] += 1
        assert sum(self.calls.values()) <= self._budget, f"runaway: {self.calls}"
        shape = self._model.operation_model(operation).input_shape
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), report.generate_report()
        if self.errors.get(operation):
            raise self.errors[operation].pop(0)

    def run_job_flow(self, **request: Any) -> dict[str, Any]:
        self._called("RunJobFlow", request)
        cluster = FakeCluster(f"j-{next(self._ids):013d}", request)
        self.clusters[cluster.id] = cluster
        return {"JobFlowId": cluster.id}

    def describe_cluster(self, **request: Any) -> dict[str, Any]:
        self._called("DescribeCluster", request)
        cluster = self._cluster(request["ClusterId"])
        answer = cluster.answer()
        self._advance(cluster)
        return {"Cluster": answer}

    def terminate_job_flows(self, **request: Any) -> dict[str, Any]:
        self._called("TerminateJobFlows", request)
        for cluster_id in request["JobFlowIds"]:
            self.end(cluster_id, "USER_REQUEST", "Terminated by user request", state="TERMINATED")
        return {}

    def set_termination_protection(self, **request: Any) -> dict[str, Any]:
        self._called("SetTerminationProtection", request)
        return {}

    def add_job_flow_steps(self, **request: Any) -> dict[str, Any]:
        self._called("AddJobFlowSteps", request)
        cluster = self._cluster(request["JobFlowId"])
        if cluster.state in ENDED:
            raise refusal(
                "AddJobFlowSteps",
                "ValidationException",
                "A job flow that is shutting down, terminated, or finished may not be modified.",
            )
        added = []
        for step in request["Steps"]:
            name = step["Name"]
            made = FakeStep(
                f"s-{next(self._ids):013d}",
                step,
                ends_as=self.step_ends.get(name, "COMPLETED"),
                details=self.step_details.get(name, {}),
            )
            cluster.steps[made.id] = made
            added.append(made.id)
        return {"StepIds": added}

    def describe_step(self, **request: Any) -> dict[str, Any]:
        self._called("DescribeStep", request)
        cluster = self._cluster(request["ClusterId"])
        step = cluster.steps.get(request["StepId"])
        if step is None:
            raise refusal(
                "DescribeStep", "InvalidRequestException", f"Step id '{request['StepId']}' is not valid."
            )
        answer = step.answer()
        if not self.frozen:
            step.state = _next(step.state, (*STEP_LIFE, step.ends_as))
        return {"Step": answer}

    def list_steps(self, **request: Any) -> dict[str, Any]:
        self._called("ListSteps", request)
        if len(request.get("StepIds", [])) > 10:
            raise refusal("ListSteps", "InvalidRequestException", "StepIds must have at most 10 elements.")
        steps = self._cluster(request["ClusterId"]).steps.values()
        wanted = [step for step in steps if step.id in request.get("StepIds", [step.id])]
        wanted = [step for step in wanted if step.state in request.get("StepStates", [step.state])]
        return {"Steps": [step.answer() for step in reversed(wanted)]}

    def cancel_steps(self, **request: Any) -> dict[str, Any]:
        self._called("CancelSteps", request)
        told = []
        for step_id in request["StepIds"]:
            step = self._cluster(request["ClusterId"]).steps[step_id]
            if step.state in STEP_ENDED:
                told.append({"StepId": step_id, "Status": "FAILED", "Reason": "The step has ended."})
            else:
                step.state = "CANCELLED"
                told.append({"StepId": step_id, "Status": "SUBMITTED"})
        return {"CancelStepsInfoList": told}

    def get_paginator(self, name: str) -> Any:
        def paginate(**request: Any) -> Iterator[dict[str, Any]]:
            yield getattr(self, name)(**request)

        return SimpleNamespace(paginate=paginate)

    def end(self, cluster_id: str, code: str, message: str, *, state: str = "TERMINATED_WITH_ERRORS") -> None:
        """End a cluster from outside; its open steps are left as EMR leaves them, undecided."""
        cluster = self._cluster(cluster_id)
        if cluster.state not in ENDED:
            cluster.state, cluster.reason = state, {"Code": code, "Message": message}

    def only_cluster(self) -> FakeCluster:
        [cluster] = self.clusters.values()
        return cluster

    def _advance(self, cluster: FakeCluster) -> None:
        if cluster.state in ENDED or self.frozen:
            return
        if self.cluster_end is not None and cluster.state == "BOOTSTRAPPING":
            self.end(cluster.id, *self.cluster_end)
        else:
            cluster.state = _next(cluster.state, CLUSTER_LIFE)

    def _cluster(self, cluster_id: str) -> FakeCluster:
        if cluster_id not in self.clusters:
            raise refusal(
                "DescribeCluster", "InvalidRequestException", f"Cluster id '{cluster_id}' is not valid."
            )
        return self.clusters[cluster_id]


def refusal(operation: str, code: str, message: str, status: int = 400) -> ClientError:
    """What boto3 raises for an error answer."""
    return ClientError(
        {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "r-1"},
        },
        operation,
    )


def _next(state: str, life: tuple[str, ...]) -> str:
    return life[min(life.index(state) + 1, len(life) - 1)] if state in life else state


def install(monkeypatch: Any) -> FakeEmr:
    """Put a fake EMR behind every hook, operator and trigger of this process."""
    from airflow_emr_etl.hooks.emr_client import EmrClients

    emr = FakeEmr()
    monkeypatch.setattr(EmrClients, "reads", emr)
    monkeypatch.setattr(EmrClients, "writes", emr)
    return emr
