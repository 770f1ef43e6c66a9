"""The Amazon provider's documented example on local AWS, with its own imports and with ours: one line each differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest
from rich.console import Console

from airflow_emr_etl.cli.airflow_home import AirflowHome
from airflow_emr_etl.cli.demo.runs import run_days
from airflow_emr_etl.local.stack import LocalAws
from airflow_emr_etl.models.intent import without_mark

EXAMPLE = Path(__file__).parent / "dags" / "official_example.py"
OFFICIAL = {f"from airflow.providers.amazon.aws.{layer}.emr import" for layer in ("operators", "sensors")}


def swapped(text: str) -> str:
    """The DAG with this package's operators and sensors in place of the official ones."""
    for line in OFFICIAL:
        assert text.count(line) == 1
        text = text.replace(line, line.replace("airflow.providers.amazon.aws", "airflow_emr_etl"))
    return text


def test_only_the_import_lines_differ() -> None:
    before = EXAMPLE.read_text().splitlines()
    after = swapped(EXAMPLE.read_text()).splitlines()
    changed = [old for old, new in zip(before, after, strict=True) if old != new]
    assert [line.startswith("from airflow.providers.amazon.aws.") for line in changed] == [True, True]


@pytest.mark.spark
@pytest.mark.parametrize("whose", [pytest.param("theirs", marks=pytest.mark.slow), "ours"])
def test_the_example_runs(aws_environment: LocalAws, tmp_path: Path, whose: str) -> None:
    emr: Any = boto3.client("emr")
    known = {cluster["Id"] for cluster in emr.list_clusters()["Clusters"]}
    dags = tmp_path / "dags"
    dags.mkdir()
    text = EXAMPLE.read_text()
    (dags / EXAMPLE.name).write_text(text if whose == "theirs" else swapped(text))
    home = AirflowHome(tmp_path, dags, aws_environment.env())
    home.prepare()

    runs = run_days(
        home, ["2026-01-05"], dag_id="official_example", folder=tmp_path / "runs", console=Console()
    )

    run = runs.days["2026-01-05"]
    assert run.state == "success", run.failures
    assert {task.state for task in run.tasks.values()} == {"success"}
    [cluster] = [each for each in emr.list_clusters()["Clusters"] if each["Id"] not in known]
    assert without_mark(cluster["Name"]) == "PiCalc"
    assert (cluster["Name"] == "PiCalc") == (whose == "theirs")
    assert cluster["Status"]["State"] == "TERMINATED"
    assert run.values["create_job_flow"] == cluster["Id"]
    assert run.values["modify_cluster"] == 1
    steps = emr.list_steps(ClusterId=cluster["Id"])["Steps"]
    assert [(without_mark(step["Name"]), step["Status"]["State"]) for step in steps] == [
        ("calculate_pi", "COMPLETED"),
        ("calculate_pi", "COMPLETED"),
    ]
    assert run.values["add_steps"] == [steps[0]["Id"]]
