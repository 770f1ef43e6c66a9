"""When a poller looks, at how much, and with how many calls. Pure: no I/O, no clock; seconds are the caller's."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

Draw = Callable[[], float]
"""From 0 up to 1, evenly."""

MOST_IDS: Final = 10
"""ListSteps takes no more ids than this in one call."""
PAGE_SIZE: Final = 50
"""Steps or clusters in a page of ListSteps or ListClusters."""


class Allowance:
    """A token bucket that may be overdrawn: work that has begun is ended, the debt is waited off before the next."""

    def __init__(self, burst: float, rate: float, *, now: float) -> None:
        self.burst = burst
        self.rate = rate
        self._tokens = burst
        self._at = now

    def spend(self, now: float, calls: float = 1.0) -> None:
        self._fill(now)
        self._tokens -= calls

    def delay(self, now: float, calls: float = 1.0) -> float:
        """Seconds until this many calls may be made; for more than the burst, until the bucket is full."""
        self._fill(now)
        return max(0.0, (min(calls, self.burst) - self._tokens) / self.rate)

    def drain(self, now: float) -> None:
        """What was saved up is gone."""
        self._fill(now)
        self._tokens = min(self._tokens, 0.0)

    def _fill(self, now: float) -> None:
        self._tokens = min(self.burst, self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = max(self._at, now)


class CallBudget:
    """How many calls a poller makes: never more than ``rate`` a second, and fewer while AWS throttles.

    Being throttled halves the rate at which calls were really made, and nothing is called for a time that is
    drawn from an interval that doubles each time (full jitter). Each call that is answered lets the rate grow
    again by a quarter.
    """

    SLOWEST: Final = 1 / 20
    """Calls a second that are left at the worst."""
    FIRST_PAUSE: Final = 2.0
    LONGEST_PAUSE: Final = 60.0
    WINDOW: Final = 60.0

    def __init__(
        self, *, burst: float = 5.0, rate: float = 4.0, now: float, draw: Draw = random.random
    ) -> None:
        self._most = rate
        self._allowance = Allowance(burst, rate, now=now)
        self._draw = draw
        self._blocked_until = now
        self._refusals = 0
        self._made: deque[float] = deque()

    @property
    def rate(self) -> float:
        """Calls a second that are made at most now."""
        return self._allowance.rate

    def delay(self, now: float) -> float:
        """Seconds until the next call may be made."""
        return max(self._blocked_until - now, self._allowance.delay(now))

    def spend(self, now: float) -> None:
        """A call is being made."""
        self._allowance.spend(now)
        self._made.append(now)
        while self._made[0] < now - self.WINDOW:
            self._made.popleft()

    def throttled(self, now: float) -> None:
        """A call was refused since there were too many."""
        made = len(self._made) / self.WINDOW
        self._allowance.drain(now)
        self._allowance.rate = max(self.SLOWEST, min(self._allowance.rate, made) / 2)
        pause = self._draw() * min(self.LONGEST_PAUSE, self.FIRST_PAUSE * 2.0**self._refusals)
        self._refusals = min(self._refusals + 1, 16)
        self._blocked_until = max(self._blocked_until, now + pause)

    def answered(self) -> None:
        """A call was answered, be it by an error."""
        self._refusals = 0
        self._allowance.rate = min(self._most, self._allowance.rate * 1.25)


def allowance_for_cluster(now: float) -> Allowance:
    """What the steps of one cluster may cost: at once when they are new, then twelve calls a minute."""
    return Allowance(6.0, 12 / 60, now=now)


def rate_for_cluster(cost: float, longest_interval: float) -> float:
    """Calls a second for one cluster: twelve a minute, or as many as one look in ``longest_interval`` needs."""
    return max(12 / 60, cost / max(longest_interval, 1.0))


def calls_by_pages(listed: int) -> int:
    """Calls to read a list of so many."""
    return max(1, -(-listed // PAGE_SIZE))


def calls_by_ids(ids: int) -> int:
    """Calls to ask for so many steps by their ids."""
    return -(-ids // MOST_IDS)


def haste(waiting: int, calls: int) -> float:
    """How many times more often many waits may look than a few, since one look at all took so few calls."""
    return max(1.0, min(3.0, calls_by_ids(waiting) / max(calls, 1)))


def batches(ids: Sequence[str]) -> list[list[str]]:
    """``ids`` in their order, as many together as one call takes."""
    return [list(ids[start : start + MOST_IDS]) for start in range(0, len(ids), MOST_IDS)]


class Way(StrEnum):
    """How to ask EMR for the steps of a cluster."""

    IDS = "ids"
    """By their ids, ten in a call."""
    ACTIVE = "active"
    """Read all pages of the list of active steps; those that are gone from it are asked for."""
    NEWEST = "newest"
    """Read the list of all steps, which begins with the newest, as far as the oldest that is waited for."""


@dataclass(frozen=True)
class StepsToAsk:
    """How to look at the steps of one cluster."""

    way: Way
    ids: tuple[str, ...]
    """All that are looked at, the most urgent first."""

    @property
    def batches(self) -> list[list[str]]:
        return batches(self.ids)


def steps_to_ask(
    due: Sequence[str], waiting: Sequence[str], active: int | None, reach: int | None = None
) -> StepsToAsk:
    """What a look at a cluster's steps asks for.

    ``due`` are the steps whose time has come, ``waiting`` the others that somebody waits for, the most urgent
    first; ``active`` is how many steps of the cluster were active when last read, ``reach`` how far down the list of
    all steps the oldest that is waited for was; None where that is not known. A call that is made anyhow takes along
    as many others as it has room for, and where one round of all by their ids would take more calls than a list,
    the list is read although not all are due: the one of all steps where that is no longer, since it tells ends too.
    """
    everything = len(due) + len(waiting)
    by_active = calls_by_pages(everything if active is None else active)
    by_newest = calls_by_pages(max(everything, reach or 0))
    if min(by_active, by_newest) < calls_by_ids(everything):
        return StepsToAsk(Way.NEWEST if by_newest <= by_active else Way.ACTIVE, (*due, *waiting))
    room = -len(due) % MOST_IDS
    return StepsToAsk(Way.IDS, (*due, *waiting[:room]))


def by_list(due: int, soon: int, listed: int | None) -> bool:
    """Whether to read the list of live clusters, of which there were ``listed``, or to ask for each that is due.

    ``soon`` is how many are due now or soon: the list answers for all of them.
    """
    pages = calls_by_pages(soon if listed is None else listed)
    return pages < soon and (pages <= due or 2 * pages <= soon)


class Pace:
    """When a wait looks next: soon at first, then calmly, soon again when its step should be about to end."""

    __slots__ = ("_ceiling", "_delay", "_first")

    GROWTH: Final = 1.15
    JITTER: Final = 0.2
    SHARE: Final = 0.25
    """Of the time that a step is away from its usual end, how much may pass until the next look."""

    def __init__(self, first: float, ceiling: float) -> None:
        self._first = min(first, ceiling)
        self._ceiling = ceiling
        self._delay = self._first

    @property
    def ceiling(self) -> float:
        return self._ceiling

    def next(self, *, to_usual_end: float | None = None, draw: Draw = random.random) -> float:
        """Seconds to the next look.

        ``to_usual_end``: seconds until steps of this name usually end, negative when that has passed.
        """
        delay = self._delay
        self._delay = min(delay * self.GROWTH, self._ceiling)
        if to_usual_end is not None and to_usual_end <= delay:
            delay = min(delay, max(self._first, abs(to_usual_end) * self.SHARE))
        return delay * (1 - self.JITTER + 2 * self.JITTER * draw())


@dataclass
class UsualDurations:
    """How long steps of a name ran the last time; of the names that were seen most recently."""

    most: int = 1000
    _seconds: dict[str, float] = field(default_factory=dict)

    def learn(self, name: str, seconds: float) -> None:
        self._seconds.pop(name, None)
        self._seconds[name] = seconds
        if len(self._seconds) > self.most:
            del self._seconds[next(iter(self._seconds))]

    def of(self, name: str) -> float | None:
        return self._seconds.get(name)
