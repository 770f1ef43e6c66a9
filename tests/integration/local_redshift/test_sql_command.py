"""``emr-etl local sql``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from airflow_emr_etl.cli.local_sql import sql
from airflow_emr_etl.local.stack import LocalAws


def run(local: LocalAws, *arguments: str, stdin: str | None = None) -> Result:
    app = typer.Typer()
    app.command()(sql)
    return CliRunner().invoke(
        app, [*arguments, "--state", str(local.state), "--database", "cli"], input=stdin
    )


def test_rows_as_a_table(local_aws: LocalAws) -> None:
    shown = run(local_aws, "select 1 as n, 'a' as word union all select 20, null order by 1")
    assert shown.exit_code == 0
    assert shown.stdout == "n  | word\n---+-----\n 1 | a\n20 |\n(2 rows)\n"


def test_rows_as_csv_and_json(local_aws: LocalAws) -> None:
    query = "select 1 as n, 'a,b' as word, true as yes, null as no"
    assert run(local_aws, query, "--format", "csv").stdout == 'n,word,yes,no\n1,"a,b",true,\n'
    rows = json.loads(run(local_aws, query, "--format", "json").stdout)
    assert rows == [{"n": 1, "word": "a,b", "yes": True, "no": None}]


def test_a_statement_without_rows_and_one_from_stdin(local_aws: LocalAws) -> None:
    assert run(local_aws, "create table if not exists x (a int)").stdout == "OK\n"
    assert run(local_aws, "-", stdin="insert into x values (1), (2)").stdout == "OK, 2 rows\n"


def test_an_error_is_plain(local_aws: LocalAws) -> None:
    failed = run(local_aws, "select * from nowhere")
    assert failed.exit_code == 1
    assert failed.stdout == ""
    assert failed.stderr == 'Error: ERROR: relation "nowhere" does not exist\n'
    assert "Multiple statements" in run(local_aws, "select 1; select 2").stderr


def test_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    app = typer.Typer()
    app.command()(sql)
    failed = CliRunner().invoke(app, ["select 1", "--state", str(tmp_path)])
    assert failed.exit_code == 1
    assert "emr-etl local start" in failed.stderr
