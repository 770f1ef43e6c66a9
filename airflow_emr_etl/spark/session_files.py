"""Parquet files of normalized events to hits, within Arrow: texts stay the dictionaries that the files have.

Only for whole files. What comes out is what HitRows of session_engine.py would make of their rows.
"""

from __future__ import annotations

from typing import Any, Iterable, Iterator, Optional, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_emr_etl.spark import session_shuffle
from airflow_emr_etl.spark.xxhash64 import xxhash64


def hits_of(batches: Iterable[Any], texts: Sequence[str]) -> Iterator[Any]:
    """Batches with files to batches of columns of ``session_shuffle.HITS``: their bytes in ``content``, or, where that
    is NULL, the ``path`` at which this machine has them; and their number in ``file``, where hits shall have it.

    ``texts``: visitor_id, path and, where it is wanted, referrer.
    """
    for batch in batches:
        numbered = "file" in batch.schema.names
        numbers = batch.column("file").to_pylist() if numbered else [None] * batch.num_rows
        for path, content, number in zip(batch.column("path").to_pylist(), batch.column("content"), numbers):
            whole = pa.BufferReader(content.as_buffer()) if content.is_valid else pa.memory_map(path)
            yield from _of_file(whole, texts, number)


def _of_file(content: Any, texts: Sequence[str], number: Optional[int]) -> Iterator[Any]:
    file = pq.ParquetFile(content, read_dictionary=list(texts))
    wanted = ["event_id", "ts", "is_page_view", *texts]
    for rows in file.iter_batches(session_shuffle.CHUNK_ROWS, columns=wanted, use_threads=False):
        columns = {name: rows.column(name) for name in ("is_page_view", *texts)}
        # First to microseconds: older files count nanoseconds.
        columns["ts"] = rows.column("ts").cast(pa.timestamp("us", rows.column("ts").type.tz)).cast(pa.int64())
        columns["event"] = pa.array(xxhash64(rows.column("event_id")))
        if number is not None:
            columns["file"] = pa.array(np.full(rows.num_rows, number, np.int32))
        yield pa.RecordBatch.from_pydict(columns)
