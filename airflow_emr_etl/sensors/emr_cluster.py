"""Wait for a cluster's state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from airflow_emr_etl.exceptions import EmrEtlError, WaitTimeoutError
from airflow_emr_etl.hooks.emr_cluster import cluster_failure, cluster_state
from airflow_emr_etl.models.states import CLUSTER_READY
from airflow_emr_etl.sensors.waiting import WaitingSensor
from airflow_emr_etl.triggers.emr_cluster import EmrClusterStateTrigger


class EmrClusterSensor(WaitingSensor):
    """Wait until a cluster is in one of ``target_states``; fails where it ends in another. Returns the state.

    :param cluster_id: (templated)
    :param target_states: names of EMR's states; by default those in which it takes steps (templated)
    """

    template_fields: Sequence[str] = ("cluster_id", "target_states", "aws_conn_id", "region_name")

    def __init__(
        self, *, cluster_id: str, target_states: Iterable[str] = tuple(sorted(CLUSTER_READY)), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.target_states = [str(state) for state in target_states]

    def make_trigger(self, deadline: str | None) -> EmrClusterStateTrigger:
        return EmrClusterStateTrigger(
            cluster_id=self.cluster_id,
            target_states=self.target_states,
            aws_conn_id=self.aws_conn_id,
            region_name=self.region_name,
            poll_interval=self.poke_interval,
            deadline=deadline,
        )

    def judge(self, payload: dict[str, Any]) -> str:
        state = cluster_state(payload["cluster"])
        if state.value not in self.target_states:
            raise cluster_failure(payload["cluster"])
        return state.value

    def in_vain(self) -> EmrEtlError:
        return WaitTimeoutError(
            f"Cluster {self.cluster_id} was not {' or '.join(self.target_states)} within {self.timeout:g} seconds.",
            cluster_id=self.cluster_id,
        )
