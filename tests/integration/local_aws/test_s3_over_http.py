"""S3 as boto3 and the AWS CLI see it, and as the processes see it that share the folder."""

from __future__ import annotations

import datetime as dt
import http.client
import io
import itertools
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from airflow_emr_etl.local.stack import LocalAws

MIB = 1024 * 1024
_numbers = itertools.count()


@pytest.fixture
def s3(client):
    return client("s3")


@pytest.fixture
def bucket(s3):
    name = f"lake-{next(_numbers)}"
    s3.create_bucket(Bucket=name)
    return name


def code_of(caught):
    return caught.value.response["Error"]["Code"]


def listed(s3, bucket, **options):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, **options)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def test_put_get_head(s3, bucket, storage):
    s3.put_object(
        Bucket=bucket,
        Key="a/b c/ü+&.txt",
        Body=b"hello",
        ContentType="text/plain",
        CacheControl="no-store",
        Metadata={"my_key": "v", "other": "w"},
        Tagging="team=data",
    )
    assert (storage.objects / bucket / "a/b c/ü+&.txt").read_bytes() == b"hello"
    answer = s3.get_object(Bucket=bucket, Key="a/b c/ü+&.txt")
    assert answer["Body"].read() == b"hello"
    head = s3.head_object(Bucket=bucket, Key="a/b c/ü+&.txt")
    for found in (answer, head):
        assert found["ContentLength"] == 5
        assert found["ContentType"] == "text/plain"
        assert found["CacheControl"] == "no-store"
        assert found["Metadata"] == {"my_key": "v", "other": "w"}
        assert found["ETag"] == '"5d41402abc4b2a76b9719d911017c592"'
        assert abs(dt.datetime.now(dt.UTC) - found["LastModified"]) < dt.timedelta(minutes=1)
    tags = s3.get_object_tagging(Bucket=bucket, Key="a/b c/ü+&.txt")["TagSet"]
    assert tags == [{"Key": "team", "Value": "data"}]


def test_files_written_behind_the_server_s_back(s3, bucket, storage):
    folder = storage.objects / bucket / "out" / "dt=2026-01-05"
    folder.mkdir(parents=True)
    (folder / "part-0.parquet").write_bytes(b"PAR1")
    (folder / ".part-0.parquet.crc").write_bytes(b"crc")
    (storage.objects / bucket / "out" / "_temporary" / "0").mkdir(parents=True)
    (storage.objects / bucket / "out" / "_temporary" / "0" / "x").write_bytes(b"half")
    assert listed(s3, bucket) == ["out/dt=2026-01-05/part-0.parquet"]
    assert s3.get_object(Bucket=bucket, Key="out/dt=2026-01-05/part-0.parquet")["Body"].read() == b"PAR1"
    s3.put_object(Bucket=bucket, Key="out/dt=2026-01-05/part-1", Body=b"1")
    (folder / "part-1").write_bytes(b"another's")
    assert s3.get_object(Bucket=bucket, Key="out/dt=2026-01-05/part-1")["Body"].read() == b"another's"
    (folder / "part-1").unlink()
    with pytest.raises(ClientError) as caught:
        s3.head_object(Bucket=bucket, Key="out/dt=2026-01-05/part-1")
    assert code_of(caught) == "404"
    (storage.objects / "made-by-spark").mkdir()
    assert "made-by-spark" in [found["Name"] for found in s3.list_buckets()["Buckets"]]


def test_listings(s3, bucket):
    for key in ("a", "b/1", "b/2", "b/c/3", "d/4", "e"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    assert listed(s3, bucket) == ["a", "b/1", "b/2", "b/c/3", "d/4", "e"]
    assert listed(s3, bucket, Prefix="b/", PaginationConfig={"PageSize": 2}) == ["b/1", "b/2", "b/c/3"]
    assert listed(s3, bucket, StartAfter="b/2") == ["b/c/3", "d/4", "e"]
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/", MaxKeys=2)
    assert ([item["Key"] for item in page["Contents"]], page["CommonPrefixes"]) == (["a"], [{"Prefix": "b/"}])
    assert (page["IsTruncated"], page["KeyCount"]) == (True, 2)
    rest = s3.list_objects_v2(Bucket=bucket, Delimiter="/", ContinuationToken=page["NextContinuationToken"])
    assert [item["Prefix"] for item in rest["CommonPrefixes"]] == ["d/"]
    assert [item["Key"] for item in rest["Contents"]] == ["e"]
    found, marker = [], ""
    while marker is not None:
        old = s3.list_objects(Bucket=bucket, Delimiter="/", MaxKeys=1, Marker=marker)
        found += [item["Key"] for item in old.get("Contents", [])]
        found += [item["Prefix"] for item in old.get("CommonPrefixes", [])]
        marker = old.get("NextMarker")
    assert found == ["a", "b/", "d/", "e"]
    versions = s3.list_object_versions(Bucket=bucket, Prefix="b/")["Versions"]
    assert {item["VersionId"] for item in versions} == {"null"}
    assert len(versions) == 3


@pytest.mark.parametrize(
    ("asked", "expected", "span"),
    [
        ("bytes=0-3", b"0123", "0-3"),
        ("bytes=7-", b"789", "7-9"),
        ("bytes=-2", b"89", "8-9"),
        ("bytes=5-99", b"56789", "5-9"),
    ],
)
def test_range_reads(s3, bucket, asked, expected, span):
    s3.put_object(Bucket=bucket, Key="digits", Body=b"0123456789")
    answer = s3.get_object(Bucket=bucket, Key="digits", Range=asked)
    assert answer["Body"].read() == expected
    assert answer["ContentRange"] == f"bytes {span}/10"
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206


def test_a_range_past_the_end(s3, bucket):
    s3.put_object(Bucket=bucket, Key="digits", Body=b"0123456789")
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key="digits", Range="bytes=10-")
    assert code_of(caught) == "InvalidRange"


def test_multipart_through_the_transfer_manager(s3, bucket, storage):
    data = os.urandom(13 * MIB)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    s3.upload_fileobj(io.BytesIO(data), bucket, "big", Config=config, ExtraArgs={"Metadata": {"k": "v"}})
    assert (storage.objects / bucket / "big").read_bytes() == data
    head = s3.head_object(Bucket=bucket, Key="big")
    assert head["ETag"].endswith('-3"')
    assert head["Metadata"] == {"k": "v"}
    received = io.BytesIO()
    s3.download_fileobj(bucket, "big", received, Config=config)
    assert received.getvalue() == data
    part = s3.get_object(Bucket=bucket, Key="big", PartNumber=3)
    assert part["PartsCount"] == 3
    assert part["Body"].read() == data[10 * MIB :]


def test_multipart_step_by_step(s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m", ContentType="text/csv")["UploadId"]
    which = {"Bucket": bucket, "Key": "m", "UploadId": upload}
    s3.put_object(Bucket=bucket, Key="source", Body=b"0123456789")
    first = s3.upload_part(**which, PartNumber=1, Body=b"x" * 5 * MIB)["ETag"]
    second = s3.upload_part_copy(
        **which, PartNumber=2, CopySource={"Bucket": bucket, "Key": "source"}, CopySourceRange="bytes=2-4"
    )["CopyPartResult"]["ETag"]
    assert [(part["PartNumber"], part["Size"]) for part in s3.list_parts(**which)["Parts"]] == [
        (1, 5 * MIB),
        (2, 3),
    ]
    assert [found["Key"] for found in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["m"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": first}, {"PartNumber": 2, "ETag": second}]}
    done = s3.complete_multipart_upload(**which, MultipartUpload=parts)
    assert s3.complete_multipart_upload(**which, MultipartUpload=parts)["ETag"] == done["ETag"], "asked again"
    answer = s3.get_object(Bucket=bucket, Key="m")
    assert answer["Body"].read()[-5:] == b"xx234"
    assert answer["ContentType"] == "text/csv"
    aborted = s3.create_multipart_upload(Bucket=bucket, Key="n")["UploadId"]
    s3.abort_multipart_upload(Bucket=bucket, Key="n", UploadId=aborted)
    with pytest.raises(ClientError) as caught:
        s3.upload_part(Bucket=bucket, Key="n", UploadId=aborted, PartNumber=1, Body=b"")
    assert code_of(caught) == "NoSuchUpload"


def test_copy(s3, bucket, storage):
    s3.put_object(Bucket=bucket, Key="from/ü 1", Body=b"data", Metadata={"k": "v"}, ContentType="text/plain")
    s3.copy_object(Bucket=bucket, Key="to/1", CopySource={"Bucket": bucket, "Key": "from/ü 1"})
    copied = s3.get_object(Bucket=bucket, Key="to/1")
    assert (copied["Body"].read(), copied["Metadata"], copied["ContentType"]) == (
        b"data",
        {"k": "v"},
        "text/plain",
    )
    s3.copy_object(
        Bucket=bucket,
        Key="to/1",
        CopySource=f"{bucket}/to/1",
        MetadataDirective="REPLACE",
        Metadata={"new": "1"},
    )
    assert s3.head_object(Bucket=bucket, Key="to/1")["Metadata"] == {"new": "1"}
    with pytest.raises(ClientError) as caught:
        s3.copy_object(Bucket=bucket, Key="to/1", CopySource=f"{bucket}/to/1")
    assert code_of(caught) == "InvalidRequest"
    with pytest.raises(ClientError) as caught:
        s3.copy_object(Bucket=bucket, Key="to/1", CopySource=f"{bucket}/none")
    assert code_of(caught) == "NoSuchKey"


def test_deletes(s3, bucket, storage):
    for key in ("a/b/c", "a/b/d", "e"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    s3.delete_object(Bucket=bucket, Key="e")
    answer = s3.delete_objects(
        Bucket=bucket,
        Delete={"Objects": [{"Key": "a/b/c"}, {"Key": "a/b/d"}, {"Key": "none"}, {"Key": "../x"}]},
    )
    assert [item["Key"] for item in answer["Deleted"]] == ["a/b/c", "a/b/d", "none"]
    assert [(item["Key"], item["Code"]) for item in answer["Errors"]] == [("../x", "InvalidArgument")]
    assert list((storage.objects / bucket).iterdir()) == [], (
        "no empty folder is left for Spark to stumble over"
    )
    s3.delete_bucket(Bucket=bucket)
    with pytest.raises(ClientError) as caught:
        s3.list_objects_v2(Bucket=bucket)
    assert code_of(caught) == "NoSuchBucket"


def test_conditional_writes_and_reads(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*")
    assert code_of(caught) == "PreconditionFailed"
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch='"0"')
    assert code_of(caught) == "PreconditionFailed"
    changed = s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch=etag)["ETag"]
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key="k", IfMatch=etag)
    assert code_of(caught) == "PreconditionFailed"
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key="k", IfNoneMatch=changed)
    assert code_of(caught) == "304"
    assert s3.get_object(Bucket=bucket, Key="k", IfMatch=changed)["Body"].read() == b"2"


def test_folder_markers(s3, bucket, storage):
    s3.put_object(Bucket=bucket, Key="dir/", Body=b"")
    assert (storage.objects / bucket / "dir").is_dir()
    assert s3.head_object(Bucket=bucket, Key="dir/")["ContentLength"] == 0
    assert listed(s3, bucket) == ["dir/"]
    s3.put_object(Bucket=bucket, Key="dir/a", Body=b"")
    s3.delete_object(Bucket=bucket, Key="dir/")
    assert listed(s3, bucket) == ["dir/a"]


def test_object_and_folder_of_one_name(s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=b"")
    with pytest.raises(ClientError, match="both an object and a folder"):
        s3.put_object(Bucket=bucket, Key="a/b", Body=b"")


@pytest.mark.parametrize("path", ["../../escaped", "%2e%2e/%2e%2e/escaped", "a/..%2f..%2fescaped", "a/%00b"])
def test_keys_cannot_leave_the_bucket(storage, bucket, path):
    connection = http.client.HTTPConnection(storage.endpoint_url.removeprefix("http://"))
    headers = {"Authorization": f"Credential={storage.access_key}/20260101/us-east-1/s3/aws4_request"}
    connection.request("PUT", f"/{bucket}/{path}", body=b"x", headers=headers)
    answer = connection.getresponse()
    assert (answer.status, b"InvalidArgument" in answer.read()) == (400, True)
    connection.close()
    assert not list(storage.state.parent.rglob("*escaped*"))


@pytest.mark.parametrize("name", ["..", "%2e%2e", "UPPER", "a_b", "x"])
def test_bucket_names(storage, name):
    connection = http.client.HTTPConnection(storage.endpoint_url.removeprefix("http://"))
    headers = {"Authorization": f"Credential={storage.access_key}/20260101/us-east-1/s3/aws4_request"}
    connection.request("PUT", f"/{name}", headers=headers)
    answer = connection.getresponse()
    assert (answer.status, b"InvalidBucketName" in answer.read()) == (400, True)
    connection.close()


def test_presigned_urls(s3, bucket, storage):
    s3.put_object(Bucket=bucket, Key="k", Body=b"data")
    which = {"Bucket": bucket, "Key": "k"}
    with urllib.request.urlopen(s3.generate_presigned_url("get_object", Params=which)) as answer:
        assert answer.read() == b"data"
    expired = s3.generate_presigned_url("get_object", Params=which, ExpiresIn=-5)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(expired)
    assert (caught.value.code, b"expired" in caught.value.read()) == (403, True)
    put = urllib.request.Request(
        s3.generate_presigned_url("put_object", Params=which), data=b"new", method="PUT"
    )
    urllib.request.urlopen(put).close()
    assert (storage.objects / bucket / "k").read_bytes() == b"new"


def test_settings_of_a_bucket(s3, bucket):
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None
    with pytest.raises(ClientError) as caught:
        s3.get_bucket_tagging(Bucket=bucket)
    assert code_of(caught) == "NoSuchTagSet"
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == [{"Key": "a", "Value": "b"}]
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Statement": []}))
    assert json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"]) == {"Statement": []}
    s3.delete_bucket_policy(Bucket=bucket)
    with pytest.raises(ClientError) as caught:
        s3.get_bucket_policy(Bucket=bucket)
    assert code_of(caught) == "NoSuchBucketPolicy"
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    assert s3.get_bucket_acl(Bucket=bucket)["Grants"][0]["Permission"] == "FULL_CONTROL"


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("put_bucket_versioning", {"VersioningConfiguration": {"Status": "Enabled"}}),
        ("put_bucket_replication", {"ReplicationConfiguration": {"Role": "r", "Rules": []}}),
        ("list_bucket_metrics_configurations", {}),
        ("restore_object", {"Key": "k", "RestoreRequest": {"Days": 1}}),
        ("put_object", {"Key": "k", "ACL": "public-read"}),
        ("put_object", {"Key": "k", "ObjectLockLegalHoldStatus": "ON"}),
    ],
)
def test_what_is_not_supported_says_so(s3, bucket, operation, arguments):
    with pytest.raises(ClientError, match="Nothing was done") as caught:
        getattr(s3, operation)(Bucket=bucket, **arguments)
    assert code_of(caught) == "NotImplemented"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501
    assert listed(s3, bucket) == []


def test_the_name_of_an_unsupported_operation(s3, bucket):
    with pytest.raises(ClientError, match="s3:PutBucketVersioning"):
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def test_a_restart_keeps_buckets_objects_metadata_and_the_endpoint(tmp_path, connect):
    with LocalAws(tmp_path, services=lambda _: []) as local:
        s3 = connect(local, "s3")
        s3.create_bucket(Bucket="lake", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        s3.put_object(Bucket="lake", Key="k", Body=b"data", Metadata={"a": "b"})
        before = s3.head_object(Bucket="lake", Key="k")
        created = s3.list_buckets()["Buckets"]
        environment = local.env()
    (tmp_path / "s3/lake/later").write_bytes(b"while it was down")
    with LocalAws(tmp_path, services=lambda _: []) as local:
        assert local.env() == environment
        after = s3.head_object(Bucket="lake", Key="k")
        for name in ("ETag", "LastModified", "Metadata", "ContentLength"):
            assert after[name] == before[name]
        assert s3.list_buckets()["Buckets"] == created
        assert s3.get_bucket_location(Bucket="lake")["LocationConstraint"] == "eu-west-1"
        assert listed(s3, "lake") == ["k", "later"]


def test_large_files_are_streamed(s3, bucket, storage, tmp_path):
    """A server that held the file in memory would need far more than this process may."""
    script = """
import resource, sys
from pathlib import Path
from airflow_emr_etl.local.stack import LocalAws
with LocalAws(Path(sys.argv[1]), services=lambda _: []) as local:
    print(local.endpoint_url, local.access_key, flush=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    input()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, flush=True)
"""
    server = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "state")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        endpoint, key = server.stdout.readline().split()
        connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
        headers = {"Authorization": f"Credential={key}/20260101/us-east-1/s3/aws4_request"}
        connection.request("PUT", "/lake", headers=headers)
        connection.getresponse().read()
        size = 300 * MIB
        connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
        chunk = b"x" * MIB
        connection.request(
            "PUT",
            "/lake/big",
            body=itertools.repeat(chunk, 300),
            headers={**headers, "Content-Length": str(size)},
        )
        assert connection.getresponse().status == 200
        connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
        connection.request("GET", "/lake/big", headers=headers)
        answer = connection.getresponse()
        received = 0
        while data := answer.read(MIB):
            received += len(data)
        assert received == size
    finally:
        grown, _ = server.communicate("\n", timeout=30)
    assert int(grown) < 60


def test_the_aws_cli(storage, tmp_path):
    aws = Path(sys.executable).with_name("aws")
    if not aws.exists():
        pytest.skip("the AWS CLI is not installed beside this Python")
    environment = {**os.environ, **storage.env(), "AWS_CONFIG_FILE": os.devnull, "HOME": str(tmp_path)}

    def run(*arguments):
        done = subprocess.run([aws, *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "small.txt").write_text("small")
    (tmp_path / "up" / "big.bin").write_bytes(os.urandom(9 * MIB))
    run("s3", "mb", "s3://cli-lake")
    run("s3", "cp", "--recursive", str(tmp_path / "up"), "s3://cli-lake/in/")
    assert "in/big.bin" in run("s3", "ls", "--recursive", "s3://cli-lake/")
    assert run("s3", "ls", "s3://cli-lake/").split() == ["PRE", "in/"]
    run("s3", "cp", "s3://cli-lake/in/big.bin", str(tmp_path / "down.bin"))
    assert (tmp_path / "down.bin").read_bytes() == (tmp_path / "up" / "big.bin").read_bytes()
    run("s3", "rb", "--force", "s3://cli-lake")
    assert not (storage.objects / "cli-lake").exists()


def test_an_upload_that_breaks_off_leaves_nothing(storage, s3, bucket):
    host, port = storage.endpoint_url.removeprefix("http://").split(":")
    request = (
        f"PUT /{bucket}/half HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000\r\n"
        f"Authorization: Credential={storage.access_key}/20260101/us-east-1/s3/aws4_request\r\n\r\nonly this"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(request.encode())
        connection.shutdown(socket.SHUT_WR)
        assert b" 400 " in connection.makefile("rb").readline()
    assert listed(s3, bucket) == []
    assert list((storage.state / "s3-staging").iterdir()) == []


def test_a_body_without_a_length_is_taken_in_chunks(storage, s3, bucket):
    connection = http.client.HTTPConnection(storage.endpoint_url.removeprefix("http://"))
    headers = {"Authorization": f"Credential={storage.access_key}/20260101/us-east-1/s3/aws4_request"}
    connection.request(
        "PUT", f"/{bucket}/k", body=iter([b"one ", b"two"]), headers=headers, encode_chunked=True
    )
    assert connection.getresponse().status == 200
    connection.close()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"one two"
