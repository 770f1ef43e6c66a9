"""Durations as people write them: ``90s``, ``15m``, ``1h30m``, ``2d``, or seconds."""

from __future__ import annotations

import re
from datetime import timedelta

from airflow_emr_etl.exceptions import ConfigurationError

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_PART = re.compile(r"(\d+(?:\.\d+)?)([dhms])")
_MOST = timedelta(days=3650)


def duration(text: str) -> timedelta:
    """The duration that ``text`` names. ConfigurationError where it names none, or more than ten years."""
    given = text.strip().lower()
    seconds: float | None = None
    if re.fullmatch(r"\d+(?:\.\d+)?", given):
        seconds = float(given)
    elif given and not _PART.sub("", given):
        seconds = sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(given))
    if seconds is None or seconds > _MOST.total_seconds():
        raise ConfigurationError(
            f"{text!r} is not a duration; write it as 90s, 15m, 1h30m, 2d, or in seconds"
        )
    return timedelta(seconds=seconds)


def told(value: timedelta) -> str:
    """The duration in its two largest units, such as ``1h 30m``."""
    rest = max(0, int(value.total_seconds()))
    parts = []
    for unit, size in _UNITS.items():
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
