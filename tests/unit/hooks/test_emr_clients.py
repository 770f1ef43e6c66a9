"""Where the queue of EMR's events is named."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.hooks.emr import ConfiguredClients
from airflow_emr_etl.hooks.emr_client import EmrClients


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFNOBODY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")

    def with_extra(extra: Mapping[str, Any]) -> str:
        document = {"conn_type": "aws", "extra": {"region_name": "eu-west-1", **extra}}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_EVENTS", json.dumps(document))
        return "aws_events"

    return with_extra


@pytest.mark.parametrize("kind", [EmrClients, ConfiguredClients])
def test_none_is_named(connection: Any, kind: type[EmrClients]) -> None:
    assert kind(connection({})).events is None


@pytest.mark.parametrize("kind", [EmrClients, ConfiguredClients])
def test_the_configuration_names_one(
    connection: Any, monkeypatch: pytest.MonkeyPatch, kind: type[EmrClients]
) -> None:
    monkeypatch.setenv("AIRFLOW__EMR_ETL__EVENTS_QUEUE", "events-{hostname}")
    queue = kind(connection({})).events
    assert queue is not None
    assert queue.queue == f"events-{socket.gethostname()}"


@pytest.mark.parametrize(("extra", "expected"), [("of-the-connection", "of-the-connection"), ("", None)])
def test_the_connection_goes_before_it(
    connection: Any, monkeypatch: pytest.MonkeyPatch, extra: str, expected: str | None
) -> None:
    monkeypatch.setenv("AIRFLOW__EMR_ETL__EVENTS_QUEUE", "of-the-configuration")
    queue = EmrClients(connection({"emr_events_queue": extra})).events
    assert (queue.queue if queue else None) == expected


def test_what_is_no_name_is_told(connection: Any) -> None:
    with pytest.raises(ConfigurationError, match="not an SQS queue"):
        _ = EmrClients(connection({"emr_events_queue": "a queue"})).events
