"""Tasks that a pool makes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_emr_etl import (
    ClusterPool,
    ClusterSpec,
    CommandStep,
    EmrQualityGateOperator,
    EmrSparkOperator,
    EmrStepOperator,
)

POOL = ClusterPool(
    name="etl",
    spec=ClusterSpec(name="shared", step_concurrency=4),
    lock="s3://lake/pools/",
    artifacts="s3://lake/code/",
)


@pytest.fixture
def dag() -> DAG:
    return DAG("pooled", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC))


def pool_of(operator: Any) -> ClusterPool:
    return ClusterPool.model_validate(operator.cluster_pool)


def test_each_kind_of_step(dag: DAG) -> None:
    with dag:
        command = POOL.step("command", CommandStep(name="x", command=["true"]), retries=3)
        spark = POOL.spark("spark", job="clickstream_normalize", output="s3://lake/n/")
        gate = POOL.quality_gate("gate", suite="suite.yaml", data="s3://lake/m.json", output="s3://lake/g/")
        command >> spark >> gate
    assert type(command) is EmrStepOperator
    assert type(spark) is EmrSparkOperator
    assert type(gate) is EmrQualityGateOperator
    assert [pool_of(each) for each in (command, spark, gate)] == [POOL] * 3
    assert command.retries == 3
    assert spark.artifacts == gate.artifacts == "s3://lake/code/"
    assert command.pool == "default_pool", "Airflow's own pools are something else"


def test_a_tasks_own_arguments_win(dag: DAG) -> None:
    with dag:
        spark = POOL.spark("spark", job="clickstream_normalize", artifacts="s3://other/")
    assert spark.artifacts == "s3://other/"


def test_the_dag_can_be_serialized(dag: DAG) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    with dag:
        POOL.step("command", CommandStep(name="x", command=["true"]))
    assert DagSerialization.from_dict(DagSerialization.to_dict(dag)).task_ids == ["command"]
