"""The shape of ``EmrCluster`` in a DAG. What a run of one does: ``tests/integration/airflow``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk import DAG, task_group
from airflow.serialization.serialized_objects import DagSerialization

from airflow_emr_etl import (
    ClusterPool,
    ClusterSpec,
    CommandStep,
    EmrCluster,
    EmrTerminateClusterOperator,
    S3LogsSensor,
)
from airflow_emr_etl.exceptions import ConfigurationError

SPEC = ClusterSpec(name="clickstream", termination_protection=True)
TRUE = CommandStep(name="true", command=["true"])


@pytest.fixture(scope="module")
def dag() -> Any:
    with DAG("d", schedule="@daily", start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        with EmrCluster(
            "cluster", spec=SPEC, artifacts="s3://lake/a/", task_defaults={"retries": 3}
        ) as cluster:
            left = cluster.step("left", TRUE)
            right = cluster.spark("right", script="s3://lake/x.py", output="s3://lake/out/", retries=0)
            checked = cluster.quality_gate(
                "checked",
                suite="suites/sessions.yaml",
                data={"events": right.output_path("events/manifest.json")},
                output="s3://lake/gate/",
            )
            [left, right] >> checked
        arrived = S3LogsSensor(task_id="arrived", prefix="s3://src/")
        loaded = EmrTerminateClusterOperator(task_id="loaded", cluster_id="j-1")
        arrived >> cluster
        checked >> loaded
    return dag


def test_it_says_that_a_mapped_group_is_no_place_for_it() -> None:
    with DAG("d", schedule=None):

        @task_group
        def each(day: str) -> None:
            with EmrCluster("cluster", spec=ClusterSpec(name="x")):
                pass

        with pytest.raises(ConfigurationError, match="mapped task group"):
            each.expand(day=["a", "b"])


def test_tasks_and_their_order(dag: Any) -> None:
    upstream = {task.task_id: set(task.upstream_task_ids) for task in dag.tasks}
    assert upstream == {
        "arrived": set(),
        "cluster_up": {"arrived"},
        "left": {"cluster_up"},
        "right": {"cluster_up"},
        "checked": {"left", "right"},
        "cluster_down": {"cluster_up", "left", "right", "checked"},
        "loaded": {"checked"},
    }


def test_setup_and_teardown_leave_the_verdict_to_the_steps(dag: Any) -> None:
    up, down = dag.get_task("cluster_up"), dag.get_task("cluster_down")
    assert up.is_setup
    assert down.is_teardown
    assert not down.on_failure_fail_dagrun
    assert down.lift_protection


def test_every_task_knows_whose_cluster_it_is(dag: Any) -> None:
    told = {task.task_id: task.cluster_task_id for task in dag.tasks if hasattr(task, "cluster_task_id")}
    assert told == {
        "left": "cluster_up",
        "right": "cluster_up",
        "checked": "cluster_up",
        "cluster_down": "cluster_up",
        "loaded": None,
    }


def test_a_step_says_where_its_output_lives() -> None:
    with DAG("h", schedule=None), EmrCluster("c", spec=SPEC) as cluster:
        copied = cluster.step("copied", TRUE, on_hdfs=True)
        counted = cluster.spark("counted", script="s3://lake/x.py")
    assert copied.on_hdfs
    assert not counted.on_hdfs


def test_defaults_reach_every_task_and_can_be_overruled(dag: Any) -> None:
    assert {task.task_id: task.retries for task in dag.tasks if task.task_id != "arrived"} == {
        "cluster_up": 3,
        "cluster_down": 3,
        "left": 3,
        "right": 0,
        "checked": 3,
        "loaded": 0,
    }


def test_it_survives_serialization(dag: Any) -> None:
    stored = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    back = DagSerialization.from_dict(stored)
    assert {task.task_id for task in back.tasks} == {task.task_id for task in dag.tasks}
    assert back.get_task("cluster_up").is_setup
    assert back.get_task("cluster_down").is_teardown
    assert set(back.task_group.get_task_group_dict()) == {None, "cluster"}
    assert json.dumps(DagSerialization.to_dict(dag)) == json.dumps(stored)


def test_a_cluster_without_steps_goes_up_and_down() -> None:
    with DAG("e", schedule=None), EmrCluster("c", spec={"name": "x"}) as cluster:
        pass
    assert cluster.down.upstream_task_ids == {"c_up"}


def test_steps_belong_inside() -> None:
    with DAG("f", schedule=None):
        cluster = EmrCluster("c", spec=SPEC)
        with pytest.raises(ConfigurationError, match="with EmrCluster"):
            cluster.step("s", TRUE)


def test_two_clusters_side_by_side() -> None:
    with DAG("g", schedule=None) as dag:
        with EmrCluster("a", spec=SPEC) as a:
            first = a.step("first", TRUE)
        with EmrCluster("b", spec=SPEC) as b:
            second = b.step("second", TRUE)
        first >> second
    assert second.upstream_task_ids == {"b_up", "first"}
    assert {task.task_id for task in dag.tasks} == {"a_up", "a_down", "first", "b_up", "b_down", "second"}


def test_mapped_steps_are_between_set_up_and_teardown() -> None:
    with (
        DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag,
        EmrCluster("cluster", spec=SPEC, artifacts="s3://lake/a/") as cluster,
    ):
        days = cluster.spark_each(
            "days",
            script="s3://lake/x.py",
            args_each=[{"day": "2026-01-01"}, ["--day", "2026-01-02"]],
            max_active_steps=20,
        )
        steps = cluster.step_each("steps", steps=[TRUE, TRUE.document()])
        days >> steps
    written = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    read = DagSerialization.from_dict(written)
    for task_id in ("days", "steps"):
        assert read.get_task(task_id).is_mapped
        assert "cluster_down" in read.get_task(task_id).downstream_task_ids
    assert read.get_task("days").upstream_task_ids == {"cluster_up"}
    assert "cluster_up" in read.get_task("cluster_down").upstream_task_ids


def test_steps_of_a_pool_are_mapped_too() -> None:
    pool = ClusterPool(
        name="etl",
        spec=ClusterSpec(name="shared"),
        lock="s3://lake/pools/",
        max_active_steps=20,
        artifacts="s3://lake/a/",
    )
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        days = pool.spark_each("days", script="s3://lake/x.py", args_each=[["a"], ["b"]])
        days >> pool.step_each("steps", steps=[TRUE, TRUE.document()])
    read = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    for task_id in ("days", "steps"):
        mapped = read.get_task(task_id)
        assert mapped.is_mapped
        assert ClusterPool.model_validate(mapped.partial_kwargs["cluster_pool"]) == pool
    assert read.get_task("steps").upstream_task_ids == {"days"}
