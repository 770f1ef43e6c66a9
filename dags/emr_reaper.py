"""Every quarter of an hour: end the EMR clusters that nobody needs any more.

The second line behind the teardown of each run. It ends clusters that airflow-emr-etl made and tagged, whose run
is over or gone, or whose age or idleness is past its limit, and never others. The task's result, and its log, say
of every cluster what was done and why.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param

from airflow_emr_etl import EmrReaperOperator

with DAG(
    "emr_reaper",
    description="Ends EMR clusters that nobody needs any more",
    schedule="*/15 * * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    params={
        "max_age": Param(
            None, type=["null", "string"], description="End clusters older than this too, such as 24h"
        ),
        "max_idle": Param(
            None, type=["null", "string"], description="End clusters without work for longer, such as 1h"
        ),
        "dry_run": Param(False, type="boolean", description="Only tell"),
    },
    tags=["emr"],
    doc_md=__doc__,
) as dag:
    EmrReaperOperator(
        task_id="reap",
        max_age="{{ params.max_age }}",
        max_idle="{{ params.max_idle }}",
        report_only="{{ params.dry_run }}",
        execution_timeout=timedelta(minutes=10),
        retries=1,
        retry_delay=timedelta(minutes=1),
    )
