"""A Spark script that fails: the step, the task and the run fail, the cluster goes down, the logs are there."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import boto3
import pytest
from rich.console import Console

from airflow_emr_etl.cli.airflow_home import AirflowHome
from airflow_emr_etl.cli.demo.runs import run_days
from airflow_emr_etl.local.stack import LocalAws

DAGS = Path(__file__).parent / "dags"


@pytest.mark.spark
def test_a_failing_script_fails_the_run_and_leaves_no_cluster(
    aws_environment: LocalAws, tmp_path: Path
) -> None:
    s3: Any = boto3.client("s3")
    emr: Any = boto3.client("emr")
    s3.create_bucket(Bucket="failing")
    s3.put_object(
        Bucket="failing",
        Key="broken.py",
        Body=b"from pyspark.sql import SparkSession\n"
        b"SparkSession.builder.getOrCreate()\nraise KeyError('no such visitor')\n",
    )
    home = AirflowHome(tmp_path, DAGS, aws_environment.env())
    home.prepare()

    runs = run_days(home, ["2026-01-05"], dag_id="failing_step", folder=tmp_path / "runs", console=Console())

    run = runs.days["2026-01-05"]
    states = {name: task.state for name, task in run.tasks.items()}
    assert run.state == "failed"
    assert states["broken"] == "failed"
    assert states["after"] == "upstream_failed"
    assert [state for name, state in states.items() if name.startswith("cluster")] == ["success", "success"]
    assert "no such visitor" in run.failures["broken"], "the task's error shows the script's own"

    (cluster,) = [c for c in emr.list_clusters()["Clusters"] if c["Name"].startswith("failing")]
    assert cluster["Status"]["State"] in ("TERMINATING", "TERMINATED")
    steps = emr.list_steps(ClusterId=cluster["Id"])["Steps"]
    assert [step["Status"]["State"] for step in steps] == ["FAILED"], "user code is not run again by a retry"
    log = f"logs/{cluster['Id']}/steps/{steps[0]['Id']}/"
    found = {item["Key"] for item in s3.list_objects_v2(Bucket="failing", Prefix=log)["Contents"]}
    assert {log + name for name in ("controller.gz", "stdout.gz", "stderr.gz")} <= found
    containers = s3.list_objects_v2(Bucket="failing", Prefix=f"logs/{cluster['Id']}/containers/")["Contents"]
    text = "".join(
        gzip.decompress(s3.get_object(Bucket="failing", Key=item["Key"])["Body"].read()).decode()
        for item in containers
    )
    assert "KeyError: 'no such visitor'" in text, (
        "the driver of a job in cluster mode writes to its container"
    )
