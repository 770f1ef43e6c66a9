from __future__ import annotations

from airflow_emr_etl.triggers.places import LET_IN_SECONDS, Places


def test_nobody_is_let_in_before_the_steps_were_counted() -> None:
    assert Places().free(256, 0.0) == 0


def test_who_was_let_in_keeps_a_place_until_the_step_is_there() -> None:
    places = Places()
    places.read(6)
    assert places.free(8, 0.0) == 2
    places.let_in(0.0)
    assert places.free(8, 0.0) == 1
    places.step_came()
    assert (places.active, places.free(8, 0.0)) == (7, 1)


def test_who_was_let_in_and_never_came_loses_the_place() -> None:
    places = Places()
    places.read(7)
    places.let_in(0.0)
    assert places.free(8, LET_IN_SECONDS - 1) == 0
    assert places.free(8, LET_IN_SECONDS) == 1


def test_a_step_that_ends_leaves_its_place() -> None:
    places = Places()
    places.read(1)
    places.step_ended()
    places.step_ended()
    assert places.free(8, 0.0) == 8


def test_emrs_own_limit_holds_whatever_is_wanted() -> None:
    places = Places()
    places.read(256)
    assert places.free(1000, 0.0) == 0


def test_a_step_of_somebody_else_takes_no_place_of_those_let_in() -> None:
    places = Places()
    places.read(3)
    places.step_came()
    assert places.active == 3, "the next read counts it"
