"""The AWS CLI, unmodified, drives a cluster and a Spark step on local AWS."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_emr_etl.local.stack import LocalAws

AWS = Path(sys.executable).parent / "aws"

WORD_COUNT = """\
import sys
from pyspark.sql import SparkSession, functions as F
spark = SparkSession.builder.getOrCreate()
words = spark.read.text(sys.argv[1]).select(F.explode(F.split("value", " ")).alias("word"))
words.groupBy("word").count().coalesce(1).write.json(sys.argv[2])
print("counted", words.count(), "words")
spark.stop()
"""


@pytest.mark.spark
# The command line asks every 30 seconds.
@pytest.mark.slow
def test_create_cluster_add_spark_step_wait_read_logs_and_terminate(
    local_aws: LocalAws, tmp_path: Path
) -> None:
    environment = {**os.environ, **local_aws.env()}

    def aws(*arguments: str | Path) -> str:
        done = subprocess.run(
            [AWS, *arguments, "--output", "json"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"aws {arguments}: {done.stderr}"
        return done.stdout

    script, text = tmp_path / "wc.py", tmp_path / "in.txt"
    script.write_text(WORD_COUNT)
    text.write_text("to be or not to be\n")
    aws("s3", "mb", "s3://cli-bucket")
    aws("s3", "cp", script, "s3://cli-bucket/wc.py")
    aws("s3", "cp", text, "s3://cli-bucket/in/in.txt")

    cluster = json.loads(
        aws(
            *("emr", "create-cluster", "--name", "cli", "--release-label", "emr-7.9.0"),
            *("--applications", "Name=Spark", "--instance-type", "m5.xlarge", "--instance-count", "1"),
            *("--use-default-roles", "--log-uri", "s3://cli-bucket/logs/"),
        )
    )["ClusterId"]
    added = json.loads(
        aws(
            *("emr", "add-steps", "--cluster-id", cluster, "--steps"),
            "Type=Spark,Name=words,ActionOnFailure=CONTINUE,"
            "Args=[--deploy-mode,cluster,s3://cli-bucket/wc.py,s3://cli-bucket/in/,s3://cli-bucket/out]",
        )
    )["StepIds"][0]
    aws("emr", "wait", "step-complete", "--cluster-id", cluster, "--step-id", added)

    listed = json.loads(aws("emr", "list-clusters", "--active"))["Clusters"]
    assert [c["Status"]["State"] for c in listed if c["Id"] == cluster] == ["WAITING"]
    stdout = tmp_path / "stdout.gz"
    aws("s3", "cp", f"s3://cli-bucket/logs/{cluster}/steps/{added}/stdout.gz", stdout)
    assert "counted 6 words" in gzip.decompress(stdout.read_bytes()).decode()
    names = [
        item["Key"]
        for item in json.loads(aws("s3api", "list-objects-v2", "--bucket", "cli-bucket", "--prefix", "out/"))[
            "Contents"
        ]
    ]
    assert "out/_SUCCESS" in names
    part = next(name for name in names if name.endswith(".json"))
    aws("s3", "cp", f"s3://cli-bucket/{part}", tmp_path / "part.json")
    counts = {
        row["word"]: row["count"]
        for row in map(json.loads, (tmp_path / "part.json").read_text().splitlines())
    }
    assert counts == {"to": 2, "be": 2, "or": 1, "not": 1}

    aws("emr", "terminate-clusters", "--cluster-ids", cluster)
    aws("emr", "wait", "cluster-terminated", "--cluster-id", cluster)
    described = json.loads(aws("emr", "describe-cluster", "--cluster-id", cluster))["Cluster"]
    assert described["Status"]["State"] == "TERMINATED"
    assert described["Status"]["StateChangeReason"]["Code"] == "USER_REQUEST"
