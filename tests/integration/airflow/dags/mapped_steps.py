"""Mapped tasks whose steps wait for their turn on one cluster."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG, task

from airflow_emr_etl import ClusterSpec, CommandStep, EmrCluster

SPEC = ClusterSpec(name="mapped", log_uri="s3://{{ params.bucket }}-logs/emr/", step_concurrency=2)


@task
def words() -> list[dict[str, object]]:
    return [CommandStep(name=word, command=["echo", word]).document() for word in ("one", "two", "three")]


with DAG("mapped_steps", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), params={"bucket": "b"}):
    given = words()
    with EmrCluster("cluster", spec=SPEC, poll_interval=1.0) as cluster:
        letters = [CommandStep(name=letter, command=["echo", letter]) for letter in "abc"]
        listed = cluster.step_each("listed", steps=letters, max_active_steps=1)
        told = cluster.step_each("told", steps=given, max_active_steps=2)
        listed >> told
