"""The ``emr-etl`` command."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Pipelines on Amazon EMR.")


def _register() -> None:
    from airflow_emr_etl.cli.demo.command import demo
    from airflow_emr_etl.cli.events import app as events_app
    from airflow_emr_etl.cli.jobs import app as jobs_app
    from airflow_emr_etl.cli.local import app as local_app
    from airflow_emr_etl.cli.logs import app as logs_app
    from airflow_emr_etl.cli.quality import app as quality_app
    from airflow_emr_etl.cli.reap import reap
    from airflow_emr_etl.cli.standalone import down, up

    app.command()(demo)
    app.command()(up)
    app.command()(down)
    app.command()(reap)
    app.add_typer(local_app, name="local")
    app.add_typer(events_app, name="events")
    app.add_typer(jobs_app, name="jobs")
    app.add_typer(logs_app, name="logs")
    app.add_typer(quality_app, name="quality")


_register()
