"""What Airflow's provider manager reads: the entry point ``apache_airflow_provider``."""

from __future__ import annotations

from typing import Any

_EMR = "Amazon EMR ETL"
_S3 = "Amazon S3 access logs"
_LAKE = "Amazon S3 data lake"
_REDSHIFT = "Amazon Redshift"


def get_provider_info() -> dict[str, Any]:
    """Provider metadata in the shape of ``airflow/provider_info.schema.json``."""
    return {
        "package-name": "airflow-emr-etl",
        "name": "Amazon EMR ETL",
        "description": "Big-data pipelines on Amazon EMR: ingestion, Spark ETL, quality gates, Redshift loads.",
        "integrations": [
            {
                "integration-name": _EMR,
                "external-doc-url": "https://docs.aws.amazon.com/emr/",
                "tags": ["aws"],
            },
            {
                "integration-name": _S3,
                "external-doc-url": "https://docs.aws.amazon.com/AmazonS3/latest/userguide/",
                "tags": ["aws"],
            },
            {
                "integration-name": _LAKE,
                "external-doc-url": "https://docs.aws.amazon.com/AmazonS3/latest/userguide/",
                "tags": ["aws"],
            },
            {
                "integration-name": _REDSHIFT,
                "external-doc-url": "https://docs.aws.amazon.com/redshift/",
                "tags": ["aws"],
            },
        ],
        "hooks": [
            {
                "integration-name": _EMR,
                "python-modules": ["airflow_emr_etl.hooks.emr_cluster", "airflow_emr_etl.hooks.emr_step"],
            },
            {"integration-name": _LAKE, "python-modules": ["airflow_emr_etl.hooks.s3_lake"]},
            {"integration-name": _REDSHIFT, "python-modules": ["airflow_emr_etl.hooks.redshift_data"]},
        ],
        "operators": [
            {
                "integration-name": _EMR,
                "python-modules": [
                    "airflow_emr_etl.operators.cluster_group",
                    "airflow_emr_etl.operators.emr",
                    "airflow_emr_etl.operators.emr_cluster",
                    "airflow_emr_etl.operators.emr_reaper",
                    "airflow_emr_etl.operators.emr_step",
                    "airflow_emr_etl.operators.quality_gate",
                ],
            },
            {
                "integration-name": _REDSHIFT,
                "python-modules": [
                    "airflow_emr_etl.operators.build_marts",
                    "airflow_emr_etl.operators.erase_visitors",
                    "airflow_emr_etl.operators.redshift_quality_gate",
                ],
            },
        ],
        "sensors": [
            {
                "integration-name": _EMR,
                "python-modules": [
                    "airflow_emr_etl.sensors.emr",
                    "airflow_emr_etl.sensors.emr_cluster",
                    "airflow_emr_etl.sensors.emr_step",
                ],
            },
            {"integration-name": _S3, "python-modules": ["airflow_emr_etl.sensors.s3_logs"]},
        ],
        "triggers": [
            {
                "integration-name": _EMR,
                "python-modules": [
                    "airflow_emr_etl.triggers.emr",
                    "airflow_emr_etl.triggers.emr_asset",
                    "airflow_emr_etl.triggers.emr_cluster",
                    "airflow_emr_etl.triggers.emr_room",
                    "airflow_emr_etl.triggers.emr_step",
                    "airflow_emr_etl.triggers.pause",
                ],
            },
            {"integration-name": _S3, "python-modules": ["airflow_emr_etl.triggers.s3_logs"]},
            {"integration-name": _REDSHIFT, "python-modules": ["airflow_emr_etl.triggers.redshift_data"]},
        ],
        "transfers": [
            {
                "source-integration-name": _S3,
                "target-integration-name": _LAKE,
                "python-module": "airflow_emr_etl.transfers.access_logs",
            },
            {
                "source-integration-name": _LAKE,
                "target-integration-name": _REDSHIFT,
                "python-module": "airflow_emr_etl.transfers.redshift_load",
            },
        ],
        "extra-links": ["airflow_emr_etl.links.emr.EmrClusterLink", "airflow_emr_etl.links.emr.EmrLogsLink"],
        "config": {
            "emr_etl": {
                "description": "How the tasks of airflow-emr-etl behave unless one says otherwise.",
                "options": {
                    "deferrable": {
                        "description": "Whether operators and sensors wait in the triggerer instead of in a worker.",
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": None,
                        "default": "True",
                    },
                    "drop_in_idle_timeout": {
                        "description": "Seconds without work after which EMR ends a cluster that the drop-in "
                        "EmrCreateJobFlowOperator makes, where it would stay for ever; 0 leaves it so.",
                        "version_added": "0.1.0",
                        "type": "integer",
                        "example": None,
                        "default": "86400",
                    },
                    "events_queue": {
                        "description": "Name, URL or ARN of the SQS queue that EventBridge sends EMR's events to: "
                        "waits then end when their event comes, and EMR is asked only now and then. A queue to each "
                        "triggerer; {hostname} is the machine's. A connection's extra emr_events_queue goes before it.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "emr-etl-events",
                        "default": "",
                    },
                    "site": {
                        "description": "The name of this Airflow, where several share an AWS account: clusters of "
                        "the others are then never taken for its own.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "analytics-production",
                        "default": "",
                    },
                },
            },
        },
    }
