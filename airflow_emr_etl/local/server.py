"""The one HTTP server of local AWS: who may ask, which service is meant, and S3's streams."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, cast

from werkzeug.exceptions import ClientDisconnected
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wsgi import get_input_stream

from airflow_emr_etl.local.access import (
    bucket_in_host,
    is_known_key,
    is_local_host,
    is_own_key,
    read_credential,
)
from airflow_emr_etl.local.fault_control import FAULTS_PATH, LocalFaults
from airflow_emr_etl.local.fault_control import answer as answer_faults
from airflow_emr_etl.local.faults import ConnectionFault, FaultKind
from airflow_emr_etl.local.json_dispatch import JsonDispatch
from airflow_emr_etl.local.moto_services import MotoServices, not_implemented
from airflow_emr_etl.local.protocols import Answer, Call, Protocol, error_answer, read_call
from airflow_emr_etl.local.s3.errors import S3Error
from airflow_emr_etl.local.s3.service import S3Request, S3Service

log = logging.getLogger(__name__)

HEALTH_PATH = "/_local_aws/health"  # no bucket can be called so
MAX_BODY_BYTES = 64 * 1024 * 1024
"""Of a request to anything but S3."""
_HEADERS = "local_aws.headers"
_TARGET = "local_aws.target"
_SOCKET = "werkzeug.socket"
_DRAIN_SECONDS = 10.0
_HOLD_POLL_SECONDS = 0.1


class LocalAwsApp:
    """The WSGI application. ``port`` is what the Host header must name; ``own_key`` opens every service."""

    def __init__(
        self,
        *,
        port: int,
        own_key: str,
        s3: S3Service,
        services: Sequence[JsonDispatch],
        moto: MotoServices,
        faults: LocalFaults | None = None,
    ) -> None:
        self._port = port
        self._own_key = own_key
        self._s3 = s3
        self._by_prefix = {service.target_prefix: service for service in services}
        self._own_signing_names = {service.signing_name for service in services}
        self._moto = moto
        self._faults = faults or LocalFaults()
        self._stopping = threading.Event()
        self._active = 0
        self._idle = threading.Condition()

    def wait_until_idle(self, timeout_seconds: float) -> bool:
        """Whether every request under way has ended in time."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._active, timeout_seconds)

    def release(self) -> None:
        """Let go of connections that are held on purpose: the server stops."""
        self._stopping.set()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._idle:
            self._active += 1
        try:
            status, headers, body = self._respond(environ)
            size = {"content-length": str(len(body))} if isinstance(body, bytes) else {}
            if environ["REQUEST_METHOD"] == "HEAD" and not body:
                size = {}
            pairs = [(name, _header_value(value)) for name, value in {**size, **headers}.items()]
            start_response(f"{status} {http.client.responses.get(status, 'Unknown')}", pairs)
        except ConnectionFault as fault:
            try:
                if fault.kind is FaultKind.TIMEOUT:
                    self._hold(environ[_SOCKET], fault.hold_seconds)
            finally:
                self._finished()
            raise _Dropped(fault.kind) from None
        except BaseException:
            self._finished()
            raise
        return _Body([body] if isinstance(body, bytes) else body, self)

    def _hold(self, connection: socket.socket, seconds: float) -> None:
        """Leave the client without an answer until it goes away, the server stops or the time is over."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ)
            while not self._stopping.is_set() and (left := deadline - time.monotonic()) > 0:
                if selector.select(min(left, _HOLD_POLL_SECONDS)):
                    try:
                        # The rest of the request, or the end of the connection.
                        if not connection.recv(65536):
                            return
                    except OSError:
                        return

    def _finished(self) -> None:
        with self._idle:
            self._active -= 1
            self._idle.notify_all()

    def _respond(self, environ: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes | Iterable[bytes]]:
        try:
            return self._route(environ)
        except (ClientDisconnected, ConnectionError, TimeoutError):
            log.info("The client went away during %s", environ.get("REQUEST_METHOD"))
            return 400, {"connection": "close"}, b""

    def _route(self, environ: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes | Iterable[bytes]]:
        headers: Mapping[str, str] = environ[_HEADERS]
        target: str = environ[_TARGET]
        method: str = environ["REQUEST_METHOD"]
        path, _, query = target.partition("?")
        if not is_local_host(headers.get("host"), self._port):
            text = f"Local AWS answers only to 127.0.0.1:{self._port} and localhost:{self._port}.\n"
            return 403, {"content-type": "text/plain"}, text.encode()
        credential = read_credential(headers, query)
        if credential is None or not is_known_key(credential.access_key, self._own_key):
            signing_name = credential.service if credential else "sts" if _is_form(headers) else None
            form = b"Action=Unknown" if _is_form(headers) else b""  # the body is not worth reading
            call = read_call(signing_name, method, target, headers, form)
            return _parts(_refusal(call, path), method)
        if path == HEALTH_PATH:
            names = sorted(service.api.service for service in self._by_prefix.values())
            health = {
                "status": "ok",
                "pid": os.getpid(),
                "services": [*names, "s3"],
                "faults": self._faults.count(),
            }
            return 200, {"content-type": "application/json"}, json.dumps(health).encode()
        stream = get_input_stream(environ, max_content_length=None)
        if path == FAULTS_PATH:
            if not is_own_key(credential.access_key, self._own_key):  # not for keys that IAM here handed out
                return _parts(_refusal(read_call("sts", method, target, headers, b""), path), method)
            status, document = answer_faults(self._faults, method, query, stream.read(MAX_BODY_BYTES))
            return status, {"content-type": "application/json"}, json.dumps(document).encode()
        signing_name = credential.service
        amz_target = headers.get("x-amz-target", "")
        own = self._by_prefix.get(amz_target.partition(".")[0])
        is_admin = path.startswith("/moto-api") and signing_name != "s3"
        if own is None and signing_name in (None, "s3") and not amz_target and not is_admin:
            if path.startswith("/v20180820/"):
                return _parts(not_implemented(read_call("s3-control", method, target, headers, b"")), method)
            return self._serve_s3(method, target, headers, cast("BinaryIO", stream))
        body = stream.read(MAX_BODY_BYTES + 1)
        call = read_call(signing_name, method, target, headers, body if _is_form(headers) else b"")
        if len(body) > MAX_BODY_BYTES:
            answer = error_answer(call.protocol, "RequestEntityTooLarge", "The request is too large.", 413)
        elif own is not None:
            service = own
            answer = self._faults.injector.around(
                service.api.service,
                amz_target.rpartition(".")[2],
                call.protocol,
                lambda: service.handle(amz_target, body),
            )
        elif signing_name in self._own_signing_names:
            answer = not_implemented(call)
        else:
            name, _, operation = call.name.partition(":")
            answer = self._faults.injector.around(
                name, operation, call.protocol, lambda: self._moto.handle(environ, call, credential, body)
            )
        return _parts(answer, method)

    def _serve_s3(
        self, method: str, target: str, headers: Mapping[str, str], stream: BinaryIO
    ) -> tuple[int, Mapping[str, str], bytes | Iterable[bytes]]:
        try:
            request = S3Request(method, target, headers, stream, bucket_in_host(headers["host"]))
        except S3Error as error:
            return _parts(error_answer(Protocol.S3, error.code, error.message, error.status), method)
        try:
            operation = self._s3.operation(request)
            response = self._faults.injector.around(
                "s3", operation, Protocol.S3, lambda: self._s3.handle(request)
            )
        except (ClientDisconnected, ConnectionError, TimeoutError, ConnectionFault):
            raise
        except Exception:
            log.exception("S3 failed in %s /%s/%s", method, request.bucket, request.key)
            message = "Local AWS failed; its log says why (emr-etl local logs)."
            return _parts(error_answer(Protocol.S3, "InternalError", message, 500), method)
        if isinstance(response, Answer):
            return _parts(response, method)
        return response.status, response.headers, response.body


class _Dropped(ConnectionError):
    """The client gets no answer, on purpose."""

    def __init__(self, kind: FaultKind) -> None:
        super().__init__(f"fault: {kind}")
        self.kind = kind


class _Body:
    """Counts its request as under way until the last byte is out."""

    def __init__(self, chunks: Iterable[bytes], app: LocalAwsApp) -> None:
        self._chunks = chunks
        self._app: LocalAwsApp | None = app

    def __iter__(self) -> Any:
        return iter(self._chunks)

    def close(self) -> None:
        app, self._app = self._app, None
        if app is None:
            return
        try:
            close = getattr(self._chunks, "close", None)
            if close:
                close()
        finally:
            app._finished()


def _parts(answer: Answer, method: str) -> tuple[int, Mapping[str, str], bytes]:
    return answer.status, answer.headers, b"" if method == "HEAD" else answer.body


def _is_form(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").startswith("application/x-www-form-urlencoded")


def _refusal(call: Call, path: str) -> Answer:
    message = (
        "This access key is not the one of local AWS, which answers only to the key of its state folder: "
        'run eval "$(emr-etl local env)" in this shell.'
    )
    if path in (HEALTH_PATH, FAULTS_PATH) or path.startswith("/moto-api"):
        return error_answer(Protocol.REST_JSON, "InvalidClientTokenId", message, 403)
    code = "InvalidAccessKeyId" if call.protocol is Protocol.S3 else "InvalidClientTokenId"
    return error_answer(call.protocol, code, message, 403)


def _header_value(value: str) -> str:
    """One line in latin-1, as HTTP wants it; other characters go out as their UTF-8 bytes."""
    line = " ".join(value.splitlines())
    try:
        line.encode("latin-1")
    except UnicodeEncodeError:
        return line.encode().decode("latin-1")
    return line


class _RequestHandler(WSGIRequestHandler):
    """Keeps header names with underscores (user metadata of S3) and the path as it was sent."""

    _breaks = False

    def connection_dropped(self, error: BaseException, environ: dict[str, Any] | None = None) -> None:
        self.close_connection = True
        if isinstance(error, _Dropped):
            log.info("%s %s", getattr(self, "command", "-"), error)
            self._breaks = error.kind is FaultKind.RESET

    def finish(self) -> None:
        super().finish()
        if self._breaks:
            # Closed with no time to linger, a socket sends RST. Before the server's own shutdown, which sends FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def make_environ(self) -> dict[str, Any]:
        environ = super().make_environ()
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            lower = name.lower()
            headers[lower] = f"{headers[lower]},{value}" if lower in headers else value
        environ[_HEADERS] = headers
        target = self.path
        if not target.startswith("/"):  # absolute form, as through a proxy
            target = "/" + target.partition("://")[2].partition("/")[2]
        environ[_TARGET] = target
        return environ

    def version_string(self) -> str:
        return "local-aws"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        # Without the query: a presigned URL holds the key.
        log.info(
            "%s %s %s", getattr(self, "command", "-"), getattr(self, "path", "-").partition("?")[0], code
        )

    def log(self, type: str, message: str, *args: object) -> None:
        log.log(logging.ERROR if type == "error" else logging.INFO, message, *args)


class HttpServer:
    """A werkzeug server in threads of this process, on a socket that is bound already."""

    def __init__(self, listener: socket.socket, app: LocalAwsApp) -> None:
        host, port = listener.getsockname()[:2]
        self._app = app
        self._server: BaseWSGIServer = make_server(
            host, port, app, threaded=True, request_handler=_RequestHandler, fd=listener.fileno()
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="local-aws-http",
            daemon=True,
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests, let those under way end, and close."""
        self._app.release()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        if not self._app.wait_until_idle(_DRAIN_SECONDS):
            log.warning("Requests were still under way when the server stopped")
        with contextlib.suppress(OSError):
            self._server.server_close()
