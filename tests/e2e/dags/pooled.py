"""Two steps on clusters that all runs share."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from airflow_emr_etl import ClusterPool, ClusterSpec, CommandStep

POOL = ClusterPool(
    name="pooled",
    spec=ClusterSpec(name="pooled", idle_timeout=timedelta(minutes=5)),
    lock="s3://pooled/pools/",
    max_clusters=3,
)

with DAG(
    "pooled",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=1)},
) as dag:
    first = POOL.step("first", CommandStep(name="first", command=["sleep", "2"]), poll_interval=1.0)
    second = POOL.step("second", CommandStep(name="second", command=["sleep", "1"]), poll_interval=1.0)
    first >> second
