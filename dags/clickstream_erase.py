"""Erasure on request: takes visitors out of the lake and out of Redshift. Run by hand.

    cluster_up → list_visitors → erase_lake → cluster_down
                      └────────────┴→ erase_warehouse → build_marts

The ids are personal data: they lie in a file, one a line, and only its address is a parameter
(``airflow dags trigger clickstream_erase --conf '{"users": "s3://…/users.txt"}'``). Run it when no nightly run is
under way. What is kept, and for how long, is in docs/erasure.md.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Param

from airflow_emr_etl import (
    BuildMartsOperator,
    ClusterSpec,
    EmrCluster,
    EraseVisitorsOperator,
    Fleet,
    RedshiftTarget,
)

SETTINGS = {
    "visitors": Param(
        None, type=["null", "string"], description="Address of a file of visitor ids, one a line"
    ),
    "users": Param(None, type=["null", "string"], description="Address of a file of user ids, one a line"),
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
}

CLUSTER = ClusterSpec(
    name="clickstream-erase",
    release="emr-7.9.0",
    applications=["Spark"],
    core=Fleet(types=["m7g.xlarge", "m6g.xlarge", "m5.xlarge"], on_demand_units=4),
    idle_timeout=timedelta(minutes=15),
    log_uri="{{ params.logs }}",
    tags={"pipeline": "clickstream"},
)

# Everything that the nightly pipeline leaves and that has visitors. The gate's folder may list files of the others.
LAKE = [
    "--catalog",
    "{{ params.lake }}batches/",
    "--data",
    "{{ params.lake }}normalized/",
    "--data",
    "{{ params.lake }}sessionized/",
    "--data",
    "{{ params.lake }}quality/",
]

with DAG(
    "clickstream_erase",
    description="Takes visitors out of the lake and out of Redshift",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    params=SETTINGS,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    tags=["clickstream", "emr", "redshift"],
    doc_md=__doc__,
) as dag:
    with EmrCluster("cluster", spec=CLUSTER, artifacts="{{ params.artifacts }}") as cluster:
        # A step of its own: once events are gone, nobody could tell any more who the users' visitors were.
        list_visitors = cluster.spark(
            "list_visitors",
            job="clickstream_erasure_list",
            # An empty address is none; as one word with its option, it cannot get lost on the way.
            args=["--visitors={{ params.visitors or '' }}", "--users={{ params.users or '' }}", *LAKE],
            output="{{ params.lake }}erasures/lists/",
        )
        erase_lake = cluster.spark(
            "erase_lake",
            job="clickstream_erase",
            args=["--visitors", list_visitors.output_path("visitors/manifest.json"), *LAKE],
            output="{{ params.lake }}erasures/reports/",
        )
        list_visitors >> erase_lake

    warehouse = RedshiftTarget(
        workgroup_name="{{ params.redshift_workgroup }}",
        database="{{ params.redshift_database }}",
        iam_role="{{ params.redshift_role }}",
    )
    # After the lake, so that no load can bring back what it deletes.
    erase_warehouse = EraseVisitorsOperator(
        task_id="erase_warehouse",
        visitors=list_visitors.output_path("visitors/manifest.json"),
        target=warehouse,
    )
    build_marts = BuildMartsOperator(task_id="build_marts", loads=[erase_warehouse.output], target=warehouse)

    erase_lake >> erase_warehouse
