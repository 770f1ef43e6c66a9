"""The error that every part of local S3 raises; the service turns it into S3's XML."""

from __future__ import annotations

import errno


class S3Error(Exception):
    """An error answer of S3: ``code`` is S3's own name for it, which botocore puts into ``ClientError``."""

    def __init__(self, code: str, message: str, status: int = 400, **headers: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def no_such_bucket(bucket: str) -> S3Error:
    return S3Error("NoSuchBucket", f"There is no bucket {bucket!r}.", 404)


def no_such_key(key: str) -> S3Error:
    return S3Error("NoSuchKey", f"There is no object {key!r}.", 404)


def no_such_upload(upload_id: str) -> S3Error:
    return S3Error("NoSuchUpload", f"There is no multipart upload {upload_id!r}.", 404)


def precondition_failed(condition: str) -> S3Error:
    return S3Error("PreconditionFailed", f"The precondition {condition} does not hold.", 412)


def not_implemented(what: str) -> S3Error:
    return S3Error("NotImplemented", f"Local AWS does not support {what}. Nothing was done.", 501)


def from_os_error(error: OSError) -> S3Error:
    """What the file system refused, as S3 would say it. 507 rather than 503: clients retry 503 for nothing."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return S3Error(
            "InsufficientStorage", f"The disk of local AWS is full ({error}). Free some space and retry.", 507
        )
    if error.errno == errno.ENAMETOOLONG:
        return S3Error(
            "KeyTooLongError",
            "A part of the key is longer than the 255 bytes that a file name can have; "
            "local AWS keeps objects as files.",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return S3Error("AccessDenied", f"The file system refused it: {error}", 403)
    return S3Error("InternalError", f"The file system failed: {error}", 500)
