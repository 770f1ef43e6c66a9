"""Expectations of ours, which a suite uses like Great Expectations' own.

``expect_column_max_to_be_recent: {column: ts, max_age_hours: 30}``
    The newest value is at most so many hours before ``now``, which is the time of the check unless it is given. Times
    are UTC. No value at all is not recent.

``expect_table_row_count_to_be_near_past: {tolerance: 0.5}``
    The rows are within ``tolerance`` (a share) of the median of the ``past`` counts. Of fewer than ``at_least``
    (default 3) counts nothing is concluded, and it holds. The gate fills ``past`` from the results of earlier nights.

``expect_column_value_share_to_be_near_past: {column: is_bot, value: true, tolerance: 0.1}``
    Of all rows, those with ``value`` are a share (0 to 1) that differs by at most ``tolerance`` from the mean of the
    ``past`` shares. Otherwise as the last. Without rows there is no share, and so none that is near.

All need only numbers that share the one scan. A team's own classes go the same way: a module with subclasses of Great
Expectations' classes, named by the suite (``modules: [my_team.expectations]``) and shipped with the job.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import statistics
from typing import Any, ClassVar, Dict, List, Optional, Sequence, Tuple

from airflow_emr_etl.exceptions import ConfigurationError

NEAR_PAST = "expect_table_row_count_to_be_near_past"
SHARE_NEAR_PAST = "expect_column_value_share_to_be_near_past"

_NULLS = "column_values.nonnull.unexpected_count"
_OTHERS = "column_values.in_set.unexpected_count"


def register(modules: Sequence[str], source: str) -> None:
    """Make our expectations, and those of *modules*, known to Great Expectations.

    Raises:
        ConfigurationError: a module cannot be imported; the message says how to ship it.
    """
    _ours()
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as problem:
            raise ConfigurationError(
                f"{source}: module {name} cannot be imported ({problem}). Put it into a zip and give that to the "
                "step with --py-files, or install it on the nodes."
            ) from problem


def near_past(
    rows: int, past: Sequence[int], tolerance: float, at_least: int
) -> Tuple[bool, Optional[float]]:
    """Whether *rows* are near the median of *past*, and that median; None where there is too little of a past."""
    if len(past) < at_least:
        return True, None
    median = float(statistics.median(past))
    return abs(rows - median) <= tolerance * median, median


def share_near_past(
    share: Optional[float], past: Sequence[float], tolerance: float, at_least: int
) -> Tuple[bool, Optional[float]]:
    """Whether *share* is near the mean of *past*, and that mean; None where there is too little of a past."""
    if len(past) < at_least:
        return True, None
    mean = statistics.fmean(past)
    # Shares are quotients: what differs by the tolerance exactly must not fail by a rounding.
    return share is not None and abs(share - mean) <= tolerance + 1e-12, mean


def age_hours(newest: Any, now: datetime.datetime, naive_is_utc: bool = False) -> Optional[float]:
    """The age of a time, a day (from its end on) or their ISO text, in hours; None for no value.

    A time without a zone is in the machine's, as PySpark hands out Spark's TIMESTAMP, or in UTC.
    """
    if newest is None:
        return None
    if isinstance(newest, str):
        whole = datetime.datetime.fromisoformat(newest.replace("Z", "+00:00"))
        newest = whole if len(newest) > len("2026-01-05") else whole.date()
    if not isinstance(newest, datetime.datetime):
        midnight = datetime.datetime(newest.year, newest.month, newest.day, tzinfo=datetime.timezone.utc)
        newest = midnight + datetime.timedelta(days=1)
    if naive_is_utc and newest.tzinfo is None:
        newest = newest.replace(tzinfo=datetime.timezone.utc)
    return float((now - newest.astimezone(datetime.timezone.utc)).total_seconds() / 3600)


@functools.lru_cache(maxsize=1)
def _ours() -> Tuple[Any, ...]:
    from great_expectations.expectations.expectation import BatchExpectation, ColumnAggregateExpectation
    from great_expectations.validator.metric_configuration import MetricConfiguration

    class ExpectColumnMaxToBeRecent(ColumnAggregateExpectation):
        """See the module."""

        max_age_hours: float
        now: Optional[str] = None

        metric_dependencies: ClassVar[Tuple[str, ...]] = ("column.max",)
        success_keys: ClassVar[Tuple[str, ...]] = ("max_age_hours", "now")

        def _validate(
            self, metrics: Dict[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
        ) -> Dict[str, Any]:
            if self.now is None:
                now = datetime.datetime.now(datetime.timezone.utc)
            else:
                now = datetime.datetime.fromisoformat(self.now.replace("Z", "+00:00"))
                now = now if now.tzinfo else now.replace(tzinfo=datetime.timezone.utc)
            newest = metrics["column.max"]
            age = age_hours(newest, now, getattr(execution_engine, "times_without_zone_are_utc", False))
            return {
                "success": age is not None and age <= self.max_age_hours,
                "result": {"observed_value": None if newest is None else str(newest)},
            }

    class ExpectTableRowCountToBeNearPast(BatchExpectation):
        """See the module."""

        tolerance: float
        past: List[int] = []  # noqa: RUF012 - pydantic copies it
        at_least: int = 3

        metric_dependencies: ClassVar[Tuple[str, ...]] = ("table.row_count",)
        success_keys: ClassVar[Tuple[str, ...]] = ("tolerance", "past", "at_least")
        domain_keys: ClassVar[Tuple[str, ...]] = ("batch_id",)

        def _validate(
            self, metrics: Dict[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
        ) -> Dict[str, Any]:
            rows = int(metrics["table.row_count"])
            holds, median = near_past(rows, self.past, self.tolerance, self.at_least)
            return {
                "success": holds,
                "result": {"observed_value": rows, "details": {"median": median, "nights": len(self.past)}},
            }

    class ExpectColumnValueShareToBeNearPast(ColumnAggregateExpectation):
        """See the module."""

        value: Any
        tolerance: float
        past: List[float] = []  # noqa: RUF012 - pydantic copies it
        at_least: int = 3

        metric_dependencies: ClassVar[Tuple[str, ...]] = ("table.row_count", _NULLS, _OTHERS)
        success_keys: ClassVar[Tuple[str, ...]] = ("value", "tolerance", "past", "at_least")

        def get_validation_dependencies(
            self, execution_engine: Any = None, runtime_configuration: Any = None
        ) -> Any:
            found = super().get_validation_dependencies(execution_engine, runtime_configuration)
            nulls = found.get_metric_configuration(_NULLS)
            assert nulls is not None
            domain = nulls.metric_domain_kwargs
            found.set_metric_configuration(
                _OTHERS, MetricConfiguration(_OTHERS, domain, {"value_set": [self.value]})
            )
            return found

        def _validate(
            self, metrics: Dict[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
        ) -> Dict[str, Any]:
            rows = int(metrics["table.row_count"])
            having = rows - int(metrics[_NULLS]) - int(metrics[_OTHERS])
            share = having / rows if rows else None
            holds, mean = share_near_past(share, self.past, self.tolerance, self.at_least)
            return {
                "success": holds,
                "result": {"observed_value": share, "details": {"mean": mean, "nights": len(self.past)}},
            }

    return ExpectColumnMaxToBeRecent, ExpectTableRowCountToBeNearPast, ExpectColumnValueShareToBeNearPast
