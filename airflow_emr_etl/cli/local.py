"""``emr-etl local``: local AWS from the command line."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import shlex
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.state import DEFAULT_STATE, StateFolder

app = typer.Typer(no_args_is_help=True, help="AWS on this machine: S3, EMR that runs its steps, Redshift.")

State = Annotated[
    Path, typer.Option("--state", envvar="EMR_ETL_LOCAL_STATE", help="Folder that holds everything it keeps.")
]
NOT_RUNNING = 3
_FOLLOW_SECONDS = 0.25


class EnvFormat(enum.StrEnum):
    SHELL = "shell"
    JSON = "json"


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """A LocalAwsError ends the command with its message on stderr and exit code 1."""
    try:
        yield
    except LocalAwsError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def start(
    state: State = DEFAULT_STATE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: the port of last time, else any.")] = 0,
    access_key: Annotated[
        str | None, typer.Option("--access-key", help="Use this key instead of the folder's own.")
    ] = None,
) -> None:
    """Start local AWS in the background and wait until it answers."""
    from airflow_emr_etl.local import daemon

    with plain_errors():
        started = daemon.start(state, port, access_key)
    for notice in started.notices:
        typer.echo(f"Notice: {notice}", err=True)
    instance = started.instance
    verb = "runs already" if started.was_running else "is up"
    typer.echo(f"Local AWS {verb} at {instance.endpoint_url} (pid {instance.pid}, state in {state})")
    option = "" if state == DEFAULT_STATE else f" --state {shlex.quote(str(state))}"
    typer.echo(f'Use it in this shell: eval "$(emr-etl local env{option})"')


@app.command()
def stop(state: State = DEFAULT_STATE) -> None:
    """Stop it, with every step and database that it runs. What it keeps stays in the state folder."""
    from airflow_emr_etl.local import daemon

    with plain_errors():
        stopped = daemon.stop(state)
    if stopped is None:
        typer.echo(f"Local AWS was not running (state in {state})")
    else:
        typer.echo(f"Local AWS at {stopped.endpoint_url} has stopped")


@app.command()
def status(state: State = DEFAULT_STATE) -> None:
    """Show whether it runs: exit code 0 when it does, 3 when it does not."""
    from rich.console import Console
    from rich.table import Table

    from airflow_emr_etl.local import daemon

    folder = StateFolder(state)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    with plain_errors():
        instance = folder.read()
        running = instance is not None and instance.is_running
        if instance is None or not running:
            table.add_row("status", "not running")
            table.add_row("state", str(folder.path))
        else:
            answer = daemon.health(instance)
            table.add_row("status", "running")
            table.add_row("endpoint", instance.endpoint_url)
            table.add_row("pid", str(instance.pid))
            table.add_row("services", f"{', '.join(answer['services'])} and the small ones")
            if count := answer.get("faults"):
                table.add_row("faults", f"{count} set up on purpose (emr-etl local faults list)")
            table.add_row("state", str(folder.path))
            table.add_row("log", str(folder.log_file))
    Console().print(table)
    if not running:
        raise typer.Exit(NOT_RUNNING)


@app.command()
def env(
    state: State = DEFAULT_STATE,
    format: Annotated[EnvFormat, typer.Option(help="shell: export lines for eval.")] = EnvFormat.SHELL,
) -> None:
    """Print what points boto3, the AWS CLI and Airflow at it: eval "$(emr-etl local env)"."""
    with plain_errors():
        variables = StateFolder(state).running().env()
    if format is EnvFormat.JSON:
        typer.echo(json.dumps(variables, indent=1))
    else:
        for name, value in variables.items():
            typer.echo(f"export {name}={shlex.quote(value)}")


@app.command()
def logs(
    state: State = DEFAULT_STATE,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it stops, or Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 100,
) -> None:
    """Show the log of the server."""
    folder = StateFolder(state)
    with plain_errors():
        try:
            file = folder.log_file.open(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            raise LocalAwsError(f"There is no log yet: {folder.log_file}") from None
        with file, contextlib.suppress(KeyboardInterrupt):
            for line in deque(file, maxlen=lines):
                typer.echo(line, nl=False)
            while follow:
                instance = folder.read()
                running = instance is not None and instance.is_running
                if text := file.read():
                    typer.echo(text, nl=False)
                elif not running or _was_rotated(file.fileno(), folder.log_file):
                    break
                else:
                    time.sleep(_FOLLOW_SECONDS)


def _was_rotated(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino != path.stat().st_ino
    except FileNotFoundError:
        return True


def _register() -> None:
    from airflow_emr_etl.cli.local_faults import faults
    from airflow_emr_etl.cli.local_sql import sql

    app.command()(sql)
    app.add_typer(faults, name="faults")


_register()
