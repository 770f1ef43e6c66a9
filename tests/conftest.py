"""Shared by all tests: an Airflow home of their own, no way to a real AWS account, one local AWS."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_emr_etl.local.stack import LocalAws

# Before anything imports Airflow or boto3: both read these once.
_HOME = tempfile.TemporaryDirectory(prefix="emr-etl-tests-")
for _name in [name for name in os.environ if name.startswith(("AIRFLOW_", "_AIRFLOW", "AWS_", "PYSPARK_"))]:
    if _name != "AWS_CA_BUNDLE":
        del os.environ[_name]
os.environ |= {
    "AIRFLOW_HOME": _HOME.name,
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}

ROOT = Path(__file__).resolve().parent.parent
REAL_LOG = ROOT.parent / "shared" / "data" / "access-2015-05.log.gz"


@pytest.fixture(scope="session")
def local_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    """One local AWS for the session, served over HTTP from this process. Tests make buckets of their own."""
    from airflow_emr_etl.local.stack import LocalAws

    with LocalAws(tmp_path_factory.mktemp("local-aws")) as stack:
        yield stack


@pytest.fixture
def aws_environment(local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> LocalAws:
    """Points boto3 and Airflow's AWS hooks of this process at ``local_aws``."""
    for name, value in local_aws.env().items():
        monkeypatch.setenv(name, value)
    return local_aws


@pytest.fixture(scope="session")
def real_log() -> Path:
    """A real web server's access log, kept beside the repository and not in it."""
    if not REAL_LOG.is_file():
        pytest.skip(f"the real log is not there: {REAL_LOG}")
    return REAL_LOG
