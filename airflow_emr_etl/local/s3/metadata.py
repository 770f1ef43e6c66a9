"""What a file cannot hold of an object: headers, user metadata, tags, and ETags of multipart uploads."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    bucket TEXT NOT NULL, key TEXT NOT NULL, mtime_ns INTEGER NOT NULL, size INTEGER NOT NULL,
    etag TEXT NOT NULL, attributes TEXT NOT NULL, PRIMARY KEY (bucket, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS markers ON objects (bucket, key) WHERE substr(key, -1) = '/';
CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, created REAL NOT NULL, region TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS documents (
    bucket TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (bucket, name)
) WITHOUT ROWID;
"""
_BATCH = 500  # below SQLite's smallest limit on parameters


@dataclass(frozen=True)
class Attributes:
    """What the writer of an object said about it."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that are given back as they came, lower-case names: content-type, cache-control …"""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """x-amz-meta-* without the prefix."""
    tags: Mapping[str, str] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)
    """Base64 checksums of the whole object by algorithm in lower case, such as crc32."""
    parts: tuple[int, ...] = ()
    """Sizes of the parts of a multipart upload."""
    upload_id: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Attributes:
        values = json.loads(text)
        values["parts"] = tuple(values["parts"])
        return cls(**values)


@dataclass(frozen=True)
class Row:
    """A record of one object; it speaks for the file only while the file has this mtime and size."""

    mtime_ns: int
    size: int
    etag: str
    attributes: Attributes


class MetadataStore:
    """SQLite behind one lock. Survives SIGKILL; a crash of the machine may lose the last writes."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        path.chmod(0o600)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _query(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()

    def get(self, bucket: str, key: str) -> Row | None:
        return self.get_many(bucket, [key]).get(key)

    def get_many(self, bucket: str, keys: Iterable[str]) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        wanted = list(keys)
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            marks = ",".join("?" * len(batch))
            found = self._query(
                "SELECT key, mtime_ns, size, etag, attributes FROM objects "  # noqa: S608 (only question marks)
                f"WHERE bucket = ? AND key IN ({marks})",
                bucket,
                *batch,
            )
            for key, mtime_ns, size, etag, attributes in found:
                rows[str(key)] = Row(
                    int(str(mtime_ns)), int(str(size)), str(etag), Attributes.from_json(str(attributes))
                )
        return rows

    def put(self, bucket: str, key: str, row: Row) -> None:
        self._query(
            "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?)",
            bucket,
            key,
            row.mtime_ns,
            row.size,
            row.etag,
            row.attributes.to_json(),
        )

    def delete(self, bucket: str, key: str) -> None:
        self._query("DELETE FROM objects WHERE bucket = ? AND key = ?", bucket, key)

    def markers(self, bucket: str, prefix: str) -> set[str]:
        """Keys of folder markers (zero-byte objects that end in a slash) that start with ``prefix``."""
        rows = self._query(
            "SELECT key FROM objects WHERE bucket = ? AND substr(key, -1) = '/' "
            "AND substr(key, 1, length(?)) = ?",
            bucket,
            prefix,
            prefix,
        )
        return {str(key) for (key,) in rows}

    def bucket(self, name: str) -> tuple[float, str] | None:
        """When the bucket was made (seconds since the epoch), and in which region."""
        rows = self._query("SELECT created, region FROM buckets WHERE name = ?", name)
        return (float(str(rows[0][0])), str(rows[0][1])) if rows else None

    def put_bucket(self, name: str, created: float, region: str) -> None:
        self._query("INSERT OR REPLACE INTO buckets VALUES (?, ?, ?)", name, created, region)

    def delete_bucket(self, name: str) -> None:
        """Forget a bucket and whatever was known of its objects."""
        for sql in (
            "DELETE FROM buckets WHERE name = ?",
            "DELETE FROM objects WHERE bucket = ?",
            "DELETE FROM documents WHERE bucket = ?",
        ):
            self._query(sql, name)

    def document(self, bucket: str, name: str) -> bytes | None:
        rows = self._query("SELECT body FROM documents WHERE bucket = ? AND name = ?", bucket, name)
        body = rows[0][0] if rows else None
        return body if isinstance(body, bytes) else None

    def put_document(self, bucket: str, name: str, body: bytes) -> None:
        self._query("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", bucket, name, body)

    def delete_document(self, bucket: str, name: str) -> None:
        self._query("DELETE FROM documents WHERE bucket = ? AND name = ?", bucket, name)
