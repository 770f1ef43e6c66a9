"""What Airflow's provider manager reads: the entry point ``apache_airflow_provider``."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Provider metadata in the shape of ``airflow/provider_info.schema.json``."""
    return {
        "package-name": "airflow-emr-etl",
        "name": "Amazon EMR ETL",
        "description": "Big-data pipelines on Amazon EMR: ingestion, Spark ETL, quality gates, Redshift loads.",
    }
