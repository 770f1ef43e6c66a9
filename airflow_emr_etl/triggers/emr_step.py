"""Waits for a step's end."""

from __future__ import annotations

import asyncio
from typing import Any

from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook, cluster_state
from airflow_emr_etl.hooks.emr_step import EmrStepHook, step_state
from airflow_emr_etl.hooks.step_keeper import StepKeeper
from airflow_emr_etl.models.states import CLUSTER_ENDED, STEP_ENDED
from airflow_emr_etl.triggers.ownership import is_over, whatever_comes
from airflow_emr_etl.triggers.poller import CLUSTER_CHECK_EVERY, Found, Wait
from airflow_emr_etl.triggers.polling import in_task_thread, instant, plain
from airflow_emr_etl.triggers.polling_schedule import Pace
from airflow_emr_etl.triggers.shared import SharedPollingTrigger


class EmrStepTrigger(SharedPollingTrigger):
    """Fires when the step has ended, or its cluster has ended with the step still open.

    Payload: ``{"status": "done", "step": {…}}``, the ``Step`` of EMR, or
    ``{"status": "cluster_ended", "cluster": {…}, "step": {…}}``.
    """

    def __init__(self, *, cluster_id: str, step_id: str, cancel_on_kill: bool = False, **common: Any) -> None:
        super().__init__(**common)
        self.cluster_id = cluster_id
        self.step_id = step_id
        self.cancel_on_kill = cancel_on_kill
        self._looks = 0

    def fields(self) -> dict[str, Any]:
        return {
            "cluster_id": self.cluster_id,
            "step_id": self.step_id,
            "cancel_on_kill": self.cancel_on_kill,
        }

    def connect(self) -> EmrClients:
        clients = self.clients()
        _ = clients.reads
        return clients

    def new_wait(self, pace: Pace) -> Wait:
        return Wait(
            self.cluster_id, [self.step_id], pace=pace, deadline=instant(self.deadline), log=self.log.warning
        )

    def payload(self, found: Found) -> dict[str, Any]:
        step = found.steps[self.step_id]
        if found.cluster is not None:
            return {"status": "cluster_ended", "cluster": found.cluster, "step": step}
        return {"status": "done", "step": step}

    def look(self, clients: EmrClients) -> dict[str, Any] | None:
        self._looks += 1
        return look_at_step(
            clients, self.cluster_id, self.step_id, ask_cluster=self._looks % CLUSTER_CHECK_EVERY == 1
        )

    async def on_kill(self) -> None:
        """Cancel the step that this task added, where its user has failed or skipped the task (Airflow 3.3).

        A task that was cleared is left to its next try, which cancels what the earlier one had running.
        """
        if self.cancel_on_kill:
            await whatever_comes(self._stop_if_over())

    async def _stop_if_over(self) -> None:
        if not await is_over(self):
            return
        clients = self.hook or await in_task_thread(self.connect)
        keeper = StepKeeper(EmrStepHook(clients=clients))
        await asyncio.to_thread(keeper.stop, self.cluster_id, self.step_id)


def look_at_step(
    clients: EmrClients, cluster_id: str, step_id: str, *, ask_cluster: bool
) -> dict[str, Any] | None:
    """The payload for where a step is now; None while it goes on."""
    steps = EmrStepHook(clients=clients)
    step = steps.describe(cluster_id, step_id)
    if step_state(step) not in STEP_ENDED and ask_cluster:
        cluster = EmrClusterHook(clients=clients).describe(cluster_id)
        if cluster_state(cluster) in CLUSTER_ENDED:
            # The step may have ended just before its cluster did: its last state counts.
            step = steps.describe(cluster_id, step_id)
            if step_state(step) not in STEP_ENDED:
                return {
                    "status": "cluster_ended",
                    "cluster": plain(cluster, "Id", "Name", "Status", "LogUri", "Tags"),
                    "step": plain(step, "Id", "Name", "Status"),
                }
    if step_state(step) in STEP_ENDED:
        return {"status": "done", "step": plain(step, "Id", "Name", "Status")}
    return None
