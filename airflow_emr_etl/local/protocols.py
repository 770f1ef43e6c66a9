"""How each of AWS's protocols asks for an operation and says that something went wrong."""

from __future__ import annotations

import enum
import functools
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from botocore.model import ServiceModel


class Protocol(enum.Enum):
    JSON = "json"
    REST_JSON = "rest-json"
    QUERY = "query"
    EC2 = "ec2"
    REST_XML = "rest-xml"
    S3 = "s3"
    CBOR = "smithy-rpc-v2-cbor"


_REST_XML_SERVICES = frozenset({"route53", "cloudfront", "s3-control"})

SERVICE_OF_SIGNING_NAME = {
    "elasticmapreduce": "emr",
    "monitoring": "cloudwatch",
    "tagging": "resourcegroupstaggingapi",
}
"""botocore's name of a service where it differs from the name in the credential scope."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Call:
    """What a request asks for, as far as it can be seen from outside."""

    service: str | None
    """botocore's name of the service."""
    protocol: Protocol
    operation: str | None
    method: str
    path: str

    @property
    def name(self) -> str:
        return f"{self.service or 'unknown'}:{self.operation or _rest_operation(self.service, self.method, self.path)}"


def read_call(
    signing_name: str | None, method: str, target: str, headers: Mapping[str, str], form: bytes
) -> Call:
    """``target`` is path and query; ``form`` the body where it is a form, else empty."""
    path, _, query = target.partition("?")
    service = SERVICE_OF_SIGNING_NAME.get(signing_name or "", signing_name)
    amz_target = headers.get("x-amz-target")
    if headers.get("smithy-protocol") == "rpc-v2-cbor":
        return Call(service, Protocol.CBOR, path.rpartition("/")[2], method, path)
    if amz_target:
        return Call(service, Protocol.JSON, amz_target.rpartition(".")[2], method, path)
    if service in (None, "s3", "s3express"):
        return Call(service, Protocol.S3, None, method, path)
    action = parse_qs(form.decode("latin-1")).get("Action") or parse_qs(query).get("Action")
    if action:
        return Call(service, Protocol.EC2 if service == "ec2" else Protocol.QUERY, action[0], method, path)
    protocol = Protocol.REST_XML if service in _REST_XML_SERVICES else Protocol.REST_JSON
    return Call(service, protocol, None, method, path)


def error_answer(protocol: Protocol, code: str, message: str, status: int) -> Answer:
    """An error as the protocol has it, so that botocore raises ClientError with this code and message."""
    request_id = secrets.token_hex(16)
    headers = {"x-amzn-requestid": request_id}
    if protocol in (Protocol.JSON, Protocol.REST_JSON):
        content_type = "application/x-amz-json-1.1" if protocol is Protocol.JSON else "application/json"
        body = json.dumps({"__type": code, "message": message}).encode()
        return Answer(status, {**headers, "content-type": content_type, "x-amzn-errortype": code}, body)
    if protocol is Protocol.CBOR:
        headers |= {"content-type": "application/cbor", "smithy-protocol": "rpc-v2-cbor"}
        return Answer(status, headers, _cbor({"__type": code, "message": message}))
    error = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    if protocol is Protocol.S3:
        text = f"<Error>{error}<RequestId>{request_id}</RequestId></Error>"
    elif protocol is Protocol.EC2:
        text = (
            f"<Response><Errors><Error>{error}</Error></Errors><RequestID>{request_id}</RequestID></Response>"
        )
    else:
        kind = "Sender" if status < 500 else "Receiver"
        text = (
            f"<ErrorResponse><Error><Type>{kind}</Type>{error}</Error><RequestId>{request_id}</RequestId>"
            "</ErrorResponse>"
        )
    headers["content-type"] = "text/xml"
    return Answer(status, headers, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode())


def _cbor(texts: Mapping[str, str]) -> bytes:
    """A map of strings (RFC 8949)."""

    def head(kind: int, length: int) -> bytes:
        if length < 24:
            return bytes([kind | length])
        size = 1 if length < 0x100 else 2 if length < 0x10000 else 4
        return bytes([kind | {1: 24, 2: 25, 4: 26}[size]]) + length.to_bytes(size, "big")

    pieces = [head(0xA0, len(texts))]
    for text in (text for pair in texts.items() for text in pair):
        encoded = text.encode()
        pieces += [head(0x60, len(encoded)), encoded]
    return b"".join(pieces)


def _rest_operation(service: str | None, method: str, path: str) -> str:
    """The operation that a REST request means, by botocore's model; method and path where it has none."""
    for pattern, operation in _rest_operations(service or "").get(method, ()):
        if pattern.fullmatch(path):
            return operation
    return f"{method} {path}"


@functools.lru_cache(maxsize=16)
def _rest_operations(service: str) -> dict[str, list[tuple[re.Pattern[str], str]]]:
    from botocore.exceptions import UnknownServiceError

    try:
        model = service_model(service)
    except UnknownServiceError:
        return {}
    found: dict[str, list[tuple[re.Pattern[str], str]]] = {}
    for name in model.operation_names:
        http = model.operation_model(name).http
        path = http.get("requestUri", "/").partition("?")[0]
        literal = re.split(r"(\{[^}]*\})", path)
        pattern = "".join(
            (".+" if piece.endswith("+}") else "[^/]+") if piece.startswith("{") else re.escape(piece)
            for piece in literal
        )
        found.setdefault(http.get("method", "POST"), []).append((re.compile(pattern + "/?"), name))
    return found


@functools.lru_cache(maxsize=32)
def service_model(service: str) -> ServiceModel:
    from botocore.loaders import create_loader
    from botocore.model import ServiceModel

    # Without a session, which would want the profile that this process' environment may name.
    return ServiceModel(create_loader().load_service_model(service, "service-2"), service_name=service)


@functools.lru_cache(maxsize=1)
def _s3_operations() -> dict[tuple[str, str, str | None], str]:
    levels = {"/": "service", "/{Bucket}": "bucket", "/{Bucket}/{Key+}": "object"}
    found: dict[tuple[str, str, str | None], str] = {}
    model = service_model("s3")
    for name in model.operation_names:
        http = model.operation_model(name).http
        path, _, query = http["requestUri"].partition("?")
        if path in levels:
            found.setdefault((http["method"], levels[path], query.partition("&")[0] or None), name)
    return found


def s3_operation(method: str, level: str, subresource: str | None) -> str:
    """The name of an S3 operation that local S3 does not have."""
    fallback = f"{method} {level}" + (f" ?{subresource}" if subresource else "")
    return _s3_operations().get((method, level, subresource), fallback)
