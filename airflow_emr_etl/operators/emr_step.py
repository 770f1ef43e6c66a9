"""Run a step on a cluster that is up."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk import BaseOperator

from airflow_emr_etl.exceptions import (
    ClusterFullError,
    ClusterLostError,
    ConfigurationError,
    EmrEtlError,
    PoolFullError,
    TaskKilledError,
    WaitTimeoutError,
)
from airflow_emr_etl.hooks.attempts import LOOK_EVERY_SECONDS
from airflow_emr_etl.hooks.aws_errors import aws_call
from airflow_emr_etl.hooks.emr_cluster import cluster_failure, cluster_state
from airflow_emr_etl.hooks.emr_step import EmrStepHook, step_failure, step_state
from airflow_emr_etl.hooks.s3_lake import S3LakeHook
from airflow_emr_etl.hooks.step_keeper import INTERRUPT_SECONDS, WantedStep
from airflow_emr_etl.hooks.step_keeper import again as run_again
from airflow_emr_etl.links.emr import EmrClusterLink, EmrLogsLink, cluster_url, logs_folder, logs_url
from airflow_emr_etl.models.intent import StepIntent
from airflow_emr_etl.models.plan import ClusterPlan
from airflow_emr_etl.models.s3 import S3Uri, as_folder
from airflow_emr_etl.models.states import (
    CLUSTER_ENDED,
    CLUSTER_ENDING,
    CLUSTER_LIVE,
    CLUSTER_READY,
    STEP_ACTIVE,
    STEP_CANCELLED,
    STEP_SUCCEEDED,
    ClusterEndCode,
    StepState,
)
from airflow_emr_etl.models.step import MAX_ACTIVE_STEPS, ActionOnFailure, SparkStep, Step, step_from
from airflow_emr_etl.operators.base import (
    KILL_GRACE_SECONDS,
    EmrOperator,
    clears_of,
    has_more_tries,
    is_retry,
    run_start,
    scope_of,
    site,
)
from airflow_emr_etl.operators.emr_cluster import PLAN_KEY
from airflow_emr_etl.operators.failures import checked, retry_only_what_can_pass
from airflow_emr_etl.operators.waiting import RESUMED_TO_FAIL, raise_if_not_waited
from airflow_emr_etl.triggers.emr_cluster import EmrClusterStateTrigger
from airflow_emr_etl.triggers.emr_room import EmrRoomTrigger
from airflow_emr_etl.triggers.emr_step import EmrStepTrigger
from airflow_emr_etl.triggers.pause import PauseTrigger
from airflow_emr_etl.triggers.polling import PollingTrigger, error_from

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_emr_etl.hooks.cluster_pool import PoolKeeper
    from airflow_emr_etl.models.pool import ClusterPool

#: XCom key of ``{"cluster_id", "step_id"}``, there as soon as EMR has given the id.
STEP_KEY = "emr_step"
#: Lines of each of a failed step's own logs that go into the task's log.
LOG_LINES = 40
#: A cluster that ends refuses steps a moment before it says so.
_REFUSAL_SECONDS = 600.0
_APPLICATION = re.compile(r"\bapplication_\d+_\d{4,}")
_DRIVER_CONTAINER = "_000001/"


@dataclass
class _Progress:
    """How far a try has come; it travels with every deferral."""

    cluster_id: str
    """Where the step is, or will be; empty until a pool has chosen."""
    deadline: str
    phase: Literal["step", "cluster", "restore", "room"] = "step"
    """What is waited for: the step's end, a replacement to come up, lost work to be done again, or room."""
    step_id: str | None = None
    attempt: str | None = None
    adopted: bool = False
    looked: bool = False
    """This try has looked for its step, and added or adopted one, on whichever cluster."""
    refusals: int = 0
    """How often a cluster that is up has refused the step as if it were not."""
    restoring: list[str] = field(default_factory=list)
    """Steps on the replacement that run again first."""
    queues: bool = False
    """It waits for its turn before it adds its step."""


class EmrStepOperator(EmrOperator):
    """Run a step on a cluster, once, and wait for its end.

    Returns ``{"cluster_id", "step_id", "state"}``. A step that fails fails the task, with EMR's reason and the
    end of the step's own output in the task's log. A killed task, or one whose time is over, cancels its step.

    A retry takes over a step that an earlier try has added, whether it goes on or has completed; a step
    that failed is run again. A step whose cluster was lost runs again on the replacement, which is brought up
    from the same spec where nobody has done so yet; for that, ``cluster_task_id`` must be known.

    :param cluster_id: (templated)
    :param step: a ``SparkStep`` or ``CommandStep``, or its fields (templated, checked again after rendering)
    :param cluster_task_id: the task of this run that brought the cluster up; ``EmrCluster`` sets it
    :param cluster_pool: take a cluster of this ``ClusterPool`` instead
    :param on_hdfs: what the step writes is lost with its cluster, so it runs again on a replacement
    :param max_active_steps: wait, without a worker, until the cluster has fewer steps than this that wait or run,
        from 1 to EMR's limit of 256; meant for mapped tasks of many steps. Without it the step is added at once,
        and waits for room only where EMR's limit is reached; mapped tasks of index 256 and on, for which there is
        hardly room, look first. With ``cluster_pool``, set it on the pool.

    The other parameters are those of ``EmrOperator``; ``wait_timeout`` covers waiting for the step's turn.
    """

    template_fields: Sequence[str] = ("cluster_id", "cluster_pool", "step", "aws_conn_id", "region_name")
    template_fields_renderers: ClassVar[dict[str, str]] = {"step": "json", "cluster_pool": "json"}
    operator_extra_links = (EmrClusterLink(), EmrLogsLink())
    ui_color = "#f9c915"

    def __init__(
        self,
        *,
        cluster_id: str | None = None,
        step: Step | Mapping[str, Any] | None = None,
        cluster_task_id: str | None = None,
        cluster_pool: ClusterPool | Mapping[str, Any] | None = None,
        on_hdfs: bool = False,
        max_active_steps: int | None = None,
        wait_timeout: timedelta | float = timedelta(hours=24),
        **kwargs: Any,
    ) -> None:
        super().__init__(wait_timeout=wait_timeout, **kwargs)
        self.cluster_id = cluster_id
        self.step = step if step is None or isinstance(step, Mapping) else step.document()
        self.cluster_task_id = cluster_task_id
        document = cluster_pool if isinstance(cluster_pool, Mapping | None) else cluster_pool.document()
        self.cluster_pool: Mapping[str, Any] | None = document
        self.on_hdfs = on_hdfs
        self.max_active_steps = max_active_steps
        self._progress: _Progress | None = None
        self._killed = False
        if max_active_steps is not None and not 1 <= max_active_steps <= MAX_ACTIVE_STEPS:
            raise ConfigurationError(
                f"Task {self.task_id} has max_active_steps={max_active_steps}. It is from 1 to {MAX_ACTIVE_STEPS}, "
                "EMR's limit of steps that wait or run on a cluster."
            )
        if max_active_steps is not None and cluster_pool is not None:
            raise ConfigurationError(
                f"Task {self.task_id} has max_active_steps and cluster_pool. Set max_active_steps on the pool, which "
                "chooses the cluster."
            )
        if (cluster_id is None) == (cluster_pool is None):
            given = "neither" if cluster_pool is None else "both"
            raise ConfigurationError(
                f"Task {self.task_id} has {given} cluster_id and cluster_pool. Set one: where does the step run?"
            )

    @cached_property
    def hook(self) -> EmrStepHook:
        return self.step_keeper.hook

    @cached_property
    def lake(self) -> S3LakeHook:
        return S3LakeHook(self.aws_conn_id, self.region_name)

    def build_step(self, context: Context) -> Step:
        """The step to add, from the rendered fields. May upload what the step needs."""
        if self.step is None:
            raise ConfigurationError(
                f"Task {self.task_id} has no step. Set step=SparkStep(…) or step=CommandStep(…)."
            )
        try:
            return step_from(self.step)
        except ValueError as error:
            raise ConfigurationError(f"The step of task {self.task_id} is not valid. {error}") from error

    def for_attempt(self, step: Step, attempt: str) -> Step:
        """``step`` with what only this run of it may write to; ``attempt`` names that run."""
        return step

    def result(self, context: Context, step: dict[str, Any]) -> dict[str, Any]:
        """What the task returns once ``step``, EMR's ``Step``, has completed."""
        return {"cluster_id": self._now.cluster_id, "step_id": step["Id"], "state": step["Status"]["State"]}

    def execute(self, context: Context) -> dict[str, Any]:
        with retry_only_what_can_pass():
            if self.cluster_id == "None":
                raise ConfigurationError(
                    f"Task {self.task_id} was given no cluster: the task that brings it up has returned no id. Did "
                    "it run, and is it upstream?"
                )
            deadline = self.new_deadline().isoformat()
            self._progress = _Progress(self.cluster_id or "", deadline)
            self._progress.queues = self._queues(context)
            return self._go_on(context, None)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        self._progress = _Progress(**event["carry"])
        with retry_only_what_can_pass():
            return self._go_on(context, event)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        if next_method == RESUMED_TO_FAIL:
            # What defer() carried is gone on this path, so the id comes from the XCom pushed before it.
            ti: Any = context["ti"]
            pushed = ti.xcom_pull(task_ids=self.task_id, key=STEP_KEY, map_indexes=ti.map_index)
            if pushed:
                self._progress = _Progress(pushed["cluster_id"], "", step_id=pushed["step_id"])
                self._cancel()
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        self._killed = True
        self._cancel(grace_seconds=KILL_GRACE_SECONDS)

    @property
    def _now(self) -> _Progress:
        assert self._progress is not None
        return self._progress

    def _go_on(self, context: Context, event: dict[str, Any] | None) -> dict[str, Any]:
        """Do the next thing and wait, until the step has ended. Every deferral ends here and comes back here."""
        try:
            while True:
                try:
                    step = None if event is None else self._judge(context, event)
                    if step is not None:
                        self._leave_pool(context)
                        return self.result(context, step)
                    event = self._proceed(context)
                except ClusterLostError as error:
                    self.log.warning("%s", error)
                    self._find_cluster(context)
                    event = None
        except Exception as error:
            can_pass = getattr(error, "retryable", True) and not isinstance(error, WaitTimeoutError)
            if not (can_pass and has_more_tries(context)):
                self._cancel()
                self._leave_pool(context)
            raise

    # What is done before each wait

    def _proceed(self, context: Context) -> dict[str, Any]:
        now = self._now
        if now.phase == "cluster":
            return self._wait(
                EmrClusterStateTrigger, cluster_id=now.cluster_id, target_states=sorted(CLUSTER_READY)
            )
        if now.phase == "restore":
            return self._wait(EmrStepTrigger, cluster_id=now.cluster_id, step_id=now.restoring[0])
        if now.step_id is None:
            if now.queues:
                now.queues = False
                if not (is_retry(context) and self._has_step(context)):
                    return self._wait_in_line()
            try:
                if not now.cluster_id:
                    self._take_seat(context)
                    return self._proceed(context)
                self._ensure_step(context)
            except (ClusterFullError, PoolFullError) as error:
                return self._wait_for_room(error)
        assert now.step_id is not None
        return self._wait(EmrStepTrigger, cluster_id=now.cluster_id, step_id=now.step_id, cancel_on_kill=True)

    def _ensure_step(self, context: Context) -> None:
        now = self._now
        wanted = self._wanted(context)
        # After the first look of this try, what it finds missing was not added by an earlier one.
        [found] = self.step_keeper.ensure(
            now.cluster_id,
            [wanted],
            look_first=is_retry(context) or now.looked,
            patient=is_retry(context) and not now.looked,
        )
        if found.state in STEP_SUCCEEDED and self.on_hdfs:
            self._check_up(now.cluster_id)
        now.step_id, now.attempt, now.adopted = found.id, found.mark.attempt, found.adopted
        now.looked = True
        verb = "Took over" if found.adopted else "Added"
        self.log.info("%s step %s on cluster %s", verb, found.id, now.cluster_id)
        self._show(context, found.id)

    def _wanted(self, context: Context) -> WantedStep:
        step = self.build_step(context)
        intent = StepIntent(
            scope_of(context).lineage,
            clears=clears_of(self, context),
            on_hdfs=self.on_hdfs,
            not_before=run_start(context),
        )
        return WantedStep(intent, lambda mark: self.for_attempt(step, mark.attempt).to_api())

    def _wait_for_room(self, error: EmrEtlError) -> dict[str, Any]:
        now = self._now
        now.phase = "room"
        self.log.warning("%s Waiting for room.", error)
        full = [now.cluster_id] if now.cluster_id else str(error.details.get("clusters") or "").split()
        if full:
            most_active = self.max_active_steps or error.details.get("max_active_steps") or MAX_ACTIVE_STEPS
            return self._wait(EmrRoomTrigger, cluster_ids=full, most_active=most_active, refused=True)
        pause = self.clock.now() + timedelta(seconds=self.poll_interval * (0.5 + random.random()))
        return self._wait(PauseTrigger, until=min(pause, datetime.fromisoformat(now.deadline)))

    def _queues(self, context: Context) -> bool:
        """Whether the step waits for its turn before EMR is asked to take it. A pool decides for itself."""
        if self.cluster_pool is not None:
            return False
        ti: Any = context["ti"]
        # The tasks before this one alone are as many as EMR takes.
        return self.max_active_steps is not None or ti.map_index >= MAX_ACTIVE_STEPS

    def _has_step(self, context: Context) -> bool:
        """Whether an earlier try has added the step there, which then has its place already, or needs none."""
        found = self.step_keeper.found(
            self._now.cluster_id, [scope_of(context).lineage], not_before=run_start(context)
        )
        return any(step.state in STEP_ACTIVE | STEP_SUCCEEDED for step in found)

    def _wait_in_line(self) -> dict[str, Any]:
        now = self._now
        now.phase = "room"
        most_active = self.max_active_steps or MAX_ACTIVE_STEPS
        self.log.info("Waiting for this step's turn: at most %d steps at a time", most_active)
        return self._wait(EmrRoomTrigger, cluster_ids=[now.cluster_id], most_active=most_active)

    def _wait(
        self, trigger: type[PollingTrigger], until: datetime | None = None, **fields: Any
    ) -> dict[str, Any]:
        now = self._now
        if self._killed:  # on_kill came while the step was being added, and knew of none
            self._cancel(grace_seconds=KILL_GRACE_SECONDS)
            raise TaskKilledError("This task was told to stop, and cancelled its step.")
        return self.wait_by(trigger, until or datetime.fromisoformat(now.deadline), asdict(now), **fields)

    # What an event means

    def _judge(self, context: Context, event: dict[str, Any]) -> dict[str, Any] | None:
        """The ``Step`` that has completed; None where there is more to do."""
        now = self._now
        if now.phase == "room":
            if event["status"] == "error":
                raise error_from(event["error"])
            # A pause ends by its time; a wait for room that does so was in vain, whatever this machine's clock says.
            in_vain = event["status"] == "timeout" and "cluster_ids" in event
            if in_vain or self.clock.now() >= datetime.fromisoformat(now.deadline):
                raise WaitTimeoutError(f"There was no room for the step within {self.wait_timeout}.")
            now.phase = "step"
            return None
        if now.phase == "cluster":
            raise_if_not_waited(event, f"cluster {now.cluster_id} to take steps")
            self._judge_cluster(context, event["cluster"])
            return None
        raise_if_not_waited(event, f"step {event['step_id']} to end")
        step = event["step"]
        if event["status"] == "cluster_ended":
            self._find_cluster(context)
        elif step_state(step) in STEP_SUCCEEDED:
            if now.phase == "step":
                return dict(step)
            now.restoring.pop(0)
            now.phase = "restore" if now.restoring else "step"
        elif self._is_lost_with_cluster(step):
            self._find_cluster(context)
        elif step_state(step) in STEP_CANCELLED and now.phase == "step" and self._runs_again_after_cancel():
            now.step_id = None
        else:
            failure = step_failure(step, now.cluster_id)
            told = self._tell_logs(step["Id"])
            raise type(failure)(f"{failure.message}{told}", **failure.details)
        return None

    def _judge_cluster(self, context: Context, cluster: dict[str, Any]) -> None:
        """A replacement is up, or has ended in its turn."""
        now = self._now
        if cluster_state(cluster) in CLUSTER_ENDED:
            self._find_cluster(context)
            return
        plan = self._plan(context)
        if plan is not None:
            winner = self.cluster_keeper.settle(plan, now.cluster_id)
            now.cluster_id = winner.id
            if not winner.is_ready:
                return
            now.restoring = self._restore(context, plan)
        now.phase = "restore" if now.restoring else "step"

    def _is_lost_with_cluster(self, step: Mapping[str, Any]) -> bool:
        """Whether a step ended without success because its cluster did, and not by its own fault."""
        cluster = self.cluster_keeper.hook.describe(self._now.cluster_id)
        if cluster_state(cluster) not in CLUSTER_ENDING:
            return False
        code = cluster["Status"].get("StateChangeReason", {}).get("Code")
        if step_state(step) is StepState.FAILED:
            return code in (ClusterEndCode.INSTANCE_FAILURE, ClusterEndCode.INTERNAL_ERROR)
        return True

    def _runs_again_after_cancel(self) -> bool:
        """What to do about a step that somebody cancelled on a cluster that goes on."""
        if self._killed:
            raise TaskKilledError("This task was told to stop, and cancelled its step.")
        # An earlier try's cancel may come late; what it meant was that try, not this one.
        return self._now.adopted

    # The cluster, and what replaces it

    def _find_cluster(self, context: Context) -> None:
        """Where the step goes on: the pool's choice, or the replacement of the cluster that was lost."""
        now = self._now
        now.step_id = None
        now.phase = "step"
        if self.cluster_pool is not None:
            now.cluster_id = ""  # the next seat may have to be waited for
            return
        lost = self.cluster_keeper.hook.describe(now.cluster_id)
        if cluster_state(lost) not in CLUSTER_ENDING:
            # It refuses steps, and does not show why yet.
            now.refusals += 1
            if now.refusals * LOOK_EVERY_SECONDS > _REFUSAL_SECONDS:
                raise WaitTimeoutError(
                    f"Cluster {now.cluster_id} is up and has taken no step for {_REFUSAL_SECONDS:.0f} seconds."
                )
            self.clock.sleep(LOOK_EVERY_SECONDS)
            return
        plan = self._plan(context)
        if plan is None:
            raise cluster_failure(lost, served=True)
        if is_retry(context) and not self.on_hdfs and self._is_done_elsewhere(context, plan):
            return
        turn = self._turn(scope_of(context).lineage)
        found = self.cluster_keeper.replace(
            plan, lost, turn=turn, again=is_retry(context), since=run_start(context)
        )
        self.log.info("Cluster %s takes the place of %s", found.id, now.cluster_id)
        now.cluster_id, now.phase = found.id, "cluster"
        now.queues = self._queues(context)  # the others whose steps were lost come too

    def _take_seat(self, context: Context) -> None:
        now = self._now
        seat = self._pool_keeper().take(scope_of(context).lineage)
        may_be_done = is_retry(context) and not self.on_hdfs
        if not (may_be_done and self._is_done_on(context, seat.earlier[::-1])):
            now.cluster_id, now.phase = seat.cluster_id, "cluster"

    def _is_done_elsewhere(self, context: Context, plan: ClusterPlan) -> bool:
        """Whether an earlier try had the step run on another of the run's clusters, which has ended since."""
        ended = [
            cluster.id
            for cluster in self.cluster_keeper.ever(plan.lineage, run_start(context))
            if cluster.state not in CLUSTER_LIVE
        ]
        return self._is_done_on(context, reversed(ended))

    def _is_done_on(self, context: Context, cluster_ids: Iterable[str]) -> bool:
        """Whether the step has completed on one of these; it is then where this try goes on."""
        now = self._now
        wanted = self._wanted(context)
        for cluster_id in cluster_ids:
            if cluster_id != now.cluster_id and self.step_keeper.has_completed(cluster_id, wanted):
                now.cluster_id = cluster_id
                return True  # _ensure_step adopts it
        return False

    def _turn(self, lineage: str) -> int:
        """The place of this task among those whose steps were lost with the cluster; they meet on one replacement."""
        lost = [
            step for step in self.step_keeper.found(self._now.cluster_id) if step.state not in STEP_SUCCEEDED
        ]
        order = list(dict.fromkeys(step.mark.lineage for step in lost))
        return order.index(lineage) if lineage in order else len(order)

    def _restore(self, context: Context, plan: ClusterPlan) -> list[str]:
        """Run again, on the replacement, what completed on a lost cluster and lived in its HDFS."""
        now = self._now
        gone: dict[str, WantedStep] = {}
        for cluster in self.cluster_keeper.ever(plan.lineage, run_start(context)):
            if cluster.id == now.cluster_id or cluster.state in CLUSTER_LIVE:
                continue
            for step in self.step_keeper.found(cluster.id):
                if step.mark.on_hdfs and step.state in STEP_SUCCEEDED:
                    gone[step.mark.lineage] = run_again(step)
        if not gone:
            return []
        self.log.info("%d steps whose output was in the lost cluster's HDFS run again", len(gone))
        return [
            step.id for step in self.step_keeper.ensure(now.cluster_id, list(gone.values()), look_first=True)
        ]

    def _plan(self, context: Context) -> ClusterPlan | None:
        if self.cluster_task_id is None:
            return None
        ti: Any = context["ti"]
        document = ti.xcom_pull(task_ids=self.cluster_task_id, key=PLAN_KEY)
        return ClusterPlan.from_document(document) if document else None

    def _check_up(self, cluster_id: str) -> None:
        cluster = self.cluster_keeper.hook.describe(cluster_id)
        if cluster_state(cluster) in CLUSTER_ENDING:
            raise ClusterLostError(
                f"Cluster {cluster_id} has ended, and its HDFS with it.", cluster_id=cluster_id
            )

    def _pool_keeper(self) -> PoolKeeper:
        from airflow_emr_etl.hooks.cluster_pool import PoolKeeper
        from airflow_emr_etl.models.pool import ClusterPool

        pool = checked(ClusterPool, self.cluster_pool, of=f"The pool of task {self.task_id}")
        return PoolKeeper(pool, self.clients, self.lake, self.clock, site=site())

    def _leave_pool(self, context: Context) -> None:
        if self.cluster_pool is None:
            return
        try:
            self._pool_keeper().leave(scope_of(context).lineage)
        except EmrEtlError as error:
            self.log.warning("The pool still counts this step until it looks itself: %s", error)

    def _tell_logs(self, step_id: str) -> str:
        """Write the end of the step's own logs into the task's log; the last lines again, for the error."""
        try:
            log_uri = self.cluster_keeper.hook.describe(self._now.cluster_id).get("LogUri")
            if not log_uri:
                return "\nThe cluster keeps no logs; set log_uri in its spec to see the step's output here."
            folder = logs_folder(log_uri, self._now.cluster_id, step_id)
            found = self._tails(folder)
            # In cluster mode the driver runs in a container of YARN's; the step only tells which.
            for application in sorted(set(_APPLICATION.findall(str(found.values())))):
                containers = logs_folder(log_uri, self._now.cluster_id).child(f"containers/{application}/")
                found |= self._tails(containers, within=_DRIVER_CONTAINER)
        except EmrEtlError as error:
            return f"\nThe step's logs could not be read: {error}"
        told = ""
        for uri, lines in found.items():
            if lines:
                self.log.error("The end of %s:\n%s", uri, "\n".join(lines))
                told += f"\n--- the end of {uri}\n" + "\n".join(lines[-10:])
        return told or f"\nIts logs are not in {folder} yet; EMR brings them there within about five minutes."

    def _tails(self, folder: S3Uri, within: str = "") -> dict[str, list[str]]:
        return {
            str(item.uri): self.lake.tail(item.uri, max_lines=LOG_LINES)
            for item in self.lake.list_objects(folder)
            if within in item.uri.key
            and item.uri.key.rpartition("/")[2].split(".")[0] in ("stderr", "stdout")
        }

    def _show(self, context: Context, step_id: str) -> None:
        ti: Any = context["ti"]
        ti.xcom_push(key=STEP_KEY, value={"cluster_id": self._now.cluster_id, "step_id": step_id})
        where = {"region": self.clients.region, "partition": self.clients.partition}
        EmrClusterLink.push(ti, cluster_url(self._now.cluster_id, **where))
        try:
            log_uri = self.cluster_keeper.hook.describe(self._now.cluster_id).get("LogUri")
        except EmrEtlError as error:
            self.log.warning("No link to the logs: %s", error)
        else:
            EmrLogsLink.push(ti, logs_url(log_uri, self._now.cluster_id, step_id, **where))

    def _cancel(self, *, grace_seconds: float = INTERRUPT_SECONDS) -> None:
        """Stop the step as well as can be; what failed before this must stay the error that is seen."""
        now = self._progress
        if now is None or now.step_id is None:
            return
        try:
            self.step_keeper.stop(now.cluster_id, now.step_id, grace_seconds=grace_seconds)
        except EmrEtlError as error:
            self.log.warning("Step %s could not be cancelled: %s", now.step_id, error)
        else:
            self.log.info("Told EMR to cancel step %s", now.step_id)


class EmrSparkOperator(EmrStepOperator):
    """Run a Spark program on a cluster: a job that ships with this package, or a script or jar of yours.

    Returns ``{"cluster_id", "step_id", "state", "output"}``. With ``output``, the program is given
    ``--output <output>attempt=<token>/``, a path that no other try writes to, and the same path is returned;
    ``output_path`` refers to it downstream.

    :param job: name of a job of this package, such as ``clickstream_normalize`` (templated)
    :param script: instead of ``job``: ``s3://…``, or a file beside the DAG, which is uploaded under
        ``artifacts`` by its content (templated)
    :param args: the program's arguments, a list or a mapping of options (templated)
    :param output: ``s3://…`` folder to write into (templated)
    :param conf: Spark settings (templated)
    :param py_files: more Python code, ``s3://…`` (templated)
    :param artifacts: ``s3://…`` folder that code is uploaded to; needed for ``job`` and a local ``script``
    :param step_name: the step's name in EMR; the task's id by default
    """

    template_fields: Sequence[str] = (
        "cluster_id",
        "cluster_pool",
        "job",
        "script",
        "args",
        "output_folder",
        "conf",
        "py_files",
        "files",
        "artifacts",
        "step_name",
        "aws_conn_id",
        "region_name",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "args": "json",
        "conf": "json",
        "cluster_pool": "json",
    }

    def __init__(
        self,
        *,
        job: str | None = None,
        script: str | None = None,
        args: Sequence[str] | Mapping[str, Any] = (),
        output: str | None = None,
        conf: Mapping[str, Any] | None = None,
        py_files: Sequence[str] = (),
        files: Sequence[str] = (),
        main_class: str | None = None,
        deploy_mode: Literal["client", "cluster"] = "client",
        action_on_failure: ActionOnFailure | str = ActionOnFailure.CONTINUE,
        artifacts: str | None = None,
        step_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.script = script
        self.args = args
        self.output_folder = output  # BaseOperator has an ``output`` of its own
        self.conf = conf
        self.py_files = py_files
        self.files = files
        self.main_class = main_class
        self.deploy_mode = deploy_mode
        self.action_on_failure = action_on_failure
        self.artifacts = artifacts
        self.step_name = step_name
        if (job is None) == (script is None):
            raise ConfigurationError(
                f"Task {self.task_id} has {'both' if job else 'neither'} job and script. Set one: job='…' for a job of "
                "this package, script='…' for a program of yours."
            )
        if artifacts is None and (job is not None or not _in_s3(script or "")):
            raise ConfigurationError(
                f"Task {self.task_id} uploads code and has nowhere to put it. Set artifacts='s3://bucket/artifacts/'."
            )

    def output_path(self, name: str = "") -> str:
        """A template for ``name`` below the path that this task's last try wrote, for tasks downstream."""
        return f"{{{{ ti.xcom_pull(task_ids={self.task_id!r})['output'] }}}}{name}"

    def build_step(self, context: Context) -> Step:
        entry, packed = self._locate(context)
        args = self.arguments(context)
        step: Step = checked(
            SparkStep,
            {
                "name": self.step_name or self.task_id,
                "entry": entry,
                "args": args if isinstance(args, Mapping) else list(args),
                "conf": self.conf or {},
                "py_files": [*packed, *self.py_files],
                "files": list(self.files),
                "main_class": self.main_class,
                "deploy_mode": self.deploy_mode,
                "action_on_failure": self.action_on_failure,
            },
            of=f"The Spark step of task {self.task_id}",
        )
        return step

    def for_attempt(self, step: Step, attempt: str) -> Step:
        output = self._output_of(attempt)
        if output is None or not isinstance(step, SparkStep):
            return step
        return step.model_copy(update={"args": (*step.args, "--output", output)})

    def arguments(self, context: Context) -> Sequence[str] | Mapping[str, Any]:
        """The program's arguments, without ``--output``."""
        return self.args

    def attempt_output(self) -> str | None:
        """The folder that the step, as this task added it or took it over, alone writes to."""
        return self._output_of(self._now.attempt or "")

    def _output_of(self, attempt: str) -> str | None:
        if self.output_folder is None:
            return None
        return f"{as_folder(self.output_folder)}attempt={attempt}/"

    def result(self, context: Context, step: dict[str, Any]) -> dict[str, Any]:
        return {**super().result(context, step), "output": self.attempt_output()}

    def _locate(self, context: Context) -> tuple[str, list[str]]:
        """The program's address in S3 and those of the Python code it needs; uploads what is not there."""
        if self.script is not None:
            if _in_s3(self.script):
                return self.script, []
            path = beside_dag(self, self.script)
            return self.lake.write_once(self._folder("scripts"), path.name, read_local(path)), []
        # Packing reads the whole package; only where a job is about to be added.
        from airflow_emr_etl.spark.package import build_package, job_named

        assert self.job is not None
        assert self.artifacts is not None
        job = job_named(self.job).name
        with aws_call("s3:PutObject of the packed jobs"):
            location = build_package().upload(self.lake.client, as_folder(self.artifacts))
        return location.entry_uri(job), [location.archive_uri]

    def _folder(self, kind: str) -> str:
        assert self.artifacts is not None
        return f"{as_folder(self.artifacts)}{kind}/"


def beside_dag(operator: BaseOperator, path: str) -> Path:
    """A path given in a DAG: absolute, or relative to the DAG's own file."""
    given = Path(path)
    if given.is_absolute() or not operator.has_dag():  # type: ignore[no-untyped-call]
        return given
    return Path(operator.dag.fileloc).parent / given


def read_local(path: Path) -> bytes:
    """A file of the worker's; ConfigurationError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}. Paths are relative to the DAG's file; ship the file beside it."
        ) from error


def _in_s3(address: str) -> bool:
    return address.startswith(("s3://", "s3a://", "s3n://"))
