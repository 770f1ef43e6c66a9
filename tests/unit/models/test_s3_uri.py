from __future__ import annotations

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.s3 import S3Uri, as_folder


@pytest.mark.parametrize(
    ("text", "bucket", "key"),
    [("s3://b/k/l", "b", "k/l"), ("s3://b", "b", ""), ("s3://b/", "b", ""), ("s3n://b/k/", "b", "k/")],
)
def test_parse(text: str, bucket: str, key: str) -> None:
    assert S3Uri.parse(text) == S3Uri(bucket, key)


@pytest.mark.parametrize("text", ["", "b/k", "http://b/k", "s3://", "s3:///k"])
def test_no_address(text: str) -> None:
    with pytest.raises(ConfigurationError, match="s3://bucket/key"):
        S3Uri.parse(text)


def test_below() -> None:
    assert str(S3Uri("b").child("x")) == "s3://b/x"
    assert str(S3Uri("b", "k").child("x")) == "s3://b/k/x"
    assert as_folder("s3://b/k//") == as_folder("s3://b/k") == "s3://b/k/"
