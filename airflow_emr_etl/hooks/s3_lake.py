"""Objects of the lake in S3: list, read, write once, copy, verify."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

from airflow_emr_etl.exceptions import ConfigurationError, CorruptInputError, MissingInputError
from airflow_emr_etl.hooks.aws_errors import aws_call
from airflow_emr_etl.models.s3 import S3Uri

GZIP_MAGIC = b"\x1f\x8b"
_MAGICS = {"gzip": GZIP_MAGIC, "bzip2": b"BZh", "zstd": b"\x28\xb5\x2f\xfd"}
#: CopyObject copies no more than this; above it the copy goes in parts, still on S3's side.
MAX_SIMPLE_COPY_BYTES = 5 * 1024**3
_PART_BYTES = 512 * 1024**2
_CHUNK_BYTES = 1024 * 1024
_DELETE_BATCH = 1000
_BITE_BYTES = 512
#: That of ``zstd --long``, and the largest that its tools read without being asked to.
_ZSTD_WINDOW_BYTES = 128 * 1024**2


@dataclass(frozen=True)
class S3Object:
    """One object of a listing."""

    uri: S3Uri
    size_bytes: int
    etag: str


@dataclass(frozen=True)
class Content:
    """What one pass over an object found."""

    size_bytes: int
    """Stored bytes, so compressed ones for a gzip."""
    content_bytes: int
    """Bytes after decompression."""
    lines: int
    """Ends of line, and one more where the last line has none."""
    compression: str | None = None
    """``gzip``, ``bzip2`` or ``zstd``, as the first bytes say."""


class S3LakeHook:
    """Calls of S3. Raises this package's errors, never botocore's."""

    def __init__(
        self,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        *,
        client: Any = None,
    ) -> None:
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self._client = client

    @cached_property
    def client(self) -> Any:
        """boto3's S3 client."""
        if self._client is not None:
            return self._client
        from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
        from botocore.config import Config

        hook: Any = AwsBaseHook(aws_conn_id=self.aws_conn_id, region_name=self.region_name, client_type="s3")
        config = Config(retries={"mode": "standard", "total_max_attempts": 5})
        return hook.get_client_type(region_name=self.region_name, config=config)

    def list_objects(self, prefix: str | S3Uri, *, max_keys: int | None = None) -> Iterator[S3Object]:
        """The objects under a prefix, in the order of their keys, without the markers that stand for folders.

        ``max_keys`` bounds the first page for callers that want to know only whether there is something.
        """
        where = _uri(prefix)
        request: dict[str, Any] = {"Bucket": where.bucket, "Prefix": where.key}
        if max_keys is not None:
            request["PaginationConfig"] = {"PageSize": max_keys}
        with aws_call(f"s3:ListObjectsV2 of {where}"):
            for page in self.client.get_paginator("list_objects_v2").paginate(**request):
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):
                        yield S3Object(
                            S3Uri(where.bucket, item["Key"]),
                            int(item["Size"]),
                            str(item.get("ETag", "")).strip('"'),
                        )

    def exists(self, uri: str | S3Uri) -> bool:
        """Whether there is an object with exactly this key."""
        where = _uri(uri)
        try:
            with aws_call(f"s3:HeadObject of {where}"):
                self.client.head_object(Bucket=where.bucket, Key=where.key)
        except MissingInputError:
            return False
        return True

    def read(self, uri: str | S3Uri, *, max_bytes: int | None = None) -> bytes:
        """An object's bytes; MissingInputError where there is none. For small objects: it is held in memory."""
        where = _uri(uri)
        with aws_call(f"s3:GetObject of {where}"), self._open(where) as body:
            data: bytes = body.read(max_bytes) if max_bytes is not None else body.read()
        return data

    def write(self, uri: str | S3Uri, data: bytes) -> None:
        """Put an object, in place of any that is there."""
        where = _uri(uri)
        with aws_call(f"s3:PutObject to {where}"):
            self.client.put_object(Bucket=where.bucket, Key=where.key, Body=data)

    def write_once(self, folder: str | S3Uri, name: str, data: bytes) -> str:
        """Put ``data`` at ``<folder>/<digest of data>/<name>`` unless it is there; the address."""
        where = _uri(folder).child(f"{hashlib.sha256(data).hexdigest()[:16]}/{name}")
        if not self.exists(where):
            self.write(where, data)
        return str(where)

    def copy(self, source: S3Object, target: S3Uri) -> None:
        """Copy an object on S3's side; in parts where it is larger than one CopyObject takes."""
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=MAX_SIMPLE_COPY_BYTES, multipart_chunksize=_PART_BYTES)
        with aws_call(f"s3:CopyObject from {source.uri} to {target}"):
            self.client.copy(
                CopySource={"Bucket": source.uri.bucket, "Key": source.uri.key},
                Bucket=target.bucket,
                Key=target.key,
                Config=config,
            )

    def delete(self, uris: Iterable[S3Uri]) -> None:
        """Delete objects, a thousand a call; one that is gone already is no error."""
        by_bucket: dict[str, list[str]] = {}
        for uri in uris:
            by_bucket.setdefault(uri.bucket, []).append(uri.key)
        for bucket, keys in by_bucket.items():
            for start in range(0, len(keys), _DELETE_BATCH):
                batch = [{"Key": key} for key in keys[start : start + _DELETE_BATCH]]
                with aws_call(f"s3:DeleteObjects in {bucket}"):
                    answer = self.client.delete_objects(
                        Bucket=bucket, Delete={"Objects": batch, "Quiet": True}
                    )
                for refused in answer.get("Errors", [])[:1]:
                    raise ConfigurationError(
                        f"s3://{bucket}/{refused['Key']} could not be deleted: {refused.get('Code')}: "
                        f"{refused.get('Message')}"
                    )

    def inspect(self, item: S3Object) -> Content:
        """Read an object through once, in a few MiB of memory. CorruptInputError for a damaged archive.

        The first bytes say how it is compressed, whatever its name says.
        """
        with aws_call(f"s3:GetObject of {item.uri}"), self._open(item.uri) as body:
            return inspect_stream(body, str(item.uri))

    def tail(self, uri: str | S3Uri, *, max_lines: int, max_bytes: int = 64 * 1024) -> list[str]:
        """The last lines of a text, plain or gzip, in bounded memory; bytes that are no UTF-8 are shown escaped."""
        where = _uri(uri)
        kept = b""
        with aws_call(f"s3:GetObject of {where}"), self._open(where) as body:
            try:
                for chunk in _decompressed(body, str(where)):
                    kept = (kept + chunk.data)[-max_bytes:]
            except CorruptInputError:
                pass  # a log that is still being uploaded: what there is, is worth showing
        return kept.decode("utf-8", errors="backslashreplace").splitlines()[-max_lines:]

    def _open(self, where: S3Uri) -> Any:
        return _Closing(self.client.get_object(Bucket=where.bucket, Key=where.key)["Body"])


class _Closing:
    """botocore's body, closed however the reading ends, so that the connection goes back."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def __enter__(self) -> Any:
        return self._body

    def __exit__(self, *_: object) -> None:
        self._body.close()


@dataclass(frozen=True)
class _Chunk:
    data: bytes
    stored_bytes: int
    """Bytes read from storage so far."""
    compression: str | None = None


def inspect_stream(body: BinaryIO, name: str) -> Content:
    """Count a stream's bytes and lines; an archive is decompressed to its end, which checks its check sums."""
    lines = content = stored = 0
    last = b"\n"
    compression = None
    for chunk in _decompressed(body, name):
        stored, compression = chunk.stored_bytes, chunk.compression
        lines += chunk.data.count(b"\n")
        content += len(chunk.data)
        last = chunk.data[-1:] or last
    return Content(stored, content, lines + (last != b"\n"), compression)


def _decompressed(body: BinaryIO, name: str) -> Iterator[_Chunk]:
    """The content in chunks of at most a few MiB; the last chunk carries the stored size."""
    raw = _read_some(body, 4)
    if raw.startswith(GZIP_MAGIC):
        yield from _gunzip(body, raw, name)
        return
    for compression in ("bzip2", "zstd"):
        if raw.startswith(_MAGICS[compression]) and (compression == "zstd" or raw[3:4] in b"123456789"):
            yield from _unpacked(body, raw, name, compression)
            return
    stored = len(raw)
    while raw:
        yield _Chunk(raw, stored)
        raw = body.read(_CHUNK_BYTES)
        stored += len(raw)


def _gunzip(body: BinaryIO, raw: bytes, name: str) -> Iterator[_Chunk]:
    """Every member of a gzip, as ``cat a.gz b.gz`` makes them. zlib itself checks each one's CRC and length."""
    stored, content, lines = len(raw), 0, 0
    member = zlib.decompressobj(wbits=31)
    begun = False

    def damaged(how: str) -> CorruptInputError:
        return CorruptInputError(
            f"{name} is a damaged gzip: {how}, within its first {stored} bytes, in line {lines + 1} "
            f"({content} bytes were decompressed). Upload the file again, or take it out of the day.",
            file=name,
            line=lines + 1,
            offset=stored,
        )

    while raw:
        try:
            data = member.decompress(raw, _CHUNK_BYTES)
        except zlib.error as error:
            raise damaged(str(error)) from error
        begun = True
        content += len(data)
        lines += data.count(b"\n")
        if data:
            yield _Chunk(data, stored, "gzip")
        raw = member.unconsumed_tail
        if member.eof:
            raw = member.unused_data
            member, begun = zlib.decompressobj(wbits=31), False
        if not raw:
            raw = body.read(_CHUNK_BYTES)
            stored += len(raw)
        while raw and not begun and not (raw := raw.lstrip(b"\0")):
            # Zeros behind a member are padding; anything else begins another member.
            raw = body.read(_CHUNK_BYTES)
            stored += len(raw)
    rest = b""
    if begun:
        rest = member.flush()  # what a bounded decompress held back at the very end
        if not member.eof:
            raise damaged("it ends too early")
    yield _Chunk(rest, stored, "gzip")


def _unpacked(body: BinaryIO, raw: bytes, name: str, compression: str) -> Iterator[_Chunk]:
    """Every stream of a bzip2, every frame of a zstd, one after the other, as parallel compressors write them."""
    stored, lines = len(raw), 0

    def damaged(how: object) -> CorruptInputError:
        return CorruptInputError(
            f"{name} is a damaged {compression}: {how}, within its first {stored} bytes, in line {lines + 1}. "
            "Upload the file again, or take it out of the day.",
            file=name,
            line=lines + 1,
            offset=stored,
        )

    def bites() -> Iterator[bytes]:
        # Small, so that what comes out of one stays within some MiB, however well it was packed.
        nonlocal stored
        chunk = raw
        while chunk:
            for start in range(0, len(chunk), _BITE_BYTES):
                yield chunk[start : start + _BITE_BYTES]
            chunk = body.read(_CHUNK_BYTES)
            stored += len(chunk)

    new, errors = _decompressor(compression)
    member = new()
    for bite in bites():
        rest = bite
        while rest:
            if member.eof:
                member = new()
            try:
                data = member.decompress(rest)
            except errors as error:
                raise damaged(error) from error
            lines += data.count(b"\n")
            if data:
                yield _Chunk(data, stored, compression)
            rest = member.unused_data if member.eof else b""
    if not member.eof:
        raise damaged("it ends too early")
    yield _Chunk(b"", stored, compression)


def _decompressor(compression: str) -> tuple[Any, Any]:
    """What makes a decompressor of one stream (``decompress``, ``eof``, ``unused_data``), and its errors."""
    if compression == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, OSError
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj, zstandard.ZstdError


def _read_some(body: BinaryIO, size: int) -> bytes:
    """``size`` bytes, or fewer at the end of the stream; a single read of a socket may give fewer."""
    data = b""
    while len(data) < size and (more := body.read(size - len(data))):
        data += more
    return data


def _uri(value: str | S3Uri) -> S3Uri:
    return S3Uri.parse(value) if isinstance(value, str) else value
