from __future__ import annotations

from airflow_emr_etl.triggers.places import LAG_SECONDS, LET_IN_SECONDS, Places


def ids(number: int) -> list[str]:
    return [f"s-{each}" for each in range(number)]


def with_steps(number: int) -> Places:
    places = Places()
    places.read(ids(number), 0.0)
    return places


def test_nobody_is_let_in_before_the_steps_were_counted() -> None:
    places = Places()
    places.steps_came(["s-1"], 0.0)
    places.step_ended("s-1")
    assert (places.active, places.free(256, 0.0)) == (None, 0)


def test_who_was_let_in_keeps_a_place_until_the_step_is_there() -> None:
    places = with_steps(6)
    assert places.free(8, 0.0) == 2
    places.let_in(0.0)
    assert places.free(8, 0.0) == 1
    places.steps_came(["s-new"], 0.0)
    assert (places.active, places.free(8, 0.0)) == (7, 1)


def test_a_step_that_was_counted_before_its_task_came_takes_one_place() -> None:
    places = with_steps(6)
    places.let_in(0.0)
    places.read(ids(7), 0.0)
    places.steps_came(["s-6"], 0.0)
    assert (places.active, places.free(8, 0.0)) == (7, 1)


def test_who_was_let_in_and_never_came_loses_the_place() -> None:
    places = with_steps(7)
    places.let_in(0.0)
    assert places.free(8, LET_IN_SECONDS - 1) == 0
    assert places.free(8, LET_IN_SECONDS) == 1


def test_a_step_that_ends_leaves_its_place_once() -> None:
    places = with_steps(8)
    places.step_ended("s-1")
    places.step_ended("s-1")
    assert places.free(8, 0.0) == 1


def test_the_end_of_a_step_that_was_not_counted_frees_nothing() -> None:
    places = with_steps(8)
    places.step_ended("s-long-ago")
    assert places.free(8, 0.0) == 0


def test_a_list_that_lags_behind_brings_no_step_back() -> None:
    places = with_steps(8)
    places.step_ended("s-1")
    places.read(ids(8), 0.0)
    places.steps_came(["s-1"], 0.0)
    assert places.active == 7


def test_emrs_own_limit_holds_whatever_is_wanted() -> None:
    assert with_steps(256).free(1000, 0.0) == 0


def test_a_step_of_somebody_who_was_not_let_in_counts_too() -> None:
    places = with_steps(3)
    places.steps_came(["s-other"], 0.0)
    assert (places.active, places.free(8, 0.0)) == (4, 4)


def test_a_list_that_lags_behind_drops_no_step_that_has_just_come() -> None:
    places = with_steps(0)
    places.let_in(0.0)
    places.steps_came(["s-new"], 1.0)
    places.read([], 2.0)
    assert (places.active, places.free(1, 2.0)) == (1, 0)
    places.read([], 2.0 + LAG_SECONDS)
    assert places.free(1, 2.0 + LAG_SECONDS) == 1


def test_a_wait_for_a_step_that_was_there_takes_nobodys_place() -> None:
    places = with_steps(3)
    places.let_in(0.0)
    places.steps_came(["s-1"], 1.0)
    assert places.free(8, 1.0) == 4


def test_a_count_that_nobody_keeps_up_is_not_relied_on() -> None:
    places = with_steps(3)
    places.let_in(0.0)
    places.forget_count()
    assert places.free(8, 0.0) == 0
    places.read(ids(3), 1.0)
    assert places.free(8, 1.0) == 4, "who was let in is not forgotten"


def test_a_task_that_comes_with_no_new_step_takes_nobodys_place() -> None:
    places = with_steps(3)
    places.let_in(0.0)
    places.steps_came([], 0.0)
    assert places.free(8, 0.0) == 4
