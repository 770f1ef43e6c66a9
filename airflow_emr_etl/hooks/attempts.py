"""How a call that may not be repeated blindly is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final

#: EMR's lists may not show what was made within this many seconds.
LIST_LAG_SECONDS: Final = 15.0
#: Between two looks at something that another is about to change.
LOOK_EVERY_SECONDS: Final = 3.0
#: How often a write is tried before the task's own retry takes over.
WRITE_ATTEMPTS: Final = 6


def looks(lag_seconds: float, *, patient: bool) -> Iterator[float]:
    """Seconds to wait before each look at a list: one look, or some until it cannot lag any more.

    What is there already is found at once; what is not costs few calls, since it may be missing because
    EMR asked to be called less.
    """
    yield 0.0
    if patient:
        yield lag_seconds * 0.2
        yield lag_seconds * 0.8


def backoff(
    attempts: int = WRITE_ATTEMPTS, *, first: float = 1.0, draw: Callable[[], float] = random.random
) -> Iterator[float]:
    """Seconds to wait before each of ``attempts``: none before the first, then doubling, half of it by chance."""
    yield 0.0
    for n in range(attempts - 1):
        yield first * 2**n * (0.5 + draw())
