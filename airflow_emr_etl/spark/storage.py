"""Files as Spark's Hadoop FileSystem sees them: ``s3://`` on EMR, whatever else is configured elsewhere.

Nothing here touches a path of the driver's own disk, so that jobs run with ``--deploy-mode cluster``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence

from pyspark.sql import SparkSession

from airflow_emr_etl.exceptions import MissingInputError


@dataclass(frozen=True)
class StoredFile:
    """A file, its URI under the folder as the caller wrote that one, and its size in bytes."""

    uri: str
    size: int


def join(folder: str, *parts: str) -> str:
    """``folder`` and ``parts`` with one slash between each."""
    return "/".join([folder.rstrip("/"), *(part.strip("/") for part in parts)])


def after_scheme(uri: str) -> str:
    """What two spellings of one file agree in: ``s3`` and ``s3a``, ``file:/x`` and ``/x``."""
    return re.sub("^[A-Za-z][A-Za-z0-9+.-]*:", "", uri).lstrip("/")


def local_path(spark: SparkSession, uri: str) -> Optional[str]:
    """The path of ``uri`` where that is in the file system of the machine itself; None elsewhere."""
    path, fs = _path(spark, uri)
    qualified = fs.makeQualified(path).toUri()
    return str(qualified.getPath()) if qualified.getScheme() == "file" else None


def local_paths(spark: SparkSession, uris: Sequence[str]) -> Optional[List[str]]:
    """The paths of ``uris`` where all are in the file system of the machine itself, otherwise None."""
    paths = []
    for uri in uris:
        # To ask Hadoop about each of ten thousand files takes longer than to read some of them.
        path = uri[len("file:") :] if re.match("file:/[^/]", uri) else local_path(spark, uri)
        if path is None:
            return None
        paths.append(path)
    return paths


def read_text(spark: SparkSession, uri: str) -> str:
    """The UTF-8 text of a (small) file. Raise MissingInputError where there is none."""
    return read_bytes(spark, uri).decode("utf-8")


def read_bytes(spark: SparkSession, uri: str) -> bytes:
    """The bytes of a (small) file. Raise MissingInputError where there is none."""
    path, fs = _path(spark, uri)
    if not fs.exists(path):
        raise MissingInputError(f"There is no file {uri}", uri=uri)
    stream = fs.open(path)
    try:
        return bytes(_jvm(spark).org.apache.commons.io.IOUtils.toByteArray(stream))
    finally:
        stream.close()


def write_text(spark: SparkSession, uri: str, text: str) -> None:
    """Write ``text`` as UTF-8, in place of a file that may be there."""
    path, fs = _path(spark, uri)
    stream = fs.create(path, True)
    try:
        stream.write(bytearray(text.encode("utf-8")))
    finally:
        stream.close()


def delete(spark: SparkSession, uri: str) -> None:
    """Remove a file or a folder with all in it; nothing happens where there is none."""
    path, fs = _path(spark, uri)
    if fs.exists(path):
        fs.delete(path, True)


def list_files(spark: SparkSession, uri: str) -> List[StoredFile]:
    """All data files under ``uri`` (a folder, at any depth, or one file), sorted by URI.

    Names that begin with ``_`` or ``.`` are left out, as Spark's own readers do. Raise MissingInputError where
    ``uri`` does not exist; a folder without a file gives an empty list.
    """
    path, fs = _path(spark, uri)
    if not fs.exists(path):
        raise MissingInputError(f"There is nothing at {uri}", uri=uri)
    root = fs.makeQualified(path).toUri().getPath().rstrip("/")
    found = []
    remaining = fs.listFiles(path, True)
    while remaining.hasNext():
        status = remaining.next()
        inside = status.getPath().toUri().getPath()[len(root) :].strip("/")
        if any(part.startswith(("_", ".")) for part in inside.split("/")):
            continue
        found.append(StoredFile(join(uri, inside) if inside else uri, int(status.getLen())))
    return sorted(found, key=lambda file: file.uri)


def _jvm(spark: SparkSession) -> Any:
    # Not public in PySpark, but the one way to its file systems; the same in 3.5 and 4.
    return spark.sparkContext._jvm


def _path(spark: SparkSession, uri: str) -> Any:
    path = _jvm(spark).org.apache.hadoop.fs.Path(uri)
    return path, path.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration())
