"""The Redshift Data API: statements, waits, rows; nothing here knows what is loaded."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from airflow_emr_etl.exceptions import (
    AwsError,
    EmrEtlError,
    ServiceUnavailableError,
    StatementFailedError,
    ThrottledError,
    WaitTimeoutError,
)
from airflow_emr_etl.hooks.aws_errors import aws_call
from airflow_emr_etl.models.statement import STATEMENT_ENDED, StatementState
from airflow_emr_etl.models.table import RedshiftTarget

#: The Data API's bound on a token.
MAX_TOKEN = 64
#: The Data API waits up to 30; less than that stays clear of time-outs on the way.
_LONG_POLL_SECONDS = 20
_TOO_MANY = frozenset({"ActiveStatementsExceededException", "ActiveSessionsExceededException"})
_CONFLICT = re.compile(
    r"\b1023\b|serializable isolation violation|could not serialize|deadlock detected"
    r"|conflict with concurrent transaction",
    re.IGNORECASE,
)
_LOST = re.compile(
    r"terminating connection|connection (?:was|is) (?:lost|closed|bad)|server closed the connection|connection reset"
    r"|cluster is (?:being )?(?:restart|resiz|paus)|connection timed out|could not connect",
    re.IGNORECASE,
)


class RedshiftDataHook:
    """Calls of the Data API on one target. Raises this package's errors, never botocore's.

    ``clock`` and ``sleep`` are for tests.
    """

    def __init__(
        self,
        target: RedshiftTarget,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        *,
        client: Any = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.target = target
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self._client = client
        self._clock = clock
        self._sleep = sleep

    @cached_property
    def client(self) -> Any:
        """boto3's client. It may repeat a request: the client token makes that safe."""
        if self._client is not None:
            return self._client
        from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
        from botocore.config import Config

        hook: Any = AwsBaseHook(
            aws_conn_id=self.aws_conn_id, region_name=self.region_name, client_type="redshift-data"
        )
        config = Config(
            retries={"mode": "standard", "total_max_attempts": 5}, connect_timeout=10, read_timeout=60
        )
        return hook.get_client_type(region_name=self.region_name, config=config)

    # -- submitting -----------------------------------------------------------------------------------------------

    def execute(
        self,
        sql: str,
        parameters: Mapping[str, str] | None = None,
        *,
        token: str | None = None,
        name: str | None = None,
    ) -> str:
        """Submit one statement; its id. ``parameters`` are texts for ``:name``, never NULL or empty."""
        request = self._request("ExecuteStatement", token, name) | {"Sql": sql}
        if parameters:
            request["Parameters"] = [{"name": key, "value": value} for key, value in parameters.items()]
        with _data_api_call("redshift-data:ExecuteStatement"):
            return str(self.client.execute_statement(**request)["Id"])

    def batch(self, statements: Sequence[str], *, token: str | None = None, name: str | None = None) -> str:
        """Submit 1 to 40 statements as one transaction; its id.

        The same ``token`` (up to 64 characters, remembered for 8 hours) is the same batch: a worker that sends
        it again gets the id of the first, even of one that failed. So a new attempt needs a new token.
        """
        request = self._request("BatchExecuteStatement", token, name) | {"Sqls": list(statements)}
        if self._knows("BatchExecuteStatement", "ExecutionMode"):
            request["ExecutionMode"] = "TRANSACTION"
        with _data_api_call("redshift-data:BatchExecuteStatement"):
            return str(self.client.batch_execute_statement(**request)["Id"])

    def _request(self, operation: str, token: str | None, name: str | None) -> dict[str, Any]:
        request: dict[str, Any] = dict(self.target.request())
        if token is not None:
            request["ClientToken"] = token[:MAX_TOKEN]
        if name is not None:
            request["StatementName"] = name[:500]
        return request

    def _knows(self, operation: str, member: str) -> bool:
        """Whether the installed botocore has a parameter that is younger than the oldest one supported."""
        return member in self.client.meta.service_model.operation_model(operation).input_shape.members

    # -- looking --------------------------------------------------------------------------------------------------

    def describe(self, statement_id: str, *, long_poll_seconds: int = 0) -> dict[str, Any]:
        """DescribeStatement's answer, without the response metadata; at the end, or after ``long_poll_seconds``."""
        request: dict[str, Any] = {"Id": statement_id}
        if long_poll_seconds and self._knows("DescribeStatement", "WaitTimeSeconds"):
            request["WaitTimeSeconds"] = long_poll_seconds
        with _data_api_call("redshift-data:DescribeStatement"):
            answer = self.client.describe_statement(**request)
        return {key: value for key, value in answer.items() if key != "ResponseMetadata"}

    def wait(self, statement_id: str, *, timeout_seconds: float = 600.0) -> dict[str, Any]:
        """Wait for the end; the description of a statement that finished.

        Raises the error of ``failure`` for one that did not, and WaitTimeoutError at the deadline.
        """
        deadline = self._clock() + timeout_seconds
        delay = 0.1
        while True:
            left = int(deadline - self._clock())
            description = self.describe(statement_id, long_poll_seconds=max(0, min(left, _LONG_POLL_SECONDS)))
            if statement_state(description) in STATEMENT_ENDED:
                raise_if_failed(description)
                return description
            if self._clock() + delay > deadline:
                raise WaitTimeoutError(
                    f"Statement {statement_id} is still {description['Status']} after {timeout_seconds:g} s.",
                    statement_id=statement_id,
                )
            self._sleep(delay)
            delay = min(delay * 1.5, 5.0)

    def rows(self, statement_id: str) -> Iterator[dict[str, Any]]:
        """The rows of a finished statement (or ``id:n`` of a batch), as mappings by column name."""
        for columns, records in self._pages(statement_id):
            names = [column["name"] for column in columns]
            for record in records:
                yield dict(zip(names, record, strict=True))

    def result(self, statement_id: str) -> tuple[list[Mapping[str, Any]], list[list[Any]]]:
        """The columns of a finished statement, as the Data API describes them, and all of its rows."""
        found: list[Mapping[str, Any]] = []
        rows: list[list[Any]] = []
        for columns, records in self._pages(statement_id):
            found = found or columns
            rows += records
        return found, rows

    def _pages(self, statement_id: str) -> Iterator[tuple[list[Mapping[str, Any]], list[list[Any]]]]:
        request = {"Id": statement_id}
        while True:
            with _data_api_call("redshift-data:GetStatementResult"):
                page = self.client.get_statement_result(**request)
            records = [[field_value(field) for field in record] for record in page["Records"]]
            yield page.get("ColumnMetadata", []), records
            if not page.get("NextToken"):
                return
            request["NextToken"] = page["NextToken"]

    def query(
        self, sql: str, parameters: Mapping[str, str] | None = None, *, timeout_seconds: float = 600.0
    ) -> list[dict[str, Any]]:
        """Run one statement, wait, and return its rows; none for a statement without a result."""
        description = self.wait(self.execute(sql, parameters), timeout_seconds=timeout_seconds)
        return list(self.rows(description["Id"])) if description.get("HasResultSet") else []

    def query_all(
        self, statements: Sequence[str], *, timeout_seconds: float = 600.0
    ) -> list[list[dict[str, Any]]]:
        """Run statements in one transaction and return the rows of each: one consistent view, one wait."""
        description = self.wait(self.batch(statements), timeout_seconds=timeout_seconds)
        return [
            list(self.rows(part["Id"])) if part.get("HasResultSet") else []
            for part in description["SubStatements"]
        ]

    def cancel(self, statement_id: str) -> bool:
        """Ask for a cancellation; False where the statement has ended, or is not known any more."""
        try:
            with _data_api_call("redshift-data:CancelStatement"):
                return bool(self.client.cancel_statement(Id=statement_id)["Status"])
        except EmrEtlError as error:
            if error.retryable:
                raise
            return False


@contextmanager
def _data_api_call(operation: str) -> Iterator[None]:
    """``aws_call``, and what is peculiar to this service: too many active statements means slow down."""
    try:
        with aws_call(operation):
            yield
    except AwsError as error:
        if error.details.get("code") in _TOO_MANY:
            raise ThrottledError(error.message, **error.details) from error
        raise


# -- decisions over answers ---------------------------------------------------------------------------------------


def statement_state(description: Mapping[str, Any]) -> StatementState:
    return StatementState(description["Status"])


def field_value(field: Mapping[str, Any]) -> Any:
    """The value in the Data API's union of fields. DECIMAL, dates and times are texts there."""
    if field.get("isNull"):
        return None
    return next(iter(field.values()))


def error_text(description: Mapping[str, Any]) -> str:
    """What the failed statement, or the failed one of its sub-statements, says."""
    parts = [part["Error"] for part in description.get("SubStatements", ()) if part.get("Error")]
    whole = str(description.get("Error") or "")
    return " ".join(
        [whole, *(part for part in parts if str(part).removeprefix("ERROR: ") not in whole)]
    ).strip()


def affected_rows(description: Mapping[str, Any], positions: Mapping[str, int]) -> dict[str, int]:
    """How many rows some statements of a batch changed: by name, of the statement at each position.

    Positions are those of a list: from 0, or, from the end, from -1 down.
    """
    parts = description["SubStatements"]
    return {name: int(parts[at].get("ResultRows", 0)) for name, at in positions.items()}


def is_conflict(error: str) -> bool:
    """Whether two transactions met, so that the same one can simply run again."""
    return _CONFLICT.search(error) is not None


def failure(description: Mapping[str, Any]) -> EmrEtlError:
    """The error for a statement that ended FAILED or ABORTED.

    ServiceUnavailableError, which can be retried, where the connection was lost or two transactions met; for
    the first the statement may have been committed. StatementFailedError otherwise.
    """
    text = error_text(description) or "no reason given"
    statement_id = str(description["Id"])
    details = {"statement_id": statement_id, "error": text}
    if is_conflict(text) or _LOST.search(text):
        return ServiceUnavailableError(f"Statement {statement_id} did not go through: {text}", **details)
    verb = "was cancelled" if description["Status"] == StatementState.ABORTED else "failed"
    return StatementFailedError(f"Statement {statement_id} {verb}: {text}", **details)


def raise_if_failed(description: Mapping[str, Any]) -> None:
    if statement_state(description) is not StatementState.FINISHED:
        raise failure(description)
