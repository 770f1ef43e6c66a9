"""What the drop-in operators need of EMR beside the engine: clients as they configure them, several steps at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_emr_etl.exceptions import EmrEtlError
from airflow_emr_etl.hooks.attempts import LOOK_EVERY_SECONDS
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_step import step_state
from airflow_emr_etl.hooks.step_keeper import INTERRUPT_SECONDS, StepKeeper
from airflow_emr_etl.models.states import STEP_ENDED


class ConfiguredClients(EmrClients):
    """``EmrClients`` with ``verify`` and ``botocore_config``, which mean what they mean to the Amazon provider.

    What the caller sets holds for all calls, but for one thing: RunJobFlow and AddJobFlowSteps are still sent
    once, whatever ``retries`` says.
    """

    def __init__(
        self,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        *,
        verify: bool | str | None = None,
        botocore_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(aws_conn_id, region_name)
        self.verify = verify
        self.botocore_config = botocore_config

    def _hook_of(self, service: str) -> Any:
        # Half a second of imports, so only where a call is about to be made.
        from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

        hook = AwsBaseHook(
            aws_conn_id=self.aws_conn_id,
            region_name=self.region_name,
            client_type=service,
            verify=self.verify,
        )
        return _Configured(hook, self.botocore_config or {})


class _Configured:
    """The hook, which puts the caller's settings over those that a client is asked for with."""

    def __init__(self, hook: Any, settings: Mapping[str, Any]) -> None:
        self._hook = hook
        self._settings = dict(settings)

    @property
    def conn_config(self) -> Any:
        return self._hook.conn_config

    def get_client_type(self, region_name: str | None, config: Any) -> Any:
        from botocore.config import Config

        merged = config.merge(Config(**self._settings))
        if config.retries["total_max_attempts"] == 1:
            merged = merged.merge(Config(retries={"total_max_attempts": 1}))
        return self._hook.get_client_type(region_name=region_name, config=merged)


def stop_steps(
    keeper: StepKeeper,
    cluster_id: str,
    step_ids: Sequence[str],
    *,
    grace_seconds: float = INTERRUPT_SECONDS,
) -> None:
    """Tell steps to stop, all at once, and kill those that have not stopped by themselves after a moment."""
    if len(step_ids) == 1:
        keeper.stop(cluster_id, step_ids[0], grace_seconds=grace_seconds)
        return
    keeper.hook.cancel(cluster_id, step_ids, force=False)
    waited = 0.0
    while open_ids := _open_steps(keeper, cluster_id, step_ids):
        if waited >= grace_seconds:
            keeper.hook.cancel(cluster_id, open_ids, force=True)
            return
        pause = min(LOOK_EVERY_SECONDS, grace_seconds - waited)
        keeper.clock.sleep(pause)
        waited += pause


def _open_steps(keeper: StepKeeper, cluster_id: str, step_ids: Sequence[str]) -> list[str]:
    try:
        found = list(keeper.hook.list_steps(cluster_id, step_ids=step_ids))
    except EmrEtlError:
        return list(step_ids)  # what cannot be seen is taken to go on
    return [step["Id"] for step in found if step_state(step) not in STEP_ENDED]
