"""Logs of steps and bootstrap actions: where EMR puts them, and what in them tells why a step failed."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import tempfile
from pathlib import Path

# An error is at the end; a log can have any size.
_TAIL_BYTES = 256 * 1024
_MESSAGE_LENGTH = 1000
_PYTHON_ERROR = re.compile(
    r"^(?:[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning|Fault|Iteration))\b.*"
)
_JAVA_ERROR = re.compile(
    r"^(?:Exception in thread \"[^\"]*\" |Caused by: )?((?:[a-z][\w$]*\.)+[A-Z][\w$]*(?::.*)?)$"
)


class LogUriError(ValueError):
    """A LogUri that names no bucket here; the message says why."""


def folder_of(uri: str, objects: Path) -> Path:
    """The folder that ``s3://bucket/prefix/`` is.

    Raises:
        LogUriError: the bucket is not there, or it is no URI of S3.
    """
    match = re.fullmatch(r"s3[an]?://([^/]+)(/.*)?", uri)
    if not match:
        raise LogUriError(f"{uri} is not an s3:// URI")
    bucket = objects / match[1]
    if match[1].startswith(".") or not bucket.is_dir():
        raise LogUriError(f"there is no bucket {match[1]}")
    folder = Path(os.path.normpath(bucket / (match[2] or "").strip("/")))
    if not folder.is_relative_to(bucket):
        raise LogUriError(f"{uri} leaves its bucket")
    return folder


def publish(source: Path, target: Path) -> None:
    """Put a log into the objects folder, compressed, so that it appears whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the log, which is on the objects' disk: a half-written object is never seen.
    descriptor, part = tempfile.mkstemp(dir=source.parent, suffix=".gz")
    with (
        source.open("rb") as plain,
        os.fdopen(descriptor, "wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
    ):
        shutil.copyfileobj(plain, packed)
    try:
        Path(part).chmod(0o644)
        try:
            Path(part).replace(target)
        except FileNotFoundError:  # pruned since it was made: the server removes empty folders
            target.parent.mkdir(parents=True, exist_ok=True)
            Path(part).replace(target)
    finally:
        Path(part).unlink(missing_ok=True)


def tail(path: Path) -> str:
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return log.read().decode("utf-8", "replace")
    except OSError:
        return ""


def root_cause(stdout: str, stderr: str) -> tuple[str, str] | None:
    """(``"stdout"`` or ``"stderr"``, the message) of what made the program fail, or None when no log tells.

    A Python traceback ranks first. spark-submit passes all that its Python driver prints to *stdout*, the
    traceback with it, so both logs are looked at.
    """
    for name, text in (("stdout", stdout), ("stderr", stderr)):
        if (message := _python_error(text)) is not None:
            return name, message
    for name, text in (("stderr", stderr), ("stdout", stdout)):
        if (message := _java_error(text)) is not None:
            return name, message
    for name, text in (("stderr", stderr), ("stdout", stdout)):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        telling = [line for line in lines if not re.match(r"\d\d/\d\d/\d\d [\d:]+ (INFO|DEBUG) ", line)]
        if telling:
            return name, telling[-1][:_MESSAGE_LENGTH]
    return None


def _python_error(text: str) -> str | None:
    at = text.rfind("Traceback (most recent call last):")
    if at < 0:
        return None
    for line in text[at:].splitlines()[1:]:
        if _PYTHON_ERROR.match(line):
            return line.strip()[:_MESSAGE_LENGTH]
    # An exception class with a name of its own: the first line that is not indented.
    for line in text[at:].splitlines()[1:]:
        if line and not line[0].isspace():
            return line.strip()[:_MESSAGE_LENGTH]
    return None


def _java_error(text: str) -> str | None:
    found = [line for line in text.splitlines() if line.startswith("Exception in thread ")]
    if found:
        return found[-1].strip()[:_MESSAGE_LENGTH]
    for line in reversed(text.splitlines()):
        if (match := _JAVA_ERROR.match(line.strip())) and ("Exception" in line or "Error" in line):
            return match[0][:_MESSAGE_LENGTH]
    return None
