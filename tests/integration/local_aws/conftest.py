"""Instances of local AWS without EMR and Redshift, which have tests of their own: these start in no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from airflow_emr_etl.local.stack import LocalAws

Connect = Callable[..., Any]


@pytest.fixture(scope="session")
def connect() -> Connect:
    """Makes a client of an instance. Without retries: an error is to be seen as it is."""

    def make(local: LocalAws, service: str, **options: Any) -> Any:
        return boto3.client(
            service,
            endpoint_url=local.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=options.pop("key", local.access_key),
            aws_secret_access_key=local.secret_key,
            config=Config(retries={"total_max_attempts": 1}, **options),
        )

    return make


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    with LocalAws(tmp_path_factory.mktemp("storage"), services=lambda _: []) as local:
        yield local


@pytest.fixture(scope="module")
def client(storage: LocalAws, connect: Connect) -> Connect:
    return lambda service, **options: connect(storage, service, **options)
