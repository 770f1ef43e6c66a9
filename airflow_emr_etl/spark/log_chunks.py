"""Log files as chunks of whole lines, some megabytes at a time or one line, whatever they are compressed with."""

from __future__ import annotations

import bz2
import gzip
from typing import Any, BinaryIO, Callable, Iterator, List, Mapping, Optional

import numpy as np
import pyarrow as pa

CHUNK_BYTES = 16 << 20
_BOM = b"\xef\xbb\xbf"
_MOST_LINE_BYTES = 1 << 30


def _zstd(file: BinaryIO) -> Any:
    return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")


_OPENERS: Mapping[str, Callable[[BinaryIO], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".zst": _zstd}


class Chunk:
    """Lines of a file: ``content``, ``ends`` (for each line the place behind its line feed, numpy int64) and ``first``,
    how many lines are before. A last line without a line feed is given one."""

    def __init__(self, content: bytes, first: int) -> None:
        self.content, self.first = content, first
        self.ends = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n")) + 1

    def __len__(self) -> int:
        return len(self.ends)

    def line(self, row: int) -> bytes:
        """A line without its line feed."""
        begin = self.ends[row - 1] if row else 0
        return self.content[begin : self.ends[row] - 1]

    def texts(self) -> Any:
        """The lines as a pyarrow array of strings, which need not be UTF-8, with their line feeds."""
        offsets = np.append(0, self.ends).astype(np.int32)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(self.content)]
        return pa.Array.from_buffers(pa.string(), len(self), buffers)


def chunks_of(name: str, file: BinaryIO, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """The lines of ``file``; ``name`` says how it is compressed. Raise OSError or EOFError for one that is damaged."""
    opener: Optional[Callable[[BinaryIO], Any]] = None
    for suffix, each in _OPENERS.items():
        if name.endswith(suffix):
            opener = each
    stream = file if opener is None else opener(file)
    first, begun = 0, 0
    rest: List[bytes] = []
    begin = stream.read(len(_BOM))
    # Hadoop's reader of lines leaves it out too.
    block = (b"" if begin == _BOM else begin) + stream.read(chunk_bytes)
    while block:
        end = block.rfind(b"\n") + 1
        if end:
            chunk = Chunk(b"".join([*rest, block[:end]]), first)
            first += len(chunk)
            rest, begun = [], 0
            yield chunk
        rest.append(block[end:])
        begun += len(block) - end
        if begun > _MOST_LINE_BYTES:
            raise OSError(f"{name}: line {first + 1} has more than {_MOST_LINE_BYTES} bytes; is it a log?")
        block = stream.read(chunk_bytes)
    if begun:
        yield Chunk(b"".join([*rest, b"\n"]), first)
