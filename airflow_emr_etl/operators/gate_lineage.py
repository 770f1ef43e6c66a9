"""What a gate found as OpenLineage's facets of the data that it looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_emr_etl.models.s3 import S3Uri

_SEVERITIES = {"critical": "error", "warning": "warn"}
"""Those that OpenLineage has words for; the others keep ours."""


def lineage_of(verdict: Mapping[str, Any], names: Mapping[str, tuple[str, str]]) -> Any:
    """The ``OperatorLineage`` of a gate: each dataset as an input, with its row count and its assertions.

    Args:
        verdict: ``result.json``, whose form ``quality/result.py`` describes.
        names: OpenLineage's namespace and name of each dataset.

    Returns None where the OpenLineage provider is not installed.
    """
    try:
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.event_v2 import InputDataset
        from openlineage.client.facet_v2 import (
            data_quality_assertions_dataset,
            data_quality_metrics_input_dataset,
        )
    except ImportError:
        return None
    known = data_quality_assertions_dataset.Assertion.__init__.__annotations__
    inputs = []
    for name, dataset in verdict["datasets"].items():
        namespace, full_name = names[name]
        assertions = [
            # Older clients know fewer of these fields.
            data_quality_assertions_dataset.Assertion(
                **{key: value for key, value in _assertion(check) if key in known}
            )
            for check in dataset["expectations"]
        ]
        facets = {
            "dataQualityAssertions": data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(
                assertions=assertions
            ),
            "dataQualityMetrics": data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet(
                rowCount=dataset["rows"], columnMetrics={}
            ),
        }
        inputs.append(InputDataset(namespace=namespace, name=full_name, inputFacets=facets))
    return OperatorLineage(inputs=inputs)


def s3_name(address: str) -> tuple[str, str]:
    """Namespace and name of a folder of files, or of the folder that a manifest is in."""
    uri = S3Uri.parse(address)
    folder = uri.key.rpartition("/")[0] if uri.key.endswith(".json") else uri.key.rstrip("/")
    return f"s3://{uri.bucket}", folder or "/"


def redshift_name(place: Mapping[str, str], region: str, table: str) -> tuple[str, str]:
    """Namespace and name of ``schema.table`` in the database of a Data API request."""
    server = place.get("WorkgroupName") or place["ClusterIdentifier"]
    return f"redshift://{server}.{region}:5439", f"{place['Database']}.{table}"


def _assertion(check: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "assertion", check["type"]
    yield "success", bool(check["success"])
    yield "column", check.get("column")
    yield "severity", _SEVERITIES.get(check["severity"], check["severity"])
    yield "name", check["id"]
    if check.get("message"):
        yield "description", check["message"]
    actual = check.get("observed")
    if actual is None:
        actual = check.get("unexpected_count")
    if actual is not None:
        yield "actual", actual if isinstance(actual, str) else json.dumps(actual)
