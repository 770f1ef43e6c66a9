"""Whole files for Python to take apart itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, Iterable, Iterator, Sequence, Tuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.spark import storage

MOST_BYTES = 256 << 20
"""Of a file: a task can hold it twice."""

_OTHER_CODECS = (".deflate", ".snappy", ".lz4", ".lzo", ".xz", ".br", ".lzma", ".passthrough")


def fits_log(uri: str, size: int) -> bool:
    """Whether ``log_chunks.py`` can read this file in a task, as Hadoop reads it, which goes by the name alone too."""
    return size <= MOST_BYTES and not uri.endswith(_OTHER_CODECS)


def whole_files(spark: SparkSession, uris: Sequence[str]) -> DataFrame:
    """``path`` and ``content`` of each file; of local ones only the path.

    Spark reads the bytes and hands them over, so it is Spark's file system, credentials and retries as ever; only
    files of the machine itself are opened where they are, by :func:`opened`.
    """
    if not uris:
        return spark.createDataFrame([], "path string, content binary")
    local = storage.local_paths(spark, uris)
    if local is not None:
        tasks = min(len(uris), 4 * spark.sparkContext.defaultParallelism)
        paths = F.get(F.array(*map(F.lit, local)), F.col("id").cast("int"))
        return spark.range(0, len(uris), 1, tasks).select(
            paths.alias("path"), F.lit(None).cast("binary").alias("content")
        )
    reader = spark.read.format("binaryFile").option("__globPaths__", "false")
    return reader.load(list(uris)).select("path", "content")


def opened(batches: Iterable[Any]) -> Iterator[Tuple[str, BinaryIO]]:
    """Each file of Arrow batches of :func:`whole_files`, by its name, ready to be read."""
    import pyarrow

    for batch in batches:
        for path, content in zip(batch.column("path").to_pylist(), batch.column("content")):
            if content.is_valid:
                yield path, pyarrow.BufferReader(content.as_buffer())
            else:
                with Path(path).open("rb") as file:
                    yield path, file
