"""S3 objects as the plain files that they are in local AWS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from airflow_emr_etl.local.redshift.errors import RedshiftError

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_HIDDEN = ("_", ".")


class Objects:
    """Reads and writes ``s3://bucket/key`` under one folder, and nothing outside it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, url: str) -> Path:
        """Where the object of this URL is or would be. Raises RedshiftError for a URL that is none, or leads out."""
        bucket, key = self._split(url)
        path = self._root / bucket / key
        root = self._root.resolve()
        if not path.resolve().is_relative_to(root):
            raise RedshiftError(f"S3ServiceException: {url} leads out of the bucket", "XX000")
        return path

    def list(self, prefix: str) -> Iterator[tuple[str, Path]]:
        """The objects whose URL starts with ``prefix``, in order, without markers such as ``_SUCCESS``."""
        bucket, key = self._split(prefix)
        root = self._root / bucket
        start = root / key.rpartition("/")[0]
        if not start.resolve().is_relative_to(self._root.resolve()):
            raise RedshiftError(f"S3ServiceException: {prefix} leads out of the bucket", "XX000")
        found = []
        for path in start.rglob("*"):
            name = path.relative_to(root).as_posix()
            hidden = any(part.startswith(_HIDDEN) for part in path.relative_to(start).parts)
            if name.startswith(key) and not hidden and path.is_file() and not path.is_symlink():
                found.append((f"s3://{bucket}/{name}", path))
        yield from sorted(found)

    def _split(self, url: str) -> tuple[str, str]:
        match = re.fullmatch(r"s3://([^/]+)/?(.*)", url, flags=re.DOTALL)
        if not match or not _BUCKET.fullmatch(match.group(1)):
            raise RedshiftError(f"{url!r} is not an s3://bucket/key URL", "22023")
        bucket, key = match.groups()
        parts = key.split("/")
        if any(part in (".", "..") for part in parts) or "\0" in key or any(not p for p in parts[:-1]):
            raise RedshiftError(f"S3ServiceException: the key of {url!r} is not a plain path", "22023")
        return bucket, key
