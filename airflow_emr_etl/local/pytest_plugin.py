"""A pytest plugin: local AWS for a project's own tests, with faults.

Loaded by pytest wherever this package is installed; ``-p no:emr_etl_local`` keeps it out. A project's own
``conftest.py`` may replace each fixture by one of the same name. Nothing starts until a test asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_emr_etl.local.fault_control import LocalFaults
    from airflow_emr_etl.local.stack import LocalAws


@pytest.fixture(scope="session")
def local_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    """One local AWS for the session, served over HTTP from this process. Tests make buckets of their own."""
    from airflow_emr_etl.local.stack import LocalAws

    with LocalAws(tmp_path_factory.mktemp("local-aws")) as stack:
        yield stack


@pytest.fixture
def local_aws_environment(local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> LocalAws:
    """Points boto3, and Airflow's AWS hooks, of this process at ``local_aws`` while the test runs."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in local_aws.env().items():
        monkeypatch.setenv(name, value)
    return local_aws


@pytest.fixture
def local_aws_faults(local_aws: LocalAws) -> Iterator[LocalFaults]:
    """Lets calls and clusters of ``local_aws`` go wrong while the test runs; all is well again after it."""
    faults = local_aws.faults
    faults.clear()
    yield faults
    faults.clear()
