"""Create and end a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_emr_etl.exceptions import EmrEtlError
from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook, cluster_failure, cluster_state
from airflow_emr_etl.links.emr import EmrClusterLink, EmrLogsLink, cluster_url, logs_url
from airflow_emr_etl.models.cluster import ClusterSpec
from airflow_emr_etl.models.states import CLUSTER_ENDED, CLUSTER_READY
from airflow_emr_etl.operators.failures import checked, retry_only_what_can_pass
from airflow_emr_etl.operators.waiting import (
    RESUMED_TO_FAIL,
    as_timedelta,
    defers_by_default,
    raise_if_not_waited,
    wait_for,
)
from airflow_emr_etl.triggers.emr_cluster import EmrClusterStateTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

#: XCom key of the id, there as soon as EMR has given it.
CLUSTER_ID_KEY = "cluster_id"


class EmrCreateClusterOperator(BaseOperator):
    """Bring a cluster up and wait until it takes steps. Returns its id.

    A cluster that this task made and that does not come up, or whose task is killed, is ended again.

    :param spec: the cluster, a ``ClusterSpec`` or its fields (templated, checked again after rendering)
    :param aws_conn_id: Airflow connection
    :param region_name: overrides the connection's region
    :param wait: False returns the id at once
    :param wait_timeout: how long to wait, a timedelta or seconds
    :param poll_interval: longest time between two looks, in seconds
    :param deferrable: wait in the triggerer; the default is ``[emr_etl] deferrable``, which is True
    """

    template_fields: Sequence[str] = ("spec", "aws_conn_id", "region_name")
    template_fields_renderers: ClassVar[dict[str, str]] = {"spec": "json"}
    operator_extra_links = (EmrClusterLink(), EmrLogsLink())
    ui_color = "#f9c915"

    def __init__(
        self,
        *,
        spec: ClusterSpec | Mapping[str, Any],
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        wait: bool = True,
        wait_timeout: timedelta | float = timedelta(hours=1),
        poll_interval: float = 30.0,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.spec = spec.document() if isinstance(spec, ClusterSpec) else spec
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.wait = wait
        self.wait_timeout = as_timedelta(wait_timeout)
        self.poll_interval = poll_interval
        self.deferrable = defers_by_default() if deferrable is None else deferrable
        self._cluster_id: str | None = None

    @cached_property
    def hook(self) -> EmrClusterHook:
        return EmrClusterHook(self.aws_conn_id, self.region_name)

    def execute(self, context: Context) -> str:
        with retry_only_what_can_pass():
            spec: ClusterSpec = checked(ClusterSpec, self.spec, of="The cluster's spec")
            self._cluster_id = cluster_id = self.hook.create(spec)
            self.log.info("EMR makes cluster %s (%s)", cluster_id, spec.name)
            try:
                self._show(context, cluster_id, spec.log_uri)
                if not self.wait:
                    return cluster_id
                payload = wait_for(self, self._trigger, timeout=self.wait_timeout, deferrable=self.deferrable)
                return self._settle(payload)
            except Exception:
                self._end(cluster_id)
                raise

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        self._cluster_id = event["cluster_id"]
        with retry_only_what_can_pass():
            try:
                return self._settle(event)
            except Exception:
                self._end(event["cluster_id"])
                raise

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        if next_method == RESUMED_TO_FAIL:
            # What defer() carried is gone on this path, so the id comes from the XCom pushed before it.
            ti: Any = context["ti"]
            pushed = ti.xcom_pull(task_ids=self.task_id, key=CLUSTER_ID_KEY, map_indexes=ti.map_index)
            if pushed:
                self._end(pushed)
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        if self._cluster_id is not None:
            self._end(self._cluster_id)

    def _trigger(self, deadline: str) -> EmrClusterStateTrigger:
        assert self._cluster_id is not None
        return EmrClusterStateTrigger(
            cluster_id=self._cluster_id,
            target_states=sorted(CLUSTER_READY),
            terminate_on_kill=True,
            aws_conn_id=self.aws_conn_id,
            region_name=self.region_name,
            poll_interval=self.poll_interval,
            deadline=deadline,
        )

    def _settle(self, payload: dict[str, Any]) -> str:
        cluster_id = str(payload["cluster_id"])
        raise_if_not_waited(payload, f"cluster {cluster_id} to take steps")
        if cluster_state(payload["cluster"]) in CLUSTER_ENDED:
            raise cluster_failure(payload["cluster"])
        self.log.info("Cluster %s is up", cluster_id)
        return cluster_id

    def _show(self, context: Context, cluster_id: str, log_uri: str | None) -> None:
        ti: Any = context["ti"]
        ti.xcom_push(key=CLUSTER_ID_KEY, value=cluster_id)
        where = {"region": self.hook.clients.region, "partition": self.hook.clients.partition}
        EmrClusterLink.push(ti, cluster_url(cluster_id, **where))
        EmrLogsLink.push(ti, logs_url(log_uri, cluster_id, **where))

    def _end(self, cluster_id: str) -> None:
        """End the cluster as well as can be; what failed before this must stay the error that is seen."""
        try:
            if self.spec.get("termination_protection"):
                self.hook.lift_protection(
                    cluster_id
                )  # it was asked for a cluster that serves, not for this one
            self.hook.terminate(cluster_id)
        except EmrEtlError as error:
            self.log.warning("Cluster %s could not be ended and may still cost: %s", cluster_id, error)
        else:
            self.log.info("Ended cluster %s", cluster_id)


class EmrTerminateClusterOperator(BaseOperator):
    """End a cluster. Idempotent: a cluster that has ended, or that was never made, is well.

    :param cluster_id: (templated)
    :param lift_protection: turn termination protection off first
    :param wait: True waits until the cluster is gone
    :param wait_timeout: how long to wait, a timedelta or seconds
    :param deferrable: wait in the triggerer; the default is ``[emr_etl] deferrable``, which is True
    """

    template_fields: Sequence[str] = ("cluster_id", "aws_conn_id", "region_name")
    operator_extra_links = (EmrClusterLink(),)
    ui_color = "#f9c915"

    def __init__(
        self,
        *,
        cluster_id: str,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        lift_protection: bool = False,
        wait: bool = False,
        wait_timeout: timedelta | float = timedelta(minutes=30),
        poll_interval: float = 30.0,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.lift_protection = lift_protection
        self.wait = wait
        self.wait_timeout = as_timedelta(wait_timeout)
        self.poll_interval = poll_interval
        self.deferrable = defers_by_default() if deferrable is None else deferrable

    @cached_property
    def hook(self) -> EmrClusterHook:
        return EmrClusterHook(self.aws_conn_id, self.region_name)

    def execute(self, context: Context) -> None:
        if self.cluster_id in (None, "", "None"):
            self.log.info("No cluster was made, so there is none to end")
            return
        with retry_only_what_can_pass():
            if self.lift_protection:
                self.hook.lift_protection(self.cluster_id)
            self.hook.terminate(self.cluster_id)
            self.log.info("Told EMR to end cluster %s", self.cluster_id)
            where = {"region": self.hook.clients.region, "partition": self.hook.clients.partition}
            EmrClusterLink.push(context["ti"], cluster_url(self.cluster_id, **where))
            if self.wait:
                payload = wait_for(self, self._trigger, timeout=self.wait_timeout, deferrable=self.deferrable)
                self._settle(payload)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        with retry_only_what_can_pass():
            self._settle(event)

    def _trigger(self, deadline: str) -> EmrClusterStateTrigger:
        return EmrClusterStateTrigger(
            cluster_id=self.cluster_id,
            target_states=sorted(CLUSTER_ENDED),
            aws_conn_id=self.aws_conn_id,
            region_name=self.region_name,
            poll_interval=self.poll_interval,
            deadline=deadline,
        )

    def _settle(self, payload: dict[str, Any]) -> None:
        raise_if_not_waited(payload, f"cluster {payload['cluster_id']} to end")
        self.log.info("Cluster %s is gone", payload["cluster_id"])
