"""The Data API hook over a fake client that behaves: states advance, tokens are remembered, results have pages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from airflow_emr_etl.exceptions import (
    AccessDeniedError,
    ConfigurationError,
    EmrEtlError,
    ServiceUnavailableError,
    StatementFailedError,
    ThrottledError,
    WaitTimeoutError,
)
from airflow_emr_etl.hooks.redshift_data import (
    RedshiftDataHook,
    affected_rows,
    error_text,
    failure,
    field_value,
    is_conflict,
)
from airflow_emr_etl.models.table import RedshiftTarget

TARGET = RedshiftTarget(workgroup_name="wg", database="dev", iam_role="default")


class FakeClient:
    """Each statement goes through its states, one a look."""

    def __init__(
        self, states: list[str], *, members: tuple[str, ...] = ("ExecutionMode", "WaitTimeSeconds")
    ) -> None:
        self.states, self.requests, self.looks = states, [], 0
        self.error = "ERROR: bad"
        shape = SimpleNamespace(input_shape=SimpleNamespace(members=dict.fromkeys(members)))
        self.meta = SimpleNamespace(service_model=SimpleNamespace(operation_model=lambda name: shape))
        self.tokens: dict[str, str] = {}
        self.raises: Exception | None = None

    def _submit(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.raises:
            raise self.raises
        self.requests.append(request)
        id = f"id-{len(self.requests)}"
        return {"Id": self.tokens.setdefault(request.get("ClientToken", id), id)}

    def execute_statement(self, **request: Any) -> dict[str, Any]:
        return self._submit(request)

    def batch_execute_statement(self, **request: Any) -> dict[str, Any]:
        return self._submit(request)

    def describe_statement(self, **request: Any) -> dict[str, Any]:
        self.last_look = request
        state = self.states[min(self.looks, len(self.states) - 1)]
        self.looks += 1
        answer = {"Id": request["Id"], "Status": state, "HasResultSet": True, "ResponseMetadata": {}}
        return answer | ({"Error": self.error} if state in ("FAILED", "ABORTED") else {})

    def get_statement_result(self, **request: Any) -> dict[str, Any]:
        number = int(request.get("NextToken", 0))
        page: dict[str, Any] = {
            "ColumnMetadata": [{"name": "n"}, {"name": "t"}],
            "Records": [[{"longValue": number}, {"isNull": True}]],
        }
        return page | ({"NextToken": str(number + 1)} if number < 2 else {})

    def cancel_statement(self, **request: Any) -> dict[str, Any]:
        if self.raises:
            raise self.raises
        return {"Status": True}


class Clock:
    """Time passes only in sleep; a runaway loop is an error."""

    def __init__(self) -> None:
        self.now, self.sleeps = 0.0, 0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.sleeps += 1
        assert self.sleeps < 1000


def hook(client: FakeClient) -> tuple[RedshiftDataHook, Clock]:
    clock = Clock()
    return RedshiftDataHook(TARGET, client=client, clock=clock, sleep=clock.sleep), clock


def client_error(code: str, status: int = 400) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "ExecuteStatement",
    )


def test_a_batch_says_where_and_that_it_is_one_transaction() -> None:
    client = FakeClient(["FINISHED"])
    made, _ = hook(client)
    assert made.batch(["a", "b"], token="t" * 80, name="n") == "id-1"
    assert client.requests == [
        {
            "WorkgroupName": "wg",
            "Database": "dev",
            "ClientToken": "t" * 64,
            "StatementName": "n",
            "Sqls": ["a", "b"],
            "ExecutionMode": "TRANSACTION",
        }
    ]


def test_an_older_botocore_is_not_asked_for_what_it_does_not_know() -> None:
    client = FakeClient(["FINISHED"], members=())
    made, _ = hook(client)
    made.wait(made.batch(["a"]))
    assert "ExecutionMode" not in client.requests[0]
    assert client.last_look == {"Id": "id-1"}


def test_waiting_goes_through_the_states() -> None:
    client = FakeClient(["SUBMITTED", "PICKED", "STARTED", "FINISHED"])
    made, clock = hook(client)
    assert made.wait("id-1")["Status"] == "FINISHED"
    assert clock.sleeps == 3
    assert client.last_look["WaitTimeSeconds"] == 20


def test_waiting_has_an_end() -> None:
    made, clock = hook(FakeClient(["STARTED"]))
    with pytest.raises(WaitTimeoutError, match="still STARTED after 60 s"):
        made.wait("id-1", timeout_seconds=60)
    assert clock.now <= 60


@pytest.mark.parametrize(
    ("state", "error", "kind"),
    [
        ("FAILED", 'ERROR: relation "x" does not exist', StatementFailedError),
        ("ABORTED", "Query cancelled on user's request", StatementFailedError),
        (
            "FAILED",
            "ERROR: 1023 DETAIL: Serializable isolation violation on table - 1",
            ServiceUnavailableError,
        ),
        ("FAILED", "ERROR: deadlock detected", ServiceUnavailableError),
        ("FAILED", "ERROR: terminating connection due to administrator command", ServiceUnavailableError),
        ("FAILED", "ERROR: the connection was lost: local Redshift was stopped", ServiceUnavailableError),
    ],
)
def test_a_statement_that_failed(state: str, error: str, kind: type[EmrEtlError]) -> None:
    client = FakeClient([state])
    client.error = error
    made, _ = hook(client)
    with pytest.raises(kind, match="id-1") as raised:
        made.wait("id-1")
    assert raised.value.error == error
    assert raised.value.statement_id == "id-1"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (client_error("ActiveStatementsExceededException"), ThrottledError),
        (client_error("ThrottlingException"), ThrottledError),
        (client_error("AccessDeniedException"), AccessDeniedError),
        (client_error("ValidationException"), ConfigurationError),
        (client_error("InternalServerException", 500), ServiceUnavailableError),
        (ReadTimeoutError(endpoint_url="x"), ServiceUnavailableError),
    ],
)
def test_what_boto3_raises_becomes_ours(error: Exception, kind: type[EmrEtlError]) -> None:
    client = FakeClient(["FINISHED"])
    client.raises = error
    with pytest.raises(kind):
        hook(client)[0].execute("select 1")


def test_rows_of_all_pages() -> None:
    made, _ = hook(FakeClient(["FINISHED"]))
    assert made.query("select 1", {"a": "b"}) == [
        {"n": 0, "t": None},
        {"n": 1, "t": None},
        {"n": 2, "t": None},
    ]


def test_cancelling_what_has_ended_is_no_error() -> None:
    client = FakeClient(["FINISHED"])
    made, _ = hook(client)
    assert made.cancel("id-1") is True
    client.raises = client_error("ValidationException")
    assert made.cancel("id-1") is False
    client.raises = client_error("ThrottlingException")
    with pytest.raises(ThrottledError):
        made.cancel("id-1")


def test_the_text_of_an_error_names_the_part_once() -> None:
    parts = [{"Id": "i:1"}, {"Id": "i:2", "Error": "ERROR: bad"}]
    assert (
        error_text({"Error": "Query #2 failed with ERROR: bad", "SubStatements": parts})
        == "Query #2 failed with ERROR: bad"
    )
    assert error_text({"SubStatements": parts}) == "ERROR: bad"
    assert "no reason" in str(failure({"Id": "i", "Status": "FAILED"}))


def test_rows_of_a_batch_by_name_and_position() -> None:
    parts = [{"Id": "i:1"}, {"Id": "i:2", "ResultRows": 7}, {"Id": "i:3", "ResultRows": 5}]
    assert affected_rows({"SubStatements": parts}, {"lock": 0, "a": 1, "b": -1}) == {
        "lock": 0,
        "a": 7,
        "b": 5,
    }


def test_conflicts_and_fields() -> None:
    assert is_conflict("ERROR: 1023 DETAIL: x")
    assert not is_conflict("ERROR: 11023 rows")
    assert field_value({"stringValue": ""}) == ""
    assert field_value({"isNull": True}) is None
