"""A DAG written for the official Amazon provider, with nothing of this package in it."""

from __future__ import annotations

import pendulum
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.operators.emr import (
    EmrAddStepsOperator,
    EmrCreateJobFlowOperator,
    EmrTerminateJobFlowOperator,
)
from airflow.providers.amazon.aws.operators.redshift_data import RedshiftDataOperator
from airflow.providers.amazon.aws.sensors.emr import EmrStepSensor
from airflow.sdk import DAG, task

SCRIPT = """\
import sys
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
spark.range(10).selectExpr("sum(id) AS total").write.mode("overwrite").json(sys.argv[1])
spark.stop()
"""

with DAG("official_operators", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC")) as dag:

    @task
    def prepare() -> None:
        hook = S3Hook()
        if not hook.check_for_bucket("official"):
            hook.create_bucket("official")
        hook.load_string(SCRIPT, "job.py", "official", replace=True)

    create = EmrCreateJobFlowOperator(
        task_id="create",
        job_flow_overrides={
            "Name": "official",
            "ReleaseLabel": "emr-7.9.0",
            "Applications": [{"Name": "Spark"}],
            "LogUri": "s3://official/logs/",
            "Instances": {
                "InstanceGroups": [
                    {
                        "Name": "Primary",
                        "InstanceRole": "MASTER",
                        "InstanceType": "m5.xlarge",
                        "InstanceCount": 1,
                    }
                ],
                "KeepJobFlowAliveWhenNoSteps": True,
            },
            "JobFlowRole": "EMR_EC2_DefaultRole",
            "ServiceRole": "EMR_DefaultRole",
        },
    )
    add = EmrAddStepsOperator(
        task_id="add",
        job_flow_id=create.output,
        steps=[
            {
                "Name": "sum",
                "ActionOnFailure": "CONTINUE",
                "HadoopJarStep": {
                    "Jar": "command-runner.jar",
                    "Args": [
                        "spark-submit",
                        "--deploy-mode",
                        "cluster",
                        "s3://official/job.py",
                        "s3://official/out/",
                    ],
                },
            }
        ],
    )
    wait = EmrStepSensor(
        task_id="wait", job_flow_id=create.output, step_id="{{ ti.xcom_pull('add')[0] }}", poke_interval=1
    )
    terminate = EmrTerminateJobFlowOperator(task_id="terminate", job_flow_id=create.output)
    query = RedshiftDataOperator(
        task_id="query",
        workgroup_name="analytics",
        database="dev",
        sql="SELECT 1 + 1 AS two",
        return_sql_result=True,
        poll_interval=1,
        wait_for_completion=True,
    )

    @task
    def result() -> str:
        hook = S3Hook()
        key = next(name for name in hook.list_keys("official", prefix="out/") if name.endswith(".json"))
        return hook.read_key(key, "official").strip()

    prepare() >> create >> add >> wait >> [terminate, result()]
