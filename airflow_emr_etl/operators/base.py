"""What the operators of clusters and steps have in common."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf
from airflow.sdk import BaseOperator

from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK, Clock
from airflow_emr_etl.hooks.cluster_keeper import ClusterKeeper
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook
from airflow_emr_etl.hooks.emr_step import EmrStepHook
from airflow_emr_etl.hooks.step_keeper import StepKeeper
from airflow_emr_etl.models.intent import Scope
from airflow_emr_etl.operators.waiting import as_timedelta, deadline_of, defers_by_default, wait_for
from airflow_emr_etl.triggers.polling import PollingTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


#: Airflow kills a task's process five seconds after it has told it to stop; EMR must know everything by then.
KILL_GRACE_SECONDS = 2.0


class EmrOperator(BaseOperator):
    """An operator with clients of EMR, that waits.

    :param aws_conn_id: Airflow connection
    :param region_name: overrides the connection's region
    :param wait_timeout: how long the whole wait may take, a timedelta or seconds
    :param poll_interval: longest time between two looks, in seconds
    :param deferrable: wait in the triggerer; the default is ``[emr_etl] deferrable``, which is True
    """

    #: Where the operator's time comes from.
    clock: Clock = SYSTEM_CLOCK

    def __init__(
        self,
        *,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        wait_timeout: timedelta | float,
        poll_interval: float = 30.0,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.wait_timeout = as_timedelta(wait_timeout)
        self.poll_interval = poll_interval
        self.deferrable = defers_by_default() if deferrable is None else deferrable

    @cached_property
    def clients(self) -> EmrClients:
        return EmrClients(self.aws_conn_id, self.region_name)

    @cached_property
    def cluster_keeper(self) -> ClusterKeeper:
        return ClusterKeeper(EmrClusterHook(clients=self.clients), self.clock)

    @cached_property
    def step_keeper(self) -> StepKeeper:
        return StepKeeper(EmrStepHook(clients=self.clients), self.clock)

    def new_deadline(self) -> datetime:
        """When a wait that begins now must end."""
        return deadline_of(self, self.wait_timeout, self.clock)

    def wait_by(
        self, trigger: type[PollingTrigger], deadline: datetime, carry: dict[str, Any] | None, **fields: Any
    ) -> dict[str, Any]:
        """Wait by a trigger of this kind: defers, or returns the event's payload."""
        return wait_for(
            self,
            lambda until: trigger(
                **fields,
                aws_conn_id=self.aws_conn_id,
                region_name=self.region_name,
                poll_interval=self.poll_interval,
                deadline=until,
                carry=carry,
            ),
            deadline=deadline,
            deferrable=self.deferrable,
            clock=self.clock,
        )


def site() -> str:
    """Which Airflow this is, of those that may share an AWS account: ``[emr_etl] site``, else its address."""
    given = conf.get("emr_etl", "site", fallback="") or conf.get("api", "base_url", fallback="")
    return str(given or "")


def scope_of(context: Context, task_id: str | None = None) -> Scope:
    """Whom something is created for: this task instance, or ``task_id`` of the same run."""
    ti: Any = context["ti"]
    if task_id is not None and task_id != ti.task_id:
        return Scope(ti.dag_id, ti.run_id, task_id, -1, site())
    return Scope(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, site())


def is_retry(context: Context) -> bool:
    """Whether an earlier try of this task may have created something."""
    ti: Any = context["ti"]
    return bool(ti.try_number > 1)


def has_more_tries(context: Context) -> bool:
    """Whether Airflow will try this task again after a failure that can pass."""
    ti: Any = context["ti"]
    return bool(ti.try_number <= _max_tries(ti))


def clears_of(operator: BaseOperator, context: Context) -> int:
    """A number that grows when the task is cleared, and not when it is retried.

    Airflow raises ``max_tries`` to the tries so far plus the task's retries when it clears a task.
    """
    ti: Any = context["ti"]
    return max(0, _max_tries(ti) - int(operator.retries or 0))


def run_start(context: Context) -> datetime | None:
    """When this run began; a run that was deleted may have had the same name."""
    run: Any = context.get("dag_run")
    started = getattr(run, "start_date", None)
    return started if isinstance(started, datetime) else None


def _max_tries(ti: Any) -> int:
    return int(getattr(ti, "max_tries", 0) or 0)
