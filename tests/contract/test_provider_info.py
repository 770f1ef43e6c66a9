"""The provider's metadata: valid, complete, and true."""

from __future__ import annotations

import importlib
import json
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import airflow_emr_etl
from airflow_emr_etl.provider import get_provider_info

INFO = get_provider_info()
PACKAGE = Path(airflow_emr_etl.__file__).parent
KINDS = ("hooks", "operators", "sensors", "triggers")
#: Modules of those folders that define nothing a DAG author names.
HELPERS = {
    "hooks": {
        "attempts",
        "aws_errors",
        "clock",
        "cluster_keeper",
        "cluster_pool",
        "emr",
        "emr_client",
        "emr_events",
        "emr_events_setup",
        "emr_reaper",
        "redshift_sql",
        "s3_document",
        "s3_lock",
        "step_keeper",
    },
    "operators": {"base", "drop_in", "failures", "gate_lineage", "redshift_batch", "waiting"},
    "sensors": {"waiting"},
    "triggers": {
        "event_inbox",
        "event_listener",
        "event_producer",
        "ownership",
        "places",
        "poller",
        "polling",
        "polling_schedule",
        "shared",
    },
}


def listed(kind: str) -> set[str]:
    return {module for entry in INFO.get(kind, []) for module in entry["python-modules"]}


def test_airflow_finds_it() -> None:
    found = {entry.value for entry in entry_points(group="apache_airflow_provider")}
    assert "airflow_emr_etl.provider:get_provider_info" in found


def test_it_is_what_airflow_takes() -> None:
    schema = json.loads((files("airflow") / "provider_info.schema.json").read_text())
    jsonschema.validate(INFO, schema)


@pytest.mark.parametrize("kind", KINDS)
def test_every_module_is_listed_and_every_listed_module_is_there(kind: str) -> None:
    there = {f"airflow_emr_etl.{kind}.{path.stem}" for path in (PACKAGE / kind).glob("[!_]*.py")}
    there -= {f"airflow_emr_etl.{kind}.{name}" for name in HELPERS[kind]}
    assert listed(kind) == there


def test_transfers_are_listed() -> None:
    there = {f"airflow_emr_etl.transfers.{path.stem}" for path in (PACKAGE / "transfers").glob("[!_]*.py")}
    assert {entry["python-module"] for entry in INFO["transfers"]} == there


def test_every_listed_module_can_be_imported() -> None:
    modules = {module for kind in KINDS for module in listed(kind)}
    for module in sorted(modules | {entry["python-module"] for entry in INFO["transfers"]}):
        importlib.import_module(module)


def test_every_link_class_is_listed() -> None:
    from airflow.sdk import BaseOperatorLink

    from airflow_emr_etl.links import emr

    classes = {
        f"{emr.__name__}.{name}"
        for name, item in vars(emr).items()
        if isinstance(item, type) and issubclass(item, BaseOperatorLink) and not name.startswith("_")
        if item.__module__ == emr.__name__
    }
    assert set(INFO["extra-links"]) == classes


def test_integrations_that_are_named_exist() -> None:
    names = {item["integration-name"] for item in INFO["integrations"]}

    def named(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {item for key, item in value.items() if key.endswith("integration-name")}
            return own.union(*(named(item) for item in value.values()))
        return set().union(*(named(item) for item in value)) if isinstance(value, list) else set()

    assert named(INFO) == names


def test_the_version_is_said_once() -> None:
    from importlib.metadata import version

    assert version("airflow-emr-etl") == airflow_emr_etl.__version__
