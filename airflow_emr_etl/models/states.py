"""States of clusters and steps, and what their codes mean.

The names are EMR's own: https://docs.aws.amazon.com/emr/latest/APIReference/API_ClusterStatus.html
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final


class ClusterState(enum.StrEnum):
    """Where a cluster is in its life."""

    STARTING = "STARTING"
    BOOTSTRAPPING = "BOOTSTRAPPING"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    TERMINATING = "TERMINATING"
    TERMINATED = "TERMINATED"
    TERMINATED_WITH_ERRORS = "TERMINATED_WITH_ERRORS"


CLUSTER_COMING_UP: Final = frozenset({ClusterState.STARTING, ClusterState.BOOTSTRAPPING})
#: Takes steps and runs them.
CLUSTER_READY: Final = frozenset({ClusterState.RUNNING, ClusterState.WAITING})
CLUSTER_ENDED: Final = frozenset({ClusterState.TERMINATED, ClusterState.TERMINATED_WITH_ERRORS})
#: Takes no more steps, whether it is gone yet or not.
CLUSTER_ENDING: Final = CLUSTER_ENDED | {ClusterState.TERMINATING}
CLUSTER_LIVE: Final = CLUSTER_COMING_UP | CLUSTER_READY


class StepState(enum.StrEnum):
    """Where a step is in its life."""

    PENDING = "PENDING"
    CANCEL_PENDING = "CANCEL_PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"


STEP_ACTIVE: Final = frozenset({StepState.PENDING, StepState.CANCEL_PENDING, StepState.RUNNING})
STEP_SUCCEEDED: Final = frozenset({StepState.COMPLETED})
STEP_CANCELLED: Final = frozenset({StepState.CANCELLED})
#: The steps of a cluster that ends are CANCELLED; INTERRUPTED is in EMR's model and counts as a failure.
STEP_FAILED: Final = frozenset({StepState.FAILED, StepState.INTERRUPTED})
STEP_ENDED: Final = STEP_SUCCEEDED | STEP_CANCELLED | STEP_FAILED


class ClusterEndCode(enum.StrEnum):
    """Why a cluster ended (``StateChangeReason.Code``)."""

    INTERNAL_ERROR = "INTERNAL_ERROR"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    INSTANCE_FAILURE = "INSTANCE_FAILURE"
    INSTANCE_FLEET_TIMEOUT = "INSTANCE_FLEET_TIMEOUT"
    BOOTSTRAP_FAILURE = "BOOTSTRAP_FAILURE"
    USER_REQUEST = "USER_REQUEST"
    STEP_FAILURE = "STEP_FAILURE"
    ALL_STEPS_COMPLETED = "ALL_STEPS_COMPLETED"


#: EMR has no code of its own for most capacity failures: these words stand in the reason's message.
CAPACITY_PHRASES: Final = (
    "insufficient capacity",
    "insufficient instance capacity",
    "insufficientinstancecapacity",
    "no longer has sufficient",
    "not have sufficient",
    "not supported in your requested availability zone",
    "not supported in the requested availability zone",
    "not enough capacity",
    "spot provisioning timeout",
    "maxspotinstancecountexceeded",
    "vcpu limit",
    "instancelimitexceeded",
)


#: Where EMR gives ``ErrorDetails``, their codes say it plainly.
CAPACITY_ERROR_CODES: Final = ("EC2_INSUFFICIENT_CAPACITY", "EC2_INSTANCE_LIMIT", "EC2_SPOT_PROVISIONING")


def is_capacity_failure(code: str | None, message: str | None, error_codes: Iterable[str] = ()) -> bool:
    """Whether a cluster ended because EC2 had no machines for it; ``error_codes`` are those of its ErrorDetails."""
    if code == ClusterEndCode.INSTANCE_FLEET_TIMEOUT:
        return True
    if any(known in each for each in error_codes for known in CAPACITY_ERROR_CODES):
        return True
    text = (message or "").lower()
    return any(phrase in text for phrase in CAPACITY_PHRASES)
