"""From this package's errors to what Airflow does about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_emr_etl.exceptions import ConfigurationError, EmrEtlError


@contextmanager
def retry_only_what_can_pass() -> Iterator[None]:
    """Let a retryable error through, and turn any other of ours into one that Airflow does not retry."""
    try:
        yield
    except EmrEtlError as error:
        if error.retryable:
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error


def checked(model: Any, document: Any, *, of: str) -> Any:
    """``model.model_validate(document)`` after rendering; ConfigurationError where it does not fit."""
    try:
        return model.model_validate(document)
    except ValueError as error:
        raise ConfigurationError(f"{of} is not valid after its templates were rendered. {error}") from error
