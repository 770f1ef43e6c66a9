from __future__ import annotations

import pytest
from botocore.exceptions import (
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    ReadTimeoutError,
)
from fakes.emr import refusal

from airflow_emr_etl.exceptions import (
    AccessDeniedError,
    AwsError,
    ClusterFullError,
    ClusterNotFoundError,
    ConfigurationError,
    EmrEtlError,
    ExpiredTokenError,
    MissingInputError,
    ServiceUnavailableError,
    StepError,
    ThrottledError,
)
from airflow_emr_etl.hooks.aws_errors import aws_call, translate


@pytest.mark.parametrize(
    ("code", "message", "status", "expected"),
    [
        ("ThrottlingException", "Rate exceeded", 400, ThrottledError),
        ("SlowDown", "", 503, ThrottledError),
        ("Whatever", "", 429, ThrottledError),
        ("AccessDeniedException", "", 400, AccessDeniedError),
        ("403", "Forbidden", 403, AccessDeniedError),
        ("ExpiredToken", "", 400, ExpiredTokenError),
        ("ExpiredTokenException", "The security token is expired", 403, ExpiredTokenError),
        ("InternalServerError", "", 500, ServiceUnavailableError),
        ("Odd", "", 503, ServiceUnavailableError),
        ("InvalidRequestException", "Cluster id 'j-1ABC' is not valid.", 400, ClusterNotFoundError),
        ("InvalidRequestException", "Step id 's-1' is not valid.", 400, StepError),
        ("ValidationException", "Specified job flow ID does not exist.", 400, ClusterNotFoundError),
        (
            "ValidationException",
            "Maximum number of active steps(State = Running, Pending or Cancel_Pending) for cluster exceeded.",
            400,
            ClusterFullError,
        ),
        ("NoSuchKey", "", 404, MissingInputError),
        ("404", "Not Found", 404, MissingInputError),
        ("ValidationException", "Invalid InstanceProfile: x", 400, ConfigurationError),
        ("SomethingNew", "", 400, AwsError),
    ],
)
def test_answers(code: str, message: str, status: int, expected: type[EmrEtlError]) -> None:
    error = translate(refusal("DescribeCluster", code, message, status), "emr:DescribeCluster")
    assert type(error) is expected
    assert (error.operation, error.code, error.request_id) == ("emr:DescribeCluster", code, "r-1")
    assert message in str(error)


def test_the_cluster_that_is_not_there_is_named() -> None:
    error = translate(
        refusal("DescribeCluster", "InvalidRequestException", "Cluster id 'j-1ABC' is not valid.")
    )
    assert error.cluster_id == "j-1ABC"
    assert error.operation == "DescribeCluster"


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ReadTimeoutError(endpoint_url="u"), ServiceUnavailableError),
        (ConnectTimeoutError(endpoint_url="u"), ServiceUnavailableError),
        (EndpointConnectionError(endpoint_url="u"), ServiceUnavailableError),
        (ConnectionResetError("reset"), ServiceUnavailableError),
        (NoCredentialsError(), AccessDeniedError),
        (NoRegionError(), ConfigurationError),
        (ParamValidationError(report="r"), ConfigurationError),
    ],
)
def test_what_never_was_an_answer(raised: Exception, expected: type[EmrEtlError]) -> None:
    assert type(translate(raised)) is expected


def test_ours_come_back_as_they_are_and_strangers_pass() -> None:
    ours = MissingInputError("m")
    assert translate(ours) is ours
    with pytest.raises(ZeroDivisionError), aws_call("x"):
        _ = 1 / 0
    with pytest.raises(ThrottledError) as raised, aws_call("emr:ListSteps"):
        raise refusal("ListSteps", "ThrottlingException", "")
    assert raised.value.__cause__ is not None


def test_retryable_is_what_can_pass() -> None:
    assert ThrottledError.retryable
    assert ServiceUnavailableError.retryable
    assert not AccessDeniedError.retryable
