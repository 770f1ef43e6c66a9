"""One listener for all pollers of a triggerer whose events come through the same SQS queue.

It asks the queue for messages again and again, each time for as long as one may come, and hands each event to
every poller. It decides nothing about waits: pollers do, and go on looking now and then in any case.

**Messages** are deleted some seconds after they were handed on, when what they ended is on record in Airflow; a
triggerer that dies before that leaves them to the next one. They may come late, twice or for others: what ended a step
is kept for a while, for the wait that begins only after its step has ended.

**What can be relied on.** While the queue answers, and nothing has been seen to end without its event, pollers look
rarely. Otherwise they are told so, and look as often as without events.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final, Protocol

from airflow_emr_etl.exceptions import EmrEtlError, ExpiredTokenError
from airflow_emr_etl.hooks.aws_errors import translate
from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK
from airflow_emr_etl.hooks.emr_events import MOST_MESSAGES, ReceivedEvent
from airflow_emr_etl.models.emr_event import EmrEvent
from airflow_emr_etl.models.states import CLUSTER_ENDED, STEP_ENDED

log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 5.0
"""For a message. A triggerer that stops waits for the thread, so not for SQS's longest time."""
HOLD_SECONDS: Final = 10.0
"""From an event's arrival to the end of its message; less than the visibility timeout of any sensible queue."""
DOUBT_SECONDS: Final = 600.0
"""How long events are not relied on once one did not come."""
_MOST_REMEMBERED: Final = 20_000
REMEMBERED_SECONDS: Final = 900.0
"""How long the ends of steps and clusters are remembered."""
_FAILURES_TO_LOSE: Final = 2
"""In a row, until the queue counts as lost: one can happen at any time."""
_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
_DELETED_AT_ONCE: Final = 10
_RECEIVERS: Final = 3
"""That ask at the same time while there are more messages than one call gives."""
_ENDS: Final = frozenset(state.value for state in (*STEP_ENDED, *CLUSTER_ENDED))


class Queue(Protocol):
    """What is needed of ``EmrEventQueue``; its methods block."""

    def receive(self, wait_seconds: float) -> list[ReceivedEvent]: ...
    def delete(self, receipts: Sequence[str]) -> None: ...


class Subscriber(Protocol):
    def heard(self, event: EmrEvent) -> None:
        """An event has come, whosever it is."""

    def events_changed(self) -> None:
        """Whether events can be relied on has changed."""

    def events_ended(self, failure: EmrEtlError) -> None:
        """The listener has given up: the queue cannot be read as it is."""


_listeners: dict[tuple[asyncio.AbstractEventLoop, str], EventListener] = {}


def shared_listener(url: str, queue: Queue) -> EventListener:
    """The listener of the running event loop for the queue at ``url``; ``queue`` reads it, if nobody does yet."""
    loop = asyncio.get_running_loop()
    for other in [key for key in _listeners if key[0].is_closed()]:
        del _listeners[other]
    key = (loop, url)

    def forget() -> None:
        if _listeners.get(key) is found:  # and not one that has taken its place since
            del _listeners[key]

    found = _listeners.get(key)
    if found is None:
        found = _listeners[key] = EventListener(queue, on_end=forget)
    return found


class EventListener:
    """See the module. All methods are called in the event loop that it was made in."""

    def __init__(
        self,
        queue: Queue,
        *,
        on_end: Callable[[], object] = lambda: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = queue
        self._on_end = on_end
        self._draw = draw
        self._subscribers: list[Subscriber] = []
        self._threads = ThreadPoolExecutor(_RECEIVERS + 1, thread_name_prefix="emr-events")
        self._task: asyncio.Task[None] | None = None
        self._deletions: set[asyncio.Task[None]] = set()
        self._spent: deque[tuple[float, str]] = deque()
        self._remembered: OrderedDict[tuple[str, str | None], tuple[float, EmrEvent]] = OrderedDict()
        self._answers = False
        self._failures = 0
        self._doubted_until = float("-inf")
        #: There are more messages than have been read: what has no event yet may still have one.
        self.is_behind = False
        #: When what happens on EMR began to be heard.
        self.since: datetime | None = None

    @property
    def is_reliable(self) -> bool:
        """Whether what ends is heard of, as far as anybody can tell."""
        return self._answers and self._loop.time() >= self._doubted_until

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)
        if self._task is None:
            # A context of its own: what it logs must not go to the log of the task that came first.
            self._task = self._loop.create_task(self._run(), context=contextvars.Context())

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Without subscribers it ends, as soon as the queue has answered."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)

    def remembered(self, cluster_id: str, step_id: str | None) -> EmrEvent | None:
        """The end of a step or cluster of which an event has come lately."""
        found = self._remembered.get((cluster_id, step_id))
        return None if found is None else found[1]

    def doubt(self, why: str) -> None:
        """Something has ended, and no event of it has come."""
        was_reliable = self.is_reliable
        self._doubted_until = self._loop.time() + DOUBT_SECONDS
        if was_reliable:
            log.warning("%s For %d minutes EMR is looked at as without events.", why, DOUBT_SECONDS // 60)
            self._loop.call_later(DOUBT_SECONDS + 0.1, self._changed)
            self._changed()

    async def _run(self) -> None:
        try:
            seconds = 0.0  # the first answer comes at once: until then nobody knows whether there is a queue
            while self._subscribers:
                answers = await asyncio.gather(
                    *(
                        # What is there is taken; to wait for more would keep it from who waits for it.
                        self._loop.run_in_executor(
                            self._threads, self._queue.receive, 0.0 if self.is_behind else seconds
                        )
                        for _ in range(_RECEIVERS if self.is_behind else 1)
                    ),
                    return_exceptions=True,
                )
                received = [answer for answer in answers if not isinstance(answer, BaseException)]
                self.is_behind = any(len(some) == MOST_MESSAGES for some in received)
                if received:
                    seconds = WAIT_SECONDS
                    self._answered()
                now = self._loop.time()
                for each in [each for some in received for each in some]:
                    self._spent.append((now, each.receipt))
                    if each.event is not None:
                        self._hand_on(each.event, now)
                self._delete_spent(now)
                for error in [answer for answer in answers if isinstance(answer, Exception)][:1]:
                    failure = translate(error, "sqs:ReceiveMessage")
                    if not failure.retryable or isinstance(failure, ExpiredTokenError):
                        self._give_up(failure)
                        return
                    if not received:
                        await asyncio.sleep(self._failed(failure))
        except Exception as error:  # a mistake of ours; the pollers look without events
            self._give_up(translate(error))
        finally:
            self._on_end()
            if self._deletions:
                await asyncio.wait(self._deletions)
            self._threads.shutdown(wait=False)

    def _hand_on(self, event: EmrEvent, now: float) -> None:
        if event.state in _ENDS:
            key = (event.cluster_id, event.step_id)
            known = self._remembered.pop(key, None)
            self._remembered[key] = (now, event)
            if known is not None and known[1].id == event.id:
                return
        while self._remembered:
            oldest = next(iter(self._remembered.values()))[0]
            if len(self._remembered) <= _MOST_REMEMBERED and oldest >= now - REMEMBERED_SECONDS:
                break
            self._remembered.popitem(last=False)
        for subscriber in list(self._subscribers):
            subscriber.heard(event)

    def _answered(self) -> None:
        self._failures = 0
        if not self._answers:
            self._answers = True
            self.since = SYSTEM_CLOCK.now()
            self._changed()

    def _failed(self, failure: EmrEtlError) -> float:
        """Seconds to wait."""
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:
            log.warning("No EMR events can be read, will try again: %s", failure)
        if self._answers and self._failures >= _FAILURES_TO_LOSE:
            self._answers = False
            self._changed()
        longest = min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS * 2.0 ** min(self._failures - 1, 16))
        return longest * (0.5 + self._draw() / 2)

    def _give_up(self, failure: EmrEtlError) -> None:
        self._answers = False
        self._on_end()
        for subscriber in list(self._subscribers):
            subscriber.events_ended(failure)

    def _changed(self) -> None:
        for subscriber in list(self._subscribers):
            subscriber.events_changed()

    def _delete_spent(self, now: float) -> None:
        due: list[str] = []
        while self._spent and self._spent[0][0] <= now - HOLD_SECONDS:
            due.append(self._spent.popleft()[1])
        for start in range(0, len(due), _DELETED_AT_ONCE):
            task = self._loop.create_task(self._delete(due[start : start + _DELETED_AT_ONCE]))
            self._deletions.add(task)
            task.add_done_callback(self._deletions.discard)

    async def _delete(self, receipts: list[str]) -> None:
        try:
            await self._loop.run_in_executor(self._threads, self._queue.delete, receipts)
        except Exception as error:
            # They come again, and do no harm.
            log.warning("Messages of EMR events could not be deleted: %s", translate(error))
