"""Nights on plain files: normalize, sessionize with a catalog, and a warehouse that loads as the SQL does."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from integration.spark.conftest import collected

from airflow_emr_etl.models.manifest import Accounting, Manifest
from airflow_emr_etl.spark.jobs.clickstream_normalize import normalize
from airflow_emr_etl.spark.jobs.clickstream_sessionize import sessionize

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Files = Mapping[str, bytes]


class Nights:
    """Each step has a folder of its own. What is loaded is in ``events`` and ``sessions``, by id."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.spark, self.folder = spark, folder
        self.sessions: dict[str, Any] = {}
        self.events: dict[str, Any] = {}
        self._by_visitor: dict[str, set[str]] = {}
        self._steps = 0

    def write(self, day: date, files: Files) -> Path:
        """The raw files of a night."""
        target = self.folder / "raw" / day.isoformat()
        target.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (target / name).write_bytes(content)
        return target

    def step(self, name: str) -> Path:
        self._steps += 1
        return self.folder / f"{self._steps}-{name}"

    def normalize(self, day: date, **options: Any) -> tuple[Path, Accounting]:
        output = self.step("normalized")
        inputs = [] if "replay" in options else [str(self.folder / "raw" / day.isoformat())]
        return output, normalize(self.spark, inputs, day, str(output), **options)

    def sessionize(self, day: date, normalized: Path) -> tuple[Path, Accounting]:
        output = self.step("sessions")
        catalog = str(self.folder / "batches")
        return output, sessionize(self.spark, str(normalized), day, str(output), catalog=catalog)

    def load(self, day: date, output: Path) -> None:
        """As ``mode="restate"``: spans of time of a visitor, and keys and the partition of events."""
        staged = self._staged(output, "sessions")
        for row in staged:
            for key in list(self._by_visitor.get(row.visitor_id, ())):
                if row.restates_from <= self.sessions[key].started_at <= row.restates_to:
                    self._by_visitor[row.visitor_id].remove(key)
                    del self.sessions[key]
        for row in staged:
            if not row.retracted:
                assert row.session_id not in self.sessions
                self.sessions[row.session_id] = row
                self._by_visitor.setdefault(row.visitor_id, set()).add(row.session_id)
        self.events = {key: row for key, row in self.events.items() if row.dt != day}
        self.events.update((row.event_id, row) for row in self._staged(output, "events"))

    def run(self, day: date, files: Files, **options: Any) -> Accounting:
        """A night from raw files to the warehouse."""
        self.write(day, files)
        normalized, _ = self.normalize(day, **options)
        output, accounting = self.sessionize(day, normalized)
        self.load(day, output)
        return accounting

    def stated(self) -> tuple[dict[str, Any], dict[str, str]]:
        """What must not depend on which night brought a line."""
        sessions = {
            key: (
                row.visitor_id, row.started_at, row.ended_at, row.hits, row.page_views, row.entry_path, row.exit_path,
                row.referrer_host, row.dt,
            )
            for key, row in self.sessions.items()
        }  # fmt: skip
        return sessions, {key: row.session_id for key, row in self.events.items()}

    def _staged(self, output: Path, dataset: str) -> list[Any]:
        manifest = Manifest.from_json((output / dataset / "manifest.json").read_text())
        return collected(self.spark.read.parquet(*manifest.urls)) if manifest.urls else []


def late_and_twice(nights: Mapping[date, Files]) -> dict[date, dict[str, bytes]]:
    """The same lines, but of each day one in thirty comes a night later, and one in twenty on both.

    A line's bytes decide, so that equal lines stay together: how often a line is in a file is part of what it is.
    """
    delivered: dict[date, dict[str, list[bytes]]] = {}
    for day, files in nights.items():
        for name, content in files.items():
            plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
            for line in plain.splitlines(keepends=True):
                chance = zlib.crc32(line) % 60
                if chance >= 2:
                    delivered.setdefault(day, {}).setdefault(f"{name}.txt", []).append(line)
                if chance < 5:
                    later = delivered.setdefault(day + timedelta(days=1), {})
                    later.setdefault(f"late-{name}.txt", []).append(line)
    return {
        day: {name: b"".join(lines) for name, lines in files.items()}
        for day, files in sorted(delivered.items())
    }
