"""Create and end a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_emr_etl.exceptions import (
    CapacityError,
    ClusterLostError,
    EmrEtlError,
    TaskKilledError,
    WaitTimeoutError,
)
from airflow_emr_etl.hooks.cluster_keeper import closed
from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook, cluster_failure, cluster_state
from airflow_emr_etl.links.emr import EmrClusterLink, EmrLogsLink, cluster_url, logs_url
from airflow_emr_etl.models.cluster import ClusterSpec
from airflow_emr_etl.models.intent import TAG_CLOSED, tags_for_run, tags_in
from airflow_emr_etl.models.plan import ClusterPlan
from airflow_emr_etl.models.states import CLUSTER_ENDED, CLUSTER_READY
from airflow_emr_etl.operators.base import EmrOperator, has_more_tries, is_retry, run_start, scope_of
from airflow_emr_etl.operators.failures import checked, retry_only_what_can_pass
from airflow_emr_etl.operators.waiting import RESUMED_TO_FAIL, raise_if_not_waited
from airflow_emr_etl.triggers.emr_cluster import EmrClusterStateTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

#: XCom key of the id, there as soon as EMR has given it.
CLUSTER_ID_KEY = "cluster_id"
#: XCom key of what the cluster is made of, for whoever has to replace it.
PLAN_KEY = "emr_cluster_plan"


class EmrCreateClusterOperator(EmrOperator):
    """Bring a cluster up and wait until it takes steps. Returns its id.

    A retry takes over what an earlier try has made, so there is one cluster whatever dies on the way. While
    EC2 has no capacity the spec's ladder is walked. A cluster that does not come up, or whose task is
    killed, is ended again.

    :param spec: the cluster, a ``ClusterSpec`` or its fields (templated, checked again after rendering)
    :param wait: False returns the id at once

    The other parameters are those of ``EmrOperator``.
    """

    template_fields: Sequence[str] = ("spec", "aws_conn_id", "region_name")
    template_fields_renderers: ClassVar[dict[str, str]] = {"spec": "json"}
    operator_extra_links = (EmrClusterLink(), EmrLogsLink())
    ui_color = "#f9c915"

    def __init__(
        self,
        *,
        spec: ClusterSpec | Mapping[str, Any],
        wait: bool = True,
        wait_timeout: timedelta | float = timedelta(hours=1),
        **kwargs: Any,
    ) -> None:
        super().__init__(wait_timeout=wait_timeout, **kwargs)
        self.spec = spec.document() if isinstance(spec, ClusterSpec) else spec
        self.wait = wait
        self._plan: ClusterPlan | None = None
        self._cluster_id: str | None = None
        self._killed = False

    @cached_property
    def hook(self) -> EmrClusterHook:
        return self.cluster_keeper.hook

    def make_plan(self, context: Context) -> ClusterPlan:
        """What the cluster is made of, and whose it is, from the rendered fields."""
        spec: ClusterSpec = checked(ClusterSpec, self.spec, of="The cluster's spec")
        scope = scope_of(context)
        if not scope.site:
            self.log.info(
                "This Airflow has no name of its own. Where another shares its AWS account and the names of its "
                "DAGs, set [emr_etl] site in both, so that neither takes the other's clusters for its own."
            )
        return ClusterPlan.of_spec(spec, scope.lineage, tags_for_run(scope))

    def execute(self, context: Context) -> str:
        with retry_only_what_can_pass():
            self._plan = plan = self.make_plan(context)
            try:
                self._push(context, PLAN_KEY, plan.document())
                found = self.cluster_keeper.ensure(plan, again=is_retry(context))
                self.log.info("Cluster %s (%s) of EMR serves this run", found.id, found.name)
                return self._await(context, plan, found.id, self.new_deadline())
            except Exception as error:
                self._give_up(context, error)
                raise

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        carry = event["carry"]
        self._cluster_id = event["cluster_id"]
        with retry_only_what_can_pass():
            self._plan = plan = self._pushed_plan(context)
            try:
                cluster_id = self._judge(context, plan, event)
                if cluster_id is not None:
                    return cluster_id
                return self._await(context, plan, self._cluster_id, datetime.fromisoformat(carry["deadline"]))
            except Exception as error:
                self._give_up(context, error)
                raise

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        if next_method == RESUMED_TO_FAIL:
            # What defer() carried is gone on this path, so the id comes from the XCom pushed before it.
            ti: Any = context["ti"]
            self._cluster_id = ti.xcom_pull(
                task_ids=self.task_id, key=CLUSTER_ID_KEY, map_indexes=ti.map_index
            )
            self._end(scope_of(context).lineage)
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        self._killed = True
        if self._plan is not None:
            self._end(self._plan.lineage)

    def _await(self, context: Context, plan: ClusterPlan, cluster_id: str, deadline: datetime) -> str:
        while True:
            self._cluster_id = cluster_id
            if self._killed:  # on_kill came while the cluster was being made, and knew of none
                self._end(plan.lineage)
                raise TaskKilledError("This task was told to stop, and ended its cluster.")
            self._show(context, cluster_id, plan)
            if not self.wait:
                return self.cluster_keeper.settle(plan, cluster_id).id
            payload = self.wait_by(
                EmrClusterStateTrigger,
                deadline,
                {"deadline": deadline.isoformat()},
                cluster_id=cluster_id,
                target_states=sorted(CLUSTER_READY),
                terminate_on_kill=True,
                lift_protection=plan.protected,
            )
            ready = self._judge(context, plan, payload)
            if ready is not None:
                return ready
            cluster_id = self._cluster_id

    def _judge(self, context: Context, plan: ClusterPlan, payload: dict[str, Any]) -> str | None:
        """The id of the cluster that is up; None where another, now in ``_cluster_id``, has to be waited for."""
        cluster_id = str(payload["cluster_id"])
        raise_if_not_waited(payload, f"cluster {cluster_id} to take steps")
        if cluster_state(payload["cluster"]) in CLUSTER_ENDED:
            self._cluster_id = self._after(context, payload["cluster"], plan, again=is_retry(context))
            return None
        if TAG_CLOSED in tags_in(payload["cluster"]):
            # A teardown meant to end it and could not; a run that was cleared since needs one that stays.
            self.log.warning(
                "Cluster %s was closed by a teardown and is there still; it is ended", cluster_id
            )
            self.cluster_keeper.end_all(None, cluster_id, lift_protection=plan.protected)
            self._cluster_id = self.cluster_keeper.ensure(plan, again=True).id
            return None
        self.cluster_keeper.end_superseded(plan)
        try:
            winner = self.cluster_keeper.settle(plan, cluster_id)
        except ClusterLostError:
            ended = self.hook.describe(cluster_id)
            self._cluster_id = self._after(context, ended, plan, again=True)
            return None
        self._cluster_id = winner.id
        if not winner.is_ready:
            return None
        self._show(context, winner.id, plan)
        self.log.info("Cluster %s is up", winner.id)
        return winner.id

    def _after(self, context: Context, ended: Mapping[str, Any], plan: ClusterPlan, *, again: bool) -> str:
        """The id of the cluster that takes the place of one that did not come up."""
        if self._killed:
            raise TaskKilledError("This task was told to stop, and ended its cluster.")
        if TAG_CLOSED in tags_in(ended):
            raise closed(str(ended["Id"]))
        # An earlier try that was killed may end late what this one took over.
        failure = cluster_failure(ended, served=again)
        if not isinstance(failure, CapacityError | ClusterLostError):
            raise failure
        return self.cluster_keeper.replace(plan, ended, again=again, since=run_start(context)).id

    def _show(self, context: Context, cluster_id: str, plan: ClusterPlan) -> None:
        self._push(context, CLUSTER_ID_KEY, cluster_id)
        where = {"region": self.clients.region, "partition": self.clients.partition}
        EmrClusterLink.push(context["ti"], cluster_url(cluster_id, **where))
        log_uri = plan.requests[0].get("LogUri")
        EmrLogsLink.push(context["ti"], logs_url(log_uri, cluster_id, **where))

    def _pushed_plan(self, context: Context) -> ClusterPlan:
        """The plan that this try began with, whatever became of the DAG's file since."""
        ti: Any = context["ti"]
        document = ti.xcom_pull(task_ids=self.task_id, key=PLAN_KEY, map_indexes=ti.map_index)
        return ClusterPlan.from_document(document) if document else self.make_plan(context)

    @staticmethod
    def _push(context: Context, key: str, value: Any) -> None:
        ti: Any = context["ti"]
        ti.xcom_push(key=key, value=value)

    def _give_up(self, context: Context, error: Exception) -> None:
        """After a failure: what a later try can take over is left to it, anything else is ended."""
        can_pass = getattr(error, "retryable", True) and not isinstance(error, WaitTimeoutError)
        if can_pass and has_more_tries(context):
            self.log.info("What was made is left to the next try of this task")
        elif self._plan is not None:
            self._end(self._plan.lineage)

    def _end(self, lineage: str) -> None:
        """End the cluster as well as can be; what failed before this must stay the error that is seen."""
        protected = bool(self.spec.get("termination_protection")) if isinstance(self.spec, Mapping) else False
        try:
            ended = self.cluster_keeper.end_all(
                lineage, self._cluster_id, lift_protection=protected, for_good=False
            )
        except EmrEtlError as error:
            self.log.warning("A cluster of this task may still cost: %s", error)
        else:
            self.log.info("Ended cluster %s", ", ".join(ended) or "- there was none")


class EmrTerminateClusterOperator(EmrOperator):
    """End a cluster, and whatever replaced it. Idempotent: one that has ended, or was never made, is well.

    :param cluster_id: (templated)
    :param cluster_task_id: the task of the same run that brought the cluster up: whatever else was made
        for that task, such as a replacement, or a cluster whose id nobody learnt, is ended too
    :param lift_protection: turn termination protection off first
    :param wait: True waits until the cluster is gone

    The other parameters are those of ``EmrOperator``.
    """

    template_fields: Sequence[str] = ("cluster_id", "aws_conn_id", "region_name")
    operator_extra_links = (EmrClusterLink(),)
    ui_color = "#f9c915"

    def __init__(
        self,
        *,
        cluster_id: str,
        cluster_task_id: str | None = None,
        lift_protection: bool = False,
        wait: bool = False,
        wait_timeout: timedelta | float = timedelta(minutes=30),
        **kwargs: Any,
    ) -> None:
        super().__init__(wait_timeout=wait_timeout, **kwargs)
        self.cluster_id = cluster_id
        self.cluster_task_id = cluster_task_id
        self.lift_protection = lift_protection
        self.wait = wait

    @cached_property
    def hook(self) -> EmrClusterHook:
        return self.cluster_keeper.hook

    def execute(self, context: Context) -> None:
        known = None if self.cluster_id in (None, "", "None") else self.cluster_id
        lineage = scope_of(context, self.cluster_task_id).lineage if self.cluster_task_id else None
        # Not through retry_only_what_can_pass: while a cluster costs, trying again is right after any error.
        ended = self.cluster_keeper.end_all(lineage, known, lift_protection=self.lift_protection)
        if not ended:
            self.log.info("There is no cluster to end")
            return
        self.log.info("Told EMR to end cluster %s", ", ".join(ended))
        where = {"region": self.clients.region, "partition": self.clients.partition}
        EmrClusterLink.push(context["ti"], cluster_url(ended[-1], **where))
        if self.wait:
            with retry_only_what_can_pass():
                self._finish(self._wait_for(ended, self.new_deadline()))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        with retry_only_what_can_pass():
            self._finish(event)

    def _finish(self, event: dict[str, Any]) -> None:
        raise_if_not_waited(event, f"cluster {event['cluster_id']} to end")
        self.log.info("Cluster %s is gone", event["cluster_id"])
        carry = event["carry"]
        if carry["left"]:
            self._finish(self._wait_for(carry["left"], datetime.fromisoformat(carry["deadline"])))

    def _wait_for(self, cluster_ids: Sequence[str], deadline: datetime) -> dict[str, Any]:
        first, *left = cluster_ids
        return self.wait_by(
            EmrClusterStateTrigger,
            deadline,
            {"left": left, "deadline": deadline.isoformat()},
            cluster_id=first,
            target_states=sorted(CLUSTER_ENDED),
        )
