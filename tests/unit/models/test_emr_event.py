from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_emr_etl.models.emr_event import EmrEvent

STEP: dict[str, Any] = {
    "version": "0",
    "id": "999cccaa-eaaa-0000-1111-123456789012",
    "detail-type": "EMR Step Status Change",
    "source": "aws.emr",
    "account": "123456789012",
    "time": "2016-12-16T20:53:09Z",
    "region": "us-east-1",
    "resources": [],
    "detail": {
        "severity": "ERROR",
        "actionOnFailure": "CONTINUE",
        "stepId": "s-ZYXWVUTSRQPON",
        "name": "CustomJAR",
        "clusterId": "j-123456789ABCD",
        "state": "FAILED",
        "message": "Step s-ZYXWVUTSRQPON (CustomJAR) in Amazon EMR cluster j-123456789ABCD failed.",
    },
}
CLUSTER: dict[str, Any] = {
    **STEP,
    "detail-type": "EMR Cluster State Change",
    "detail": {
        "severity": "INFO",
        "stateChangeReason": '{"code":""}',
        "name": "Development Cluster",
        "clusterId": "j-123456789ABCD",
        "state": "STARTING",
        "message": "Amazon EMR cluster j-123456789ABCD was requested.",
    },
}


def test_a_step() -> None:
    event = EmrEvent.parse(json.dumps(STEP))
    assert event is not None
    assert (event.cluster_id, event.step_id, event.state) == ("j-123456789ABCD", "s-ZYXWVUTSRQPON", "FAILED")
    assert event.time == datetime(2016, 12, 16, 20, 53, 9, tzinfo=UTC)


def test_a_cluster() -> None:
    event = EmrEvent.parse(json.dumps(CLUSTER))
    assert event is not None
    assert (event.cluster_id, event.step_id, event.name) == ("j-123456789ABCD", None, "Development Cluster")


def test_by_way_of_a_topic() -> None:
    wrapped = json.dumps({"Type": "Notification", "Message": json.dumps(STEP)})
    assert EmrEvent.parse(wrapped) == EmrEvent.parse(json.dumps(STEP))


@pytest.mark.parametrize("document", [STEP, CLUSTER])
def test_what_is_written_reads_the_same(document: dict[str, Any]) -> None:
    event = EmrEvent.parse(json.dumps(document))
    assert event is not None
    assert EmrEvent.parse(json.dumps(event.document())) == event


def without(document: dict[str, Any], *path: str) -> dict[str, Any]:
    copy = json.loads(json.dumps(document))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    return copy


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hello",
        "null",
        "[]",
        "1e999",
        "[" * 100_000,
        json.dumps({**STEP, "source": "aws.ec2"}),
        json.dumps({**STEP, "source": "my.app"}),
        json.dumps({**STEP, "detail-type": "EMR Auto Scaling Policy State Change"}),
        json.dumps({**STEP, "time": "yesterday"}),
        json.dumps({**STEP, "time": 5}),
        json.dumps({**STEP, "detail": "x"}),
        json.dumps({**STEP, "detail": {**STEP["detail"], "stepId": ["s-1"]}}),
        json.dumps({**STEP, "detail": {**STEP["detail"], "state": None}}),
        json.dumps({"Type": "Notification", "Message": "hello"}),
        json.dumps({"Type": "Notification", "Message": {"a": 1}}),
        *(json.dumps(without(STEP, *path)) for path in [("id",), ("detail",), ("detail", "clusterId")]),
    ],
)
def test_anything_else_is_no_event(body: str) -> None:
    assert EmrEvent.parse(body) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.sampled_from(sorted(STEP)), JSON)
def test_a_strange_field_never_raises(key: str, value: Any) -> None:
    EmrEvent.parse(json.dumps({**STEP, key: value}))


@given(st.sampled_from(sorted(STEP["detail"])), JSON)
def test_a_strange_detail_never_raises(key: str, value: Any) -> None:
    EmrEvent.parse(json.dumps({**STEP, "detail": {**STEP["detail"], key: value}}))


@given(st.text())
def test_a_strange_body_never_raises(body: str) -> None:
    EmrEvent.parse(body)
