"""``make bench-exactly-once``: what is left of a run when everything dies once, for two sets of operators.

Both build the same DAG, with the same retries, and meet the same faults in the same simulation (tests/simulation):
the crash matrix, in which every API call of a clean run meets every fault and SIGKILL before and after it, and
random schedules over DAGs of 10 to 50 steps. A contender's matrix has as many points as its own run has calls,
so ``matrix_failures`` is to be read with ``matrix_points``. ``SAMPLE=20 make bench-exactly-once`` runs a twentieth.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

PROCESSES = 2
CHUNK = 10
SCHEDULES = 1000
PEER = "apache-airflow-providers-amazon 9.39.0 operators"
Job = tuple[str, str, list[int]]


def _prepare() -> None:
    """Before anything imports Airflow or boto3: a home of its own, and nothing of a real account."""
    for name in [name for name in os.environ if name.startswith(("AIRFLOW_", "AWS_"))]:
        del os.environ[name]
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="bench-exactly-once-")
    sys.path.insert(0, "tests")


def _work(job: Job) -> tuple[str, str, Counter[str], list[str]]:
    from simulation import schedules
    from simulation.contenders import Official, Ours
    from simulation.matrix import Matrix

    whose, what, numbers = job
    contender = {"ours": Ours, "peer": Official}[whose]()
    count: Counter[str] = Counter()
    wrong: list[str] = []
    if what == "matrix":
        matrix = Matrix(contender)
        points = list(matrix.points())
        runs: Iterator[Any] = ((str(points[number]), *matrix.run(points[number])) for number in numbers)
    else:
        runs = ((f"seed {seed}", *schedules.run(contender, seed)) for seed in numbers)
    for title, verdict, outcome in runs:
        count["runs"] += 1
        count["failures"] += not verdict.passed
        count["orphans"] += verdict.orphans
        count["duplicates"] += verdict.duplicates
        count["states"] += verdict.wrong_states
        count["calls"] += len(outcome.calls)
        if not verdict.passed and len(wrong) < 3:
            wrong.append(f"{title}: {verdict.wrong[0]}")
    return whose, what, count, wrong


def _jobs(every: int) -> Iterator[Job]:
    from simulation.contenders import Official, Ours
    from simulation.matrix import Matrix

    for whose, contender in (("ours", Ours()), ("peer", Official())):
        points = sum(1 for _ in Matrix(contender).points())
        for what, number in (("matrix", points), ("schedules", SCHEDULES)):
            chosen = list(range(0, number, every))
            for first in range(0, len(chosen), CHUNK):
                yield whose, what, chosen[first : first + CHUNK]


def main() -> None:
    _prepare()
    from benchmarks.figures import Figures

    every = int(os.environ.get("SAMPLE", "1"))
    totals: dict[tuple[str, str], Counter[str]] = {}
    examples: dict[str, list[str]] = {}
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("fork")) as pool:
        for whose, what, count, wrong in pool.map(_work, _jobs(every)):
            totals.setdefault((whose, what), Counter()).update(count)
            seen = examples.setdefault(f"{whose} {what}", [])
            seen += wrong[: 5 - len(seen)]

    def both(name: str) -> dict[str, int]:
        return {
            whose: sum(totals[whose, what][name] for what in ("matrix", "schedules"))
            for whose in ("ours", "peer")
        }

    figures = Figures("exactly-once", notes={"examples": examples, "every": every})
    rows = {
        "matrix_points": {whose: totals[whose, "matrix"]["runs"] for whose in ("ours", "peer")},
        "matrix_failures": {whose: totals[whose, "matrix"]["failures"] for whose in ("ours", "peer")},
        "random_schedules": {whose: totals[whose, "schedules"]["runs"] for whose in ("ours", "peer")},
        "random_schedule_failures": {
            whose: totals[whose, "schedules"]["failures"] for whose in ("ours", "peer")
        },
        "orphan_clusters": both("orphans"),
        "duplicate_steps": both("duplicates"),
        "wrong_end_states": both("states"),
        "api_calls": both("calls"),
    }
    for name, found in rows.items():
        figures.add(name, "count", [found["ours"]], [found["peer"]], PEER)
    figures.write()


if __name__ == "__main__":
    main()
