"""The crash matrix: one run is recorded, and then everything goes wrong at each of its calls, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from airflow.sdk import DAG

from airflow_emr_etl.local.faults import FaultKind, FaultRule

from .contenders import Contender, Plan
from .network import WRITES, ApiCall, Blows
from .run import Outcome, Trouble, simulate_dag
from .verdict import Verdict, judge

#: Two steps side by side, and one behind both. Short, for every look is a point.
PLAN = Plan(
    {"left": (), "right": (), "joined": ("left", "right")},
    cluster_minutes=1.2,
    step_minutes={"left": 0.8, "right": 1.1, "joined": 0.6},
)
SEED = 7
#: No retry cures these; a task that fails is right, and what ran twice is not.
INCURABLE = frozenset({FaultKind.ACCESS_DENIED})


@dataclass(frozen=True)
class Point:
    """One thing that goes wrong at one call."""

    call: ApiCall
    when: Literal["before", "after"]
    blow: FaultKind | Literal["SIGKILL"]

    def __str__(self) -> str:
        return (
            f"{self.blow} {self.when} call {self.call.number}, {self.call.operation} of {self.call.process}"
        )

    def trouble(self) -> Trouble:
        number, when, blow = self.call.number, self.when, self.blow
        if blow == "SIGKILL":
            return Trouble(blows=lambda: Blows(kill_at=(number, when)))
        rule = FaultRule("*", FaultKind(blow), when, nth=number)
        return Trouble(rules=(rule,), curable=rule.kind not in INCURABLE)


class Matrix:
    """All points of one contender; the DAG is built once."""

    def __init__(self, contender: Contender, plan: Plan = PLAN) -> None:
        self.plan = plan
        self.dag: DAG = contender.build(plan)
        self.clean = simulate_dag(self.dag, plan, seed=SEED)

    def points(self) -> Iterator[Point]:
        """Every call of the clean run, before and after it, with every fault and with SIGKILL."""
        blows: tuple[FaultKind | Literal["SIGKILL"], ...] = (*FaultKind, "SIGKILL")
        sides: tuple[Literal["before", "after"], ...] = ("before", "after")
        for call in self.clean.calls:
            for when in sides:
                for blow in blows:
                    yield Point(call, when, blow)

    def sample(self) -> list[Point]:
        """The points of the everyday run: a write meets everything, any other call a kill and one fault.

        Looks that only repeat the one before are left out: of the same call by one process, first and last stay.
        """
        first: dict[tuple[str, str], int] = {}
        last: dict[tuple[str, str], int] = {}
        for call in self.clean.calls:
            first.setdefault((call.operation, call.process), call.number)
            last[call.operation, call.process] = call.number
        kept = {*first.values(), *last.values()}
        kinds = list(FaultKind)
        return [
            point
            for point in self.points()
            if point.call.operation in WRITES
            or (
                point.call.number in kept
                and point.blow in ("SIGKILL", kinds[(point.call.number + len(point.when)) % len(kinds)])
            )
        ]

    def run(self, point: Point) -> tuple[Verdict, Outcome]:
        trouble = point.trouble()
        outcome = simulate_dag(self.dag, self.plan, trouble, seed=SEED)
        return judge(self.plan, trouble, outcome), outcome
