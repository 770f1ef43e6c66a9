"""How the triggers wait: quick at first, then calmly, never for ever."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_emr_etl import exceptions
from airflow_emr_etl.exceptions import EmrEtlError, ExpiredTokenError
from airflow_emr_etl.hooks.aws_errors import translate
from airflow_emr_etl.triggers.polling_schedule import Pace

T = TypeVar("T")


def poll_delays(
    ceiling: float, *, first: float = 1.0, draw: Callable[[], float] = random.random
) -> Iterator[float]:
    """Seconds to wait before each next look, without end.

    They grow from ``first`` to ``ceiling``, so that a step of some seconds is seen at once and one of hours
    costs few calls; each is up to a fifth longer or shorter, so that many waiters spread out.
    """
    pace = Pace(first, ceiling)
    while True:
        yield pace.next(draw=draw)


class PollingTrigger(BaseTrigger):
    """Looks, through boto3 in a thread, until ``look`` has an answer or the deadline has passed.

    The event's payload has the trigger's own ``fields()`` (``dag.test`` drops what ``defer(kwargs=)`` would
    carry) and a ``status``: ``done`` or another of the subclass's, ``timeout``, or ``error``: an error that a
    repetition cannot cure, under ``error`` as ``error_document`` writes it. Errors that can pass
    (throttling, an outage) are waited out until the deadline. An exception of ``run`` would fail the task
    without telling the operator, which could then not clean up.

    ``deadline`` is a time in UTC, ISO format: it holds through restarts of the triggerer. ``carry`` is plain
    JSON of the operator's that comes back with the event.
    """

    def __init__(
        self,
        *,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        poll_interval: float = 30.0,
        first_poll: float = 1.0,
        deadline: str | None = None,
        carry: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.carry = carry
        #: What ``connect`` made, once it has.
        self.hook: Any = None
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.poll_interval = poll_interval
        self.first_poll = first_poll
        self.deadline = deadline

    def connect(self) -> Any:
        """Make the hook, with its client. Runs in a thread, once."""
        raise NotImplementedError

    def look(self, hook: Any) -> dict[str, Any] | None:
        """The event's payload, or None to look again later. Runs in a thread."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """What the subclass needs to be made again."""
        raise NotImplementedError

    def serialize(self) -> tuple[str, dict[str, Any]]:
        common = {
            "aws_conn_id": self.aws_conn_id,
            "region_name": self.region_name,
            "poll_interval": self.poll_interval,
            "first_poll": self.first_poll,
            "deadline": self.deadline,
            "carry": self.carry,
        }
        return f"{type(self).__module__}.{type(self).__qualname__}", {**self.fields(), **common}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        yield TriggerEvent(await self.wait())  # type: ignore[no-untyped-call]

    async def wait(
        self,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> dict[str, Any]:
        """Look until there is a payload; for the triggerer."""
        for delay in self._delays():
            try:
                if self.hook is None:
                    self.hook = await in_task_thread(self.connect)
                payload = await asyncio.to_thread(self.look, self.hook)
            except Exception as error:
                self.hook = None if isinstance(translate(error), ExpiredTokenError) else self.hook
                payload = self._payload_of(error)
            payload = payload or self._payload_of_time(now())
            if payload is not None:
                return {**self.fields(), "carry": self.carry, **payload}
            await sleep(self._until_deadline(delay, now()))
        raise AssertionError("delays never end")

    def wait_here(
        self,
        *,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> dict[str, Any]:
        """The same wait in the worker, for a task that does not defer."""
        for delay in self._delays():
            try:
                if self.hook is None:
                    self.hook = self.connect()
                payload = self.look(self.hook)
            except Exception as error:
                self.hook = None if isinstance(translate(error), ExpiredTokenError) else self.hook
                payload = self._payload_of(error)
            payload = payload or self._payload_of_time(now())
            if payload is not None:
                return {**self.fields(), "carry": self.carry, **payload}
            sleep(self._until_deadline(delay, now()))
        raise AssertionError("delays never end")

    def _delays(self) -> Iterator[float]:
        return poll_delays(self.poll_interval, first=self.first_poll)

    def _payload_of(self, error: Exception) -> dict[str, Any] | None:
        failure = translate(error)
        if failure.retryable:
            self.log.warning("Cannot look, will try again: %s", failure)
            return None
        return {"status": "error", "error": error_document(failure)}

    def _payload_of_time(self, now: datetime) -> dict[str, Any] | None:
        return {"status": "timeout"} if self._until_deadline(1.0, now) <= 0 else None

    def _until_deadline(self, delay: float, now: datetime) -> float:
        """``delay``, or the seconds to the deadline where that comes first."""
        if self.deadline is None:
            return delay
        return max(0.0, min(delay, (datetime.fromisoformat(self.deadline) - now).total_seconds()))


def instant(text: str | None) -> datetime | None:
    """A time that is kept as ISO text."""
    return None if text is None else datetime.fromisoformat(text)


async def in_task_thread(function: Callable[[], T]) -> T:
    """Run something that reads an Airflow connection, in a thread.

    ``asyncio.to_thread`` will not do: before Airflow 3.3 a connection is fetched through the triggerer's own
    event loop, which only asgiref's threads know. Its single thread also fits boto3, whose sessions must not
    be made side by side.
    """
    from asgiref.sync import sync_to_async

    # Shielded, since a cancellation that asgiref passes on has lost the message by which Airflow knows that a
    # user did it, and would not call on_kill.
    result: T = await asyncio.shield(asyncio.ensure_future(sync_to_async(function)()))
    return result


def error_document(error: EmrEtlError) -> dict[str, Any]:
    """An error as plain JSON, for the way from the triggerer to the worker."""
    details = {
        key: value for key, value in error.details.items() if isinstance(value, str | int | float | None)
    }
    return {"type": type(error).__name__, "message": error.message, "details": details}


def error_from(document: dict[str, Any]) -> EmrEtlError:
    """The error that ``error_document`` wrote."""
    found = getattr(exceptions, document["type"], EmrEtlError)
    made: EmrEtlError = found(document["message"], **document.get("details", {}))
    return made


def plain(answer: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Some keys of a boto3 answer as plain JSON: times as ISO text."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item) for item in value]
        return value.isoformat() if isinstance(value, datetime) else value

    return {key: walk(answer[key]) for key in keys if key in answer}
