"""What local EMR remembers of clusters and steps: plain records that the state machine changes and the store keeps."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from airflow_emr_etl.models.states import ClusterState, StepState

Params = dict[str, Any]
"""A structure as botocore's EMR model names its members."""

#: Occupies one of the cluster's places for running steps.
ON_NODE_STEP: Final = frozenset({StepState.RUNNING, StepState.CANCEL_PENDING})


class StopSignal(enum.StrEnum):
    """How a running step is asked to end; the names are those of CancelSteps."""

    SEND_INTERRUPT = "SEND_INTERRUPT"
    TERMINATE_PROCESS = "TERMINATE_PROCESS"


@dataclass
class Step:
    id: str
    config: Params
    """``StepConfig`` as it was asked for."""
    created: datetime
    execution_role: str | None = None
    state: StepState = StepState.PENDING
    reason: str | None = None
    failure: Params | None = None
    """``FailureDetails`` of a failed step."""
    started: datetime | None = None
    ended: datetime | None = None

    @property
    def action_on_failure(self) -> str:
        action = str(self.config.get("ActionOnFailure") or "CONTINUE")
        return "TERMINATE_CLUSTER" if action == "TERMINATE_JOB_FLOW" else action


@dataclass
class Instance:
    id: str
    ec2_id: str
    pool: str
    """The id of its instance group or fleet."""
    role: str
    type: str
    market: str
    weight: int
    created: datetime
    ready: datetime | None = None
    ended: datetime | None = None
    lost: str | None = None
    """Why EC2 took it away; None: it did not."""


@dataclass
class Pool:
    """An instance group or an instance fleet."""

    id: str
    role: str
    config: Params
    """``InstanceGroupConfig`` or ``InstanceFleetConfig``, brought up to date by the Modify operations."""
    created: datetime
    ready: datetime | None = None
    ended: datetime | None = None
    shrink_policy: Params | None = None


@dataclass
class Cluster:
    id: str
    request: Params
    """``RunJobFlowInput`` without its steps, as it was asked for."""
    created: datetime
    sequence: int
    """Clusters are listed newest first by this number."""
    uses_fleets: bool
    state: ClusterState = ClusterState.STARTING
    reason_code: str | None = None
    reason: str | None = None
    ready: datetime | None = None
    ended: datetime | None = None
    due: datetime | None = None
    """When the state changes next by the clock alone."""
    idle_since: datetime | None = None
    bootstraps_done: int = 0
    final_state: ClusterState | None = None
    """What TERMINATING leads to."""
    subnet: str | None = None
    """Where its machines are, once they are chosen."""
    zone: str | None = None
    errors: list[Params] = field(default_factory=list)
    """``ErrorDetails`` of its status."""
    keep_alive: bool = False
    protected: bool = False
    visible: bool = True
    unhealthy_node_replacement: bool = False
    concurrency: int = 1
    tags: dict[str, str] = field(default_factory=dict)
    scaling_policy: Params | None = None
    termination_policy: Params | None = None
    pools: list[Pool] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.request["Name"])

    @property
    def bootstrap_actions(self) -> list[Params]:
        return list(self.request.get("BootstrapActions") or [])

    @property
    def log_uri(self) -> str | None:
        uri: str | None = self.request.get("LogUri")
        return uri or None

    @property
    def primary(self) -> Instance | None:
        return next((each for each in self.instances if each.role == "MASTER"), None)

    def step(self, step_id: str) -> Step | None:
        return next((each for each in self.steps if each.id == step_id), None)


@dataclass(frozen=True)
class Job:
    """Something for a runner to run: a step, or the n-th (from 1) bootstrap action."""

    key: str
    cluster_id: str
    step_id: str | None
    bootstrap_number: int | None
    jar: str
    args: tuple[str, ...]
    main_class: str | None
    properties: dict[str, str]
    configurations: list[Params]
    log_uri: str | None
    instance_id: str
    """EC2 id of the primary node, under which a bootstrap action's logs are filed."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended. ``reason``, ``message`` and ``log_file`` explain a failure and become FailureDetails."""

    succeeded: bool
    exit_code: int | None = None
    reason: str = "Unknown Error."
    message: str | None = None
    log_file: str | None = None


@dataclass(frozen=True)
class Start:
    """The state machine wants this job to be started."""

    job: Job


@dataclass(frozen=True)
class End:
    """The state machine wants this running job to be ended."""

    key: str
    signal: StopSignal
