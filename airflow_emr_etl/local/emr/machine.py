"""The life of clusters and steps, as rules over records: no process, no thread, no clock of its own.

Whoever drives the machine hands it the time with every call, carries out the effects that it leaves in
:attr:`Machine.effects`, tells it how jobs ended, and calls :meth:`Machine.advance` when :meth:`Machine.next_due`
has come. So the same rules run on real processes and on virtual time.

Rules that are EMR's own are in its API reference under RunJobFlow, StepConfig and SetTerminationProtection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from airflow_emr_etl.local.emr.faults import EmrFaults
from airflow_emr_etl.local.emr.provisioning import (
    Place,
    Plan,
    WantedInstance,
    explain,
    places,
    plan,
    spot_timeout,
    wanted_instances,
)
from airflow_emr_etl.local.emr.records import (
    ON_NODE_STEP,
    Cluster,
    End,
    Instance,
    Job,
    Outcome,
    Params,
    Pool,
    Start,
    Step,
    StopSignal,
)
from airflow_emr_etl.models.states import (
    CLUSTER_ENDED,
    CLUSTER_ENDING,
    CLUSTER_READY,
    STEP_ACTIVE,
    ClusterState,
    StepState,
)

_SPOT_DOCS = (
    "https://docs.aws.amazon.com/emr/latest/ManagementGuide/INTERNAL_ERROR_SPOT_NO_CAPACITY_PRIMARY.html"
)


@dataclass(frozen=True)
class Pace:
    """How long the states take that have nothing to do here. A cluster of AWS takes minutes."""

    starting: timedelta = timedelta(milliseconds=300)
    bootstrapping: timedelta = timedelta(milliseconds=200)
    terminating: timedelta = timedelta(milliseconds=300)
    spot_minute: timedelta = timedelta(milliseconds=200)
    """A minute of a fleet's Spot provisioning timeout."""


class Machine:
    """All clusters and what becomes of them. Not thread-safe: the caller holds a lock."""

    def __init__(
        self, new_id: Callable[[str], str], pace: Pace | None = None, faults: EmrFaults | None = None
    ) -> None:
        """``new_id("j-")`` returns a fresh id with that prefix."""
        self.clusters: dict[str, Cluster] = {}
        self.effects: list[Start | End] = []
        self.changed: set[str] = set()
        self._new_id = new_id
        self._pace = pace or Pace()
        self._faults = faults
        self._last_sequence = 0

    # Clusters

    def create(self, request: Params, now: datetime) -> Cluster:
        instances = request["Instances"]
        if not self._last_sequence:
            self._last_sequence = max((each.sequence for each in self.clusters.values()), default=0)
        self._last_sequence += 1
        cluster = Cluster(
            id=self._new_id("j-"),
            request={key: value for key, value in request.items() if key != "Steps"},
            created=now,
            sequence=self._last_sequence,
            uses_fleets=bool(instances.get("InstanceFleets")),
            due=now + self._pace.starting,
            keep_alive=bool(instances.get("KeepJobFlowAliveWhenNoSteps", False)),
            protected=bool(instances.get("TerminationProtected", False)),
            visible=bool(request.get("VisibleToAllUsers", True)),
            unhealthy_node_replacement=bool(instances.get("UnhealthyNodeReplacement", False)),
            concurrency=int(request.get("StepConcurrencyLevel") or 1),
            tags={tag["Key"]: tag.get("Value", "") for tag in request.get("Tags") or []},
            scaling_policy=request.get("ManagedScalingPolicy"),
            termination_policy=request.get("AutoTerminationPolicy"),
        )
        for config in requested_pools(instances):
            self._new_pool(cluster, config, now)
        self.clusters[cluster.id] = cluster
        self.add_steps(cluster, request.get("Steps") or [], now)
        return cluster

    def terminate(self, cluster: Cluster, now: datetime) -> None:
        """At a user's request; the caller has checked termination protection."""
        if cluster.state not in CLUSTER_ENDING:
            self._close(cluster, "USER_REQUEST", "Terminated by user request", now)

    def set_keep_alive(self, cluster: Cluster, keep_alive: bool, now: datetime) -> None:
        cluster.keep_alive = keep_alive
        self._touch(cluster)
        self._schedule(cluster, now)

    def set_concurrency(self, cluster: Cluster, level: int, now: datetime) -> None:
        cluster.concurrency = level
        self._touch(cluster)
        self._schedule(cluster, now)

    def set_termination_policy(self, cluster: Cluster, policy: Params | None, now: datetime) -> None:
        cluster.termination_policy = policy
        self._touch(cluster)
        self._schedule(cluster, now)

    # Steps

    def add_steps(
        self, cluster: Cluster, configs: Iterable[Params], now: datetime, execution_role: str | None = None
    ) -> list[Step]:
        steps = [Step(self._new_id("s-"), config, now, execution_role) for config in configs]
        cluster.steps += steps
        self._touch(cluster)
        self._schedule(cluster, now)
        return steps

    def cancel_step(self, cluster: Cluster, step: Step, signal: StopSignal, now: datetime) -> str | None:
        """Returns why it cannot be cancelled, or None when the request was taken."""
        if step.state is StepState.PENDING:
            self._end_step(cluster, step, StepState.CANCELLED, now, reason="Cancelled by user")
            self._schedule(cluster, now)
        elif step.state in ON_NODE_STEP:
            step.state = StepState.CANCEL_PENDING
            self._touch(cluster)
            self.effects.append(End(step.id, signal))
        elif step.state is not StepState.CANCELLED:  # CancelSteps is idempotent
            return f"Step {step.id} is already {step.state}."
        return None

    # Instances

    def add_pool(self, cluster: Cluster, config: Params, now: datetime) -> Pool:
        pool = self._new_pool(cluster, config, now)
        if cluster.state in CLUSTER_READY:
            self._make_ready(cluster, now)
        return pool

    def resize(self, cluster: Cluster, pool: Pool, changes: Params, now: datetime) -> None:
        """Take ``changes`` over into the pool's configuration and give it the instances that it then asks for."""
        pool.config = {**pool.config, **changes}
        wanted, _ = wanted_instances(cluster.uses_fleets, pool.config)
        for market in ("ON_DEMAND", "SPOT"):
            want = [each for each in wanted if each.market == market]
            have = [
                each
                for each in cluster.instances
                if each.pool == pool.id and each.market == market and each.ended is None
            ]
            for surplus in have[len(want) :]:
                surplus.ended = now
            missing = want[len(have) :]
            lacks = self._lacks_here(cluster)
            if missing and lacks is not None and lacks(missing[0].type, market):
                # A fleet has other types; a group goes on asking for its one.
                others, _ = wanted_instances(cluster.uses_fleets, pool.config, lacks)
                missing = [each for each in others if each.market == market][: len(missing)]
            for each in missing:
                self._new_instance(cluster, pool, each, now)
        if cluster.state in CLUSTER_READY:
            self._make_ready(cluster, now)
        self._touch(cluster)

    # What happens by itself

    def next_due(self) -> datetime | None:
        """When :meth:`advance` has something to do, if nothing else happens before."""
        times = [each.due for each in self.clusters.values() if each.due and each.state not in CLUSTER_ENDED]
        if self._faults is not None and (loss := self._faults.next_loss(self.clusters)) is not None:
            times.append(loss)
        return min(times, default=None)

    def advance(self, now: datetime) -> None:
        """Make every change of state that is due at ``now``."""
        for cluster in list(self.clusters.values()):
            while cluster.due is not None and cluster.due <= now and cluster.state not in CLUSTER_ENDED:
                cluster.due = None
                self._step_forward(cluster, now)
        if self._faults is not None:
            for cluster, role in self._faults.losses(self.clusters, now):
                self._lose_spot(cluster, role, now)

    def job_ended(self, key: str, outcome: Outcome, now: datetime) -> None:
        """A job that a :class:`Start` asked for has ended, for whatever reason."""
        cluster_id, _, bootstrap = key.partition("/")
        if bootstrap:
            self._bootstrap_ended(self.clusters[cluster_id], int(bootstrap.rpartition("/")[2]), outcome, now)
            return
        for cluster in self.clusters.values():
            step = cluster.step(key)
            if step and step.state in ON_NODE_STEP:
                self._step_ended(cluster, step, outcome, now)
                return

    def interrupted(self, now: datetime) -> None:
        """After a restart: what ran when local AWS stopped has failed; what was pending starts."""
        lost = "Local AWS was stopped while this ran."
        for cluster in list(self.clusters.values()):
            if cluster.state in CLUSTER_ENDED:
                continue
            running = [step for step in cluster.steps if step.state in ON_NODE_STEP]
            for step in running:
                self._step_ended(
                    cluster, step, Outcome(False, reason="Local AWS was stopped", message=lost), now
                )
            if cluster.state is ClusterState.BOOTSTRAPPING and cluster.due is None:
                self._close(cluster, "INTERNAL_ERROR", lost, now)
            self._schedule(cluster, now)

    # Transitions

    def _step_forward(self, cluster: Cluster, now: datetime) -> None:
        match cluster.state:
            case ClusterState.STARTING:
                if self._provision(cluster, now):
                    cluster.state = ClusterState.BOOTSTRAPPING
                    if not self._start_bootstrap(cluster):
                        cluster.due = now + self._pace.bootstrapping
            case ClusterState.BOOTSTRAPPING:
                self._ready(cluster, now)
            case ClusterState.WAITING:
                self._schedule(cluster, now)
            case ClusterState.TERMINATING:
                self._terminated(cluster, now)
        self._touch(cluster)

    def _start_bootstrap(self, cluster: Cluster) -> bool:
        actions = cluster.bootstrap_actions
        if cluster.bootstraps_done >= len(actions):
            return False
        number = cluster.bootstraps_done + 1
        script = actions[number - 1]["ScriptBootstrapAction"]
        self.effects.append(
            Start(
                Job(
                    key=f"{cluster.id}/bootstrap-actions/{number}",
                    cluster_id=cluster.id,
                    step_id=None,
                    bootstrap_number=number,
                    jar="script-runner.jar",
                    args=(script["Path"], *(script.get("Args") or [])),
                    main_class=None,
                    properties={},
                    configurations=[],
                    log_uri=cluster.log_uri,
                    instance_id=cluster.primary.ec2_id if cluster.primary else "i-none",
                )
            )
        )
        return True

    def _bootstrap_ended(self, cluster: Cluster, number: int, outcome: Outcome, now: datetime) -> None:
        if cluster.state is ClusterState.TERMINATING:
            self._finish_closing(cluster, now)
            return
        if cluster.state is not ClusterState.BOOTSTRAPPING or number != cluster.bootstraps_done + 1:
            return
        if not outcome.succeeded:
            node = cluster.primary.ec2_id if cluster.primary else "none"
            what = (
                "a non-zero return code" if outcome.exit_code is not None else f"an error: {outcome.message}"
            )
            message = f"On the master instance ({node}), bootstrap action {number} returned {what}"
            self._close(cluster, "BOOTSTRAP_FAILURE", message, now)
            return
        cluster.bootstraps_done = number
        if not self._start_bootstrap(cluster):
            self._ready(cluster, now)
        self._touch(cluster)

    def _ready(self, cluster: Cluster, now: datetime) -> None:
        cluster.ready = now
        cluster.state = ClusterState.RUNNING
        self._make_ready(cluster, now)
        self._schedule(cluster, now)

    def _schedule(self, cluster: Cluster, now: datetime) -> None:
        """Start the steps that may run; settle between RUNNING, WAITING and the end."""
        if cluster.state not in CLUSTER_READY:
            return
        running = sum(step.state in ON_NODE_STEP for step in cluster.steps)
        for step in cluster.steps:
            if running >= cluster.concurrency:
                break
            if step.state is StepState.PENDING:
                self._start_step(cluster, step, now)
                running += 1
        if running:
            cluster.state, cluster.reason_code, cluster.reason = ClusterState.RUNNING, None, "Running step"
            cluster.idle_since = cluster.due = None
        elif not cluster.keep_alive:
            self._close(cluster, "ALL_STEPS_COMPLETED", "Steps completed", now)
        else:
            self._wait(cluster, now)
        self._touch(cluster)

    def _wait(self, cluster: Cluster, now: datetime) -> None:
        if cluster.state is not ClusterState.WAITING or cluster.idle_since is None:
            cluster.state = ClusterState.WAITING
            cluster.reason_code = None
            last = any(step.state is not StepState.PENDING for step in cluster.steps)
            cluster.reason = (
                "Cluster ready after last step completed." if last else "Cluster ready to run steps."
            )
            cluster.idle_since = now
        timeout = (cluster.termination_policy or {}).get("IdleTimeout")
        cluster.due = None
        if timeout is None or cluster.protected:
            return
        over = cluster.idle_since + timedelta(seconds=timeout)
        if over <= now:
            self._close(
                cluster,
                "USER_REQUEST",
                f"Terminated by the auto-termination policy: idle for {timeout} seconds",
                now,
            )
        else:
            cluster.due = over

    def _start_step(self, cluster: Cluster, step: Step, now: datetime) -> None:
        step.state = StepState.RUNNING
        step.started = now
        jar: Params = step.config["HadoopJarStep"]
        self.effects.append(
            Start(
                Job(
                    key=step.id,
                    cluster_id=cluster.id,
                    step_id=step.id,
                    bootstrap_number=None,
                    jar=jar["Jar"],
                    args=tuple(jar.get("Args") or ()),
                    main_class=jar.get("MainClass"),
                    properties={each["Key"]: each.get("Value", "") for each in jar.get("Properties") or []},
                    configurations=list(cluster.request.get("Configurations") or []),
                    log_uri=cluster.log_uri,
                    instance_id=cluster.primary.ec2_id if cluster.primary else "i-none",
                )
            )
        )

    def _step_ended(self, cluster: Cluster, step: Step, outcome: Outcome, now: datetime) -> None:
        if step.state is StepState.CANCEL_PENDING:
            why = "Cancelled by user" if cluster.state not in CLUSTER_ENDING else "Job terminated"
            self._end_step(cluster, step, StepState.CANCELLED, now, reason=why)
        elif outcome.succeeded:
            self._end_step(cluster, step, StepState.COMPLETED, now)
        else:
            details = {"Reason": outcome.reason, "Message": outcome.message, "LogFile": outcome.log_file}
            step.failure = {key: value for key, value in details.items() if value}
            self._end_step(cluster, step, StepState.FAILED, now)
            self._act_on_failure(cluster, step, now)
        if cluster.state is ClusterState.TERMINATING:
            self._finish_closing(cluster, now)
        else:
            self._schedule(cluster, now)

    def _act_on_failure(self, cluster: Cluster, step: Step, now: datetime) -> None:
        # With several steps at a time EMR neither cancels the others nor ends the cluster.
        if cluster.state in CLUSTER_ENDING or cluster.concurrency > 1:
            return
        action = step.action_on_failure
        if action == "CONTINUE":
            return
        for other in cluster.steps:
            if other.state is StepState.PENDING:
                self._end_step(cluster, other, StepState.CANCELLED, now, reason="Job terminated")
        # A protected cluster stays, so that what is on its disks can be looked at.
        if action == "TERMINATE_CLUSTER" and not cluster.protected:
            self._close(cluster, "STEP_FAILURE", "Shut down as step failed", now)

    def _end_step(
        self, cluster: Cluster, step: Step, state: StepState, now: datetime, reason: str | None = None
    ) -> None:
        step.state, step.ended, step.reason = state, now, reason
        self._touch(cluster)

    def _close(self, cluster: Cluster, code: str, message: str, now: datetime) -> None:
        with_errors = code not in ("ALL_STEPS_COMPLETED", "USER_REQUEST")
        cluster.state = ClusterState.TERMINATING
        cluster.reason_code, cluster.reason = code, message
        cluster.final_state = ClusterState.TERMINATED_WITH_ERRORS if with_errors else ClusterState.TERMINATED
        cluster.idle_since = cluster.due = None
        for step in cluster.steps:
            if step.state is StepState.PENDING:
                self._end_step(cluster, step, StepState.CANCELLED, now, reason="Job terminated")
            elif step.state in ON_NODE_STEP:
                step.state = StepState.CANCEL_PENDING
                self.effects.append(End(step.id, StopSignal.TERMINATE_PROCESS))
        if cluster.ready is None and cluster.bootstraps_done < len(cluster.bootstrap_actions):
            key = f"{cluster.id}/bootstrap-actions/{cluster.bootstraps_done + 1}"
            self.effects.append(End(key, StopSignal.TERMINATE_PROCESS))
        self._finish_closing(cluster, now)
        self._touch(cluster)

    def _finish_closing(self, cluster: Cluster, now: datetime) -> None:
        """TERMINATING lasts until the last process of the cluster has ended."""
        if not any(step.state in ON_NODE_STEP for step in cluster.steps) and cluster.due is None:
            cluster.due = now + self._pace.terminating

    def _terminated(self, cluster: Cluster, now: datetime) -> None:
        cluster.state = cluster.final_state or ClusterState.TERMINATED
        cluster.ended = now
        for instance in cluster.instances:
            instance.ended = instance.ended or now
        for pool in cluster.pools:
            pool.ended = pool.ended or now

    # Machines

    def _provision(self, cluster: Cluster, now: datetime) -> bool:
        """Choose the place and the machines; False when there are none, with what follows from that under way."""
        if self._faults is None or not self._faults.lack_capacity:
            here = places(cluster.request)[0]
            cluster.subnet, cluster.zone = here.subnet, here.zone
            return True
        chosen = plan(cluster, self._lacks(cluster))
        wait = spot_timeout(cluster, chosen.missing, self._pace.spot_minute)
        if wait is not None:
            if now < cluster.created + wait:
                cluster.due = cluster.created + wait
                return False
            chosen = plan(cluster, self._lacks(cluster), switched=True)
        if chosen.missing:
            message, detail = explain(chosen.missing[0])
            code = "INTERNAL_ERROR"
            if wait is not None and spot_timeout(cluster, chosen.missing, self._pace.spot_minute) is not None:
                code = "INSTANCE_FLEET_TIMEOUT"
                message = f"The Spot provisioning timeout of the cluster has expired. {message}"
            cluster.subnet, cluster.zone = chosen.place.subnet, chosen.place.zone
            cluster.errors.append(detail)
            self._close(cluster, code, message, now)
            return False
        self._settle_in(cluster, chosen, now)
        return True

    def _settle_in(self, cluster: Cluster, chosen: Plan, now: datetime) -> None:
        cluster.subnet, cluster.zone = chosen.place.subnet, chosen.place.zone
        for pool in cluster.pools:
            wanted = chosen.instances[pool.id]
            have = [each for each in cluster.instances if each.pool == pool.id]
            if [(each.type, each.market) for each in have] != [(each.type, each.market) for each in wanted]:
                cluster.instances = [each for each in cluster.instances if each.pool != pool.id]
                for each in wanted:
                    self._new_instance(cluster, pool, each, now)

    def _lacks(self, cluster: Cluster) -> Callable[[str, str, Place], bool]:
        def lacks(instance_type: str, market: str, place: Place) -> bool:
            assert self._faults is not None
            return self._faults.lacks(cluster.id, instance_type, market, place.subnet, place.zone)

        return lacks

    def _lacks_here(self, cluster: Cluster) -> Callable[[str, str], bool] | None:
        """For machines that are added to a cluster which has its place."""
        if self._faults is None or cluster.zone is None:
            return None
        here, lacks = Place(cluster.subnet, cluster.zone), self._lacks(cluster)
        return lambda instance_type, market: lacks(instance_type, market, here)

    def _lose_spot(self, cluster: Cluster, role: str | None, now: datetime) -> None:
        """EC2 takes the cluster's Spot instances. What EMR does then is in the best practices for Spot:

        https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-plan-instances-guidelines.html
        """
        lost = [
            each
            for each in cluster.instances
            if each.market == "SPOT" and each.ended is None and role in (None, each.role)
        ]
        for each in lost:
            each.ended = now
            each.lost = "Instance was terminated by EC2: Spot capacity was reclaimed."
        self._touch(cluster)
        roles = {each.role for each in lost}
        primary = next((each for each in lost if each.role == "MASTER"), None)
        if primary is not None:
            message = "The master node was terminated."
            detail: Params = {"primary-instance-id": primary.ec2_id, "instance-type": primary.type}
            cluster.errors.append(
                {
                    "ErrorCode": "INTERNAL_ERROR_SPOT_NO_CAPACITY_PRIMARY",
                    "ErrorData": [
                        {**detail, "availability-zone": cluster.zone or "", "public-doc": _SPOT_DOCS}
                    ],
                    "ErrorMessage": message,
                }
            )
            self._close(cluster, "INSTANCE_FAILURE", message, now)
        elif "CORE" in roles and not any(
            each.role == "CORE" and each.ended is None for each in cluster.instances
        ):
            message = "All slaves in the job flow were terminated due to Spot"
            self._close(cluster, "INSTANCE_FAILURE", message, now)

    # Pools and instances

    def _new_pool(self, cluster: Cluster, config: Params, now: datetime) -> Pool:
        role = config["InstanceFleetType"] if cluster.uses_fleets else config["InstanceRole"]
        pool = Pool(self._new_id("if-" if cluster.uses_fleets else "ig-"), role, config, now)
        cluster.pools.append(pool)
        for wanted in wanted_instances(cluster.uses_fleets, config, self._lacks_here(cluster))[0]:
            self._new_instance(cluster, pool, wanted, now)
        self._touch(cluster)
        return pool

    def _new_instance(self, cluster: Cluster, pool: Pool, wanted: WantedInstance, now: datetime) -> None:
        cluster.instances.append(
            Instance(
                id=self._new_id("ci-"),
                ec2_id=self._new_id("i-"),
                pool=pool.id,
                role=pool.role,
                type=wanted.type,
                market=wanted.market,
                weight=wanted.weight,
                created=now,
            )
        )

    @staticmethod
    def _make_ready(cluster: Cluster, now: datetime) -> None:
        members: list[Instance | Pool] = [*cluster.instances, *cluster.pools]
        for each in members:
            if each.ended is None:
                each.ready = each.ready or now

    def _touch(self, cluster: Cluster) -> None:
        self.changed.add(cluster.id)


def requested_pools(instances: Params) -> list[Params]:
    """The groups or fleets of a RunJobFlow, also of one in the short form (MasterInstanceType and a count)."""
    configs: list[Params] = instances.get("InstanceFleets") or instances.get("InstanceGroups") or []
    if configs:
        return configs
    primary = instances.get("MasterInstanceType")
    core = instances.get("SlaveInstanceType") or primary
    count = int(instances.get("InstanceCount") or 1)
    groups: list[Params] = [{"InstanceRole": "MASTER", "InstanceType": primary, "InstanceCount": 1}]
    if count > 1:
        groups.append({"InstanceRole": "CORE", "InstanceType": core, "InstanceCount": count - 1})
    names = {"MASTER": "Master Instance Group", "CORE": "Core Instance Group"}
    return [{"Name": names[group["InstanceRole"]], "Market": "ON_DEMAND", **group} for group in groups]


def active_steps(cluster: Cluster) -> int:
    return sum(step.state in STEP_ACTIVE for step in cluster.steps)
