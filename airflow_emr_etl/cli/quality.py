"""``emr-etl quality``: suites for the quality gate."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from airflow_emr_etl.exceptions import EmrEtlError, MissingInputError

app = typer.Typer(no_args_is_help=True, help="The quality gate: propose suites.")


@app.callback()
def quality() -> None:
    """Keeps ``suggest`` a command of its own."""


@app.command()
def suggest(
    data: Annotated[
        str, typer.Argument(help="A folder of Parquet, or a manifest (….json): a path, or s3://….")
    ],
    dataset: Annotated[
        str, typer.Option(help="Its name; default: what the manifest or the folder is called.")
    ] = "",
    output: Annotated[Path | None, typer.Option(help="File to write to; default: standard output.")] = None,
) -> None:
    """Profile a dataset with Spark and propose a suite that holds on it."""
    try:
        text = _suggested(data, dataset)
        if output is None:
            typer.echo(text, nl=False)
        else:
            output.write_text(text, encoding="utf-8")
            typer.echo(f"{output}: {text.count('    - ')} rules")
    except (EmrEtlError, OSError) as error:
        _fail(error)


def _suggested(data: str, dataset: str) -> str:
    from pyspark.sql import SparkSession

    from airflow_emr_etl.local.java import find_java
    from airflow_emr_etl.quality.suggestion import profile, suggest
    from airflow_emr_etl.spark.bare_parquet import describe
    from airflow_emr_etl.spark.dataset import read_manifest
    from airflow_emr_etl.spark.session import configure

    uri = data if "://" in data else f"file://{Path(data).resolve()}"
    with tempfile.TemporaryDirectory(prefix="emr-etl-java-") as folder:
        os.environ.setdefault("JAVA_HOME", str(find_java(Path(folder)).home))
        builder = SparkSession.builder.appName("quality suggest").config("spark.ui.enabled", "false")
        spark = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
        try:
            spark.sparkContext.setLogLevel("ERROR")
            configure(spark)
            name = dataset or re.sub("[^A-Za-z0-9_]", "_", _called(uri))
            manifest = read_manifest(spark, uri) if uri.endswith(".json") else describe(spark, name, uri)
            if not manifest.urls:
                raise MissingInputError(
                    f"{uri} lists no file, so there is nothing to learn rules from", uri=uri
                )
            frame = spark.read.option("__globPaths__", "false").parquet(*manifest.urls)
            return suggest(dataset or manifest.dataset, profile(frame))
        finally:
            spark.stop()


def _called(uri: str) -> str:
    """The last part of a path that is no ``key=value``."""
    parts = [part for part in uri.rstrip("/").split("/") if part and "=" not in part]
    return parts[-1] if parts else "data"


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"emr-etl: {error}", err=True)
    raise typer.Exit(1) from error
