"""What lies between boto3 and EMR: every request is counted, may be lost or refused, and may be a process's last."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlparse

import botocore.awsrequest
from botocore.exceptions import ConnectionClosedError, ReadTimeoutError

from airflow_emr_etl.local.faults import ConnectionFault, FaultInjector, FaultKind
from airflow_emr_etl.local.json_dispatch import JsonDispatch
from airflow_emr_etl.local.protocols import Answer, Protocol, error_answer

from .backend import VirtualEmr
from .world import KilledError, Process, World

_TELLING = re.compile(
    r'"(JobFlowId|ClusterId|StepId|Id|Name|State|Code|Message|message|__type|Value)": ?"([^"]{1,120})"'
)


#: The calls that make something, and that EMR does not recognise when they come again.
WRITES = frozenset({"RunJobFlow", "AddJobFlowSteps"})


@dataclass(frozen=True)
class ApiCall:
    """One HTTP request; ``number`` counts from 1."""

    number: int
    operation: str
    process: str


@dataclass
class Blows:
    """What befalls the process that makes a call, besides what befalls the call."""

    kill_at: tuple[int, str] | None = None
    """Number of the call, and ``before`` or ``after``."""
    kill_chance: float = 0.0
    write_kill_chance: float = 0.0
    """The same for the calls that make something, of which there are few."""
    detach_chance: float = 0.0
    kills_left: int = 1
    random: random.Random = field(default_factory=random.Random)

    def kills(self, call: ApiCall, when: str) -> bool:
        if self.kill_at == (call.number, when):
            return True
        chance = self.write_kill_chance if call.operation in WRITES else self.kill_chance
        if chance and self.kills_left and self.random.random() < chance:
            self.kills_left -= 1
            return True
        return False

    def detaches(self) -> bool:
        if self.detach_chance and self.kills_left and self.random.random() < self.detach_chance:
            self.kills_left -= 1
            return True
        return False


class Network:
    """Takes the place of ``URLLib3Session.send``."""

    def __init__(
        self, world: World, emr: VirtualEmr, injector: FaultInjector, blows: Blows, *, seed: int
    ) -> None:
        self._world = world
        self._dispatch = JsonDispatch(emr)
        self._injector = injector
        self._blows = blows
        self._latency = random.Random(seed)
        self.calls: list[ApiCall] = []
        #: What Airflow does when a process of its dies, or loses its supervisor.
        self.on_kill: Callable[[Process], None] = lambda _process: None
        self.on_detach: Callable[[Process], None] = lambda _process: None

    def send(self, session: Any, request: Any) -> Any:
        fiber = self._world.fiber()
        assert fiber is not None, f"a request from outside of the simulation: {request.url}"
        process = fiber.process
        process.check()
        target = request.headers.get("X-Amz-Target", b"")
        name = target.decode() if isinstance(target, bytes) else target
        operation = name.rpartition(".")[2]
        call = ApiCall(len(self.calls) + 1, operation or urlparse(request.url).netloc, process.name)
        self.calls.append(call)
        if self._blows.detaches():
            self.on_detach(process)
        if self._blows.kills(call, "before"):
            self._kill(process, call, "before")
        self._world.sleep(self._latency.uniform(0.02, 0.2))
        try:
            if not name.startswith(self._dispatch.target_prefix + "."):
                answer = error_answer(
                    Protocol.JSON, "NotImplemented", f"No such service here: {request.url}", 501
                )
            else:
                answer = self._injector.around(
                    "emr", operation, Protocol.JSON, lambda: self._dispatch.handle(name, _bytes(request.body))
                )
        except ConnectionFault as fault:
            self._world.tell(process.name, f"{call.number} {operation}: {fault}")
            if self._blows.kills(call, "after"):
                self._kill(process, call, "after")
            if fault.kind == FaultKind.TIMEOUT:
                self._world.sleep(_read_timeout(session))
                raise ReadTimeoutError(endpoint_url=request.url, error=fault) from fault
            self._world.sleep(0.05)
            raise ConnectionClosedError(endpoint_url=request.url, request=request, error=fault) from fault
        self._world.tell(
            process.name,
            f"{call.number} {operation}: {answer.status} {_told(request.body)} -> {_told(answer.body)}",
        )
        if self._blows.kills(call, "after"):
            self._kill(process, call, "after")
        self._world.sleep(self._latency.uniform(0.02, 0.2))
        return _response(request.url, answer)

    def _kill(self, process: Process, call: ApiCall, when: str) -> None:
        self._world.tell(process.name, f"SIGKILL {when} {call.number} {call.operation}")
        self._world.kill(process)
        self.on_kill(process)
        raise KilledError(process.name)


class _Raw:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self._body


def _response(url: str, answer: Answer) -> Any:
    headers = botocore.awsrequest.HeadersDict(answer.headers)
    return botocore.awsrequest.AWSResponse(url, answer.status, headers, _Raw(answer.body))


def _bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body or b"")


def _told(body: Any) -> str:
    """The ids, names and states in a request or an answer."""
    text = _bytes(body).decode(errors="replace")
    found = _TELLING.findall(text)
    return (
        " ".join(
            value if key in ("JobFlowId", "ClusterId", "StepId", "Id", "State") else f"{key}={value}"
            for key, value in found[:6]
        )
        or text[:200]
    )


def _read_timeout(session: Any) -> float:
    timeout = getattr(session, "_timeout", None)
    return float(getattr(timeout, "read_timeout", None) or 60.0)
