from __future__ import annotations

import pytest

from airflow_emr_etl.local.access import (
    Credential,
    bucket_in_host,
    is_known_key,
    is_local_host,
    read_credential,
)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:4566", True),
        ("localhost:4566", True),
        ("LOCALHOST:4566", True),
        ("lake.localhost:4566", True),
        ("127.0.0.1:4567", False),
        ("127.0.0.1", False),
        ("evil.example:4566", False),
        ("127.0.0.1.evil.example:4566", False),
        ("localhost.evil.example:4566", False),
        ("evillocalhost:4566", False),
        ("[::1]:4566", False),
        ("", False),
        (None, False),
    ],
)
def test_hosts(host, expected):
    assert is_local_host(host, 4566) is expected


def test_bucket_in_host():
    assert bucket_in_host("my.lake.localhost:4566") == "my.lake"
    assert bucket_in_host("lake.s3.localhost:4566") == "lake"
    assert bucket_in_host("localhost:4566") is None
    assert bucket_in_host("127.0.0.1:4566") is None


def test_credentials_in_the_header():
    sigv4 = (
        "AWS4-HMAC-SHA256 Credential=KEY/20260101/eu-west-1/sqs/aws4_request, SignedHeaders=host, Signature=0"
    )
    assert read_credential({"authorization": sigv4}, "") == Credential("KEY", "sqs", "eu-west-1")
    sigv4a = "AWS4-ECDSA-P256-SHA256 Credential=KEY/20260101/s3/aws4_request, SignedHeaders=host, Signature=0"
    assert read_credential({"authorization": sigv4a}, "") == Credential("KEY", "s3", None)
    assert read_credential({"authorization": "AWS KEY:c2ln"}, "") == Credential("KEY", "s3")
    assert read_credential({"authorization": "Bearer x"}, "") is None
    assert read_credential({}, "") is None


def test_credentials_in_the_query():
    query = (
        "X-Amz-Algorithm=A&X-Amz-Credential=KEY%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Expires=60"
    )
    assert read_credential({}, query) == Credential("KEY", "s3", "us-east-1", presigned=True)
    assert read_credential({}, "AWSAccessKeyId=KEY&Expires=1") == Credential("KEY", "s3", presigned=True)


def test_only_the_own_key_is_known():
    assert is_known_key("OWN", "OWN")
    assert not is_known_key("own", "OWN")
    assert not is_known_key("", "OWN")
    assert not is_known_key("ÄÖ", "OWN")
