"""A run whose cluster nobody takes down."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from airflow_emr_etl import ClusterSpec, EmrCreateClusterOperator

with DAG("leaves_a_cluster", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
    EmrCreateClusterOperator(task_id="up", spec=ClusterSpec(name="left"), poll_interval=0.2)
