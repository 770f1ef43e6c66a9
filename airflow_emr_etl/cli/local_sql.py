"""``emr-etl local sql``: a query against local Redshift, through its Data API like any other client's."""

from __future__ import annotations

import csv
import enum
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from airflow_emr_etl.exceptions import EmrEtlError, LocalAwsError
from airflow_emr_etl.local.state import DEFAULT_STATE, REGION, StateFolder

_WORKGROUP = "local"
_LONG_POLL_SECONDS = 20
_POLL_SECONDS = 0.1


class OutputFormat(enum.StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def sql(
    statement: Annotated[
        str, typer.Argument(help="One SQL statement in Redshift's dialect; - reads it from stdin.")
    ],
    output: Annotated[
        OutputFormat, typer.Option("--format", help="How rows are printed.")
    ] = OutputFormat.TABLE,
    state: Annotated[
        Path,
        typer.Option(
            "--state", envvar="EMR_ETL_LOCAL_STATE", help="Folder that local AWS keeps its state in."
        ),
    ] = DEFAULT_STATE,
    database: Annotated[str, typer.Option("--database", help="Created on its first use.")] = "dev",
) -> None:
    """Run one SQL statement on local Redshift and print its rows."""
    text = sys.stdin.read() if statement == "-" else statement
    try:
        names, rows, affected = run(text, _client(state), database)
    except EmrEtlError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    if names is None:
        typer.echo(f"OK{f', {affected} rows' if affected >= 0 else ''}")
    else:
        typer.echo(render(names, rows, output), nl=False)


def _client(state: Path) -> Any:
    """The client of the instance that serves the folder; without one, of ``AWS_ENDPOINT_URL``."""
    import boto3
    from botocore.config import Config

    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    instance = StateFolder(state).read()
    if instance is not None and instance.is_running:
        return boto3.client(
            "redshift-data",
            endpoint_url=instance.endpoint_url,
            aws_access_key_id=instance.access_key,
            aws_secret_access_key=instance.secret_key,
            region_name=REGION,
            config=Config(proxies={}),  # not None, which would take the caller's proxy
        )
    if endpoint:
        return boto3.client(
            "redshift-data", endpoint_url=endpoint, region_name=os.environ.get("AWS_REGION", REGION)
        )
    raise LocalAwsError(
        f"Local AWS is not running with its state in {state}. Start it (emr-etl local start), or name another "
        "folder with --state."
    )


def run(text: str, client: Any, database: str) -> tuple[list[str] | None, list[list[Any]], int]:
    """Column names (None for a statement without a result), rows, and how many rows it changed (-1: none).

    Raises LocalAwsError with what Redshift, or the connection, says.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        request = {"Sql": text, "Database": database, "WorkgroupName": _WORKGROUP}
        description = client.execute_statement(**request)
        description = _look(client, description["Id"])
        while description["Status"] not in ("FINISHED", "FAILED", "ABORTED"):
            description = _look(client, description["Id"])
        if description["Status"] != "FINISHED":
            raise LocalAwsError(str(description.get("Error", description["Status"])))
        if not description["HasResultSet"]:
            return None, [], int(description.get("ResultRows", -1))
        return _result(client, description["Id"])
    except ClientError as error:
        raise LocalAwsError(error.response["Error"].get("Message") or str(error)) from error
    except BotoCoreError as error:
        raise LocalAwsError(f"Local AWS does not answer: {error}") from error


def _look(client: Any, statement_id: str) -> dict[str, Any]:
    members = client.meta.service_model.operation_model("DescribeStatement").input_shape.members
    if "WaitTimeSeconds" in members:
        found: dict[str, Any] = client.describe_statement(Id=statement_id, WaitTimeSeconds=_LONG_POLL_SECONDS)
        return found
    time.sleep(_POLL_SECONDS)
    plain: dict[str, Any] = client.describe_statement(Id=statement_id)
    return plain


def _result(client: Any, statement_id: str) -> tuple[list[str], list[list[Any]], int]:
    names: list[str] = []
    rows: list[list[Any]] = []
    request = {"Id": statement_id}
    while True:
        page = client.get_statement_result(**request)
        names = [column["name"] for column in page["ColumnMetadata"]]
        for record in page["Records"]:
            rows.append([None if field.get("isNull") else next(iter(field.values())) for field in record])
        if not page.get("NextToken"):
            return names, rows, -1
        request["NextToken"] = page["NextToken"]


def render(names: list[str], rows: list[list[Any]], output: OutputFormat) -> str:
    """The rows as text that ends in a newline."""
    if output is OutputFormat.JSON:
        return json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2, default=str) + "\n"
    if output is OutputFormat.CSV:
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([["" if value is None else _text(value) for value in row] for row in rows])
        return sink.getvalue()
    cells = [names, *([["" if value is None else _text(value) for value in row] for row in rows])]
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    numeric = [
        all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(names))
    ]
    lines = [_line(names, widths, [False] * len(names)), "-+-".join("-" * width for width in widths)]
    lines += [_line(row, widths, numeric) for row in cells[1:]]
    lines.append(f"({len(rows)} row{'' if len(rows) == 1 else 's'})")
    return "\n".join(lines) + "\n"


def _line(row: list[str], widths: list[int], right: list[bool]) -> str:
    padded = (
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(row, widths, right, strict=True)
    )
    return " | ".join(padded).rstrip()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).replace("\n", "\\n")
