"""Every sample DAG is imported without an error, quickly enough for Airflow, and touches nothing while it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import ParamValidationError

from airflow_emr_etl.models.session_rules import CUTS, NO_CUT, SessionRules
from airflow_emr_etl.spark.jobs import clickstream_sessionize

DAGS = Path(__file__).resolve().parents[2] / "dags"


def test_all_sample_dags_import() -> None:
    bag = DagBag(dag_folder=DAGS)

    assert bag.import_errors == {}
    assert {"clickstream_erase", "clickstream_nightly", "emr_reaper", "emr_step_events"} <= set(bag.dags)


def test_the_cluster_comes_up_after_the_logs_are_whole_and_goes_down_whatever_happens() -> None:
    dag = DagBag(dag_folder=DAGS).dags["clickstream_nightly"]
    up, down = dag.get_task("cluster_up"), dag.get_task("cluster_down")

    assert "ingest" in up.get_flat_relative_ids(upstream=True)
    assert up.is_setup
    assert down.is_teardown
    assert {"check", "cluster_up"} <= down.upstream_task_ids
    for load in ("load_events", "load_sessions", "load_daily_traffic", "load_quarantine_counts"):
        assert "check" in dag.get_task(load).upstream_task_ids
        assert "cluster_down" not in dag.get_task(load).get_flat_relative_ids(upstream=True)
    assert dag.max_active_runs == 1, "nights are sessionized and loaded in turn"
    assert dag.get_task("build_marts").upstream_task_ids == {"load_events", "load_sessions"}


def test_an_erasure_finds_who_before_anything_goes_and_cleans_the_lake_before_the_warehouse() -> None:
    dag = DagBag(dag_folder=DAGS).dags["clickstream_erase"]

    assert dag.get_task("erase_lake").upstream_task_ids == {"list_visitors"}
    assert "erase_lake" in dag.get_task("erase_warehouse").upstream_task_ids
    assert dag.get_task("build_marts").upstream_task_ids == {"erase_warehouse"}
    assert "cluster_down" not in dag.get_task("build_marts").get_flat_relative_ids(upstream=True)


def test_the_pipeline_and_its_erasure_look_in_the_same_places() -> None:
    """Each of the two is a whole that can be copied; so what both of them declare is there twice, and is the same."""
    bag = DagBag(dag_folder=DAGS)
    nightly, erase = (bag.dags[name].params for name in ("clickstream_nightly", "clickstream_erase"))
    both = nightly.keys() & erase.keys()
    assert both == {
        "lake",
        "artifacts",
        "logs",
        "redshift_workgroup",
        "redshift_database",
        "redshift_role",
    }
    for name in both:
        assert nightly.get_param(name).serialize() == erase.get_param(name).serialize()


def session_rules(**given: Any) -> SessionRules:
    """The rules by which the job of a nightly run with these parameters makes sessions."""
    dag = DagBag(dag_folder=DAGS).dags["clickstream_nightly"]
    params = dag.params.__copy__()
    params.update({"day": "2026-01-05", **given})
    task = dag.get_task("sessionize")
    ti = SimpleNamespace(xcom_pull=lambda **_: {"output": "s3://lake/normalized/"})
    args = task.render_template(task.args, {"params": params.dump(), "ti": ti})
    rules: SessionRules = clickstream_sessionize.parse_arguments([*args, "--output", "s3://lake/a/"]).rules
    return rules


@pytest.mark.parametrize(
    ("given", "rules"),
    [
        ({}, SessionRules()),
        ({"max_session_minutes": 600}, SessionRules(max_minutes=600)),
        ({"sessions_end_at_midnight_of": "Europe/Berlin"}, SessionRules(midnight_zone="Europe/Berlin")),
        ({"sessions_end_on_change_of": None}, SessionRules()),
        ({"sessions_end_on_change_of": ["referrer"]}, SessionRules(cut_on=("referrer",))),
        (
            {"sessions_end_on_change_of": ["referrer", "campaign"], "inactivity_minutes": 45},
            SessionRules(inactivity_minutes=45, cut_on=("campaign", "referrer")),
        ),
    ],
)
def test_what_a_session_is_follows_the_parameters(given: dict[str, Any], rules: SessionRules) -> None:
    assert session_rules(**given) == rules


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sessions_end_on_change_of": ["colour"]}, r"'colour' is not one of \['campaign', 'referrer'\]"),
        ({"sessions_end_on_change_of": "campaign"}, "'campaign' is not of type 'null', 'array'"),
        ({"sessions_end_on_change_of": ["campaign", "campaign"]}, "non-unique"),
        ({"inactivity_minutes": 0}, "0 is less than the minimum of 1"),
    ],
)
def test_a_rule_that_there_is_not_is_refused_before_a_cluster_comes_up(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParamValidationError, match=f"(?s){next(iter(given))}.*{message}"):
        session_rules(**given)


def test_the_form_offers_the_changes_that_sessions_can_end_on() -> None:
    param = DagBag(dag_folder=DAGS).dags["clickstream_nightly"].params.get_param("sessions_end_on_change_of")
    assert param.schema["items"]["enum"] == param.schema["examples"] == [c for c in CUTS if c != NO_CUT]
