"""Whether two contenders found the same sessions: each one's start, end and hits, never only how many there are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FULL = ("visitor_id", "started_at", "ended_at", "hits", "page_views", "entry_path", "exit_path")
TIMES = ("started_at", "ended_at", "hits")
"""What is the same whatever visitors are called and robots are taken for."""


@dataclass(frozen=True)
class Digest:
    """Of a table of sessions, in whatever order: their number, their hits, and a sum of the rows' hashes."""

    sessions: int
    hits: int
    checksum: int


class Differ(Exception):
    """Two contenders do not have the same sessions."""


def digest(folder: str | Path, columns: tuple[str, ...]) -> Digest:
    """The digest of ``columns`` of the Parquet files below ``folder``."""
    import duckdb

    row = ", ".join(
        f"epoch_us({name})" if name.endswith("_at") else f"{name}::BIGINT" if name in _NUMBERS else name
        for name in columns
    )
    query = f"SELECT count(*), sum(hits), sum(hash({row})::HUGEINT) FROM read_parquet(?)"
    with duckdb.connect() as connection:
        found = connection.execute(query, [f"{folder}/**/*.parquet"]).fetchone()
    assert found is not None
    return Digest(int(found[0]), int(found[1] or 0), int(found[2] or 0))


_NUMBERS = ("hits", "page_views")


def check(found: dict[str, Digest]) -> None:
    """Raise :class:`Differ` unless all have the same; the message has each one's numbers."""
    if len(set(found.values())) > 1:
        lines = [f"{name}: {each}" for name, each in found.items()]
        raise Differ("The sessions differ, so the seconds say nothing. " + "; ".join(lines))
