"""Puts access logs into the source bucket: generated ones, or the user's own cut by UTC day."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from airflow_emr_etl.exceptions import MissingInputError


@dataclass(frozen=True)
class Staged:
    """What the source bucket holds now: the days found, and how many files and bytes that was."""

    days: list[str]
    files: int
    bytes: int
    description: str


def generated(folder: Path, first: date, days: int, lines: int, seed: int) -> tuple[Path, list[str]]:
    """A folder ``DAY/FILE`` of generated logs; made once for these options, then taken from ``folder``."""
    from airflow_emr_etl.clickstream.generator import generate_day

    home = folder / f"seed-{seed}-lines-{lines}"
    found = [first + timedelta(days=n) for n in range(days)]
    for day in found:
        target = home / day.isoformat()
        if target.is_dir():
            continue
        # Made elsewhere and moved, so that a stop in the middle leaves no half a day.
        draft = home / "unfinished"
        shutil.rmtree(draft, ignore_errors=True)
        generate_day(day, lines=lines, seed=seed).write(draft)
        (draft / day.isoformat()).rename(target)
        draft.rmdir()
    return home, [day.isoformat() for day in found]


def split_by_day(folder: Path, logs: Sequence[Path]) -> tuple[Path, list[str]]:
    """Cut the user's log files by UTC day into ``folder/DAY/FILE``; always made anew."""
    from airflow_emr_etl.clickstream.split import split_logs

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    split = split_logs(list(logs), folder)
    if not split.days:
        names = ", ".join(str(path) for path in logs)
        raise MissingInputError(f"There is no line in {names}. LOGS takes access logs, comma-separated.")
    return folder, [day.isoformat() for day in split.days]


def stage(
    client: Any,
    folder: Path,
    days: Sequence[str],
    source: str,
    description: str,
    *,
    keep_others: bool = False,
) -> Staged:
    """Make ``source`` (``s3://bucket/prefix/``) hold the days' files of ``folder`` and, unless
    ``keep_others``, nothing else.

    A file that is there already with the same size and content digest is left alone, so that a second run
    of the same input moves no byte.
    """
    import hashlib

    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    there: dict[str, str] = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        there |= {item["Key"]: item["ETag"].strip('"') for item in page.get("Contents", [])}
    wanted: dict[str, Path] = {
        f"{prefix}dt={day}/{path.name}": path for day in days for path in sorted((folder / day).iterdir())
    }
    for key, path in wanted.items():
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if there.get(key) != digest:
            client.upload_file(str(path), bucket, key)
    for key in () if keep_others else there.keys() - wanted.keys():
        client.delete_object(Bucket=bucket, Key=key)
    size = sum(path.stat().st_size for path in wanted.values())
    return Staged(list(days), len(wanted), size, description)
