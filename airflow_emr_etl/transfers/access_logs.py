"""Bring a day's access logs into the lake: verified, counted, exactly the day's files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_emr_etl.exceptions import ConfigurationError, MissingInputError
from airflow_emr_etl.hooks.s3_lake import Content, S3LakeHook, S3Object
from airflow_emr_etl.models.s3 import S3Uri, as_folder
from airflow_emr_etl.operators.failures import retry_only_what_can_pass

if TYPE_CHECKING:
    from airflow.sdk import Context

_SUFFIXES = {"gzip": ".gz", "bzip2": ".bz2", "zstd": ".zst"}
"""Hadoop goes by the name: what is compressed has to say so in it, and nothing else may."""
_MISLEADING = (*_SUFFIXES.values(), ".zstd", ".snappy", ".lz4", ".deflate")


@dataclass(frozen=True)
class Ingested:
    """One file of the lake and what is in it."""

    source: str
    uri: str
    lines: int
    bytes: int
    """Stored bytes."""
    gzip: bool
    compression: str | None = None
    """``gzip``, ``bzip2`` or ``zstd``."""


class IngestLogsOperator(BaseOperator):
    """Copy a day's log files into the lake, so that the destination is a mirror of the source.

    Every file is read through once before anything is copied: an archive (gzip, bzip2, zstd) that is damaged
    raises ``CorruptInputError``, no file at all raises ``MissingInputError``; both before a cluster is paid for. The
    copy itself happens on S3's side. An archive is stored under a name that says so (``.gz``, ``.bz2``, ``.zst``)
    and nothing else is, because Spark goes by the name. What earlier tries left in the destination and the source
    no longer has is deleted.

    Returns ``{"files", "lines", "bytes", "empty_files", "path", "objects"}``: lines are ends of line, and
    one more for a last line without; bytes are stored bytes; ``objects`` holds the same for each file.

    :param source: ``s3://bucket/access/dt={{ ds }}/`` (templated)
    :param destination: ``s3://lake/raw/access/dt={{ ds }}/``; belongs to this task alone (templated)
    :param marker: name of an object in the source that is no log, such as ``_SUCCESS`` (templated)
    """

    template_fields: Sequence[str] = ("source", "destination", "marker", "aws_conn_id", "region_name")
    ui_color = "#cfe8fc"

    def __init__(
        self,
        *,
        source: str,
        destination: str,
        marker: str | None = None,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.destination = destination
        self.marker = marker
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name

    @cached_property
    def lake(self) -> S3LakeHook:
        return S3LakeHook(self.aws_conn_id, self.region_name)

    def execute(self, context: Context) -> dict[str, Any]:
        with retry_only_what_can_pass():
            source, destination = _folders(self.source, self.destination)
            found = [item for item in self.lake.list_objects(source) if not self._is_marker(item, source)]
            if not found:
                raise MissingInputError(
                    f"There is no log under {source}. Check what writes there, and the prefix; then clear this task.",
                    prefix=str(source),
                )
            inspected = [(item, self.lake.inspect(item)) for item in found]
            ingested = self._copy(inspected, source, destination)
            return self._report(ingested, destination)

    def _copy(
        self, inspected: Sequence[tuple[S3Object, Content]], source: S3Uri, destination: S3Uri
    ) -> list[Ingested]:
        names = lake_names(
            (item.uri.key.removeprefix(source.key), content.compression) for item, content in inspected
        )
        there = {item.uri: item for item in self.lake.list_objects(destination)}
        ingested = []
        for (item, content), name in zip(inspected, names, strict=True):
            target = destination.child(name)
            if item.size_bytes != content.size_bytes:
                raise ConfigurationError(
                    f"{item.uri} changed while it was read: {item.size_bytes} bytes when listed, "
                    f"{content.size_bytes} when read. Let its writer finish (a marker can tell), and clear this task."
                )
            self.lake.copy(item, target)
            there.pop(target, None)
            ingested.append(
                Ingested(
                    str(item.uri),
                    str(target),
                    content.lines,
                    content.size_bytes,
                    content.compression == "gzip",
                    content.compression,
                )
            )
            self.log.info("%s: %d lines, %d bytes → %s", item.uri, content.lines, content.size_bytes, target)
        if there:
            self.log.info("Deleting %d files that the source no longer has", len(there))
            self.lake.delete(there)
        return ingested

    def _report(self, ingested: Sequence[Ingested], destination: S3Uri) -> dict[str, Any]:
        empty = [item.source for item in ingested if item.lines == 0]
        if empty:
            self.log.warning("%d files are empty: %s", len(empty), ", ".join(empty[:5]))
        return {
            "files": len(ingested),
            "lines": sum(item.lines for item in ingested),
            "bytes": sum(item.bytes for item in ingested),
            "empty_files": len(empty),
            "path": str(destination),
            "objects": [asdict(item) for item in ingested],
        }

    def _is_marker(self, item: S3Object, source: S3Uri) -> bool:
        return self.marker is not None and item.uri == source.child(self.marker)


def lake_names(files: Iterable[tuple[str, str | None]]) -> list[str]:
    """A name in the lake for each (name in the source, compression), which ends as its compression does.

    Names that would meet (``a`` as a gzip beside ``a.gz``) are told apart by a number; the same source gives
    the same names. A file whose name says what it is keeps it. Spark skips names that begin with ``_`` or
    ``.``, so those get a letter in front.
    """
    given = list(files)
    names: dict[int, str] = {}
    taken: set[str] = set()
    fitted = [_visible(_fitted(name, compression)) for name, compression in given]
    # Those that keep their name come first, so that a newcomer of the same name never renames them.
    order = sorted(range(len(given)), key=lambda i: (fitted[i] != given[i][0], given[i][0]))
    for i in order:
        name, number = fitted[i], 1
        while name in taken:
            number += 1
            name = _numbered(fitted[i], number)
        taken.add(name)
        names[i] = name
    return [names[i] for i in range(len(given))]


def _fitted(name: str, compression: str | None) -> str:
    if compression:
        return name if name.endswith(_SUFFIXES[compression]) else name + _SUFFIXES[compression]
    while name.lower().endswith(_MISLEADING):
        name = name.rpartition(".")[0] or "log"
    return name


def _visible(name: str) -> str:
    return "/".join(f"x{part}" if part.startswith(("_", ".")) else part for part in name.split("/"))


def _numbered(name: str, number: int) -> str:
    suffix = next((suffix for suffix in _SUFFIXES.values() if name.endswith(suffix)), "")
    return f"{name.removesuffix(suffix)}-{number}{suffix}"


def _folders(source: str, destination: str) -> tuple[S3Uri, S3Uri]:
    """Both as folders. One inside the other would delete or copy what it must not."""
    first, second = S3Uri.parse(as_folder(source)), S3Uri.parse(as_folder(destination))
    if first.bucket == second.bucket and (
        first.key.startswith(second.key) or second.key.startswith(first.key)
    ):
        raise ConfigurationError(
            f"The destination {second} and the source {first} lie one inside the other. "
            "Give the lake a folder of its own: files there that the source does not have are deleted."
        )
    return first, second
