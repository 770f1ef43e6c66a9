"""Virtual time, and processes that run by it: one at a time, and the same way for the same seed."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import heapq
import itertools
import random
from asyncio import events
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import greenlet

#: When every simulation begins.
BEGINNING = datetime(2026, 1, 5, tzinfo=UTC)


class KilledError(BaseException):
    """Ends what a killed process was doing. A process that is dead gets it again at whatever it tries."""


class Handle:
    """Something that will happen."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Process:
    """A worker's or the triggerer's process, with the threads in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        #: Its supervisor is dead: nothing that it tells Airflow arrives any more.
        self.detached = False
        self.fibers: list[Fiber] = []

    def check(self) -> None:
        if not self.alive:
            raise KilledError(self.name)


class Fiber(greenlet.greenlet):  # type: ignore[misc]
    """A thread of a process, which runs until it sleeps or waits."""

    def __init__(self, world: World, process: Process, what: Callable[[], None]) -> None:
        super().__init__(self._body, world.hub)
        self.world = world
        self.process = process
        self._what = what
        self._wake: Handle | None = None
        process.fibers.append(self)

    def _body(self) -> None:
        with contextlib.suppress(KilledError):
            self._what()
        self.process.fibers.remove(self)

    def wake(self) -> None:
        """End its wait now."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = self.world.call_later(0, self._resume)

    def _resume(self) -> None:
        self._wake = None
        self.switch()

    def kill(self) -> None:
        """From the hub only."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if self:  # begun, and not at its end
            self.throw(KilledError(self.process.name))

    def wait(self, seconds: float | None) -> None:
        """Until ``wake``, or so long."""
        self.process.check()
        self._wake = self.world.call_later(seconds if seconds is not None else float("inf"), self._resume)
        loop = events._get_running_loop()  # it belongs to this fiber, not to the one that runs next
        events._set_running_loop(None)
        try:
            self.world.hub.switch()
        finally:
            events._set_running_loop(loop)
        self.process.check()


class World:
    """The clock, and everything that will happen."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.hub = greenlet.getcurrent()
        self.seconds = 0.0
        self._queue: list[tuple[float, int, Handle]] = []
        self._count = itertools.count()
        self.story: list[str] = []
        #: Called after everything that happens.
        self.watchers: list[Callable[[], None]] = []

    @property
    def now(self) -> datetime:
        # EMR tells times in milliseconds.
        return BEGINNING + timedelta(milliseconds=int(self.seconds * 1000))

    def tell(self, who: str, what: str) -> None:
        """A line of the story that a failed check prints."""
        minutes, seconds = divmod(self.seconds, 60)
        self.story.append(f"{int(minutes):5d}:{seconds:06.3f} {who:<28} {what}")

    def call_later(self, seconds: float, call: Callable[[], None]) -> Handle:
        handle = Handle(call)
        heapq.heappush(self._queue, (self.seconds + max(0.0, seconds), next(self._count), handle))
        return handle

    def spawn(self, process: Process, what: Callable[[], None]) -> Fiber:
        fiber = Fiber(self, process, what)
        self.call_later(0, lambda: fiber.switch() if process.alive else None)
        return fiber

    def kill(self, process: Process) -> None:
        """SIGKILL. Where a fiber of the process calls this, it must raise KilledError next."""
        process.alive = False

        def end() -> None:
            for fiber in list(process.fibers):
                fiber.kill()

        self.call_later(0, end)

    def run(
        self, until: Callable[[], bool], *, seconds: float = float("inf"), budget: int = 5_000_000
    ) -> bool:
        """Let things happen until the condition holds; False where time or things to happen ran out first."""
        last = self.seconds + seconds
        for _ in range(budget):
            if until():
                return True
            if not self._queue or self._queue[0][0] > last or self._queue[0][0] == float("inf"):
                if last != float("inf"):
                    self.seconds = last
                return until()
            moment, _number, handle = heapq.heappop(self._queue)
            if handle.call is None:
                continue
            self.seconds = moment
            handle.call()
            for watcher in self.watchers:
                watcher()
        raise AssertionError(f"runaway: more than {budget} things happened")

    def end(self) -> None:
        """Forget everything that would happen still."""
        self._queue.clear()

    # What the code under test calls, from within a fiber

    @staticmethod
    def fiber() -> Fiber | None:
        """The one that runs now; None outside of all."""
        current = greenlet.getcurrent()
        return current if isinstance(current, Fiber) else None

    def sleep(self, seconds: float) -> None:
        fiber = self.fiber()
        assert fiber is not None, "sleep outside of a process"
        fiber.wait(max(0.0, seconds))


class VirtualLoop(asyncio.BaseEventLoop):
    """An asyncio loop in a fiber: its timers are virtual, and its threads are fibers beside it."""

    def __init__(self, world: World, fiber: Callable[[], Fiber]) -> None:
        super().__init__()
        self._world = world
        self._fiber = fiber
        self._selector = self

    def time(self) -> float:
        return self._world.seconds

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None or timeout > 0:
            self._fiber().wait(timeout)
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        self._fiber().wake()

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()
        process = self._fiber().process

        def run() -> None:
            try:
                outcome = func(*args)
            except KilledError:
                raise
            except BaseException as error:
                settle = functools.partial(future.set_exception, error)
            else:
                settle = functools.partial(future.set_result, outcome)
            self.call_soon_threadsafe(lambda: None if future.done() else settle())

        context = contextvars.copy_context()
        self._world.spawn(process, lambda: context.run(run))
        return future
