"""What boto3 raises, in terms of this package's own errors.

``translate`` is a pure function over the exception, so this module imports neither boto3 nor Airflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow_emr_etl.exceptions import (
    AccessDeniedError,
    AwsError,
    ClusterFullError,
    ClusterLostError,
    ClusterNotFoundError,
    ConfigurationError,
    EmrEtlError,
    ExpiredTokenError,
    MissingInputError,
    ServiceUnavailableError,
    StepError,
    ThrottledError,
)

THROTTLES = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "TransactionInProgressException",
        "LimitExceededException",
        "EC2ThrottledException",
        "SlowDown",
    }
)
DENIALS = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedOperation",
        "UnauthorizedException",
        "NotAuthorized",
        "OptInRequired",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
        "MissingAuthenticationToken",
    }
)
#: Temporary credentials that ran out; STS and SSO give new ones to the next process.
EXPIRIES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
OUTAGES = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServerException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "RequestTimeout",
        "RequestTimeoutException",
        "503",
        "500",
        "502",
        "504",
    }
)
MISSING_OBJECTS = frozenset({"NoSuchKey", "NoSuchBucket", "404", "NotFound"})

_NO_CLUSTER = re.compile(
    r"cluster id '?[\w-]*'? is not valid|cluster .*(?:does not exist|not found)"
    r"|job flow id (?:does not exist|not valid)",
    re.IGNORECASE,
)
_NO_STEP = re.compile(r"step id '?[\w-]*'? is not valid|step .*(?:does not exist|not found)", re.IGNORECASE)
_CLUSTER_ENDED = re.compile(r"job flow that is shutting down, terminated, or finished", re.IGNORECASE)
_CLUSTER_FULL = re.compile(r"maximum number of (?:active )?steps\b", re.IGNORECASE)
_CLUSTER_ID = re.compile(r"j-[A-Z0-9]+")


def translate(error: Exception, operation: str = "") -> EmrEtlError:
    """The error of this package for what boto3 or botocore raised; one of this package's own comes back as it is.

    ``operation`` names the call where the exception does not, such as ``"emr:RunJobFlow"``. Raise it
    ``from`` the original. Whether the call may have taken effect: after ``ServiceUnavailableError``, yes.
    """
    if isinstance(error, EmrEtlError):
        return error
    response = getattr(error, "response", None)
    if isinstance(response, dict) and "Error" in response:
        return _from_answer(error, response, operation)
    return _from_transport(error, operation)


@contextmanager
def aws_call(operation: str) -> Iterator[None]:
    """Raise what boto3 raises inside as an error of this package."""
    try:
        yield
    except EmrEtlError:
        raise
    except Exception as error:
        if not _is_aws(error):
            raise
        raise translate(error, operation) from error


def _is_aws(error: Exception) -> bool:
    modules = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
    return bool(modules & {"botocore", "boto3", "urllib3", "s3transfer"}) or isinstance(
        error, ConnectionError | TimeoutError
    )


def _from_answer(error: Exception, response: dict[str, Any], operation: str) -> EmrEtlError:
    code = str(response["Error"].get("Code", ""))
    message = str(response["Error"].get("Message", ""))
    metadata = response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode") or 0)
    called = operation or str(getattr(error, "operation_name", "")) or "the call"
    details = {"operation": called, "code": code, "request_id": metadata.get("RequestId")}
    text = f"{called}: {code}: {message}" if message else f"{called}: {code}"
    if code in THROTTLES or status == 429:
        return ThrottledError(text, **details)
    if code in EXPIRIES:
        return ExpiredTokenError(f"{text}. The next try gets fresh credentials.", **details)
    if code in DENIALS or status in (401, 403):
        return AccessDeniedError(f"{text}. Allow it in the role that this connection uses.", **details)
    if code in OUTAGES or status in (500, 502, 503, 504):
        return ServiceUnavailableError(text, **details)
    of_emr = operation.partition(":")[0] in ("", "emr")  # other services have clusters and steps too
    if of_emr and _NO_CLUSTER.search(message):
        named = _CLUSTER_ID.search(message)
        return ClusterNotFoundError(
            f"{text}. Is it the right account and region?", cluster_id=named[0] if named else None, **details
        )
    if of_emr and _CLUSTER_ENDED.search(message):
        return ClusterLostError(f"{text} Steps need a cluster that is up.", **details)
    if of_emr and _CLUSTER_FULL.search(message):
        return ClusterFullError(f"{text} There is room when one of them ends.", **details)
    if of_emr and _NO_STEP.search(message):
        return StepError(f"{text}. Is it the right cluster?", **details)
    if code in MISSING_OBJECTS:
        return MissingInputError(text, **details)
    if code in ("ValidationException", "ValidationError", "InvalidRequestException"):
        return ConfigurationError(text, **details)
    return AwsError(text, **details)


def _from_transport(error: Exception, operation: str) -> EmrEtlError:
    called = operation or "the call to AWS"
    name = type(error).__name__
    text = f"{called}: {name}: {error}"
    if name in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"):
        return AccessDeniedError(
            f"{text}. Give the connection a role, or set AWS_ACCESS_KEY_ID and its like.",
            operation=called,
            code=name,
        )
    if name in ("NoRegionError", "ParamValidationError", "ProfileNotFound", "UnknownServiceError"):
        return ConfigurationError(text, operation=called, code=name)
    if name.endswith(
        ("TimeoutError", "ConnectionError", "ConnectionClosedError", "HTTPClientError", "ProtocolError")
    ) or (isinstance(error, ConnectionError | TimeoutError)):
        return ServiceUnavailableError(text, operation=called, code=name)
    return AwsError(text, operation=called, code=name)
