"""What the server of local AWS asks of a service that answers in JSON (EMR, the Redshift Data API)."""

from __future__ import annotations

import abc
import re
from typing import Any, ClassVar


class ApiError(Exception):
    """An error answer of a service: ``code`` is the name that botocore raises, such as ``ValidationException``."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


class JsonApi(abc.ABC):
    """One AWS service.

    Each supported operation is a method under its snake_case name (``RunJobFlow`` → ``run_job_flow``), taking
    the request's parameters as botocore's service model names them and returning the response the same way
    (times as aware ``datetime``). Parameters were validated against the model before the call. The server
    calls from several threads at once, so an implementation keeps its own lock.
    """

    service: ClassVar[str]  # botocore's name of the service, such as "emr"

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        method = getattr(self, operation_method(operation), None)
        if method is None:
            raise ApiError(
                "NotImplemented",
                f"Local AWS does not support {self.service}:{operation}. Nothing was done.",
                status=501,
            )
        result: dict[str, Any] | None = method(params)
        return result or {}

    @abc.abstractmethod
    def start(self) -> None:
        """Load the state and start what runs in the background."""

    def warm_up(self) -> None:  # noqa: B027 - most services have nothing to prepare
        """Begin, in the background, what makes first calls quick. Called once after ``start``, if at all."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Save the state and end every thread and process that was started. Idempotent."""


def operation_method(operation: str) -> str:
    """``ListSteps`` → ``list_steps``; ``GetOnClusterAppUIPresignedURL`` → ``get_on_cluster_app_ui_presigned_url``."""
    with_breaks = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", operation)
    return with_breaks.lower()
