"""A Postgres for Airflow: a dozen processes write to its database, and SQLite lets them wait for minutes.

SQLite also gives the id of a deleted trigger to the next one, which a triggerer may then take for the old one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import psycopg

from airflow_emr_etl.local.redshift.engine import Engine

_NAME = "airflow"


class AirflowDatabase:
    """The server that local Redshift runs on, with a plain database in it. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._engine = Engine(folder)
        self._address = ""

    def __enter__(self) -> AirflowDatabase:
        self._engine.open()
        try:
            with self._engine.connect("postgres", admin=True) as admin:
                # From template0: nothing of Redshift in it.
                admin.execute(f"CREATE DATABASE {_NAME} TEMPLATE template0")
                admin.execute(f"ALTER DATABASE {_NAME} SET default_transaction_isolation = 'read committed'")
                info = admin.info
                self._address = (
                    f"{info.user}:{quote(info.password, safe='')}@/{_NAME}?host={quote(info.host)}"
                )
        except BaseException:
            self._engine.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._engine.stop()

    def environment(self) -> dict[str, str]:
        """The variables that lead Airflow here."""
        return {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg://{self._address}",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+psycopg_async://{self._address}",
        }

    def let_trigger_time_run_out(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Make now the time at which Airflow itself gives up a deferred task."""
        self._change(
            "UPDATE task_instance SET trigger_timeout = %s WHERE dag_id = %s AND run_id = %s AND task_id = %s",
            *(dag_id, run_id, task_id),
        )

    def let_run_time_run_out(self, dag_id: str, run_id: str) -> None:
        """Make a run look so old that its ``dagrun_timeout`` is over."""
        self._change("UPDATE dag_run SET start_date = %s WHERE dag_id = %s AND run_id = %s", dag_id, run_id)

    def _change(self, statement: str, *values: str) -> None:
        past = datetime.now(UTC) - timedelta(days=2)
        with psycopg.connect(f"postgresql://{self._address}") as connection:
            changed = connection.execute(statement.encode(), (past, *values)).rowcount
        assert changed == 1, statement
