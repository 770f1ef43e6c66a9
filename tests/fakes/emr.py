"""EMR as a state machine, behind boto3's client methods.

Parameters are checked against botocore's own model of EMR, so a call that AWS would refuse is refused here.
Each Describe moves a cluster and its steps one state on; the virtual clock only dates things and says what
a list that lags shows yet. A budget on calls catches a loop that never ends.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import botocore.session
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator
from fakes.clock import VirtualClock

from airflow_emr_etl.models.intent import without_mark

CLUSTER_LIFE = ("STARTING", "BOOTSTRAPPING", "WAITING")
STEP_LIFE = ("PENDING", "RUNNING")
ENDED = ("TERMINATED", "TERMINATED_WITH_ERRORS")
STEP_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "INTERRUPTED")
#: EMR's limit on a cluster's steps that have not ended.
MAX_ACTIVE_STEPS = 256
_SINGLE_PAGE = 50


@dataclass
class FakeStep:
    id: str
    request: dict[str, Any]
    created: datetime
    ends_as: str = "COMPLETED"
    details: dict[str, str] = field(default_factory=dict)
    state: str = "PENDING"
    ended: datetime | None = None
    #: Its program does not heed SEND_INTERRUPT.
    is_deaf: bool = False

    @property
    def name(self) -> str:
        return without_mark(self.request["Name"])

    @property
    def args(self) -> list[str]:
        return list(self.request["HadoopJarStep"].get("Args", []))

    def answer(self) -> dict[str, Any]:
        status: dict[str, Any] = {
            "State": self.state,
            "StateChangeReason": {},
            "Timeline": {"CreationDateTime": self.created},
        }
        if self.ended is not None:
            status["Timeline"]["EndDateTime"] = self.ended
        if self.state == "FAILED" and self.details:
            status["FailureDetails"] = self.details
        jar = self.request["HadoopJarStep"]
        properties = {item["Key"]: item["Value"] for item in jar.get("Properties", [])}
        main = {"MainClass": jar["MainClass"]} if "MainClass" in jar else {}
        return {
            "Id": self.id,
            "Name": self.request["Name"],
            "ActionOnFailure": self.request.get("ActionOnFailure"),
            "Config": {"Jar": jar["Jar"], "Args": jar.get("Args", []), "Properties": properties, **main},
            "Status": status,
        }


@dataclass
class FakeCluster:
    id: str
    request: dict[str, Any]
    created: datetime
    state: str = "STARTING"
    reason: dict[str, str] = field(default_factory=dict)
    steps: dict[str, FakeStep] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    #: What it does instead of coming up: ``(code, message)``.
    end: tuple[str, str] | None = None
    protected: bool = False

    @property
    def only_step(self) -> FakeStep:
        [step] = self.steps.values()
        return step

    @property
    def is_live(self) -> bool:
        return self.state not in (*ENDED, "TERMINATING")

    def answer(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "Name": self.request["Name"],
            "LogUri": self.request.get("LogUri"),
            "Tags": [{"Key": key, "Value": value} for key, value in self.tags.items()],
            "Status": {
                "State": self.state,
                "StateChangeReason": self.reason,
                "Timeline": {"CreationDateTime": self.created},
            },
        }


class FakeEmr:
    """One account's EMR. ``calls`` counts operations; ``log`` has them in their order, with their requests."""

    def __init__(self, *, budget: int = 500) -> None:
        self.meta = SimpleNamespace(region_name="eu-west-1", partition="aws")
        self.clock = VirtualClock()
        self.clusters: dict[str, FakeCluster] = {}
        self.calls: Counter[str] = Counter()
        self.log: list[tuple[str, dict[str, Any]]] = []
        #: What the next calls of an operation raise instead of doing anything.
        self.errors: dict[str, list[Exception]] = {}
        #: What the next calls of an operation raise after they took effect.
        self.lost_answers: dict[str, list[Exception]] = {}
        #: What others do just before the next call of an operation takes effect.
        self.meanwhile: dict[str, list[Callable[[], object]]] = {}
        #: How steps of a name end; of several, each step takes the next one, and the last one stays.
        self.step_ends: dict[str, str | list[str]] = {}
        self.step_details: dict[str, dict[str, str]] = {}
        #: What a cluster does instead of coming up: ``(code, message)``.
        self.cluster_end: tuple[str, str] | None = None
        #: The same for the next clusters one by one; None comes up.
        self.cluster_ends: list[tuple[str, str] | None] = []
        #: Nothing moves on; for waits that must not end.
        self.frozen = False
        #: Seconds after its creation that a cluster or step is not listed.
        self.list_lag_seconds = 0.0
        self._budget = budget
        self._ids = itertools.count(1)

    def _called(self, operation: str, request: dict[str, Any]) -> None:
        self.calls[operation] += 1
        self.log.append((operation, request))
        assert sum(self.calls.values()) <= self._budget, f"runaway: {self.calls}"
        shape = _model().operation_model(operation).input_shape
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), report.generate_report()
        if self.meanwhile.get(operation):
            self.meanwhile[operation].pop(0)()
        if self.errors.get(operation):
            raise self.errors[operation].pop(0)

    def _answer(self, operation: str, answer: dict[str, Any]) -> dict[str, Any]:
        if self.lost_answers.get(operation):
            raise self.lost_answers[operation].pop(0)
        return answer

    def _next(self) -> tuple[int, datetime]:
        number = next(self._ids)
        # One after the other also where no time passes.
        return number, self.clock.now() + timedelta(milliseconds=number)

    def run_job_flow(self, **request: Any) -> dict[str, Any]:
        self._called("RunJobFlow", request)
        if len(request.get("Tags", [])) > 50:
            raise refusal("RunJobFlow", "ValidationException", "A cluster takes at most 50 tags.")
        number, created = self._next()
        cluster = FakeCluster(
            f"j-{number:013d}",
            request,
            created,
            tags={tag["Key"]: tag["Value"] for tag in request.get("Tags", [])},
            end=self.cluster_ends.pop(0) if self.cluster_ends else self.cluster_end,
            protected=bool(request["Instances"].get("TerminationProtected")),
        )
        self.clusters[cluster.id] = cluster
        return self._answer("RunJobFlow", {"JobFlowId": cluster.id})

    def describe_cluster(self, **request: Any) -> dict[str, Any]:
        self._called("DescribeCluster", request)
        cluster = self._cluster(request["ClusterId"])
        answer = cluster.answer()
        self._advance(cluster)
        return self._answer("DescribeCluster", {"Cluster": answer})

    def list_clusters(self, **request: Any) -> dict[str, Any]:
        self._called("ListClusters", request)
        wanted = [each for each in self.clusters.values() if each.state in request["ClusterStates"]]
        wanted = [each for each in wanted if self._is_listed(each.created)]
        since = request.get("CreatedAfter")
        wanted = [each for each in wanted if since is None or each.created > since]
        answers = [{**each.answer(), "Tags": None, "LogUri": None} for each in reversed(wanted)]
        return self._answer("ListClusters", _page(answers, "Clusters", request))

    def add_tags(self, **request: Any) -> dict[str, Any]:
        self._called("AddTags", request)
        cluster = self._cluster(request["ResourceId"])
        if not cluster.is_live:
            raise refusal(
                "AddTags", "InvalidRequestException", "Tags cannot be modified on terminated clusters."
            )
        cluster.tags.update({tag["Key"]: tag["Value"] for tag in request["Tags"]})
        return self._answer("AddTags", {})

    def terminate_job_flows(self, **request: Any) -> dict[str, Any]:
        self._called("TerminateJobFlows", request)
        for cluster_id in request["JobFlowIds"]:
            if self._cluster(cluster_id).protected and self._cluster(cluster_id).is_live:
                raise refusal("TerminateJobFlows", "ValidationException", "Could not shut down: protected.")
            self.end(cluster_id, "USER_REQUEST", "Terminated by user request", state="TERMINATED")
        return self._answer("TerminateJobFlows", {})

    def set_termination_protection(self, **request: Any) -> dict[str, Any]:
        self._called("SetTerminationProtection", request)
        for cluster_id in request["JobFlowIds"]:
            self._cluster(cluster_id).protected = request["TerminationProtected"]
        return self._answer("SetTerminationProtection", {})

    def add_job_flow_steps(self, **request: Any) -> dict[str, Any]:
        self._called("AddJobFlowSteps", request)
        cluster = self._cluster(request["JobFlowId"])
        if not cluster.is_live:
            raise refusal(
                "AddJobFlowSteps",
                "ValidationException",
                "A job flow that is shutting down, terminated, or finished may not be modified.",
            )
        active = [step for step in cluster.steps.values() if step.state not in STEP_ENDED]
        if len(active) + len(request["Steps"]) > MAX_ACTIVE_STEPS:
            raise refusal(
                "AddJobFlowSteps",
                "ValidationException",
                f"Maximum number of active steps(State = 'Running', 'Pending' or 'Cancel_Pending') for cluster "
                f"exceeded: {MAX_ACTIVE_STEPS}.",
            )
        added = []
        for step in request["Steps"]:
            assert len(step["Name"]) <= 256, step["Name"]
            number, created = self._next()
            name = without_mark(step["Name"])
            made = FakeStep(
                f"s-{number:013d}",
                step,
                created,
                ends_as=self._end_of_step(name),
                details=self.step_details.get(name, {}),
            )
            cluster.steps[made.id] = made
            added.append(made.id)
        return self._answer("AddJobFlowSteps", {"StepIds": added})

    def describe_step(self, **request: Any) -> dict[str, Any]:
        self._called("DescribeStep", request)
        cluster = self._cluster(request["ClusterId"])
        step = cluster.steps.get(request["StepId"])
        if step is None:
            raise refusal(
                "DescribeStep", "InvalidRequestException", f"Step id '{request['StepId']}' is not valid."
            )
        answer = step.answer()
        if not self.frozen and cluster.is_live:
            step.state = _next(step.state, (*STEP_LIFE, step.ends_as))
        return self._answer("DescribeStep", {"Step": answer})

    def list_steps(self, **request: Any) -> dict[str, Any]:
        self._called("ListSteps", request)
        if len(request.get("StepIds", [])) > 10:
            raise refusal("ListSteps", "InvalidRequestException", "StepIds must have at most 10 elements.")
        steps = self._cluster(request["ClusterId"]).steps.values()
        wanted = [step for step in steps if step.id in request.get("StepIds", [step.id])]
        wanted = [step for step in wanted if step.state in request.get("StepStates", [step.state])]
        wanted = [step for step in wanted if self._is_listed(step.created)]
        answer = _page([step.answer() for step in reversed(wanted)], "Steps", request)
        return self._answer("ListSteps", answer)

    def cancel_steps(self, **request: Any) -> dict[str, Any]:
        self._called("CancelSteps", request)
        told = []
        for step_id in request["StepIds"]:
            step = self._cluster(request["ClusterId"]).steps[step_id]
            if step.state in STEP_ENDED:
                told.append({"StepId": step_id, "Status": "FAILED", "Reason": "The step has ended."})
                continue
            if request.get("StepCancellationOption") == "TERMINATE_PROCESS" or not step.is_deaf:
                step.state = "CANCELLED"
            told.append({"StepId": step_id, "Status": "SUBMITTED"})
        return self._answer("CancelSteps", {"CancelStepsInfoList": told})

    def get_paginator(self, name: str) -> Any:
        def paginate(**request: Any) -> Iterator[dict[str, Any]]:
            while True:
                answer = getattr(self, name)(**request)
                yield answer
                if "Marker" not in answer:
                    return
                request["Marker"] = answer["Marker"]

        return SimpleNamespace(paginate=paginate)

    def end(self, cluster_id: str, code: str, message: str, *, state: str = "TERMINATED_WITH_ERRORS") -> None:
        """End a cluster from outside; its open steps are left as EMR leaves them, undecided."""
        cluster = self._cluster(cluster_id)
        if cluster.state not in ENDED:
            cluster.state, cluster.reason = state, {"Code": code, "Message": message}

    def lose(self, cluster_id: str, message: str = "All core machines were taken: spot") -> None:
        """Take a cluster away as a spot loss does, its open steps with it."""
        for step in self._cluster(cluster_id).steps.values():
            if step.state not in STEP_ENDED:
                step.state = "CANCELLED" if step.state == "PENDING" else "INTERRUPTED"
        self.end(cluster_id, "INSTANCE_FAILURE", message)

    def only_cluster(self) -> FakeCluster:
        [cluster] = self.clusters.values()
        return cluster

    @property
    def live(self) -> list[FakeCluster]:
        return [cluster for cluster in self.clusters.values() if cluster.is_live]

    @property
    def last(self) -> FakeCluster:
        return list(self.clusters.values())[-1]

    def operations(self, *names: str) -> list[str]:
        """The calls so far in their order; of these operations only, where some are given."""
        return [operation for operation, _ in self.log if not names or operation in names]

    def _end_of_step(self, name: str) -> str:
        ends = self.step_ends.get(name, "COMPLETED")
        if isinstance(ends, str):
            return ends
        return ends.pop(0) if len(ends) > 1 else ends[0]

    def _is_listed(self, created: datetime) -> bool:
        return (
            self.clock.now() >= created + timedelta(seconds=self.list_lag_seconds)
            or not self.list_lag_seconds
        )

    def _advance(self, cluster: FakeCluster) -> None:
        if cluster.state in ENDED or self.frozen:
            return
        if cluster.end is not None and cluster.state == "BOOTSTRAPPING":
            self.end(cluster.id, *cluster.end)
        elif cluster.state == "TERMINATING":
            cluster.state = "TERMINATED"
        else:
            cluster.state = _next(cluster.state, CLUSTER_LIFE)

    def _cluster(self, cluster_id: str) -> FakeCluster:
        if cluster_id not in self.clusters:
            raise refusal(
                "DescribeCluster", "InvalidRequestException", f"Cluster id '{cluster_id}' is not valid."
            )
        return self.clusters[cluster_id]


@functools.cache
def _model() -> Any:
    return botocore.session.get_session().get_service_model("emr")


def refusal(operation: str, code: str, message: str, status: int = 400) -> ClientError:
    """What boto3 raises for an error answer."""
    return ClientError(
        {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "r-1"},
        },
        operation,
    )


def outage(operation: str) -> ClientError:
    """An error answer that does not say whether the call took effect."""
    return refusal(operation, "InternalServerException", "", 500)


def throttle(operation: str) -> ClientError:
    return refusal(operation, "ThrottlingException", "Rate exceeded")


def denial(operation: str) -> ClientError:
    return refusal(operation, "AccessDeniedException", "no", 403)


def _next(state: str, life: tuple[str, ...]) -> str:
    return life[min(life.index(state) + 1, len(life) - 1)] if state in life else state


def _page(items: list[dict[str, Any]], key: str, request: dict[str, Any]) -> dict[str, Any]:
    start = int(request.get("Marker", 0))
    answer: dict[str, Any] = {key: items[start : start + _SINGLE_PAGE]}
    if start + _SINGLE_PAGE < len(items):
        answer["Marker"] = str(start + _SINGLE_PAGE)
    return answer


def install(monkeypatch: Any) -> FakeEmr:
    """Put a fake EMR behind every hook, operator and trigger of this process, and its clock behind theirs."""
    from airflow_emr_etl.hooks.clock import Clock
    from airflow_emr_etl.hooks.emr_client import EmrClients

    emr = FakeEmr()
    monkeypatch.setattr(EmrClients, "reads", emr)
    monkeypatch.setattr(EmrClients, "writes", emr)
    monkeypatch.setattr(EmrClients, "polls", emr)
    monkeypatch.setattr(EmrClients, "events", None)
    monkeypatch.setattr(Clock, "now", lambda clock: emr.clock.now())
    monkeypatch.setattr(Clock, "sleep", lambda clock, seconds: emr.clock.sleep(seconds))
    return emr
