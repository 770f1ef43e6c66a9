"""Events of one queue for one reader: each of them once, and its message kept until the reader is done with it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from airflow_emr_etl.exceptions import EmrEtlError, ExpiredTokenError
from airflow_emr_etl.hooks.aws_errors import translate
from airflow_emr_etl.hooks.emr_events import ReceivedEvent
from airflow_emr_etl.models.emr_event import EmrEvent
from airflow_emr_etl.triggers.polling import in_task_thread

log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 5.0
"""For a message. A triggerer that stops waits for the thread, so not for SQS's longest time."""
_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
_MOST_REMEMBERED: Final = 10_000
_DELETED_AT_ONCE: Final = 10


class Queue(Protocol):
    """What is needed of ``EmrEventQueue``; its methods block."""

    def receive(self, wait_seconds: float) -> list[ReceivedEvent]: ...
    def delete(self, receipts: Sequence[str]) -> None: ...


class EventInbox:
    """See the module. Nobody else may read the queue: what is not wanted here is deleted.

    ``connect`` makes the queue, in a thread, and again after an error that a new connection may cure.
    """

    def __init__(
        self,
        connect: Callable[[], Queue],
        wants: Callable[[EmrEvent], bool],
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._connect = connect
        self._wants = wants
        self._draw = draw
        self._queue: Queue | None = None
        self._failures = 0
        # Of its own: a long poll would keep one of the few threads that all triggers share.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="emr-asset-events")
        self._receipts: dict[str, list[str]] = {}
        self._done: OrderedDict[str, None] = OrderedDict()
        self._spent: list[str] = []

    async def receive(self) -> list[EmrEvent]:
        """Wanted events that have not been given yet; none when none came for some seconds. Rides errors out."""
        spent, self._spent = self._spent, []
        await self._delete(spent)  # of the last time, so that what is wanted had not to wait for it
        new: list[EmrEvent] = []
        for each in await self._next():
            event = each.event
            if event is None or event.id in self._done or not self._wants(event):
                self._spent.append(each.receipt)
            elif event.id in self._receipts:  # visible again before it was done: the last receipt deletes it
                self._receipts[event.id].append(each.receipt)
            else:
                self._receipts[event.id] = [each.receipt]
                new.append(event)
        return new

    async def done(self, ids: Iterable[str]) -> None:
        """Nobody needs these events again. Where a message cannot be deleted, it is when it comes again."""
        spent: list[str] = []
        for event_id in ids:
            spent += self._receipts.pop(event_id, ())
            self._done[event_id] = None
        while len(self._done) > _MOST_REMEMBERED:
            self._done.popitem(last=False)
        await self._delete(spent)

    def again(self, ids: Iterable[str]) -> None:
        """These events are given again when their messages are visible again."""
        for event_id in ids:
            self._receipts.pop(event_id, None)

    def close(self) -> None:
        """A long poll that is under way ends by itself; messages that it still gets are visible again later."""
        self._threads.shutdown(wait=False)

    async def _next(self) -> list[ReceivedEvent]:
        while True:
            try:
                if self._queue is None:
                    self._queue = await in_task_thread(self._connect)
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(self._threads, self._queue.receive, WAIT_SECONDS)
            except Exception as error:
                failure = translate(error, "sqs:ReceiveMessage")
                if not failure.retryable or isinstance(failure, ExpiredTokenError):
                    self._queue = None
                await asyncio.sleep(self._pause_after(failure))
            else:
                if self._failures:
                    log.info("EMR's events are read again.")
                self._failures = 0
                return found

    def _pause_after(self, failure: EmrEtlError) -> float:
        """Seconds."""
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:
            log.warning("EMR's events cannot be read, will try again: %s", failure)
        longest = min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS * 2.0 ** min(self._failures - 1, 16))
        return longest * (0.5 + self._draw() / 2)

    async def _delete(self, receipts: list[str]) -> None:
        if not receipts or self._queue is None:
            return
        loop = asyncio.get_running_loop()
        try:
            for start in range(0, len(receipts), _DELETED_AT_ONCE):
                some = receipts[start : start + _DELETED_AT_ONCE]
                await loop.run_in_executor(self._threads, self._queue.delete, some)
        except Exception as error:
            log.warning("Messages of EMR's events could not be deleted: %s", translate(error))
