"""One Spark step that fails, on a cluster of its own."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from airflow_emr_etl import ClusterSpec, EmrCluster

SPEC = ClusterSpec(name="failing", idle_timeout=timedelta(minutes=5), log_uri="s3://failing/logs/")

with DAG(
    "failing_step",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=1)},
) as dag:
    with EmrCluster("cluster", spec=SPEC, artifacts="s3://failing/artifacts/") as cluster:
        broken = cluster.spark("broken", script="s3://failing/broken.py", deploy_mode="cluster")
        after = cluster.spark("after", script="s3://failing/broken.py")
        broken >> after
