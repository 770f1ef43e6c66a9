"""The crash matrix of our operators: whatever goes wrong at whichever call, there is one of everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from simulation.airflow import State
from simulation.contenders import Ours
from simulation.matrix import PLAN, Matrix, Point
from simulation.network import WRITES
from simulation.verdict import report

from airflow_emr_etl.hooks.cluster_keeper import ClusterKeeper
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.step_keeper import StepKeeper
from airflow_emr_etl.local.faults import FaultKind


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return Matrix(Ours())


def failures(matrix: Matrix, points: list[Point]) -> list[str]:
    found = []
    for point in points:
        verdict, outcome = matrix.run(point)
        if not verdict.passed:
            found.append(report(str(point), verdict, outcome))
    return found


def test_the_recorded_run_is_well_and_has_every_kind_of_call(matrix: Matrix) -> None:
    assert set(matrix.clean.states.values()) == {State.SUCCESS}
    assert {"RunJobFlow", "AddJobFlowSteps", "TerminateJobFlows"} <= {
        call.operation for call in matrix.clean.calls
    }


def test_a_sample(matrix: Matrix) -> None:
    points = matrix.sample()
    found = failures(matrix, points)
    assert not found, f"{len(found)} of {len(points)} points; the first:\n{found[0]}"


@pytest.mark.slow
@pytest.mark.parametrize("deferrable", [True, False], ids=["deferred", "in the worker"])
def test_every_call(deferrable: bool) -> None:
    matrix = Matrix(Ours(), replace(PLAN, deferrable=deferrable))
    points = list(matrix.points())
    found = failures(matrix, points)
    assert not found, f"{len(found)} of {len(points)} points; the first:\n{found[0]}"


def blind_to_clusters(patch: pytest.MonkeyPatch) -> None:
    serving = ClusterKeeper._serving
    patch.setattr(ClusterKeeper, "_serving", lambda self, plan: serving(self, plan)[:0])


def blind_to_steps(patch: pytest.MonkeyPatch) -> None:
    found = StepKeeper.found
    patch.setattr(StepKeeper, "found", lambda self, *args, **kwargs: found(self, *args, **kwargs)[:0])


def resending(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(EmrClients, "writes", property(lambda self: self.reads))


@pytest.mark.parametrize("cripple", [blind_to_clusters, blind_to_steps, resending])
def test_an_engine_that_forgets_a_part_of_its_work_is_found_out(
    matrix: Matrix, monkeypatch: pytest.MonkeyPatch, cripple: Callable[[pytest.MonkeyPatch], None]
) -> None:
    cripple(monkeypatch)
    points = [
        point
        for point in matrix.points()
        if point.call.operation in WRITES and point.when == "after" and point.blow == FaultKind.INTERNAL_ERROR
    ]
    assert failures(matrix, points)
