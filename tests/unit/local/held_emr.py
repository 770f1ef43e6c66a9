"""Local EMR on a clock and a runner that a test holds in its hands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.session

from airflow_emr_etl.local.emr import EmrApi
from airflow_emr_etl.local.emr.machine import Pace
from airflow_emr_etl.local.emr.records import Job, Outcome, StopSignal
from airflow_emr_etl.local.emr.runner import StepRunner

MODEL = botocore.session.get_session().get_service_model("emr")
OK = Outcome(True, 0)
BAD = Outcome(False, 1, message="boom", log_file="s3://logs/stderr.gz")


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class HeldRunner(StepRunner):
    """Starts nothing; a job runs until the test finishes it."""

    def __init__(self) -> None:
        self.running: dict[str, tuple[Job, Callable[[Outcome], None]]] = {}
        self.asked_to_end: list[tuple[str, StopSignal]] = []

    def start(self, job: Job, ended: Callable[[Outcome], None]) -> None:
        assert job.key not in self.running
        self.running[job.key] = (job, ended)

    def end(self, key: str, how: StopSignal) -> None:
        self.asked_to_end.append((key, how))

    def finish(self, key: str, outcome: Outcome = OK) -> None:
        self.running.pop(key)[1](outcome)

    def close(self) -> None:
        self.running.clear()


class Emr:
    """An EmrApi whose every answer is checked against botocore's model."""

    def __init__(self, state: Path | None = None, pace: Pace | None = None) -> None:
        self.state = state
        self.pace = pace
        self.clock = Clock()
        self.begin()

    def begin(self) -> None:
        self.runner = HeldRunner()
        folder = self.state and self.state / "emr"
        self.api = EmrApi(folder, clock=self.clock, runner=self.runner, pace=self.pace)
        self.api.start()

    def __call__(self, operation: str, **params: Any) -> dict[str, Any]:
        answer = self.api.call(operation, params)
        shape = MODEL.operation_model(operation).output_shape
        if shape is None:
            assert answer == {}
        else:
            check_shape(answer, shape, operation)
        return answer

    def wait(self, seconds: float = 1) -> None:
        self.clock.now += timedelta(seconds=seconds)
        self.api.tick()

    def cluster(self, *, ready: bool = True, **changes: Any) -> str:
        instances = {
            "InstanceGroups": [group("MASTER", 1), group("CORE", 2)],
            "KeepJobFlowAliveWhenNoSteps": True,
            **changes.pop("Instances", {}),
        }
        params = {
            "Name": "nightly",
            "ReleaseLabel": "emr-7.9.0",
            "ServiceRole": "EMR_DefaultRole",
            "JobFlowRole": "EMR_EC2_DefaultRole",
            "Instances": {key: value for key, value in instances.items() if value is not None},
            **changes,
        }
        cluster_id: str = self("RunJobFlow", **params)["JobFlowId"]
        if ready:
            self.wait()
            self.wait()
        return cluster_id

    def add(self, cluster_id: str, *steps: dict[str, Any]) -> list[str]:
        ids: list[str] = self("AddJobFlowSteps", JobFlowId=cluster_id, Steps=list(steps))["StepIds"]
        return ids

    def state_of(self, cluster_id: str) -> str:
        state: str = self("DescribeCluster", ClusterId=cluster_id)["Cluster"]["Status"]["State"]
        return state

    def reason(self, cluster_id: str) -> dict[str, str]:
        status = self("DescribeCluster", ClusterId=cluster_id)["Cluster"]["Status"]
        reason: dict[str, str] = status["StateChangeReason"]
        return reason

    def steps(self, cluster_id: str) -> list[str]:
        """Their states, oldest first."""
        found = self("ListSteps", ClusterId=cluster_id)["Steps"]
        return [each["Status"]["State"] for each in reversed(found)]


def check_shape(value: Any, shape: Any, where: str) -> None:
    kind = shape.type_name
    if kind == "structure":
        assert isinstance(value, dict), where
        unknown = value.keys() - shape.members.keys()
        assert not unknown, f"{where}: {unknown} not in the model"
        missing = set(shape.required_members) - value.keys()
        assert not missing, f"{where}: {missing} missing"
        for key, member in value.items():
            check_shape(member, shape.members[key], f"{where}.{key}")
    elif kind == "list":
        assert isinstance(value, list), where
        for each in value:
            check_shape(each, shape.member, f"{where}[]")
    elif kind == "map":
        for key, member in value.items():
            check_shape(key, shape.key, where)
            check_shape(member, shape.value, f"{where}[{key}]")
    elif kind == "timestamp":
        assert isinstance(value, datetime), where
        assert value.tzinfo is not None, where
    else:
        types = {"string": str, "boolean": bool, "integer": int, "long": int, "double": (int, float)}
        assert isinstance(value, types[kind]), f"{where}: {value!r} is no {kind}"
        if getattr(shape, "enum", None):
            assert value in shape.enum, f"{where}: {value!r}"


def group(role: str, count: int, **more: Any) -> dict[str, Any]:
    return {"InstanceRole": role, "InstanceType": "m5.xlarge", "InstanceCount": count, **more}


def step(name: str = "step", action: str | None = "CONTINUE", *args: str) -> dict[str, Any]:
    jar = {"Jar": "command-runner.jar", "Args": list(args) or ["spark-submit", "s3://code/job.py"]}
    return {"Name": name, "HadoopJarStep": jar, **({"ActionOnFailure": action} if action else {})}


def bootstrap(path: str = "s3://code/setup.sh") -> dict[str, Any]:
    return {"Name": "setup", "ScriptBootstrapAction": {"Path": path, "Args": ["a"]}}
