"""Statements, results and client tokens in SQLite, so that a restart keeps them."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from airflow_emr_etl.local.redshift.records import Outcome, Record, pages

FINAL = frozenset({"FINISHED", "FAILED", "ABORTED"})
_TOKEN_LIFE = dt.timedelta(hours=8)
_STATEMENT_LIFE = dt.timedelta(days=7)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS statement (
    id TEXT PRIMARY KEY, created REAL NOT NULL, status TEXT NOT NULL, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS result (id TEXT NOT NULL, page INT NOT NULL, records TEXT NOT NULL, PRIMARY KEY (id, page));
CREATE TABLE IF NOT EXISTS token (
    token TEXT PRIMARY KEY, id TEXT NOT NULL, request TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS query_id (last INT NOT NULL);
CREATE TABLE IF NOT EXISTS endpoint (name TEXT PRIMARY KEY, first_seen REAL NOT NULL);
"""


@dataclass
class SubStatement:
    id: str
    query: str
    query_id: int
    status: str = "SUBMITTED"
    error: str | None = None
    created: float = 0.0
    updated: float = 0.0
    duration_ns: int = 0
    rows: int = -1
    size: int = -1
    has_result: bool = False
    columns: list[dict[str, Any]] | None = None


@dataclass
class Statement:
    """A request of ExecuteStatement (one part) or BatchExecuteStatement."""

    id: str
    batch: bool
    parts: list[SubStatement]
    created: float
    updated: float
    database: str
    target: dict[str, str]
    """ClusterIdentifier, WorkgroupName, DbUser and SecretArn as they came."""
    name: str | None = None
    parameters: list[dict[str, str]] = field(default_factory=list)
    result_format: str = "JSON"
    mode: str = "TRANSACTION"
    status: str = "SUBMITTED"
    error: str | None = None
    started: float | None = None
    duration_ns: int = 0
    pid: int = 0

    @property
    def has_result(self) -> bool:
        return any(part.has_result for part in self.parts)

    @property
    def final(self) -> bool:
        return self.status in FINAL


def now() -> float:
    return dt.datetime.now(dt.UTC).timestamp()


class Store:
    """Thread-safe. Every change is on disk when the call returns."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(_SCHEMA)

    def prune(self) -> None:
        """Forget statements and results of more than a week ago; Redshift keeps them for a day."""
        oldest = now() - _STATEMENT_LIFE.total_seconds()
        with self._lock:
            gone = self._db.execute("SELECT id FROM statement WHERE created < ?", (oldest,)).fetchall()
            self._db.executemany(
                "DELETE FROM result WHERE id = ? OR id LIKE ? || ':%'", [(id, id) for (id,) in gone]
            )
            self._db.executemany("DELETE FROM statement WHERE id = ?", gone)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def save(self, statement: Statement) -> None:
        statement.updated = now()
        with self._lock:
            self._db.execute(
                "INSERT INTO statement VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET status = excluded.status, "
                "document = excluded.document",
                (statement.id, statement.created, statement.status, json.dumps(asdict(statement))),
            )

    def load(self, id: str) -> Statement | None:
        with self._lock:
            row = self._db.execute("SELECT document FROM statement WHERE id = ?", (id,)).fetchone()
        return _statement(row[0]) if row else None

    def newest_first(self) -> list[Statement]:
        with self._lock:
            rows = self._db.execute(
                "SELECT document FROM statement ORDER BY created DESC, rowid DESC"
            ).fetchall()
        return [_statement(row[0]) for row in rows]

    def unfinished(self) -> list[Statement]:
        marks = ", ".join("?" * len(FINAL))
        with self._lock:
            rows = self._db.execute(
                f"SELECT document FROM statement WHERE status NOT IN ({marks})",  # noqa: S608 - question marks only
                tuple(FINAL),
            ).fetchall()
        return [_statement(row[0]) for row in rows]

    def save_result(self, id: str, outcome: Outcome) -> None:
        with self._lock:
            self._db.executemany(
                "INSERT OR REPLACE INTO result VALUES (?, ?, ?)",
                [(id, number, json.dumps(page)) for number, page in enumerate(pages(outcome.records))],
            )

    def result_page(self, id: str, page: int) -> tuple[list[Record], bool] | None:
        """The records of a page and whether another follows; None where there is no such page."""
        with self._lock:
            row = self._db.execute(
                "SELECT records FROM result WHERE id = ? AND page = ?", (id, page)
            ).fetchone()
            more = self._db.execute(
                "SELECT 1 FROM result WHERE id = ? AND page = ?", (id, page + 1)
            ).fetchone()
        return (json.loads(row[0]), more is not None) if row else None

    def claim_token(self, token: str, id: str, request: str) -> tuple[str, str]:
        """The id and request digest that this token stands for: the given ones, or those it was first used with."""
        oldest = now() - _TOKEN_LIFE.total_seconds()
        with self._lock:
            self._db.execute("DELETE FROM token WHERE created < ?", (oldest,))
            self._db.execute("INSERT OR IGNORE INTO token VALUES (?, ?, ?, ?)", (token, id, request, now()))
            row = self._db.execute("SELECT id, request FROM token WHERE token = ?", (token,)).fetchone()
        return row[0], row[1]

    def next_query_ids(self, count: int) -> list[int]:
        with self._lock:
            row = self._db.execute("SELECT last FROM query_id").fetchone()
            last = row[0] if row else 1000
            self._db.execute("DELETE FROM query_id")
            self._db.execute("INSERT INTO query_id VALUES (?)", (last + count,))
        return list(range(last + 1, last + count + 1))

    def remember_endpoint(self, name: str) -> None:
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO endpoint VALUES (?, ?)", (name, now()))


def _statement(document: str) -> Statement:
    fields = json.loads(document)
    fields["parts"] = [SubStatement(**part) for part in fields["parts"]]
    return Statement(**fields)
