"""Airflow provider for big-data pipelines on Amazon EMR.

What a DAG author needs is here by name; each module loads when its name is first used, so importing this
package costs next to nothing and loads neither Airflow nor boto3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from airflow_emr_etl.models.cluster import (
        BootstrapAction,
        ClusterSpec,
        Configuration,
        EbsVolume,
        Fleet,
        FleetType,
        InstanceGroup,
        ManagedScaling,
    )
    from airflow_emr_etl.models.pool import ClusterPool
    from airflow_emr_etl.models.step import ActionOnFailure, CommandStep, SparkStep
    from airflow_emr_etl.models.table import RedshiftTable, RedshiftTarget
    from airflow_emr_etl.operators.build_marts import BuildMartsOperator
    from airflow_emr_etl.operators.cluster_group import EmrCluster
    from airflow_emr_etl.operators.emr_cluster import EmrCreateClusterOperator, EmrTerminateClusterOperator
    from airflow_emr_etl.operators.emr_reaper import EmrReaperOperator
    from airflow_emr_etl.operators.emr_step import EmrSparkOperator, EmrStepOperator
    from airflow_emr_etl.operators.erase_visitors import EraseVisitorsOperator
    from airflow_emr_etl.operators.quality_gate import EmrQualityGateOperator
    from airflow_emr_etl.operators.redshift_quality_gate import RedshiftQualityGateOperator
    from airflow_emr_etl.retry_policy import emr_retry_policy
    from airflow_emr_etl.sensors.emr_cluster import EmrClusterSensor
    from airflow_emr_etl.sensors.emr_step import EmrStepSensor
    from airflow_emr_etl.sensors.s3_logs import S3LogsSensor
    from airflow_emr_etl.transfers.access_logs import IngestLogsOperator

_MODULES = {
    "ActionOnFailure": "models.step",
    "BootstrapAction": "models.cluster",
    "BuildMartsOperator": "operators.build_marts",
    "ClusterPool": "models.pool",
    "ClusterSpec": "models.cluster",
    "CommandStep": "models.step",
    "Configuration": "models.cluster",
    "EbsVolume": "models.cluster",
    "EmrCluster": "operators.cluster_group",
    "EmrClusterSensor": "sensors.emr_cluster",
    "EmrCreateClusterOperator": "operators.emr_cluster",
    "EmrQualityGateOperator": "operators.quality_gate",
    "EmrReaperOperator": "operators.emr_reaper",
    "EmrSparkOperator": "operators.emr_step",
    "EmrStepOperator": "operators.emr_step",
    "EmrStepSensor": "sensors.emr_step",
    "EmrTerminateClusterOperator": "operators.emr_cluster",
    "EraseVisitorsOperator": "operators.erase_visitors",
    "Fleet": "models.cluster",
    "FleetType": "models.cluster",
    "IngestLogsOperator": "transfers.access_logs",
    "InstanceGroup": "models.cluster",
    "ManagedScaling": "models.cluster",
    "RedshiftQualityGateOperator": "operators.redshift_quality_gate",
    "RedshiftTable": "models.table",
    "RedshiftTarget": "models.table",
    "S3LogsSensor": "sensors.s3_logs",
    "SparkStep": "models.step",
    "emr_retry_policy": "retry_policy",
}

__all__ = [  # noqa: RUF022  (the version first, then the names)
    "__version__",
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
]


def __getattr__(name: str) -> Any:
    """Load the module that ``name`` lives in (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
