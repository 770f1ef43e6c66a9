"""How many steps a cluster has, and who may add the next. Pure: no I/O, no clock; seconds are the caller's."""

from __future__ import annotations

from collections import deque
from typing import Final

from airflow_emr_etl.models.step import MAX_ACTIVE_STEPS

LET_IN_SECONDS: Final = 90.0
"""How long who was let in keeps the place without a step to be seen: a worker must start, and add it."""


class Places:
    """The places for steps on one cluster, as far as they are known.

    A read of the cluster's active steps tells how many there are. Until the next one, steps that end make places
    free, and whoever was let in keeps one until the step is there.
    """

    def __init__(self) -> None:
        self.active: int | None = None
        self._let_in: deque[float] = deque()

    def read(self, active: int) -> None:
        """So many steps are active now."""
        self.active = active

    def step_ended(self) -> None:
        """A step that counted as active has ended."""
        if self.active:
            self.active -= 1

    def step_came(self) -> None:
        """A step was added, which may be that of somebody who was let in."""
        if self._let_in:
            self._let_in.popleft()
            if self.active is not None:
                self.active += 1

    def let_in(self, now: float) -> None:
        """Somebody may add a step."""
        self._let_in.append(now)

    def free(self, most: int, now: float) -> int:
        """Places for somebody who wants no more than ``most`` active steps there; none where it is not known."""
        while self._let_in and self._let_in[0] <= now - LET_IN_SECONDS:
            self._let_in.popleft()
        if self.active is None:
            return 0
        return max(0, min(most, MAX_ACTIVE_STEPS) - self.active - len(self._let_in))
