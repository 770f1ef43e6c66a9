"""Wait for a step's end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_emr_etl.exceptions import EmrEtlError, WaitTimeoutError
from airflow_emr_etl.hooks.emr_cluster import cluster_failure
from airflow_emr_etl.hooks.emr_step import step_failure, step_state
from airflow_emr_etl.models.states import STEP_SUCCEEDED
from airflow_emr_etl.sensors.waiting import WaitingSensor
from airflow_emr_etl.triggers.emr_step import EmrStepTrigger


class EmrStepSensor(WaitingSensor):
    """Wait until a step that somebody else added has completed; fails where it fails. Returns the state.

    :param cluster_id: (templated)
    :param step_id: (templated)
    """

    template_fields: Sequence[str] = ("cluster_id", "step_id", "aws_conn_id", "region_name")

    def __init__(self, *, cluster_id: str, step_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.step_id = step_id

    def make_trigger(self, deadline: str | None) -> EmrStepTrigger:
        return EmrStepTrigger(
            cluster_id=self.cluster_id,
            step_id=self.step_id,
            aws_conn_id=self.aws_conn_id,
            region_name=self.region_name,
            poll_interval=self.poke_interval,
            deadline=deadline,
        )

    def judge(self, payload: dict[str, Any]) -> str:
        if payload["status"] == "cluster_ended":
            raise cluster_failure(payload["cluster"], served=True)
        state = step_state(payload["step"])
        if state not in STEP_SUCCEEDED:
            raise step_failure(payload["step"], self.cluster_id)
        return state.value

    def in_vain(self) -> EmrEtlError:
        return WaitTimeoutError(
            f"Step {self.step_id} on {self.cluster_id} did not end within {self.timeout:g} seconds.",
            cluster_id=self.cluster_id,
            step_id=self.step_id,
        )
