"""What the drop-in operators and sensors wait by: one cluster's state, or the ends of several of its steps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from airflow_emr_etl.hooks.emr import ConfiguredClients, stop_steps
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook, cluster_state
from airflow_emr_etl.hooks.emr_step import EmrStepHook, step_state
from airflow_emr_etl.hooks.step_keeper import StepKeeper
from airflow_emr_etl.models.states import CLUSTER_ENDED, STEP_CANCELLED, STEP_ENDED, STEP_FAILED
from airflow_emr_etl.triggers.emr_cluster import EmrClusterStateTrigger
from airflow_emr_etl.triggers.emr_room import EmrRoomTrigger
from airflow_emr_etl.triggers.ownership import is_over, whatever_comes
from airflow_emr_etl.triggers.poller import CLUSTER_CHECK_EVERY, Found, Wait
from airflow_emr_etl.triggers.polling import in_task_thread, instant, plain
from airflow_emr_etl.triggers.polling_schedule import Pace
from airflow_emr_etl.triggers.shared import SharedPollingTrigger


class _Configured(SharedPollingTrigger):
    """With the settings of boto3's client that the Amazon provider's operators take."""

    def __init__(
        self,
        *,
        verify: bool | str | None = None,
        botocore_config: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(**fields)
        self.verify = verify
        self.botocore_config = botocore_config

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "verify": self.verify, "botocore_config": self.botocore_config}

    def clients(self) -> EmrClients:
        return ConfiguredClients(
            self.aws_conn_id, self.region_name, verify=self.verify, botocore_config=self.botocore_config
        )

    def sharing(self) -> tuple[Hashable, ...]:
        return super().sharing() + _settings(self.verify, self.botocore_config)


class EmrJobFlowTrigger(_Configured, EmrClusterStateTrigger):
    """``EmrClusterStateTrigger`` for the drop-in operators."""


class EmrJobFlowRoomTrigger(_Configured, EmrRoomTrigger):
    """``EmrRoomTrigger`` for the drop-in operators."""


class EmrStepsTrigger(SharedPollingTrigger):
    """Fires when each step is in one of ``target_states`` or has ended, or their cluster has ended before that.

    Payload: ``{"status": "done", "steps": [{…}, …]}``, the ``Step`` of EMR for each of ``step_ids`` in their
    order, or ``{"status": "cluster_ended", "cluster": {…}, "steps": [{…}, …]}`` with those that are known. A
    step that fails does not end the wait for the others, which go on running, and the task must know of it; but
    with ``fail_fast``: then ``steps`` are those that are known.
    """

    def __init__(
        self,
        *,
        cluster_id: str,
        step_ids: Sequence[str],
        target_states: Sequence[str] = (),
        fail_fast: bool = False,
        cancel_on_kill: bool = False,
        verify: bool | str | None = None,
        botocore_config: Mapping[str, Any] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.cluster_id = cluster_id
        self.step_ids = list(step_ids)
        self.target_states = list(target_states)
        self.fail_fast = fail_fast
        self.cancel_on_kill = cancel_on_kill
        self.verify = verify
        self.botocore_config = botocore_config
        self._found: dict[str, dict[str, Any]] = {}
        self._looks = 0

    def fields(self) -> dict[str, Any]:
        return {
            "cluster_id": self.cluster_id,
            "step_ids": self.step_ids,
            "target_states": self.target_states,
            "fail_fast": self.fail_fast,
            "cancel_on_kill": self.cancel_on_kill,
            "verify": self.verify,
            "botocore_config": self.botocore_config,
        }

    def clients(self) -> EmrClients:
        return ConfiguredClients(
            self.aws_conn_id, self.region_name, verify=self.verify, botocore_config=self.botocore_config
        )

    def sharing(self) -> tuple[Hashable, ...]:
        return super().sharing() + _settings(self.verify, self.botocore_config)

    def connect(self) -> EmrClients:
        clients = self.clients()
        _ = clients.reads
        return clients

    def new_wait(self, pace: Pace) -> Wait:
        return Wait(
            self.cluster_id,
            self.step_ids,
            targets=self.target_states,
            fail_fast=self.fail_fast,
            pace=pace,
            deadline=instant(self.deadline),
            log=self.log.warning,
        )

    def payload(self, found: Found) -> dict[str, Any]:
        steps = [found.steps[step_id] for step_id in self.step_ids if step_id in found.steps]
        if found.cluster is not None:
            return {"status": "cluster_ended", "cluster": found.cluster, "steps": steps}
        return {"status": "done", "steps": steps}

    def look(self, clients: EmrClients) -> dict[str, Any] | None:
        self._looks += 1
        self._ask(clients)
        if self._open() and self._looks % CLUSTER_CHECK_EVERY == 1:
            cluster = EmrClusterHook(clients=clients).describe(self.cluster_id)
            if cluster_state(cluster) in CLUSTER_ENDED:
                # Steps may have ended just before their cluster did: their last states count.
                self._ask(clients)
                if self._open():
                    return {
                        "status": "cluster_ended",
                        "cluster": plain(cluster, "Id", "Name", "Status", "LogUri", "Tags"),
                        "steps": self._steps(),
                    }
        if self.fail_fast and any(step_state(step) in STEP_FAILED | STEP_CANCELLED for step in self._steps()):
            return {"status": "done", "steps": self._steps()}
        return None if self._open() else {"status": "done", "steps": self._steps()}

    async def on_kill(self) -> None:
        """Cancel the steps that this task added, where its user has failed or skipped the task (Airflow 3.3)."""
        if self.cancel_on_kill:
            await whatever_comes(self._stop_if_over())

    async def _stop_if_over(self) -> None:
        if await is_over(self):
            clients = self.hook or await in_task_thread(self.connect)
            keeper = StepKeeper(EmrStepHook(clients=clients))
            await asyncio.to_thread(stop_steps, keeper, self.cluster_id, self.step_ids)

    def _ask(self, clients: EmrClients) -> None:
        hook = EmrStepHook(clients=clients)
        waiting = self._open()
        # A list may not show a new step yet; asked for by its id alone, EMR knows it.
        found = (
            [hook.describe(self.cluster_id, waiting[0])]
            if len(waiting) == 1
            else hook.list_steps(self.cluster_id, step_ids=waiting)
        )
        self._found |= {step["Id"]: plain(step, "Id", "Name", "Status") for step in found}

    def _open(self) -> list[str]:
        return [step_id for step_id in self.step_ids if not self._is_over(self._found.get(step_id))]

    def _is_over(self, step: dict[str, Any] | None) -> bool:
        if step is None:
            return False
        state = step_state(step)
        return state in STEP_ENDED or state.value in self.target_states

    def _steps(self) -> list[dict[str, Any]]:
        return [self._found[step_id] for step_id in self.step_ids if step_id in self._found]


def _settings(verify: bool | str | None, botocore_config: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What tells clients with these settings from others; nothing where there are none."""
    if verify is None and not botocore_config:
        return ()
    return (json.dumps([verify, botocore_config], sort_keys=True, default=str),)
