"""Takes requests in AWS's JSON protocol to our own services (``JsonApi``), checked against botocore's models."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import logging
import secrets
from collections.abc import Mapping
from typing import Any

from botocore.model import OperationNotFoundError
from botocore.validate import ParamValidator

from airflow_emr_etl.local.api import ApiError, JsonApi
from airflow_emr_etl.local.protocols import Answer, Protocol, error_answer, service_model

log = logging.getLogger(__name__)


class JsonDispatch:
    """One ``JsonApi`` and botocore's model of it."""

    def __init__(self, api: JsonApi) -> None:
        self.api = api
        self._model: Any = service_model(api.service)
        self.target_prefix: str = self._model.metadata["targetPrefix"]
        self.signing_name: str = self._model.signing_name
        self._content_type = f"application/x-amz-json-{self._model.metadata.get('jsonVersion', '1.1')}"
        self._validator = ParamValidator()

    def handle(self, target: str, body: bytes) -> Answer:
        """``target`` is the X-Amz-Target header, such as ``ElasticMapReduce.ListSteps``. Never raises."""
        operation = target.rpartition(".")[2]
        try:
            result = self._call(operation, body)
        except ApiError as error:
            return error_answer(Protocol.JSON, error.code, error.message, error.status)
        except Exception:
            log.exception("%s:%s failed", self.api.service, operation)
            return error_answer(
                Protocol.JSON,
                "InternalFailure",
                f"Local AWS failed in {self.api.service}:{operation}; its log says why (emr-etl local logs).",
                500,
            )
        headers = {"content-type": self._content_type, "x-amzn-requestid": secrets.token_hex(16)}
        return Answer(200, headers, json.dumps(result, separators=(",", ":")).encode())

    def _call(self, operation: str, body: bytes) -> Any:
        try:
            model = self._model.operation_model(operation)
        except OperationNotFoundError:
            raise ApiError(
                "NotImplemented",
                f"Local AWS does not support {self.api.service}:{operation}: the installed botocore does not know it. "
                "Nothing was done.",
                status=501,
            ) from None
        try:
            raw = json.loads(body or b"{}")
        except ValueError as error:
            raise ApiError("SerializationException", f"The request is not JSON: {error}") from None
        if not isinstance(raw, dict):
            raise ApiError("SerializationException", "The request is not a JSON object.")
        params: dict[str, Any] = raw
        if model.input_shape is not None:
            params = _decode(raw, model.input_shape)
            report = self._validator.validate(params, model.input_shape)
            if report.has_errors():
                raise ApiError("ValidationException", report.generate_report())
        result = self.api.call(operation, params)
        return _encode(result, model.output_shape) if model.output_shape is not None else {}


def _decode(value: Any, shape: Any) -> Any:
    """JSON to what botocore's model speaks of: epoch seconds to datetime, base64 to bytes, null to left out."""
    kind = shape.type_name
    if kind == "structure" and isinstance(value, dict):
        members = shape.members
        return {
            name: _decode(item, members[name]) if name in members else item
            for name, item in value.items()
            if item is not None
        }
    if kind == "list" and isinstance(value, list):
        return [_decode(item, shape.member) for item in value]
    if kind == "map" and isinstance(value, dict):
        return {name: _decode(item, shape.value) for name, item in value.items()}
    if kind == "timestamp" and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return dt.datetime.fromtimestamp(value, dt.UTC)
        except (OverflowError, ValueError, OSError):
            raise ApiError("SerializationException", f"{value} is no time in epoch seconds.") from None
    if kind == "blob" and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            raise ApiError("SerializationException", "A blob is not base64.") from None
    return value


def _encode(value: Any, shape: Any) -> Any:
    """The other way. A member that the model does not have is a bug of the service and raises."""
    kind = shape.type_name
    if kind == "structure":
        if not isinstance(value, Mapping):
            raise TypeError(f"{shape.name} is a structure, not {type(value).__name__}")
        unknown = value.keys() - shape.members.keys()
        if unknown:
            raise TypeError(f"{shape.name} has no members {sorted(unknown)}")
        return {
            shape.members[name].serialization.get("name", name): _encode(item, shape.members[name])
            for name, item in value.items()
            if item is not None
        }
    if kind == "list":
        return [_encode(item, shape.member) for item in value]
    if kind == "map":
        return {name: _encode(item, shape.value) for name, item in value.items()}
    if kind == "timestamp" and isinstance(value, dt.datetime):
        if value.tzinfo is None:
            raise TypeError(f"{shape.name}: the time has no zone")
        return round(value.timestamp(), 3)
    if kind == "blob" and isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value
