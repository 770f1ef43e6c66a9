from __future__ import annotations

import datetime as dt
import json

import pytest

from airflow_emr_etl.local.api import ApiError, JsonApi, operation_method
from airflow_emr_etl.local.json_dispatch import JsonDispatch


class FakeEmr(JsonApi):
    service = "emr"

    def __init__(self):
        self.asked = []

    def start(self):
        pass

    def stop(self):
        pass

    def list_clusters(self, params):
        self.asked.append(params)
        created = dt.datetime(2026, 1, 5, 1, 2, 3, 456789, tzinfo=dt.UTC)
        timeline = {"CreationDateTime": created, "EndDateTime": None}
        return {"Clusters": [{"Id": "j-1", "Status": {"State": "WAITING", "Timeline": timeline}}]}

    def terminate_job_flows(self, params):
        self.asked.append(params)

    def describe_cluster(self, params):
        raise ApiError("InvalidRequestException", f"Cluster id '{params['ClusterId']}' is not valid.")

    def describe_step(self, params):
        return {"Stp": {}}

    def list_steps(self, params):
        raise KeyError("a bug")


@pytest.fixture
def emr():
    return JsonDispatch(FakeEmr())


def call(emr, operation, params=None, body=None):
    text = json.dumps(params or {}).encode() if body is None else body
    answer = emr.handle(f"ElasticMapReduce.{operation}", text)
    return answer.status, json.loads(answer.body)


def test_times_go_both_ways_as_epoch_seconds(emr):
    status, answer = call(emr, "ListClusters", {"CreatedAfter": 1767571200, "ClusterStates": None})
    assert status == 200
    assert emr.api.asked == [{"CreatedAfter": dt.datetime(2026, 1, 5, tzinfo=dt.UTC)}]
    assert answer["Clusters"][0]["Status"]["Timeline"] == {"CreationDateTime": 1767574923.457}


def test_no_answer_is_an_empty_one(emr):
    assert call(emr, "TerminateJobFlows", {"JobFlowIds": ["j-1"]}) == (200, {})


def test_an_error_of_the_service(emr):
    status, answer = call(emr, "DescribeCluster", {"ClusterId": "j-9"})
    assert status == 400
    assert answer == {"__type": "InvalidRequestException", "message": "Cluster id 'j-9' is not valid."}


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({}, 'Missing required parameter in input: "ClusterId"'),
        ({"ClusterId": 7}, "Invalid type for parameter ClusterId"),
        ({"ClusterId": "j-1", "Clstr": 1}, 'Unknown parameter in input: "Clstr"'),
    ],
)
def test_parameters_are_checked_before_the_call(emr, params, says):
    status, answer = call(emr, "DescribeCluster", params)
    assert status == 400
    assert answer["__type"] == "ValidationException"
    assert says in answer["message"]


@pytest.mark.parametrize("operation", ["ListInstances", "NoSuchThing"])
def test_what_is_not_supported_is_named(emr, operation):
    status, answer = call(emr, operation, {"ClusterId": "j-1"})
    assert status == 501
    assert answer["__type"] == "NotImplemented"
    assert f"emr:{operation}" in answer["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
def test_bodies_that_are_no_json_object(emr, body):
    assert call(emr, "ListClusters", body=body)[1]["__type"] == "SerializationException"


@pytest.mark.parametrize(
    ("operation", "params"),
    [("ListSteps", {"ClusterId": "j"}), ("DescribeStep", {"ClusterId": "j", "StepId": "s"})],
)
def test_a_bug_is_no_answer(emr, operation, params):
    """Neither an exception nor a member that AWS does not have gets out."""
    status, answer = call(emr, operation, params)
    assert status == 500
    assert answer["__type"] == "InternalFailure"
    assert f"emr:{operation}" in answer["message"]


def test_operations_become_methods():
    assert operation_method("ListSteps") == "list_steps"
    assert operation_method("GetOnClusterAppUIPresignedURL") == "get_on_cluster_app_ui_presigned_url"
