"""Names that users import from the package itself; changing the list changes a promise."""

from __future__ import annotations

import subprocess
import sys

import pytest

import airflow_emr_etl

PUBLIC = {
    "ActionOnFailure",
    "BootstrapAction",
    "BuildMartsOperator",
    "ClusterPool",
    "ClusterSpec",
    "CommandStep",
    "Configuration",
    "EbsVolume",
    "EmrCluster",
    "EmrClusterSensor",
    "EmrCreateClusterOperator",
    "EmrQualityGateOperator",
    "EmrReaperOperator",
    "EmrSparkOperator",
    "EmrStepOperator",
    "EmrStepSensor",
    "EmrTerminateClusterOperator",
    "EraseVisitorsOperator",
    "Fleet",
    "FleetType",
    "IngestLogsOperator",
    "InstanceGroup",
    "ManagedScaling",
    "RedshiftQualityGateOperator",
    "RedshiftTable",
    "RedshiftTarget",
    "S3LogsSensor",
    "SparkStep",
    "emr_retry_policy",
}


def test_the_list() -> None:
    assert set(airflow_emr_etl.__all__) == PUBLIC | {"__version__"}
    assert set(dir(airflow_emr_etl)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_is_there_and_says_what_it_is(name: str) -> None:
    assert getattr(airflow_emr_etl, name).__doc__


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        _ = airflow_emr_etl.Nothing


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import airflow_emr_etl", "airflow,boto3,botocore,pydantic,pyspark,pandas"),
        ("from airflow_emr_etl import ClusterSpec", "airflow,boto3,botocore,pyspark,pandas"),
        (
            "from airflow_emr_etl import EmrCluster, IngestLogsOperator, S3LogsSensor, RedshiftTable, "
            "BuildMartsOperator; import airflow_emr_etl.transfers.redshift_load",
            "boto3,botocore,pyspark,pandas,pyarrow,great_expectations,sqlglot,psycopg,moto,"
            "airflow.providers.amazon.aws,airflow_emr_etl.local",
        ),
    ],
)
def test_what_a_dag_file_loads(code: str, unwanted: str) -> None:
    """Airflow runs a DAG file's imports again and again; the heavy ones wait for the task."""
    script = f"{code}\nimport sys\nprint([m for m in {unwanted.split(',')!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
