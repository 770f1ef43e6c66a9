"""The same DAG from two sets of operators."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from airflow.providers.amazon.aws.operators.emr import (
    EmrAddStepsOperator,
    EmrCreateJobFlowOperator,
    EmrTerminateJobFlowOperator,
)
from airflow.sdk import DAG

from airflow_emr_etl.models.cluster import ClusterSpec, Fleet
from airflow_emr_etl.models.step import CommandStep
from airflow_emr_etl.operators.cluster_group import EmrCluster

UP, DOWN = "cluster_up", "cluster_down"


@dataclass(frozen=True)
class Plan:
    """A DAG: a cluster goes up, steps with what each waits for, the cluster goes down."""

    steps: dict[str, tuple[str, ...]]
    retries: int = 3
    retry_delay: timedelta = timedelta(minutes=1)
    poll_seconds: int = 30
    """Longest time between two looks."""
    first_poll_seconds: float = 1.0
    """Of our triggers alone, which look more often in the beginning."""
    concurrency: int = 4
    deferrable: bool = True
    """Of our operators; the official ones wait in their worker, as they do by default."""
    cluster_minutes: float = 5.0
    """How long a cluster needs to come up."""
    step_minutes: dict[str, float] = field(default_factory=dict)
    idle_timeout: timedelta = timedelta(days=7)
    """EMR's longest, so that a cluster that nobody ends is there to be seen when the run is over."""

    @property
    def spec(self) -> ClusterSpec:
        return ClusterSpec(
            name="simulated",
            core=Fleet(types=["m6g.xlarge", "m5.xlarge"], spot_units=2),
            step_concurrency=self.concurrency,
            idle_timeout=self.idle_timeout,
        )


def arguments_of(task_id: str) -> list[str]:
    return ["spark-submit", f"s3://code/{task_id}.py", "--task", task_id]


class Contender(abc.ABC):
    """A set of operators."""

    name: str

    @abc.abstractmethod
    def build(self, plan: Plan) -> DAG:
        """The DAG, its tasks named as in the plan."""


class Ours(Contender):
    """This package's, in their documented way: a group around the cluster."""

    name = "airflow-emr-etl"

    def build(self, plan: Plan) -> DAG:
        with (
            DAG("simulated", schedule=None, default_args=_defaults(plan)) as dag,
            EmrCluster(
                "cluster", spec=plan.spec, poll_interval=plan.poll_seconds, deferrable=plan.deferrable
            ) as cluster,
        ):
            tasks = {
                name: cluster.step(name, CommandStep(name=name, command=arguments_of(name)))
                for name in plan.steps
            }
            for name, upstream in plan.steps.items():
                for other in upstream:
                    tasks[other] >> tasks[name]
        return dag


class Official(Contender):
    """The Amazon provider's, as its documentation shows them; cluster and clean-up are setup and teardown.

    More lenient than its defaults: it waits for a step as long as ours do (24 hours instead of 30 minutes).
    """

    name = "apache-airflow-providers-amazon operators"

    def build(self, plan: Plan) -> DAG:
        with DAG("simulated", schedule=None, default_args=_defaults(plan)) as dag:
            up = EmrCreateJobFlowOperator(task_id=UP, job_flow_overrides=plan.spec.to_api())
            down = EmrTerminateJobFlowOperator(task_id=DOWN, job_flow_id=up.output)
            down.as_teardown(setups=up)
            tasks = {
                name: EmrAddStepsOperator(
                    task_id=name,
                    job_flow_id=up.output,
                    steps=[CommandStep(name=name, command=arguments_of(name)).to_api()],
                    wait_for_completion=True,
                    waiter_delay=plan.poll_seconds,
                    waiter_max_attempts=24 * 3600 // plan.poll_seconds,
                )
                for name in plan.steps
            }
            for name, upstream in plan.steps.items():
                up >> tasks[name] >> down
                for other in upstream:
                    tasks[other] >> tasks[name]
        return dag


def _defaults(plan: Plan) -> dict[str, Any]:
    return {"retries": plan.retries, "retry_delay": plan.retry_delay}
