"""The reaper against local AWS and a real Airflow's runs: by its DAG and by its command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from airflow_emr_etl.models.intent import (
    TAG_LINEAGE,
    TAG_MAX_AGE,
    TAG_MAX_IDLE,
    TAG_POOL,
    ClusterMark,
    Scope,
    tags_for_run,
)

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
DAY = datetime(2026, 1, 5, tzinfo=UTC)
GOING = {"STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"}
ENDING = {"TERMINATING", "TERMINATED"}
#: By hand: neither EMR nor a teardown ends these clusters.
REQUEST: dict[str, Any] = {
    "ReleaseLabel": "emr-7.9.0",
    "Instances": {"InstanceCount": 1, "MasterInstanceType": "m5.xlarge", "KeepJobFlowAliveWhenNoSteps": True},
    "JobFlowRole": "EMR_EC2_DefaultRole",
    "ServiceRole": "EMR_DefaultRole",
}


@pytest.fixture(scope="module")
def airflow_database() -> None:
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def dag_of(airflow_database: None, aws_environment: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A DAG of a file, as a DAG bundle of this test's own."""

    def load(file: Path, dag_id: str) -> Any:
        from airflow.dag_processing.dagbag import DagBag

        bundle = {
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(file.parent)},
        }
        bundles = json.dumps([{"name": dag_id, **bundle}])
        monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", bundles)
        bag = DagBag(str(file), bundle_path=file.parent, bundle_name=dag_id)
        assert bag.import_errors == {}
        return bag.dags[dag_id]

    return load


class Clusters:
    """Clusters on local AWS as this package makes them, and some as others do."""

    def __init__(self) -> None:
        self.emr = boto3.client("emr")
        self.made: list[str] = []

    def of_run(self, run_id: str, dag_id: str = "failing_tasks", *, site: str = "", **tags: str) -> str:
        scope = Scope(dag_id, run_id, "cluster_up", site=site)
        mark = ClusterMark(scope.lineage, "0badcafe")
        return self.make(mark.on(run_id), {**tags_for_run(scope), TAG_LINEAGE: scope.lineage, **tags})

    def make(self, name: str, tags: dict[str, str], **more: Any) -> str:
        tagged = [{"Key": key, "Value": value} for key, value in tags.items() if value]
        cluster_id = self.emr.run_job_flow(Name=name, Tags=tagged, **REQUEST, **more)["JobFlowId"]
        self.made.append(cluster_id)
        return str(cluster_id)

    def state(self, cluster_id: str) -> str:
        return str(self.emr.describe_cluster(ClusterId=cluster_id)["Cluster"]["Status"]["State"])

    def wait_until(self, cluster_id: str, state: str) -> None:
        deadline = time.monotonic() + 30
        while self.state(cluster_id) != state:
            assert time.monotonic() < deadline, f"{cluster_id} is {self.state(cluster_id)}, not {state}"
            time.sleep(0.1)

    def tags(self, cluster_id: str) -> dict[str, str]:
        cluster = self.emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
        return {tag["Key"]: tag["Value"] for tag in cluster["Tags"]}


@pytest.fixture
def clusters(aws_environment: Any) -> Iterator[Clusters]:
    made = Clusters()
    yield made
    for left in [each for each in made.made if made.state(each) in GOING]:
        made.emr.set_termination_protection(JobFlowIds=[left], TerminationProtected=False)
        made.emr.terminate_job_flows(JobFlowIds=[left])


def a_run(dag: Any, run_id: str, state: str) -> None:
    """A run in Airflow's database."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    with create_session() as session:
        session.add(
            DagRun(
                dag_id=dag.dag_id,
                run_id=run_id,
                run_type=DagRunType.MANUAL,
                state=DagRunState(state),
                run_after=DAY,
                triggered_by=DagRunTriggeredByType.TEST,
            )
        )


def test_the_dag_asks_airflow_which_runs_are_over(dag_of: Any, clusters: Clusters) -> None:
    other = dag_of(HERE / "dags" / "failing_tasks.py", "failing_tasks")
    for name, state in (("failed:1+x~", "failed"), ("succeeded", "success"), ("running", "running")):
        a_run(other, name, state)
    over = [clusters.of_run("failed:1+x~"), clusters.of_run("succeeded")]
    going = [
        clusters.of_run("running"),
        clusters.of_run("deleted"),  # young yet
        clusters.of_run("failed", "somebody_elses_dag"),
        clusters.of_run("succeeded", site="another airflow"),
        clusters.make("by hand", {"team": "x"}),
    ]
    aged = clusters.of_run("running", **{TAG_MAX_AGE: "0"})

    run = dag_of(ROOT / "dags" / "emr_reaper.py", "emr_reaper").test(logical_date=DAY)

    assert str(run.state) == "success"
    assert {clusters.state(each) for each in over} <= ENDING
    assert clusters.state(aged) in ENDING
    assert {clusters.state(each) for each in going} <= GOING
    assert "emr-etl:closed" in clusters.tags(over[0])
    [ti] = run.get_task_instances()
    told = {each["cluster_id"]: each for each in ti.xcom_pull(task_ids="reap")}
    assert told[over[0]]["why"] == "its run has ended (failed)"
    assert told[going[0]]["why"] == "its run goes on"
    assert going[-1] not in told


def left_by_a_run(dag_of: Any, clusters: Clusters) -> str:
    """The cluster of a real run that has no teardown."""
    run = dag_of(HERE / "dags" / "leaves_a_cluster.py", "leaves_a_cluster").test(logical_date=DAY)
    assert str(run.state) == "success"
    [ti] = run.get_task_instances()
    cluster_id = str(ti.xcom_pull(task_ids="up"))
    clusters.made.append(cluster_id)
    assert clusters.state(cluster_id) in GOING
    return cluster_id


def test_it_knows_the_clusters_that_the_operators_make(
    dag_of: Any, clusters: Clusters, tmp_path: Path
) -> None:
    left = left_by_a_run(dag_of, clusters)
    assert (
        str(dag_of(ROOT / "dags" / "emr_reaper.py", "emr_reaper").test(logical_date=DAY).state) == "success"
    )
    assert clusters.state(left) in ENDING

    left = left_by_a_run(dag_of, clusters)
    told = emr_etl(tmp_path, AIRFLOW_HOME=os.environ["AIRFLOW_HOME"])
    assert told.returncode == 0, told.stderr
    assert clusters.state(left) in ENDING


def emr_etl(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("emr-etl")), "reap", *arguments]
    environment = {**os.environ, "HOME": str(home), **variables}
    if "AIRFLOW_HOME" not in variables:
        del environment["AIRFLOW_HOME"]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=120, cwd=home
    )


def test_the_command_asks_the_airflow_of_its_environment(
    dag_of: Any, clusters: Clusters, tmp_path: Path
) -> None:
    dag = dag_of(HERE / "dags" / "failing_tasks.py", "failing_tasks")
    a_run(dag, "over", "failed")
    a_run(dag, "busy", "running")
    over, busy = clusters.of_run("over"), clusters.of_run("busy")
    airflow = {"AIRFLOW_HOME": os.environ["AIRFLOW_HOME"]}

    looked = emr_etl(tmp_path, "--dry-run", "--format", "json", **airflow)
    assert looked.returncode == 0, looked.stderr
    rows = {row["cluster_id"]: row for row in json.loads(looked.stdout)}
    assert (rows[over]["action"], rows[busy]["action"]) == ("would end", "kept")
    assert clusters.state(over) in GOING

    done = emr_etl(tmp_path, **airflow)
    assert done.returncode == 0, done.stderr
    assert over in done.stdout
    assert "its run has ended (failed)" in done.stdout
    assert clusters.state(over) in ENDING
    assert clusters.state(busy) in GOING


def test_the_command_without_an_airflow_judges_by_age_and_idleness(
    clusters: Clusters, tmp_path: Path
) -> None:
    of_run = clusters.of_run("over")
    lineage = Scope("pool", "p", "").lineage
    pool = {TAG_POOL: "shared", TAG_LINEAGE: lineage, TAG_MAX_IDLE: "3600", TAG_MAX_AGE: "0"}
    idle = clusters.make(ClusterMark(lineage, "0badcafe").on("pooled"), pool)
    protected = clusters.of_run("over", dag_id="protected", **{TAG_MAX_AGE: "0"})
    clusters.emr.set_termination_protection(JobFlowIds=[protected], TerminationProtected=True)
    clusters.wait_until(idle, "WAITING")

    done = emr_etl(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no Airflow is configured here" in done.stderr
    assert {each.name for each in tmp_path.iterdir()} == set(), "it made itself an Airflow home"
    assert clusters.state(idle) in ENDING
    assert clusters.state(of_run) in GOING
    assert clusters.state(protected) in GOING
    assert "protected" in done.stdout

    forced = emr_etl(tmp_path, "--lift-protection", "--max-age", "1s")
    assert forced.returncode == 0, forced.stderr
    assert clusters.state(protected) in ENDING
    assert clusters.state(of_run) in ENDING


def test_the_command_does_not_make_a_database(clusters: Clusters, tmp_path: Path) -> None:
    (tmp_path / "airflow.cfg").write_text("[core]\nload_examples = False\n")
    told = emr_etl(tmp_path, "--dry-run", AIRFLOW_HOME=str(tmp_path))
    assert told.returncode == 0, told.stderr
    assert "airflow.db is not there" in told.stderr
    assert not (tmp_path / "airflow.db").exists()


@pytest.mark.parametrize("option", ["--max-age", "--max-idle"])
def test_a_limit_that_is_none_is_refused(tmp_path: Path, option: str) -> None:
    told = emr_etl(tmp_path, option, "soon")
    assert told.returncode == 1
    assert "'soon' is not a duration" in told.stderr


def test_a_region_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    told = emr_etl(
        tmp_path,
        AWS_ENDPOINT_URL="http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="a",
        AWS_SECRET_ACCESS_KEY="b",
        AWS_DEFAULT_REGION="us-east-1",
    )
    assert told.returncode == 1
    assert "emr:ListClusters" in told.stderr


def test_airflow_retries_what_can_pass_and_nothing_else(dag_of: Any) -> None:
    run = dag_of(HERE / "dags" / "failing_tasks.py", "failing_tasks").test(logical_date=DAY)

    tries = {ti.task_id: (str(ti.state), ti.try_number) for ti in run.get_task_instances()}
    assert tries == {
        "operator_lost": ("failed", 3),
        "python_lost": ("failed", 3),
        "operator_failed": ("failed", 1),
        "python_failed": ("failed", 1),
    }
