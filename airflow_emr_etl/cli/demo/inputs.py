"""Puts access logs into the source bucket: generated ones, or the user's own cut by UTC day."""

from __future__ import annotations

import hashlib
import json
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


def stage(client: Any, folder: Path, days: Sequence[str], source: str, record: Path) -> Staged:
    """Put the days' files of ``folder`` under ``source`` (``s3://bucket/prefix/``), and take away earlier ones.

    Only what an earlier call noted in ``record`` is taken away, nothing that the user put there. A file that
    is there with the same content is left alone, so that a second run of the same input moves no byte.
    """
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    there: dict[str, str] = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        there |= {item["Key"]: item["ETag"].strip('"') for item in page.get("Contents", [])}
    wanted: dict[str, Path] = {
        f"{prefix}dt={day}/{path.name}": path for day in days for path in sorted((folder / day).iterdir())
    }
    earlier: list[str] = json.loads(record.read_text()) if record.exists() else []
    for key in set(earlier) & there.keys() - wanted.keys():
        client.delete_object(Bucket=bucket, Key=key)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(sorted(wanted)))
    for key, path in wanted.items():
        with path.open("rb") as file:
            if there.get(key) == hashlib.file_digest(file, _md5).hexdigest():
                continue
            file.seek(0)
            # In one part, whatever its size: only then is the ETag the digest that is compared above.
            client.put_object(Bucket=bucket, Key=key, Body=file)
    size = sum(path.stat().st_size for path in wanted.values())
    return Staged(list(days), len(wanted), size)


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def log_files(names: str) -> list[Path]:
    """The files that LOGS names, comma-separated: paths, ``~``, folders (every file in them) and patterns."""
    found: list[Path] = []
    for name in filter(None, map(str.strip, names.split(","))):
        path = Path(name).expanduser()
        if path.is_dir():
            matches = sorted(item for item in path.iterdir() if item.is_file())
        elif any(character in name for character in "*?["):
            matches = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
        else:
            matches = [path]
        if not matches:
            raise MissingInputError(f"{name} matches no file. LOGS takes paths, folders and patterns.")
        found += matches
    if not found:
        raise MissingInputError("LOGS names no file. Give paths with commas between them.")
    return found
