"""What EMR tells EventBridge: which clusters and steps are in another state than when last told."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from airflow_emr_etl.local.emr.records import Cluster
from airflow_emr_etl.models.emr_event import EmrEvent
from airflow_emr_etl.models.states import CLUSTER_ENDED, ClusterState, StepState

_TOLD: Final = frozenset({ClusterState.STARTING, ClusterState.RUNNING, ClusterState.WAITING, *CLUSTER_ENDED})
"""EMR has no event of the states in between."""


class Notices:
    """Remembers what was told. Without I/O; ``region`` is left to who delivers."""

    def __init__(self, account: str) -> None:
        self._account = account
        self._clusters: dict[str, ClusterState] = {}
        self._steps: dict[str, StepState] = {}

    def know(self, clusters: Iterable[Cluster]) -> None:
        """These are as they are, and nobody need be told."""
        for cluster in clusters:
            self._clusters[cluster.id] = cluster.state
            self._steps |= {step.id: step.state for step in cluster.steps}

    def of(self, cluster: Cluster, now: datetime) -> list[EmrEvent]:
        """What has changed since the last time, in the order in which it happens on EMR."""
        found: list[EmrEvent] = []
        known = self._clusters.get(cluster.id)
        is_over = cluster.state in CLUSTER_ENDED
        if known is None:
            found.append(self._event(cluster, None, ClusterState.STARTING, now))
            known = ClusterState.STARTING
        if cluster.state is not known and cluster.state in _TOLD and not is_over:
            found.append(self._event(cluster, None, cluster.state, now))
        for step in cluster.steps:
            before = self._steps.get(step.id)
            if before is None:
                found.append(
                    self._event(cluster, (step.id, str(step.config["Name"])), StepState.PENDING, now)
                )
                before = StepState.PENDING
            if step.state is not before:
                found.append(self._event(cluster, (step.id, str(step.config["Name"])), step.state, now))
            self._steps[step.id] = step.state
        if is_over and cluster.state is not known:
            found.append(self._event(cluster, None, cluster.state, now))
        self._clusters[cluster.id] = cluster.state
        return found

    def _event(
        self, cluster: Cluster, step: tuple[str, str] | None, state: ClusterState | StepState, now: datetime
    ) -> EmrEvent:
        of_cluster = f"Amazon EMR Cluster {cluster.id} ({cluster.name})"
        what = of_cluster if step is None else f"Step {step[0]} ({step[1]}) in {of_cluster}"
        return EmrEvent(
            id=str(uuid.uuid4()),
            account=self._account,
            region="",
            time=now,
            cluster_id=cluster.id,
            step_id=None if step is None else step[0],
            name=cluster.name if step is None else step[1],
            state=state.value,
            message=f"{what} is {state.value} at {now:%Y-%m-%d %H:%M} UTC.",
        )
