"""``make bench-local``: how soon a step does its first work, and what the idle stack weighs.

``step_start_seconds``: from the call of AddJobFlowSteps to the moment at which the script has its Spark session
and its first result, against bare ``spark-submit`` of the same script with the same Java, from the start of that
process. The two take turns, so that a drift of the machine meets both.
``idle_memory_mib``: proportional set size of all processes of local AWS after one S3, EMR and Redshift call each.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3
import psutil

from airflow_emr_etl.local import daemon
from airflow_emr_etl.local.java import find_java
from benchmarks.figures import Figures

RUNS = 5
SCRIPT = """\
import sys, time
from pyspark.sql import SparkSession
spark = SparkSession.builder.appName("first-output").getOrCreate()
spark.range(1000).selectExpr("sum(id)").collect()
open(sys.argv[1], "w").write(repr(time.time()))
spark.stop()
"""


def first_output(marker: Path) -> float:
    value = float(marker.read_text())
    marker.unlink()
    return value


def main() -> None:
    figures = Figures("local")
    with tempfile.TemporaryDirectory(prefix="bench-local-") as folder:
        root = Path(folder)
        script, marker = root / "first_output.py", root / "marker"
        script.write_text(SCRIPT)
        info = daemon.start(root / "state").instance
        try:
            environment = info.env()
            client = {
                name: boto3.client(
                    name,
                    endpoint_url=info.endpoint_url,
                    aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
                    aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
                    region_name=environment["AWS_DEFAULT_REGION"],
                )
                for name in ("s3", "emr", "redshift-data")
            }
            client["s3"].create_bucket(Bucket="bench")
            client["s3"].upload_file(str(script), "bench", "first_output.py")
            cluster = client["emr"].run_job_flow(
                Name="bench",
                ReleaseLabel="emr-7.9.0",
                JobFlowRole="EMR_EC2_DefaultRole",
                ServiceRole="EMR_DefaultRole",
                Instances={
                    "MasterInstanceType": "m5.xlarge",
                    "InstanceCount": 1,
                    "KeepJobFlowAliveWhenNoSteps": True,
                },
            )["JobFlowId"]
            client["emr"].get_waiter("cluster_running").wait(ClusterId=cluster, WaiterConfig={"Delay": 1})

            def step() -> float:
                began = time.time()
                added = client["emr"].add_job_flow_steps(
                    JobFlowId=cluster,
                    Steps=[
                        {
                            "Name": "first output",
                            "ActionOnFailure": "CONTINUE",
                            "HadoopJarStep": {
                                "Jar": "command-runner.jar",
                                "Args": ["spark-submit", "s3://bench/first_output.py", str(marker)],
                            },
                        }
                    ],
                )["StepIds"][0]
                client["emr"].get_waiter("step_complete").wait(
                    ClusterId=cluster, StepId=added, WaiterConfig={"Delay": 1}
                )
                return first_output(marker) - began

            java_home = find_java(root / "java").home
            bare_environment = {
                **os.environ,
                "JAVA_HOME": str(java_home),
                "PYSPARK_PYTHON": sys.executable,
                "SPARK_LOCAL_IP": "127.0.0.1",
            }

            def bare() -> float:
                began = time.time()
                subprocess.run(
                    [Path(sys.executable).parent / "spark-submit", script, marker],
                    env=bare_environment,
                    check=True,
                    capture_output=True,
                )
                return first_output(marker) - began

            step(), bare()
            ours, peer = zip(*((step(), bare()) for _ in range(RUNS)), strict=True)
            figures.add("step_start_seconds", "s", ours, peer, "bare spark-submit")

            statement = client["redshift-data"].execute_statement(
                WorkgroupName="bench", Database="dev", Sql="SELECT 1"
            )["Id"]
            while client["redshift-data"].describe_statement(Id=statement)["Status"] != "FINISHED":
                time.sleep(0.1)
            server = psutil.Process(info.pid)
            family = [server, *server.children(recursive=True)]
            weights = [process.memory_full_info() for process in family]
            figures.add(
                "idle_memory_mib",
                "MiB",
                [sum(weight.pss for weight in weights) / 2**20],
                processes=len(family),
                resident_mib=round(sum(weight.rss for weight in weights) / 2**20, 1),
            )
        finally:
            daemon.stop(root / "state")
    figures.write()


if __name__ == "__main__":
    main()
