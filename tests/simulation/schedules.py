"""Random schedules: DAGs of 10 to 50 steps, and a hard time for each. A seed is a schedule."""

from __future__ import annotations

import random
from datetime import timedelta

from airflow_emr_etl.local.faults import FaultKind, FaultRule

from .contenders import Contender, Plan
from .matrix import INCURABLE
from .network import WRITES, Blows
from .run import Outcome, Trouble, simulate
from .verdict import Verdict, judge


def plan_of(seed: int) -> Plan:
    """The DAG of a schedule."""
    draw = random.Random(f"plan {seed}")
    names = [f"step{number:02d}" for number in range(draw.randint(10, 50))]
    steps: dict[str, tuple[str, ...]] = {}
    for number, name in enumerate(names):
        most = min(number, draw.choice((0, 1, 1, 2, 3)))
        steps[name] = tuple(sorted(draw.sample(names[max(0, number - 8) : number], min(most, number, 8))))
    return Plan(
        steps,
        retries=10,
        retry_delay=timedelta(minutes=draw.choice((0, 1, 5))),
        deferrable=draw.random() < 0.6,
        poll_seconds=300,
        first_poll_seconds=60.0,
        concurrency=draw.choice((2, 4, 8)),
        step_minutes={name: draw.uniform(1, 30) for name in names},
    )


def trouble_of(seed: int) -> Trouble:
    """What goes wrong in it: most schedules have some of everything."""
    draw = random.Random(f"trouble {seed}")
    rules = tuple(
        FaultRule(
            "*", kind, draw.choice(("before", "after")), probability=draw.uniform(0, 0.012), seed=seed + n
        )
        for n, kind in enumerate(kind for kind in FaultKind if kind not in INCURABLE)
        if draw.random() < 0.6
    )
    if draw.random() < 0.6:  # there are few writes, and on them it all depends
        rules += tuple(
            FaultRule(
                f"emr:{operation}",
                draw.choice(sorted(set(FaultKind) - INCURABLE)),
                draw.choice(("before", "after", "after")),
                probability=draw.uniform(0, 0.3),
                seed=seed + 100 + n,
            )
            for n, operation in enumerate(sorted(WRITES) * 2)
        )
    kills, detaches = draw.choice((0.0, 0.003, 0.01)), draw.choice((0.0, 0.0, 0.003))
    lag = draw.choice((0.0, 0.0, 2.0, 5.0, 10.0))
    losses = sorted(draw.uniform(0, 3 * 3600) for _ in range(draw.choice((0, 0, 1, 1, 2, 3))))
    return Trouble(
        rules=rules,
        blows=lambda: Blows(
            kill_chance=kills,
            write_kill_chance=8 * kills,
            detach_chance=detaches,
            kills_left=8,
            random=random.Random(f"blows {seed}"),
        ),
        lag_seconds=lag,
        losses=losses,
        no_capacity=draw.choice((0, 0, 0, 1, 1)),
        # Two workers at once, or a list that does not show yet what is there: two clusters for a moment.
        races=bool(lag or detaches),
    )


def run(contender: Contender, seed: int) -> tuple[Verdict, Outcome]:
    """One schedule from its beginning to its end."""
    plan, trouble = plan_of(seed), trouble_of(seed)
    outcome = simulate(contender, plan, trouble, seed=seed)
    return judge(plan, trouble, outcome), outcome
