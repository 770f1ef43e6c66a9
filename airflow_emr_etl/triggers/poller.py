"""One poller for all waits of a triggerer on one connection and region.

Waits that came one by one cost one call each, each time; here they share them. Steps are asked for ten in a call,
or a list of their cluster's steps is read where that takes fewer calls; clusters are looked up in the
list of live ones. :mod:`~airflow_emr_etl.triggers.polling_schedule` decides when and how; this module does it.

**Who does what.** The poller is an asyncio task of its own, in no wait's context. It ends with its last wait. Calls
are made by a few threads. What needs Airflow, which is reading the connection, is done by one of the
waiting tasks, since Airflow answers only to those. What concerns a wait is written to the log of its task.

**Events.** Where a queue of EMR's events is named, what they say wakes or ends waits at once
(:mod:`~airflow_emr_etl.triggers.event_listener`). As long as they can be relied on, the poller looks rarely, for what
an event was lost of.

**What ends a wait**: what it waits for, an error that will not pass by itself, or its deadline; each for itself.
A step counts as ended only when EMR says so of it; that it is not listed says nothing.

Time is the event loop's, and the machine's clock for deadlines.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from airflow_emr_etl.exceptions import (
    AccessDeniedError,
    ClusterNotFoundError,
    EmrEtlError,
    ExpiredTokenError,
    ThrottledError,
)
from airflow_emr_etl.hooks.aws_errors import aws_call, translate
from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK
from airflow_emr_etl.hooks.emr_client import POLLING_THREADS, EmrClients
from airflow_emr_etl.hooks.emr_cluster import cluster_state
from airflow_emr_etl.hooks.emr_step import step_state
from airflow_emr_etl.models.emr_event import EmrEvent
from airflow_emr_etl.models.intent import without_mark
from airflow_emr_etl.models.states import (
    CLUSTER_ENDED,
    STEP_ACTIVE,
    STEP_ENDED,
    STEP_SUCCEEDED,
    ClusterState,
    StepState,
)
from airflow_emr_etl.models.step import MAX_ACTIVE_STEPS
from airflow_emr_etl.triggers.event_listener import REMEMBERED_SECONDS, EventListener, shared_listener
from airflow_emr_etl.triggers.places import LET_IN_SECONDS, Places
from airflow_emr_etl.triggers.polling import in_task_thread, plain
from airflow_emr_etl.triggers.polling_schedule import (
    Allowance,
    CallBudget,
    Pace,
    StepsToAsk,
    UsualDurations,
    Way,
    allowance_for_cluster,
    batches,
    by_list,
    calls_by_ids,
    calls_by_pages,
    haste,
    rate_for_cluster,
    steps_to_ask,
)

log = logging.getLogger(__name__)

CLUSTER_CHECK_EVERY: Final = 5
"""Of the looks at a cluster's steps: a step that waits or runs does not say that its cluster has gone."""
_GATHER_SECONDS: Final = 0.2
"""Triggers come in flocks: the first look waits for the others."""
_LAST_LOOK_SECONDS: Final = 2.0
"""Before the deadline."""
_MOST_LOOKS: Final = 2 * POLLING_THREADS
"""At once. Calls wait for their turn in the budget, so more would only be late in the order of their times."""
_SOON_SECONDS: Final = 30.0
_OUTAGE_SECONDS: Final = 2.0
_LONGEST_OUTAGE_SECONDS: Final = 60.0
_SHORTEST_SECONDS: Final = 0.01
"""Shorter sleeps could be lost in rounding."""
_RARELY: Final = 10.0
"""How many times as long the pauses between looks are while events can be relied on, ..."""
_RAREST_SECONDS: Final = 300.0
"""... and the longest of them; where many wait, calls are fewer still: ..."""
_RARE_CALLS: Final = (2.0, 4 / 60)
"""... so many at first, and so many a second, for all that is looked at for no other reason than to make sure."""
_SURE_STEPS: Final = 40
"""That one such look asks for at most, where a list of all is beyond EMR's own limit of active steps."""
_SETTLE_SECONDS: Final = 2.0
"""How long the first look waits until it is known whether events come."""
_EVENT_LAG_SECONDS: Final = 60.0
"""An event that has not come so long after its step's end is lost."""
_LIST_MISSES: Final = 3
"""So often a step may be missing from the answer before it is asked for alone: lists lag behind."""
_NOT_ENDED: Final = sorted(state.value for state in set(ClusterState) - CLUSTER_ENDED)
_ACTIVE: Final = sorted(state.value for state in STEP_ACTIVE)


@dataclass(frozen=True)
class Found:
    """What a wait ended with: one of these, or a time-out when there is none."""

    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The ``Step`` of EMR by id, as last seen."""
    cluster: dict[str, Any] | None = None
    """The ``Cluster`` that was waited for, or that ended under its steps."""
    error: EmrEtlError | None = None
    done: bool = False
    """Whether what was waited for has come."""


class Wait:
    """What one trigger waits for: steps of a cluster, the cluster itself where ``step_ids`` is None, or room.

    A step is waited for until it has ended or is in one of ``targets``, a cluster likewise; with ``fail_fast`` the
    first step that fails ends the wait for all. Room is there on one of the
    clusters ``room_on`` when it has fewer than ``most_active`` active steps, or has ended.
    """

    __slots__ = (
        "answered",
        "cluster_id",
        "context",
        "deadline",
        "due",
        "fail_fast",
        "failures",
        "found",
        "future",
        "log",
        "most_active",
        "of_steps",
        "open",
        "pace",
        "room_on",
        "targets",
        "timer",
    )

    def __init__(
        self,
        cluster_id: str,
        step_ids: Iterable[str] | None = None,
        *,
        targets: Iterable[str] = (),
        fail_fast: bool = False,
        room_on: Iterable[str] = (),
        most_active: int = MAX_ACTIVE_STEPS,
        pace: Pace,
        deadline: datetime | None = None,
        log: Callable[[str], object],
    ) -> None:
        self.cluster_id = cluster_id
        self.of_steps = step_ids is not None
        self.open = dict.fromkeys(step_ids or ())
        self.targets = frozenset(targets)
        self.fail_fast = fail_fast
        self.room_on = tuple(room_on)
        self.most_active = most_active
        self.pace = pace
        self.deadline = deadline
        self.log = log
        self.context = contextvars.copy_context()
        self.found: dict[str, dict[str, Any]] = {}
        self.future: asyncio.Future[Found | None] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None
        self.answered = False
        self.due = 0.0
        self.failures = 0

    @property
    def cluster_ids(self) -> tuple[str, ...]:
        return self.room_on or (self.cluster_id,)

    def tell(self, message: str) -> None:
        """A line in the log of the task that waits."""
        self.context.run(self.log, message)

    def end(self, found: Found) -> None:
        """The first end counts."""
        if not self.answered:
            self.answered = True
            if self.future.done():  # it is reading the connection, and has not come back to wait yet
                self.future = self.future.get_loop().create_future()
            self.future.set_result(found)

    @property
    def seconds_left(self) -> float:
        if self.deadline is None:
            return float("inf")
        return (self.deadline - SYSTEM_CLOCK.now()).total_seconds()


class _NobodyWaitsError(asyncio.CancelledError):
    """What was begun for waits is ended, since there are none any more."""


class _Cluster:
    """A cluster on which, or on whose steps, something waits."""

    def __init__(self, cluster_id: str, now: float, places: Places) -> None:
        self.id = cluster_id
        self.by_step: dict[str, list[Wait]] = {}
        #: Of the cluster itself.
        self.waits: list[Wait] = []
        #: For room for a step, in the order in which they came.
        self.rooms: list[Wait] = []
        self.places = places
        self.allowance = allowance_for_cluster(now)
        #: How far down the list of all steps the oldest was that is waited for.
        self.reach: int | None = None
        self.missed: dict[str, int] = {}
        self.looks = 0
        self.steps_due = float("inf")
        self.cluster_due = float("inf")
        self.is_busy = False
        #: To be looked at now, however few calls are wanted: something has happened, or it is the last look.
        self.steps_urgent = self.cluster_urgent = False
        #: Steps of which an event told that they have ended badly, and how often EMR was asked since.
        self.told: dict[str, int] = {}
        #: An event told that the cluster has ended, and EMR was not asked yet.
        self.told_ended = False
        #: Of the cluster, once it has ended with steps that seem open.
        self.ended: dict[str, Any] | None = None

    @property
    def is_idle(self) -> bool:
        return not self.by_step and not self.waits and not self.rooms

    def step_waits(self) -> Iterator[Wait]:
        seen: set[int] = set()
        for waits in self.by_step.values():
            for wait in waits:
                if id(wait) not in seen:
                    seen.add(id(wait))
                    yield wait
        yield from self.rooms

    def all_waits(self) -> list[Wait]:
        return [*self.step_waits(), *self.waits]


_pollers: dict[tuple[asyncio.AbstractEventLoop, Hashable], Poller] = {}
_left: dict[tuple[asyncio.AbstractEventLoop, str], tuple[float, Places]] = {}
"""Places of clusters on which nothing waits for the moment, but somebody was let in; and since when."""


def _places(loop: asyncio.AbstractEventLoop, cluster_id: str) -> Places:
    """Those that were left, or new ones."""
    now = loop.time()
    for key, (since, _) in list(_left.items()):
        if key[0].is_closed() or (key[0] is loop and since < now - LET_IN_SECONDS):
            del _left[key]
    _, found = _left.pop((loop, cluster_id), (now, Places()))
    return found


def shared_poller(key: Hashable) -> Poller:
    """The poller of the running event loop for ``key``: connection, region, and how its clients are made."""
    loop = asyncio.get_running_loop()
    for other in [entry for entry in _pollers if entry[0].is_closed()]:
        del _pollers[other]
    found = _pollers.get((loop, key))
    if found is None:
        found = _pollers[loop, key] = Poller(on_end=lambda: _pollers.pop((loop, key), None))
    return found


class Poller:
    """See the module. All methods are called in the event loop that it was made in."""

    def __init__(
        self,
        *,
        on_end: Callable[[], object] = lambda: None,
        budget: CallBudget | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._draw = draw
        self._budget = budget or CallBudget(now=self._loop.time(), draw=draw)
        self._clusters: dict[str, _Cluster] = {}
        self._usual = UsualDurations()
        self._threads = ThreadPoolExecutor(POLLING_THREADS, thread_name_prefix="emr-poller")
        self._free = asyncio.Semaphore(POLLING_THREADS)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._looks: set[asyncio.Task[None]] = set()
        self._clients: EmrClients | None = None
        self._connecting = asyncio.Lock()
        self._connector: Wait | None = None
        self._connected = asyncio.Event()
        self._connect_failures = 0
        self._lists_steps = self._lists_clusters = True
        self._live: int | None = None
        self._cluster_allowance = allowance_for_cluster(self._loop.time())
        self._looks_at_clusters = False
        self._events: EventListener | None = None
        self._events_settled = False
        self._listening: asyncio.Future[EmrEtlError] = self._loop.create_future()
        self._rare = Allowance(*_RARE_CALLS, now=self._loop.time())
        self._looked_rarely = False

    # What a trigger does

    async def wait(self, wait: Wait, connect: Callable[[], EmrClients]) -> Found:
        """Wait together with the others. ``connect`` makes the clients, should they be needed."""
        if wait.of_steps and not wait.open:
            if self._task is None:
                self._on_end()
            return Found(done=True)
        self._add(wait)
        try:
            while True:
                found = await wait.future
                if found is not None:
                    return found
                await self._connect(wait, connect)
        finally:
            self._remove(wait)

    def _add(self, wait: Wait) -> None:
        now = self._loop.time()
        wait.due = now + _GATHER_SECONDS
        is_late = wait.seconds_left <= _LAST_LOOK_SECONDS
        self._arm(wait)
        for cluster_id in wait.cluster_ids:
            cluster = self._clusters.get(cluster_id)
            if cluster is None:
                places = _places(self._loop, cluster_id)
                cluster = self._clusters[cluster_id] = _Cluster(cluster_id, now, places)
            if wait.room_on:
                if not cluster.rooms:
                    cluster.places.forget_count()  # nobody has kept it up
                    cluster.steps_urgent = True
                cluster.rooms.append(wait)
                cluster.steps_due = min(cluster.steps_due, wait.due)
            elif wait.of_steps:
                cluster.places.steps_came(wait.open.keys() - cluster.by_step.keys(), now)
                cluster.steps_urgent |= is_late
                for step_id in wait.open:
                    cluster.by_step.setdefault(step_id, []).append(wait)
                cluster.steps_due = min(cluster.steps_due, wait.due)
            else:
                cluster.waits.append(wait)
                cluster.cluster_due = min(cluster.cluster_due, wait.due)
                cluster.cluster_urgent = True  # it may be there already, and then no event comes
            self._recall(cluster, [*wait.open, None])
        self._wake.set()
        if self._task is None:
            # A context of its own: what it logs must not go to the log of the task that came first.
            self._task = self._loop.create_task(self._run(), context=contextvars.Context())

    def _remove(self, wait: Wait) -> None:
        wait.answered = True
        if wait.timer is not None:
            wait.timer.cancel()
        if self._loop.is_closed():
            return
        if self._connector is wait:
            self._connector = None
            self._connected.set()
        for cluster_id in wait.cluster_ids:
            cluster = self._clusters.get(cluster_id)
            if cluster is None:
                continue
            for step_id in [*wait.open, *wait.found]:
                self._forget(cluster, step_id, wait)
            for waits in (cluster.waits, cluster.rooms):
                if wait in waits:
                    waits.remove(wait)
            if cluster.is_idle:
                del self._clusters[cluster_id]
                if cluster.places.are_given:
                    _left[self._loop, cluster_id] = (self._loop.time(), cluster.places)
        if not self._clusters:
            self._wake.set()

    @staticmethod
    def _forget(cluster: _Cluster, step_id: str, wait: Wait) -> None:
        waits = cluster.by_step.get(step_id)
        if waits and wait in waits:
            waits.remove(wait)
            if not waits:
                del cluster.by_step[step_id]
                cluster.missed.pop(step_id, None)

    def _arm(self, wait: Wait) -> None:
        """The deadline holds whatever AWS and the threads do."""
        left = wait.seconds_left
        if left == float("inf"):
            return
        if left <= 0:
            # What has come already counts, if it is seen at once.
            settling = 0.0 if self._events_settled else _SETTLE_SECONDS
            wait.timer = self._loop.call_later(settling + _LAST_LOOK_SECONDS, wait.end, Found())
            wait.deadline = None
            return
        if left > _LAST_LOOK_SECONDS:
            wait.timer = self._loop.call_later(left - _LAST_LOOK_SECONDS, self._last_look, wait)
        else:
            wait.timer = self._loop.call_later(left, self._time_is_over, wait)

    def _last_look(self, wait: Wait) -> None:
        """Look once more, however few calls are wanted."""
        self._arm(wait)
        wait.due = self._loop.time()
        for cluster in [self._clusters[cluster_id] for cluster_id in wait.cluster_ids]:
            if wait.of_steps or wait.room_on:
                cluster.steps_due, cluster.steps_urgent = min(cluster.steps_due, wait.due), True
            else:
                cluster.cluster_due, cluster.cluster_urgent = min(cluster.cluster_due, wait.due), True
        self._wake.set()

    def _time_is_over(self, wait: Wait) -> None:
        if wait.seconds_left > 0:  # the machine's clock was set back
            self._arm(wait)
        else:
            wait.end(Found(steps=dict(wait.found)))

    async def _connect(self, wait: Wait, connect: Callable[[], EmrClients]) -> None:
        if not wait.answered:
            wait.future = self._loop.create_future()
        made = asyncio.ensure_future(in_task_thread(connect))
        made.add_done_callback(
            lambda late: late.cancelled() or late.exception()
        )  # also when nobody waits for it
        either: set[asyncio.Future[Any]] = {made, wait.future}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not made.done():
            return  # its time is over; another one does it
        try:
            self._clients = made.result()
            self._connect_failures = 0
        except Exception as error:
            failure = translate(error)
            if failure.retryable:
                self._connect_failures += 1
                self._warn([wait], failure)
            else:
                wait.end(Found(error=failure))
        finally:
            if self._connector is wait:
                self._connector = None
                self._connected.set()

    # The poller's own task

    async def _run(self) -> None:
        attending = self._loop.create_task(self._attend_events())
        try:
            await self._settle()
            while self._clusters:
                self._wake.clear()
                self._hurry_after_rest()
                self._begin_looks()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._until_next_look())
        except Exception as error:
            # A mistake of ours: to hide it would leave the waits to their deadlines.
            for wait in self._everybody():
                wait.end(Found(error=translate(error)))
        finally:
            self._on_end()
            self._threads.shutdown(wait=False, cancel_futures=True)
            if not self._loop.is_closed():
                attending.cancel()
                for look in self._looks:
                    look.cancel()

    def _until_next_look(self) -> float | None:
        if len(self._looks) >= _MOST_LOOKS:
            return None  # the next one begins when one of them ends
        now = self._loop.time()
        sure = now + self._rare.delay(now) if self._looks_rarely else now
        times = [
            max(cluster.steps_due, now + cluster.allowance.delay(now), 0.0 if cluster.steps_urgent else sure)
            for cluster in self._clusters.values()
            if (cluster.by_step or cluster.rooms) and not cluster.is_busy
        ]
        if not self._looks_at_clusters:
            times += [
                max(
                    cluster.cluster_due,
                    now + self._cluster_allowance.delay(now),
                    0.0 if cluster.cluster_urgent else sure,
                )
                for cluster in self._clusters.values()
            ]
        soonest = min(times, default=float("inf"))
        return None if soonest == float("inf") else max(soonest - now, _SHORTEST_SECONDS)

    def _begin_looks(self) -> None:
        now = self._loop.time()
        ready = [
            cluster
            for cluster in self._clusters.values()
            if cluster.steps_due <= now
            and not cluster.is_busy
            and cluster.allowance.delay(now) < _SHORTEST_SECONDS
        ]
        turns: list[tuple[bool, float, _Cluster | None]] = [
            (not cluster.steps_urgent, cluster.steps_due, cluster) for cluster in ready
        ]
        if not self._looks_at_clusters and self._cluster_allowance.delay(now) < _SHORTEST_SECONDS:
            late = [each for each in self._clusters.values() if each.cluster_due <= now]
            if late:
                calm = not any(each.cluster_urgent for each in late)
                turns.append((calm, min(each.cluster_due for each in late), None))
        for calm, _, cluster in sorted(turns, key=lambda turn: turn[:2]):
            if len(self._looks) >= _MOST_LOOKS or (calm and not self._may_make_sure(now)):
                continue
            if cluster is None:
                self._looks_at_clusters = True
                self._begin(self._look_at_clusters(makes_sure=calm and self._looks_rarely))
            else:
                cluster.is_busy = True
                self._begin(self._look_at_steps(cluster, makes_sure=calm and self._looks_rarely))

    def _may_make_sure(self, now: float) -> bool:
        """Whether there may be a look for no other reason than to make sure; it counts, if so."""
        if not self._looks_rarely:
            return True
        if self._rare.delay(now) >= _SHORTEST_SECONDS:
            return False
        self._rare.spend(now)  # and for what more it takes, once that is known
        return True

    def _begin(self, look: Any) -> None:
        task = self._loop.create_task(look)
        self._looks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._looks.discard(task)
        self._wake.set()
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            for wait in self._everybody():
                wait.end(Found(error=translate(error)))

    def _everybody(self) -> list[Wait]:
        return [wait for cluster in list(self._clusters.values()) for wait in cluster.all_waits()]

    # Steps

    async def _look_at_steps(self, cluster: _Cluster, *, makes_sure: bool) -> None:
        was_urgent, cluster.steps_urgent = cluster.steps_urgent, False
        told = [step_id for step_id in cluster.told if step_id in cluster.by_step]
        cluster.told = {step_id: cluster.told[step_id] + 1 for step_id in told}
        ended_before, lists = cluster.ended, self._lists_steps
        order = sorted(cluster.by_step, key=lambda step_id: min(w.due for w in cluster.by_step[step_id]))
        now = self._loop.time()
        due = [
            step_id
            for step_id in order
            if ended_before is not None or min(wait.due for wait in cluster.by_step[step_id]) <= now
        ]
        plan = steps_to_ask(due, order[len(due) :], cluster.places.active, cluster.reach)
        if cluster.rooms:
            plan = StepsToAsk(Way.ACTIVE, plan.ids)  # the one list that tells how many there are
        elif (
            makes_sure and len(plan.ids) > MAX_ACTIVE_STEPS
        ):  # to read all would take the calls of many minutes
            plan = StepsToAsk(Way.IDS, plan.ids[:_SURE_STEPS])
            due = [step_id for step_id in plan.ids if step_id in set(due)]
        looked: set[str] = set()
        asked: set[str] = looked
        calls = 0
        has_failed = False
        try:
            for step_id in told:
                if (
                    cluster.told.get(step_id, 0) > 1
                ):  # a list does not show its end yet: asked alone, EMR knows
                    calls += 1
                    await self._ask_for_step(cluster, step_id, looked)
            if not lists:
                for step_id in due:
                    calls += 1
                    await self._ask_for_step(cluster, step_id, looked)
                for wait in cluster.rooms[:1]:
                    wait.end(Found(done=True))  # nobody may count; EMR does, when the step is added
            elif plan.way is Way.IDS:
                for ids in plan.batches:
                    calls += 1
                    await self._ask_for_steps(cluster, ids, looked)
            else:
                calls = await self._read_lists(cluster, plan, looked)
            asked = {*plan.ids, *due}
            cluster.looks += 1
            cluster.allowance.rate = rate_for_cluster(calls, self._longest_interval(cluster))
            self._serve_rooms(cluster)
            if (cluster.by_step or cluster.rooms) and cluster.looks % CLUSTER_CHECK_EVERY == 1:
                alone = len(self._clusters) == 1
                check = self._loop.time() + (0.0 if alone else _SOON_SECONDS / 2)  # others come along
                cluster.cluster_due = min(cluster.cluster_due, check)
            if ended_before is not None:
                self._end_with_cluster(cluster, ended_before, looked)
        except EmrEtlError as failure:
            if failure.retryable:
                has_failed = True
                cluster.steps_urgent |= was_urgent
                self._failed(failure, list(cluster.step_waits()))
            elif isinstance(failure, AccessDeniedError) and lists:
                self._lists_steps = False  # DescribeStep may be allowed
                log.warning("Steps are asked for one by one: %s", failure)
            else:
                for wait in list(cluster.step_waits()):
                    self._fail(wait, failure)
        finally:
            if makes_sure:
                self._rare.spend(self._loop.time(), max(0, calls - 1))
            cluster.is_busy = False
            self._schedule(cluster, asked, haste(len(asked), calls), has_failed)

    async def _read_lists(self, cluster: _Cluster, plan: StepsToAsk, looked: set[str]) -> int:
        """Look at steps in a list; the number of calls."""

        def left() -> list[str]:
            return [each for each in plan.ids if each not in looked and each in cluster.by_step]

        calls = 0
        if plan.way is Way.ACTIVE:
            calls += await self._read_active(cluster, set(plan.ids), looked)
        # What a list of active steps does not show has ended, or is too new: many are looked up together.
        if plan.way is Way.NEWEST or calls_by_pages(cluster.reach or len(plan.ids)) < calls_by_ids(
            len(left())
        ):
            calls += await self._read_newest(cluster, left(), looked)
        for ids in batches(left()):
            calls += 1
            await self._ask_for_steps(cluster, ids, looked)
        return calls

    async def _read_newest(self, cluster: _Cluster, ids: list[str], looked: set[str]) -> int:
        """Read the list of all steps, the newest first, until it has shown ``ids``; the number of calls.

        Not much farther than it reached the last time: a step that it does not show yet would have it read to
        its end, which on a cluster that has lived for long is far.
        """
        wanted = set(ids)
        request: dict[str, Any] = {"ClusterId": cluster.id}
        most = 2 * calls_by_pages(max(len(ids), cluster.reach or 0))
        active: list[str] = []
        calls = seen = 0
        while True:
            answer = await self._call("ListSteps", request, cluster)
            calls += 1
            for step in answer["Steps"]:
                seen += 1
                if step_state(step) in STEP_ACTIVE:
                    active.append(step["Id"])
                if step["Id"] in wanted:
                    self._saw_step(cluster, step, looked)
            marker = answer.get("Marker")
            if marker is None or wanted <= looked or calls >= most:
                cluster.reach = seen
                if marker is None:
                    cluster.places.read(active, self._loop.time())
                return calls
            request["Marker"] = marker

    async def _read_active(self, cluster: _Cluster, wanted: set[str], looked: set[str]) -> int:
        """Take what the list of active steps says of those ``wanted``; the number of calls."""
        request: dict[str, Any] = {"ClusterId": cluster.id, "StepStates": _ACTIVE}
        active: list[str] = []
        calls = 0
        while True:
            answer = await self._call("ListSteps", request, cluster)
            calls += 1
            active += [step["Id"] for step in answer["Steps"]]
            for step in answer["Steps"]:
                if step["Id"] in wanted:
                    self._saw_step(cluster, step, looked)
            marker = answer.get("Marker")
            if marker is None:
                cluster.places.read(active, self._loop.time())
                return calls
            request["Marker"] = marker

    async def _ask_for_steps(self, cluster: _Cluster, ids: list[str], looked: set[str]) -> None:
        ids = [step_id for step_id in ids if step_id in cluster.by_step]
        if len(ids) <= 1:
            for step_id in ids:
                # A list may not show a new step yet; asked for by its id alone, EMR knows it.
                await self._ask_for_step(cluster, step_id, looked)
            return
        try:
            answer = await self._call("ListSteps", {"ClusterId": cluster.id, "StepIds": ids}, cluster)
        except (ClusterNotFoundError, AccessDeniedError):
            raise
        except EmrEtlError as failure:
            if failure.retryable:
                raise
            # One that EMR does not know is enough for it to refuse all of them.
            half = len(ids) // 2
            await self._ask_for_steps(cluster, ids[:half], looked)
            await self._ask_for_steps(cluster, ids[half:], looked)
            return
        for step in answer["Steps"]:
            self._saw_step(cluster, step, looked)
        for step_id in ids:
            if step_id not in looked and step_id in cluster.by_step:
                cluster.missed[step_id] = cluster.missed.get(step_id, 0) + 1
                if cluster.missed[step_id] >= _LIST_MISSES:
                    await self._ask_for_step(cluster, step_id, looked)

    async def _ask_for_step(self, cluster: _Cluster, step_id: str, looked: set[str]) -> None:
        try:
            answer = await self._call("DescribeStep", {"ClusterId": cluster.id, "StepId": step_id}, cluster)
        except EmrEtlError as failure:
            if failure.retryable:
                raise
            for wait in list(cluster.by_step.get(step_id, ())):
                wait.end(Found(steps=dict(wait.found), error=failure))
            return
        self._saw_step(cluster, answer["Step"], looked)

    def _saw_step(self, cluster: _Cluster, step: dict[str, Any], looked: set[str]) -> None:
        step_id, state = step["Id"], step_state(step)
        looked.add(step_id)
        cluster.missed.pop(step_id, None)
        if state in STEP_ENDED:
            cluster.told.pop(step_id, None)
            cluster.places.step_ended(step_id)
            self._learn(step)
            self._miss_event(cluster, step)
        for wait in list(cluster.by_step.get(step_id, ())):
            wait.failures = 0
            wait.found[step_id] = plain(step, "Id", "Name", "Status")
            if state in STEP_ENDED or state.value in wait.targets:
                wait.open.pop(step_id, None)
                self._forget(cluster, step_id, wait)
                failed = state in STEP_ENDED and state not in STEP_SUCCEEDED
                if not wait.open or (wait.fail_fast and failed):
                    wait.end(Found(steps=dict(wait.found), done=True))

    def _learn(self, step: dict[str, Any]) -> None:
        timeline = step["Status"].get("Timeline", {})
        start, end = timeline.get("StartDateTime"), timeline.get("EndDateTime")
        if isinstance(start, datetime) and isinstance(end, datetime):
            self._usual.learn(without_mark(step["Name"]), (end - start).total_seconds())

    def _to_usual_end(self, wait: Wait) -> float | None:
        """Seconds until the first of its running steps usually ends."""
        ends = []
        for step_id in wait.open:
            step = wait.found.get(step_id)
            start = step and step["Status"].get("Timeline", {}).get("StartDateTime")
            usual = self._usual.of(without_mark(step["Name"])) if step and start else None
            if usual is not None and isinstance(start, str):
                ran = (SYSTEM_CLOCK.now() - datetime.fromisoformat(start)).total_seconds()
                ends.append(usual - ran)
        return min(ends, key=abs, default=None)

    @staticmethod
    def _end_with_cluster(cluster: _Cluster, ended: dict[str, Any], looked: set[str]) -> None:
        """End the waits for steps that were looked at after their cluster had ended, and are open all the same."""
        for wait in list(cluster.step_waits()):
            if looked >= wait.open.keys():
                wait.end(Found(steps=dict(wait.found), cluster=ended))

    @staticmethod
    def _fail(wait: Wait, failure: EmrEtlError) -> None:
        if wait.room_on and isinstance(failure, ClusterNotFoundError):
            # Who wanted to add a step there finds out, and may have another cluster.
            wait.end(Found(done=True))
        else:
            wait.end(Found(steps=dict(wait.found), error=failure))

    def _serve_rooms(self, cluster: _Cluster) -> None:
        """Let in as many as there are places, those first that came first."""
        now = self._loop.time()
        for wait in list(cluster.rooms):
            if not wait.answered and cluster.places.free(wait.most_active, now):
                cluster.places.let_in(now)
                self._loop.call_later(LET_IN_SECONDS + 0.1, self._serve_again, cluster.id)
                wait.end(Found(done=True))

    def _serve_again(self, cluster_id: str) -> None:
        """Somebody who was let in may not have come."""
        cluster = self._clusters.get(cluster_id)
        if cluster is not None:
            self._serve_rooms(cluster)

    @staticmethod
    def _longest_interval(cluster: _Cluster) -> float:
        return min((wait.pace.ceiling for wait in cluster.step_waits()), default=30.0)

    def _schedule(self, cluster: _Cluster, asked: set[str], haste: float, has_failed: bool) -> None:
        """When the cluster's steps are looked at next."""
        now = self._loop.time()
        due = float("inf")
        for wait in list(cluster.step_waits()):
            if (wait.room_on and not has_failed) or wait.open.keys() & asked:
                delay = wait.pace.next(to_usual_end=self._to_usual_end(wait), draw=self._draw) / haste
                wait.due = now + self._before_deadline(wait, self._rarely(delay))
            for step_id in wait.open.keys() & cluster.told.keys():
                # An event that came during the look was told for nothing, or EMR lags behind its events.
                tries = cluster.told[step_id]
                pause = (
                    0.0 if tries == 0 else min(_LONGEST_OUTAGE_SECONDS, _OUTAGE_SECONDS * 2.0 ** (tries - 1))
                )
                wait.due = min(wait.due, now + pause)
                cluster.steps_urgent = True
            due = min(due, wait.due)
        cluster.steps_due = now if cluster.ended is not None else due

    def _before_deadline(self, wait: Wait, delay: float) -> float:
        """``delay``, or the seconds to the last look where that comes first."""
        last = wait.seconds_left - _LAST_LOOK_SECONDS
        return min(delay, max(last, _LAST_LOOK_SECONDS / 2))

    # Clusters

    async def _look_at_clusters(self, *, makes_sure: bool) -> None:
        now = self._loop.time()
        for cluster in self._clusters.values():
            cluster.cluster_urgent &= cluster.cluster_due > now
        # Those whose time comes soon anyway are taken along.
        every = sorted(
            (each for each in self._clusters.values() if each.cluster_due < float("inf")),
            key=lambda each: each.cluster_due,
        )
        due = [cluster for cluster in every if cluster.cluster_due <= now]
        looked: set[str] = set()
        interval = min((wait.pace.ceiling for cluster in every for wait in cluster.waits), default=30.0)
        calls = 0
        try:
            wanted = {cluster.id: cluster for cluster in every if cluster.cluster_due <= now + _SOON_SECONDS}
            if self._lists_clusters and by_list(len(due), len(wanted), self._live):
                due = await self._read_live(wanted, looked)
                calls += calls_by_pages(self._live or 0)
            for cluster in due:
                calls += 1
                await self._ask_for_cluster(cluster, looked)
            self._cluster_allowance.rate = rate_for_cluster(calls, interval)
        except EmrEtlError as failure:
            waits = [wait for cluster in due for wait in cluster.all_waits()]
            if failure.retryable:
                self._failed(failure, waits)
            elif self._lists_clusters:
                self._lists_clusters = False  # DescribeCluster may be allowed
                log.warning("Clusters are asked for one by one: %s", failure)
        finally:
            if makes_sure:
                self._rare.spend(self._loop.time(), max(0, calls - 1))
            self._looks_at_clusters = False
            now = self._loop.time()
            for cluster in every:
                if cluster.id in looked:
                    due_next = self._next_of_cluster(cluster, now)
                    # What was heard during the look counts.
                    cluster.cluster_due = now if cluster.cluster_urgent else due_next

    def _next_of_cluster(self, cluster: _Cluster, now: float) -> float:
        due = float("inf")
        for wait in cluster.waits:
            wait.due = now + self._before_deadline(wait, self._rarely(wait.pace.next(draw=self._draw)))
            due = min(due, wait.due)
        return due

    async def _read_live(self, wanted: dict[str, _Cluster], looked: set[str]) -> list[_Cluster]:
        """Take what the list of live clusters says of those ``wanted``; the ones to ask for by id."""
        request: dict[str, Any] = {"ClusterStates": _NOT_ENDED}
        seen = 0
        ask = dict(wanted)
        while True:
            answer = await self._call("ListClusters", request, None)
            seen += len(answer["Clusters"])
            for summary in answer["Clusters"]:
                cluster = wanted.get(summary["Id"])
                state = summary["Status"]["State"]
                is_told = cluster is None or cluster.told_ended  # lists may lag behind events
                if cluster is not None and not (is_told or any(state in w.targets for w in cluster.waits)):
                    looked.add(cluster.id)
                    ask.pop(cluster.id, None)  # pages are no snapshot: it may be listed twice
            marker = answer.get("Marker")
            if marker is None or not ask:
                self._live = seen
                # One that is not listed has ended, or is too new: only itself can say.
                return list(ask.values())
            request["Marker"] = marker

    async def _ask_for_cluster(self, cluster: _Cluster, looked: set[str]) -> None:
        try:
            answer = await self._call("DescribeCluster", {"ClusterId": cluster.id}, None)
        except EmrEtlError as failure:
            if failure.retryable:
                raise
            looked.add(cluster.id)
            for wait in cluster.all_waits():
                self._fail(wait, failure)
            return
        looked.add(cluster.id)
        cluster.told_ended = False
        found = answer["Cluster"]
        state = cluster_state(found)
        told = plain(found, "Id", "Name", "Status", "LogUri", "Tags")
        for wait in list(cluster.waits):
            wait.failures = 0
            if state in CLUSTER_ENDED or state.value in wait.targets:
                wait.end(Found(cluster=told, done=True))
        if state in CLUSTER_ENDED:
            for wait in cluster.rooms:
                wait.end(Found(done=True))
        if state in CLUSTER_ENDED and cluster.by_step:
            # Steps may have ended just before their cluster did: their last states count.
            cluster.ended = told
            cluster.steps_due = self._loop.time()
            cluster.steps_urgent = True

    # Events

    @property
    def _looks_rarely(self) -> bool:
        return self._events is not None and self._events.is_reliable

    def _rarely(self, delay: float) -> float:
        return min(delay * _RARELY, _RAREST_SECONDS) if self._looks_rarely else delay

    async def _settle(self) -> None:
        """Give events the time to begin: who waits for many steps need not look at all of them first."""
        last = self._loop.time() + _SETTLE_SECONDS
        while self._clusters and not self._events_settled and (left := last - self._loop.time()) > 0:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left)

    def _settled(self) -> None:
        self._events_settled = True
        self._wake.set()

    async def _attend_events(self) -> None:
        """Listen to the queue of EMR's events, if one is named, and begin again when that has failed."""
        failures = 0
        while True:
            try:
                clients = await self._client()
            except _NobodyWaitsError:
                await asyncio.sleep(_SETTLE_SECONDS)
                continue
            try:
                queue = clients.events_or_failure
                if queue is None or isinstance(queue, EmrEtlError):
                    if queue is not None:
                        log.warning("EMR is looked at without events: %s", queue)
                    self._settled()
                    return
                url = await self._loop.run_in_executor(self._threads, getattr, queue, "url")
                listener = shared_listener(url, queue)
                failure = await self._listen(listener)
                if listener.since is not None:
                    failures = 0
            except Exception as error:
                failure = translate(error)
            failures += 1
            if failures & (failures - 1) == 0:
                log.warning("EMR is looked at without events, for their queue cannot be read: %s", failure)
            if isinstance(failure, ExpiredTokenError) and self._clients is clients:
                self._clients = None
            self._settled()
            await asyncio.sleep(self._outage_pause(failures))

    async def _listen(self, listener: EventListener) -> EmrEtlError:
        """Until the listener has given up."""
        self._listening = self._loop.create_future()
        self._events = listener
        listener.subscribe(self)
        try:
            for cluster in list(self._clusters.values()):
                self._recall(cluster, [*cluster.by_step, None])
            if listener.is_reliable:
                self._settled()
            return await self._listening
        finally:
            listener.unsubscribe(self)
            self._events = None

    def heard(self, event: EmrEvent) -> None:
        """An event has come, of whatever cluster."""
        cluster = self._clusters.get(event.cluster_id)
        if cluster is None:
            return
        now = self._loop.time()
        if event.step_id is None:
            wanted = any(event.state in wait.targets for wait in cluster.waits)
            if wanted or event.state in _CLUSTER_ENDS:
                cluster.cluster_due = now
                cluster.cluster_urgent = True
                cluster.told_ended |= event.state in _CLUSTER_ENDS
                self._wake.set()
            return
        if event.state in _STEP_ENDS:
            cluster.places.step_ended(event.step_id)
            self._serve_rooms(cluster)
        waits = cluster.by_step.get(event.step_id, ())
        if event.state in _STEP_SUCCESSES and waits:
            self._saw_step(cluster, _step_of(event, waits[0].found.get(event.step_id)), set())
        elif event.state in _STEP_ENDS or any(event.state in wait.targets for wait in waits):
            # The event does not tell why: EMR does.
            for wait in waits:
                wait.due = now
            if waits:
                cluster.told.setdefault(event.step_id, 0)
                cluster.steps_due = now
                cluster.steps_urgent = True
                self._wake.set()

    def _recall(self, cluster: _Cluster, step_ids: Iterable[str | None]) -> None:
        """Hear again what came before anybody waited for it."""
        if self._events is not None:
            for step_id in step_ids:
                event = self._events.remembered(cluster.id, step_id)
                if event is not None:
                    self.heard(event)

    def events_changed(self) -> None:
        self._settled()

    def events_ended(self, failure: EmrEtlError) -> None:
        if not self._listening.done():
            self._listening.set_result(failure)

    def _hurry_after_rest(self) -> None:
        """Look at everything within its usual time when events can no longer be relied on."""
        rarely = self._looks_rarely
        if rarely and not self._looked_rarely:
            self._rare = Allowance(*_RARE_CALLS, now=self._loop.time())
        if self._looked_rarely and not rarely:
            now = self._loop.time()
            for cluster in self._clusters.values():
                for wait in cluster.all_waits():
                    wait.due = min(wait.due, now + self._draw() * min(wait.pace.ceiling, _SOON_SECONDS))
                cluster.steps_due = min((wait.due for wait in cluster.step_waits()), default=float("inf"))
                due = min((wait.due for wait in cluster.waits), default=float("inf"))
                cluster.cluster_due = min(cluster.cluster_due, due)
        self._looked_rarely = rarely

    def _miss_event(self, cluster: _Cluster, step: dict[str, Any]) -> None:
        """Doubt the events where a look has found a step's end, and no event comes of it in time."""
        events = self._events
        end = step["Status"].get("Timeline", {}).get("EndDateTime")
        if events is None or events.since is None or not isinstance(end, datetime) or end <= events.since:
            return
        if step_state(step) is StepState.INTERRUPTED:
            return

        def check() -> None:
            if events.is_behind:
                self._loop.call_later(_EVENT_LAG_SECONDS / 2, check)
            elif self._events is events and events.remembered(cluster.id, step["Id"]) is None:
                events.doubt(f"No event has come of the end of step {step['Id']} on cluster {cluster.id}.")

        age = (SYSTEM_CLOCK.now() - end).total_seconds()
        if age > REMEMBERED_SECONDS - _EVENT_LAG_SECONDS:
            return  # its event may have come, and been forgotten
        self._loop.call_later(max(0.0, _EVENT_LAG_SECONDS - age), check)

    # Calls

    async def _call(
        self, operation: str, request: dict[str, Any], cluster: _Cluster | None
    ) -> dict[str, Any]:
        """One call, when the budget has room for it. Raises this package's errors."""
        clients = await self._client()
        while (delay := self._budget.delay(self._loop.time())) > 0:
            await asyncio.sleep(max(delay, _SHORTEST_SECONDS))
        now = self._loop.time()
        self._budget.spend(now)
        (cluster.allowance if cluster is not None else self._cluster_allowance).spend(now)
        method = _METHODS[operation]

        def call() -> dict[str, Any]:
            with aws_call(f"emr:{operation}"):
                answer: dict[str, Any] = getattr(clients.polls, method)(**request)
                return answer

        try:
            async with self._free:
                answer = await self._loop.run_in_executor(self._threads, call)
        except Exception as error:
            failure = translate(error, f"emr:{operation}")
            if isinstance(failure, ThrottledError):
                self._budget.throttled(self._loop.time())
            else:
                self._budget.answered()
            if isinstance(failure, ExpiredTokenError) and self._clients is clients:
                self._clients = None
            raise failure from error
        self._budget.answered()
        return answer

    async def _client(self) -> EmrClients:
        """The clients, which one of the waiting tasks makes: only those may ask Airflow for a connection."""
        async with self._connecting:
            while self._clients is None:
                waits = [wait for wait in self._everybody() if not wait.answered and not wait.future.done()]
                if not waits:
                    raise _NobodyWaitsError
                self._connected.clear()
                self._connector = waits[self._connect_failures % len(waits)]
                self._connector.future.set_result(None)
                await self._connected.wait()
                if self._clients is None and self._connect_failures:
                    await asyncio.sleep(self._outage_pause(self._connect_failures))
            return self._clients

    def _failed(self, failure: EmrEtlError, waits: list[Wait]) -> None:
        """Look again after a pause."""
        self._warn(waits, failure)
        now = self._loop.time()
        for wait in waits:
            wait.due = now + self._before_deadline(wait, self._outage_pause(wait.failures))
        ids = dict.fromkeys(cluster_id for wait in waits for cluster_id in wait.cluster_ids)
        for cluster in [self._clusters.get(cluster_id) for cluster_id in ids]:
            if cluster is not None and cluster.cluster_due <= now:
                cluster.cluster_due = max(now, min((wait.due for wait in cluster.all_waits()), default=now))

    def _outage_pause(self, failures: int) -> float:
        longest = min(_LONGEST_OUTAGE_SECONDS, _OUTAGE_SECONDS * 2.0 ** min(failures, 16))
        return longest * (0.5 + self._draw() / 2)

    @staticmethod
    def _warn(waits: list[Wait], failure: EmrEtlError) -> None:
        """Say so in their logs: the first time, and when it has happened twice as often as when last said."""
        for wait in waits:
            wait.failures += 1
            if wait.failures & (wait.failures - 1) == 0:
                wait.tell(f"Cannot look, will try again: {failure}")


def _step_of(event: EmrEvent, seen: dict[str, Any] | None) -> dict[str, Any]:
    """The ``Step`` of EMR, as far as its event and the last look tell."""
    timeline = (seen or {}).get("Status", {}).get("Timeline", {})
    status = {
        "State": event.state,
        "StateChangeReason": {},
        "Timeline": {**timeline, "EndDateTime": event.time.isoformat()},
    }
    return {"Id": event.step_id, "Name": event.name, "Status": status}


_CLUSTER_ENDS: Final = frozenset(state.value for state in CLUSTER_ENDED)
_STEP_ENDS: Final = frozenset(state.value for state in STEP_ENDED)
_STEP_SUCCESSES: Final = frozenset(state.value for state in STEP_SUCCEEDED)
_METHODS: Final = {
    "ListSteps": "list_steps",
    "DescribeStep": "describe_step",
    "ListClusters": "list_clusters",
    "DescribeCluster": "describe_cluster",
}
