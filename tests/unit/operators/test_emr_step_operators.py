from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from airflow.exceptions import AirflowFailException, TaskDeferred
from fakes.emr import FakeCluster, FakeEmr
from fakes.task_instance import FakeTaskInstance
from moto import mock_aws

from airflow_emr_etl.exceptions import (
    ClusterLostError,
    ConfigurationError,
    GateFailedError,
    StepCancelledError,
    StepFailedError,
    WaitTimeoutError,
)
from airflow_emr_etl.hooks.s3_lake import S3LakeHook
from airflow_emr_etl.models.cluster import ClusterSpec
from airflow_emr_etl.models.step import CommandStep
from airflow_emr_etl.operators.emr_step import EmrSparkOperator, EmrStepOperator, attempt_token
from airflow_emr_etl.operators.quality_gate import EmrQualityGateOperator
from airflow_emr_etl.triggers.emr_step import EmrStepTrigger

STEP = CommandStep(name="work", command=["true"])


@pytest.fixture
def cluster(emr: FakeEmr) -> FakeCluster:
    cluster_id = emr.run_job_flow(**ClusterSpec(name="x", log_uri="s3://emr-logs/emr/").to_api())["JobFlowId"]
    emr.clusters[cluster_id].state = "WAITING"
    return emr.clusters[cluster_id]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("s3", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        for bucket in ("emr-logs", "lake"):
            client.create_bucket(Bucket=bucket)
        monkeypatch.setattr(S3LakeHook, "client", client)
        yield client


def step(cluster: FakeCluster, **kwargs: Any) -> EmrStepOperator:
    defaults = {"cluster_id": cluster.id, "step": STEP, "deferrable": False, "poll_interval": 0}
    return EmrStepOperator(task_id="t", **{**defaults, **kwargs})


def spark(cluster: FakeCluster, **kwargs: Any) -> EmrSparkOperator:
    defaults = {"cluster_id": cluster.id, "script": "s3://lake/x.py", "deferrable": False, "poll_interval": 0}
    return EmrSparkOperator(task_id="t", **{**defaults, **kwargs})


def test_it_returns_what_ran(cluster: FakeCluster) -> None:
    ti = FakeTaskInstance()
    result = step(cluster).execute(ti.context)
    [step_id] = cluster.steps
    assert result == {"cluster_id": cluster.id, "step_id": step_id, "state": "COMPLETED"}
    assert ti.xcoms["emr_step"] == {"cluster_id": cluster.id, "step_id": step_id}
    assert step_id in ti.xcoms["_link_EmrLogsLink"]


def test_it_defers_and_completes_without_what_defer_would_carry(cluster: FakeCluster) -> None:
    ti = FakeTaskInstance()
    with pytest.raises(TaskDeferred) as deferred:
        step(cluster, deferrable=True).execute(ti.context)
    assert deferred.value.timeout is not None
    assert not deferred.value.kwargs
    path, fields = deferred.value.trigger.serialize()
    assert EmrStepTrigger(**fields).serialize() == (path, fields)
    event = EmrStepTrigger(**fields).wait_here(sleep=lambda _: None)
    assert step(cluster, deferrable=True).execute_complete(ti.context, event)["state"] == "COMPLETED"


def test_a_failure_tells_what_the_step_said(
    emr: FakeEmr, cluster: FakeCluster, s3: Any, caplog: pytest.LogCaptureFixture
) -> None:
    emr.step_ends["work"] = "FAILED"
    emr.step_details["work"] = {
        "Reason": "Unknown Error.",
        "Message": "exit 1",
        "LogFile": "s3://emr-logs/x/stderr.gz",
    }
    operator = step(cluster, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(FakeTaskInstance().context)
    [step_id] = cluster.steps
    folder = f"emr/{cluster.id}/steps/{step_id}"
    output = "".join(f"line {n}\n" for n in range(100)) + "Traceback …\nZeroDivisionError: division by zero\n"
    s3.put_object(Bucket="emr-logs", Key=f"{folder}/stdout.gz", Body=gzip.compress(output.encode()))
    s3.put_object(Bucket="emr-logs", Key=f"{folder}/controller.gz", Body=gzip.compress(b"controller\n"))
    event = deferred.value.trigger.wait_here(sleep=lambda _: None)
    with caplog.at_level(logging.ERROR), pytest.raises(AirflowFailException) as raised:
        operator.execute_complete(FakeTaskInstance().context, event)
    said = str(raised.value)
    for part in ("'work'", "Unknown Error.", "exit 1", "s3://emr-logs/x/stderr.gz", "ZeroDivisionError"):
        assert part in said
    assert "controller" not in said
    cause = raised.value.__cause__
    assert isinstance(cause, StepFailedError)
    assert (cause.step_id, cause.reason, cause.log_file) == (
        step_id,
        "Unknown Error.",
        "s3://emr-logs/x/stderr.gz",
    )


def test_a_failure_without_logs_says_where_they_will_be(emr: FakeEmr, cluster: FakeCluster, s3: Any) -> None:
    emr.step_ends["work"] = "FAILED"
    with pytest.raises(AirflowFailException, match=r"not in s3://emr-logs/emr/j-\d+/steps/s-\d+/ yet"):
        step(cluster).execute(FakeTaskInstance().context)


def test_a_cancelled_step_fails_the_task(emr: FakeEmr, cluster: FakeCluster, s3: Any) -> None:
    emr.step_ends["work"] = "CANCELLED"
    with pytest.raises(AirflowFailException) as raised:
        step(cluster).execute(FakeTaskInstance().context)
    assert isinstance(raised.value.__cause__, StepCancelledError)


def test_a_cluster_that_ends_under_a_step_is_lost_and_can_be_retried(
    emr: FakeEmr, cluster: FakeCluster
) -> None:
    operator = step(cluster, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(FakeTaskInstance().context)
    emr.frozen = True
    emr.end(cluster.id, "INSTANCE_FAILURE", "spot")
    event = deferred.value.trigger.wait_here(sleep=lambda _: None)
    with pytest.raises(ClusterLostError, match="spot"):
        operator.execute_complete(FakeTaskInstance().context, event)


@pytest.mark.parametrize("how", ["kill", "timeout", "airflow's timeout", "failure of the wait"])
def test_what_is_given_up_is_cancelled(emr: FakeEmr, cluster: FakeCluster, how: str) -> None:
    ti = FakeTaskInstance()
    operator = step(cluster, deferrable=True)
    with pytest.raises(TaskDeferred):
        operator.execute(ti.context)
    [made] = cluster.steps.values()
    event = {"cluster_id": cluster.id, "step_id": made.id}
    if how == "kill":
        operator.on_kill()
    elif how == "timeout":
        with pytest.raises(WaitTimeoutError):
            step(cluster).execute_complete(ti.context, {**event, "status": "timeout"})
    elif how == "airflow's timeout":
        with pytest.raises(Exception, match="Trigger timeout"):
            step(cluster).resume_execution("__fail__", {"error": "Trigger timeout"}, ti.context)
    else:
        error = {"type": "AccessDeniedError", "message": "no", "details": {}}
        with pytest.raises(AirflowFailException):
            step(cluster).execute_complete(ti.context, {**event, "status": "error", "error": error})
    assert made.state == "CANCELLED"


def test_a_kill_before_there_is_a_step_does_nothing(emr: FakeEmr, cluster: FakeCluster) -> None:
    step(cluster).on_kill()
    assert emr.calls["CancelSteps"] == 0


def test_each_try_writes_to_a_path_of_its_own(cluster: FakeCluster) -> None:
    first, again = FakeTaskInstance(try_number=1), FakeTaskInstance(try_number=2)
    results = [spark(cluster, output="s3://lake/out").execute(ti.context)["output"] for ti in (first, again)]
    assert results[0] == f"s3://lake/out/attempt={attempt_token(first.context)}/"
    assert results[0] != results[1]
    args = [made.request["HadoopJarStep"]["Args"][-2:] for made in cluster.steps.values()]
    assert args == [["--output", result] for result in results]


def test_output_path_is_a_template(cluster: FakeCluster) -> None:
    template = spark(cluster, output="s3://lake/out").output_path("events/manifest.json")
    assert template == "{{ ti.xcom_pull(task_ids='t')['output'] }}events/manifest.json"


def test_a_local_script_is_uploaded_once_by_its_content(
    cluster: FakeCluster, s3: Any, tmp_path: Path
) -> None:
    script = tmp_path / "job.py"
    script.write_text("print('x')")
    for _ in range(2):
        spark(cluster, script=str(script), artifacts="s3://lake/artifacts").execute(
            FakeTaskInstance().context
        )
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="lake")["Contents"]]
    assert len(keys) == 1
    entry = next(iter(cluster.steps.values())).request["HadoopJarStep"]["Args"][-1]
    assert entry == f"s3://lake/{keys[0]}"


def test_a_job_of_this_package_comes_with_its_code(cluster: FakeCluster, s3: Any) -> None:
    spark(
        cluster,
        script=None,
        job="clickstream_normalize",
        artifacts="s3://lake/artifacts",
        args={"day": "2026-01-05"},
    ).execute(FakeTaskInstance().context)
    args = next(iter(cluster.steps.values())).request["HadoopJarStep"]["Args"]
    entry, archive = args[-3], args[args.index("--py-files") + 1]
    keys = {f"s3://lake/{item['Key']}" for item in s3.list_objects_v2(Bucket="lake")["Contents"]}
    assert {entry, archive} <= keys
    assert entry.endswith("/clickstream_normalize.py")
    assert args[-2:] == ["--day", "2026-01-05"]


def test_a_job_that_does_not_exist(cluster: FakeCluster, s3: Any) -> None:
    with pytest.raises(AirflowFailException, match="clickstream_normalize"):
        spark(cluster, script=None, job="x", artifacts="s3://lake/a").execute(FakeTaskInstance().context)


def test_a_script_that_is_not_there(cluster: FakeCluster, s3: Any, emr: FakeEmr) -> None:
    with pytest.raises(AirflowFailException, match="relative to the DAG's file"):
        spark(cluster, script="/nowhere/x.py", artifacts="s3://lake/a").execute(FakeTaskInstance().context)
    assert emr.calls["AddJobFlowSteps"] == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"script": None}, "neither job and script"),
        ({"job": "x"}, "both job and script"),
        ({"script": "x.py"}, "Set artifacts="),
        ({"script": None, "job": "x"}, "Set artifacts="),
    ],
)
def test_what_cannot_be_is_said_at_once(cluster: FakeCluster, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        spark(cluster, **fields)


RESULT = {
    "passed": True,
    "suite": "sessions",
    "datasets": {
        "events": {
            "rows": 12,
            "expectations": [
                {
                    "id": "e1", "type": "expect_column_values_to_not_be_null", "column": "ts", "severity": "critical",
                    "success": True, "observed": None, "unexpected_count": 0, "examples": [], "message": "",
                },
                {
                    "id": "e2", "type": "expect_column_max_to_be_between", "column": "bytes", "severity": "warning",
                    "success": False, "observed": 9, "unexpected_count": None, "examples": [], "message": "9 > 8",
                },
            ],
        }
    },
    "failed_critical": 0,
    "failed_warning": 1,
    "data_docs": "s3://lake/gate/data_docs/index.html",
}  # fmt: skip


def gate(cluster: FakeCluster, **kwargs: Any) -> EmrQualityGateOperator:
    fields = {
        "suite": "s3://lake/s.yaml",
        "data": {"events": "s3://lake/m.json"},
        "output": "s3://lake/gate/",
    }
    return EmrQualityGateOperator(
        task_id="t", cluster_id=cluster.id, job=None, script="s3://lake/g.py", deferrable=False, poll_interval=0,
        **{**fields, **kwargs},
    )  # fmt: skip


def put_result(s3: Any, ti: FakeTaskInstance, result: Any) -> None:
    key = f"gate/attempt={attempt_token(ti.context)}/result.json"
    s3.put_object(Bucket="lake", Key=key, Body=json.dumps(result).encode())


def test_a_gate_that_passes_logs_every_check(
    cluster: FakeCluster, s3: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ti = FakeTaskInstance()
    put_result(s3, ti, RESULT)
    with caplog.at_level(logging.INFO):
        result = gate(cluster).execute(ti.context)
    assert result["passed"]
    assert (result["rows"], result["checks"], result["failed_warning"]) == ({"events": 12}, 2, 1)
    args = next(iter(cluster.steps.values())).request["HadoopJarStep"]["Args"]
    assert [
        "--suite",
        "s3://lake/s.yaml",
        "--data",
        "events=s3://lake/m.json",
        "--output",
        result["output"],
    ] == args[-6:]


def test_a_gate_that_fails_is_final_and_names_the_expectation(cluster: FakeCluster, s3: Any) -> None:
    ti = FakeTaskInstance()
    failed = json.loads(json.dumps(RESULT))
    failed |= {"passed": False, "failed_critical": 1}
    failed["datasets"]["events"]["expectations"][0] |= {
        "success": False,
        "message": "3 are null",
        "examples": [None],
    }
    put_result(s3, ti, failed)
    with pytest.raises(AirflowFailException) as raised:
        gate(cluster).execute(ti.context)
    for part in ("sessions", "expect_column_values_to_not_be_null on ts", "3 are null", "index.html"):
        assert part in str(raised.value)
    assert isinstance(raised.value.__cause__, GateFailedError)
    assert raised.value.__cause__.failed == ["e1"]


@pytest.mark.parametrize("result", [{}, [], {"passed": True}])
def test_a_gate_without_a_verdict_does_not_pass(cluster: FakeCluster, s3: Any, result: Any) -> None:
    ti = FakeTaskInstance()
    put_result(s3, ti, result)
    with pytest.raises(AirflowFailException, match="not the result of a gate"):
        gate(cluster).execute(ti.context)


def test_a_gate_whose_step_left_no_result_does_not_pass(cluster: FakeCluster, s3: Any) -> None:
    with pytest.raises(AirflowFailException, match=r"result\.json"):
        gate(cluster).execute(FakeTaskInstance().context)
