"""How many steps a cluster has, and who may add the next. Pure: no I/O, no clock; seconds are the caller's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from airflow_emr_etl.models.step import MAX_ACTIVE_STEPS

LET_IN_SECONDS: Final = 90.0
"""How long who was let in keeps the place without a step to be seen: a worker must start, and add it."""
LAG_SECONDS: Final = 60.0
"""How long a list may not show a step that was added."""
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
        #: Steps that a list may not show yet, and when they came.
        self._came: dict[str, float] = {}
        #: First seen in a list: of somebody who was let in, whose wait has not come yet, or of others.
        self._unclaimed: set[str] = set()

    @property
    def active(self) -> int | None:
        """How many steps are active; None where it is not known."""
        return None if self._active is None else len(self._active)

    @property
    def are_given(self) -> bool:
        """Whether somebody was let in who may not have come yet."""
        return bool(self._let_in)

    def forget_count(self) -> None:
        """Nobody has counted for a while: only a read can tell."""
        self._active = None

    def read(self, step_ids: Iterable[str], now: float) -> None:
        """These are all steps that are active, of a list that may be a little old."""
        self._came = {step_id: when for step_id, when in self._came.items() if when > now - LAG_SECONDS}
        listed = set(step_ids).difference(self._ended)
        known = self._came.keys() | (self._active or set())
        self._unclaimed &= listed
        if self._let_in and self._active is not None:
            self._unclaimed |= listed - known
        self._active = listed | self._came.keys()

    def step_ended(self, step_id: str) -> None:
        if self._active is not None:
            self._active.discard(step_id)
        self._came.pop(step_id, None)
        self._unclaimed.discard(step_id)
        self._ended.append(step_id)

    def steps_came(self, step_ids: Iterable[str], now: float) -> None:
        """Somebody waits for steps, who may be one of those let in."""
        came = set(step_ids).difference(self._ended)
        new = came - (self._active or set()) | came & self._unclaimed
        self._unclaimed -= came
        if new and self._let_in:
            self._let_in.popleft()
        self._came |= dict.fromkeys(came - (self._active or set()), now)
        if self._active is not None:
            self._active |= came

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
