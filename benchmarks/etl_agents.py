"""What the plain PySpark does with a user agent, in Python and for each row.

A module of its own: a function with a cache cannot travel to Spark's workers, only its name can.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any


@cache
def _robots() -> list[Any]:
    from crawleruseragents import CRAWLER_USER_AGENTS_DATA

    return [re.compile(entry["pattern"]) for entry in CRAWLER_USER_AGENTS_DATA]


@lru_cache(maxsize=10_000)
def is_robot(user_agent: str | None) -> bool:
    return user_agent is not None and any(pattern.search(user_agent) for pattern in _robots())


def agent_parts(user_agent: str | None) -> tuple[str | None, ...]:
    """Family and version of browser and system, and the device, by ua-parser as it comes; see :func:`backend`."""
    from ua_parser import parse

    if user_agent is None:
        return (None,) * 5
    found = parse(user_agent)
    browser, system, device = found.user_agent, found.os, found.device
    return (
        browser.family if browser else None,
        browser.major if browser else None,
        system.family if system else None,
        system.major if system else None,
        device.family if device else None,
    )


def backend() -> str:
    """Which of ua-parser's backends is used here, and whether it remembers what it has parsed."""
    from ua_parser import BestAvailableResolver, CachingResolver, load_builtins

    resolver = BestAvailableResolver(load_builtins())
    cached = isinstance(resolver, CachingResolver)
    name = "Python" if cached else type(resolver).__module__.rpartition(".")[2]
    return f"its {name} backend, {'with' if cached else 'without'} a cache"
