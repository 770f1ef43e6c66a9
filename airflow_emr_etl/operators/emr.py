"""The Amazon provider's operators for EMR clusters, by the same names and parameters.

A DAG written for ``airflow.providers.amazon.aws.operators.emr`` imports them from here instead, and nothing else
in it changes. They stand on this package's engine: one cluster for one task, each step once, whatever dies on
the way. ``docs/change-one-import.md`` says what else is different. Every other name of that module is passed
through, and loaded only when it is asked for.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.common.compat.sdk import AirflowException, conf
from airflow.sdk import BaseOperator

from airflow_emr_etl.exceptions import (
    ClusterError,
    ClusterFullError,
    ClusterLostError,
    ClusterNotFoundError,
    ConfigurationError,
    EmrEtlError,
    StepCancelledError,
    StepFailedError,
    TaskKilledError,
    WaitTimeoutError,
)
from airflow_emr_etl.hooks.attempts import LOOK_EVERY_SECONDS
from airflow_emr_etl.hooks.aws_errors import aws_call
from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK, Clock
from airflow_emr_etl.hooks.cluster_keeper import ClusterKeeper
from airflow_emr_etl.hooks.emr import ConfiguredClients, stop_steps
from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook, cluster_failure, cluster_state
from airflow_emr_etl.hooks.emr_step import EmrStepHook, step_failure, step_state
from airflow_emr_etl.hooks.step_keeper import INTERRUPT_SECONDS, StepKeeper, WantedStep
from airflow_emr_etl.links.emr import EmrClusterLink, EmrLogsLink
from airflow_emr_etl.models.intent import (
    TAG_LINEAGE,
    TAG_MAX_IDLE,
    TAG_TASK,
    ClusterMark,
    StepIntent,
    StepMark,
    digest_of,
    tags_for_run,
    tags_in,
)
from airflow_emr_etl.models.plan import ClusterPlan
from airflow_emr_etl.models.states import (
    CLUSTER_ENDED,
    CLUSTER_ENDING,
    CLUSTER_LIVE,
    CLUSTER_READY,
    STEP_ACTIVE,
    STEP_ENDED,
    STEP_SUCCEEDED,
    ClusterEndCode,
    ClusterState,
    StepState,
)
from airflow_emr_etl.models.step import MAX_ACTIVE_STEPS
from airflow_emr_etl.operators.base import (
    KILL_GRACE_SECONDS,
    clears_of,
    has_more_tries,
    is_retry,
    run_start,
    scope_of,
)
from airflow_emr_etl.operators.drop_in import (
    DEFAULT_DEFERRABLE,
    as_airflow_exceptions,
    official_name,
    parsed,
    show_links,
    warn_of_region,
    with_connection,
)
from airflow_emr_etl.operators.emr_cluster import PLAN_KEY
from airflow_emr_etl.operators.waiting import RESUMED_TO_FAIL, deadline_of, raise_if_not_waited, wait_for
from airflow_emr_etl.triggers.emr import EmrJobFlowRoomTrigger, EmrJobFlowTrigger, EmrStepsTrigger
from airflow_emr_etl.triggers.polling import PollingTrigger, error_from

if TYPE_CHECKING:
    from airflow.providers.amazon.aws.utils.waiter import WaitPolicy
    from airflow.sdk import Context

#: XCom key of the id of the cluster that the steps are on.
JOB_FLOW_ID_KEY = "job_flow_id"
_OFFICIAL = "airflow.providers.amazon.aws.operators.emr"
#: A day of looks at the default ``waiter_delay``. The official 60 give up on a step after half an hour, and
#: leave it running.
_STEP_ATTEMPTS = 2880
#: A job flow that is waited for to the end of its steps may take a day, too.
_JOB_FLOW_ATTEMPTS = 1440
#: How often a cluster is asked for when it is lost, and its replacement does not come up for want of machines.
_CAPACITY_ATTEMPTS = 3
_RELEASE = re.compile(r"emr-(\d+)\.(\d+)")
_INJECT_PARENT = bool(conf.getboolean("openlineage", "spark_inject_parent_job_info", fallback=False))


class _EmrOperator(BaseOperator):
    """Clients, links and waits of the operators here.

    :param aws_conn_id: Airflow connection (templated)
    :param region_name: overrides the connection's region (templated)
    :param verify: whether, or by which bundle, TLS certificates are checked (templated)
    :param botocore_config: settings of boto3's client; the two writes are sent once whatever it says
    :param region: accepted, and without effect, as with the Amazon provider
    """

    ui_color = "#f9c915"
    operator_extra_links = (EmrClusterLink(), EmrLogsLink())
    #: Where the operator's time comes from.
    clock: Clock = SYSTEM_CLOCK

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

    @cached_property
    def clients(self) -> ConfiguredClients:
        return ConfiguredClients(
            self.aws_conn_id, self.region_name, verify=self.verify, botocore_config=self.botocore_config
        )

    @cached_property
    def clusters(self) -> ClusterKeeper:
        return ClusterKeeper(EmrClusterHook(clients=self.clients), self.clock)

    @cached_property
    def steps_keeper(self) -> StepKeeper:
        return StepKeeper(EmrStepHook(clients=self.clients), self.clock)

    def _wait_by(
        self,
        trigger: Callable[..., PollingTrigger],
        *,
        deadline: datetime,
        delay: float,
        deferrable: bool,
        carry: dict[str, Any] | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        settings = {"verify": self.verify, "botocore_config": self.botocore_config}
        return wait_for(
            self,
            lambda until: trigger(
                **fields,
                **settings,
                aws_conn_id=self.aws_conn_id,
                region_name=self.region_name,
                poll_interval=delay,
                deadline=until,
                carry=carry,
            ),
            deadline=deadline,
            deferrable=deferrable,
            clock=self.clock,
        )

    def _show(self, context: Context, cluster_id: str, log_uri: str | None = None) -> None:
        if self.do_xcom_push:
            show_links(context, self.clients, cluster_id, log=self.log, log_uri=log_uri)

    def _is_left_to_next_try(self, context: Context, error: Exception) -> bool:
        """Whether what this try has running is taken over by the next one."""
        can_pass = getattr(error, "retryable", True) and not isinstance(error, WaitTimeoutError)
        return bool(can_pass) and has_more_tries(context)


class EmrCreateJobFlowOperator(_EmrOperator):
    """Make a cluster and return its id.

    A retry takes over the cluster that an earlier try has made, and a job flow that has run all its steps
    meanwhile; a request whose answer was lost is never sent again before EMR's list was looked at. The name
    gets a mark behind it, and the request some tags, by which the cluster is found again.

    :param emr_conn_id: connection of type ``emr`` whose extra holds RunJobFlow's arguments; an empty beginning
        where there is none (templated)
    :param job_flow_overrides: RunJobFlow's arguments, each over that of the connection: a mapping, text that
        holds one as JSON or as a Python literal, or the name of a ``.json`` file (templated)
    :param wait_for_completion: True waits until the cluster takes steps
    :param wait_policy: what to wait for: ``WaitPolicy.WAIT_FOR_COMPLETION``, until the cluster takes steps, or
        ``WaitPolicy.WAIT_FOR_STEPS_COMPLETION``, until it has ended
    :param waiter_max_attempts: times ``waiter_delay``, how long to wait; an hour by default, and a day with
        WAIT_FOR_STEPS_COMPLETION (templated)
    :param waiter_delay: longest time between two looks, in seconds; 60 by default (templated)
    :param deferrable: wait in the triggerer, where there is something to wait for
    :param terminate_job_flow_on_failure: end the cluster when the wait for it fails and no retry can take it over
    """

    template_fields: Sequence[str] = (
        "aws_conn_id",
        "emr_conn_id",
        "job_flow_overrides",
        "region_name",
        "verify",
        "waiter_delay",
        "waiter_max_attempts",
    )
    template_ext: Sequence[str] = (".json",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"job_flow_overrides": "json"}

    def __init__(
        self,
        *,
        emr_conn_id: str | None = "emr_default",
        job_flow_overrides: str | dict[str, Any] | None = None,
        wait_for_completion: bool | None = None,
        wait_policy: WaitPolicy | None = None,
        waiter_max_attempts: int | None = None,
        waiter_delay: int | None = None,
        deferrable: bool = DEFAULT_DEFERRABLE,
        terminate_job_flow_on_failure: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if wait_policy is not None and wait_for_completion is False:
            warnings.warn(
                "wait_policy is set, so the task waits although wait_for_completion is False. Leave one of them out.",
                UserWarning,
                stacklevel=2,
            )
        self.emr_conn_id = emr_conn_id
        self.job_flow_overrides = job_flow_overrides or {}
        self.wait_policy = wait_policy
        self.wait_for_completion = wait_policy is not None or bool(wait_for_completion)
        self.waiter_max_attempts = waiter_max_attempts
        self.waiter_delay = waiter_delay or 60
        self.deferrable = deferrable
        self.terminate_job_flow_on_failure = terminate_job_flow_on_failure
        self._lineage: str | None = None
        self._job_flow_id: str | None = None

    def make_plan(self, context: Context) -> ClusterPlan:
        """What the cluster is made of, and whose it is, from the rendered fields."""
        overrides = parsed(self.job_flow_overrides, dict, of="job_flow_overrides")
        request = with_idle_end(with_connection(self.emr_conn_id, overrides, self.log))
        if not request.get("Name"):
            raise ConfigurationError(
                "The cluster has no name. Set 'Name' in job_flow_overrides, or in the extra of the connection "
                f"{self.emr_conn_id!r}."
            )
        scope = scope_of(context)
        tags = tags_for_run(scope)
        idle = (request.get("AutoTerminationPolicy") or {}).get("IdleTimeout")
        if idle:
            tags[TAG_MAX_IDLE] = str(idle)
        spec = digest_of(request, 8)
        if ends_by_itself(request):
            # What an earlier run of a task that was cleared has done does not count, and neither does its cluster.
            spec = digest_of([request, clears_of(self, context)], 8)
        # There is one way to make it, which is tried again where EC2 had no capacity.
        return ClusterPlan(scope.lineage, spec, [request] * _CAPACITY_ATTEMPTS, tags)

    def execute(self, context: Context) -> str | None:
        with as_airflow_exceptions():
            plan = self.make_plan(context)
            self._lineage = plan.lineage
            ti: Any = context["ti"]
            try:
                if self.do_xcom_push:
                    ti.xcom_push(key=PLAN_KEY, value=plan.document())
                done = self._done_before(context, plan)
                if done is not None:
                    self._show(context, done, plan.requests[0].get("LogUri"))
                    return done
                found = self.clusters.ensure(plan, again=is_retry(context))
                self._job_flow_id = found.id
                self.log.info("Job flow %s (%s) is this task's", found.id, found.name)
                if is_retry(context):
                    self.clusters.end_superseded(plan)
                self._job_flow_id = self._settled(plan, found.id)
                self._show(context, self._job_flow_id, plan.requests[0].get("LogUri"))
                if not self.wait_for_completion:
                    return self._job_flow_id
                attempts = int(
                    self.waiter_max_attempts or (_JOB_FLOW_ATTEMPTS if self._waits_for_steps() else 60)
                )
                limit = timedelta(seconds=attempts * float(self.waiter_delay))
                payload = self._wait_by(
                    EmrJobFlowTrigger,
                    deadline=deadline_of(self, limit, self.clock),
                    delay=float(self.waiter_delay),
                    deferrable=self.deferrable,
                    cluster_id=self._job_flow_id,
                    target_states=[] if self._waits_for_steps() else sorted(CLUSTER_READY),
                    terminate_on_kill=True,
                )
                return self._judged(payload)
            except Exception as error:
                self._give_up(context, error)
                raise

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> str:
        assert event is not None
        self._job_flow_id, self._lineage = event["cluster_id"], scope_of(context).lineage
        with as_airflow_exceptions():
            try:
                return self._judged(event)
            except Exception as error:
                self._give_up(context, error)
                raise

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        if next_method == RESUMED_TO_FAIL and self.terminate_job_flow_on_failure:
            self._end(scope_of(context).lineage)
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        if self._lineage is not None:
            self._end(self._lineage)

    def _waits_for_steps(self) -> bool:
        # By its text, since the class of the policies is in a module that loads botocore.
        return str(getattr(self.wait_policy, "value", self.wait_policy)) == "wait_for_steps_completion"

    def _done_before(self, context: Context, plan: ClusterPlan) -> str | None:
        """The job flow of an earlier try that has run all its steps and ended, where this one would do so."""
        if not (is_retry(context) and ends_by_itself(plan.requests[0])):
            return None
        for found in self.clusters.ever(plan.lineage, run_start(context)):
            if (
                found.state is ClusterState.TERMINATED
                and found.mark.serves(plan.mark())
                and _has_run_its_steps(self.clusters.hook.describe(found.id))
            ):
                self.log.info("Job flow %s of an earlier try has run all its steps", found.id)
                return found.id
        return None

    def _settled(self, plan: ClusterPlan, cluster_id: str) -> str:
        try:
            return self.clusters.settle(plan, cluster_id).id
        except ClusterLostError:
            if ends_by_itself(plan.requests[0]) and _has_run_its_steps(
                self.clusters.hook.describe(cluster_id)
            ):
                return cluster_id  # it was quick
            raise

    def _judged(self, payload: dict[str, Any]) -> str:
        cluster_id = str(payload["cluster_id"])
        goal = "to end" if self._waits_for_steps() else "to take steps"
        raise_if_not_waited(payload, f"cluster {cluster_id} {goal}")
        cluster = payload["cluster"]
        state = cluster_state(cluster)
        if state in CLUSTER_ENDED and not (
            state is ClusterState.TERMINATED and (self._waits_for_steps() or _has_run_its_steps(cluster))
        ):
            raise cluster_failure(cluster, served=self._waits_for_steps())
        self.log.info("Job flow %s is %s", cluster_id, state.value)
        return cluster_id

    def _give_up(self, context: Context, error: Exception) -> None:
        if self._is_left_to_next_try(context, error):
            self.log.info("What was made is left to the next try of this task")
        elif self.terminate_job_flow_on_failure:
            self._end(scope_of(context).lineage)

    def _end(self, lineage: str) -> None:
        """End the cluster as well as can be; what failed before this must stay the error that is seen."""
        try:
            ended = self.clusters.end_all(lineage, self._job_flow_id, for_good=False)
        except EmrEtlError as error:
            self.log.warning("A cluster of this task may still cost: %s", error)
        else:
            self.log.info("Ended %s", ", ".join(ended) or "nothing: there was no cluster")


@dataclass
class _Progress:
    """How far a try has come; it travels with every deferral."""

    cluster_id: str
    deadline: str
    phase: Literal["steps", "cluster", "room"] = "steps"
    """What is waited for: the ends of the steps, a replacement to come up, or room for them."""
    step_ids: dict[str, str] = field(default_factory=dict)
    """The steps on the cluster, by their index."""
    finished: dict[str, str] = field(default_factory=dict)
    """Those that completed on a cluster that was lost since."""
    were_added: bool = False
    """This try has added steps once, on whichever cluster."""


class EmrAddStepsOperator(_EmrOperator):
    """Add steps to a cluster and return their ids; wait for them where that is wanted.

    A retry takes over the steps of an earlier try that go on or have completed, and adds the others again; all
    that are missing in one call. Steps that the task waits for, and whose cluster is lost, go on on its
    replacement, where a task of this run made the cluster without steps of its own. A task that is killed, or
    gives up, cancels its steps. The wait ends when all steps have ended, and fails where one of them has.

    :param job_flow_id: the cluster's id (templated)
    :param job_flow_name: instead of the id, the name of the one cluster that has it (templated)
    :param cluster_states: states in which a cluster with that name counts; all by default (templated)
    :param steps: ``StepConfig`` as boto3 takes them: a list, text that holds one as JSON or as a Python
        literal, or the name of a ``.json`` file (templated)
    :param wait_for_completion: wait in the worker; ``deferrable`` waits in any case
    :param waiter_delay: longest time between two looks, in seconds
    :param waiter_max_attempts: times ``waiter_delay``, how long to wait; a day by default
    :param execution_role_arn: runtime role of the steps (templated)
    :param deferrable: wait in the triggerer
    :param openlineage_inject_parent_job_info: tell Spark's OpenLineage listener which task runs it; the default
        is ``[openlineage] spark_inject_parent_job_info``
    """

    template_fields: Sequence[str] = (
        "aws_conn_id",
        "cluster_states",
        "execution_role_arn",
        "job_flow_id",
        "job_flow_name",
        "region_name",
        "steps",
        "verify",
    )
    template_ext: Sequence[str] = (".json",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"steps": "json"}

    def __init__(
        self,
        *,
        job_flow_id: str | None = None,
        job_flow_name: str | None = None,
        cluster_states: list[str] | None = None,
        steps: list[dict[str, Any]] | str | None = None,
        wait_for_completion: bool = False,
        waiter_delay: int = 30,
        waiter_max_attempts: int = _STEP_ATTEMPTS,
        execution_role_arn: str | None = None,
        deferrable: bool = DEFAULT_DEFERRABLE,
        openlineage_inject_parent_job_info: bool = _INJECT_PARENT,
        **kwargs: Any,
    ) -> None:
        if (job_flow_id is None) == (job_flow_name is None):
            raise AirflowException("Exactly one of job_flow_id or job_flow_name must be specified.")
        super().__init__(**kwargs)
        self.job_flow_id = job_flow_id
        self.job_flow_name = job_flow_name
        self.cluster_states = cluster_states or []
        self.steps = steps or []
        self.wait_for_completion = False if deferrable else wait_for_completion
        self.waiter_delay = waiter_delay
        self.waiter_max_attempts = waiter_max_attempts
        self.execution_role_arn = execution_role_arn
        self.deferrable = deferrable
        self.openlineage_inject_parent_job_info = openlineage_inject_parent_job_info
        self._progress: _Progress | None = None
        self._lineages: list[str] = []
        self._killed = False

    def execute(self, context: Context) -> list[str]:
        with as_airflow_exceptions():
            limit = timedelta(seconds=float(self.waiter_delay) * int(self.waiter_max_attempts))
            cluster_id = self.job_flow_id or self._found_by_name()
            deadline = deadline_of(self, limit, self.clock)
            self._progress = _Progress(cluster_id, deadline.isoformat())
            return self._go_on(context, None)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> list[str]:
        assert event is not None
        self._progress = _Progress(**event["carry"])
        with as_airflow_exceptions():
            return self._go_on(context, event)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        if next_method == RESUMED_TO_FAIL:
            # What defer() carried is gone on this path, but the steps have their marks.
            try:
                cluster_id = self.job_flow_id or self._found_by_name()
                self._lineages = [each.intent.lineage for each in self._wanted(context)]
            except (EmrEtlError, AirflowException) as error:
                self.log.warning("The steps of this task are not found, and may go on: %s", error)
            else:
                ti: Any = context["ti"]
                # On a replacement of that cluster, where the XCom says so.
                pushed = ti.xcom_pull(task_ids=self.task_id, key=JOB_FLOW_ID_KEY, map_indexes=ti.map_index)
                self._progress = _Progress(pushed or cluster_id, "")
                self._cancel()
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        self._killed = True
        self._cancel(grace_seconds=KILL_GRACE_SECONDS)

    def _go_on(self, context: Context, event: dict[str, Any] | None) -> list[str]:
        """Do the next thing and wait, until all steps have ended. Every deferral ends here and comes back here."""
        try:
            while True:
                if event is not None and self._is_done(context, event):
                    return self._ids()
                try:
                    event = self._proceed(context)
                except ClusterLostError as error:
                    self.log.warning("%s", error)
                    self._move(context)
                    event = None
                    continue
                if event is None:
                    return self._ids()
        except Exception as error:
            self._give_up(context, error)
            raise

    # What is done before each wait

    def _proceed(self, context: Context) -> dict[str, Any] | None:
        """The event of the next wait; None where there is nothing to wait for."""
        now = self._now
        if now.phase == "cluster":
            return self._wait(
                EmrJobFlowTrigger, cluster_id=now.cluster_id, target_states=sorted(CLUSTER_READY)
            )
        if not now.step_ids:
            try:
                self._ensure(context)
            except ClusterFullError as error:
                now.phase = "room"
                self.log.warning("%s Waiting for room.", error)
                # They are added in one call, so there must be room for all of them.
                most_active = max(1, MAX_ACTIVE_STEPS + 1 - (len(self._lineages) - len(now.finished)))
                return self._wait(
                    EmrJobFlowRoomTrigger, cluster_ids=[now.cluster_id], most_active=most_active, refused=True
                )
        if not now.step_ids or not (self.wait_for_completion or self.deferrable):
            return None
        return self._wait(
            EmrStepsTrigger,
            cluster_id=now.cluster_id,
            step_ids=list(now.step_ids.values()),
            cancel_on_kill=True,
        )

    def _ensure(self, context: Context) -> None:
        now = self._now
        ti: Any = context["ti"]
        if self.do_xcom_push:
            ti.xcom_push(key=JOB_FLOW_ID_KEY, value=now.cluster_id)
        self._show(context, now.cluster_id)
        wanted = self._wanted(context)
        self._lineages = [each.intent.lineage for each in wanted]
        missing = [n for n in range(len(wanted)) if str(n) not in now.finished]
        added = self.steps_keeper.ensure(
            now.cluster_id,
            [wanted[n] for n in missing],
            look_first=is_retry(context) or now.were_added,
            execution_role=self.execution_role_arn or None,
        )
        now.were_added = True
        now.step_ids = {str(n): step.id for n, step in zip(missing, added, strict=True)}
        self.log.info("Steps %s are on cluster %s", ", ".join(now.step_ids.values()), now.cluster_id)

    def _wait(self, trigger: Callable[..., PollingTrigger], **fields: Any) -> dict[str, Any]:
        now = self._now
        return self._wait_by(
            trigger,
            deadline=datetime.fromisoformat(now.deadline),
            delay=float(self.waiter_delay),
            deferrable=self.deferrable,
            carry=asdict(now),
            **fields,
        )

    # What an event means

    def _is_done(self, context: Context, event: dict[str, Any]) -> bool:
        now = self._now
        if now.phase == "room":
            if event["status"] == "error":
                raise error_from(event["error"])
            in_vain = event["status"] == "timeout"
            if in_vain or self.clock.now() >= datetime.fromisoformat(now.deadline):
                raise WaitTimeoutError(
                    "There was no room for the steps in time. Set more waiter_max_attempts."
                )
            now.phase = "steps"
            return False
        if now.phase == "cluster":
            raise_if_not_waited(event, f"cluster {now.cluster_id} to take steps")
            self._take_replacement(context, event["cluster"])
            return False
        raise_if_not_waited(event, f"steps {', '.join(event['step_ids'])} to end")
        failures = [
            step_failure(step, now.cluster_id)
            for step in event["steps"]
            if step_state(step) in STEP_ENDED - STEP_SUCCEEDED
        ]
        if event["status"] == "cluster_ended" or (failures and self._is_lost(event["steps"])):
            self._move(context)
            return False
        if failures:
            told = "\n".join(failure.message for failure in failures)
            raise type(failures[0])(f"Error while running steps: {told}", **failures[0].details)
        self.log.info("Steps completed successfully")
        return True

    def _is_lost(self, steps: Iterable[Mapping[str, Any]]) -> bool:
        """Whether steps ended without success because their cluster did, and not by their own fault."""
        cluster = self.clusters.hook.describe(self._now.cluster_id)
        if cluster_state(cluster) not in CLUSTER_ENDING:
            return False
        code = (cluster["Status"].get("StateChangeReason") or {}).get("Code")
        by_itself = code in (ClusterEndCode.INSTANCE_FAILURE, ClusterEndCode.INTERNAL_ERROR)
        return by_itself or not any(step_state(step) is StepState.FAILED for step in steps)

    # The cluster, and what replaces it

    def _move(self, context: Context) -> None:
        """Go on with the steps on the replacement of the cluster that was lost."""
        now = self._now
        if self._killed:
            raise TaskKilledError("This task was told to stop.")
        lost = self.clusters.hook.describe(now.cluster_id)
        now.step_ids, now.phase = {}, "steps"
        if cluster_state(lost) not in CLUSTER_ENDING:
            # It refused steps as one that ends, and does not show it yet.
            if self.clock.now() >= datetime.fromisoformat(now.deadline):
                raise WaitTimeoutError(f"Cluster {now.cluster_id} took no steps in time.")
            self.clock.sleep(LOOK_EVERY_SECONDS)
            return
        plan = self._plan(context, lost)
        if plan is None:
            raise cluster_failure(lost, served=True)
        now.finished = self._finished(context, plan)
        if len(now.finished) == len(self._wanted(context)):
            return
        found = self.clusters.replace(plan, lost, turn=self._turn(), again=is_retry(context))
        self.log.info("Cluster %s takes the place of %s", found.id, now.cluster_id)
        now.cluster_id, now.phase = found.id, "cluster"

    def _take_replacement(self, context: Context, cluster: Mapping[str, Any]) -> None:
        now = self._now
        plan = self._plan(context, cluster)
        if cluster_state(cluster) in CLUSTER_ENDED or plan is None:
            self._move(context)
            return
        winner = self.clusters.settle(plan, now.cluster_id)
        now.cluster_id = winner.id
        now.phase = "steps" if winner.is_ready else "cluster"

    def _plan(self, context: Context, cluster: Mapping[str, Any]) -> ClusterPlan | None:
        """What ``cluster`` is made of, where a task of this run brought it up and it can be made again."""
        ti: Any = context["ti"]
        tags = tags_in(cluster)
        scope = scope_of(context, tags.get(TAG_TASK))
        if TAG_TASK not in tags or {**tags, **tags_for_run(scope)} != tags:
            return None
        document = ti.xcom_pull(task_ids=tags[TAG_TASK], key=PLAN_KEY)
        if not isinstance(document, Mapping) or document.get("lineage") != tags.get(TAG_LINEAGE):
            return None
        plan = ClusterPlan.from_document(document)
        # Steps of RunJobFlow would run again, and what they did before is not known here.
        return None if plan.requests[0].get("Steps") else plan

    def _finished(self, context: Context, plan: ClusterPlan) -> dict[str, str]:
        """The steps that have completed on clusters of the plan that have ended, by their index."""
        found: dict[str, str] = {}
        wanted = self._wanted(context)
        for cluster in self.clusters.ever(plan.lineage, run_start(context)):
            if cluster.state in CLUSTER_LIVE:
                continue
            steps = self.steps_keeper.found(cluster.id, [each.intent.lineage for each in wanted])
            for n, each in enumerate(wanted):
                meant = (each.intent.lineage, each.digest(), each.intent.clears)
                for step in steps:
                    if (
                        (step.mark.lineage, step.mark.content, step.mark.clears) == meant
                        and step.state in STEP_SUCCEEDED
                        and not step.mark.on_hdfs
                    ):
                        found[str(n)] = step.id
        return found

    def _turn(self) -> int:
        """The place of this task among those whose steps were lost with the cluster; they meet on one replacement."""
        steps = self.steps_keeper.found(self._now.cluster_id)
        order = list(dict.fromkeys(step.mark.lineage for step in steps if step.state not in STEP_SUCCEEDED))
        return next((n for n, lineage in enumerate(order) if lineage in self._lineages), len(order))

    @property
    def _now(self) -> _Progress:
        assert self._progress is not None
        return self._progress

    def _ids(self) -> list[str]:
        ids = {**self._now.finished, **self._now.step_ids}
        return [ids[str(n)] for n in range(len(ids))]

    def _wanted(self, context: Context) -> list[WantedStep]:
        steps = parsed(self.steps, list, of="steps")
        parent = self._parent_arguments(context) if self.openlineage_inject_parent_job_info else []
        clears, since = clears_of(self, context), run_start(context)
        wanted = []
        for n, step in enumerate(steps):
            if not step.get("Name"):
                raise ConfigurationError(f"Step {n} has no 'Name'.")
            intent = StepIntent(
                digest_of([scope_of(context).lineage, n]),
                clears,
                # What it leaves in HDFS is gone with the cluster.
                on_hdfs="hdfs:" in str(step.get("HadoopJarStep")),
                not_before=since,
            )
            # Without the parent's arguments, which are different in each try.
            wanted.append(WantedStep(intent, _always(_with_arguments(step, parent)), digest_of(step, 8)))
        return wanted

    def _parent_arguments(self, context: Context) -> list[str]:
        from airflow.providers.common.compat.openlineage.utils.spark import (
            inject_parent_job_information_into_spark_properties,
        )

        properties = inject_parent_job_information_into_spark_properties({}, context)
        return [word for key, value in properties.items() for word in ("--conf", f"{key}={value}")]

    def _found_by_name(self) -> str:
        try:
            states = [ClusterState(state) for state in self.cluster_states]
        except ValueError as error:
            raise ConfigurationError(
                f"cluster_states is {self.cluster_states!r}. A state is one of {', '.join(ClusterState)}."
            ) from error
        name = str(self.job_flow_name)
        found = [
            cluster
            for cluster in self.clusters.hook.list_clusters(states or ClusterState)
            if _is_called(cluster["Name"], name)
        ]
        if len(found) > 1:
            raise AirflowException(
                f"More than one cluster found for name {name}: {', '.join(cluster['Id'] for cluster in found)}"
            )
        if not found:
            raise AirflowException(f"No cluster found for name: {name}")
        return str(found[0]["Id"])

    def _give_up(self, context: Context, error: Exception) -> None:
        """After a failure: what goes on is left to a next try that can take it over, else cancelled."""
        if self._is_left_to_next_try(context, error):
            self.log.info("Steps that go on are left to the next try of this task")
        elif not isinstance(error, ClusterError | StepFailedError | StepCancelledError):
            self._cancel()

    def _cancel(self, *, grace_seconds: float = INTERRUPT_SECONDS) -> None:
        """Cancel the steps as well as can be; what failed before this must stay the error that is seen."""
        if self._progress is None:
            return
        cluster_id = self._progress.cluster_id
        try:
            ids = list(self._progress.step_ids.values()) or [
                step.id
                for step in self.steps_keeper.found(cluster_id, self._lineages)
                if step.state in STEP_ACTIVE
            ]
            if ids:
                stop_steps(self.steps_keeper, cluster_id, ids, grace_seconds=grace_seconds)
                self.log.info("Asked EMR to cancel steps %s", ", ".join(ids))
        except EmrEtlError as error:
            self.log.warning("The steps of this task may go on: %s", error)


class EmrModifyClusterOperator(_EmrOperator):
    """Set how many steps a cluster runs at once, and return the number.

    :param cluster_id: the cluster's id (templated)
    :param step_concurrency_level: from 1 to 256 (templated)
    """

    template_fields: Sequence[str] = (
        "aws_conn_id",
        "cluster_id",
        "region_name",
        "step_concurrency_level",
        "verify",
    )
    template_ext: Sequence[str] = ()

    def __init__(self, *, cluster_id: str, step_concurrency_level: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.step_concurrency_level = step_concurrency_level

    def execute(self, context: Context) -> int:
        with as_airflow_exceptions():
            ti: Any = context["ti"]
            if self.do_xcom_push:
                ti.xcom_push(key="cluster_id", value=self.cluster_id)
            with aws_call("emr:ModifyCluster"):
                answer = self.clients.reads.modify_cluster(
                    ClusterId=self.cluster_id, StepConcurrencyLevel=int(self.step_concurrency_level)
                )
            self._show(context, self.cluster_id)
            level = int(answer["StepConcurrencyLevel"])
            self.log.info("Cluster %s runs %d steps at once", self.cluster_id, level)
            return level


class EmrTerminateJobFlowOperator(_EmrOperator):
    """End a cluster, and whatever else was made in its place. One that has ended already is well.

    Where the id was never learnt, since the worker that made the cluster died, the clusters of the tasks
    upstream that are an ``EmrCreateJobFlowOperator`` are looked for by their marks.

    :param job_flow_id: the cluster's id (templated)
    :param waiter_delay: longest time between two looks, in seconds
    :param waiter_max_attempts: times ``waiter_delay``, how long a deferred task waits for the end
    :param deferrable: wait for the end, in the triggerer; otherwise the task ends once EMR was told
    """

    template_fields: Sequence[str] = ("aws_conn_id", "job_flow_id", "region_name", "verify")
    template_ext: Sequence[str] = ()

    def __init__(
        self,
        *,
        job_flow_id: str,
        waiter_delay: int = 60,
        waiter_max_attempts: int = 20,
        deferrable: bool = DEFAULT_DEFERRABLE,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_flow_id = job_flow_id
        self.waiter_delay = waiter_delay
        self.waiter_max_attempts = waiter_max_attempts
        self.deferrable = deferrable

    def execute(self, context: Context) -> None:
        with as_airflow_exceptions():
            known = None if self.job_flow_id in (None, "", "None") else self.job_flow_id
            ended = self.clusters.end_all(None, known)
            if known and not ended:
                raise ClusterNotFoundError(
                    f"There is no cluster {known} in this account and region.", cluster_id=known
                )
            for lineage in self._lineages(context, known):
                ended += self.clusters.end_all(lineage, None)
            if not ended:
                self.log.info("No cluster was made, so there is none to end")
                return
            self.log.info("Told EMR to end %s", ", ".join(ended))
            self._show(context, ended[0])
            if self.deferrable:
                limit = timedelta(seconds=float(self.waiter_delay) * int(self.waiter_max_attempts))
                self._judged(
                    self._wait_by(
                        EmrJobFlowTrigger,
                        deadline=deadline_of(self, limit, self.clock),
                        delay=float(self.waiter_delay),
                        deferrable=True,
                        cluster_id=ended[0],
                        target_states=[],
                    )
                )

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> None:
        assert event is not None
        with as_airflow_exceptions():
            self._judged(event)

    def _lineages(self, context: Context, known: str | None) -> set[str]:
        """Whose clusters end with this one: the task's that made it."""
        if known is None:
            return {
                scope_of(context, task.task_id).lineage
                for task in self.get_flat_relatives(upstream=True)
                if isinstance(task, EmrCreateJobFlowOperator)
            }
        try:
            mark = ClusterMark.read(str(self.clusters.hook.describe(known).get("Name", "")))
        except EmrEtlError as error:
            if error.retryable:
                raise
            self.log.warning("It is not known what else was made in place of %s: %s", known, error)
            return set()
        return {mark.lineage} if mark else set()

    def _judged(self, payload: dict[str, Any]) -> None:
        raise_if_not_waited(payload, f"cluster {payload['cluster_id']} to end")
        self.log.info("Cluster %s is gone", payload["cluster_id"])


def ends_by_itself(request: Mapping[str, Any]) -> bool:
    """Whether a RunJobFlow request has steps and its cluster ends after them."""
    instances = request.get("Instances") or {}
    return bool(request.get("Steps")) and not instances.get("KeepJobFlowAliveWhenNoSteps", False)


def with_idle_end(request: Mapping[str, Any]) -> dict[str, Any]:
    """A RunJobFlow request whose cluster ends when it has been idle for ``[emr_etl] drop_in_idle_timeout`` seconds.

    Only where the cluster would stay for ever: it is kept alive, the request has no policy of its own, and the
    release knows the policy (5.30, 6.1 and later).
    """
    changed = dict(request)
    seconds = conf.getint("emr_etl", "drop_in_idle_timeout", fallback=86_400)
    release = _RELEASE.match(str(request.get("ReleaseLabel", "")))
    version = (int(release[1]), int(release[2])) if release else (0, 0)
    if (
        seconds > 0
        and (request.get("Instances") or {}).get("KeepJobFlowAliveWhenNoSteps")
        and "AutoTerminationPolicy" not in request
        and version >= (5, 30)
        and version != (6, 0)
    ):
        changed["AutoTerminationPolicy"] = {"IdleTimeout": seconds}
    return changed


def _has_run_its_steps(cluster: Mapping[str, Any]) -> bool:
    reason = cluster["Status"].get("StateChangeReason") or {}
    return reason.get("Code") == ClusterEndCode.ALL_STEPS_COMPLETED


def _is_called(full: str, name: str) -> bool:
    mark = ClusterMark.read(full)
    return full == name or (mark is not None and mark.on(name) == full)


def _always(config: Mapping[str, Any]) -> Any:
    def make(mark: StepMark) -> Mapping[str, Any]:
        return config

    return make


def _with_arguments(step: Mapping[str, Any], arguments: Iterable[str]) -> dict[str, Any]:
    """The step with these arguments for Spark, where it runs Spark and says nothing of its parent itself."""
    changed = copy.deepcopy(dict(step))
    jar = changed.get("HadoopJarStep") or {}
    words = list(jar.get("Args") or [])
    runs_spark = (
        str(jar.get("Jar", "")).rpartition("/")[2] == "command-runner.jar"
        and bool(words)
        and words[0].rpartition("/")[2] in ("spark-submit", "run-example")
    )
    if runs_spark and not any("spark.openlineage.parent" in word for word in words):
        jar["Args"] = [words[0], *arguments, *words[1:]]
    return changed


def __getattr__(name: str) -> Any:
    """Any other name of the official module, loaded only when somebody asks for it (PEP 562)."""
    return official_name(_OFFICIAL, name, __name__)
