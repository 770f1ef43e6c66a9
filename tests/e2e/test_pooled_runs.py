"""Runs that share the clusters of a pool, each run an Airflow process of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from rich.console import Console

from airflow_emr_etl.cli.airflow_home import AirflowHome
from airflow_emr_etl.cli.demo.runs import Runs, run_days
from airflow_emr_etl.local.stack import LocalAws
from airflow_emr_etl.models.intent import StepMark
from airflow_emr_etl.models.states import CLUSTER_LIVE

DAGS = Path(__file__).parent / "dags"


class Watch:
    """The pool's clusters, looked at many times a second from before the first run to after the last."""

    def __init__(self) -> None:
        self.client: Any = boto3.client("emr")
        self.before = set(self._listed())
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _listed(self, **states: Any) -> dict[str, str]:
        pages = self.client.get_paginator("list_clusters").paginate(**states)
        return {
            cluster["Id"]: cluster["Status"]["State"]
            for page in pages
            for cluster in page["Clusters"]
            if cluster["Name"].startswith("pooled ")
        }

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self.most = max(self.most, len(self._listed(ClusterStates=sorted(CLUSTER_LIVE))))

    @property
    def clusters(self) -> list[str]:
        return sorted(set(self._listed()) - self.before)

    def steps(self) -> list[tuple[str, str]]:
        """Lineage and state of every step on them."""
        found = []
        for cluster in self.clusters:
            for page in self.client.get_paginator("list_steps").paginate(ClusterId=cluster):
                for step in page["Steps"]:
                    mark = StepMark.read(step["Name"])
                    assert mark is not None
                    found.append((mark.lineage, step["Status"]["State"]))
        return found

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self.clusters:
            self.client.terminate_job_flows(JobFlowIds=self.clusters)


@pytest.fixture
def watch(aws_environment: LocalAws) -> Iterator[Watch]:
    with contextlib.suppress(boto3.client("s3").exceptions.BucketAlreadyOwnedByYou):
        boto3.client("s3").create_bucket(Bucket="pooled")
    with Watch() as found:
        yield found


def run(days: list[str], local: LocalAws, folder: Path, workers: int) -> Runs:
    home = AirflowHome(folder, DAGS, local.env())
    home.prepare()
    return run_days(home, days, dag_id="pooled", folder=folder / "runs", console=Console(), workers=workers)


def test_two_runs_share_one_cluster(aws_environment: LocalAws, watch: Watch, tmp_path: Path) -> None:
    runs = run(["2026-01-05", "2026-01-06"], aws_environment, tmp_path, workers=1)
    assert runs.succeeded, runs
    assert len(watch.clusters) == watch.most == 1
    places = {run.values[task]["cluster_id"] for run in runs.days.values() for task in ("first", "second")}
    assert places == set(watch.clusters)
    assert [state for _, state in watch.steps()] == ["COMPLETED"] * 4


@pytest.mark.slow
def test_ten_runs_at_once_never_have_more_than_three_clusters_and_all_finish(
    aws_environment: LocalAws, watch: Watch, tmp_path: Path
) -> None:
    days = [f"2026-01-{day:02}" for day in range(1, 11)]
    runs = run(days, aws_environment, tmp_path, workers=len(days))
    assert runs.succeeded, runs
    assert 1 <= watch.most <= 3
    assert len(watch.clusters) <= 3, "none was lost, so none was made again"
    steps = watch.steps()
    assert [state for _, state in steps] == ["COMPLETED"] * 20
    assert len({lineage for lineage, _ in steps}) == 20, "no step ran twice"
