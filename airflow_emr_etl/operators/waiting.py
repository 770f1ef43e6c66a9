"""How a task waits: deferred by default, or in its worker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from airflow_emr_etl.exceptions import WaitTimeoutError
from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK, Clock
from airflow_emr_etl.triggers.polling import PollingTrigger, error_from

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

#: What ``next_method`` is when Airflow resumes a task only to fail it.
RESUMED_TO_FAIL = "__fail__"
#: The trigger ends itself at its deadline and the task can clean up; Airflow's own timeout is the second line.
_GRACE = timedelta(minutes=2)


def defers_by_default() -> bool:
    """``[emr_etl] deferrable`` of Airflow's configuration; True unless it says otherwise."""
    return bool(conf.getboolean("emr_etl", "deferrable", fallback=True))


def deadline_of(operator: BaseOperator, timeout: timedelta, clock: Clock = SYSTEM_CLOCK) -> datetime:
    """When the wait of a task that begins now must end.

    ``execution_timeout`` is not kept by Airflow while a task is deferred, so it bounds the deadline here.
    """
    return clock.now() + min(timeout, operator.execution_timeout or timeout)


def wait_for(
    operator: BaseOperator,
    make_trigger: Callable[[str], PollingTrigger],
    *,
    deadline: datetime,
    deferrable: bool,
    clock: Clock = SYSTEM_CLOCK,
) -> dict[str, Any]:
    """Wait by ``make_trigger(deadline)``: defer to the operator's ``execute_complete``, or return its payload."""
    trigger = make_trigger(deadline.isoformat())
    if not deferrable:
        return trigger.wait_here(sleep=clock.sleep, now=clock.now)
    left = max(deadline - clock.now(), timedelta(0))
    operator.defer(trigger=trigger, method_name="execute_complete", timeout=left + _GRACE)
    raise AssertionError("defer always raises")


def raise_if_not_waited(payload: dict[str, Any], what: str) -> None:
    """Raise for a payload that says the wait itself failed or ran out of time."""
    if payload["status"] == "error":
        raise error_from(payload["error"])
    if payload["status"] == "timeout":
        raise WaitTimeoutError(f"The time to wait for {what} is over. Set a longer timeout if it needs more.")


def as_timedelta(value: timedelta | float) -> timedelta:
    """A duration given as such or in seconds."""
    return value if isinstance(value, timedelta) else timedelta(seconds=value)
