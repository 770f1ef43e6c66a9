from __future__ import annotations

from datetime import timedelta

import airflow.sdk
import pytest
from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from airflow_emr_etl.exceptions import (
    AccessDeniedError,
    CapacityError,
    ClusterClosedError,
    ClusterLostError,
    ConfigurationError,
    EmrEtlError,
    GateFailedError,
    LadderEndedError,
    ServiceUnavailableError,
    StepFailedError,
    ThrottledError,
    WaitTimeoutError,
)
from airflow_emr_etl.operators.drop_in import as_airflow_exceptions
from airflow_emr_etl.retry_policy import RETRY_DELAYS, emr_retry_policy, errors


def policy() -> ExceptionRetryPolicy:
    made = emr_retry_policy()
    assert made is not None
    return made


@pytest.mark.parametrize("kind", [*errors()], ids=lambda kind: kind.__name__)
def test_it_does_what_the_class_says(kind: type[EmrEtlError]) -> None:
    decision = policy().evaluate(kind("m"), 1, 3)
    assert decision.action is (RetryAction.RETRY if kind.retryable else RetryAction.FAIL)
    assert kind.__name__ in (decision.reason or "")
    assert (decision.retry_delay is not None) == kind.retryable


@pytest.mark.parametrize(
    "kind", [ThrottledError, CapacityError, ClusterLostError, ServiceUnavailableError, WaitTimeoutError]
)
def test_what_can_pass_waits_as_long_as_it_takes(kind: type[EmrEtlError]) -> None:
    assert policy().evaluate(kind("m"), 1, 3).retry_delay == RETRY_DELAYS[kind]


@pytest.mark.parametrize(
    "kind",
    [
        StepFailedError,
        ConfigurationError,
        AccessDeniedError,
        GateFailedError,
        ClusterClosedError,
        LadderEndedError,
    ],
)
def test_what_no_retry_helps_fails_at_once(kind: type[EmrEtlError]) -> None:
    assert policy().evaluate(kind("m"), 1, 3).action is RetryAction.FAIL


def test_a_kind_of_ours_that_somebody_else_made_is_treated_as_ours() -> None:
    class Colder(ThrottledError):
        pass

    assert policy().evaluate(Colder("m"), 1, 3).retry_delay == RETRY_DELAYS[ThrottledError]


def test_the_operators_with_the_official_names_keep_the_class() -> None:
    with pytest.raises(AirflowException) as raised, as_airflow_exceptions():
        raise StepFailedError("m")
    assert policy().evaluate(raised.value, 1, 3).action is RetryAction.FAIL
    with pytest.raises(AirflowException) as raised, as_airflow_exceptions():
        raise CapacityError("m")
    assert policy().evaluate(raised.value, 1, 3).retry_delay == RETRY_DELAYS[CapacityError]


def test_strangers_are_airflow_s_own_matter() -> None:
    assert policy().evaluate(ValueError("m"), 1, 3).action is RetryAction.DEFAULT


def test_one_s_own_rules_and_delays_come_first() -> None:
    made = emr_retry_policy(
        RetryRule(exception=StepFailedError, action=RetryAction.RETRY),
        delays={CapacityError: timedelta(hours=1)},
    )
    assert made is not None
    assert made.evaluate(StepFailedError("m"), 1, 3).action is RetryAction.RETRY
    assert made.evaluate(CapacityError("m"), 1, 3).retry_delay == timedelta(hours=1)
    assert made.evaluate(LadderEndedError("m"), 1, 3).action is RetryAction.FAIL


def test_it_survives_airflow_s_own_serialization() -> None:
    again = ExceptionRetryPolicy.deserialize(policy().serialize())
    assert again.evaluate(CapacityError("m"), 1, 3) == policy().evaluate(CapacityError("m"), 1, 3)


def test_none_where_airflow_has_no_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise AttributeError(name)

    monkeypatch.setattr(airflow.sdk, "__getattr__", missing)
    for name in ("ExceptionRetryPolicy", "RetryAction", "RetryRule"):
        monkeypatch.delitem(vars(airflow.sdk), name, raising=False)
    assert emr_retry_policy() is None
