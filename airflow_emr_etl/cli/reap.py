"""``emr-etl reap``: end the EMR clusters that nobody needs any more."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import Annotated, Any

import typer

from airflow_emr_etl.cli.airflow_runs import AirflowRuns
from airflow_emr_etl.exceptions import ConfigurationError, EmrEtlError
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_reaper import Action, EmrReaper, Reaping, raise_failures
from airflow_emr_etl.models.duration import duration, told
from airflow_emr_etl.models.reaping import Limits, RunState


class ReapFormat(enum.StrEnum):
    TABLE = "table"
    JSON = "json"


def reap(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would end.")] = False,
    max_age: Annotated[
        str | None, typer.Option(help="End clusters older than this too, such as 24h.", show_default=False)
    ] = None,
    max_idle: Annotated[
        str | None,
        typer.Option(
            help="End clusters without work for longer than this too, such as 1h.", show_default=False
        ),
    ] = None,
    lift_protection: Annotated[
        bool, typer.Option("--lift-protection", help="End clusters with termination protection too.")
    ] = False,
    region: Annotated[str | None, typer.Option(help="AWS region.", show_default="boto3's")] = None,
    site: Annotated[
        str | None,
        typer.Option(
            help="The Airflow whose clusters these are; else the one that is asked.", show_default=False
        ),
    ] = None,
    runs: Annotated[
        bool, typer.Option(help="Ask the Airflow of this environment which runs are over.")
    ] = True,
    format: Annotated[ReapFormat, typer.Option(help="How to show the clusters.")] = ReapFormat.TABLE,
) -> None:
    """End clusters of this package whose run is over, or whose age or idleness is past its limit; never others.

    Exit code 1 when a cluster could not be dealt with.
    """
    try:
        limits = Limits(_duration(max_age), _duration(max_idle))
        airflow = _airflow() if runs else None
        own_site = airflow.site if airflow is not None and site is None else site
        reaper = EmrReaper(
            _Boto3Clients(None, region),
            airflow or _unasked,
            site=own_site,
            limits=limits,
            lift_protection=lift_protection,
        )
        done = reaper.reap(dry_run=dry_run)
        if format is ReapFormat.JSON:
            typer.echo(json.dumps([each.document() for each in done], indent=1))
        else:
            _show(done)
        raise_failures(done)
    except EmrEtlError as error:
        typer.echo(f"emr-etl: {error}", err=True)
        raise typer.Exit(1) from error


class _Boto3Clients(EmrClients):
    """Without an Airflow connection: the credentials of the shell, as for every other command."""

    @cached_property
    def reads(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "total_max_attempts": 5}, connect_timeout=10, read_timeout=60
        )
        return boto3.client("emr", region_name=self.region_name, config=config)


def _airflow() -> AirflowRuns | None:
    try:
        return AirflowRuns()
    except ConfigurationError as error:
        typer.echo(
            f"Runs are not asked for: {error}. Clusters are judged by age and idleness alone.", err=True
        )
        return None


def _unasked(dag_id: str, run_id: str) -> RunState:
    return RunState.UNKNOWN


def _duration(text: str | None) -> timedelta | None:
    return None if text is None else duration(text)


def _show(done: Sequence[Reaping]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    styles = {Action.KEPT: "dim", Action.FAILED: "red", Action.PROTECTED: "yellow"}
    console = Console()
    if not done:
        console.print("There is no live cluster of ours.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("cluster", "name", "of", "state", "age", "idle", "action", "why"):
        table.add_column(heading, overflow="fold")
    table.add_column("instance hours", justify="right")
    if any(each.cost_usd is not None for each in done):
        table.add_column("cost, USD", justify="right")
    for each in done:
        seen = each.candidate
        cells = [
            each.cluster_id,
            each.name,
            _whose(each),
            seen.state.value if seen else "",
            told(each.age) if each.age is not None else "",
            told(each.idle) if each.idle is not None else "",
            each.action.value,
            each.why,
            "" if seen is None or seen.instance_hours is None else str(seen.instance_hours),
        ]
        if each.cost_usd is not None:
            cells.append(f"{each.cost_usd:.2f}")
        table.add_row(*map(escape, cells), style=styles.get(each.action, "bold"))
    # Ids must be whole where the output goes to a file or another program.
    console.print(table) if console.is_terminal else Console(width=200).print(table)
    ended = sum(each.action in (Action.ENDED, Action.WOULD_END) for each in done)
    verb = "would end" if any(each.action is Action.WOULD_END for each in done) else "ended"
    console.print(f"{ended} {verb}, of {len(done)} clusters of ours")


def _whose(each: Reaping) -> str:
    seen = each.candidate
    if seen is None:
        return ""
    if seen.pool is not None:
        return f"pool {seen.pool}"
    return " / ".join(text for text in (*(seen.run or ()), seen.task_id) if text)
