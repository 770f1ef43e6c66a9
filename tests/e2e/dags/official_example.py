"""The pipeline of the Amazon provider's own example for EMR: its operators, its arguments, its order.

Written anew in the shape of ``providers/amazon/tests/system/amazon/aws/example_emr.py`` of apache/airflow. The
test beside this folder runs it twice, the second time with the imports of operators and sensors from here.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from airflow.providers.amazon.aws.hooks.emr import EmrHook
from airflow.providers.amazon.aws.operators.emr import (
    EmrAddStepsOperator,
    EmrCreateJobFlowOperator,
    EmrModifyClusterOperator,
    EmrTerminateJobFlowOperator,
)
from airflow.providers.amazon.aws.operators.s3 import S3CreateBucketOperator, S3DeleteBucketOperator
from airflow.providers.amazon.aws.sensors.emr import EmrJobFlowSensor, EmrStepSensor
from airflow.sdk import DAG, chain, task
from airflow.task.trigger_rule import TriggerRule

BUCKET = "official-example"
SECURITY = "runtime-roles"
STEPS = [
    {
        "Name": "calculate_pi",
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {
            "Jar": "command-runner.jar",
            "Args": ["/usr/lib/spark/bin/run-example", "SparkPi", "10"],
        },
    }
]
JOB_FLOW: dict[str, Any] = {
    "Name": "PiCalc",
    "ReleaseLabel": "emr-7.1.0",
    "Applications": [{"Name": "Spark"}],
    "Instances": {
        "InstanceGroups": [
            {
                "Name": "Primary node",
                "Market": "ON_DEMAND",
                "InstanceRole": "MASTER",
                "InstanceType": "m5.xlarge",
                "InstanceCount": 1,
            },
        ],
        "KeepJobFlowAliveWhenNoSteps": True,
        "TerminationProtected": False,
    },
    "Steps": STEPS,
    "JobFlowRole": "EMR_EC2_DefaultRole",
    "ServiceRole": "EMR_DefaultRole",
    "LogUri": f"s3://{BUCKET}/",
    "SecurityConfiguration": SECURITY,
}


@task
def create_security_configuration() -> None:
    rules = {
        "AuthorizationConfiguration": {"IAMConfiguration": {"EnableApplicationScopedIAMRole": True}},
        "InstanceMetadataServiceConfiguration": {
            "MinimumInstanceMetadataServiceVersion": 2,
            "HttpPutResponseHopLimit": 2,
        },
    }
    EmrHook().conn.create_security_configuration(Name=SECURITY, SecurityConfiguration=json.dumps(rules))


@task(trigger_rule=TriggerRule.ALL_DONE)
def delete_security_configuration() -> None:
    EmrHook().conn.delete_security_configuration(Name=SECURITY)


@task
def first_of(step_ids: list[str]) -> str:
    return step_ids[0]


with DAG(
    "official_example", schedule="@once", start_date=datetime(2021, 1, 1, tzinfo=UTC), catchup=False
) as dag:
    create_job_flow = EmrCreateJobFlowOperator(task_id="create_job_flow", job_flow_overrides=JOB_FLOW)
    modify_cluster = EmrModifyClusterOperator(
        task_id="modify_cluster", cluster_id=create_job_flow.output, step_concurrency_level=1
    )
    add_steps = EmrAddStepsOperator(
        task_id="add_steps",
        job_flow_id=create_job_flow.output,
        steps=STEPS,
        execution_role_arn="arn:aws:iam::000000000000:role/runtime",
    )
    add_steps.wait_for_completion = True
    add_steps.waiter_delay = 1
    wait_for_step = EmrStepSensor(
        task_id="wait_for_step",
        job_flow_id=create_job_flow.output,
        step_id=first_of(add_steps.output),
    )
    remove_cluster = EmrTerminateJobFlowOperator(
        task_id="remove_cluster", job_flow_id=create_job_flow.output, trigger_rule=TriggerRule.ALL_DONE
    )
    check_job_flow = EmrJobFlowSensor(task_id="check_job_flow", job_flow_id=create_job_flow.output)
    check_job_flow.poke_interval = 1
    chain(
        S3CreateBucketOperator(task_id="create_bucket", bucket_name=BUCKET),
        create_security_configuration(),
        create_job_flow,
        modify_cluster,
        add_steps,
        wait_for_step,
        remove_cluster,
        check_job_flow,
        delete_security_configuration(),
        S3DeleteBucketOperator(
            task_id="delete_bucket",
            bucket_name=BUCKET,
            force_delete=True,
            trigger_rule=TriggerRule.ALL_DONE,
        ),
    )
