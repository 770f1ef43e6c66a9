"""Faults as boto3 meets them over real HTTP. Counts and effects are checked, never times."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.api import JsonApi
from airflow_emr_etl.local.emr import EmrApi
from airflow_emr_etl.local.emr.records import Job, Outcome, StopSignal
from airflow_emr_etl.local.fault_control import FAULTS_PATH, LocalFaults, RemoteFaults
from airflow_emr_etl.local.faults import FaultKind, FaultRule
from airflow_emr_etl.local.stack import LocalAws

SHORT = {"read_timeout": 0.5}


class IdleRunner:
    """Runs nothing; a job ends when it is told to."""

    def __init__(self) -> None:
        self.running: dict[str, Callable[[Outcome], None]] = {}

    def start(self, job: Job, ended: Callable[[Outcome], None]) -> None:
        self.running[job.key] = ended

    def end(self, key: str, how: StopSignal) -> None:
        if ended := self.running.pop(key, None):
            ended(Outcome(False))

    def close(self) -> None:
        self.running.clear()


class Statements(JsonApi):
    """As much of the Redshift Data API as a fault needs."""

    service = "redshift-data"

    def __init__(self) -> None:
        self.executed: list[str] = []

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def execute_statement(self, params: dict[str, Any]) -> dict[str, Any]:
        self.executed.append(params["Sql"])
        return {"Id": "1"}


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Site:
    """A local AWS whose EMR lives in memory, on the test's own clock."""

    def __init__(self, local: LocalAws, emr: EmrApi, statements: Statements, clock: Clock) -> None:
        self.local = local
        self.emr = emr
        self.statements = statements
        self.clock = clock

    def wait(self, seconds: float = 1) -> None:
        self.clock.now += timedelta(seconds=seconds)
        self.emr.tick()


@pytest.fixture(scope="module")
def running_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    clock = Clock()
    emr = EmrApi(None, clock=clock, runner=IdleRunner())
    statements = Statements()
    with LocalAws(tmp_path_factory.mktemp("faults"), services=lambda _: [emr, statements]) as local:
        yield Site(local, emr, statements, clock)


@pytest.fixture
def site(running_site: Site) -> Iterator[Site]:
    running_site.local.faults.clear()
    yield running_site
    running_site.local.faults.clear()


@pytest.fixture
def faults(site: Site) -> LocalFaults:
    return site.local.faults


@pytest.fixture
def emr(site: Site, connect: Callable[..., Any]) -> Any:
    return connect(site.local, "emr", **SHORT)


@pytest.fixture
def s3(site: Site, connect: Callable[..., Any]) -> Any:
    client = connect(site.local, "s3", **SHORT)
    client.create_bucket(Bucket="lake")
    return client


def cluster(**more: Any) -> dict[str, Any]:
    master = {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1, "Market": "SPOT"}
    return {
        "Name": "nightly",
        "ReleaseLabel": "emr-7.9.0",
        "ServiceRole": "EMR_DefaultRole",
        "JobFlowRole": "EMR_EC2_DefaultRole",
        "Instances": {"InstanceGroups": [master], "KeepJobFlowAliveWhenNoSteps": True},
        **more,
    }


def count(emr: Any) -> int:
    return len(emr.list_clusters()["Clusters"])


def refusal(call: Callable[[], Any]) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        (FaultKind.THROTTLE, "ThrottlingException", 400),
        (FaultKind.INTERNAL_ERROR, "InternalServerError", 500),
        (FaultKind.UNAVAILABLE, "ServiceUnavailable", 503),
        (FaultKind.ACCESS_DENIED, "AccessDeniedException", 400),
        (FaultKind.EXPIRED_TOKEN, "ExpiredTokenException", 400),
    ],
)
def test_emr_answers_with_an_error_before_or_after_it_acts(
    emr: Any, faults: LocalFaults, kind: FaultKind, code: str, status: int
) -> None:
    before = count(emr)
    faults.add("emr:RunJobFlow", kind, nth=1)
    assert refusal(lambda: emr.run_job_flow(**cluster())) == (code, status)
    assert count(emr) == before
    faults.add("emr:RunJobFlow", kind, nth=1, when="after")
    assert refusal(lambda: emr.run_job_flow(**cluster())) == (code, status)
    assert count(emr) == before + 1


@pytest.mark.parametrize(
    ("kind", "error"),
    [(FaultKind.TIMEOUT, ReadTimeoutError), (FaultKind.RESET, ConnectionClosedError)],
)
def test_no_answer_comes_and_only_after_leaves_an_effect(
    emr: Any, faults: LocalFaults, kind: FaultKind, error: type[Exception]
) -> None:
    before = count(emr)
    faults.add("emr:RunJobFlow", kind, nth=1)
    with pytest.raises(error):
        emr.run_job_flow(**cluster())
    assert count(emr) == before
    faults.add("emr:RunJobFlow", kind, nth=1, when="after")
    with pytest.raises(error):
        emr.run_job_flow(**cluster())
    assert count(emr) == before + 1
    assert [(each.kind, each.when) for each in faults.fired()] == [(kind, "before"), (kind, "after")]


def test_a_client_that_resends_blindly_makes_two_clusters(site: Site, faults: LocalFaults) -> None:
    stubborn = boto3.client(
        "emr",
        endpoint_url=site.local.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=site.local.access_key,
        aws_secret_access_key=site.local.secret_key,
        config=Config(read_timeout=0.5, retries={"total_max_attempts": 3, "mode": "standard"}),
    )
    before = count(stubborn)
    faults.add("emr:RunJobFlow", FaultKind.TIMEOUT, when="after", nth=1)
    stubborn.run_job_flow(**cluster())
    assert count(stubborn) == before + 2


def test_a_reset_is_seen_as_one(site: Site, faults: LocalFaults) -> None:
    """RST, not an orderly end: the client's kernel says that the peer broke the connection."""
    faults.add("s3:ListBuckets", FaultKind.RESET)
    with socket.create_connection(("127.0.0.1", site.local.instance.port), timeout=10) as client:
        request = (
            f"GET / HTTP/1.1\r\nHost: localhost:{site.local.instance.port}\r\nAuthorization: AWS4-HMAC-SHA256 "
            f"Credential={site.local.access_key}/20260101/us-east-1/s3/aws4_request, Signature=0\r\n\r\n"
        )
        client.sendall(request.encode())
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        # And the socket option that made it so is not left on others.
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 0, 0)


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        (FaultKind.THROTTLE, "SlowDown", 503),
        (FaultKind.INTERNAL_ERROR, "InternalError", 500),
        (FaultKind.UNAVAILABLE, "ServiceUnavailable", 503),
        (FaultKind.ACCESS_DENIED, "AccessDenied", 403),
        (FaultKind.EXPIRED_TOKEN, "ExpiredToken", 400),
    ],
)
def test_s3_answers_with_an_error_before_or_after_it_acts(
    s3: Any, site: Site, faults: LocalFaults, kind: FaultKind, code: str, status: int
) -> None:
    body = b"x" * 3_000_000  # more than a socket holds: the answer must come through nonetheless
    target = site.local.objects / "lake" / f"{kind}.bin"
    put = lambda: s3.put_object(Bucket="lake", Key=f"{kind}.bin", Body=body)  # noqa: E731
    faults.add("s3:PutObject", kind, nth=1)
    assert refusal(put) == (code, status)
    assert not target.exists()
    faults.add("s3:PutObject", kind, nth=1, when="after")
    assert refusal(put) == (code, status)
    assert target.stat().st_size == len(body)


@pytest.mark.parametrize(
    ("kind", "error"),
    [(FaultKind.TIMEOUT, ReadTimeoutError), (FaultKind.RESET, ConnectionClosedError)],
)
def test_s3_loses_answers(
    s3: Any, site: Site, faults: LocalFaults, kind: FaultKind, error: type[Exception]
) -> None:
    target = site.local.objects / "lake" / f"lost-{kind}"
    for when, there in (("before", False), ("after", True)):
        faults.add("s3:PutObject", kind, nth=1, when=when)  # type: ignore[arg-type]
        with pytest.raises(error):
            s3.put_object(Bucket="lake", Key=f"lost-{kind}", Body=b"x")
        assert target.exists() is there


def test_operations_of_s3_are_told_apart(s3: Any, faults: LocalFaults) -> None:
    faults.add("s3:*", FaultKind.THROTTLE)
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("ListBuckets", s3.list_buckets),
        ("ListObjectsV2", lambda: s3.list_objects_v2(Bucket="lake")),
        ("ListObjects", lambda: s3.list_objects(Bucket="lake")),
        ("HeadBucket", lambda: s3.head_bucket(Bucket="lake")),
        ("HeadObject", lambda: s3.head_object(Bucket="lake", Key="k")),
        ("GetObject", lambda: s3.get_object(Bucket="lake", Key="k")),
        ("PutObject", lambda: s3.put_object(Bucket="lake", Key="k", Body=b"")),
        ("CopyObject", lambda: s3.copy_object(Bucket="lake", Key="k", CopySource="lake/j")),
        ("DeleteObject", lambda: s3.delete_object(Bucket="lake", Key="k")),
        (
            "DeleteObjects",
            lambda: s3.delete_objects(Bucket="lake", Delete={"Objects": [{"Key": "k"}]}),
        ),
        ("CreateMultipartUpload", lambda: s3.create_multipart_upload(Bucket="lake", Key="k")),
        (
            "UploadPart",
            lambda: s3.upload_part(Bucket="lake", Key="k", UploadId="u", PartNumber=1, Body=b"x"),
        ),
        (
            "CompleteMultipartUpload",
            lambda: s3.complete_multipart_upload(
                Bucket="lake", Key="k", UploadId="u", MultipartUpload={"Parts": []}
            ),
        ),
        ("AbortMultipartUpload", lambda: s3.abort_multipart_upload(Bucket="lake", Key="k", UploadId="u")),
        ("ListParts", lambda: s3.list_parts(Bucket="lake", Key="k", UploadId="u")),
        ("ListMultipartUploads", lambda: s3.list_multipart_uploads(Bucket="lake")),
        ("GetObjectTagging", lambda: s3.get_object_tagging(Bucket="lake", Key="k")),
        ("GetBucketLocation", lambda: s3.get_bucket_location(Bucket="lake")),
        ("GetBucketPolicy", lambda: s3.get_bucket_policy(Bucket="lake")),
        ("PutBucketAcl", lambda: s3.put_bucket_acl(Bucket="lake", ACL="private")),
    ]
    for _, call in calls:
        with pytest.raises(ClientError):
            call()
    assert [each.operation for each in faults.fired()] == [name for name, _ in calls]


@pytest.mark.parametrize("when", ["before", "after"])
def test_redshift_data_fails_as_emr_does(
    site: Site, faults: LocalFaults, connect: Callable[..., Any], when: Any
) -> None:
    client = connect(site.local, "redshift-data", **SHORT)
    site.statements.executed.clear()
    kinds = (FaultKind.INTERNAL_ERROR, FaultKind.THROTTLE, FaultKind.RESET)
    for number, kind in enumerate(kinds, start=1):
        faults.add("redshift-data:ExecuteStatement", kind, nth=number, when=when)
    seen = []
    for sql in ("select 1", "select 2", "select 3", "select 4"):
        try:
            client.execute_statement(Sql=sql, Database="dev", WorkgroupName="etl")
            seen.append("ok")
        except ClientError as error:
            seen.append(error.response["Error"]["Code"])
        except ConnectionClosedError:
            seen.append("closed")
    assert seen == ["InternalServerException", "ThrottlingException", "closed", "ok"]
    assert site.statements.executed == (
        ["select 4"] if when == "before" else ["select 1", "select 2", "select 3", "select 4"]
    )


def test_the_small_services_fail_in_their_own_protocols(
    site: Site, faults: LocalFaults, connect: Callable[..., Any]
) -> None:
    faults.add("*", FaultKind.THROTTLE)
    iam, ec2, sqs = (connect(site.local, name) for name in ("iam", "ec2", "sqs"))
    assert refusal(iam.list_roles) == ("Throttling", 400)
    assert refusal(ec2.describe_subnets) == ("RequestLimitExceeded", 503)
    assert refusal(sqs.list_queues) == ("ThrottlingException", 400)
    names = [f"{each.service}:{each.operation}" for each in faults.fired()]
    assert names == ["iam:ListRoles", "ec2:DescribeSubnets", "sqs:ListQueues"]


def test_capacity_spot_loss_and_lag_work_behind_the_endpoint(
    site: Site, emr: Any, faults: LocalFaults
) -> None:
    site.wait()  # clusters of other tests have theirs
    faults.capacity(instance_type="m5.xlarge", times=1)
    first = emr.run_job_flow(**cluster())["JobFlowId"]
    site.wait()
    site.wait()
    status = emr.describe_cluster(ClusterId=first)["Cluster"]["Status"]
    assert status["State"] == "TERMINATED_WITH_ERRORS"
    assert status["ErrorDetails"][0]["ErrorCode"] == "INTERNAL_ERROR_EC2_INSUFFICIENT_CAPACITY_AZ"
    faults.listing_lag(60)
    second = emr.run_job_flow(**cluster())["JobFlowId"]
    site.wait()
    site.wait()
    assert second not in [each["Id"] for each in emr.list_clusters()["Clusters"]]
    assert emr.describe_cluster(ClusterId=second)["Cluster"]["Status"]["State"] == "WAITING"
    faults.spot_loss(second)
    site.wait()
    site.wait()
    reason = emr.describe_cluster(ClusterId=second)["Cluster"]["Status"]["StateChangeReason"]
    assert reason == {"Code": "INSTANCE_FAILURE", "Message": "The master node was terminated."}


# Control over HTTP


def test_faults_are_controlled_from_another_process(site: Site, emr: Any) -> None:
    remote = RemoteFaults(site.local.instance)
    rule = remote.add(FaultRule("emr:ListClusters", FaultKind.THROTTLE, nth=2, times=3))
    assert rule.id
    assert remote.set_up_emr("capacity", instance_type="x1.large")["fault"] == "capacity"
    emr.list_clusters()
    assert refusal(emr.list_clusters)[0] == "ThrottlingException"
    found = remote.read()
    assert [(each["id"], each["calls"], each["fired"]) for each in found["rules"]] == [(rule.id, 2, 1)]
    assert [each["operation"] for each in found["fired"]] == ["ListClusters"]
    [emr_rule] = found["emr"]["rules"]
    remote.remove(emr_rule["id"])
    remote.remove(rule.id)
    emr.list_clusters()
    remote.add(FaultRule("emr:*", FaultKind.RESET))
    remote.clear()
    assert remote.read() == {
        "rules": [],
        "fired": [],
        "emr": {"rules": [], "listing_lag_seconds": 0, "log_delay_seconds": 0},
    }


def test_what_cannot_be_set_up_is_told(site: Site) -> None:
    remote = RemoteFaults(site.local.instance)
    with pytest.raises(LocalAwsError, match="There is no fault rule 'x'"):
        remote.remove("x")
    with pytest.raises(LocalAwsError, match="EMR has no fault 'flood'"):
        remote.set_up_emr("flood")
    with pytest.raises(LocalAwsError, match="times is 1 or more"):
        remote.set_up_emr("capacity", times=0)


def test_the_control_answers_to_the_own_key_alone(site: Site, connect: Callable[..., Any]) -> None:
    def ask(key: str | None, method: str = "GET", body: str | None = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", site.local.instance.port, timeout=10)
        headers = {} if key is None else {"Authorization": f"Credential={key}/"}
        try:
            connection.request(method, FAULTS_PATH, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    issued = connect(site.local, "sts").get_session_token()["Credentials"]["AccessKeyId"]
    rule = json.dumps({"rule": {"operation": "*", "kind": "500"}})
    for key in (None, "AKIAWRONG", issued):
        assert ask(key) == ask(key, "DELETE") == ask(key, "POST", rule) == 403
    assert site.local.faults.rules() == []
    assert ask(site.local.access_key) == 200
    assert ask(site.local.access_key, "PUT") == 405
    assert ask(site.local.access_key, "POST", "{") == 400
    assert ask(site.local.access_key, "POST", "[]") == 400


def test_stopping_does_not_wait_for_connections_that_are_held(
    tmp_path: Any, connect: Callable[..., Any]
) -> None:
    local = LocalAws(tmp_path, services=lambda _: [])
    local.start()
    local.faults.add("s3:ListBuckets", FaultKind.TIMEOUT)
    with socket.create_connection(("127.0.0.1", local.instance.port), timeout=60) as client:
        request = (
            f"GET / HTTP/1.1\r\nHost: localhost:{local.instance.port}\r\nAuthorization: AWS4-HMAC-SHA256 "
            f"Credential={local.access_key}/20260101/us-east-1/s3/aws4_request, Signature=0\r\n\r\n"
        )
        client.sendall(request.encode())
        deadline = time.monotonic() + 30
        while not local.faults.fired():
            assert time.monotonic() < deadline
        local.stop()
        assert client.recv(1) == b""


def test_faults_end_with_the_server(tmp_path: Any) -> None:
    local = LocalAws(tmp_path, services=lambda _: [])
    with local:
        local.faults.add("*", FaultKind.RESET)
        with pytest.raises(LocalAwsError, match="no EMR"):
            local.faults.capacity()
    with local:
        assert local.faults.rules() == []
