"""The official provider's operators, unmodified, against local AWS."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from airflow_emr_etl.cli.airflow_home import AirflowHome
from airflow_emr_etl.cli.demo.runs import run_days
from airflow_emr_etl.local.stack import LocalAws

DAGS = Path(__file__).parent / "dags"


@pytest.mark.spark
def test_a_dag_of_official_operators_runs_unmodified(local_aws: LocalAws, tmp_path: Path) -> None:
    home = AirflowHome(tmp_path, DAGS, local_aws.env())
    home.prepare()

    runs = run_days(
        home, ["2026-01-05"], dag_id="official_operators", folder=tmp_path / "runs", console=Console()
    )

    run = runs.days["2026-01-05"]
    assert {name: task.state for name, task in run.tasks.items()} == dict.fromkeys(
        ("prepare", "create", "add", "wait", "terminate", "query", "result"), "success"
    ), run.failures
    assert run.values["result"] == {"total": 45}
    records = run.values["query"][0]["Records"]
    assert records == [[{"longValue": 2}]]
