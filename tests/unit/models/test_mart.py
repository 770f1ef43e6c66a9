"""Marts as definitions: conditions, patterns, order, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.clickstream_marts import MARTS, PURCHASE, funnels
from airflow_emr_etl.models.mart import Funnel, Mart, MartColumn, Scope, in_order, like, ranges


def days(*numbers: int) -> tuple[date, ...]:
    return tuple(date(2026, 1, number) for number in numbers)


def mart(name: str = "m", **changes: Any) -> Mart:
    fields = {
        "grain": "one row",
        "columns": (MartColumn("dt", "DATE", "", ""),),
        "keys": ("dt",),
        "reads": ("events",),
        "select": lambda scope: f"SELECT dt FROM {scope['events']}",
    }
    return Mart(name, **{**fields, **changes})


def test_days_are_ranges_without_gaps() -> None:
    assert ranges(()) == []
    assert ranges(days(3, 1, 2, 2, 7)) == [
        (date(2026, 1, 1), date(2026, 1, 4)),
        (date(2026, 1, 7), date(2026, 1, 8)),
    ]
    assert ranges((date(2025, 12, 31), date(2026, 1, 1))) == [(date(2025, 12, 31), date(2026, 1, 2))]


def test_the_conditions_of_a_scope() -> None:
    scope = Scope({}, days(1, 2, 5), datetime.fromisoformat("2025-12-31 23:50:00.000001"))
    assert scope.on("ts") == (
        "((ts >= TIMESTAMP '2026-01-01 00:00:00' AND ts < TIMESTAMP '2026-01-03 00:00:00') OR "
        "(ts >= TIMESTAMP '2026-01-05 00:00:00' AND ts < TIMESTAMP '2026-01-06 00:00:00'))"
    )
    assert scope.of("dt") == (
        "(dt BETWEEN DATE '2026-01-01' AND DATE '2026-01-02' OR dt BETWEEN DATE '2026-01-05' AND DATE '2026-01-05')"
    )
    assert Scope({}, days(1)).overlaps("a", "b") == (
        "((a < TIMESTAMP '2026-01-02 00:00:00' AND b >= TIMESTAMP '2026-01-01 00:00:00'))"
    )
    assert scope.in_reach("ts") == "ts >= TIMESTAMP '2025-12-31 23:50:00.000001'"
    nothing, everything = Scope({}, ()), Scope({})
    assert {nothing.on("ts"), nothing.of("dt")} == {"(FALSE)"}
    assert {everything.on("ts"), everything.of("dt"), everything.in_reach("ts")} == {"TRUE"}
    with pytest.raises(ConfigurationError, match="no relation 'x' for a mart to read; there are a, b"):
        _ = Scope({"b": "B", "a": "A"})["x"]


@pytest.mark.parametrize(
    ("pattern", "sql"),
    [
        ("/", "LIKE '/' ESCAPE '^'"),
        ("/blog/*/edit", "LIKE '/blog/%/edit' ESCAPE '^'"),
        ("/100%_^", "LIKE '/100^%^_^^' ESCAPE '^'"),
    ],
)
def test_patterns(pattern: str, sql: str) -> None:
    assert like(pattern) == sql


@pytest.mark.parametrize("pattern", ["", "/it's", '/"', "/a\\b", "/a\nb", "/\0"])
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="is no pattern for paths"):
        Funnel("f", {"step": pattern})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Funnel("f", {}), "has no step"),
        (lambda: Funnel("f'", {"a": "/"}), "cannot name a funnel or a step"),
        (lambda: Funnel("f", {"x" * 65: "/"}), "cannot name a funnel or a step"),
        (lambda: funnels(), "each with a name of its own; got none"),
        (lambda: funnels(PURCHASE, PURCHASE), "got purchase, purchase"),
        (lambda: mart("M"), "is no name of a mart"),
        (lambda: mart(keys=()), "needs keys"),
        (lambda: mart(keys=("x",)), "has no column x; it has dt"),
        (lambda: mart(day="day"), "has no column day"),
        (lambda: mart(columns=(MartColumn("dt", "DATE", "", ""),) * 2), "a column twice"),
        (lambda: in_order([mart("a"), mart("a")], ()), "named twice: a, a"),
        (lambda: in_order([mart("a", reads=("b",)), mart("b", reads=("a",))], ()), "each other: a → b → a"),
    ],
)
def test_what_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        make()


def test_what_a_mart_reads_is_made_before_it_and_the_given_one_wins() -> None:
    own = funnels(Funnel("own", {"any": "*"}))
    assert [m.name for m in in_order([own], MARTS)] == ["page_views", "funnels"]
    assert in_order([own], MARTS)[1] is own
    names = [m.name for m in MARTS]
    assert all(names.index(read) < n for n, m in enumerate(MARTS) for read in m.reads if read in names)


@pytest.mark.parametrize("each", MARTS, ids=lambda each: str(each.name))
def test_every_column_says_what_it_is(each: Mart) -> None:
    assert all(column.meaning for column in each.columns)
    relations = {name: f"the_{name}" for name in ("events", "sessions", *(m.name for m in MARTS))}
    sql = each.select(Scope(relations, days(5)))
    assert {name for name in relations if f"the_{name} " in sql} == set(each.reads)
