"""Reading the body of an upload: plain or aws-chunked, in pieces, with the checksums that the client sent."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Protocol

from airflow_emr_etl.local.s3.errors import S3Error
from airflow_emr_etl.local.s3.store import CHUNK_BYTES, Staged

CHECKSUM_PREFIX = "x-amz-checksum-"
_ALGORITHMS = ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")
_MAX_LINE_BYTES = 16 * 1024


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _digest(algorithm: str) -> _Digest | None:
    """None for what the standard library cannot compute: such a checksum is kept and given back unverified."""
    if algorithm == "crc32":
        return _Crc32()
    if algorithm == "sha1":
        return hashlib.sha1(usedforsecurity=False)
    if algorithm == "sha256":
        return hashlib.sha256(usedforsecurity=False)
    return None


class UploadBody:
    """The body of one request. Iterate once; ``trailers`` are there afterwards."""

    def __init__(self, stream: BinaryIO, headers: Mapping[str, str]) -> None:
        self._stream = stream
        self._headers = headers
        self.trailers: dict[str, str] = {}
        hashed = headers.get("x-amz-content-sha256", "")
        self._chunked = hashed.startswith("STREAMING-") or "aws-chunked" in headers.get(
            "content-encoding", ""
        )
        length = headers.get("x-amz-decoded-content-length" if self._chunked else "content-length")
        try:
            self.length = None if length in (None, "") else int(str(length))
        except ValueError:
            raise S3Error("InvalidArgument", f"The content length {length!r} is no number.") from None

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks() if self._chunked else iter(lambda: self._stream.read(CHUNK_BYTES), b"")

    def _line(self) -> bytes:
        line = self._stream.readline(_MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise S3Error("IncompleteBody", "The body ended inside a chunk of aws-chunked encoding.")
        return line.strip()

    def _chunks(self) -> Iterator[bytes]:
        while True:
            try:
                left = int(self._line().partition(b";")[0], 16)
            except ValueError:
                raise S3Error(
                    "InvalidChunkSizeError", "The body is not in aws-chunked encoding.", 403
                ) from None
            if not left:
                break
            while left:
                data = self._stream.read(min(left, CHUNK_BYTES))
                if not data:
                    raise S3Error("IncompleteBody", "The body ended inside a chunk of aws-chunked encoding.")
                left -= len(data)
                yield data
            self._line()
        while line := self._stream.readline(_MAX_LINE_BYTES).strip():
            name, _, value = line.decode("latin-1").partition(":")
            self.trailers[name.strip().lower()] = value.strip()

    def receive(self, staged: Staged, also: str | None = None) -> dict[str, str]:
        """Write the body into ``staged``; the checksums by algorithm that came with it, or that ``also`` names.

        Raises S3Error when fewer bytes came than were promised, or a checksum is wrong.
        """
        digests: dict[str, _Digest] = {}
        wanted = {name for name in _ALGORITHMS if CHECKSUM_PREFIX + name in self._headers}
        announced = self._headers.get("x-amz-trailer", "").lower()
        wanted |= {name for name in _ALGORITHMS if announced == CHECKSUM_PREFIX + name}
        if also:
            wanted.add(also.lower())
        for name in wanted:
            if digest := _digest(name):
                digests[name] = digest
        for chunk in self:
            staged.write(chunk)
            for digest in digests.values():
                digest.update(chunk)
        if self.length is not None and staged.size != self.length:
            raise S3Error("IncompleteBody", f"{self.length} bytes were promised and {staged.size} came.")
        self._check_md5(staged.md5)
        sent = {**self._headers, **self.trailers}
        checksums = {}
        for name in sorted(wanted):
            claimed = sent.get(CHECKSUM_PREFIX + name)
            computed = base64.b64encode(digests[name].digest()).decode() if name in digests else None
            if claimed and computed and claimed != computed:
                raise S3Error("BadDigest", f"The {name.upper()} that was sent is not that of the body.")
            if value := claimed or computed:
                checksums[name] = value
        return checksums

    def _check_md5(self, md5: bytes) -> None:
        claimed = self._headers.get("content-md5")
        if not claimed:
            return
        try:
            decoded = base64.b64decode(claimed, validate=True)
        except binascii.Error:
            decoded = b""
        if len(decoded) != 16:
            raise S3Error("InvalidDigest", "Content-MD5 is not valid.")
        if decoded != md5:
            raise S3Error("BadDigest", "The Content-MD5 that was sent is not that of the body.")
