"""Wait for the end of steps."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

from airflow_emr_etl.exceptions import ConfigurationError, EmrEtlError, WaitTimeoutError
from airflow_emr_etl.hooks.emr_cluster import cluster_failure
from airflow_emr_etl.hooks.emr_step import EmrStepHook, step_failure, step_state
from airflow_emr_etl.models.states import STEP_ENDED, STEP_SUCCEEDED
from airflow_emr_etl.sensors.waiting import WaitingSensor
from airflow_emr_etl.triggers.emr import EmrStepsTrigger


class EmrStepSensor(WaitingSensor):
    """Wait until steps that somebody else added have completed.

    It waits for all of them, whatever becomes of one, and then fails if any has failed, naming each. Returns the
    state of ``step_id``, or ``{step id: state}`` for ``step_ids``.

    :param cluster_id: (templated)
    :param step_id: one step (templated)
    :param step_ids: several, in place of ``step_id``: a list, what renders to one, or text with commas (templated)
    :param fail_fast: fail as soon as one is seen to have failed, without waiting for the others
    """

    template_fields: Sequence[str] = ("cluster_id", "step_id", "step_ids", "aws_conn_id", "region_name")

    def __init__(
        self,
        *,
        cluster_id: str,
        step_id: str | None = None,
        step_ids: Sequence[str] | str | None = None,
        fail_fast: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.step_id = step_id
        self.step_ids = step_ids
        self.fail_fast = fail_fast
        if (step_id is None) == (step_ids is None):
            given = "neither" if step_id is None else "both"
            raise ConfigurationError(
                f"Task {self.task_id} has {given} step_id and step_ids. Set one: which steps does it wait for?"
            )

    @property
    def wanted(self) -> list[str]:
        """The ids, rendered, each once. Raises ConfigurationError."""
        if self.step_ids is None:
            return [str(self.step_id)]
        given = _parsed(self.step_ids) if isinstance(self.step_ids, str) else self.step_ids
        # A mapped task's output is a sequence that is no list.
        items = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
        ids = [each.strip() for each in items if isinstance(each, str)]
        if not ids or not all(ids) or len(ids) != len(items):
            raise ConfigurationError(
                f"The step_ids of task {self.task_id} are {self.step_ids!r}. Give the ids of one or more steps: a "
                "list, a template that renders to one, or text with commas between them."
            )
        return list(dict.fromkeys(ids))

    def make_trigger(self, deadline: str | None) -> EmrStepsTrigger:
        return EmrStepsTrigger(
            cluster_id=self.cluster_id,
            step_ids=self.wanted,
            fail_fast=self.fail_fast,
            aws_conn_id=self.aws_conn_id,
            region_name=self.region_name,
            poll_interval=self.poke_interval,
            deadline=deadline,
        )

    def judge(self, payload: dict[str, Any]) -> str | dict[str, str]:
        steps = {step["Id"]: step for step in payload["steps"]}
        failures = [
            step_failure(step, self.cluster_id)
            for step in steps.values()
            if step_state(step) not in STEP_SUCCEEDED and _has_ended(step)
        ]
        if len(failures) > 1:
            told = "\n".join(failure.message for failure in failures)
            first = failures[0]
            raise type(first)(
                f"{len(failures)} of {len(self.wanted)} steps have failed:\n{told}", **first.details
            )
        if failures:
            raise failures[0]
        if payload["status"] == "cluster_ended":
            raise cluster_failure(payload["cluster"], served=True)
        states = {step_id: step_state(steps[step_id]).value for step_id in self.wanted}
        return states if self.step_id is None else states[self.step_id]

    def in_vain(self) -> EmrEtlError:
        wanted = self.wanted
        still = self._open_ids() or wanted
        some = ", ".join(still[:5]) + " …" * (len(still) > 5)
        told = f"Step {some}" if len(wanted) == 1 else f"{len(still)} of {len(wanted)} steps, {some},"
        return WaitTimeoutError(
            f"{told} on {self.cluster_id} did not end within {self.timeout:g} seconds.",
            cluster_id=self.cluster_id,
            step_id=wanted[0] if len(wanted) == 1 else None,
        )

    def _open_ids(self) -> list[str]:
        """Of several steps, those that go on now; all where EMR does not say."""
        wanted = self.wanted
        if len(wanted) == 1:
            return wanted
        hook = EmrStepHook(self.aws_conn_id, self.region_name)
        try:
            ended = {
                step["Id"] for step in hook.list_steps(self.cluster_id, step_ids=wanted) if _has_ended(step)
            }
        except EmrEtlError as error:
            self.log.warning("Cannot look which steps go on: %s", error)
            return wanted
        return [step_id for step_id in wanted if step_id not in ended]


def _parsed(text: str) -> Any:
    """A list as JSON, as Python writes it, which is what a template makes of one, or with commas between."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError):
            continue
    return [] if text.lstrip().startswith(("[", "(")) else text.split(",")


def _has_ended(step: dict[str, Any]) -> bool:
    return step_state(step) in STEP_ENDED
