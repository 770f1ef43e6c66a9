"""The Amazon provider's sensors for EMR clusters and steps, by the same names and parameters.

A DAG written for ``airflow.providers.amazon.aws.sensors.emr`` imports them from here instead, and nothing else
in it changes. Every other name of that module is passed through, and loaded only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSensorTimeout
from airflow.sdk import BaseSensorOperator

from airflow_emr_etl.exceptions import (
    ClusterError,
    EmrEtlError,
    StepError,
)
from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK, Clock
from airflow_emr_etl.hooks.cluster_keeper import ClusterKeeper
from airflow_emr_etl.hooks.emr import ConfiguredClients
from airflow_emr_etl.hooks.emr_cluster import (
    EmrClusterHook,
    cluster_failure,
    cluster_state,
    why_cluster_ended,
)
from airflow_emr_etl.hooks.emr_step import EmrStepHook, step_failure, step_state
from airflow_emr_etl.links.emr import EmrClusterLink, EmrLogsLink
from airflow_emr_etl.models.intent import ClusterMark
from airflow_emr_etl.models.states import StepState
from airflow_emr_etl.operators.drop_in import (
    DEFAULT_DEFERRABLE,
    as_airflow_exceptions,
    official_name,
    show_links,
    warn_of_region,
)
from airflow_emr_etl.triggers.emr import EmrJobFlowTrigger, EmrStepsTrigger
from airflow_emr_etl.triggers.polling import PollingTrigger, error_from

if TYPE_CHECKING:
    from airflow.sdk import Context

_OFFICIAL = "airflow.providers.amazon.aws.sensors.emr"
#: Airflow's own time limit for a deferred task is the second line: the trigger ends by itself before it.
_GRACE = timedelta(minutes=2)
#: A week of looks at the default ``poke_interval``, which is also the default ``timeout`` of every sensor.
_MAX_ATTEMPTS = 7 * 24 * 60


class _EmrSensor(BaseSensorOperator):
    """Looks at once; then as an ordinary sensor, or in the triggerer. Both ways end by the same rules."""

    operator_extra_links = (EmrClusterLink(), EmrLogsLink())
    ui_color = "#66c3ff"
    clock: Clock = SYSTEM_CLOCK

    job_flow_id: str
    target_states: Iterable[str]
    failed_states: Iterable[str]

    def __init__(
        self,
        *,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        region: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        warn_of_region(region)
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config
        self.max_attempts = _MAX_ATTEMPTS
        self.deferrable = DEFAULT_DEFERRABLE
        self._shown = False

    @cached_property
    def clients(self) -> ConfiguredClients:
        return ConfiguredClients(
            self.aws_conn_id, self.region_name, verify=self.verify, botocore_config=self.botocore_config
        )

    def make_trigger(self, deadline: str | None) -> PollingTrigger:
        """The trigger that waits for this sensor."""
        raise NotImplementedError

    def look(self) -> dict[str, Any] | None:
        """What the trigger would tell; None while there is nothing to tell."""
        return self.make_trigger(None).look(self._connection)

    def judge(self, payload: dict[str, Any]) -> None:
        """Raise where what was found is not what was waited for."""
        raise NotImplementedError

    def poke(self, context: Context) -> bool:
        with as_airflow_exceptions():
            self._show(context)
            try:
                payload = self.look()
            except EmrEtlError as error:
                if not error.retryable:
                    raise
                self.log.warning("Cannot look, will try again: %s", error)
                return False
            if payload is None:
                return False
            self.judge(payload)
            return True

    def execute(self, context: Context) -> None:
        if not self.deferrable:
            super().execute(context)
        elif not self.poke(context):
            limit = timedelta(seconds=min(self.timeout, self.max_attempts * self.poke_interval))
            limit = min(limit, self.execution_timeout or limit)
            trigger = self.make_trigger((self.clock.now() + limit).isoformat())
            self.defer(trigger=trigger, method_name="execute_complete", timeout=limit + _GRACE)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> None:
        assert event is not None
        if event["status"] == "timeout":
            raise AirflowSensorTimeout(
                f"{self.waited_for} was not {' or '.join(self.target_states)} in time. Set a longer timeout, or more "
                "max_attempts, if it needs more."
            )
        with as_airflow_exceptions():
            if event["status"] == "error":
                raise error_from(event["error"])
            self.judge(event)

    @property
    def waited_for(self) -> str:
        """For messages."""
        return f"Cluster {self.job_flow_id}"

    @cached_property
    def _connection(self) -> Any:
        return self.make_trigger(None).connect()

    def _states(self) -> list[str]:
        return [str(state) for state in (*self.target_states, *self.failed_states)]

    def _common(self, deadline: str | None) -> dict[str, Any]:
        return {
            "aws_conn_id": self.aws_conn_id,
            "region_name": self.region_name,
            "verify": self.verify,
            "botocore_config": self.botocore_config,
            "poll_interval": self.poke_interval,
            "deadline": deadline,
        }

    def _show(self, context: Context) -> None:
        if self._shown or not self.do_xcom_push:
            return
        self._shown = True
        show_links(context, self.clients, self.job_flow_id, log=self.log)


class EmrJobFlowSensor(_EmrSensor):
    """Wait until a cluster is in one of ``target_states``.

    A cluster that has ended in a state of neither list fails the sensor: it will never be in another.

    :param job_flow_id: the cluster's id (templated)
    :param target_states: ``["TERMINATED"]`` by default (templated)
    :param failed_states: ``["TERMINATED_WITH_ERRORS"]`` by default (templated)
    :param max_attempts: times ``poke_interval``, how long a deferred sensor waits; ``timeout`` holds besides
    :param deferrable: wait in the triggerer; ``[operators] default_deferrable`` by default
    """

    template_fields: Sequence[str] = (
        "aws_conn_id",
        "failed_states",
        "job_flow_id",
        "region_name",
        "target_states",
        "verify",
    )

    def __init__(
        self,
        *,
        job_flow_id: str,
        target_states: Iterable[str] | None = None,
        failed_states: Iterable[str] | None = None,
        max_attempts: int = _MAX_ATTEMPTS,
        deferrable: bool = DEFAULT_DEFERRABLE,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_flow_id = job_flow_id
        self.target_states = target_states or ["TERMINATED"]
        self.failed_states = failed_states or ["TERMINATED_WITH_ERRORS"]
        self.max_attempts = max_attempts
        self.deferrable = deferrable

    def make_trigger(self, deadline: str | None) -> EmrJobFlowTrigger:
        return EmrJobFlowTrigger(
            cluster_id=self.job_flow_id, target_states=self._states(), **self._common(deadline)
        )

    def judge(self, payload: dict[str, Any]) -> None:
        cluster = payload["cluster"]
        state = cluster_state(cluster).value
        self.log.info("Job flow currently %s", state)
        if state in self.target_states:
            return
        if state in self.failed_states:
            failure = cluster_failure(cluster)
            raise type(failure)(f"EMR job failed: {failure.message}", **failure.details)
        raise ClusterError(
            f"{self.waited_for} ended as {state} and will not be {' or '.join(self.target_states)} any more. "
            f"{why_cluster_ended(cluster)}.",
            cluster_id=self.job_flow_id,
        )


class EmrStepSensor(_EmrSensor):
    """Wait until a step is in one of ``target_states``.

    A step that has ended in a state of neither list, or whose cluster has ended before it did, fails the
    sensor: it will never be in another.

    :param job_flow_id: id of the step's cluster (templated)
    :param step_id: the step's id (templated)
    :param target_states: ``["COMPLETED"]`` by default (templated)
    :param failed_states: ``["CANCELLED", "FAILED", "INTERRUPTED"]`` by default (templated)
    :param max_attempts: times ``poke_interval``, how long a deferred sensor waits; ``timeout`` holds besides
    :param deferrable: wait in the triggerer; ``[operators] default_deferrable`` by default
    """

    template_fields: Sequence[str] = (
        "aws_conn_id",
        "failed_states",
        "job_flow_id",
        "region_name",
        "step_id",
        "target_states",
        "verify",
    )

    def __init__(
        self,
        *,
        job_flow_id: str,
        step_id: str,
        target_states: Iterable[str] | None = None,
        failed_states: Iterable[str] | None = None,
        max_attempts: int = _MAX_ATTEMPTS,
        deferrable: bool = DEFAULT_DEFERRABLE,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_flow_id = job_flow_id
        self.step_id = step_id
        self.target_states = target_states or ["COMPLETED"]
        self.failed_states = failed_states or ["CANCELLED", "FAILED", "INTERRUPTED"]
        self.max_attempts = max_attempts
        self.deferrable = deferrable

    @property
    def waited_for(self) -> str:
        return f"Step {self.step_id} on {self.job_flow_id}"

    def look(self) -> dict[str, Any] | None:
        try:
            return super().look()
        except StepError:
            # EMR does not know the step on this cluster: it may be on the one that replaced it.
            if not self._moves():
                raise
            return super().look()

    def make_trigger(self, deadline: str | None) -> EmrStepsTrigger:
        return EmrStepsTrigger(
            cluster_id=self.job_flow_id,
            step_ids=[self.step_id],
            target_states=self._states(),
            **self._common(deadline),
        )

    def judge(self, payload: dict[str, Any]) -> None:
        if payload["status"] == "cluster_ended":
            raise cluster_failure(payload["cluster"], served=True)
        [step] = payload["steps"]
        state = step_state(step)
        self.log.info("Job flow currently %s", state.value)
        if state.value in self.target_states:
            return
        if state.value in self.failed_states and state is not StepState.COMPLETED:
            failure = step_failure(step, self.job_flow_id)
            raise type(failure)(f"EMR job failed: {failure.message}", **failure.details)
        raise StepError(
            f"{self.waited_for} is {state.value}, and will not be {' or '.join(self.target_states)} any more.",
            cluster_id=self.job_flow_id,
            step_id=self.step_id,
            state=state.value,
        )

    def _moves(self) -> bool:
        """Look for the step on the clusters that were made in this one's place; whether it is on one of them."""
        clusters, steps = EmrClusterHook(clients=self.clients), EmrStepHook(clients=self.clients)
        named = clusters.describe(self.job_flow_id)
        mark = ClusterMark.read(str(named.get("Name", "")))
        if mark is None:
            return False
        created = named["Status"].get("Timeline", {}).get("CreationDateTime")
        for found in ClusterKeeper(clusters, self.clock).ever(mark.lineage, created):
            try:
                steps.describe(found.id, self.step_id)
            except StepError:
                continue
            self.log.info("Step %s is on cluster %s, in place of %s", self.step_id, found.id, named["Id"])
            self.job_flow_id, self._shown = found.id, False
            return True
        return False


def __getattr__(name: str) -> Any:
    """Any other name of the official module, loaded only when somebody asks for it (PEP 562)."""
    return official_name(_OFFICIAL, name, __name__)
