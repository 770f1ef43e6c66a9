"""Time that passes only by waiting."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from airflow_emr_etl.hooks.clock import Clock

MORNING = datetime(2026, 1, 6, tzinfo=UTC)


class VirtualClock(Clock):
    """Jumps where it is told to sleep, and counts the sleeps, so that a loop without end is caught."""

    def __init__(self, start: datetime = MORNING, *, budget: int = 5000) -> None:
        self.start = start
        self.slept: list[float] = []
        self._now = start
        self._budget = budget
        self._events: list[tuple[datetime, Callable[[], object]]] = []

    def now(self) -> datetime:
        return self._now

    def sleep(self, seconds: float) -> None:
        assert len(self.slept) < self._budget, "runaway"
        assert seconds >= 0, "nobody can wait for the past"
        self.slept.append(seconds)
        self._now += timedelta(seconds=seconds)
        due = sorted((event for event in self._events if event[0] <= self._now), key=lambda event: event[0])
        self._events = [event for event in self._events if event[0] > self._now]
        for _, happen in due:
            happen()

    async def sleep_in_loop(self, seconds: float) -> None:
        self.sleep(seconds)

    def after(self, seconds: float, happen: Callable[[], object]) -> None:
        """Let something happen once that much time has been slept away."""
        self._events.append((self._now + timedelta(seconds=seconds), happen))

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return (self._now - self.start).total_seconds()
