"""``emr-etl logs``: access logs to run the pipeline on."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from airflow_emr_etl.clickstream.generator import MINIMUM_LINES, generate
from airflow_emr_etl.clickstream.split import split_logs
from airflow_emr_etl.exceptions import EmrEtlError

app = typer.Typer(no_args_is_help=True, help="Access logs: make some up, or cut your own into days.")


@app.command("generate")
def generate_logs(
    start: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="First day.")],
    output: Annotated[Path, typer.Option(help="Folder to write to.")],
    days: Annotated[int, typer.Option(min=1, help="How many days.")] = 3,
    lines: Annotated[int, typer.Option(min=MINIMUM_LINES, help="Lines a day.")] = 200_000,
    seed: Annotated[int, typer.Option(help="Another seed gives other visitors.")] = 7,
) -> None:
    """Make up raw access logs; the same options give the same bytes. Writes OUTPUT/<day>/<server>.log[.gz]."""
    try:
        for day in generate(start.date(), days, lines, seed):
            written = day.write(output)
            typer.echo(f"{day.day}  {day.lines} lines in {len(written)} files in {written[0].parent}")
    except (EmrEtlError, OSError) as error:
        _fail(error)


@app.command("split")
def split(
    logs: Annotated[list[Path], typer.Argument(help="Log files, plain or gzip, of any days.")],
    output: Annotated[Path, typer.Option(help="Folder to write to.")],
) -> None:
    """Cut log files into one file for each UTC day. Writes OUTPUT/<day>/<name>.gz."""
    try:
        done = split_logs(logs, output)
    except (EmrEtlError, OSError) as error:
        _fail(error)
    for day, files in done.outputs.items():
        typer.echo(f"{day}  {sum(files.values())} lines in {len(files)} files in {output / day.isoformat()}")


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"emr-etl: {error}", err=True)
    raise typer.Exit(1) from error
