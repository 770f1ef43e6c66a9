"""Who may ask: requests to this very address (against DNS rebinding) that carry a known access key."""

from __future__ import annotations

import hmac
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

_CREDENTIAL = re.compile(r"Credential=([^/,\s]+)(?:/([^,\s]*))?")
_LEGACY = re.compile(r"AWS ([^:\s]+):")
ACCESS_KEY_PATTERN = re.compile(r"[A-Za-z0-9_.+=@-]{1,128}")


@dataclass(frozen=True)
class Credential:
    """What a request says of itself. The signature is not checked: knowing the access key is what counts."""

    access_key: str
    service: str | None = None
    """The name that the service signs with, such as ``elasticmapreduce``; None where the scope does not say."""
    region: str | None = None
    presigned: bool = False


def read_credential(headers: Mapping[str, str], query: str) -> Credential | None:
    """From the Authorization header (signature version 4, or 2 as S3 still knows it) or a presigned URL."""
    authorization = headers.get("authorization", "")
    if found := _CREDENTIAL.search(authorization):
        return _scoped(found.group(1), found.group(2) or "", presigned=False)
    if found := _LEGACY.match(authorization):
        return Credential(found.group(1), "s3")
    if "X-Amz-Credential=" in query:
        key, _, scope = parse_qs(query).get("X-Amz-Credential", [""])[0].partition("/")
        return _scoped(key, scope, presigned=True)
    if "AWSAccessKeyId=" in query:
        return Credential(parse_qs(query).get("AWSAccessKeyId", [""])[0], "s3", presigned=True)
    return None


def _scoped(access_key: str, scope: str, *, presigned: bool) -> Credential:
    """``scope`` is date/region/service/aws4_request; version 4a leaves the region out."""
    parts = scope.split("/")
    service = parts[-2].lower() if len(parts) >= 3 else None
    region = parts[-3] if len(parts) >= 4 else None
    return Credential(access_key, service, region, presigned)


def is_local_host(host: str | None, port: int) -> bool:
    """Whether a Host header names this server: by the loopback address, ``localhost`` or a name below it."""
    if not host:
        return False
    name, _, given_port = host.lower().rpartition(":") if ":" in host else (host.lower(), "", "80")
    if given_port != str(port):
        return False
    return name in ("127.0.0.1", "localhost") or name.endswith(".localhost")


def bucket_in_host(host: str) -> str | None:
    """``lake.localhost:4566`` → ``lake`` (S3's virtual-host style)."""
    name = host.lower().rpartition(":")[0] or host.lower()
    return name.removesuffix(".localhost").removesuffix(".s3") if name.endswith(".localhost") else None


def is_own_key(access_key: str, own: str) -> bool:
    return hmac.compare_digest(access_key.encode(), own.encode())


def is_known_key(access_key: str, own: str) -> bool:
    return is_own_key(access_key, own) or _was_issued(access_key)


def _was_issued(access_key: str) -> bool:
    """Whether this server's own STS or IAM handed the key out, and it is still active."""
    models = sys.modules.get("moto.iam.models")  # not loaded: nothing was ever issued
    if models is None:
        return False
    for account in list(models.iam_backends.values()):
        for backend in list(account.values()):
            key = backend.access_keys.get(access_key)
            if key is not None and key.status == "Active":
                return True
    return False
