"""What the Airflow of this environment says of its runs, read from its database."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.reaping import RunState

_SETTING = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


def is_configured(environment: Mapping[str, str]) -> bool:
    """Whether this environment has an Airflow, found without importing it: that alone would make it a home."""
    if any(name.startswith(_SETTING) for name in environment):
        return True
    home = Path(environment.get("AIRFLOW_HOME") or "~/airflow").expanduser()
    return (home / "airflow.cfg").is_file() or (home / "airflow.db").is_file()


class AirflowRuns:
    """The runs in the database of this environment's Airflow. Called with ``(dag_id, run_id)``.

    Raises:
        ConfigurationError: no Airflow is configured here, or its database does not answer.
    """

    def __init__(self) -> None:
        if not is_configured(os.environ):
            raise ConfigurationError(
                f"no Airflow is configured here (set AIRFLOW_HOME or {_SETTING} to ask one for its runs)"
            )
        try:
            # Airflow logs to what is standard output when it is first imported; that is for the answer alone.
            with contextlib.redirect_stdout(sys.stderr):
                self._create_session = _session_factory()
                self._known("")
        except ConfigurationError:
            raise
        except Exception as error:
            # Airflow, SQLAlchemy and the drivers each have errors of their own for a database that fails.
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise ConfigurationError(f"Airflow's database does not answer ({said[0]})") from error

    @property
    def site(self) -> str:
        """This Airflow's name, as its operators write it on clusters."""
        from airflow_emr_etl.operators.base import site

        return site()

    def __call__(self, dag_id: str, run_id: str) -> RunState:
        from airflow.models.dagrun import DagRun
        from sqlalchemy import select
        from sqlalchemy.exc import SQLAlchemyError

        wanted = select(DagRun.state).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
        try:
            with self._create_session() as session:
                state = session.scalar(wanted)
            if state is not None:
                return RunState.of(str(getattr(state, "value", state)))
            return RunState.GONE if self._known(dag_id) else RunState.UNKNOWN
        except SQLAlchemyError:
            return RunState.UNKNOWN

    def _known(self, dag_id: str) -> bool:
        """Whether there is any run of the DAG."""
        from airflow.models.dagrun import DagRun
        from sqlalchemy import select

        with self._create_session() as session:
            return session.scalar(select(DagRun.id).where(DagRun.dag_id == dag_id).limit(1)) is not None


def _session_factory() -> Any:
    from airflow import settings
    from airflow.configuration import conf
    from airflow.utils.session import create_session
    from sqlalchemy.engine import make_url

    url = make_url(conf.get("database", "sql_alchemy_conn"))
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        # Connecting would make an empty one.
        raise ConfigurationError(f"Airflow's database {url.database} is not there")
    if settings.Session is None:
        settings.configure_orm()  # type: ignore[no-untyped-call]
    return create_session
