"""S3's REST protocol over the object store: one method an operation, and a table of which request means which."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import email.utils
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes
from xml.etree.ElementTree import Element

from airflow_emr_etl.local.s3 import xml
from airflow_emr_etl.local.s3.body import CHECKSUM_PREFIX, UploadBody
from airflow_emr_etl.local.s3.errors import (
    S3Error,
    from_os_error,
    no_such_key,
    not_implemented,
    precondition_failed,
)
from airflow_emr_etl.local.s3.metadata import Attributes
from airflow_emr_etl.local.s3.store import (
    CHUNK_BYTES,
    MAX_PARTS,
    Listing,
    ObjectStore,
    Precondition,
    StoredObject,
    Upload,
)

log = logging.getLogger(__name__)

ACCOUNT_ID = "123456789012"
_OWNER = [
    ("ID", "75aa57f09aa0c8caeab4f8c24e99d10f8e7faeebf76c078efc7c6caea54ba06a"),
    ("DisplayName", "local"),
]
_MAX_DOCUMENT_BYTES = 4 * 1024 * 1024

_KEPT_HEADERS = (
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    "x-amz-website-redirect-location",
    "x-amz-storage-class",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-bucket-key-enabled",
)
"""Recorded and given back. Storage classes and encryption change nothing of how the file is kept."""

_PLAIN_PARAMETERS = frozenset(
    {"prefix", "delimiter", "max-keys", "marker", "encoding-type", "list-type", "continuation-token"}
    | {"start-after", "fetch-owner", "x-id", "partnumber", "versionid", "key-marker", "upload-id-marker"}
    | {"version-id-marker", "max-uploads", "max-parts", "part-number-marker", "max-buckets", "bucket-region"}
    | {"awsaccesskeyid", "signature", "expires"}
)
_ACLS_THAT_HOLD = frozenset({"private", "bucket-owner-full-control", "bucket-owner-read"})
_UNSUPPORTED_HEADERS = {
    "x-amz-server-side-encryption-customer-algorithm": "encryption with keys of the customer (SSE-C)",
    "x-amz-copy-source-server-side-encryption-customer-algorithm": "encryption with keys of the customer (SSE-C)",
    "x-amz-object-lock-mode": "object lock",
    "x-amz-object-lock-legal-hold": "object lock",
    "x-amz-bucket-object-lock-enabled": "object lock",
    "x-amz-write-offset-bytes": "appending to an object",
    "x-amz-grant-full-control": "grants to others",
    "x-amz-grant-read": "grants to others",
    "x-amz-grant-write": "grants to others",
    "x-amz-grant-read-acp": "grants to others",
    "x-amz-grant-write-acp": "grants to others",
}


@dataclass(frozen=True)
class _Document:
    """A setting of a bucket that is kept and given back as it came, and not acted on (as a mock would)."""

    missing_code: str
    put_status: int = 200


_DOCUMENTS = {
    "policy": _Document("NoSuchBucketPolicy", 204),
    "tagging": _Document("NoSuchTagSet", 204),
    "cors": _Document("NoSuchCORSConfiguration"),
    "lifecycle": _Document("NoSuchLifecycleConfiguration"),
    "encryption": _Document("ServerSideEncryptionConfigurationNotFoundError"),
    "publicAccessBlock": _Document("NoSuchPublicAccessBlockConfiguration"),
    "ownershipControls": _Document("OwnershipControlsNotFoundError"),
}
_NEVER_SET = {
    "website": "NoSuchWebsiteConfiguration",
    "replication": "ReplicationConfigurationNotFoundError",
    "object-lock": "ObjectLockConfigurationNotFoundError",
}
_EMPTY_DOCUMENTS = {
    "versioning": "VersioningConfiguration",
    "notification": "NotificationConfiguration",
    "logging": "BucketLoggingStatus",
    "accelerate": "AccelerateConfiguration",
}


@dataclass(frozen=True)
class S3Response:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] = b""


def _document(root: str, items: xml.Items, **headers: str) -> S3Response:
    return S3Response(200, {"content-type": "application/xml", **headers}, xml.render(root, items))


class S3Request:
    """What the service needs of an HTTP request.

    ``target`` is the raw path and query as sent; ``headers`` have lower-case names, in which underscores
    survive (user metadata may have them).
    """

    def __init__(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        stream: BinaryIO,
        bucket_in_host: str | None = None,
    ) -> None:
        self.method = method
        self.headers = headers
        self.stream = stream
        path, _, query = target.partition("?")
        self.args = dict(parse_qsl(query, keep_blank_values=True))
        try:
            decoded = unquote_to_bytes(path).decode()
        except UnicodeDecodeError:
            raise S3Error("InvalidURI", "The path is not UTF-8.") from None
        full = f"/{bucket_in_host}{decoded}" if bucket_in_host else decoded
        self.bucket, _, self.key = full[1:].partition("/")

    def header(self, name: str) -> str | None:
        return self.headers.get(name) or None

    def integer(self, name: str, default: int, lowest: int = 0, highest: int | None = None) -> int:
        try:
            value = int(self.args.get(name, default))
        except ValueError:
            value = -1
        if value < lowest:
            raise S3Error("InvalidArgument", f"{name}={self.args.get(name)!r} is no number from {lowest} up.")
        return value if highest is None else min(value, highest)

    def text(self) -> bytes:
        """The whole body, for the small XML documents."""
        body = b""
        for chunk in UploadBody(self.stream, self.headers):
            body += chunk
            if len(body) > _MAX_DOCUMENT_BYTES:
                raise S3Error("MaxMessageLengthExceeded", "The request is too large.")
        return body

    @cached_property
    def subresource(self) -> str | None:
        """The argument that says which operation is meant, such as ``uploads`` or ``tagging``."""
        for name in self.args:
            lower = name.lower()
            if lower not in _PLAIN_PARAMETERS and not lower.startswith(("x-amz-", "response-")):
                return name
        return None


Handler = Callable[["S3Service", S3Request], S3Response]
_ROUTES: dict[tuple[str, str, str | None], Handler] = {}


def _route(method: str, level: str, subresource: str | None = None) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        _ROUTES[(method, level, subresource)] = handler
        return handler

    return register


def _meaning(request: S3Request) -> tuple[str, str, str | None]:
    """(method, level, subresource), by which an operation is found."""
    level = "object" if request.key else "bucket" if request.bucket else "service"
    copies = request.method == "PUT" and request.header("x-amz-copy-source")
    return "COPY" if copies else request.method, level, request.subresource


class S3Service:
    """Answers requests. ``name_operation(method, level, subresource)`` names what is not supported."""

    def __init__(
        self,
        store: ObjectStore,
        name_operation: Callable[[str, str, str | None], str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self._name_operation = name_operation or (lambda method, level, sub: f"{method} {level} ?{sub}")
        self._clock = clock

    def handle(self, request: S3Request) -> S3Response:
        """Never raises: an error becomes S3's error document."""
        request_id = secrets.token_hex(8).upper()
        try:
            response = self._handle(request)
        except S3Error as error:
            response = self._error(error, request, request_id)
        except OSError as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            failure = from_os_error(error)
            log.warning("%s %s/%s: %s", request.method, request.bucket, request.key, error)
            response = self._error(failure, request, request_id)
        return replace(response, headers={"x-amz-request-id": request_id, **response.headers})

    def _error(self, error: S3Error, request: S3Request, request_id: str) -> S3Response:
        body = xml.render(
            "Error",
            [
                ("Code", error.code),
                ("Message", error.message),
                ("Resource", f"/{request.bucket}/{request.key}" if request.key else f"/{request.bucket}"),
                ("RequestId", request_id),
            ],
            namespace="",
        )
        without_body = request.method == "HEAD" or error.status == 304
        return S3Response(
            error.status, {"content-type": "application/xml", **error.headers}, b"" if without_body else body
        )

    def operation(self, request: S3Request) -> str:
        """The name that botocore has for what is asked, whether or not it is supported."""
        method, level, subresource = _meaning(request)
        handler = _ROUTES.get((method, level, subresource))
        if handler is S3Service.list_objects:
            return "ListObjectsV2" if request.args.get("list-type") == "2" else "ListObjects"
        if handler is not None and handler not in _SHARED_HANDLERS:
            return "".join(word.capitalize() for word in handler.__name__.split("_"))
        return self._name_operation(request.method, level, subresource)

    def _handle(self, request: S3Request) -> S3Response:
        method, level, subresource = _meaning(request)
        handler = _ROUTES.get((method, level, subresource))
        if handler is None:
            raise not_implemented(f"s3:{self._name_operation(request.method, level, subresource)}")
        for name, what in _UNSUPPORTED_HEADERS.items():
            if request.header(name) and request.headers[name].lower() != "false":
                raise not_implemented(f"{what} ({name}) in S3")
        acl = request.header("x-amz-acl")
        if acl and acl not in _ACLS_THAT_HOLD:
            raise not_implemented(f"the ACL {acl!r} in S3: only the holder of the access key gets in")
        if request.args.get("versionId", "null") not in ("null", ""):
            raise S3Error(
                "NoSuchVersion", "Local AWS keeps no versions: there is only the version 'null'.", 404
            )
        owner = request.header("x-amz-expected-bucket-owner")
        if owner and owner != ACCOUNT_ID:
            raise S3Error("AccessDenied", f"The bucket belongs to account {ACCOUNT_ID}, not to {owner}.", 403)
        if "X-Amz-Expires" in request.args or "Expires" in request.args:
            self._check_expiry(request)
        return handler(self, request)

    def _check_expiry(self, request: S3Request) -> None:
        """A presigned URL ends when it says."""
        try:
            if "X-Amz-Expires" in request.args:
                signed = dt.datetime.strptime(request.args["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(
                    tzinfo=dt.UTC
                )
                ends = signed.timestamp() + int(request.args["X-Amz-Expires"])
            else:
                ends = float(request.args["Expires"])
        except (KeyError, ValueError):
            raise S3Error("AuthorizationQueryParametersError", "The presigned URL is not valid.") from None
        if self._clock() > ends:
            raise S3Error("AccessDenied", "Request has expired", 403)

    # ---- buckets

    @_route("GET", "service")
    def list_buckets(self, request: S3Request) -> S3Response:
        prefix = request.args.get("prefix", "")
        after = _decode_token(request.args.get("continuation-token"))[0]
        limit = request.integer("max-buckets", 10_000, 1, 10_000)
        found = [
            bucket
            for bucket in self.store.buckets()
            if bucket.name.startswith(prefix)
            and bucket.name > after
            and request.args.get("bucket-region") in (None, bucket.region)
        ]
        page = found[:limit]
        more = len(found) > limit
        buckets = [
            ("Bucket", [("Name", b.name), ("CreationDate", _iso(b.created)), ("BucketRegion", b.region)])
            for b in page
        ]
        return _document(
            "ListAllMyBucketsResult",
            [
                ("Owner", _OWNER),
                ("Buckets", buckets),
                ("Prefix", prefix or None),
                ("ContinuationToken", _encode_token(page[-1].name, False) if more else None),
            ],
        )

    @_route("PUT", "bucket")
    def create_bucket(self, request: S3Request) -> S3Response:
        body = request.text()
        region = "us-east-1"
        if body.strip():
            configuration = xml.parse(body, "CreateBucketConfiguration")
            region = configuration.findtext("LocationConstraint") or region
            if configuration.find("Bucket") is not None or configuration.find("Location") is not None:
                raise not_implemented("directory buckets in S3")
        is_new = self.store.create_bucket(request.bucket, region)
        if not is_new and {region, self.store.bucket(request.bucket).region} != {"us-east-1"}:
            raise S3Error("BucketAlreadyOwnedByYou", f"The bucket {request.bucket!r} is there already.", 409)
        return S3Response(200, {"location": f"/{request.bucket}"})

    @_route("HEAD", "bucket")
    def head_bucket(self, request: S3Request) -> S3Response:
        return S3Response(200, {"x-amz-bucket-region": self.store.bucket(request.bucket).region})

    @_route("DELETE", "bucket")
    def delete_bucket(self, request: S3Request) -> S3Response:
        self.store.delete_bucket(request.bucket)
        return S3Response(204)

    @_route("GET", "bucket", "location")
    def get_bucket_location(self, request: S3Request) -> S3Response:
        region = self.store.bucket(request.bucket).region
        text = "" if region == "us-east-1" else region
        body = f'<LocationConstraint xmlns="{xml.NAMESPACE}">{text}</LocationConstraint>'
        return S3Response(200, {"content-type": "application/xml"}, body.encode())

    @_route("GET", "bucket", "requestPayment")
    def get_bucket_request_payment(self, request: S3Request) -> S3Response:
        self.store.bucket_folder(request.bucket)
        return _document("RequestPaymentConfiguration", [("Payer", "BucketOwner")])

    def get_document(self, request: S3Request) -> S3Response:
        name = str(request.subresource)
        body = self.store.document(request.bucket, name)
        if body is None:
            raise S3Error(_DOCUMENTS[name].missing_code, f"The bucket has no {name} configuration.", 404)
        kind = "application/json" if name == "policy" else "application/xml"
        return S3Response(200, {"content-type": kind}, body)

    def put_document(self, request: S3Request) -> S3Response:
        name = str(request.subresource)
        body = request.text()
        if name == "policy":
            try:
                json.loads(body)
            except ValueError as error:
                raise S3Error("MalformedPolicy", f"The policy is not JSON: {error}") from None
        else:
            _check_xml(body)
        self.store.put_document(request.bucket, name, body)
        return S3Response(_DOCUMENTS[name].put_status)

    def delete_document(self, request: S3Request) -> S3Response:
        self.store.delete_document(request.bucket, str(request.subresource))
        return S3Response(204)

    def get_never_set(self, request: S3Request) -> S3Response:
        self.store.bucket_folder(request.bucket)
        name = str(request.subresource)
        raise S3Error(_NEVER_SET[name], f"The bucket has no {name} configuration.", 404)

    def get_empty_document(self, request: S3Request) -> S3Response:
        self.store.bucket_folder(request.bucket)
        return _document(_EMPTY_DOCUMENTS[str(request.subresource)], [])

    def put_empty_document(self, request: S3Request) -> S3Response:
        """Turning off what is not on succeeds; turning it on is not supported."""
        self.store.bucket_folder(request.bucket)
        name = str(request.subresource)
        if len(xml.parse(request.text(), _EMPTY_DOCUMENTS[name])):
            raise not_implemented(f"s3:{self._name_operation('PUT', 'bucket', name)}")
        return S3Response(200)

    @_route("GET", "bucket", "acl")
    def get_bucket_acl(self, request: S3Request) -> S3Response:
        self.store.bucket_folder(request.bucket)
        return _acl()

    @_route("GET", "object", "acl")
    def get_object_acl(self, request: S3Request) -> S3Response:
        self._head(request)
        return _acl()

    @_route("PUT", "bucket", "acl")
    @_route("PUT", "object", "acl")
    def put_acl(self, request: S3Request) -> S3Response:
        """Only what changes nothing (see ``_ACLS_THAT_HOLD``)."""
        if request.key:
            self._head(request)
        else:
            self.store.bucket_folder(request.bucket)
        if not request.header("x-amz-acl"):
            raise not_implemented("access control lists in S3")
        return S3Response(200)

    # ---- listings

    @_route("GET", "bucket")
    def list_objects(self, request: S3Request) -> S3Response:
        return self._list_v2(request) if request.args.get("list-type") == "2" else self._list_v1(request)

    def _list_v1(self, request: S3Request) -> S3Response:
        marker = request.args.get("marker", "")
        delimiter = request.args.get("delimiter", "")
        listing, limit = self._list(request, marker, bool(delimiter) and marker.endswith(delimiter))
        encode = _encoder(request)
        return _document(
            "ListBucketResult",
            [
                ("Name", request.bucket),
                ("Prefix", encode(request.args.get("prefix", ""))),
                ("Marker", encode(marker)),
                ("MaxKeys", limit),
                ("Delimiter", encode(delimiter) if delimiter else None),
                ("EncodingType", request.args.get("encoding-type")),
                ("IsTruncated", listing.next_after is not None),
                ("NextMarker", encode(listing.next_after) if listing.next_after and delimiter else None),
                *_contents(listing, encode, owner=True),
            ],
        )

    def _list_v2(self, request: S3Request) -> S3Response:
        token = request.args.get("continuation-token")
        after, is_prefix = _decode_token(token) if token else (request.args.get("start-after", ""), False)
        listing, limit = self._list(request, after, is_prefix)
        encode = _encoder(request)
        delimiter = request.args.get("delimiter", "")
        following = listing.next_after
        return _document(
            "ListBucketResult",
            [
                ("Name", request.bucket),
                ("Prefix", encode(request.args.get("prefix", ""))),
                ("Delimiter", encode(delimiter) if delimiter else None),
                ("MaxKeys", limit),
                ("EncodingType", request.args.get("encoding-type")),
                ("KeyCount", len(listing.objects) + len(listing.prefixes)),
                ("IsTruncated", following is not None),
                ("ContinuationToken", token),
                (
                    "NextContinuationToken",
                    _encode_token(following, listing.next_is_prefix) if following else None,
                ),
                (
                    "StartAfter",
                    encode(request.args["start-after"]) if "start-after" in request.args else None,
                ),
                *_contents(listing, encode, owner=request.args.get("fetch-owner") == "true"),
            ],
        )

    @_route("GET", "bucket", "versions")
    def list_object_versions(self, request: S3Request) -> S3Response:
        marker = request.args.get("key-marker", "")
        delimiter = request.args.get("delimiter", "")
        listing, limit = self._list(request, marker, bool(delimiter) and marker.endswith(delimiter))
        encode = _encoder(request)
        return _document(
            "ListVersionsResult",
            [
                ("Name", request.bucket),
                ("Prefix", encode(request.args.get("prefix", ""))),
                ("KeyMarker", encode(marker)),
                ("MaxKeys", limit),
                ("Delimiter", encode(delimiter) if delimiter else None),
                ("EncodingType", request.args.get("encoding-type")),
                ("IsTruncated", listing.next_after is not None),
                ("NextKeyMarker", encode(listing.next_after) if listing.next_after else None),
                ("NextVersionIdMarker", "null" if listing.next_after else None),
                *_contents(
                    listing,
                    encode,
                    owner=True,
                    tag="Version",
                    extra=[("VersionId", "null"), ("IsLatest", True)],
                ),
            ],
        )

    def _list(self, request: S3Request, after: str, after_is_prefix: bool) -> tuple[Listing, int]:
        limit = request.integer("max-keys", 1000, 0, 1000)
        if request.args.get("encoding-type", "url") != "url":
            raise S3Error("InvalidArgument", "The only encoding-type is 'url'.")
        listing = self.store.list_objects(
            request.bucket,
            prefix=request.args.get("prefix", ""),
            delimiter=request.args.get("delimiter", ""),
            after=after,
            after_prefix=after if after_is_prefix else "",
            max_keys=limit,
        )
        return listing, limit

    # ---- objects

    @_route("PUT", "object")
    def put_object(self, request: S3Request) -> S3Response:
        self.store.bucket_folder(request.bucket)
        body = UploadBody(request.stream, request.headers)
        if body.length is None and "chunked" not in request.headers.get("transfer-encoding", ""):
            raise S3Error("MissingContentLength", "The request has no Content-Length.", 411)
        precondition = _precondition(request)
        precondition.check(
            self.store.head(request.bucket, request.key)
        )  # before a large body is read in vain
        attributes = _attributes(request)
        with self.store.stage() as staged:
            checksums = body.receive(staged, request.header("x-amz-sdk-checksum-algorithm"))
            stored = self.store.commit(
                request.bucket,
                request.key,
                staged,
                replace(attributes, checksums=checksums),
                precondition=precondition,
            )
        return S3Response(
            200,
            {
                "etag": f'"{stored.etag}"',
                **_encryption_headers(attributes),
                **{CHECKSUM_PREFIX + name: value for name, value in checksums.items()},
                **({"x-amz-checksum-type": "FULL_OBJECT"} if checksums else {}),
            },
        )

    @_route("COPY", "object")
    def copy_object(self, request: S3Request) -> S3Response:
        source, file = self._open_source(request)
        with file:
            attributes = replace(source.attributes, upload_id=None)
            replaced = request.header("x-amz-metadata-directive") == "REPLACE"
            fresh = _attributes(request)
            if replaced:
                attributes = replace(attributes, headers=fresh.headers, metadata=fresh.metadata)
            else:
                given = {
                    name: value
                    for name, value in fresh.headers.items()
                    if name.startswith(("x-amz-storage", "x-amz-server"))
                }
                attributes = replace(attributes, headers={**attributes.headers, **given})
                if (source.bucket, source.key) == (request.bucket, request.key) and not given:
                    raise S3Error(
                        "InvalidRequest",
                        "This copy of an object onto itself would change nothing: neither its metadata, storage class "
                        "nor encryption.",
                    )
            if request.header("x-amz-tagging-directive") == "REPLACE":
                attributes = replace(attributes, tags=fresh.tags)
            with self.store.stage() as staged:
                while chunk := file.read(CHUNK_BYTES):
                    staged.write(chunk)
                stored = self.store.commit(
                    request.bucket,
                    request.key,
                    staged,
                    replace(attributes, parts=()),
                    precondition=_precondition(request),
                )
        return _document(
            "CopyObjectResult",
            [
                ("LastModified", _iso(stored.last_modified)),
                ("ETag", f'"{stored.etag}"'),
                *_checksum_items(stored.attributes.checksums),
            ],
            **_encryption_headers(attributes),
        )

    def _open_source(self, request: S3Request) -> tuple[StoredObject, BinaryIO]:
        """The object that x-amz-copy-source names, if its conditions hold."""
        raw, _, version = request.headers["x-amz-copy-source"].partition("?versionId=")
        if version not in ("", "null"):
            raise S3Error(
                "NoSuchVersion", "Local AWS keeps no versions: there is only the version 'null'.", 404
            )
        bucket, _, key = unquote(raw).removeprefix("/").partition("/")
        if bucket.startswith("arn:") or not key:
            raise S3Error("InvalidArgument", "x-amz-copy-source is not of the form bucket/key.")
        found = self.store.open(bucket, key)
        if found is None:
            raise no_such_key(key)
        source, file = found
        try:
            _check_read_conditions(request, source, "x-amz-copy-source-", not_modified_status=412)
        except S3Error:
            file.close()
            raise
        return source, file

    @_route("GET", "object")
    def get_object(self, request: S3Request) -> S3Response:
        found = self.store.open(request.bucket, request.key)
        if found is None:
            raise no_such_key(request.key)
        stored, file = found
        try:
            status, headers, start, length = self._describe(request, stored)
            file.seek(start)
        except BaseException:
            file.close()
            raise
        return S3Response(status, headers, FileSlice(file, length))

    @_route("HEAD", "object")
    def head_object(self, request: S3Request) -> S3Response:
        stored = self._head(request)
        status, headers, _, _ = self._describe(request, stored)
        return S3Response(status, headers)

    def _head(self, request: S3Request) -> StoredObject:
        stored = self.store.head(request.bucket, request.key)
        if stored is None:
            raise no_such_key(request.key)
        return stored

    def _describe(self, request: S3Request, stored: StoredObject) -> tuple[int, dict[str, str], int, int]:
        """Status, headers, first byte and length of what a GET or HEAD answers."""
        _check_read_conditions(request, stored, "", not_modified_status=304)
        kept = stored.attributes
        headers = {
            "content-type": "binary/octet-stream",
            **{name: value for name, value in kept.headers.items() if value != "STANDARD"},
            **{f"x-amz-meta-{name}": value for name, value in kept.metadata.items()},
            "last-modified": _http_date(stored.last_modified),
            "etag": f'"{stored.etag}"',
            "accept-ranges": "bytes",
        }
        if kept.tags:
            headers["x-amz-tagging-count"] = str(len(kept.tags))
        for name, value in request.args.items():
            if name.startswith("response-") and request.method == "GET":
                headers[name.removeprefix("response-")] = value
        start, length, status = 0, stored.size, 200
        if "partNumber" in request.args:
            start, length, status = _part_range(stored, request.integer("partNumber", 1, 1), headers)
        elif wanted := request.header("range"):
            found = _parse_range(wanted, stored.size)
            if found is not None:
                start, length = found
                status = 206
        if status == 206:
            headers["content-range"] = f"bytes {start}-{start + length - 1}/{stored.size}"
        elif request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
            headers.update({CHECKSUM_PREFIX + name: value for name, value in kept.checksums.items()})
            if kept.checksums:
                headers["x-amz-checksum-type"] = "FULL_OBJECT"
        headers["content-length"] = str(length)
        return status, headers, start, length

    @_route("GET", "object", "attributes")
    def get_object_attributes(self, request: S3Request) -> S3Response:
        stored = self._head(request)
        wanted = {name.strip() for name in (request.header("x-amz-object-attributes") or "").split(",")}
        kept = stored.attributes
        items: list[tuple[str, Any]] = []
        if "ETag" in wanted:
            items.append(("ETag", stored.etag))
        if "Checksum" in wanted and kept.checksums:
            items.append(("Checksum", _checksum_items(kept.checksums)))
        if "ObjectParts" in wanted and kept.parts:
            items.append(("ObjectParts", [("PartsCount", len(kept.parts))]))
        if "StorageClass" in wanted:
            items.append(("StorageClass", kept.headers.get("x-amz-storage-class", "STANDARD")))
        if "ObjectSize" in wanted:
            items.append(("ObjectSize", stored.size))
        return _document(
            "GetObjectAttributesResponse", items, **{"last-modified": _http_date(stored.last_modified)}
        )

    @_route("DELETE", "object")
    def delete_object(self, request: S3Request) -> S3Response:
        if_match = request.header("if-match")
        self.store.delete(request.bucket, request.key, if_match.strip('"') if if_match else None)
        return S3Response(204)

    @_route("POST", "bucket", "delete")
    def delete_objects(self, request: S3Request) -> S3Response:
        self.store.bucket_folder(request.bucket)
        document = xml.parse(request.text(), "Delete")
        quiet = document.findtext("Quiet") == "true"
        wanted = document.findall("Object")
        if not 1 <= len(wanted) <= 1000:
            raise S3Error("MalformedXML", "DeleteObjects takes 1 to 1000 keys.")
        items: list[tuple[str, Any]] = []
        for entry in wanted:
            key = entry.findtext("Key") or ""
            etag = entry.findtext("ETag")
            try:
                if entry.findtext("VersionId") not in (None, "", "null"):
                    raise S3Error("NoSuchVersion", "Local AWS keeps no versions.", 404)
                self.store.delete(request.bucket, key, etag.strip('"') if etag else None)
            except (S3Error, OSError) as problem:
                error = problem if isinstance(problem, S3Error) else from_os_error(problem)
                items.append(("Error", [("Key", key), ("Code", error.code), ("Message", error.message)]))
            else:
                if not quiet:
                    items.append(("Deleted", [("Key", key)]))
        return _document("DeleteResult", items)

    @_route("GET", "object", "tagging")
    def get_object_tagging(self, request: S3Request) -> S3Response:
        tags = self._head(request).attributes.tags
        return _document(
            "Tagging", [("TagSet", [("Tag", [("Key", k), ("Value", v)]) for k, v in tags.items()])]
        )

    @_route("PUT", "object", "tagging")
    def put_object_tagging(self, request: S3Request) -> S3Response:
        document = xml.parse(request.text(), "Tagging")
        tags = {tag.findtext("Key") or "": tag.findtext("Value") or "" for tag in document.iter("Tag")}
        return self._set_tags(request, tags, 200)

    @_route("DELETE", "object", "tagging")
    def delete_object_tagging(self, request: S3Request) -> S3Response:
        return self._set_tags(request, {}, 204)

    def _set_tags(self, request: S3Request, tags: Mapping[str, str], status: int) -> S3Response:
        _check_tags(tags)
        if self.store.update(request.bucket, request.key, lambda kept: replace(kept, tags=tags)) is None:
            raise no_such_key(request.key)
        return S3Response(status)

    # ---- multipart uploads

    @_route("POST", "object", "uploads")
    def create_multipart_upload(self, request: S3Request) -> S3Response:
        algorithm = request.header("x-amz-checksum-algorithm")
        upload = self.store.create_upload(request.bucket, request.key, _attributes(request), algorithm)
        headers = _encryption_headers(upload.attributes)
        if algorithm:
            headers["x-amz-checksum-algorithm"] = algorithm
        return _document(
            "InitiateMultipartUploadResult",
            [("Bucket", request.bucket), ("Key", request.key), ("UploadId", upload.id)],
            **headers,
        )

    def _upload(self, request: S3Request) -> Upload:
        self.store.bucket_folder(request.bucket)
        return self.store.upload(request.args.get("uploadId", ""), request.bucket, request.key)

    @_route("PUT", "object", "uploadId")
    def upload_part(self, request: S3Request) -> S3Response:
        upload = self._upload(request)
        number = _part_number(request)
        with self.store.stage() as staged:
            checksums = UploadBody(request.stream, request.headers).receive(staged, upload.checksum_algorithm)
            part = self.store.put_part(upload, number, staged, checksums)
        return S3Response(
            200,
            {
                "etag": f'"{part.etag}"',
                **_encryption_headers(upload.attributes),
                **{CHECKSUM_PREFIX + name: value for name, value in checksums.items()},
            },
        )

    @_route("COPY", "object", "uploadId")
    def upload_part_copy(self, request: S3Request) -> S3Response:
        upload = self._upload(request)
        number = _part_number(request)
        source, file = self._open_source(request)
        with file, self.store.stage() as staged:
            left = source.size
            if wanted := request.header("x-amz-copy-source-range"):
                found = _parse_range(wanted, source.size)
                if found is None:
                    raise S3Error("InvalidArgument", f"The range {wanted!r} is not valid.")
                start, left = found
                file.seek(start)
            while left and (chunk := file.read(min(left, CHUNK_BYTES))):
                staged.write(chunk)
                left -= len(chunk)
            part = self.store.put_part(upload, number, staged, {})
        modified = dt.datetime.fromtimestamp(part.mtime_ns // 1_000_000_000, dt.UTC)
        return _document("CopyPartResult", [("LastModified", _iso(modified)), ("ETag", f'"{part.etag}"')])

    @_route("POST", "object", "uploadId")
    def complete_multipart_upload(self, request: S3Request) -> S3Response:
        upload_id = request.args["uploadId"]
        document = xml.parse(request.text(), "CompleteMultipartUpload")
        try:
            upload = self._upload(request)
        except S3Error:
            # A client that lost the answer asks again: what this upload made is still there.
            stored = self.store.head(request.bucket, request.key)
            if stored is None or stored.attributes.upload_id != upload_id:
                raise
        else:
            wanted = [_wanted_part(part) for part in document.findall("Part")]
            stored = self.store.complete_upload(upload, wanted, _precondition(request))
        return _document(
            "CompleteMultipartUploadResult",
            [
                ("Location", f"/{request.bucket}/{quote(request.key)}"),
                ("Bucket", request.bucket),
                ("Key", request.key),
                ("ETag", f'"{stored.etag}"'),
            ],
            **_encryption_headers(stored.attributes),
        )

    @_route("DELETE", "object", "uploadId")
    def abort_multipart_upload(self, request: S3Request) -> S3Response:
        self.store.abort_upload(self._upload(request))
        return S3Response(204)

    @_route("GET", "object", "uploadId")
    def list_parts(self, request: S3Request) -> S3Response:
        upload = self._upload(request)
        after = request.integer("part-number-marker", 0)
        limit = request.integer("max-parts", 1000, 0, 1000)
        parts = [part for part in self.store.parts(upload) if part.number > after]
        page = parts[:limit]
        items: list[tuple[str, Any]] = [
            ("Bucket", request.bucket),
            ("Key", request.key),
            ("UploadId", upload.id),
            ("Initiator", _OWNER),
            ("Owner", _OWNER),
            ("StorageClass", upload.attributes.headers.get("x-amz-storage-class", "STANDARD")),
            ("PartNumberMarker", after),
            ("NextPartNumberMarker", page[-1].number if page else 0),
            ("MaxParts", limit),
            ("IsTruncated", len(parts) > len(page)),
        ]
        for part in page:
            modified = dt.datetime.fromtimestamp(part.mtime_ns // 1_000_000_000, dt.UTC)
            items.append(
                (
                    "Part",
                    [
                        ("PartNumber", part.number),
                        ("LastModified", _iso(modified)),
                        ("ETag", f'"{part.etag}"'),
                        ("Size", part.size),
                        *_checksum_items(part.checksums),
                    ],
                )
            )
        return _document("ListPartsResult", items)

    @_route("GET", "bucket", "uploads")
    def list_multipart_uploads(self, request: S3Request) -> S3Response:
        self.store.bucket_folder(request.bucket)
        encode = _encoder(request)
        prefix, delimiter = request.args.get("prefix", ""), request.args.get("delimiter", "")
        marker = (request.args.get("key-marker", ""), request.args.get("upload-id-marker", ""))
        limit = request.integer("max-uploads", 1000, 0, 1000)
        uploads = [upload for upload in self.store.uploads(request.bucket) if upload.key.startswith(prefix)]
        if marker[0]:
            ids = [upload.id for upload in uploads]
            start = ids.index(marker[1]) + 1 if marker[1] in ids else None
            uploads = uploads[start:] if start is not None else [u for u in uploads if u.key > marker[0]]
        groups = sorted(
            {
                u.key[: u.key.find(delimiter, len(prefix)) + len(delimiter)]
                for u in uploads
                if delimiter in u.key[len(prefix) :]
            }
            if delimiter
            else set()
        )
        uploads = [u for u in uploads if not u.key.startswith(tuple(groups))] if groups else uploads
        page = uploads[:limit]
        more = len(uploads) > len(page)
        return _document(
            "ListMultipartUploadsResult",
            [
                ("Bucket", request.bucket),
                ("KeyMarker", encode(marker[0])),
                ("UploadIdMarker", marker[1]),
                ("NextKeyMarker", encode(page[-1].key) if more and page else None),
                ("NextUploadIdMarker", page[-1].id if more and page else None),
                ("Prefix", encode(prefix)),
                ("Delimiter", encode(delimiter) if delimiter else None),
                ("EncodingType", request.args.get("encoding-type")),
                ("MaxUploads", limit),
                ("IsTruncated", more),
                *(
                    (
                        "Upload",
                        [
                            ("Key", encode(u.key)),
                            ("UploadId", u.id),
                            ("Initiator", _OWNER),
                            ("Owner", _OWNER),
                            ("StorageClass", u.attributes.headers.get("x-amz-storage-class", "STANDARD")),
                            ("Initiated", _iso(dt.datetime.fromtimestamp(int(u.created), dt.UTC))),
                        ],
                    )
                    for u in page
                ),
                *(("CommonPrefixes", [("Prefix", encode(group))]) for group in groups),
            ],
        )


for _name in _DOCUMENTS:
    _ROUTES[("GET", "bucket", _name)] = S3Service.get_document
    _ROUTES[("PUT", "bucket", _name)] = S3Service.put_document
    _ROUTES[("DELETE", "bucket", _name)] = S3Service.delete_document
for _name in _NEVER_SET:
    _ROUTES[("GET", "bucket", _name)] = S3Service.get_never_set
for _name in _EMPTY_DOCUMENTS:
    _ROUTES[("GET", "bucket", _name)] = S3Service.get_empty_document
    _ROUTES[("PUT", "bucket", _name)] = S3Service.put_empty_document
_SHARED_HANDLERS = frozenset(
    {
        S3Service.get_document,
        S3Service.put_document,
        S3Service.delete_document,
        S3Service.get_never_set,
        S3Service.get_empty_document,
        S3Service.put_empty_document,
        S3Service.put_acl,
    }
)


class FileSlice:
    """The next ``length`` bytes of a file, in pieces; closes it."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file = file
        self._left = length

    def __iter__(self) -> Iterator[bytes]:
        while self._left and (chunk := self._file.read(min(self._left, CHUNK_BYTES))):
            self._left -= len(chunk)
            yield chunk

    def close(self) -> None:
        self._file.close()


def _iso(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _http_date(moment: dt.datetime) -> str:
    return email.utils.format_datetime(moment, usegmt=True)


def _encoder(request: S3Request) -> Callable[[str], str]:
    if request.args.get("encoding-type") == "url":
        return lambda text: quote(text, safe="/")
    return lambda text: text


def _encode_token(after: str, is_prefix: bool) -> str:
    return base64.urlsafe_b64encode(f"{'p' if is_prefix else 'k'}{after}".encode()).decode()


def _decode_token(token: str | None) -> tuple[str, bool]:
    if not token:
        return "", False
    try:
        text = base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, UnicodeError):
        text = ""
    if text[:1] not in ("k", "p"):
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect")
    return text[1:], text[0] == "p"


def _contents(
    listing: Listing,
    encode: Callable[[str], str],
    *,
    owner: bool,
    tag: str = "Contents",
    extra: list[tuple[str, Any]] | None = None,
) -> Iterator[tuple[str, Any]]:
    for stored in listing.objects:
        items: list[tuple[str, Any]] = [
            ("Key", encode(stored.key)),
            *(extra or []),
            ("LastModified", _iso(stored.last_modified)),
            ("ETag", f'"{stored.etag}"'),
            *(("ChecksumAlgorithm", name.upper()) for name in stored.attributes.checksums),
            ("Size", stored.size),
            ("StorageClass", stored.attributes.headers.get("x-amz-storage-class", "STANDARD")),
        ]
        if owner:
            items.append(("Owner", _OWNER))
        yield tag, items
    for prefix in listing.prefixes:
        yield "CommonPrefixes", [("Prefix", encode(prefix))]


def _acl() -> S3Response:
    grantee = (
        '<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser">'
        f"<ID>{_OWNER[0][1]}</ID><DisplayName>{_OWNER[1][1]}</DisplayName></Grantee>"
    )
    body = xml.render(
        "AccessControlPolicy",
        [("Owner", _OWNER), ("AccessControlList", [("Grant", [("Permission", "FULL_CONTROL")])])],
    )
    return S3Response(
        200,
        {"content-type": "application/xml"},
        body.replace(b"<Permission>", grantee.encode() + b"<Permission>"),
    )


def _check_xml(body: bytes) -> None:
    root = re.search(rb"<(?:\w+:)?(\w+)[\s>/]", body.partition(b"?>")[2] or body)
    xml.parse(body, root.group(1).decode() if root else "")


def _attributes(request: S3Request) -> Attributes:
    headers = {name: request.headers[name] for name in _KEPT_HEADERS if request.headers.get(name)}
    if "content-encoding" in headers:
        encodings = [part.strip() for part in headers["content-encoding"].split(",")]
        headers["content-encoding"] = ",".join(part for part in encodings if part and part != "aws-chunked")
        if not headers["content-encoding"]:
            del headers["content-encoding"]
    metadata = {
        name.removeprefix("x-amz-meta-"): value
        for name, value in request.headers.items()
        if name.startswith("x-amz-meta-")
    }
    tags = dict(parse_qsl(request.headers.get("x-amz-tagging", ""), keep_blank_values=True))
    _check_tags(tags)
    return Attributes(headers=headers, metadata=metadata, tags=tags)


def _check_tags(tags: Mapping[str, str]) -> None:
    if len(tags) > 10:
        raise S3Error("BadRequest", "Object tags cannot be greater than 10")
    for key, value in tags.items():
        if not 1 <= len(key) <= 128 or len(value) > 256:
            raise S3Error("InvalidTag", "A tag's key has 1 to 128 characters and its value at most 256.")


def _encryption_headers(attributes: Attributes) -> dict[str, str]:
    return {n: v for n, v in attributes.headers.items() if n.startswith("x-amz-server-side-encryption")}


def _checksum_items(checksums: Mapping[str, str]) -> list[tuple[str, Any]]:
    return [(f"Checksum{name.upper()}", value) for name, value in checksums.items()]


def _precondition(request: S3Request) -> Precondition:
    if_match, if_none_match = request.header("if-match"), request.header("if-none-match")
    if if_none_match and if_none_match != "*":
        raise S3Error("NotImplemented", "A write takes If-None-Match only as '*', here as on AWS.", 501)
    return Precondition(if_match=if_match.strip('"') if if_match else None, if_none_match=bool(if_none_match))


def _check_read_conditions(
    request: S3Request, stored: StoredObject, prefix: str, not_modified_status: int
) -> None:
    """RFC 9110's order: a match of ETags overrules dates."""
    if_match = request.header(f"{prefix}if-match")
    if_none_match = request.header(f"{prefix}if-none-match")
    modified = stored.last_modified
    if if_match:
        if not _matches(if_match, stored.etag):
            raise precondition_failed("If-Match")
    elif (since := _moment(request.header(f"{prefix}if-unmodified-since"))) and modified > since:
        raise precondition_failed("If-Unmodified-Since")
    not_modified = S3Error(
        "NotModified" if not_modified_status == 304 else "PreconditionFailed",
        "The object has not changed.",
        not_modified_status,
        etag=f'"{stored.etag}"',
        last_modified=_http_date(modified),
    )
    if if_none_match:
        if _matches(if_none_match, stored.etag):
            raise not_modified
    elif (since := _moment(request.header(f"{prefix}if-modified-since"))) and modified <= since:
        raise not_modified


def _matches(header: str, etag: str) -> bool:
    return any(part.strip().strip('"') in ("*", etag) for part in header.split(","))


def _moment(header: str | None) -> dt.datetime | None:
    if not header:
        return None
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def _parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Start and length; None for a header to be ignored (no valid single range). Raises S3Error (InvalidRange)."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if not found or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if first:
        start, end = int(first), min(int(last) if last else size - 1, size - 1)
        if last and int(last) < start:
            return None
    else:
        start, end = max(size - int(last), 0), size - 1
    if start > end:
        raise S3Error(
            "InvalidRange", "The requested range is not satisfiable", 416, content_range=f"bytes */{size}"
        )
    return start, end - start + 1


def _part_range(stored: StoredObject, number: int, headers: dict[str, str]) -> tuple[int, int, int]:
    sizes = stored.attributes.parts or (stored.size,)
    if number > len(sizes):
        raise S3Error("InvalidPartNumber", f"The object has {len(sizes)} parts.", 416)
    if stored.attributes.parts:
        headers["x-amz-mp-parts-count"] = str(len(sizes))
    length = sizes[number - 1]
    return sum(sizes[: number - 1]), length, 206 if length else 200


def _part_number(request: S3Request) -> int:
    number = request.integer("partNumber", 0)
    if not 1 <= number <= MAX_PARTS:
        raise S3Error("InvalidArgument", f"Part number must be an integer between 1 and {MAX_PARTS}.")
    return number


def _wanted_part(part: Element) -> tuple[int, str]:
    try:
        return int(part.findtext("PartNumber") or ""), (part.findtext("ETag") or "").strip('"')
    except ValueError:
        raise S3Error("MalformedXML", "A part of CompleteMultipartUpload has no number.") from None
