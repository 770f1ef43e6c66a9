"""DAGs that the tests beside this folder run: an ``EmrCluster`` whose steps are commands."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from airflow_emr_etl import (
    ClusterSpec,
    CommandStep,
    EmrCluster,
    EmrStepSensor,
    IngestLogsOperator,
    S3LogsSensor,
)

SPEC = ClusterSpec(
    name="{{ dag.dag_id }} {{ ds }}", log_uri="s3://{{ params.bucket }}-logs/emr/", step_concurrency=2
)
COUNT = "echo lines of {{ ds }}: {{ ti.xcom_pull(task_ids='ingested')['lines'] }}"

for name, last in (
    ("runs_well", "exit 0"),
    ("step_fails", "echo the cause is here; echo and here >&2; exit 3"),
):
    with DAG(name, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), params={"bucket": "b"}) as dag:
        arrived = S3LogsSensor(
            task_id="arrived", prefix="s3://{{ params.bucket }}-source/dt={{ ds }}/", timeout=0
        )
        ingested = IngestLogsOperator(
            task_id="ingested",
            source="s3://{{ params.bucket }}-source/dt={{ ds }}/",
            destination="s3://{{ params.bucket }}-lake/raw/dt={{ ds }}/",
        )
        with EmrCluster("cluster", spec=SPEC, poll_interval=1.0) as cluster:
            counted = cluster.step("counted", CommandStep(name="count", command=["bash", "-c", COUNT]))
            ended = cluster.step("ended", CommandStep(name="end", command=["bash", "-c", last]))
            counted >> ended
        seen = EmrStepSensor(
            task_id="seen",
            cluster_id="{{ ti.xcom_pull(task_ids='ended')['cluster_id'] }}",
            step_id="{{ ti.xcom_pull(task_ids='ended')['step_id'] }}",
        )
        arrived >> ingested >> cluster
        ended >> seen
    globals()[name] = dag
