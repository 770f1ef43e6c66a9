"""``emr-etl jobs``: the Spark jobs that ship with this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from airflow_emr_etl.exceptions import EmrEtlError
from airflow_emr_etl.spark.package import JOBS, build_package

app = typer.Typer(no_args_is_help=True, help="The Spark jobs: list, pack, upload.")


@app.command("list")
def list_jobs() -> None:
    """List the jobs."""
    for job in JOBS.values():
        typer.echo(f"{job.name:24} {job.summary}")


@app.command()
def package(output: Annotated[Path, typer.Option(help="Folder to write to.")]) -> None:
    """Write the zip and the entry scripts to OUTPUT/jobs/<digest>/."""
    try:
        folder = build_package().write(output)
    except (EmrEtlError, OSError) as error:
        _fail(error)
    for path in sorted(folder.iterdir()):
        typer.echo(str(path))


@app.command()
def upload(prefix: Annotated[str, typer.Argument(help="s3://bucket/prefix/")]) -> None:
    """Upload the zip and the entry scripts to PREFIX/jobs/<digest>/, where they are not there yet."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    built = build_package()
    try:
        location = built.upload(boto3.client("s3"), prefix)
    except (EmrEtlError, BotoCoreError, ClientError) as error:
        _fail(error)
    typer.echo(location.archive_uri)
    for job in JOBS:
        typer.echo(location.entry_uri(job))


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"emr-etl: {error}", err=True)
    raise typer.Exit(1) from error
