"""Which bucket names and keys are valid, and which file a key stands for."""

from __future__ import annotations

import re
from pathlib import Path

from airflow_emr_etl.local.s3.errors import S3Error

MAX_KEY_BYTES = 1024
TEMPORARY_PREFIX = ".local-aws-"
"""A file or folder whose name starts so is never an object: what writes into a bucket in steps may use it."""

_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_IP_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")


def is_bucket_name(name: str) -> bool:
    """S3's rules for general purpose buckets."""
    return bool(
        _BUCKET_NAME.fullmatch(name)
        and not _IP_ADDRESS.fullmatch(name)
        and ".." not in name
        and ".-" not in name
        and "-." not in name
        and not name.startswith(("xn--", "sthree-"))
        and not name.endswith(("-s3alias", "--ol-s3"))
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder is scaffolding of a writer, such as Spark's half-written output, and no object.

    On AWS these would be visible for the time of the job; here they live beside the objects because Spark
    writes straight to the folder.
    """
    return (
        name == "_temporary"
        or name.startswith((".spark-staging", TEMPORARY_PREFIX))
        or (name.startswith(".") and name.endswith(".crc"))
    )


def parse_key(key: str, *, for_write: bool = False) -> tuple[str, ...] | None:
    """The path parts of a key, or None for a key that no file can have (so no such object can exist).

    A trailing slash (a folder marker) is not a part. Raises S3Error for a key that tries to leave its bucket,
    and, for a write, for one that cannot be kept as a file.
    """
    if not key:
        raise S3Error("InvalidArgument", "The key is empty.")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise S3Error("KeyTooLongError", f"The key is longer than {MAX_KEY_BYTES} bytes.")
    if "\0" in key:
        raise S3Error("InvalidArgument", "The key holds a NUL character, which no file name can have.")
    parts = key.removesuffix("/").split("/")
    if any(part in (".", "..") for part in parts):
        raise S3Error(
            "InvalidArgument",
            f"The key {key!r} has a part '.' or '..'; local AWS keeps objects as files and refuses such keys.",
        )
    if any(not part for part in parts):
        if for_write:
            raise S3Error(
                "InvalidArgument",
                f"The key {key!r} has an empty part (a leading or double slash); local AWS keeps objects as "
                "files and cannot keep it.",
            )
        return None
    if any(is_hidden(part) for part in parts):
        if for_write:
            raise S3Error(
                "InvalidArgument",
                f"The key {key!r} has a part that local AWS takes for scaffolding of a Spark job and hides from "
                "listings; choose another name.",
            )
        return None
    return tuple(parts)


def key_path(bucket_folder: Path, parts: tuple[str, ...]) -> Path:
    return bucket_folder.joinpath(*parts)
