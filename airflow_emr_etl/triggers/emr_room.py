"""Waits for room for a step on a cluster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from airflow.triggers.base import TriggerEvent

from airflow_emr_etl.exceptions import ClusterNotFoundError
from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook, cluster_state
from airflow_emr_etl.hooks.emr_step import EmrStepHook
from airflow_emr_etl.models.states import CLUSTER_ENDED, STEP_ACTIVE
from airflow_emr_etl.models.step import MAX_ACTIVE_STEPS
from airflow_emr_etl.triggers.poller import Found, Wait
from airflow_emr_etl.triggers.polling import instant
from airflow_emr_etl.triggers.polling_schedule import Pace
from airflow_emr_etl.triggers.shared import SharedPollingTrigger

_REFUSED_SECONDS: Final = 10.0


class EmrRoomTrigger(SharedPollingTrigger):
    """Fires when one of ``cluster_ids`` has fewer than ``most_active`` steps that wait or run, or has ended.

    Those that wait in one triggerer come in turn, as many as there are places. That is no promise: another
    triggerer, or somebody else, may be there first, and EMR has the say. Who was ``refused`` by EMR gets in line only
    after some seconds: its lists may say that there is room when there is none. Payload: ``{"status": "done"}``.
    """

    def __init__(
        self,
        *,
        cluster_ids: Sequence[str],
        most_active: int = MAX_ACTIVE_STEPS,
        refused: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.cluster_ids = list(cluster_ids)
        self.most_active = most_active
        self.refused = refused
        self._looked = False

    def fields(self) -> dict[str, Any]:
        return {
            "cluster_ids": self.cluster_ids,
            "most_active": self.most_active,
            "refused": self.refused,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        if self.refused:
            await asyncio.sleep(self._until_deadline(random.random() * _REFUSED_SECONDS, SYSTEM_CLOCK.now()))
        async for event in super().run():
            yield event

    def new_wait(self, pace: Pace) -> Wait:
        return Wait(
            self.cluster_ids[0],
            room_on=self.cluster_ids,
            most_active=self.most_active,
            pace=pace,
            deadline=instant(self.deadline),
            log=self.log.warning,
        )

    def payload(self, found: Found) -> dict[str, Any]:
        return {"status": "done"}

    def connect(self) -> EmrClients:
        clients = self.clients()
        _ = clients.reads
        return clients

    def look(self, clients: EmrClients) -> dict[str, Any] | None:
        if self.refused and not self._looked:
            self._looked = True
            return None
        return {"status": "done"} if any(self._has_room(clients, each) for each in self.cluster_ids) else None

    def _has_room(self, clients: EmrClients, cluster_id: str) -> bool:
        try:
            if cluster_state(EmrClusterHook(clients=clients).describe(cluster_id)) in CLUSTER_ENDED:
                return True
        except ClusterNotFoundError:
            return True
        active = EmrStepHook(clients=clients).list_steps(cluster_id, states=sorted(STEP_ACTIVE))
        return sum(1 for _ in active) < min(self.most_active, MAX_ACTIVE_STEPS)
