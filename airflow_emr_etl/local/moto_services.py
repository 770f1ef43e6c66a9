"""The small services, as moto gives them: which of them are there, and plain errors for what moto lacks.

Served are the services whose work *is* the records that moto keeps. Not served is what moto answers with a
success that nobody worked for: EMR Serverless runs that are SUCCESS at once, Athena queries, Glue jobs, EC2
instances. Loaded with the first request, for moto is large.
"""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from airflow_emr_etl.local.access import Credential
from airflow_emr_etl.local.protocols import Answer, Call, error_answer
from airflow_emr_etl.local.s3.service import ACCOUNT_ID
from airflow_emr_etl.models.emr_event import EmrEvent

log = logging.getLogger(__name__)

SERVED = frozenset(
    {
        "cloudwatch",
        "dynamodb",
        "ec2",
        "events",
        "iam",
        "kinesis",
        "kms",
        "logs",
        "resourcegroupstaggingapi",
        "secretsmanager",
        "sns",
        "sqs",
        "ssm",
        "sts",
    }
)

_PRETENDED = {
    "dynamodb": frozenset({"ExportTableToPointInTime", "ImportTable"}),
    "ec2": frozenset(
        {"RunInstances", "StartInstances", "RequestSpotInstances", "RequestSpotFleet", "CreateFleet"}
    ),
    "logs": frozenset({"CreateExportTask"}),
    "ssm": frozenset({"SendCommand", "StartAutomationExecution"}),
}
"""Operations of served services that moto reports as done though nothing ran or was written."""

_EXAMPLE_KEY = b"AKIAIOSFODNN7EXAMPLE"
"""moto hands out this key of AWS's documentation, known to everybody, for every session token."""

_SYSTEM_PATHS = ("/moto-api", "/latest/")


def not_implemented(call: Call, why: str = "") -> Answer:
    message = f"Local AWS does not support {call.name}. Nothing was done.{why}"
    return error_answer(call.protocol, "NotImplemented", message, 501)


class MotoServices:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._app: Callable[..., Iterable[bytes]] | None = None

    def handle(self, environ: dict[str, Any], call: Call, credential: Credential, body: bytes) -> Answer:
        is_admin = call.path.startswith("/moto-api")
        if not is_admin:
            if call.service not in SERVED or call.path.startswith(_SYSTEM_PATHS):
                there = ", ".join(sorted({*SERVED, "emr", "redshift-data", "s3"}))
                return not_implemented(call, f" The services here are {there}.")
            if call.operation in _PRETENDED.get(call.service, ()):
                return not_implemented(call)
        environ = dict(environ)
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        if credential.presigned:  # moto looks for the service in this header only
            scope = (
                f"{credential.access_key}/20000101/{credential.region or 'us-east-1'}/{credential.service}"
            )
            environ["HTTP_AUTHORIZATION"] = (
                f"AWS4-HMAC-SHA256 Credential={scope}/aws4_request, SignedHeaders=host, Signature=0"
            )
        try:
            answer = _run(self._application(), environ)
        except NotImplementedError:
            return not_implemented(call)
        except Exception:
            log.exception("moto failed in %s", call.name)
            return error_answer(
                call.protocol,
                "InternalFailure",
                f"Local AWS failed in {call.name}; its log says why (emr-etl local logs).",
                500,
            )
        if not is_admin and _is_html_error(answer):
            return not_implemented(call)
        if call.service == "sts" and _EXAMPLE_KEY in answer.body:
            return _with_fresh_key(answer)
        return answer

    def deliver(self, event: EmrEvent) -> None:
        """Send an event to the targets of the rules of the default bus that match it: SQS queues and SNS topics.

        AWS's own events cannot be sent by PutEvents, and moto knows no topic as a target.
        """
        with self._lock:
            if self._app is None:  # then nobody has made a rule
                return
        from moto.events.models import events_backends

        for region, backend in list(events_backends[ACCOUNT_ID].items()):
            document: Any = replace(event, region=region).document()
            for rule in list(backend.describe_event_bus("default").rules.values()):
                pattern = rule.event_pattern
                # A rule that is a schedule has an empty pattern, which matches everything.
                if rule.state == "ENABLED" and pattern.get_pattern() and pattern.matches_event(document):
                    for target in list(rule.targets):
                        try:
                            _send(target["Arn"], json.dumps(document))
                        except Exception as error:  # such as a queue that somebody has deleted
                            log.warning("EMR's event did not come to %s: %r", target["Arn"], error)

    def _application(self) -> Callable[..., Iterable[bytes]]:
        with self._lock:
            if self._app is None:
                from moto.moto_server import werkzeug_app

                vars(werkzeug_app)["DISABLE_GLOBAL_CORS"] = (
                    True  # no page of another origin has business here
                )
                self._app = werkzeug_app.DomainDispatcherApplication(werkzeug_app.create_backend_app)
            return self._app

    def forget(self) -> None:
        """Drop what moto holds; it is one state for the whole process."""
        with self._lock:
            if self._app is not None:
                from moto.core.base_backend import BackendDict

                BackendDict.reset()
                self._app = None


def _send(arn: str, text: str) -> None:
    _, _, service, region, account, name = arn.split(":", 5)
    if service == "sqs":
        from moto.sqs.models import sqs_backends

        sqs_backends[account][region].send_message(queue_name=name, message_body=text)
    elif service == "sns":
        from moto.sns.models import sns_backends

        sns_backends[account][region].get_topic(arn).publish(text)
    else:
        log.warning("EMR's events do not come to %s: local EventBridge sends them to SQS and SNS alone", arn)


def _run(app: Callable[..., Iterable[bytes]], environ: Mapping[str, Any]) -> Answer:
    status = 500
    headers: dict[str, str] = {}

    def start_response(line: str, pairs: list[tuple[str, str]], exc_info: object = None) -> None:
        nonlocal status, headers
        status = int(line.split()[0])
        headers = {name.lower(): value for name, value in pairs}

    parts = app(environ, start_response)
    try:
        body = b"".join(parts)
    finally:
        close = getattr(parts, "close", None)
        if close:
            close()
    headers.pop("content-length", None)
    return Answer(status, headers, body)


def _is_html_error(answer: Answer) -> bool:
    """A page of Flask's: no route for this method and path."""
    start = answer.body[:64].lstrip().lower()
    return answer.status in (404, 405, 500) and start.startswith((b"<!doctype html", b"<html"))


def _with_fresh_key(answer: Answer) -> Answer:
    from moto.iam.models import iam_backends

    key = iam_backends[ACCOUNT_ID]["aws"].create_temp_access_key()
    return Answer(
        answer.status, answer.headers, answer.body.replace(_EXAMPLE_KEY, key.access_key_id.encode())
    )
