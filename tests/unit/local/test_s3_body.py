from __future__ import annotations

import base64
import hashlib
import io
import zlib

import pytest

from airflow_emr_etl.local.s3.body import UploadBody
from airflow_emr_etl.local.s3.errors import S3Error
from airflow_emr_etl.local.s3.store import Staged


@pytest.fixture
def staged(tmp_path):
    with Staged(tmp_path / "staged") as staged:
        yield staged


def receive(staged, data, headers):
    checksums = UploadBody(io.BytesIO(data), headers).receive(staged)
    staged.close()
    return staged.path.read_bytes(), checksums


def crc32(data):
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


CHUNKED = b"5;chunk-signature=ab\r\nhello\r\n6\r\n world\r\n0;chunk-signature=cd\r\n"
STREAMING = {
    "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    "x-amz-decoded-content-length": "11",
}


def test_plain(staged):
    assert receive(staged, b"hello", {"content-length": "5"}) == (b"hello", {})


def test_aws_chunked(staged):
    assert receive(staged, CHUNKED + b"\r\n", STREAMING)[0] == b"hello world"


def test_aws_chunked_with_a_checksum_in_the_trailer(staged):
    headers = {**STREAMING, "x-amz-trailer": "x-amz-checksum-crc32"}
    trailer = f"x-amz-checksum-crc32:{crc32(b'hello world')}\r\nx-amz-trailer-signature:00\r\n\r\n".encode()
    assert receive(staged, CHUNKED + trailer, headers) == (b"hello world", {"crc32": crc32(b"hello world")})


def test_a_wrong_checksum_in_the_trailer(staged):
    headers = {**STREAMING, "x-amz-trailer": "x-amz-checksum-crc32"}
    with pytest.raises(S3Error, match="CRC32") as caught:
        receive(staged, CHUNKED + b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n", headers)
    assert caught.value.code == "BadDigest"


@pytest.mark.parametrize(
    ("data", "headers", "code"),
    [
        (b"hell", {"content-length": "5"}, "IncompleteBody"),
        (b"5\r\nhel", STREAMING, "IncompleteBody"),
        (b"zz\r\nhello", STREAMING, "InvalidChunkSizeError"),
        (b"hello", {"content-length": "5", "content-md5": "AAAA"}, "InvalidDigest"),
        (b"hello", {"content-length": "5", "content-md5": base64.b64encode(b"0" * 16).decode()}, "BadDigest"),
        (b"hello", {"content-length": "5", "x-amz-checksum-sha256": "AAAA"}, "BadDigest"),
    ],
)
def test_bodies_that_are_refused(staged, data, headers, code):
    with pytest.raises(S3Error) as caught:
        receive(staged, data, headers)
    assert caught.value.code == code


def test_checksums_that_hold(staged):
    headers = {
        "content-length": "5",
        "content-md5": base64.b64encode(hashlib.md5(b"hello").digest()).decode(),
        "x-amz-checksum-sha1": base64.b64encode(hashlib.sha1(b"hello").digest()).decode(),
    }
    assert receive(staged, b"hello", headers)[1] == {"sha1": headers["x-amz-checksum-sha1"]}
