"""Where the records of local EMR survive a stop: one SQLite file."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from airflow_emr_etl.local.emr.records import Cluster, Instance, Pool, Step
from airflow_emr_etl.models.states import ClusterState, StepState

_TABLES = """
CREATE TABLE IF NOT EXISTS cluster (id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS setting (key TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS process (key TEXT PRIMARY KEY, pid INTEGER NOT NULL, started TEXT NOT NULL);
"""


class Records(Protocol):
    """What EMR remembers: clusters with their steps, account-wide settings, and the processes that run."""

    def close(self) -> None: ...

    def clusters(self) -> list[Cluster]:
        """Oldest first."""

    def save(self, clusters: Iterable[Cluster]) -> None: ...

    def setting(self, key: str, default: Any) -> Any: ...

    def save_setting(self, key: str, value: Any) -> None: ...

    def processes(self) -> list[tuple[int, str]]: ...

    def save_process(self, key: str, pid: int, started: str) -> None: ...

    def forget_process(self, key: str | None = None) -> None: ...


class MemoryStore:
    """Remembers until EMR is stopped."""

    def __init__(self) -> None:
        self._clusters: dict[str, Cluster] = {}
        self._settings: dict[str, Any] = {}

    def close(self) -> None:
        """Nothing to let go of."""

    def clusters(self) -> list[Cluster]:
        return sorted(self._clusters.values(), key=lambda each: each.sequence)

    def save(self, clusters: Iterable[Cluster]) -> None:
        for each in clusters:
            self._clusters[each.id] = each

    def setting(self, key: str, default: Any) -> Any:
        return self._settings.get(key, default)

    def save_setting(self, key: str, value: Any) -> None:
        self._settings[key] = value

    def processes(self) -> list[tuple[int, str]]:
        return []

    def save_process(self, key: str, pid: int, started: str) -> None:
        """No process of this store is left over when the program ends."""

    def forget_process(self, key: str | None = None) -> None:
        """As above."""


class Store:
    """Clusters with their steps, account-wide settings, and the processes that run. The caller holds a lock."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        # A crash of the machine may lose the last changes, never the file; a crash of the server loses nothing.
        self._database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {_TABLES}")

    def close(self) -> None:
        self._database.close()

    def clusters(self) -> list[Cluster]:
        rows = self._database.execute("SELECT body FROM cluster").fetchall()
        return sorted((_read_cluster(body) for (body,) in rows), key=lambda each: each.sequence)

    def save(self, clusters: Iterable[Cluster]) -> None:
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT OR REPLACE INTO cluster VALUES (?, ?)",
            [(each.id, json.dumps(dataclasses.asdict(each), default=_encode)) for each in clusters],
        )
        self._database.execute("COMMIT")

    def setting(self, key: str, default: Any) -> Any:
        row = self._database.execute("SELECT body FROM setting WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0], object_hook=_decode) if row else default

    def save_setting(self, key: str, value: Any) -> None:
        body = json.dumps(value, default=_encode)
        self._database.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, body))

    def processes(self) -> list[tuple[int, str]]:
        """(pid, start time) of each process group that was running when the file was last written."""
        return list(self._database.execute("SELECT pid, started FROM process"))

    def save_process(self, key: str, pid: int, started: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO process VALUES (?, ?, ?)", (key, pid, started))

    def forget_process(self, key: str | None = None) -> None:
        """One, or all without a key."""
        self._database.execute("DELETE FROM process WHERE key = ? OR ? IS NULL", (key, key))


def _encode(value: Any) -> Any:
    if isinstance(value, datetime):
        return {"$utc": value.isoformat()}
    raise TypeError(f"Cannot be stored: {value!r}")


def _decode(value: dict[str, Any]) -> Any:
    return datetime.fromisoformat(value["$utc"]) if value.keys() == {"$utc"} else value


def _read_cluster(body: str) -> Cluster:
    fields = json.loads(body, object_hook=_decode)
    fields["state"] = ClusterState(fields["state"])
    if fields["final_state"]:
        fields["final_state"] = ClusterState(fields["final_state"])
    fields["steps"] = [Step(**{**each, "state": StepState(each["state"])}) for each in fields["steps"]]
    fields["pools"] = [Pool(**each) for each in fields["pools"]]
    fields["instances"] = [Instance(**each) for each in fields["instances"]]
    return Cluster(**fields)
