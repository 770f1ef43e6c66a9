"""Names in SQL. The one place that quotes them."""

from __future__ import annotations

import re

from airflow_emr_etl.exceptions import ConfigurationError

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,126}")


def quote(name: str) -> str:
    """``Events`` → ``"events"``. ConfigurationError for anything but a plain name; nothing is escaped.

    Redshift folds quoted names to lower case like the others, so this does it in the open.
    """
    if not _PLAIN.fullmatch(name):
        raise ConfigurationError(
            f"{name!r:.200} is not a name for Redshift here. Use letters, digits, _ and $, not beginning with a "
            "digit, at most 127 characters.",
            value=name,
        )
    return f'"{name.lower()}"'


def qualified(name: str) -> str:
    """``analytics.events`` → ``"analytics"."events"``. Takes one or two parts."""
    parts = name.split(".")
    if len(parts) > 2:
        raise ConfigurationError(f"{name!r:.200} has more than schema and table.", value=name)
    return ".".join(quote(part) for part in parts)


def column_list(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(quote(name) for name in names)
