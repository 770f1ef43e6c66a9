"""Who is let in, what the small services do, and how what is missing is told, over real HTTP."""

from __future__ import annotations

import http.client
import json
import socket

import pytest
from botocore.exceptions import ClientError

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.api import JsonApi
from airflow_emr_etl.local.stack import LocalAws


def ask(local, method="GET", path="/", **headers):
    connection = http.client.HTTPConnection(local.endpoint_url.removeprefix("http://"))
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def signed(local, service="s3"):
    return f"AWS4-HMAC-SHA256 Credential={local.access_key}/20260101/us-east-1/{service}/aws4_request, Signature=0"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", "localhost", "10.0.0.1:{port}"]
)
def test_other_hosts_are_refused_even_with_the_key(storage, host):
    host = host.format(port=storage.instance.port)
    status, body = ask(storage, Host=host, Authorization=signed(storage))
    assert status == 403
    assert "answers only to 127.0.0.1" in body
    assert "ListAllMyBuckets" not in body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "lake.localhost"])
def test_local_hosts_are_served(storage, host):
    ask(storage, "PUT", "/lake", Authorization=signed(storage))
    assert ask(storage, Host=f"{host}:{storage.instance.port}", Authorization=signed(storage))[0] == 200


def test_it_listens_on_loopback_only(storage):
    for family, _, _, _, address in socket.getaddrinfo(
        socket.gethostname(), storage.instance.port, type=socket.SOCK_STREAM
    ):
        if not address[0].startswith(("127.", "::1")):
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                assert probe.connect_ex(address) != 0


@pytest.mark.parametrize(
    ("service", "operation", "code"),
    [
        ("s3", "list_buckets", "InvalidAccessKeyId"),
        ("sqs", "list_queues", "InvalidClientTokenId"),
        ("cloudwatch", "list_metrics", "InvalidClientTokenId"),
        ("iam", "list_users", "InvalidClientTokenId"),
        ("ec2", "describe_vpcs", "InvalidClientTokenId"),
        ("emr", "list_clusters", "InvalidClientTokenId"),
        ("lambda", "list_functions", "InvalidClientTokenId"),
        ("route53", "list_hosted_zones", "InvalidClientTokenId"),
    ],
)
def test_another_key_is_refused_in_the_service_s_own_protocol(storage, service, operation, code, connect):
    other = connect(storage, service, key="AKIAIOSFODNN7EXAMPLE")
    with pytest.raises(ClientError, match="emr-etl local env") as caught:
        getattr(other, operation)()
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


@pytest.mark.parametrize(
    "path", ["/", "/lake", "/moto-api/", "/moto-api/data.json", "/_local_aws/health", "/latest/meta-data/"]
)
def test_without_a_key_nothing_opens(storage, path):
    status, body = ask(storage, path=path)
    assert status == 403
    assert "emr-etl local env" in body


def test_keys_of_its_own_sts_and_iam_are_let_in(storage, client, connect):
    sts = client("sts")
    role = "arn:aws:iam::123456789012:role/etl"
    issued = [
        sts.assume_role(RoleArn=role, RoleSessionName="session")["Credentials"]["AccessKeyId"],
        sts.get_session_token()["Credentials"]["AccessKeyId"],
        sts.get_federation_token(Name="somebody")["Credentials"]["AccessKeyId"],
    ]
    client("iam").create_user(UserName="etl")
    key = client("iam").create_access_key(UserName="etl")["AccessKey"]["AccessKeyId"]
    for access_key in [*issued, key]:
        connect(storage, "s3", key=access_key).list_buckets()
    client("iam").delete_access_key(UserName="etl", AccessKeyId=key)
    with pytest.raises(ClientError):
        connect(storage, "s3", key=key).list_buckets()
    assert len(set(issued)) == 3


@pytest.mark.parametrize(
    ("service", "operation", "arguments"),
    [
        ("emr", "ListClusters", {}),  # JSON; no EMR in this instance, and never moto's
        ("redshift-data", "ListStatements", {}),
        ("ssm", "SendCommand", {"DocumentName": "x"}),  # moto would say Success
        ("sns", "GetDataProtectionPolicy", {"ResourceArn": "arn:aws:sns:us-east-1:123456789012:t"}),  # query
        ("ec2", "RunInstances", {"MinCount": 1, "MaxCount": 1}),
        ("route53", "ListHostedZones", {}),  # REST and XML
        (
            "emr-serverless",
            "StartJobRun",
            {"applicationId": "1", "executionRoleArn": "arn:aws:iam::123456789012:role/r"},
        ),
        ("emr-containers", "ListVirtualClusters", {}),  # REST and JSON
        ("athena", "ListWorkGroups", {}),
        ("cloudwatch", "ListMetricStreams", {}),
    ],
)
def test_what_is_missing_is_named_in_every_protocol(client, service, operation, arguments):
    from botocore import xform_name

    with pytest.raises(ClientError) as caught:
        getattr(client(service, parameter_validation=False), xform_name(operation))(**arguments)
    error = caught.value.response["Error"]
    assert error["Code"] == "NotImplemented"
    assert f"{service}:{operation}" in error["Message"]
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501


def test_cbor_errors_are_readable(storage):
    from botocore.parsers import create_parser
    from botocore.session import Session

    model = Session().get_service_model("cloudwatch").operation_model("ListMetrics")
    connection = http.client.HTTPConnection(storage.endpoint_url.removeprefix("http://"))
    headers = {
        "Smithy-Protocol": "rpc-v2-cbor",
        "Authorization": "Credential=X/20260101/us-east-1/monitoring/aws4_request",
    }
    connection.request(
        "POST", "/service/GraniteServiceVersion20100801/operation/ListMetrics", b"\xa0", headers
    )
    answer = connection.getresponse()
    response = {"status_code": answer.status, "headers": dict(answer.getheaders()), "body": answer.read()}
    connection.close()
    parsed = create_parser("smithy-rpc-v2-cbor").parse({**response, "context": {}}, model.output_shape)
    assert parsed["Error"]["Code"] == "InvalidClientTokenId"
    assert "emr-etl local env" in parsed["Error"]["Message"]


def test_sqs_and_sns(client):
    sqs, sns = client("sqs"), client("sns")
    queue = sqs.create_queue(QueueName="events")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topic = sns.create_topic(Name="alerts")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    sns.publish(TopicArn=topic, Message="hello")
    message = sqs.receive_message(QueueUrl=queue)["Messages"][0]
    assert json.loads(message["Body"])["Message"] == "hello"


def test_events_reach_a_queue(client):
    sqs, events = client("sqs"), client("events")
    queue = sqs.create_queue(QueueName="emr-events")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="emr", EventPattern=json.dumps({"source": ["my.app"]}))
    events.put_targets(Rule="emr", Targets=[{"Id": "1", "Arn": arn}])
    events.put_events(Entries=[{"Source": "my.app", "DetailType": "t", "Detail": "{}"}])
    assert json.loads(sqs.receive_message(QueueUrl=queue)["Messages"][0]["Body"])["source"] == "my.app"


def test_dynamodb(client):
    dynamodb = client("dynamodb")
    dynamodb.create_table(
        TableName="state",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    dynamodb.put_item(TableName="state", Item={"id": {"S": "a"}, "n": {"N": "1"}})
    assert dynamodb.get_item(TableName="state", Key={"id": {"S": "a"}})["Item"]["n"] == {"N": "1"}


def test_secrets_parameters_and_keys(client):
    client("secretsmanager").create_secret(Name="db", SecretString="s3cret")
    assert client("secretsmanager").get_secret_value(SecretId="db")["SecretString"] == "s3cret"
    client("ssm").put_parameter(Name="/etl/x", Value="1", Type="String")
    assert client("ssm").get_parameter(Name="/etl/x")["Parameter"]["Value"] == "1"
    kms = client("kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    sealed = kms.encrypt(KeyId=key, Plaintext=b"data")["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"data"


def test_iam_sts_cloudwatch_logs_ec2(client):
    iam = client("iam")
    iam.create_role(RoleName="etl", AssumeRolePolicyDocument="{}")
    assert iam.get_role(RoleName="etl")["Role"]["Arn"].endswith("role/etl")
    assert client("sts").get_caller_identity()["Account"] == "123456789012"
    cloudwatch = client("cloudwatch")
    cloudwatch.put_metric_data(Namespace="etl", MetricData=[{"MetricName": "rows", "Value": 3}])
    assert cloudwatch.list_metrics(Namespace="etl")["Metrics"][0]["MetricName"] == "rows"
    client("logs").create_log_group(logGroupName="/etl")
    assert client("ec2").describe_subnets()["Subnets"]


def test_a_service_of_ours_is_reached_by_its_target(tmp_path, connect):
    class Clusters(JsonApi):
        service = "emr"

        def start(self):
            self.running = True

        def stop(self):
            self.running = False

        def list_clusters(self, params):
            return {"Clusters": [{"Id": "j-1", "Name": str(params.get("ClusterStates"))}]}

    api = Clusters()
    with LocalAws(tmp_path, services=lambda local: [api]) as local:
        emr = connect(local, "emr")
        assert emr.list_clusters(ClusterStates=["WAITING"])["Clusters"] == [
            {"Id": "j-1", "Name": "['WAITING']"}
        ]
        with pytest.raises(ClientError, match="emr:ListStudios") as caught:
            emr.list_studios()
        assert caught.value.response["Error"]["Code"] == "NotImplemented"
        assert api.running
    assert not api.running


def test_a_service_that_fails_to_start_leaves_nothing_running(tmp_path, connect):
    stopped = []

    class Broken(JsonApi):
        service = "emr"

        def start(self):
            raise LocalAwsError("no Java")

        def stop(self):
            stopped.append(self)

    local = LocalAws(tmp_path, services=lambda _: [Broken()])
    with pytest.raises(LocalAwsError, match="no Java"):
        local.start()
    assert stopped
    with LocalAws(tmp_path, services=lambda _: []) as again:
        connect(again, "s3").list_buckets()


def test_two_instances_side_by_side_and_one_a_folder(tmp_path, connect):
    with (
        LocalAws(tmp_path / "a", services=lambda _: []) as one,
        LocalAws(tmp_path / "b", services=lambda _: []) as two,
    ):
        assert one.endpoint_url != two.endpoint_url
        assert one.access_key != two.access_key
        connect(one, "s3").create_bucket(Bucket="only-here")
        assert connect(two, "s3").list_buckets()["Buckets"] == []
        with pytest.raises(LocalAwsError, match="runs already"):
            LocalAws(tmp_path / "a", services=lambda _: []).start()
        with pytest.raises(ClientError):
            connect(two, "s3", key=one.access_key).list_buckets()


def test_a_port_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalAwsError, match=f"Port {port}"):
            LocalAws(tmp_path, port, services=lambda _: []).start()
        assert not (tmp_path / "local.json").exists()


def test_another_port_when_that_of_last_time_is_taken(tmp_path):
    local = LocalAws(tmp_path, services=lambda _: [])
    with local:
        before = local.instance
    with socket.create_server(("127.0.0.1", before.port)), local:
        assert local.instance.port != before.port
        assert local.access_key == before.access_key
        assert "has another now" in local.notices[0]


def test_a_key_of_one_s_own(tmp_path, connect):
    with LocalAws(tmp_path, access_key="mine", services=lambda _: []) as local:
        assert local.access_key == "mine"
        connect(local, "s3").list_buckets()
    with LocalAws(tmp_path, services=lambda _: []) as local:
        assert local.access_key == "mine"
    with pytest.raises(LocalAwsError, match="letters, digits"):
        LocalAws(tmp_path, access_key="a/b")


def test_the_key_is_not_in_the_log(storage, caplog):
    with caplog.at_level("INFO"):
        ask(storage, path=f"/?X-Amz-Credential={storage.access_key}/20260101/us-east-1/s3/aws4_request")
    assert "GET / 200" in caplog.text
    assert storage.access_key not in caplog.text
