"""A ready ``retry_policy`` for tasks, from the tree of this package's errors.

What a retry can help is retried, each kind of error after a delay of its own; what it cannot help fails at once.
The operators of this package need no policy for the second half: they turn such an error into Airflow's own
``AirflowFailException``, which no policy ever sees. A policy adds the delays, and does both for any other task
that calls this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from airflow_emr_etl.exceptions import (
    CapacityError,
    ClusterFullError,
    ClusterLostError,
    ClusterNotEndedError,
    EmrEtlError,
    ExpiredTokenError,
    LeaseLostError,
    PoolFullError,
    ServiceUnavailableError,
    TaskKilledError,
    ThrottledError,
    WaitTimeoutError,
)

if TYPE_CHECKING:
    from airflow.sdk import ExceptionRetryPolicy, RetryRule

#: How long to wait before the next try. An error that is not here waits as its base does; one without any, as
#: the task's ``retry_delay`` says.
RETRY_DELAYS: Final[Mapping[type[EmrEtlError], timedelta]] = MappingProxyType(
    {
        ThrottledError: timedelta(minutes=2),
        ServiceUnavailableError: timedelta(minutes=1),
        ExpiredTokenError: timedelta(seconds=10),
        ClusterLostError: timedelta(seconds=30),
        ClusterNotEndedError: timedelta(minutes=1),
        CapacityError: timedelta(minutes=10),
        ClusterFullError: timedelta(minutes=5),
        LeaseLostError: timedelta(seconds=10),
        PoolFullError: timedelta(minutes=5),
        TaskKilledError: timedelta(seconds=10),
        WaitTimeoutError: timedelta(seconds=30),
    }
)


def emr_retry_policy(
    *first: RetryRule, delays: Mapping[type[EmrEtlError], timedelta] | None = None
) -> ExceptionRetryPolicy | None:
    """Airflow's ``ExceptionRetryPolicy`` with a rule for each error of this package.

    For ``default_args={"retries": 3, "retry_policy": emr_retry_policy()}``. Retries stay within ``retries``.
    Errors of other packages are treated as Airflow does without a policy.

    None on an Airflow before 3.3, which has no policies: in ``default_args`` that means that the delays are the
    task's own, and nothing else changes.

    :param first: rules of your own, tried before these
    :param delays: other waits than ``RETRY_DELAYS``, by class
    """
    try:
        from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
    except ImportError:
        return None
    waits = {**RETRY_DELAYS, **(delays or {})}
    rules: list[Any] = [*first]
    for kind in errors():
        rules.append(
            RetryRule(
                exception=kind,
                action=RetryAction.RETRY if kind.retryable else RetryAction.FAIL,
                retry_delay=_delay(kind, waits) if kind.retryable else None,
                reason=f"{kind.__name__}: {'a retry can help' if kind.retryable else 'no retry helps'}",
            )
        )
    return ExceptionRetryPolicy(rules=rules)


def errors(root: type[EmrEtlError] = EmrEtlError) -> Iterator[type[EmrEtlError]]:
    """This package's own errors, each before the class that it is a kind of."""
    for kind in root.__subclasses__():
        if kind.__module__ == EmrEtlError.__module__:
            yield from errors(kind)
    yield root


def _delay(kind: type[EmrEtlError], waits: Mapping[type[EmrEtlError], timedelta]) -> timedelta | None:
    return next((waits[each] for each in kind.__mro__ if each in waits), None)
