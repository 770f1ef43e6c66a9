from __future__ import annotations

import pytest

from airflow_emr_etl.local.s3.errors import S3Error
from airflow_emr_etl.local.s3.keys import is_bucket_name, is_hidden, parse_key


@pytest.mark.parametrize("name", ["lake", "my.bucket-1", "a2c", "x" * 63, "1.2.3"])
def test_valid_bucket_names(name):
    assert is_bucket_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "ab", "x" * 64, "Lake", "a_b", "-ab", "ab-", "a..b", "192.168.0.1", "xn--abc", "a.-b", "a/b", ".."],
)
def test_invalid_bucket_names(name):
    assert not is_bucket_name(name)


@pytest.mark.parametrize("key", ["../x", "a/../../x", "a/..", "./a", "a/./b", ".."])
@pytest.mark.parametrize("for_write", [True, False])
def test_keys_that_leave_the_bucket_are_refused(key, for_write):
    with pytest.raises(S3Error, match=r"'\.' or '\.\.'") as caught:
        parse_key(key, for_write=for_write)
    assert caught.value.code == "InvalidArgument"


@pytest.mark.parametrize("key", ["a\0b", "", "x" * 1025, "ü" * 513])
def test_keys_that_s3_refuses(key):
    with pytest.raises(S3Error):
        parse_key(key)


@pytest.mark.parametrize("key", ["/a", "a//b", "//", "x/_temporary/0/part", ".spark-staging-1/x", "a/.b.crc"])
def test_keys_that_no_file_can_have_do_not_exist_and_cannot_be_written(key):
    assert parse_key(key) is None
    with pytest.raises(S3Error):
        parse_key(key, for_write=True)


def test_parts_of_a_key():
    assert parse_key("a/b c/ü.txt", for_write=True) == ("a", "b c", "ü.txt")
    assert parse_key("a/b/", for_write=True) == ("a", "b")
    assert parse_key("..a/b..", for_write=True) == ("..a", "b..")


def test_hidden_names():
    assert is_hidden("_temporary")
    assert is_hidden(".part-0.parquet.crc")
    assert is_hidden(".spark-staging-7")
    assert not is_hidden("_SUCCESS")
    assert not is_hidden("data.crc")
    assert not is_hidden(".keep")
