"""How many steps a cluster has, and who may add the next. Pure: no I/O, no clock; seconds are the caller's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from airflow_emr_etl.models.step import MAX_ACTIVE_STEPS

LET_IN_SECONDS: Final = 90.0
"""How long who was let in keeps the place without a step to be seen: a worker must start, and add it."""
_MOST_ENDED: Final = 1024
"""Steps that are remembered to have ended, for lists that lag behind: some times EMR's limit."""


class Places:
    """The places for steps on one cluster, as far as they are known.

    A read of the cluster's active steps tells which there are. Until the next one, steps that end make places
    free, and whoever was let in keeps one until the step is there. Steps go by their ids: the same end may be told
    twice, late, or before the read that still lists the step, and counts once.
    """

    def __init__(self) -> None:
        self._active: set[str] | None = None
        self._ended: deque[str] = deque(maxlen=_MOST_ENDED)
        self._let_in: deque[float] = deque()

    @property
    def active(self) -> int | None:
        """How many steps are active; None where it is not known."""
        return None if self._active is None else len(self._active)

    def read(self, step_ids: Iterable[str]) -> None:
        """These are all steps that are active, of a list that may be a little old."""
        self._active = set(step_ids).difference(self._ended)

    def step_ended(self, step_id: str) -> None:
        if self._active is not None:
            self._active.discard(step_id)
        self._ended.append(step_id)

    def steps_came(self, step_ids: Iterable[str]) -> None:
        """Somebody has added steps, who may be one of those let in."""
        came = set(step_ids)
        if came and self._let_in:
            self._let_in.popleft()
        if self._active is not None:
            self._active |= came.difference(self._ended)

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
