"""The log files of a task, chunk by chunk: plain lines as shares for the shuffle, doubtful lines as they are."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Set, Tuple

import numpy as np

from airflow_emr_etl.models.log_source import LogSource
from airflow_emr_etl.spark import line_shares, plain_access_log
from airflow_emr_etl.spark.log_chunks import Chunk
from airflow_emr_etl.spark.plain_json import JsonReader


class LinePass:
    """``lines`` is how many lines the file at hand has so far; ``agents`` and ``referrers`` are all texts of the plain
    lines of all files, each once, and ``drift`` counts what these have told."""

    def __init__(self, source: LogSource, max_line_bytes: int, partitions: int) -> None:
        self.source, self.max_line_bytes, self.partitions = source, max_line_bytes, partitions
        self.lines = 0
        self.agents: Set[str] = set()
        self.referrers: Set[str] = set()
        self._json = None if source.kind == "ncsa" else JsonReader(source, max_line_bytes)
        self._file = 0
        self._waiting: List[Any] = []
        self._rows = 0
        self._doubtful: Tuple[Chunk, Any]

    @property
    def drift(self) -> Dict[str, int]:
        return {} if self._json is None else self._json.drift

    def begin(self, name: str) -> None:
        """What is fed from now on is of this file."""
        self.lines, self._file = 0, line_shares.file_number(name)

    def feed(self, chunk: Chunk) -> None:
        """Read the next lines. Take :meth:`doubtful` and :meth:`shares` before the ones after them."""
        self.lines += len(chunk)
        if self._json is None:
            plain, columns = plain_access_log.read(chunk.texts(), self.max_line_bytes)
        else:
            plain, columns = self._json.read(chunk.content, chunk.ends)
        self._doubtful = chunk, np.flatnonzero(~plain)
        rows = np.flatnonzero(plain)
        if not len(rows):
            return
        own = columns.get("source_event_id")
        keys = None
        if own is None or own.null_count:
            keys = line_shares.digests(chunk.content, np.append(0, chunk.ends)[rows], chunk.ends[rows] - 1)
        files = np.full(len(rows), self._file, np.int64)
        hits = line_shares.hits(columns, keys, files, rows + chunk.first, self.source.page_views)
        for name, texts in (("user_agent", self.agents), ("referrer", self.referrers)):
            for part in hits.column(name).chunks:
                texts.update(part.dictionary.drop_null().to_pylist())
        self._waiting.append(hits)
        self._rows += len(rows)

    def doubtful(self) -> Iterator[Tuple[bytes, int]]:
        """The doubtful ones of the lines that were fed last, and where in the file each is, from 0."""
        chunk, rows = self._doubtful
        return ((chunk.line(row), chunk.first + row) for row in rows.tolist())

    def shares(self, all_of_them: bool = False) -> Iterator[Tuple[int, Any]]:
        """What has come together for each partition, if that is much, or ``all_of_them``."""
        if self._rows >= line_shares.SHARED_ROWS or (all_of_them and self._rows):
            table = line_shares.joined(self._waiting)
            self._waiting, self._rows = [], 0
            yield from line_shares.shares(table, self.partitions)
