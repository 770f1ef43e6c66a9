"""Random schedules of trouble over DAGs of 10 to 50 steps. A failure prints its seed and its story."""

from __future__ import annotations

import pytest
from simulation import schedules
from simulation.contenders import Ours
from simulation.verdict import report

QUICK, ALL = 12, 1000


def check(seeds: range) -> None:
    found = []
    for seed in seeds:
        verdict, outcome = schedules.run(Ours(), seed)
        if not verdict.passed:
            found.append(report(f"seed {seed}", verdict, outcome))
    assert not found, f"{len(found)} of {len(seeds)} schedules; the first:\n{found[0]}"


def test_some_random_schedules() -> None:
    check(range(QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, ALL, 100))
def test_the_rest_of_a_thousand_random_schedules(first: int) -> None:
    check(range(first, min(first + 100, ALL)))
