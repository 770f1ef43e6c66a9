"""Runs of an ``EmrCluster`` by Airflow's ``dag.test`` on local AWS: real deferral, real steps, real logs."""

from __future__ import annotations

import gzip
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from airflow_emr_etl.models.intent import without_mark

DAY = datetime(2026, 1, 5, tzinfo=UTC)
DAGS = Path(__file__).parent / "dags"


@pytest.fixture(scope="module")
def airflow_database() -> None:
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def dags(airflow_database: None, aws_environment: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag

    bundle = {
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(DAGS)},
    }
    bundles = json.dumps([{"name": "cluster-runs", **bundle}])
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", bundles)
    bag = DagBag(str(DAGS), bundle_path=DAGS, bundle_name="cluster-runs")
    assert bag.import_errors == {}
    return dict(bag.dags)


@pytest.fixture
def bucket(aws_environment: Any) -> str:
    """Prefix of buckets of this test's own, with a log in the source."""
    s3 = boto3.client("s3")
    name = f"runs-{datetime.now(UTC):%H%M%S%f}"
    for part in ("source", "lake", "logs"):
        s3.create_bucket(Bucket=f"{name}-{part}")
    s3.put_object(Bucket=f"{name}-source", Key="dt=2026-01-05/a.log", Body=gzip.compress(b"one\ntwo\nthree"))
    return name


def states(run: Any) -> dict[str, str]:
    return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}


def test_a_run_that_goes_well(dags: dict[str, Any], bucket: str) -> None:
    run = dags["runs_well"].test(logical_date=DAY, run_conf={"bucket": bucket})
    assert set(states(run).values()) == {"success"}
    assert str(run.state) == "success"
    emr, s3 = boto3.client("emr"), boto3.client("s3")
    clusters = [
        item
        for item in emr.list_clusters()["Clusters"]
        if without_mark(item["Name"]) == "runs_well 2026-01-05"
    ]
    assert [item["Status"]["State"] for item in clusters] in (["TERMINATING"], ["TERMINATED"])
    steps = emr.list_steps(ClusterId=clusters[0]["Id"])["Steps"]
    assert {without_mark(step["Name"]): step["Status"]["State"] for step in steps} == {
        "count": "COMPLETED",
        "end": "COMPLETED",
    }
    [count] = [step["Id"] for step in steps if without_mark(step["Name"]) == "count"]
    key = f"emr/{clusters[0]['Id']}/steps/{count}/stdout.gz"
    output = s3.get_object(Bucket=f"{bucket}-logs", Key=key)["Body"].read()
    assert gzip.decompress(output) == b"lines of 2026-01-05: 3\n"
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=f"{bucket}-lake")["Contents"]] == [
        "raw/dt=2026-01-05/a.log.gz"
    ]


def test_a_step_that_fails_fails_the_run_and_the_cluster_still_goes_down(
    dags: dict[str, Any], bucket: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        run = dags["step_fails"].test(logical_date=DAY, run_conf={"bucket": bucket})
    assert str(run.state) == "failed"
    seen = states(run)
    assert (seen["counted"], seen["ended"], seen["seen"]) == ("success", "failed", "upstream_failed")
    assert seen["cluster_down"] == "success"
    clusters = [
        item
        for item in boto3.client("emr").list_clusters()["Clusters"]
        if item["Name"].startswith("step_fails")
    ]
    assert [item["Status"]["State"] for item in clusters] in (["TERMINATING"], ["TERMINATED"])
    told = caplog.text + "".join(capfd.readouterr())
    assert "the cause is here" in told
    assert "and here" in told


def test_a_day_without_logs_makes_no_cluster(dags: dict[str, Any], bucket: str) -> None:
    clusters = len(boto3.client("emr").list_clusters()["Clusters"])
    run = dags["runs_well"].test(logical_date=datetime(2026, 1, 6, tzinfo=UTC), run_conf={"bucket": bucket})
    assert str(run.state) == "failed"
    assert states(run)["arrived"] == "failed"
    assert states(run)["cluster_up"] == "upstream_failed"
    assert len(boto3.client("emr").list_clusters()["Clusters"]) == clusters


def test_mapped_steps_take_turns_and_each_runs_once(dags: dict[str, Any], bucket: str) -> None:
    run = dags["mapped_steps"].test(logical_date=DAY, run_conf={"bucket": bucket})
    assert str(run.state) == "success"
    emr = boto3.client("emr")
    [cluster] = [item for item in emr.list_clusters()["Clusters"] if without_mark(item["Name"]) == "mapped"]
    steps = emr.list_steps(ClusterId=cluster["Id"])["Steps"]
    assert sorted(without_mark(step["Name"]) for step in steps) == sorted([*"abc", "one", "two", "three"])
    assert {step["Status"]["State"] for step in steps} == {"COMPLETED"}
