"""Waits for a cluster's state."""

from __future__ import annotations

import asyncio
from typing import Any

from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook, cluster_state
from airflow_emr_etl.models.states import CLUSTER_ENDED
from airflow_emr_etl.triggers.ownership import is_over, whatever_comes
from airflow_emr_etl.triggers.poller import Found, Wait
from airflow_emr_etl.triggers.polling import in_task_thread, instant, plain
from airflow_emr_etl.triggers.polling_schedule import Pace
from airflow_emr_etl.triggers.shared import SharedPollingTrigger


class EmrClusterStateTrigger(SharedPollingTrigger):
    """Fires when ``cluster_id`` is in one of ``target_states``, or has ended.

    Payload: ``{"status": "done", "cluster": {…}}``, the ``Cluster`` of EMR with what tells its end. The
    operator judges it: an end may be what was waited for.
    """

    def __init__(
        self,
        *,
        cluster_id: str,
        target_states: list[str],
        terminate_on_kill: bool = False,
        lift_protection: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.cluster_id = cluster_id
        self.target_states = target_states
        self.terminate_on_kill = terminate_on_kill
        self.lift_protection = lift_protection

    def fields(self) -> dict[str, Any]:
        return {
            "cluster_id": self.cluster_id,
            "target_states": self.target_states,
            "terminate_on_kill": self.terminate_on_kill,
            "lift_protection": self.lift_protection,
        }

    def connect(self) -> EmrClusterHook:
        hook = EmrClusterHook(clients=self.clients())
        _ = hook.clients.reads
        return hook

    def new_wait(self, pace: Pace) -> Wait:
        return Wait(
            self.cluster_id,
            targets=self.target_states,
            pace=pace,
            deadline=instant(self.deadline),
            log=self.log.warning,
        )

    def payload(self, found: Found) -> dict[str, Any]:
        return {"status": "done", "cluster": found.cluster}

    def look(self, hook: EmrClusterHook) -> dict[str, Any] | None:
        cluster = hook.describe(self.cluster_id)
        state = cluster_state(cluster)
        if state not in CLUSTER_ENDED and state.value not in self.target_states:
            return None
        return {"status": "done", "cluster": plain(cluster, "Id", "Name", "Status", "LogUri", "Tags")}

    async def on_kill(self) -> None:
        """End the cluster that this task made, where its user has failed or skipped the task (Airflow 3.3)."""
        if self.terminate_on_kill:
            await whatever_comes(self._end_if_over())

    async def _end_if_over(self) -> None:
        # A triggerer that stalled may be told long after the cluster has come up, and serves.
        if not await is_over(self, unless=("success",)):
            return
        hook = self.hook or await in_task_thread(self.connect)
        if self.lift_protection:
            await asyncio.to_thread(hook.lift_protection, self.cluster_id)
        await asyncio.to_thread(hook.terminate, self.cluster_id)
