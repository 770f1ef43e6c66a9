"""A gate's verdict as OpenLineage's facets, made by OpenLineage's own client where it is installed."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from airflow_emr_etl.operators.gate_lineage import lineage_of, redshift_name, s3_name
from airflow_emr_etl.operators.quality_gate import EmrQualityGateOperator
from airflow_emr_etl.quality.result import DatasetResult, ExpectationResult, GateResult

VERDICT = GateResult(
    "s",
    {
        "events": DatasetResult(
            4,
            (
                ExpectationResult(
                    "rows", "expect_table_row_count_to_equal", None, "critical", True, observed=4
                ),
                ExpectationResult(
                    *("codes", "expect_column_values_to_be_in_set", "status", "warning", False),
                    unexpected_count=1,
                    message="1 of 4 rows are unexpected",
                ),
                ExpectationResult("odd", "expect_column_to_exist", "é", "quarantine", True),
            ),
        )
    },
    seconds=1,
).to_dict()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("s3://lake/events/dt=1/manifest.json", ("s3://lake", "events/dt=1")),
        ("s3a://lake/events/dt=1/", ("s3://lake", "events/dt=1")),
        ("s3://lake/manifest.json", ("s3://lake", "/")),
    ],
)
def test_files_are_called_by_their_folder(address: str, name: tuple[str, str]) -> None:
    assert s3_name(address) == name


def test_a_table_is_called_by_server_and_database() -> None:
    place = {"WorkgroupName": "w", "Database": "dev"}
    assert redshift_name(place, "eu-west-1", "shop.events") == (
        "redshift://w.eu-west-1:5439",
        "dev.shop.events",
    )
    place = {"ClusterIdentifier": "c", "Database": "dev"}
    assert redshift_name(place, "eu-west-1", "shop.events")[0] == "redshift://c.eu-west-1:5439"


def test_without_the_provider_there_is_no_lineage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage.extractors", None)
    assert lineage_of(VERDICT, {"events": ("s3://lake", "events")}) is None


def gate() -> Any:
    return EmrQualityGateOperator(
        task_id="check",
        cluster_id="j-1",
        suite="suite.yaml",
        data={"events": "s3://lake/events/manifest.json"},
        output="s3://lake/quality/",
        artifacts="s3://lake/artifacts/",
    )


def test_before_a_verdict_there_is_no_lineage() -> None:
    assert gate().get_openlineage_facets_on_complete(None) is None


def test_the_event_that_openlineage_sends() -> None:
    extractors = pytest.importorskip(
        "airflow.providers.openlineage.extractors.base", reason="the openlineage extra is not installed"
    )
    from openlineage.client.serde import Serde

    task = gate()
    task._verdict = VERDICT
    for extract in ("extract_on_complete", "extract_on_failure"):
        lineage = getattr(extractors.DefaultExtractor(task), extract)(None)
        [told] = lineage.inputs
        document = json.loads(Serde.to_json(told))
        assert (document["namespace"], document["name"]) == ("s3://lake", "events")
        facets = document["inputFacets"]
        assert facets["dataQualityMetrics"]["rowCount"] == 4
        assert facets["dataQualityAssertions"]["_schemaURL"].endswith("/DataQualityAssertionsDatasetFacet")
        found = facets["dataQualityAssertions"]["assertions"]
        assert [{key: one.get(key) for key in ("assertion", "success", "column")} for one in found] == [
            {"assertion": "expect_table_row_count_to_equal", "success": True, "column": None},
            {"assertion": "expect_column_values_to_be_in_set", "success": False, "column": "status"},
            {"assertion": "expect_column_to_exist", "success": True, "column": "é"},
        ]
        assert [(one["name"], one["severity"], one.get("actual")) for one in found] == [
            ("rows", "error", "4"),
            ("codes", "warn", "1"),
            ("odd", "quarantine", None),
        ]
        assert found[1]["description"] == "1 of 4 rows are unexpected"
