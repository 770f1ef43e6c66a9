"""An Airflow of its own under the state folder of local AWS: its environment and its database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from airflow_emr_etl.exceptions import ConfigurationError, LocalAwsError

# Whatever the caller's shell says about another Airflow or a real AWS account must not reach this one.
_FOREIGN = ("AIRFLOW_", "_AIRFLOW", "AWS_", "BOTO_", "SPARK_", "PYSPARK_", "PYTHONPATH", "OPENLINEAGE_")


class AirflowHome:
    """``<state>/airflow``, holding ``airflow.cfg``, a SQLite database and the logs.

    :param state: the state folder of local AWS.
    :param dags: the folder of DAG files.
    :param aws: the variables that lead to local AWS (what ``emr-etl local env`` prints).
    """

    def __init__(self, state: Path, dags: Path, aws: Mapping[str, str]) -> None:
        self.path = state.resolve() / "airflow"
        self.dags = dags.resolve()
        self.aws = dict(aws)
        if not self.dags.is_dir():
            raise ConfigurationError(
                f"There is no folder of DAGs at {self.dags}. Run this from a checkout of the repository, "
                "or name the folder with --dags."
            )

    def environment(self, **settings: str) -> dict[str, str]:
        """A whole process environment; ``settings`` are further ``AIRFLOW__SECTION__KEY`` values."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
        return {
            **kept,
            "AIRFLOW_HOME": str(self.path),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.path}/airflow.db?timeout=60",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.path / "logs"),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "PYTHONWARNINGS": "ignore",
            **self.aws,
            **settings,
        }

    def prepare(self) -> bool:
        """Create or upgrade the database; True when there was work to do.

        Skipped when it was done before by this version of Airflow, since the check alone takes seconds.
        """
        from importlib.metadata import version

        stamp = self.path / ".migrated"
        current = version("apache-airflow-core")
        if stamp.exists() and stamp.read_text() == current and (self.path / "airflow.db").exists():
            return False
        self.path.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LocalAwsError(f"Airflow could not make its database in {self.path}:\n{done.stderr[-2000:]}")
        stamp.write_text(current)
        return True
