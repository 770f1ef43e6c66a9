"""EMR's operations, over the state machine, the store and a runner."""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import heapq
import json
import secrets
import string
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.api import ApiError, JsonApi
from airflow_emr_etl.local.emr import answers
from airflow_emr_etl.local.emr.faults import EmrFaults
from airflow_emr_etl.local.emr.machine import Machine, Pace, active_steps, requested_pools
from airflow_emr_etl.local.emr.notices import Notices
from airflow_emr_etl.local.emr.processes import end_session, marked_sessions, start_time
from airflow_emr_etl.local.emr.records import Cluster, Outcome, Params, Pool, Start, StopSignal
from airflow_emr_etl.local.emr.releases import RELEASE_LABELS, release_version
from airflow_emr_etl.local.emr.runner import ProcessRunner, StepRunner
from airflow_emr_etl.local.emr.store import MemoryStore, Records, Store
from airflow_emr_etl.local.s3.service import ACCOUNT_ID
from airflow_emr_etl.local.spark_env import SparkEnvironment
from airflow_emr_etl.models.emr_event import EmrEvent
from airflow_emr_etl.models.states import CLUSTER_ENDED, CLUSTER_ENDING

PAGE = 50
MAX_ACTIVE_STEPS = 256
MAX_STEPS_SHOWN = 1000
MAX_STEP_IDS = 10
MAX_BOOTSTRAP_ACTIONS = 16
MAX_CONCURRENCY = 256
IDLE_TIMEOUT_SECONDS = (60, 604_800)

_T = TypeVar("_T")


def utc_now() -> datetime:
    # EMR tells times in milliseconds.
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


class EmrApi(JsonApi):
    """Amazon EMR on this machine. An operation that has no method here is refused as not supported.

    What EMR keeps on the account's side is in ``state``; objects are files under ``objects``. ``environment``
    gives the variables with which a step reaches AWS. With a ``clock`` of one's own, time moves only when
    :meth:`tick` is called; with a ``runner`` of one's own, no process is started. Without ``state``, which
    needs both, nothing is written: for simulations, where a call then costs a fraction of a millisecond.
    ``new_id("j-")`` makes ids, for runs that are to be repeatable. ``faults`` lets things go wrong on EMR's side.
    """

    service: ClassVar[str] = "emr"

    def __init__(
        self,
        state: Path | None,
        objects: Path | None = None,
        environment: Callable[[], dict[str, str]] = dict,
        *,
        clock: Callable[[], datetime] | None = None,
        runner: StepRunner | None = None,
        pace: Pace | None = None,
        spark: SparkEnvironment | None = None,
        new_id: Callable[[str], str] | None = None,
    ) -> None:
        if state is None and (clock is None or runner is None):
            raise ValueError("Without a state folder EMR needs a clock and a runner of its own.")
        if objects is None and runner is None:
            raise ValueError("Without a runner of one's own the steps need the folder of the objects.")
        self._state = state
        self._objects = objects
        self._environment = environment
        self._clock = clock or utc_now
        self._drives_itself = clock is None
        self._given_runner = runner
        self._spark = spark or SparkEnvironment()
        self._changed = threading.Condition(threading.RLock())
        self.faults = EmrFaults(
            self._clock,
            self._changed,
            self._changed.notify_all,
            lambda cluster_id: cluster_id in self._machine.clusters,
        )
        self._machine = Machine(new_id or _new_id, pace, self.faults)
        self._notices = Notices(ACCOUNT_ID)
        #: Is told of each change of a state, with a lock held: it must not wait.
        self.on_events: Callable[[list[EmrEvent]], None] | None = None
        self._store: Records | None = None
        self._later: list[tuple[datetime, int, Callable[[], None]]] = []
        self._later_count = 0
        self._runner: StepRunner | None = None
        self._driver: threading.Thread | None = None
        self._lock_file: IO[str] | None = None
        self._stopping = False

    # Start and stop

    def start(self) -> None:
        """Load the state, end what an earlier server that was killed left running, and go on from there.

        Raises:
            LocalAwsError: another server uses this state folder.
        """
        self._stopping = False
        store: Records
        if self._state is None:
            self._store = store = MemoryStore()
            self._runner = self._given_runner
        else:
            self._state.mkdir(parents=True, exist_ok=True)
            self._lock_file = self._lock_state(self._state)
            self._store = store = Store(self._state / "emr.sqlite")
            state_id = store.setting("state_id", None) or secrets.token_hex(16)
            store.save_setting("state_id", state_id)
            self._end_orphans(store, state_id)
            self._runner = self._given_runner or self._process_runner(self._state, store, state_id)
        with self._changed:
            self._machine.clusters = {each.id: each for each in store.clusters()}
            self._notices.know(self._machine.clusters.values())
            self._machine.interrupted(self._clock())
            self._settle()
        if self._drives_itself:
            self._driver = threading.Thread(target=self._drive, name="emr-clock", daemon=True)
            self._driver.start()

    def _process_runner(self, state: Path, store: Records, state_id: str) -> ProcessRunner:
        assert self._objects is not None
        return ProcessRunner(
            state=state,
            objects=self._objects,
            environment=self._environment,
            spark=self._spark,
            ledger=_Ledger(self, store),
            state_id=state_id,
            after_log_delay=self.after_log_delay,
        )

    def stop(self) -> None:
        with self._changed:
            if self._store is None:
                return
            self._stopping = True  # from here on the ends of jobs are not recorded: see Machine.interrupted
            self._changed.notify_all()
        if self._driver is not None:
            self._driver.join(10)
            self._driver = None
        assert self._runner is not None
        self._runner.close()
        self._spark.close()
        with self._changed:
            later, self._later = self._later, []
        for _, _, action in sorted(later, key=lambda each: each[:2]):
            action()  # what was only late is not lost
        with self._changed:
            self._store.forget_process()
            self._store.close()
            self._store = None
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def warm_up(self) -> None:
        """Build Spark's class archive in the background, once a machine; else the first Spark step begins it."""
        with contextlib.suppress(LocalAwsError, OSError):
            self._spark.make_archive()

    def tick(self) -> None:
        """Make the changes of state that are due by the clock."""
        with self._changed:
            now = self._clock()
            self._machine.advance(now)
            self._settle()
            actions = []
            while self._later and self._later[0][0] <= now:
                actions.append(heapq.heappop(self._later)[2])
        for action in actions:
            if self._drives_itself:  # not under the lock of all of EMR, which the caller holds
                threading.Thread(target=action, name="emr-late-logs", daemon=True).start()
            else:
                action()

    def next_due(self) -> datetime | None:
        """When :meth:`tick` has something to do next, if nothing else happens before."""
        with self._changed:
            due = self._machine.next_due()
            late = self._later[0][0] if self._later else None
            return min((each for each in (due, late) if each is not None), default=None)

    def after_log_delay(self, publish: Callable[[], None]) -> None:
        """Carry out ``publish`` when the log of a step that has ended now may be seen."""
        with self._changed:
            wait = self.faults.logs_wait
            if wait and not self._stopping:
                self._later_count += 1
                heapq.heappush(self._later, (self._clock() + wait, self._later_count, publish))
                self._changed.notify_all()
                return
        publish()

    @staticmethod
    def _lock_state(state: Path) -> IO[str]:
        file = (state / "lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise LocalAwsError(
                f"Another local AWS uses the state folder {state}. Stop it, or choose another folder."
            ) from error
        return file

    @staticmethod
    def _end_orphans(store: Records, state_id: str) -> None:
        sessions = marked_sessions(state_id)
        # Where there is no /proc to find them by their mark: by number and start time together.
        sessions |= {pid for pid, started in store.processes() if started and start_time(pid) == started}
        for session in sessions:
            end_session(session, 1.0)
        store.forget_process()

    def _drive(self) -> None:
        with self._changed:
            while not self._stopping:
                self.tick()
                due = self.next_due()
                wait = None if due is None else max(0.0, (due - self._clock()).total_seconds()) + 0.001
                self._changed.wait(wait)

    def _settle(self) -> None:
        """Save what changed, then carry out what the machine asked for. Called with the lock held."""
        machine, store, runner = self._machine, self._store, self._runner
        if store is None or runner is None:
            raise ApiError("InternalServerException", "Local EMR is stopped.", status=500)
        if machine.changed:
            changed = [machine.clusters[each] for each in machine.changed]
            store.save(changed)
            machine.changed.clear()
            if self.on_events is not None:
                self.on_events([event for each in changed for event in self._notices.of(each, self._clock())])
            self._changed.notify_all()
        effects, machine.effects = machine.effects, []
        for effect in effects:
            if isinstance(effect, Start):
                runner.start(effect.job, self._when_ended(effect.job.key))
            else:
                runner.end(effect.key, effect.signal)

    def _when_ended(self, key: str) -> Callable[[Outcome], None]:
        def ended(outcome: Outcome) -> None:
            with self._changed:
                if not self._stopping:
                    self._machine.job_ended(key, outcome, self._clock())
                    self._settle()

        return ended

    # Clusters

    def run_job_flow(self, params: Params) -> Params:
        _check_cluster(params)
        with self._changed:
            self._check_security_configuration(params.get("SecurityConfiguration"))
            cluster = self._machine.create(params, self._clock())
            self._settle()
        return {"JobFlowId": cluster.id, "ClusterArn": answers.arn(cluster.id)}

    def describe_cluster(self, params: Params) -> Params:
        with self._changed:
            cluster = self._cluster(params["ClusterId"])
            return {"Cluster": answers.cluster_detail(cluster, self._spark.spark_version)}

    def list_clusters(self, params: Params) -> Params:
        states, after, before = (
            params.get("ClusterStates"),
            params.get("CreatedAfter"),
            params.get("CreatedBefore"),
        )
        with self._changed:
            found = [
                each
                for each in self._newest_first()
                if (not states or each.state in states)
                and (after is None or each.created >= _utc(after))
                and (before is None or each.created <= _utc(before))
                and self._is_listed(each.created)
            ]
            return _page("Clusters", found, params, lambda each: each.id, answers.cluster_summary)

    def describe_job_flows(self, params: Params) -> Params:
        ids, states = params.get("JobFlowIds"), params.get("JobFlowStates")
        after, before = params.get("CreatedAfter"), params.get("CreatedBefore")
        with self._changed:
            for each in ids or []:
                self._job_flow(each)
            found = [
                each
                for each in self._newest_first()
                if (not ids or each.id in ids)
                and (not states or answers.job_flow_state(each) in states)
                and (after is None or each.created >= _utc(after))
                and (before is None or each.created <= _utc(before))
                and (ids or self._is_listed(each.created))
            ]
            return {"JobFlows": [answers.job_flow_detail(each) for each in found[:512]]}

    def terminate_job_flows(self, params: Params) -> Params:
        with self._changed:
            clusters = [self._job_flow(each) for each in params["JobFlowIds"]]
            for cluster in clusters:
                if not cluster.protected:
                    self._machine.terminate(cluster, self._clock())
            self._settle()
            if any(each.protected and each.state not in CLUSTER_ENDING for each in clusters):
                raise _invalid(
                    "Could not shut down one or more job flows since they are termination protected."
                )
        return {}

    def set_termination_protection(self, params: Params) -> Params:
        def change(cluster: Cluster) -> None:
            cluster.protected = params["TerminationProtected"]
            # An idle time-out counts again, or no longer.
            self._machine.set_termination_policy(cluster, cluster.termination_policy, self._clock())

        return self._change_job_flows(params, change)

    def set_visible_to_all_users(self, params: Params) -> Params:
        def change(cluster: Cluster) -> None:
            cluster.visible = params["VisibleToAllUsers"]

        return self._change_job_flows(params, change)

    def set_unhealthy_node_replacement(self, params: Params) -> Params:
        def change(cluster: Cluster) -> None:
            cluster.unhealthy_node_replacement = params["UnhealthyNodeReplacement"]

        return self._change_job_flows(params, change)

    def set_keep_job_flow_alive_when_no_steps(self, params: Params) -> Params:
        keep_alive: bool = params["KeepJobFlowAliveWhenNoSteps"]
        return self._change_job_flows(
            params, lambda each: self._machine.set_keep_alive(each, keep_alive, self._clock())
        )

    def modify_cluster(self, params: Params) -> Params:
        level = params.get("StepConcurrencyLevel")
        with self._changed:
            cluster = self._open_cluster(params["ClusterId"])
            if level is not None:
                _check_concurrency(level, cluster.request.get("ReleaseLabel"), _bad_request)
                self._machine.set_concurrency(cluster, level, self._clock())
            if "ExtendedSupport" in params:
                cluster.request["ExtendedSupport"] = params["ExtendedSupport"]
                self._machine.changed.add(cluster.id)
            self._settle()
            return answers.present(
                StepConcurrencyLevel=cluster.concurrency,
                ExtendedSupport=cluster.request.get("ExtendedSupport"),
            )

    # Steps

    def add_job_flow_steps(self, params: Params) -> Params:
        with self._changed:
            cluster = self._job_flow(params["JobFlowId"])
            if cluster.state in CLUSTER_ENDING:
                raise _invalid(
                    "A job flow that is shutting down, terminated, or finished may not be modified."
                )
            steps = params["Steps"]
            _check_steps(steps, cluster.concurrency, active_steps(cluster))
            added = self._machine.add_steps(
                cluster, steps, self._clock(), execution_role=params.get("ExecutionRoleArn")
            )
            self._settle()
            return {"StepIds": [each.id for each in added]}

    def list_steps(self, params: Params) -> Params:
        ids, states = params.get("StepIds"), params.get("StepStates")
        if ids and len(ids) > MAX_STEP_IDS:
            raise _bad_request(
                f"The maximum number of step IDs is {MAX_STEP_IDS}; the request has {len(ids)}."
            )
        if ids and states:
            raise _bad_request("Cannot specify both StepIds and StepStates in the same request.")
        with self._changed:
            cluster = self._cluster(params["ClusterId"])
            for each in ids or []:
                if cluster.step(each) is None:
                    raise _bad_request(f"Step id '{each}' is not valid.")
            found = [
                each
                for each in reversed(cluster.steps[-MAX_STEPS_SHOWN:])
                if (not ids or each.id in ids)
                and (not states or each.state in states)
                and self._is_listed(each.created)
            ]
            return _page("Steps", found, params, lambda each: each.id, answers.step_summary)

    def describe_step(self, params: Params) -> Params:
        with self._changed:
            step = self._cluster(params["ClusterId"]).step(params["StepId"])
            if step is None:
                raise _bad_request(f"Step id '{params['StepId']}' is not valid.")
            return {"Step": answers.step_detail(step)}

    def cancel_steps(self, params: Params) -> Params:
        how = StopSignal(params.get("StepCancellationOption") or StopSignal.SEND_INTERRUPT)
        with self._changed:
            cluster = self._open_cluster(params["ClusterId"])
            steps = []
            for step_id in params["StepIds"]:
                step = cluster.step(step_id)
                if step is None:
                    raise _bad_request(f"Step id '{step_id}' is not valid.")
                steps.append(step)
            infos = []
            for step in steps:
                refused = self._machine.cancel_step(cluster, step, how, self._clock())
                infos.append(
                    answers.present(
                        StepId=step.id, Status="FAILED" if refused else "SUBMITTED", Reason=refused
                    )
                )
            self._settle()
            return {"CancelStepsInfoList": infos}

    # Instances and bootstrap actions

    def list_bootstrap_actions(self, params: Params) -> Params:
        with self._changed:
            actions = self._cluster(params["ClusterId"]).bootstrap_actions
        return {
            "BootstrapActions": [
                {
                    "Name": each["Name"],
                    "ScriptPath": each["ScriptBootstrapAction"]["Path"],
                    "Args": list(each["ScriptBootstrapAction"].get("Args") or []),
                }
                for each in actions
            ]
        }

    def list_instances(self, params: Params) -> Params:
        states, roles = params.get("InstanceStates"), params.get("InstanceGroupTypes")
        fleet_role = params.get("InstanceFleetType")
        pool = params.get("InstanceGroupId") or params.get("InstanceFleetId")
        with self._changed:
            cluster = self._cluster(params["ClusterId"])
            found = [
                each
                for each in cluster.instances
                if (not states or answers.instance_state(cluster, each) in states)
                and (not roles or each.role in roles)
                and (not fleet_role or each.role == fleet_role)
                and (not pool or each.pool == pool)
            ]
            return _page(
                "Instances",
                found,
                params,
                lambda each: each.id,
                lambda each: answers.instance_detail(cluster, each),
            )

    def list_instance_groups(self, params: Params) -> Params:
        with self._changed:
            cluster = self._of_groups(params["ClusterId"], "ListInstanceGroups", "ListInstanceFleets")
            return {"InstanceGroups": [answers.group_detail(cluster, each) for each in cluster.pools]}

    def list_instance_fleets(self, params: Params) -> Params:
        with self._changed:
            cluster = self._of_fleets(params["ClusterId"], "ListInstanceFleets", "ListInstanceGroups")
            return {"InstanceFleets": [answers.fleet_detail(cluster, each) for each in cluster.pools]}

    def add_instance_groups(self, params: Params) -> Params:
        with self._changed:
            cluster = self._open_job_flow(params["JobFlowId"])
            if cluster.uses_fleets:
                raise _invalid(_wrong_collection("fleets", "AddInstanceGroups", "AddInstanceFleet"))
            for config in params["InstanceGroups"]:
                if config["InstanceRole"] != "TASK":
                    raise _invalid(
                        f"Cannot add a {config['InstanceRole']} instance group to a running job flow."
                    )
            added = [
                self._machine.add_pool(cluster, each, self._clock()) for each in params["InstanceGroups"]
            ]
            self._settle()
            return {
                "JobFlowId": cluster.id,
                "InstanceGroupIds": [each.id for each in added],
                "ClusterArn": answers.arn(cluster.id),
            }

    def modify_instance_groups(self, params: Params) -> Params:
        with self._changed:
            changes: list[tuple[Cluster, Pool, Params]] = []
            for change in params.get("InstanceGroups") or []:
                cluster, pool = self._group(change["InstanceGroupId"], params.get("ClusterId"))
                count = change.get("InstanceCount")
                if pool.role == "MASTER" and count not in (None, pool.config["InstanceCount"]):
                    raise _invalid("The size of the master instance group cannot be changed.")
                changes.append((cluster, pool, change))
            for cluster, pool, change in changes:
                pool.shrink_policy = change.get("ShrinkPolicy", pool.shrink_policy)
                kept = {
                    key: change[key]
                    for key in ("InstanceCount", "Configurations")
                    if change.get(key) is not None
                }
                self._machine.resize(cluster, pool, kept, self._clock())
            self._settle()
        return {}

    def add_instance_fleet(self, params: Params) -> Params:
        with self._changed:
            cluster = self._open_fleets(params["ClusterId"], "AddInstanceFleet", "AddInstanceGroups")
            config = params["InstanceFleet"]
            if any(each.role == config["InstanceFleetType"] for each in cluster.pools):
                raise _bad_request(f"The cluster has a {config['InstanceFleetType']} instance fleet already.")
            pool = self._machine.add_pool(cluster, config, self._clock())
            self._settle()
            return {
                "ClusterId": cluster.id,
                "InstanceFleetId": pool.id,
                "ClusterArn": answers.arn(cluster.id),
            }

    def modify_instance_fleet(self, params: Params) -> Params:
        change = params["InstanceFleet"]
        with self._changed:
            cluster = self._open_fleets(params["ClusterId"], "ModifyInstanceFleet", "ModifyInstanceGroups")
            pool = next((each for each in cluster.pools if each.id == change["InstanceFleetId"]), None)
            if pool is None:
                raise _bad_request(f"Instance fleet id '{change['InstanceFleetId']}' is not valid.")
            changes = {key: value for key, value in change.items() if key != "InstanceFleetId"}
            if pool.role == "MASTER" and changes.keys() & {"TargetOnDemandCapacity", "TargetSpotCapacity"}:
                raise _bad_request("The capacity of the master instance fleet cannot be changed.")
            self._machine.resize(cluster, pool, changes, self._clock())
            self._settle()
        return {}

    # Policies

    def put_managed_scaling_policy(self, params: Params) -> Params:
        policy = params["ManagedScalingPolicy"]
        _check_scaling(policy)
        with self._changed:
            cluster = self._open_cluster(params["ClusterId"], _invalid)
            cluster.scaling_policy = policy
            self._machine.changed.add(cluster.id)
            self._settle()
        return {}

    def get_managed_scaling_policy(self, params: Params) -> Params:
        with self._changed:
            policy = self._cluster(params["ClusterId"], _invalid).scaling_policy
        return answers.present(ManagedScalingPolicy=policy)

    def remove_managed_scaling_policy(self, params: Params) -> Params:
        with self._changed:
            cluster = self._cluster(params["ClusterId"], _invalid)
            cluster.scaling_policy = None
            self._machine.changed.add(cluster.id)
            self._settle()
        return {}

    def put_auto_termination_policy(self, params: Params) -> Params:
        policy = params.get("AutoTerminationPolicy") or {}
        _check_idle_timeout(policy)
        with self._changed:
            cluster = self._open_cluster(params["ClusterId"], _invalid)
            self._machine.set_termination_policy(cluster, policy, self._clock())
            self._settle()
        return {}

    def get_auto_termination_policy(self, params: Params) -> Params:
        with self._changed:
            policy = self._cluster(params["ClusterId"], _invalid).termination_policy
        return answers.present(AutoTerminationPolicy=policy)

    def remove_auto_termination_policy(self, params: Params) -> Params:
        with self._changed:
            cluster = self._cluster(params["ClusterId"], _invalid)
            self._machine.set_termination_policy(cluster, None, self._clock())
            self._settle()
        return {}

    # Tags

    def add_tags(self, params: Params) -> Params:
        with self._changed:
            cluster = self._cluster(params["ResourceId"])
            cluster.tags.update({each["Key"]: each.get("Value", "") for each in params["Tags"]})
            self._machine.changed.add(cluster.id)
            self._settle()
        return {}

    def remove_tags(self, params: Params) -> Params:
        with self._changed:
            cluster = self._cluster(params["ResourceId"])
            for key in params["TagKeys"]:
                cluster.tags.pop(key, None)
            self._machine.changed.add(cluster.id)
            self._settle()
        return {}

    # The account

    def create_security_configuration(self, params: Params) -> Params:
        try:
            json.loads(params["SecurityConfiguration"])
        except ValueError as error:
            raise _bad_request(f"The security configuration is not valid JSON: {error}.") from error
        with self._changed:
            known = self._security_configurations()
            if params["Name"] in known:
                raise _bad_request(f"Security configuration with name '{params['Name']}' already exists.")
            created = self._clock()
            known[params["Name"]] = {"body": params["SecurityConfiguration"], "created": created}
            self._save_setting("security_configurations", known)
        return {"Name": params["Name"], "CreationDateTime": created}

    def describe_security_configuration(self, params: Params) -> Params:
        with self._changed:
            found = self._check_security_configuration(params["Name"])
        return {
            "Name": params["Name"],
            "SecurityConfiguration": found["body"],
            "CreationDateTime": found["created"],
        }

    def delete_security_configuration(self, params: Params) -> Params:
        with self._changed:
            self._check_security_configuration(params["Name"])
            known = self._security_configurations()
            del known[params["Name"]]
            self._save_setting("security_configurations", known)
        return {}

    def list_security_configurations(self, params: Params) -> Params:
        with self._changed:
            known = sorted(self._security_configurations().items())
        return _page(
            "SecurityConfigurations",
            known,
            params,
            lambda each: each[0],
            lambda each: {"Name": each[0], "CreationDateTime": each[1]["created"]},
        )

    def list_release_labels(self, params: Params) -> Params:
        filters = params.get("Filters") or {}
        prefix = filters.get("Prefix") or ""
        application = (filters.get("Application") or "spark").partition("@")[0].lower()
        labels = [each for each in RELEASE_LABELS if each.startswith(prefix) and application == "spark"]
        size = params.get("MaxResults") or 100
        start = _read_marker(params.get("NextToken")) if params.get("NextToken") else None
        first = labels.index(start) + 1 if start in labels else 0
        page = labels[first : first + size]
        more = first + size < len(labels)
        return answers.present(ReleaseLabels=page, NextToken=_marker(page[-1]) if more else None)

    def describe_release_label(self, params: Params) -> Params:
        label = params.get("ReleaseLabel") or RELEASE_LABELS[0]
        if release_version(label) is None:
            raise _bad_request(f"The supplied release label is invalid: {label}.")
        # What runs here, whatever EMR has under this label.
        spark = {"Name": "Spark", "Version": self._spark.spark_version}
        return {"ReleaseLabel": label, "Applications": [spark]}

    def get_block_public_access_configuration(self, params: Params) -> Params:
        with self._changed:
            default = {
                "configuration": {
                    "BlockPublicSecurityGroupRules": True,
                    "PermittedPublicSecurityGroupRuleRanges": [{"MinRange": 22, "MaxRange": 22}],
                },
                "created": self._clock(),
            }
            found = self._setting("block_public_access", None)
            if found is None:
                found = default
                self._save_setting("block_public_access", found)
        return {
            "BlockPublicAccessConfiguration": found["configuration"],
            "BlockPublicAccessConfigurationMetadata": {
                "CreationDateTime": found["created"],
                "CreatedByArn": f"arn:aws:iam::{answers.ACCOUNT}:root",
            },
        }

    def put_block_public_access_configuration(self, params: Params) -> Params:
        with self._changed:
            self._save_setting(
                "block_public_access",
                {"configuration": params["BlockPublicAccessConfiguration"], "created": self._clock()},
            )
        return {}

    # Looking up

    def _is_listed(self, created: datetime) -> bool:
        return not self.faults.lags or self.faults.is_listed(created, self._clock())

    def _newest_first(self) -> list[Cluster]:
        # They are kept in the order of their creation.
        return list(reversed(self._machine.clusters.values()))

    def _cluster(self, cluster_id: str, error: Callable[[str], ApiError] | None = None) -> Cluster:
        cluster = self._machine.clusters.get(cluster_id)
        if cluster is None:
            raise (error or _bad_request)(f"Cluster id '{cluster_id}' is not valid.")
        return cluster

    def _open_cluster(self, cluster_id: str, error: Callable[[str], ApiError] | None = None) -> Cluster:
        cluster = self._cluster(cluster_id, error)
        if cluster.state in CLUSTER_ENDING:
            raise (error or _bad_request)(
                f"The cluster {cluster_id} is in the state {cluster.state} and cannot be changed."
            )
        return cluster

    def _job_flow(self, cluster_id: str) -> Cluster:
        cluster = self._machine.clusters.get(cluster_id)
        if cluster is None:
            raise _invalid("Specified job flow ID does not exist.")
        return cluster

    def _open_job_flow(self, cluster_id: str) -> Cluster:
        cluster = self._job_flow(cluster_id)
        if cluster.state in CLUSTER_ENDING:
            raise _invalid("A job flow that is shutting down, terminated, or finished may not be modified.")
        return cluster

    def _change_job_flows(self, params: Params, change: Callable[[Cluster], None]) -> Params:
        with self._changed:
            clusters = [self._job_flow(each) for each in params["JobFlowIds"]]
            for cluster in clusters:
                if cluster.state in CLUSTER_ENDED:
                    raise _invalid(
                        "A job flow that is shutting down, terminated, or finished may not be modified."
                    )
            for cluster in clusters:
                change(cluster)
                self._machine.changed.add(cluster.id)
            self._settle()
        return {}

    def _of_groups(self, cluster_id: str, operation: str, instead: str) -> Cluster:
        cluster = self._cluster(cluster_id)
        if cluster.uses_fleets:
            raise _bad_request(_wrong_collection("fleets", operation, instead))
        return cluster

    def _of_fleets(self, cluster_id: str, operation: str, instead: str) -> Cluster:
        cluster = self._cluster(cluster_id)
        if not cluster.uses_fleets:
            raise _bad_request(_wrong_collection("groups", operation, instead))
        return cluster

    def _open_fleets(self, cluster_id: str, operation: str, instead: str) -> Cluster:
        self._open_cluster(cluster_id)
        return self._of_fleets(cluster_id, operation, instead)

    def _group(self, group_id: str, cluster_id: str | None) -> tuple[Cluster, Pool]:
        for cluster in self._machine.clusters.values():
            for pool in cluster.pools:
                if pool.id == group_id and not cluster.uses_fleets and cluster_id in (None, cluster.id):
                    if cluster.state in CLUSTER_ENDING:
                        raise _invalid("An instance group of a terminated job flow may not be modified.")
                    return cluster, pool
        raise _invalid(f"Instance group id '{group_id}' is not valid.")

    def _check_security_configuration(self, name: str | None) -> Params:
        if name is None:
            return {}
        found = self._security_configurations().get(name)
        if found is None:
            raise _bad_request(f"Security configuration with name '{name}' does not exist.")
        return found

    def _security_configurations(self) -> dict[str, Params]:
        known: dict[str, Params] = self._setting("security_configurations", {})
        return known

    def _setting(self, key: str, default: Any) -> Any:
        assert self._store is not None
        return self._store.setting(key, default)

    def _save_setting(self, key: str, value: object) -> None:
        assert self._store is not None
        self._store.save_setting(key, value)


class _Ledger:
    def __init__(self, api: EmrApi, store: Records) -> None:
        self._api = api
        self._store = store

    def began(self, key: str, pid: int, started: str) -> None:
        with self._api._changed:
            self._store.save_process(key, pid, started)

    def gone(self, key: str) -> None:
        with self._api._changed:
            self._store.forget_process(key)


def _new_id(prefix: str) -> str:
    if prefix == "i-":
        return prefix + secrets.token_hex(9)[:17]
    return prefix + "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(13))


def _bad_request(message: str) -> ApiError:
    return ApiError("InvalidRequestException", message)


def _invalid(message: str) -> ApiError:
    return ApiError("ValidationException", message)


def _wrong_collection(uses: str, operation: str, instead: str) -> str:
    return (
        "Instance fleets and instance groups are mutually exclusive. The EMR cluster specified in the request "
        f"uses instance {uses}. The {operation} request is not supported for it; use {instead} instead."
    )


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _marker(last: str) -> str:
    return base64.urlsafe_b64encode(last.encode()).decode()


def _read_marker(marker: str | None) -> str | None:
    try:
        return base64.urlsafe_b64decode(marker).decode() if marker else None
    except (binascii.Error, UnicodeDecodeError) as error:
        raise _bad_request("The marker is not valid.") from error


def _page(
    member: str,
    found: Sequence[_T],
    params: Params,
    identity: Callable[[_T], str],
    answer: Callable[[_T], Params],
) -> Params:
    """50 of ``found`` after the marker, which names the last one seen: what is new does not shift the pages."""
    last = _read_marker(params.get("Marker"))
    first = 0
    if last is not None:
        ids = [identity(each) for each in found]
        if last not in ids:
            raise _bad_request("The marker is not valid.")
        first = ids.index(last) + 1
    page = found[first : first + PAGE]
    more = first + PAGE < len(found)
    return answers.present(
        **{member: [answer(each) for each in page]}, Marker=_marker(identity(page[-1])) if more else None
    )


def _check_cluster(params: Params) -> None:
    instances: Params = params["Instances"]
    release = params.get("ReleaseLabel")
    if release is not None and release_version(release) is None:
        raise _invalid(f"The supplied release label is invalid: {release}.")
    if not params.get("ServiceRole"):
        raise _invalid("ServiceRole is required for creating cluster.")
    if not params.get("JobFlowRole"):
        raise _invalid("InstanceProfile is required for creating cluster.")
    groups, fleets = instances.get("InstanceGroups"), instances.get("InstanceFleets")
    if groups and fleets:
        raise _invalid(
            "Instance fleets and instance groups are mutually exclusive. Specify only one of them."
        )
    if not groups and not fleets and not instances.get("MasterInstanceType"):
        raise _invalid("Specify InstanceGroups, InstanceFleets, or MasterInstanceType with InstanceCount.")
    if instances.get("Ec2SubnetId") and instances.get("Ec2SubnetIds"):
        raise _invalid("Only one of Ec2SubnetId and Ec2SubnetIds may be specified.")
    roles = [each.get("InstanceRole") or each.get("InstanceFleetType") for each in requested_pools(instances)]
    if roles.count("MASTER") != 1:
        raise _invalid("A cluster needs exactly one MASTER instance group or fleet.")
    if roles.count("CORE") > 1 or (fleets and roles.count("TASK") > 1):
        raise _invalid("A cluster has at most one CORE group, and at most one fleet of each type.")
    for fleet in fleets or []:
        _check_fleet(fleet)
    if len(params.get("BootstrapActions") or []) > MAX_BOOTSTRAP_ACTIONS:
        raise _invalid(f"A cluster has at most {MAX_BOOTSTRAP_ACTIONS} bootstrap actions.")
    level = params.get("StepConcurrencyLevel")
    if level is not None:
        _check_concurrency(level, release, _invalid)
    _check_steps(params.get("Steps") or [], level or 1, 0)
    if params.get("AutoTerminationPolicy"):
        _check_idle_timeout(params["AutoTerminationPolicy"])
    if params.get("ManagedScalingPolicy"):
        _check_scaling(params["ManagedScalingPolicy"])


def _check_fleet(fleet: Params) -> None:
    role = fleet["InstanceFleetType"]
    on_demand, spot = fleet.get("TargetOnDemandCapacity") or 0, fleet.get("TargetSpotCapacity") or 0
    if on_demand + spot < 1:
        raise _invalid(f"The {role} instance fleet needs a target capacity of at least 1.")
    if role == "MASTER" and on_demand + spot != 1:
        raise _invalid("The target capacity of the MASTER instance fleet must be 1.")
    if not fleet.get("InstanceTypeConfigs"):
        raise _invalid(f"The {role} instance fleet needs at least one instance type.")


def _check_steps(steps: Sequence[Params], concurrency: int, active: int) -> None:
    if active + len(steps) > MAX_ACTIVE_STEPS:
        raise _invalid(
            "Maximum number of active steps(State = Running, Pending or Cancel_Pending) for cluster exceeded."
        )
    if concurrency > 1:
        for step in steps:
            action = step.get("ActionOnFailure")
            if action in ("CANCEL_AND_WAIT", "TERMINATE_CLUSTER", "TERMINATE_JOB_FLOW"):
                raise _invalid(
                    f"The ActionOnFailure setting {action} of step '{step['Name']}' is not valid when "
                    f"StepConcurrencyLevel is greater than 1 (it is {concurrency}). Use CONTINUE."
                )


def _check_concurrency(level: int, release: str | None, error: Callable[[str], ApiError]) -> None:
    if not 1 <= level <= MAX_CONCURRENCY:
        raise error(f"StepConcurrencyLevel must be from 1 to {MAX_CONCURRENCY}, not {level}.")
    version = release_version(release) if release else None
    if level > 1 and version is not None and version < (5, 28, 0):
        raise error(f"StepConcurrencyLevel above 1 needs emr-5.28.0 or later, not {release}.")


def _check_idle_timeout(policy: Params) -> None:
    seconds = policy.get("IdleTimeout")
    low, high = IDLE_TIMEOUT_SECONDS
    if seconds is not None and not low <= seconds <= high:
        raise _invalid(f"IdleTimeout must be from {low} to {high} seconds, not {seconds}.")


def _check_scaling(policy: Params) -> None:
    limits = policy.get("ComputeLimits")
    if limits and limits["MinimumCapacityUnits"] > limits["MaximumCapacityUnits"]:
        raise _invalid("MinimumCapacityUnits must not be above MaximumCapacityUnits.")
