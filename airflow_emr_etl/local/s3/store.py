"""Buckets are folders and objects are files; every change to an object is one atomic rename, link or unlink.

Other processes write into the same folders. A file that they write is an object at once: it has no record in
the metadata store (or one whose mtime and size no longer fit), so its ETag is made of its mtime and size, in
the form of a multipart ETag (``…-1``), which no client takes for an MD5 of the content.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from airflow_emr_etl.local.s3.errors import S3Error, no_such_bucket, no_such_upload, precondition_failed
from airflow_emr_etl.local.s3.keys import is_bucket_name, is_hidden, key_path, parse_key
from airflow_emr_etl.local.s3.metadata import Attributes, MetadataStore, Row

CHUNK_BYTES = 1024 * 1024
MIN_PART_BYTES = 5 * 1024 * 1024
MAX_PARTS = 10_000
_LOCKS = 64
_PRUNE_RACES = 50  # a writer's new folder can be pruned by a delete in between; it makes the folder again


@dataclass(frozen=True)
class Bucket:
    name: str
    created: dt.datetime
    region: str


@dataclass(frozen=True)
class StoredObject:
    bucket: str
    key: str
    size: int
    mtime_ns: int
    etag: str
    """Without quotes."""
    attributes: Attributes

    @property
    def last_modified(self) -> dt.datetime:
        """UTC, in whole seconds as S3 has it."""
        return dt.datetime.fromtimestamp(self.mtime_ns // 1_000_000_000, dt.UTC)


@dataclass(frozen=True)
class Precondition:
    """What must hold at the moment of the write."""

    if_match: str | None = None
    """An ETag without quotes, or ``*``: the object must exist."""
    if_none_match: bool = False
    """The object must not exist yet."""

    def check(self, current: StoredObject | None) -> None:
        if self.if_none_match and current is not None:
            raise precondition_failed("If-None-Match: *")
        if self.if_match is not None:
            if current is None:
                raise S3Error("NoSuchKey", "If-Match was asked of an object that does not exist.", 404)
            if self.if_match not in ("*", current.etag):
                raise precondition_failed("If-Match")


ANYWAY = Precondition()


@dataclass
class Listing:
    """One page of a listing."""

    objects: list[StoredObject] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    next_after: str | None = None
    """The last key or prefix of a page that is not the last."""
    next_is_prefix: bool = False
    """Whether ``next_after`` is a common prefix, all of which this page has dealt with."""


@dataclass(frozen=True)
class Part:
    number: int
    size: int
    etag: str
    mtime_ns: int
    checksums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Upload:
    """A multipart upload under way."""

    id: str
    bucket: str
    key: str
    created: float
    attributes: Attributes
    checksum_algorithm: str | None = None


class Staged:
    """A file being written outside the buckets, until it is moved into one. Deleted unless it was moved."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file = path.open("xb")
        self._md5 = hashlib.md5(usedforsecurity=False)

    def __enter__(self) -> Staged:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk says so again here
            self._file.close()
        self.path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._md5.update(data)
        self.size += len(data)

    def close(self) -> os.stat_result:
        self._file.close()
        return self.path.stat()

    @property
    def md5(self) -> bytes:
        return self._md5.digest()


class ObjectStore:
    """The objects below ``state/s3``. Safe to use from many threads of one process."""

    def __init__(self, state: Path, clock: Callable[[], float] = time.time) -> None:
        self.root = state / "s3"
        self._clock = clock
        self._staging = state / "s3-staging"
        self._uploads = state / "s3-uploads"
        # What was being written when an earlier server died is nobody's.
        shutil.rmtree(self._staging, ignore_errors=True)
        for folder in (self.root, self._staging, self._uploads):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._metadata = MetadataStore(state / "s3-metadata.sqlite")
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._upload_locks = [
            threading.Lock() for _ in range(_LOCKS)
        ]  # taken before an object's, never after

    def close(self) -> None:
        self._metadata.close()

    def _lock(self, bucket: str, key: str) -> threading.Lock:
        return self._locks[hash((bucket, key)) % _LOCKS]

    def _upload_lock(self, upload_id: str) -> threading.Lock:
        return self._upload_locks[hash(upload_id) % _LOCKS]

    def stage(self) -> Staged:
        return Staged(self._staging / secrets.token_hex(16))

    # ---- buckets

    def buckets(self) -> list[Bucket]:
        with os.scandir(self.root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and is_bucket_name(entry.name))
        return [self.bucket(name) for name in names]

    def bucket(self, name: str) -> Bucket:
        folder = self.bucket_folder(name)
        known = self._metadata.bucket(name)
        created, region = known or (folder.stat().st_mtime, "us-east-1")
        return Bucket(name, dt.datetime.fromtimestamp(int(created), dt.UTC), region)

    def bucket_folder(self, name: str) -> Path:
        """Raises S3Error (NoSuchBucket) where there is none, or the name could not be one."""
        folder = self.root / name
        if not is_bucket_name(name) or not folder.is_dir():
            raise no_such_bucket(name)
        return folder

    def create_bucket(self, name: str, region: str) -> bool:
        """Whether it is new."""
        if not is_bucket_name(name):
            raise S3Error(
                "InvalidBucketName",
                f"{name!r} is no valid bucket name: 3 to 63 lower-case letters, digits, dots and hyphens, "
                "beginning and ending with a letter or digit.",
            )
        try:
            (self.root / name).mkdir(mode=0o700)
        except FileExistsError:
            return False
        self._metadata.delete_bucket(name)  # an earlier bucket's, removed behind our back
        self._metadata.put_bucket(name, self._clock(), region)
        return True

    def delete_bucket(self, name: str) -> None:
        folder = self.bucket_folder(name)
        if self.list_objects(name, max_keys=1).objects:
            raise S3Error("BucketNotEmpty", f"The bucket {name!r} still has objects.", 409)
        shutil.rmtree(folder)  # empty folders and leftovers of writers
        self._metadata.delete_bucket(name)
        for upload in self.uploads(name):
            shutil.rmtree(self._uploads / upload.id, ignore_errors=True)

    def document(self, bucket: str, name: str) -> bytes | None:
        self.bucket_folder(bucket)
        return self._metadata.document(bucket, name)

    def put_document(self, bucket: str, name: str, body: bytes) -> None:
        self.bucket_folder(bucket)
        self._metadata.put_document(bucket, name, body)

    def delete_document(self, bucket: str, name: str) -> None:
        self.bucket_folder(bucket)
        self._metadata.delete_document(bucket, name)

    # ---- objects

    def head(self, bucket: str, key: str) -> StoredObject | None:
        folder = self.bucket_folder(bucket)
        parts = parse_key(key)
        if parts is None:
            return None
        with self._lock(bucket, key):
            return self._look_up(bucket, key, key_path(folder, parts))

    def open(self, bucket: str, key: str) -> tuple[StoredObject, BinaryIO] | None:
        """The object and its bytes as they are now: a later overwrite does not change what is read."""
        folder = self.bucket_folder(bucket)
        parts = parse_key(key)
        if parts is None:
            return None
        path = key_path(folder, parts)
        with self._lock(bucket, key):
            if key.endswith("/"):
                found = self._look_up(bucket, key, path)
                return (found, Path(os.devnull).open("rb")) if found else None
            try:
                file = path.open("rb")
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
            status = os.fstat(file.fileno())
            return self._describe(bucket, key, status, self._metadata.get(bucket, key)), file

    def _look_up(self, bucket: str, key: str, path: Path) -> StoredObject | None:
        if key.endswith("/"):
            row = self._metadata.get(bucket, key)
            if row is None or not path.is_dir():
                return None
            return StoredObject(bucket, key, 0, row.mtime_ns, row.etag, row.attributes)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not os.path.isfile(path):  # noqa: PTH113 (follows links, and swallows what vanishes)
            return None
        return self._describe(bucket, key, status, self._metadata.get(bucket, key))

    @staticmethod
    def _describe(bucket: str, key: str, status: os.stat_result, row: Row | None) -> StoredObject:
        if row is not None and (row.mtime_ns, row.size) == (status.st_mtime_ns, status.st_size):
            return StoredObject(bucket, key, row.size, row.mtime_ns, row.etag, row.attributes)
        mark = f"{status.st_mtime_ns}:{status.st_size}".encode()
        etag = hashlib.md5(mark, usedforsecurity=False).hexdigest() + "-1"
        return StoredObject(bucket, key, status.st_size, status.st_mtime_ns, etag, Attributes())

    def commit(
        self,
        bucket: str,
        key: str,
        staged: Staged,
        attributes: Attributes,
        *,
        etag: str | None = None,
        precondition: Precondition = ANYWAY,
    ) -> StoredObject:
        """Make a staged file the object, in one step: readers see the old one or the new one."""
        folder = self.bucket_folder(bucket)
        parts = parse_key(key, for_write=True)
        assert parts is not None
        path = key_path(folder, parts)
        status = staged.close()
        with self._lock(bucket, key):
            precondition.check(self._look_up(bucket, key, path))
            if key.endswith("/"):
                if status.st_size:
                    raise S3Error(
                        "InvalidArgument",
                        f"The key {key!r} ends in a slash, which local AWS keeps as a folder; such an object must be "
                        "empty.",
                    )
                self._make_folder(key, path)
                mtime_ns = int(self._clock() * 1e9)
            else:
                self._move_in(bucket, key, staged.path, path, exclusive=precondition.if_none_match)
                mtime_ns = status.st_mtime_ns
            row = Row(mtime_ns, status.st_size, etag or staged.md5.hex(), attributes)
            self._metadata.put(bucket, key, row)
        return StoredObject(bucket, key, row.size, row.mtime_ns, row.etag, attributes)

    def _make_folder(self, key: str, folder: Path) -> None:
        for attempt in range(_PRUNE_RACES):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                return
            except (FileExistsError, FileNotFoundError, NotADirectoryError):
                if any(path.is_file() for path in (folder, *folder.parents)):
                    raise _file_and_folder(key) from None
                if attempt == _PRUNE_RACES - 1:
                    raise

    def _move_in(self, bucket: str, key: str, source: Path, path: Path, *, exclusive: bool) -> None:
        for attempt in range(_PRUNE_RACES):
            self._make_folder(key, path.parent)
            try:
                if exclusive:
                    _link(source, path)
                else:
                    source.replace(path)
                return
            except FileNotFoundError:
                if attempt == _PRUNE_RACES - 1:
                    raise
            except FileExistsError:
                if not path.is_dir():
                    raise precondition_failed("If-None-Match: *") from None
                self._remove_empty(bucket, key, path)
            except (IsADirectoryError, NotADirectoryError):
                self._remove_empty(bucket, key, path)

    def _remove_empty(self, bucket: str, key: str, path: Path) -> None:
        """A folder that holds nothing gives way to an object of its name."""
        if self._metadata.get(bucket, f"{key}/") is not None:
            raise _file_and_folder(key)
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            raise _file_and_folder(key) from None

    def update(
        self, bucket: str, key: str, change: Callable[[Attributes], Attributes]
    ) -> StoredObject | None:
        """Change what is recorded of an object, such as its tags, and not its bytes."""
        folder = self.bucket_folder(bucket)
        parts = parse_key(key)
        if parts is None:
            return None
        with self._lock(bucket, key):
            current = self._look_up(bucket, key, key_path(folder, parts))
            if current is None:
                return None
            changed = replace(current, attributes=change(current.attributes))
            self._metadata.put(
                bucket, key, Row(changed.mtime_ns, changed.size, changed.etag, changed.attributes)
            )
            return changed

    def delete(self, bucket: str, key: str, if_match: str | None = None) -> None:
        """Delete an object, and the folders that it leaves empty. One that is not there is no error."""
        folder = self.bucket_folder(bucket)
        parts = parse_key(key)
        if parts is None:
            return
        path = key_path(folder, parts)
        with self._lock(bucket, key):
            if if_match is not None:
                Precondition(if_match=if_match).check(self._look_up(bucket, key, path))
            if not key.endswith("/"):
                try:
                    path.unlink()
                except (FileNotFoundError, NotADirectoryError):
                    return
                except OSError:
                    if path.is_dir():  # no such object; Linux says EISDIR, macOS EPERM
                        return
                    raise
            self._metadata.delete(bucket, key)
        self._prune(bucket, folder, parts if key.endswith("/") else parts[:-1])

    def _prune(self, bucket: str, folder: Path, parts: tuple[str, ...]) -> None:
        """Remove empty folders upwards: to Spark an empty folder is a path that exists."""
        for depth in range(len(parts), 0, -1):
            if self._metadata.get(bucket, "/".join(parts[:depth]) + "/") is not None:
                return
            try:
                key_path(folder, parts[:depth]).rmdir()
            except OSError:
                return

    # ---- listing

    def list_objects(
        self,
        bucket: str,
        *,
        prefix: str = "",
        delimiter: str = "",
        after: str = "",
        after_prefix: str = "",
        max_keys: int = 1000,
    ) -> Listing:
        """One page in S3's order (UTF-8 bytes): keys greater than ``after``, none that start with ``after_prefix``."""
        folder = self.bucket_folder(bucket)
        walk = _Walk(folder, self._metadata.markers(bucket, prefix), prefix, after, after_prefix)
        found: list[tuple[str, os.stat_result | None]] = []
        prefixes: list[str] = []
        last: str | None = None
        truncated = False
        for entry in walk.run(collapse=delimiter == "/"):
            group = _group(entry.key, prefix, delimiter)
            if entry.is_folder and entry.key not in walk.markers and (group is None or delimiter != "/"):
                continue
            if group is not None and prefixes and prefixes[-1] == group:
                continue
            if len(found) + len(prefixes) >= max_keys:
                truncated = max_keys > 0
                break
            if group is not None:
                prefixes.append(group)
                last = group
            else:
                status = None if entry.is_folder else _stat(entry.path)
                if status is None and not entry.is_folder:
                    continue
                found.append((entry.key, status))
                last = entry.key
        rows = self._metadata.get_many(bucket, (key for key, _ in found))
        listing = Listing(prefixes=prefixes)
        if truncated:
            listing.next_after, listing.next_is_prefix = last, bool(prefixes) and last == prefixes[-1]
        for key, status in found:
            row = rows.get(key)
            if status is not None:
                listing.objects.append(self._describe(bucket, key, status, row))
            elif row is not None:
                listing.objects.append(StoredObject(bucket, key, 0, row.mtime_ns, row.etag, row.attributes))
        return listing

    # ---- multipart uploads

    def create_upload(
        self, bucket: str, key: str, attributes: Attributes, checksum_algorithm: str | None = None
    ) -> Upload:
        self.bucket_folder(bucket)
        parse_key(key, for_write=True)
        upload = Upload(secrets.token_hex(24), bucket, key, self._clock(), attributes, checksum_algorithm)
        folder = self._uploads / upload.id
        folder.mkdir(mode=0o700)
        (folder / "upload.json").write_text(json.dumps(asdict(upload)))
        return upload

    def upload(self, upload_id: str, bucket: str, key: str) -> Upload:
        upload = self._read_upload(upload_id) if upload_id.isalnum() else None
        if upload is None or (upload.bucket, upload.key) != (bucket, key):
            raise no_such_upload(upload_id)
        return upload

    def _read_upload(self, upload_id: str) -> Upload | None:
        try:
            values = json.loads((self._uploads / upload_id / "upload.json").read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        values["attributes"] = Attributes.from_json(json.dumps(values["attributes"]))
        return Upload(**values)

    def uploads(self, bucket: str) -> list[Upload]:
        """In S3's order: by key, then by time."""
        with os.scandir(self._uploads) as entries:
            found = [self._read_upload(entry.name) for entry in entries]
        return sorted(
            (upload for upload in found if upload and upload.bucket == bucket),
            key=lambda upload: (upload.key, upload.created, upload.id),
        )

    def put_part(self, upload: Upload, number: int, staged: Staged, checksums: Mapping[str, str]) -> Part:
        status = staged.close()
        part = Part(number, status.st_size, staged.md5.hex(), status.st_mtime_ns, dict(checksums))
        folder = self._uploads / upload.id
        with self._upload_lock(upload.id):
            try:
                staged.path.replace(folder / f"part-{number:05d}")
                (folder / f"part-{number:05d}.json").write_text(json.dumps(asdict(part)))
            except FileNotFoundError:
                raise no_such_upload(upload.id) from None
        return part

    def parts(self, upload: Upload) -> list[Part]:
        folder = self._uploads / upload.id
        found = []
        for path in sorted(folder.glob("part-*.json")):
            with contextlib.suppress(FileNotFoundError, ValueError):
                found.append(Part(**json.loads(path.read_text())))
        return found

    def complete_upload(
        self, upload: Upload, wanted: Iterable[tuple[int, str]], precondition: Precondition
    ) -> StoredObject:
        """Join the parts, in the order given, into the object. The parts stay until the object is in place."""
        with self._upload_lock(upload.id):
            parts = self._check_parts(upload, list(wanted))
            folder = self._uploads / upload.id
            with self.stage() as staged:
                for part in parts:
                    with (folder / f"part-{part.number:05d}").open("rb") as file:
                        while chunk := file.read(CHUNK_BYTES):
                            staged.write(chunk)
                joined = hashlib.md5(
                    b"".join(bytes.fromhex(part.etag) for part in parts), usedforsecurity=False
                ).hexdigest()
                attributes = replace(
                    upload.attributes, parts=tuple(part.size for part in parts), upload_id=upload.id
                )
                stored = self.commit(
                    upload.bucket,
                    upload.key,
                    staged,
                    attributes,
                    etag=f"{joined}-{len(parts)}",
                    precondition=precondition,
                )
            shutil.rmtree(folder, ignore_errors=True)
        return stored

    def _check_parts(self, upload: Upload, wanted: Iterable[tuple[int, str]]) -> list[Part]:
        present = {part.number: part for part in self.parts(upload)}
        parts: list[Part] = []
        for number, etag in wanted:
            part = present.get(number)
            if part is None or part.etag != etag:
                raise S3Error("InvalidPart", f"Part {number} was not uploaded, or has another ETag.")
            if parts and number <= parts[-1].number:
                raise S3Error("InvalidPartOrder", "The parts are not in ascending order.")
            parts.append(part)
        if not parts:
            raise S3Error("MalformedXML", "CompleteMultipartUpload names no part.")
        for part in parts[:-1]:
            if part.size < MIN_PART_BYTES:
                raise S3Error(
                    "EntityTooSmall",
                    f"Part {part.number} has {part.size} bytes; all but the last need {MIN_PART_BYTES}.",
                )
        return parts

    def abort_upload(self, upload: Upload) -> None:
        with self._upload_lock(upload.id):
            shutil.rmtree(self._uploads / upload.id, ignore_errors=True)


def _file_and_folder(key: str) -> S3Error:
    return S3Error(
        "InvalidRequest",
        f"Local AWS keeps objects as files: {key!r} cannot be an object because the name, or one above it, is both "
        "an object and a folder of other objects. Delete the other or choose another key.",
        409,
    )


def _link(source: Path, path: Path) -> None:
    """Move without overwriting: FileExistsError where something is there."""
    try:
        path.hardlink_to(source)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EXDEV):
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
        source.replace(path)  # a file system without hard links: our lock must do
    else:
        source.unlink()


def _stat(path: str) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except OSError:
        return None


def _group(key: str, prefix: str, delimiter: str) -> str | None:
    """The common prefix that a key is rolled up into, if any."""
    if not delimiter:
        return None
    end = key.find(delimiter, len(prefix))
    return None if end < 0 else key[: end + len(delimiter)]


@dataclass(frozen=True)
class _Entry:
    key: str  # of a folder: with its slash
    path: str
    is_folder: bool


@dataclass
class _Walk:
    """Walks the files of a bucket in the order of their keys, entering only folders that can matter."""

    bucket_folder: Path
    markers: set[str]
    prefix: str
    after: str
    after_prefix: str

    def run(self, *, collapse: bool) -> Iterator[_Entry]:
        """Files, and folders as entries of their own; with ``collapse``, a folder below the prefix stands for
        what is in it, and is left out where that is nothing."""
        at, _, _ = self.prefix.rpartition("/")
        parts = at.split("/") if at else []
        if any(part in ("", ".", "..") or is_hidden(part) for part in parts) or "\0" in self.prefix:
            return
        yield from self._folder(str(self.bucket_folder.joinpath(*parts)), f"{at}/" if at else "", collapse)

    def _folder(self, path: str, key: str, collapse: bool) -> Iterator[_Entry]:
        if key and self._wanted(key) and key.startswith(self.prefix) and key == self.prefix:
            yield _Entry(key, path, is_folder=True)
        for entry in self._entries(path, key):
            if not entry.is_folder:
                yield entry
                continue
            below = len(entry.key) > len(self.prefix)
            if collapse and below:
                if self._has_objects(entry):
                    yield entry
                continue
            if below and self._wanted(entry.key):
                yield entry
            yield from self._folder(entry.path, entry.key, collapse)

    def _entries(self, path: str, key: str) -> list[_Entry]:
        found = []
        try:
            with os.scandir(path) as entries:
                for item in entries:
                    if is_hidden(item.name):
                        continue
                    is_folder = item.is_dir()
                    full = f"{key}{item.name}/" if is_folder else f"{key}{item.name}"
                    if self._can_matter(full, is_folder) and (is_folder or item.is_file()):
                        found.append(_Entry(full, item.path, is_folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(found, key=lambda entry: entry.key)

    def _can_matter(self, key: str, is_folder: bool) -> bool:
        if not key.isascii():
            try:
                key.encode()
            except UnicodeEncodeError:  # a file name that is no UTF-8 cannot be a key
                return False
        if is_folder:
            return (
                (key.startswith(self.prefix) or self.prefix.startswith(key))
                and (key > self.after or self.after.startswith(key))
                and not (self.after_prefix and key.startswith(self.after_prefix))
            )
        return key.startswith(self.prefix) and self._wanted(key)

    def _wanted(self, key: str) -> bool:
        return key > self.after and not (self.after_prefix and key.startswith(self.after_prefix))

    def _has_objects(self, folder: _Entry) -> bool:
        if self.after_prefix and folder.key.startswith(self.after_prefix):
            return False
        if folder.key in self.markers and self._wanted(folder.key):
            return True
        return any(
            not entry.is_folder or self._has_objects(entry)
            for entry in self._entries(folder.path, folder.key)
        )
