"""A mart: a table that a SELECT over other tables makes, and the part of it that is made anew.

The SELECTs are in the SQL that Redshift and Spark have in common, so that one definition serves the warehouse and
the lake. Runs on the cluster: no dependency, valid on Python 3.9.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from airflow_emr_etl.exceptions import ConfigurationError

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,126}")
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Scope:
    """What a SELECT is over: relations by name, and the days that are wanted.

    ``days`` is None for all. ``since`` and ``until`` bound the times of all events of the sessions that have a part
    in the days, such as one that began the evening before; None where no bound is known.
    """

    relations: Mapping[str, str]
    days: tuple[date, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __getitem__(self, name: str) -> str:
        try:
            return self.relations[name]
        except KeyError:
            raise ConfigurationError(
                f"There is no relation {name!r} for a mart to read; there are {', '.join(sorted(self.relations))}."
            ) from None

    def on(self, moment: str) -> str:
        """The condition that the TIMESTAMP ``moment`` is on one of the days."""
        return self._any(
            lambda first, end: f"({moment} >= {timestamp(first)} AND {moment} < {timestamp(end)})"
        )

    def of(self, day: str) -> str:
        """The condition that the DATE ``day`` is one of the days."""
        return self._any(
            lambda first, end: f"{day} BETWEEN DATE '{first}' AND DATE '{end - _DAY}'",
        )

    def overlaps(self, begin: str, end: str) -> str:
        """The condition that the time from ``begin`` to ``end``, both included, has a part in one of the days."""
        return self._any(
            lambda first, after: f"({begin} < {timestamp(after)} AND {end} >= {timestamp(first)})",
        )

    def in_reach(self, moment: str) -> str:
        """The condition that ``moment`` can belong to a session that has a part in the days."""
        bounds = []
        if self.since is not None:
            bounds.append(f"{moment} >= {timestamp(self.since)}")
        if self.until is not None:
            bounds.append(f"{moment} <= {timestamp(self.until)}")
        return " AND ".join(bounds) or "TRUE"

    def _any(self, condition: Callable[[date, date], str]) -> str:
        if self.days is None:
            return "TRUE"
        return "(" + (" OR ".join(condition(first, end) for first, end in ranges(self.days)) or "FALSE") + ")"


def ranges(days: Sequence[date]) -> list[tuple[date, date]]:
    """Days as ranges without gaps: the first day, and the day after the last."""
    found: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if found and found[-1][1] == day:
            found[-1] = (found[-1][0], day + _DAY)
        else:
            found.append((day, day + _DAY))
    return found


def timestamp(moment: date) -> str:
    """A TIMESTAMP literal; a date is its midnight, an aware datetime is turned to UTC by the caller."""
    if isinstance(moment, datetime):
        return f"TIMESTAMP '{moment.isoformat(sep=' ', timespec='microseconds')}'"
    return f"TIMESTAMP '{moment} 00:00:00'"


@dataclass(frozen=True)
class MartColumn:
    """``type`` is Redshift's; ``unit`` is empty where there is none."""

    name: str
    type: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class Mart:
    """One table, and how it is made. ConfigurationError for a definition that contradicts itself."""

    name: str
    grain: str
    """What one row stands for."""
    columns: tuple[MartColumn, ...]
    """In the order of the SELECT."""
    keys: tuple[str, ...]
    reads: tuple[str, ...]
    """``events``, ``sessions``, or other marts."""
    select: Callable[[Scope], str] = field(repr=False)
    day: str | None = "dt"
    """The DATE column whose days are made anew; None for a mart that is made anew as a whole."""
    dist_key: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(
                f"{self.name!r} is no name of a mart: lower-case letters, digits and _, not beginning with a digit."
            )
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ConfigurationError(f"The mart {self.name} has a column twice: {', '.join(names)}.")
        used = [*self.keys, *(name for name in (self.day, self.dist_key) if name)]
        unknown = sorted(set(used) - set(names))
        if unknown:
            raise ConfigurationError(
                f"The mart {self.name} has no column {', '.join(unknown)}; it has {', '.join(names)}."
            )
        if not self.keys:
            raise ConfigurationError(f"The mart {self.name} needs keys: what makes a row one of a kind.")


@dataclass(frozen=True)
class Funnel:
    """Steps that sessions go through in order, each a page path; other pages may lie between.

    ``steps`` maps a step's name to a pattern in which ``*`` stands for any text: ``{"product": "/products/*"}``.
    """

    name: str
    steps: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self.steps:
            raise ConfigurationError(f"The funnel {self.name!r} has no step.")
        for text in (self.name, *self.steps):
            if not re.fullmatch(r"[\w -]{1,64}", text, re.ASCII):
                raise ConfigurationError(
                    f"{text!r} cannot name a funnel or a step: 1 to 64 letters, digits, spaces, _ and -."
                )
        for pattern in self.steps.values():
            like(pattern)


def like(pattern: str) -> str:
    """``/blog/*`` → ``LIKE '/blog/%' ESCAPE '^'``, of one meaning in Redshift and in Spark.

    ConfigurationError for quotes, backslashes and control characters, which the two read differently.
    """
    if not pattern or re.search(r"['\"\\\x00-\x1f]", pattern):
        raise ConfigurationError(
            f"{pattern!r} is no pattern for paths: a text without quotes, backslashes and control characters, "
            "in which * stands for any text."
        )
    escaped = re.sub(r"[\^%_]", lambda found: "^" + found.group(0), pattern)
    return f"LIKE '{escaped.replace('*', '%')}' ESCAPE '^'"


def in_order(wanted: Sequence[Mart], known: Sequence[Mart]) -> tuple[Mart, ...]:
    """``wanted`` and the marts among ``known`` that they read, each after those that it reads.

    ConfigurationError for two of one name, or for marts that read each other.
    """
    by_name: dict[str, Mart] = {mart.name: mart for mart in known}
    given = [mart.name for mart in wanted]
    if len(set(given)) != len(given):
        raise ConfigurationError(f"A mart is named twice: {', '.join(given)}.")
    by_name.update({mart.name: mart for mart in wanted})
    done: dict[str, Mart] = {}

    def add(mart: Mart, above: tuple[str, ...]) -> None:
        if mart.name in above:
            raise ConfigurationError(f"Marts read each other: {' → '.join((*above, mart.name))}.")
        if mart.name not in done:
            for name in mart.reads:
                if name in by_name:
                    add(by_name[name], (*above, mart.name))
            done[mart.name] = mart

    for mart in wanted:
        add(mart, ())
    return tuple(done.values())
