"""The crash matrix and random schedules for a DAG of the official operators whose imports were swapped."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG
from simulation import schedules
from simulation.contenders import DOWN, UP, Contender, Plan, arguments_of
from simulation.matrix import PLAN, Matrix, Point
from simulation.verdict import report

from airflow_emr_etl.models.step import CommandStep
from airflow_emr_etl.operators.emr import (
    EmrAddStepsOperator,
    EmrCreateJobFlowOperator,
    EmrTerminateJobFlowOperator,
)


class DropIn(Contender):
    """The DAG as the Amazon provider's documentation shows it, with the operators from here."""

    name = "airflow-emr-etl by the official names"

    def __init__(self, deferrable: bool | None = None) -> None:
        self.deferrable = deferrable

    def build(self, plan: Plan) -> DAG:
        defaults = {"retries": plan.retries, "retry_delay": plan.retry_delay}
        with DAG("simulated", schedule=None, default_args=defaults) as dag:
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
                    deferrable=plan.deferrable if self.deferrable is None else self.deferrable,
                )
                for name in plan.steps
            }
            for name, upstream in plan.steps.items():
                up >> tasks[name] >> down
                for other in upstream:
                    tasks[other] >> tasks[name]
        return dag


def check_points(matrix: Matrix, points: list[Point]) -> None:
    found = []
    for point in points:
        verdict, outcome = matrix.run(point)
        if not verdict.passed:
            found.append(report(str(point), verdict, outcome))
    assert not found, f"{len(found)} of {len(points)} points; the first:\n{found[0]}"


def check_schedules(seeds: range) -> None:
    found = []
    for seed in seeds:
        verdict, outcome = schedules.run(DropIn(), seed)
        if not verdict.passed:
            found.append(report(f"seed {seed}", verdict, outcome))
    assert not found, f"{len(found)} of {len(seeds)} schedules; the first:\n{found[0]}"


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_worker_that_dies_at_a_write(deferrable: bool) -> None:
    matrix = Matrix(DropIn(deferrable), PLAN)
    writes = {"RunJobFlow", "AddJobFlowSteps", "TerminateJobFlows"}
    points = [
        point
        for point in matrix.sample()
        if point.call.operation in writes and point.blow in ("SIGKILL", "timeout")
    ]
    assert {point.call.operation for point in points} == writes
    check_points(matrix, points)


def test_a_random_schedule() -> None:
    check_schedules(range(1))


@pytest.mark.slow
@pytest.mark.parametrize("deferrable", [False, True])
def test_first_and_last_of_each_call(deferrable: bool) -> None:
    matrix = Matrix(DropIn(deferrable), PLAN)
    check_points(matrix, matrix.sample())


@pytest.mark.slow
def test_more_random_schedules() -> None:
    check_schedules(range(1, 40))
