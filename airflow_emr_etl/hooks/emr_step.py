"""Steps: add, look at, cancel; and what their logs say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from airflow_emr_etl.exceptions import StepCancelledError, StepError, StepFailedError
from airflow_emr_etl.hooks.aws_errors import aws_call
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.models.intent import without_mark
from airflow_emr_etl.models.states import STEP_CANCELLED, StepState

#: ListSteps takes no more ids than this in one call.
MAX_STEP_IDS = 10


class EmrStepHook:
    """Calls of EMR that concern the steps of a cluster. Raises this package's errors, never botocore's."""

    def __init__(
        self,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        *,
        clients: EmrClients | None = None,
    ) -> None:
        self.clients = clients or EmrClients(aws_conn_id, region_name)

    def add(
        self, cluster_id: str, steps: Sequence[Mapping[str, Any]], *, execution_role: str | None = None
    ) -> list[str]:
        """AddJobFlowSteps with these ``StepConfig``, sent once; the ids in the same order.

        Any error but a refusal is ambiguous: the steps may be there. ``StepKeeper.ensure`` is what knows how
        to go on from there.
        """
        request: dict[str, Any] = {"JobFlowId": cluster_id, "Steps": [dict(step) for step in steps]}
        if execution_role is not None:
            request["ExecutionRoleArn"] = execution_role
        with aws_call("emr:AddJobFlowSteps"):
            answer = self.clients.writes.add_job_flow_steps(**request)
        return [str(step_id) for step_id in answer["StepIds"]]

    def describe(self, cluster_id: str, step_id: str) -> dict[str, Any]:
        """The ``Step`` part of DescribeStep."""
        with aws_call("emr:DescribeStep"):
            step: dict[str, Any] = self.clients.reads.describe_step(ClusterId=cluster_id, StepId=step_id)[
                "Step"
            ]
        return step

    def list_steps(
        self,
        cluster_id: str,
        *,
        states: Iterable[StepState] = (),
        step_ids: Sequence[str] = (),
    ) -> Iterator[dict[str, Any]]:
        """The cluster's steps, the latest first; any number of ``step_ids``, asked for ten at a time.

        A generator: the next page is asked for only when somebody reads on.
        """
        wanted = [step_ids[i : i + MAX_STEP_IDS] for i in range(0, len(step_ids), MAX_STEP_IDS)] or [()]
        for ids in wanted:
            request: dict[str, Any] = {"ClusterId": cluster_id}
            if states:
                request["StepStates"] = [state.value for state in states]
            if ids:
                request["StepIds"] = [*ids]
            with aws_call("emr:ListSteps"):
                for page in self.clients.reads.get_paginator("list_steps").paginate(**request):
                    yield from page["Steps"]

    def cancel(self, cluster_id: str, step_ids: Sequence[str], *, force: bool = True) -> dict[str, str]:
        """Cancel steps; what EMR said to each: ``SUBMITTED`` or the reason it did not. One call, idempotent.

        ``force`` ends the program at once instead of asking it to stop (SEND_INTERRUPT).
        """
        option = "TERMINATE_PROCESS" if force else "SEND_INTERRUPT"
        with aws_call("emr:CancelSteps"):
            answer = self.clients.reads.cancel_steps(
                ClusterId=cluster_id, StepIds=[*step_ids], StepCancellationOption=option
            )
        return {
            item["StepId"]: "SUBMITTED"
            if item.get("Status") == "SUBMITTED"
            else str(item.get("Reason", "FAILED"))
            for item in answer.get("CancelStepsInfoList", [])
        }


def step_state(step: Mapping[str, Any]) -> StepState:
    """The state in a ``Step`` of EMR."""
    return StepState(step["Status"]["State"])


def step_failure(step: Mapping[str, Any], cluster_id: str, log: str = "") -> StepError:
    """The error for a ``Step`` that ended without success; ``log`` is the end of its output, for the message."""
    status = step["Status"]
    step_id, name, state = step.get("Id"), without_mark(str(step.get("Name"))), status["State"]
    given = status.get("FailureDetails") or {}
    message = given.get("Message") or status.get("StateChangeReason", {}).get("Message")
    details = {
        "cluster_id": cluster_id,
        "step_id": step_id,
        "state": state,
        "reason": given.get("Reason"),
        "reason_message": message,
        "log_file": given.get("LogFile"),
    }
    lines = [f"Step {name!r} ({step_id} on {cluster_id}) ended as {state}."]
    lines += [f"Reason: {given['Reason']}"] if given.get("Reason") else []
    lines += [f"Message: {message}"] if message else []
    lines += [f"Log file: {given['LogFile']}"] if given.get("LogFile") else []
    if state in STEP_CANCELLED:
        return StepCancelledError("\n".join(lines), **details)
    return StepFailedError("\n".join(lines) + (f"\n{log}" if log else ""), **details)
