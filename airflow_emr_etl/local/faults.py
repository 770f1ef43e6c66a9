"""Faults on purpose: the errors, lost answers and broken connections that AWS gives a program now and then.

A :class:`FaultRule` says which calls go wrong, and how; the :class:`FaultInjector` stands around every call that
local AWS carries out and lets the rules fire. Nothing here knows of HTTP: a fault that is an answer is returned
as one, a fault that means that no answer comes is raised as :class:`ConnectionFault`, and whoever serves the
call makes the connection behave so. Rules live in memory and end with the server.
"""

from __future__ import annotations

import enum
import fnmatch
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeVar

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.protocols import SERVICE_OF_SIGNING_NAME, Answer, Protocol, error_answer

T = TypeVar("T")
When = Literal["before", "after"]

HOLD_SECONDS: Final = 300.0
"""How long a call that times out is left without an answer: longer than any client waits by default."""
_REMEMBERED = 100_000


class FaultKind(enum.StrEnum):
    """What goes wrong."""

    THROTTLE = "throttle"
    INTERNAL_ERROR = "500"
    UNAVAILABLE = "503"
    TIMEOUT = "timeout"
    """No answer comes."""
    RESET = "reset"
    """The connection breaks at once."""
    ACCESS_DENIED = "access-denied"
    EXPIRED_TOKEN = "expired-token"  # noqa: S105 - a name of a fault


CONNECTION_FAULTS: Final = frozenset({FaultKind.TIMEOUT, FaultKind.RESET})


class FaultError(LocalAwsError, ValueError):
    """A fault that cannot be set up as it was asked for."""


@dataclass(frozen=True)
class FaultRule:
    """Which calls go wrong, and how."""

    operation: str
    """``emr:RunJobFlow``, ``s3:Put*``, ``emr:*`` or ``*``: botocore's names of service and operation."""
    kind: FaultKind
    when: When = "before"
    """``before``: the call is not carried out. ``after``: it is, and only its answer is lost or wrong."""
    nth: int | None = None
    """The first call that may go wrong, counted from 1 over the matching calls since the rule was added.
    None: the first one."""
    times: int | None = None
    """How often it may fire. None: once with ``nth``, else without end."""
    probability: float | None = None
    """Each call goes wrong with this probability, drawn from ``seed``. None: each does."""
    seed: int = 0
    hold_seconds: float = HOLD_SECONDS
    """Of a timeout over HTTP: how long the connection is held before it is closed."""
    id: str = ""
    """Given by :meth:`FaultInjector.add` when empty."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", fault_kind(self.kind))
        object.__setattr__(self, "operation", _checked_operation(self.operation))
        if self.when not in ("before", "after"):
            raise FaultError(f"A fault comes 'before' or 'after' the operation, not {self.when!r}.")
        if self.nth is not None and self.nth < 1:
            raise FaultError(f"Calls are counted from 1: nth={self.nth} never comes.")
        if self.times is not None and self.times < 1:
            raise FaultError(f"A fault fires at least once, not {self.times} times.")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise FaultError(f"A probability is from 0 to 1, not {self.probability}.")
        if self.hold_seconds < 0:
            raise FaultError(f"hold_seconds is 0 or more, not {self.hold_seconds}.")

    @property
    def limit(self) -> int | None:
        """How often it fires at most; None: without end."""
        return self.times if self.times is not None else 1 if self.nth is not None else None

    def matches(self, service: str, operation: str) -> bool:
        return fnmatch.fnmatchcase(f"{service}:{operation}", self.operation)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "operation": self.operation,
            "kind": str(self.kind),
            "when": self.when,
            "nth": self.nth,
            "times": self.times,
            "probability": self.probability,
            "seed": self.seed,
            "hold_seconds": self.hold_seconds,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> FaultRule:
        """Raises FaultError for a member that is unknown or of the wrong type."""
        unknown = document.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise FaultError(f"A fault rule has no {', '.join(sorted(unknown))}.")
        for name in ("operation", "kind"):
            if not isinstance(document.get(name), str):
                raise FaultError(f"A fault rule needs {name!r}, as text.")
        for name in ("nth", "times", "seed"):
            _check_number(name, document.get(name), int)
        for name in ("probability", "hold_seconds"):
            _check_number(name, document.get(name), (int, float))
        return cls(**{key: value for key, value in document.items() if value is not None})


@dataclass(frozen=True)
class FiredFault:
    """A fault that came about."""

    rule: str
    """The rule's id."""
    service: str
    operation: str
    kind: FaultKind
    when: When
    call: int
    """The n-th of the calls that matched the rule."""

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "service": self.service,
            "operation": self.operation,
            "kind": str(self.kind),
            "when": self.when,
            "call": self.call,
        }


class ConnectionFault(Exception):
    """No answer reaches the client."""

    def __init__(self, kind: FaultKind, fired: FiredFault, hold_seconds: float = HOLD_SECONDS) -> None:
        super().__init__(f"{kind} {fired.when} {fired.service}:{fired.operation}")
        self.kind = kind
        self.fired = fired
        self.hold_seconds = hold_seconds


@dataclass
class _Armed:
    rule: FaultRule
    random: random.Random
    calls: int = 0
    fired: int = 0

    def count(self) -> bool:
        """Take note of a call; whether it is to go wrong. The limit is looked at when it fires."""
        self.calls += 1
        # Drawn for each call, so that which ones are hit does not depend on the other rules.
        lucky = self.rule.probability is None or self.random.random() < self.rule.probability
        limit = self.rule.limit
        return lucky and self.calls >= (self.rule.nth or 1) and (limit is None or self.fired < limit)


class FaultInjector:
    """Holds the rules and lets them fire. Thread-safe.

    Every rule counts every call that it matches. Of several that would fire at one call the first that was
    added does, ``before`` ahead of ``after``, and the others are not used up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: dict[str, _Armed] = {}
        self._fired: deque[FiredFault] = deque(maxlen=_REMEMBERED)
        self._added = 0

    def add(self, rule: FaultRule) -> FaultRule:
        """From the next call on. Returns the rule with its id. Raises FaultError when the id is taken."""
        with self._lock:
            self._added += 1
            rule = rule if rule.id else replace(rule, id=f"fault-{self._added}")
            if rule.id in self._armed:
                raise FaultError(f"There is a fault rule {rule.id!r} already.")
            self._armed[rule.id] = _Armed(rule, random.Random(rule.seed))
        return rule

    def remove(self, rule_id: str) -> None:
        """Raises FaultError when there is no such rule."""
        with self._lock:
            if self._armed.pop(rule_id, None) is None:
                known = ", ".join(self._armed) or "none"
                raise FaultError(f"There is no fault rule {rule_id!r}; there are: {known}.")

    def clear(self) -> None:
        """Remove all rules and forget what fired."""
        with self._lock:
            self._armed.clear()
            self._fired.clear()

    def rules(self) -> list[FaultRule]:
        with self._lock:
            return [each.rule for each in self._armed.values()]

    def counts(self) -> dict[str, tuple[int, int]]:
        """For each rule's id how many calls it matched and how often it fired."""
        with self._lock:
            return {each.rule.id: (each.calls, each.fired) for each in self._armed.values()}

    def fired(self) -> list[FiredFault]:
        """What came about since the last :meth:`clear`, oldest first (the last 100,000)."""
        with self._lock:
            return list(self._fired)

    def around(self, service: str, operation: str, protocol: Protocol, do: Callable[[], T]) -> T | Answer:
        """``do()``, or what goes wrong with it.

        Raises:
            ConnectionFault: no answer may reach the client. ``do`` was called if it came "after".
        """
        if not self._armed:
            return do()
        due = self._count(service, operation)
        if fault := self._fire(due, "before", service, operation):
            return self._answer(*fault, protocol)
        result = do()
        if fault := self._fire(due, "after", service, operation):
            _close(result)
            return self._answer(*fault, protocol)
        return result

    def _count(self, service: str, operation: str) -> list[tuple[_Armed, int]]:
        with self._lock:
            return [
                (each, each.calls)
                for each in self._armed.values()
                if each.rule.matches(service, operation) and each.count()
            ]

    def _fire(
        self, due: list[tuple[_Armed, int]], when: When, service: str, operation: str
    ) -> tuple[FaultRule, FiredFault] | None:
        with self._lock:
            for each, call in due:
                rule = each.rule
                if rule.when != when or self._armed.get(rule.id) is not each:
                    continue
                if rule.limit is not None and each.fired >= rule.limit:
                    continue  # used up by another call meanwhile
                each.fired += 1
                fired = FiredFault(rule.id, service, operation, rule.kind, when, call)
                self._fired.append(fired)
                return rule, fired
        return None

    @staticmethod
    def _answer(rule: FaultRule, fired: FiredFault, protocol: Protocol) -> Answer:
        if fired.kind in CONNECTION_FAULTS:
            raise ConnectionFault(fired.kind, fired, rule.hold_seconds)
        return fault_answer(fired.kind, fired.service, fired.operation, protocol)


def _close(result: object) -> None:
    """Let go of an answer that nobody will read."""
    close = getattr(getattr(result, "body", None), "close", None)
    if close is not None:
        close()


# What each protocol calls it

_RATE = "Rate exceeded"
_EXPIRED = "The security token included in the request is expired"
_JSON_ERRORS: Final[dict[FaultKind, tuple[str, str, int]]] = {
    FaultKind.THROTTLE: ("ThrottlingException", _RATE, 400),
    FaultKind.UNAVAILABLE: (
        "ServiceUnavailable",
        "The request has failed due to a temporary failure of the server.",
        503,
    ),
    FaultKind.EXPIRED_TOKEN: ("ExpiredTokenException", _EXPIRED, 400),
}
_ERRORS: Final[dict[Protocol, dict[FaultKind, tuple[str, str, int]]]] = {
    Protocol.JSON: _JSON_ERRORS,
    Protocol.CBOR: _JSON_ERRORS,
    Protocol.REST_JSON: {
        **_JSON_ERRORS,
        FaultKind.THROTTLE: ("TooManyRequestsException", _RATE, 429),
        FaultKind.EXPIRED_TOKEN: ("ExpiredTokenException", _EXPIRED, 403),
    },
    Protocol.QUERY: {
        FaultKind.THROTTLE: ("Throttling", _RATE, 400),
        FaultKind.UNAVAILABLE: ("ServiceUnavailable", "Service is unavailable", 503),
        FaultKind.EXPIRED_TOKEN: ("ExpiredToken", _EXPIRED, 403),
    },
    Protocol.EC2: {
        FaultKind.THROTTLE: ("RequestLimitExceeded", "Request limit exceeded.", 503),
        FaultKind.UNAVAILABLE: ("Unavailable", "The server is overloaded and can't handle the request.", 503),
        FaultKind.EXPIRED_TOKEN: ("RequestExpired", "Request has expired.", 400),
    },
    Protocol.S3: {
        FaultKind.THROTTLE: ("SlowDown", "Please reduce your request rate.", 503),
        FaultKind.INTERNAL_ERROR: (
            "InternalError",
            "We encountered an internal error. Please try again.",
            500,
        ),
        FaultKind.UNAVAILABLE: ("ServiceUnavailable", "Service is unable to handle request.", 503),
        FaultKind.ACCESS_DENIED: ("AccessDenied", "Access Denied", 403),
        FaultKind.EXPIRED_TOKEN: ("ExpiredToken", "The provided token has expired.", 400),
    },
}
_ERRORS[Protocol.REST_XML] = _ERRORS[Protocol.QUERY]


def fault_answer(kind: FaultKind, service: str, operation: str, protocol: Protocol) -> Answer:
    """The error as AWS words it for that service: what botocore then raises."""
    known = _ERRORS[protocol].get(kind)
    if known is None:
        known = (
            _internal_error(service, operation, protocol)
            if kind is FaultKind.INTERNAL_ERROR
            else _denied(service, operation, protocol)
        )
    return error_answer(protocol, *known)


def _internal_error(service: str, operation: str, protocol: Protocol) -> tuple[str, str, int]:
    """Under the name that the operation's own model has for it, as EMR's differ among its operations."""
    message = "An internal error occurred. Please retry your request."
    if protocol is Protocol.EC2:
        return "InternalError", "An internal error has occurred", 500
    names = _error_names(service, operation)
    for name in ("InternalServerException", "InternalServerError", "InternalServiceError"):
        if name in names:
            return name, message, 500
    return "InternalFailure", message, 500


def _denied(service: str, operation: str, protocol: Protocol) -> tuple[str, str, int]:
    action = f"{_IAM_PREFIXES.get(service, service)}:{operation}"
    message = (
        f"User: arn:aws:iam::123456789012:user/local is not authorized to perform: {action} because no "
        f"identity-based policy allows the {action} action"
    )
    if protocol is Protocol.EC2:
        return "UnauthorizedOperation", f"You are not authorized to perform this operation. {message}", 403
    if protocol in (Protocol.QUERY, Protocol.REST_XML):
        return "AccessDenied", message, 403
    return "AccessDeniedException", message, 403 if protocol is Protocol.REST_JSON else 400


_IAM_PREFIXES: Final = {"emr": "elasticmapreduce", "resourcegroupstaggingapi": "tag"}


def _error_names(service: str, operation: str) -> frozenset[str]:
    model = _model(service)
    if model is None or operation not in model.operation_names:
        return frozenset()
    return frozenset(shape.name for shape in model.operation_model(operation).error_shapes)


# What a rule may say


def fault_kind(given: str) -> FaultKind:
    """The fault of that name. Raises FaultError."""
    try:
        return FaultKind(given)
    except ValueError:
        raise FaultError(f"There is no fault {given!r}; there are: {', '.join(FaultKind)}.") from None


def _checked_operation(given: str) -> str:
    """With botocore's name of the service. A name that no call can have is refused: it would never fire."""
    if given == "*":
        return given
    service, colon, operation = given.partition(":")
    if not colon or not service or not operation:
        raise FaultError(
            f"An operation is written as service:Operation, such as emr:RunJobFlow, not {given!r}."
        )
    service = SERVICE_OF_SIGNING_NAME.get(service, service)
    if not set("*?[") & set(service):
        model = _model(service)
        if model is None:
            raise FaultError(f"botocore knows no service {service!r}.")
        names = list(model.operation_names)
        if not any(fnmatch.fnmatchcase(name, operation) for name in names):
            alike = [name for name in names if name.lower() == operation.lower().replace("_", "")]
            hint = f" Did you mean {service}:{alike[0]}?" if alike else ""
            raise FaultError(f"{service} has no operation {operation!r}.{hint}")
    return f"{service}:{operation}"


def _model(service: str) -> Any:
    from botocore.exceptions import UnknownServiceError

    from airflow_emr_etl.local.protocols import service_model

    try:
        return service_model(service)
    except UnknownServiceError:
        return None


def _check_number(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
        raise FaultError(f"{name} is a number, not {value!r}.")
