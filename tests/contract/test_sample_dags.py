"""Every sample DAG is imported without an error, quickly enough for Airflow, and touches nothing while it is."""

from __future__ import annotations

from pathlib import Path

from airflow.dag_processing.dagbag import DagBag

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
