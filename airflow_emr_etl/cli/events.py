"""``emr-etl events``: the way by which EMR's events end the waits of deferred tasks."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import Annotated, NoReturn

import typer

from airflow_emr_etl.exceptions import EmrEtlError
from airflow_emr_etl.hooks.aws_errors import translate
from airflow_emr_etl.hooks.emr_events_setup import QUEUE, RULE, EmrEventsSetup, EventsPart

app = typer.Typer(
    no_args_is_help=True, help="EMR's events over EventBridge and SQS: waits end without asking."
)

_Rule = Annotated[str, typer.Option(help="EventBridge rule.")]
_Region = Annotated[str | None, typer.Option(help="AWS region.", show_default="boto3's")]


@app.command("setup")
def setup(
    queue: Annotated[
        list[str] | None,
        typer.Option(help="SQS queue, one for each triggerer; repeatable.", show_default=QUEUE),
    ] = None,
    rule: _Rule = RULE,
    topic: Annotated[
        str | None,
        typer.Option(help="SNS topic between the rule and more than five queues.", show_default=False),
    ] = None,
    region: _Region = None,
) -> None:
    """Make the rule and the queues that it feeds; can be repeated."""
    try:
        made = _events(region).setup(queue or [QUEUE], rule=rule, topic=topic)
    except EmrEtlError as error:
        _fail(error)
    _show(made)
    names = [part.name for part in made if part.kind == "queue"]
    typer.echo("\nSet it where Airflow's triggerer runs; each triggerer needs a queue to itself:")
    for name in names:
        typer.echo(f"  [emr_etl] events_queue = {name}    or    AIRFLOW__EMR_ETL__EVENTS_QUEUE={name}")


@app.command("teardown")
def teardown(
    queue: Annotated[
        list[str] | None,
        typer.Option(help="Also this queue, if it was made here; repeatable.", show_default=False),
    ] = None,
    rule: _Rule = RULE,
    region: _Region = None,
) -> None:
    """Remove the rule, and the queues and the topic that were made for it; others stay. Can be repeated."""
    try:
        parts = _events(region).teardown(rule=rule, queues=queue or [])
    except EmrEtlError as error:
        _fail(error)
    _show(parts)


@app.command("template")
def template() -> None:
    """Print a CloudFormation template that makes the same, and the policy that a triggerer needs."""
    text = resources.files("airflow_emr_etl.cli") / "templates" / "events.cloudformation.yaml"
    typer.echo(text.read_text(encoding="utf-8"), nl=False)


def _events(region: str | None) -> EmrEventsSetup:
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "total_max_attempts": 5}, connect_timeout=10, read_timeout=60
    )
    session = boto3.Session(region_name=region)
    try:
        return EmrEventsSetup(
            {
                "events": session.client("events", config=config),
                "sqs": session.client("sqs", config=config),
                "sns": session.client("sns", config=config),
            }
        )
    except Exception as error:  # no region, or a profile that is not there
        raise translate(error) from error


def _show(parts: Iterable[EventsPart]) -> None:
    for part in parts:
        typer.echo(f"{part.kind:<6} {part.name}: {part.done}{f' ({part.why})' if part.why else ''}")


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"emr-etl: {error}", err=True)
    raise typer.Exit(1) from error
