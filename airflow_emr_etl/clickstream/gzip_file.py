"""Gzip whose bytes depend on the content alone: no time, no name, no Python version in the header."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
MAGIC = b"\x1f\x8b"


class GzipWriter:
    """Writes one gzip member to ``target``; :meth:`close` ends the member and leaves ``target`` open."""

    def __init__(self, target: BinaryIO, level: int = 6) -> None:
        self._target = target
        self._deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._crc = 0
        self._size = 0
        target.write(_HEADER)

    def write(self, data: bytes) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._size = (self._size + len(data)) & 0xFFFFFFFF
        self._target.write(self._deflate.compress(data))

    def close(self) -> None:
        self._target.write(self._deflate.flush() + struct.pack("<II", self._crc, self._size))
