"""Nightly clickstream: raw access logs in, sessions and traffic in Redshift out, once for each UTC day.

    wait_for_logs → ingest → cluster_up → normalize → sessionize → check → load_* → build_marts
                                   └────────────────────────────────┴→ cluster_down

Copy this file to start your own. All settings are the ``params`` below: change the defaults here, or give
others to one run (``airflow dags trigger clickstream_nightly --conf '{"day": "2026-01-05"}'``, or the form
in the browser). Nothing in it knows whether it runs on AWS or on local AWS.

A day that went wrong is run again for its ``day``, with what mends it (another ``log_source``): it takes the place
of the first run, and what its lines change in sessions of other days is stated anew. The rules of sessions
(``inactivity_minutes`` and the three after it) are those of the whole warehouse, not of one night.

``analytics.daily_traffic`` counts what each night's batch delivered, when it was delivered;
``marts.daily_traffic`` counts by the day of the request, and late lines change it afterwards.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.sdk import DAG, Param

from airflow_emr_etl import (
    BuildMartsOperator,
    ClusterSpec,
    EmrCluster,
    Fleet,
    IngestLogsOperator,
    RedshiftTarget,
    S3LogsSensor,
)
from airflow_emr_etl.warehouse.clickstream import DAILY_TRAFFIC, EVENTS, QUARANTINE_COUNTS, SESSIONS

SETTINGS = {
    "source": Param("s3://clickstream-source/access/", type="string", description="Raw logs, under dt=DAY/"),
    "lake": Param("s3://clickstream-lake/", type="string", description="What the pipeline writes"),
    "artifacts": Param("s3://clickstream-artifacts/", type="string", description="Packed jobs and suites"),
    "logs": Param("s3://clickstream-logs/emr/", type="string", description="EMR's own logs"),
    "redshift_workgroup": Param("analytics", type="string"),
    "redshift_database": Param("dev", type="string"),
    "redshift_role": Param(
        "arn:aws:iam::123456789012:role/redshift-copy",
        type="string",
        description="The role COPY assumes",
    ),
    "log_source": Param(
        "combined", type="string", description="What the lines look like: a built-in source, or a .yaml in S3"
    ),
    "inactivity_minutes": Param(30, type="integer", minimum=1, description="A longer gap ends a session"),
    "max_session_minutes": Param(
        None, type=["null", "integer"], minimum=1, description="No session is longer; empty sets no limit"
    ),
    "sessions_end_at_midnight_of": Param(
        None, type=["null", "string"], description="A time zone such as UTC; empty lets sessions go on"
    ),
    "sessions_end_on_change_of": Param(
        [],
        type=["null", "array"],
        items={"type": "string", "enum": ["campaign", "referrer"]},
        uniqueItems=True,
        examples=["campaign", "referrer"],
        description="A hit with another campaign, or from another site, begins a session; empty lets sessions go on",
    ),
    "day": Param(
        None, type=["null", "string"], format="date", description="Run for this UTC day, not the schedule's"
    ),
}

# Every run, scheduled or by hand, works on the UTC day before it unless it is told another.
_DAY = "params.day or (((dag_run.logical_date or dag_run.run_after) - macros.timedelta(days=1)) | ds)"
DAY = "{{ " + _DAY + " }}"
# Logs that are not there by noon of the next day will not come; a run for an older day need not wait at all.
LOGS_DUE = "{{ macros.ds_add(" + _DAY + ", 1) }}T12:00:00+00:00"

CLUSTER = ClusterSpec(
    name="clickstream",
    release="emr-7.9.0",
    applications=["Spark"],
    core=Fleet(types=["m7g.xlarge", "m6g.xlarge", "m5.xlarge"], on_demand_units=4),
    task=Fleet(types=["m7g.2xlarge", "m6g.2xlarge"], spot_units=8),
    idle_timeout=timedelta(minutes=15),
    log_uri="{{ params.logs }}",
    tags={"pipeline": "clickstream"},
)

TABLES = {
    "load_events": (EVENTS, "events"),
    "load_sessions": (SESSIONS, "sessions"),
    "load_daily_traffic": (DAILY_TRAFFIC, "daily_traffic"),
}

with DAG(
    "clickstream_nightly",
    description="Access logs to Redshift, once for each UTC day",
    schedule="0 1 * * *",
    start_date=pendulum.datetime(1900, 1, 1, tz="UTC"),  # any day in the past may be run by hand
    catchup=False,
    # Sessionize reads what the nights before it delivered, and the warehouse takes their loads in that order only:
    # of two runs at a time one would begin again, or find its load to be stale.
    max_active_runs=1,
    params=SETTINGS,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    tags=["clickstream", "emr", "redshift"],
    doc_md=__doc__,
) as dag:
    wait_for_logs = S3LogsSensor(
        task_id="wait_for_logs",
        prefix="{{ params.source }}dt=" + DAY + "/",
        day=DAY,
        until=LOGS_DUE,
    )

    ingest = IngestLogsOperator(
        task_id="ingest",
        source="{{ params.source }}dt=" + DAY + "/",
        destination="{{ params.lake }}raw/dt=" + DAY + "/",
    )

    with EmrCluster("cluster", spec=CLUSTER, artifacts="{{ params.artifacts }}") as cluster:
        normalize = cluster.spark(
            "normalize",
            job="clickstream_normalize",
            args=[
                "--input",
                "{{ params.lake }}raw/dt=" + DAY + "/",
                "--day",
                DAY,
                "--source",
                "{{ params.log_source }}",
                "--expected-lines",
                "{{ ti.xcom_pull(task_ids='ingest')['lines'] }}",
            ],
            output="{{ params.lake }}normalized/dt=" + DAY + "/",
        )
        sessionize = cluster.spark(
            "sessionize",
            job="clickstream_sessionize",
            args=[
                "--input",
                normalize.output_path(),
                "--day",
                DAY,
                "--inactivity-minutes",
                "{{ params.inactivity_minutes }}",
                "--max-minutes",
                "{{ params.max_session_minutes or 'none' }}",
                "--cut-at-midnight",
                "{{ params.sessions_end_at_midnight_of or 'none' }}",
                "--cut-on",
                "{{ 'campaign' if 'campaign' in (params.sessions_end_on_change_of or []) else 'none' }}",
                "--cut-on",
                "{{ 'referrer' if 'referrer' in (params.sessions_end_on_change_of or []) else 'none' }}",
                "--catalog",
                "{{ params.lake }}batches/",
            ],
            output="{{ params.lake }}sessionized/dt=" + DAY + "/",
        )
        check = cluster.quality_gate(
            "check",
            suite=str(Path(__file__).parent / "suites" / "clickstream.yaml"),
            data={
                name: sessionize.output_path(f"{name}/manifest.json")
                for name in ("events", "sessions", "daily_traffic")
            },
            output="{{ params.lake }}quality/dt=" + DAY + "/",
        )
        normalize >> sessionize >> check

    warehouse = RedshiftTarget(
        workgroup_name="{{ params.redshift_workgroup }}",
        database="{{ params.redshift_database }}",
        iam_role="{{ params.redshift_role }}",
    )
    loads = {
        task_id: table.load(
            task_id,
            manifest=sessionize.output_path(f"{dataset}/manifest.json"),
            partition=DAY,
            target=warehouse,
        )
        for task_id, (table, dataset) in TABLES.items()
    }
    loads["load_quarantine_counts"] = QUARANTINE_COUNTS.load(
        "load_quarantine_counts",
        manifest=normalize.output_path("quarantine_counts/manifest.json"),
        partition=DAY,
        target=warehouse,
    )
    # For the days that these two loads touched, which late lines make more than one.
    build_marts = BuildMartsOperator(
        task_id="build_marts",
        loads=[loads["load_events"].output, loads["load_sessions"].output],
        target=warehouse,
    )

    wait_for_logs >> ingest >> cluster
    check >> list(loads.values())
