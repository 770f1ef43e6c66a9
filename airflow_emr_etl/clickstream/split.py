"""Log files of any days, cut into one file for each source file and UTC day.

So the pipeline can run once for each day of logs that were not rotated daily, or not at UTC midnight. The bytes
of every line stay as they are. A line that shows no time belongs to the nearest line before it that does, or,
at the beginning of a file, to the first one after it.

Memory stays flat: nothing but the open output files is held, whatever the sizes of files and lines are.
"""

from __future__ import annotations

import bz2
import gzip
import re
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import BinaryIO, cast

from airflow_emr_etl.clickstream.gzip_file import MAGIC, GzipWriter
from airflow_emr_etl.exceptions import CorruptInputError, InputError, MissingInputError
from airflow_emr_etl.models.access_log import find_time, read_time

_CHUNK = 1 << 16
_OPEN_FILES = 64


@dataclass(frozen=True)
class SplitFile:
    """What became of one source file: its lines, and how many of them went to each day."""

    source: Path
    lines: int
    days: Mapping[date, int]

    @property
    def empty(self) -> bool:
        return self.lines == 0


@dataclass(frozen=True)
class SplitLogs:
    """The outcome. ``outputs`` maps each day, in order, to its files with their line counts."""

    files: Sequence[SplitFile]
    outputs: Mapping[date, Mapping[Path, int]]

    @property
    def days(self) -> list[date]:
        return list(self.outputs)

    @property
    def lines(self) -> int:
        return sum(file.lines for file in self.files)

    @property
    def empty_files(self) -> int:
        return sum(file.empty for file in self.files)


def split_logs(sources: Sequence[Path], output: Path) -> SplitLogs:
    """Write ``<output>/<day>/<name>.gz`` for each source file and UTC day; the same bytes for the same sources.

    Plain and gzip are told apart by content. A file without a byte is counted and gives no output. Raise
    MissingInputError for a source that is not there or no file, CorruptInputError for a damaged gzip, and
    InputError for a file in which no line shows a time; each names the file and the line. Then nothing of
    that source is left in ``output``.
    """
    outputs: dict[date, dict[Path, int]] = {}
    files: list[SplitFile] = []
    for source, name in zip(sources, _output_names(sources), strict=True):
        if not source.is_file():
            raise MissingInputError(f"There is no log file {source}", file=str(source))
        writers = _DayWriters(output, name)
        try:
            lines, days = _split(source, writers)
            written = writers.finish()
        except BaseException:
            writers.discard()
            raise
        for day, path in written.items():
            outputs.setdefault(day, {})[path] = days[day]
        files.append(SplitFile(source, lines, dict(sorted(days.items()))))
    return SplitLogs(files, dict(sorted(outputs.items())))


def count_lines(source: Path) -> int:
    r"""Lines of a plain or gzip file: ``\n`` ends a line, an unfinished last line counts.

    Raise CorruptInputError for a damaged gzip, naming the file and the line.
    """
    return sum(begins for _, begins in _chunks(source))


def _split(source: Path, writers: _DayWriters) -> tuple[int, Counter[date]]:
    days: Counter[date] = Counter()
    lines = undated = 0
    current: date | None = None
    known: dict[str, date | None] = {}
    for chunk, begins in _chunks(source):
        if begins:
            lines += 1
            # The host, the user and the time stand at the very beginning of a line.
            found = _day(find_time(chunk[:4096]), known)
            if found is not None and current is None:
                _copy_first(source, undated, found, writers)
                days[found] += undated
            current = found or current
            if current is None:
                undated += 1
            else:
                days[current] += 1
        if current is not None:
            writers.write(current, chunk)
    if lines and current is None:
        raise InputError(
            f"{source}: none of its {lines} lines shows a time such as [05/Jan/2026:23:59:59 +0000], so it is no "
            f"access log in Common or Combined Log Format. Line 1 is {_first_bytes(source)!r}.",
            file=str(source),
            line=1,
        )
    return lines, days


def _day(text: str | None, known: dict[str, date | None]) -> date | None:
    if text is None:
        return None
    # Seconds play no part in the day, and a file has few minutes compared with its lines.
    minute = text[:17] + text[20:]
    if minute not in known:
        if len(known) > 100_000:
            known.clear()
        moment = read_time(text)
        if moment is None:
            return None
        known[minute] = moment.date()
    # An impossible second does not change the day that the line belongs to.
    return known[minute]


def _copy_first(source: Path, lines: int, day: date, writers: _DayWriters) -> None:
    copied = 0
    if not lines:
        return
    for chunk, begins in _chunks(source):
        copied += begins
        if copied > lines:
            return
        writers.write(day, chunk)


def _first_bytes(source: Path) -> bytes:
    for chunk, _ in _chunks(source):
        return chunk[:80]
    return b""


def _chunks(source: Path) -> Iterator[tuple[bytes, bool]]:
    """The file in pieces that end at the end of a line at the latest, and whether each begins a line."""
    lines = 0
    begins = True
    try:
        with _open(source) as stream:
            while chunk := stream.readline(_CHUNK):
                lines += begins
                yield chunk, begins
                begins = chunk.endswith(b"\n")
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the archive's
        raise CorruptInputError(
            f"{source}: the archive is damaged at line {lines + 1}: {error}. Fetch the file again.",
            file=str(source),
            line=lines + 1,
        ) from error


def _open(source: Path) -> BinaryIO:
    with source.open("rb") as probe:
        first = probe.read(3)
    if first.startswith(MAGIC):
        return cast("BinaryIO", gzip.open(source, "rb"))
    return cast("BinaryIO", bz2.open(source, "rb")) if first == b"BZh" else source.open("rb")


def _output_names(sources: Sequence[Path]) -> list[str]:
    """A name for each source, made of characters that no store, shell or glob takes amiss, none twice."""
    names: list[str] = []
    for source in sources:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name).removesuffix(".gz").lstrip("._-") or "log"
        name, number = stem, 1
        while f"{name}.gz" in names:
            number += 1
            name = f"{stem}-{number}"
        names.append(f"{name}.gz")
    return names


class _DayWriters:
    """The outputs of one source, one a day. Few are open at a time; one that comes again gets a new gzip member."""

    def __init__(self, output: Path, name: str) -> None:
        self._output = output
        self._name = name
        self._open: OrderedDict[date, tuple[BinaryIO, GzipWriter]] = OrderedDict()
        self._days: set[date] = set()

    def write(self, day: date, data: bytes) -> None:
        if day not in self._open:
            if len(self._open) >= _OPEN_FILES:
                self._close(next(iter(self._open)))
            part = self._part(day)
            part.parent.mkdir(parents=True, exist_ok=True)
            stream = part.open("ab" if day in self._days else "wb")
            self._days.add(day)
            self._open[day] = (stream, GzipWriter(stream))
        self._open.move_to_end(day)
        self._open[day][1].write(data)

    def finish(self) -> dict[date, Path]:
        """Close the outputs and give them their names."""
        for day in list(self._open):
            self._close(day)
        return {
            day: self._part(day).replace(self._output / day.isoformat() / self._name) for day in self._days
        }

    def discard(self) -> None:
        for day in list(self._open):
            self._close(day)
        for day in self._days:
            part = self._part(day)
            part.unlink(missing_ok=True)
            if part.parent.is_dir() and not any(part.parent.iterdir()):
                part.parent.rmdir()

    def _part(self, day: date) -> Path:
        return self._output / day.isoformat() / f".{self._name}.part"

    def _close(self, day: date) -> None:
        stream, writer = self._open.pop(day)
        try:
            writer.close()
        finally:
            stream.close()
