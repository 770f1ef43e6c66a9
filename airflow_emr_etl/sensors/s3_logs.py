"""Wait for a day's logs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_emr_etl.exceptions import EmrEtlError, MissingInputError
from airflow_emr_etl.models.s3 import S3Uri
from airflow_emr_etl.sensors.waiting import WaitingSensor
from airflow_emr_etl.triggers.s3_logs import S3PrefixTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class S3LogsSensor(WaitingSensor):
    """Wait until a day's prefix has at least one object.

    :param prefix: ``s3://bucket/access/dt={{ ds }}/`` (templated)
    :param marker: name of an object below the prefix that says the day is complete, such as ``_SUCCESS``;
        it does not count as a log itself (templated)
    :param until: a time with an offset, such as ``2026-01-06T12:00:00+00:00``: waiting is in vain after it, so
        that a run for a day long past looks once and fails (templated)
    :param day: named in the message when there is nothing; ``{{ ds }}`` by default (templated)
    """

    template_fields: Sequence[str] = ("prefix", "marker", "until", "day", "aws_conn_id", "region_name")

    def __init__(
        self,
        *,
        prefix: str,
        marker: str | None = None,
        until: str | None = None,
        day: str = "{{ ds | default('') }}",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prefix = prefix
        self.marker = marker
        self.until = until
        self.day = day

    def execute(self, context: Context) -> Any:
        if self.until:
            self.timeout = max(0.0, min(self.timeout, self._seconds_left(self.until)))
        return super().execute(context)

    @staticmethod
    def _seconds_left(until: str) -> float:
        try:
            end = datetime.fromisoformat(until)
            return (end - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError) as error:
            raise AirflowFailException(
                f"until={until!r} is not a time with an offset. Write it like 2026-01-06T12:00:00+00:00."
            ) from error

    def make_trigger(self, deadline: str | None) -> S3PrefixTrigger:
        return S3PrefixTrigger(
            prefix=self.prefix,
            marker=None if self.marker is None else str(S3Uri.parse(self.prefix).child(self.marker)),
            aws_conn_id=self.aws_conn_id,
            region_name=self.region_name,
            poll_interval=self.poke_interval,
            deadline=deadline,
        )

    def in_vain(self) -> EmrEtlError:
        day = f"the day {self.day}" if self.day else "this run"
        marker = f" with its marker {self.marker}" if self.marker else ""
        limit = f"until {self.until}" if self.until else f"within {self.timeout:g} seconds"
        return MissingInputError(
            f"There is no log for {day}: nothing{marker} arrived under {self.prefix} {limit}. "
            "Check what writes there, and the prefix; then clear this task.",
            prefix=self.prefix,
            day=self.day,
        )
