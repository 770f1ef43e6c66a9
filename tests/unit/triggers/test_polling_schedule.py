from __future__ import annotations

import pytest

from airflow_emr_etl.triggers.polling_schedule import (
    Allowance,
    CallBudget,
    Pace,
    UsualDurations,
    Way,
    by_list,
    haste,
    rate_for_cluster,
    steps_to_ask,
)

IDS = [f"s-{number}" for number in range(300)]


def calls_of(budget: CallBudget, *, seconds: float, answer: str = "well", start: float = 0.0) -> list[float]:
    """When a caller that always wants to call does, with every call answered in the same way."""
    made, now = [], start
    while now < start + seconds:
        delay = budget.delay(now)
        if delay > 0:
            now += delay
            continue
        budget.spend(now)
        made.append(now)
        if answer == "throttled":
            budget.throttled(now)
        else:
            budget.answered()
    return [moment for moment in made if moment < start + seconds]


def test_an_allowance_can_be_overdrawn_and_is_paid_back() -> None:
    allowance = Allowance(4, 0.5, now=0)
    assert allowance.delay(0, 4) == 0
    allowance.spend(0, 6)
    assert allowance.delay(0) == pytest.approx(6)
    assert allowance.delay(4) == pytest.approx(2)
    assert allowance.delay(6) == 0
    assert allowance.delay(1000, 99) == 0, "more than the bucket holds waits for a full one only"


def test_time_that_goes_back_gives_nothing() -> None:
    allowance = Allowance(1, 1, now=10)
    allowance.spend(10)
    assert allowance.delay(5) == pytest.approx(1)
    assert allowance.delay(11) == 0


def test_the_budget_bounds_every_second_and_every_minute() -> None:
    made = calls_of(CallBudget(burst=5, rate=4, now=0), seconds=120)
    assert max(sum(start <= moment < start + 1 for moment in made) for start in made) <= 9
    assert len(made) <= 5 + 4 * 120


@pytest.mark.parametrize("luck", [0.0, 0.5, 0.99])
def test_throttled_calls_get_fewer_whatever_is_drawn(luck: float) -> None:
    budget = CallBudget(burst=5, rate=4, now=0, draw=lambda: luck)
    healthy = calls_of(budget, seconds=60)
    first = calls_of(budget, seconds=60, answer="throttled", start=60)
    later = calls_of(budget, seconds=600, answer="throttled", start=120)
    assert len(first) < len(healthy) / 4
    assert len(later) / 10 <= 3.1, "and never none: somebody has to find out that it is over"
    assert len(later) >= 5


def test_it_halves_what_was_really_called_and_recovers() -> None:
    budget = CallBudget(burst=5, rate=4, now=0, draw=lambda: 0.5)
    for number in range(60):
        budget.spend(number * 1.0)
    budget.throttled(60)
    assert budget.rate == pytest.approx(0.5)
    assert budget.delay(60) >= 1
    for _ in range(20):
        budget.answered()
    assert budget.rate == 4


def test_pauses_grow_with_each_refusal_and_have_an_end() -> None:
    budget = CallBudget(now=0, draw=lambda: 1.0)
    pauses = []
    for number in range(10):
        budget.throttled(number * 1000.0)
        pauses.append(budget.delay(number * 1000.0))
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(60)


def test_few_steps_are_asked_for_by_their_ids_and_calls_are_filled_up() -> None:
    plan = steps_to_ask(IDS[:3], IDS[3:40], 200, 200)
    assert (plan.way, len(plan.batches), len(plan.ids)) == (Way.IDS, 1, 10)
    assert plan.ids[:3] == tuple(IDS[:3])
    assert steps_to_ask(IDS[:1], [], None).ids == ("s-0",)


def test_many_steps_are_read_from_their_clusters_list() -> None:
    assert steps_to_ask(IDS[:100], [], None).way is Way.NEWEST
    assert steps_to_ask(IDS[:1], IDS[1:100], 100, 100).way is Way.NEWEST
    assert steps_to_ask(IDS[:1], IDS[1:40], 40).ids == tuple(IDS[:40])


def test_the_shorter_of_the_lists_is_read_and_none_where_asking_by_ids_is_shorter() -> None:
    assert steps_to_ask(IDS[:60], [], 60, 900).way is Way.ACTIVE
    assert steps_to_ask(IDS[:60], [], 250, 100).way is Way.NEWEST
    assert steps_to_ask(IDS[:20], [], 250, 900).way is Way.IDS
    assert len(steps_to_ask(IDS[:20], [], 250, 900).batches) == 2


@pytest.mark.parametrize(
    ("due", "soon", "listed", "expected"),
    [
        (1, 1, None, False),
        (1, 2, None, True),
        (1, 2, 60, False),
        (1, 4, 60, True),
        (2, 3, 60, True),
        (10, 10, 400, True),
        (10, 10, 2000, False),
    ],
)
def test_clusters_are_listed_where_that_is_cheaper(
    due: int, soon: int, listed: int | None, expected: bool
) -> None:
    assert by_list(due, soon, listed) is expected


def test_calls_that_are_saved_make_looks_more_frequent() -> None:
    assert [haste(waiting, 1) for waiting in (1, 10, 20, 100)] == [1, 1, 2, 3]
    assert haste(100, 5) == 2
    assert haste(0, 0) == 1


def test_a_cluster_may_cost_what_one_look_in_its_interval_needs() -> None:
    assert rate_for_cluster(3, 30) == pytest.approx(12 / 60)
    assert rate_for_cluster(30, 30) == pytest.approx(1)


def test_looks_are_frequent_when_a_step_is_new_and_near_its_usual_end() -> None:
    def calm(**kwargs: float) -> float:
        pace = Pace(1, 30)
        for _ in range(60):
            pace.next()
        return pace.next(draw=lambda: 0.5, **kwargs)

    assert Pace(1, 30).next(draw=lambda: 0.5) == 1
    assert calm() == 30
    assert calm(to_usual_end=1000) == 30
    assert calm(to_usual_end=20) == 5
    assert calm(to_usual_end=-2) == 1
    assert calm(to_usual_end=-1000) == 30
    assert Pace(1, 0.1).next(draw=lambda: 0.5) == pytest.approx(0.1)


def test_usual_durations_are_the_last_ones_of_so_many_names() -> None:
    usual = UsualDurations(most=2)
    for name, seconds in (("a", 1.0), ("b", 2.0), ("a", 3.0), ("c", 4.0)):
        usual.learn(name, seconds)
    assert [usual.of(name) for name in "abc"] == [3.0, None, 4.0]
