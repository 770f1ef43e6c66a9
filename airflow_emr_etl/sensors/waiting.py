"""What the sensors here share: they defer by default, and say what they waited for in vain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
)
from airflow.sdk import BaseSensorOperator, PokeReturnValue

from airflow_emr_etl.exceptions import EmrEtlError
from airflow_emr_etl.operators.failures import retry_only_what_can_pass
from airflow_emr_etl.operators.waiting import defers_by_default
from airflow_emr_etl.triggers.polling import PollingTrigger, error_from

if TYPE_CHECKING:
    from airflow.sdk import Context

_GRACE = timedelta(minutes=2)


class WaitingSensor(BaseSensorOperator):
    """Looks at once, then defers to the trigger that ``make_trigger`` gives.

    With ``deferrable=False`` it is an ordinary sensor, in ``mode="poke"`` or ``"reschedule"``. ``timeout=0``
    looks once and fails. ``poke_interval`` is the longest time between two looks.
    """

    def __init__(
        self,
        *,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("poke_interval", 30.0)
        super().__init__(**kwargs)
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.deferrable = defers_by_default() if deferrable is None else deferrable

    def make_trigger(self, deadline: str | None) -> PollingTrigger:
        """The trigger that waits for this sensor."""
        raise NotImplementedError

    def judge(self, payload: dict[str, Any]) -> Any:
        """What the sensor returns for the end that was found; raises where it is a bad one."""
        return None

    def in_vain(self) -> EmrEtlError:
        """What to say when the time is over."""
        raise NotImplementedError

    def poke(self, context: Context) -> PokeReturnValue:
        with retry_only_what_can_pass():
            trigger = self.make_trigger(None)
            try:
                payload = trigger.look(trigger.connect())
            except EmrEtlError as error:
                if not error.retryable:
                    raise
                self.log.warning("Cannot look, will try again: %s", error)
                payload = None
            if payload is None:
                return PokeReturnValue(False)
            return PokeReturnValue(True, self.judge(payload))

    def execute(self, context: Context) -> Any:
        try:
            if not self.deferrable:
                return super().execute(context)
            found = self.poke(context)
            if found:
                return found.xcom_value
            if self.timeout <= 0:
                raise self._too_late()
        except AirflowSensorTimeout as error:
            self._skip_if_soft(error)
            raise self._too_late() from error
        except AirflowFailException as error:
            self._skip_if_soft(error)
            raise
        limit = timedelta(seconds=self.timeout)
        trigger = self.make_trigger((datetime.now(UTC) + limit).isoformat())
        self.defer(trigger=trigger, method_name="execute_complete", timeout=limit + _GRACE)
        raise AssertionError("defer always raises")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        if event["status"] == "timeout":
            raise self._too_late()
        with retry_only_what_can_pass():
            if event["status"] == "error":
                raise error_from(event["error"])
            return self.judge(event)

    def _skip_if_soft(self, error: Exception) -> None:
        if self.soft_fail or self.never_fail:
            raise AirflowSkipException(str(error)) from error

    def _too_late(self) -> AirflowSensorTimeout:
        error = self.in_vain()
        timeout = AirflowSensorTimeout(f"{type(error).__name__}: {error}")
        timeout.__cause__ = error
        return timeout
