from __future__ import annotations

import bz2
import gzip
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import zstandard
from airflow.exceptions import AirflowFailException
from fakes.task_instance import FakeTaskInstance
from moto import mock_aws

from airflow_emr_etl.exceptions import ConfigurationError, CorruptInputError, MissingInputError
from airflow_emr_etl.hooks.s3_lake import S3LakeHook
from airflow_emr_etl.transfers.access_logs import IngestLogsOperator, lake_names


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("s3", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        for bucket in ("source", "lake"):
            client.create_bucket(Bucket=bucket)
        monkeypatch.setattr(S3LakeHook, "client", client)
        yield client


def put(s3: Any, **objects: bytes) -> None:
    for name, body in objects.items():
        s3.put_object(Bucket="source", Key=f"day/{name.replace('__', '.')}", Body=body)


def lake(s3: Any) -> dict[str, bytes]:
    found = s3.list_objects_v2(Bucket="lake").get("Contents", [])
    return {item["Key"]: s3.get_object(Bucket="lake", Key=item["Key"])["Body"].read() for item in found}


def ingest(**kwargs: Any) -> dict[str, Any]:
    places = {"source": "s3://source/day", "destination": "s3://lake/raw/"}
    return IngestLogsOperator(task_id="t", **{**places, **kwargs}).execute(FakeTaskInstance().context)


def test_every_line_is_counted_and_every_byte_copied(s3: Any) -> None:
    put(s3, a__log=b"1\n2\n3", b__log__gz=gzip.compress(b"4\n5\n"), empty__log=b"")
    result = ingest()
    assert (result["files"], result["lines"], result["empty_files"]) == (3, 5, 1)
    assert result["path"] == "s3://lake/raw/"
    assert result["bytes"] == sum(len(body) for body in lake(s3).values())
    assert [(item["uri"], item["lines"], item["gzip"]) for item in result["objects"]] == [
        ("s3://lake/raw/a.log", 3, False),
        ("s3://lake/raw/b.log.gz", 2, True),
        ("s3://lake/raw/empty.log", 0, False),
    ]


def test_what_an_earlier_try_left_is_deleted(s3: Any) -> None:
    put(s3, a__log=b"1\n", b__log=b"2\n")
    ingest()
    s3.delete_object(Bucket="source", Key="day/a.log")
    assert ingest()["files"] == 1
    assert set(lake(s3)) == {"raw/b.log"}


def test_again_changes_nothing(s3: Any) -> None:
    put(s3, a__log=b"1\n")
    assert ingest() == ingest()


def test_names_say_what_the_content_is(s3: Any) -> None:
    packed = gzip.compress(b"1\n")
    put(s3, a__log=packed, a__log__gz=packed, plain__gz=b"2\n", _hidden=b"3\n")
    ingest()
    assert {key: body[:2] == b"\x1f\x8b" for key, body in lake(s3).items()} == {
        "raw/a.log.gz": True,
        "raw/a.log-2.gz": True,
        "raw/plain": False,
        "raw/x_hidden": False,
    }


def test_a_gzip_of_several_members_and_padding(s3: Any) -> None:
    put(s3, a__gz=gzip.compress(b"1\n") + gzip.compress(b"2\n3") + b"\0" * 100)
    assert ingest()["lines"] == 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (gzip.compress(b"x\n" * 100_000)[:-20], "it ends too early"),
        (gzip.compress(b"x\n" * 1000)[:-1], "it ends too early"),
        (gzip.compress(b"x\n" * 1000)[:-8] + b"\1" * 8, "incorrect data check"),
        (gzip.compress(b"1\n") + b"rubbish", "incorrect header check"),
        (b"\x1f\x8b", "it ends too early"),
    ],
)
def test_a_damaged_gzip_stops_everything_before_anything_is_copied(s3: Any, body: bytes, said: str) -> None:
    put(s3, a__log=b"1\n", bad__log__gz=body)
    with pytest.raises(
        AirflowFailException, match=r"s3://source/day/bad\.log\.gz is a damaged gzip"
    ) as raised:
        ingest()
    assert said in str(raised.value)
    assert isinstance(raised.value.__cause__, CorruptInputError)
    assert raised.value.__cause__.line >= 1
    assert lake(s3) == {}


@pytest.mark.parametrize(("pack", "suffix"), [(bz2.compress, ".bz2"), (zstandard.compress, ".zst")])
def test_bzip2_and_zstd_are_counted_and_named(s3: Any, pack: Any, suffix: str) -> None:
    content = b"\n".join(b"%d" % n for n in range(200_000))
    half = len(content) // 2
    put(s3, a__log=pack(content[:half]) + pack(content[half:]), b__log=pack(b""))
    result = ingest()
    assert (result["lines"], result["empty_files"]) == (200_000, 1)
    assert set(lake(s3)) == {f"raw/a.log{suffix}", f"raw/b.log{suffix}"}


def with_check_sum(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)  # as the command line tool does


@pytest.mark.parametrize("pack", [bz2.compress, with_check_sum])
def test_a_damaged_bzip2_or_zstd_stops_everything(s3: Any, pack: Any) -> None:
    whole = pack(b"\n".join(b"%d" % (n * n) for n in range(100_000)))
    cut, broken = whole[:-20], whole[:1000] + b"\xff" * 50 + whole[1050:]
    for body in (cut, broken, pack(b"1\n") + b"rubbish"):
        put(s3, bad=body)
        with pytest.raises(AirflowFailException, match=r"is a damaged (bzip2|zstd)"):
            ingest()
    assert lake(s3) == {}


def test_a_bomb_needs_little_memory(s3: Any) -> None:
    import tracemalloc

    put(s3, a=zstandard.compress(b"\n" * 2**28))
    tracemalloc.start()
    assert ingest()["lines"] == 2**28
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 * 1024**2


def test_a_day_without_files(s3: Any) -> None:
    put(s3, _SUCCESS=b"")
    with pytest.raises(AirflowFailException, match="no log under s3://source/day/") as raised:
        ingest(marker="_SUCCESS")
    assert isinstance(raised.value.__cause__, MissingInputError)


@pytest.mark.parametrize("destination", ["s3://source/day/", "s3://source/", "s3://source/day/lake"])
def test_source_and_destination_must_not_meet(s3: Any, destination: str) -> None:
    put(s3, a__log=b"1\n")
    with pytest.raises(AirflowFailException, match="one inside the other") as raised:
        ingest(destination=destination)
    assert isinstance(raised.value.__cause__, ConfigurationError)


def test_big_content_needs_little_memory(s3: Any) -> None:
    import tracemalloc

    put(s3, a__gz=gzip.compress(b"x" * 99 + b"\n") * 1)
    big = gzip.compress((b"x" * 1023 + b"\n") * 65536, compresslevel=1)  # 64 MiB of content
    put(s3, big__gz=big)
    tracemalloc.start()
    assert ingest()["lines"] == 65_537
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * 1024**2


def test_names_do_not_depend_on_the_order_of_the_listing() -> None:
    files = [("a", "gzip"), ("a.gz", "gzip"), ("a", "zstd"), ("b", None), ("b.bz2", None)]
    assert dict(zip(files, lake_names(files), strict=True)) == dict(
        zip(reversed(files), lake_names(reversed(files)), strict=True)
    )
