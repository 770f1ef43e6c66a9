"""The decisions of a build, without a warehouse. With one: tests/integration/local_redshift/test_mart_tables.py."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from airflow_emr_etl.exceptions import ConfigurationError, StatementFailedError
from airflow_emr_etl.models.clickstream_marts import MARTS, USERS
from airflow_emr_etl.models.table import RedshiftTarget
from airflow_emr_etl.operators.build_marts import (
    BuildMartsOperator,
    as_days,
    days_within,
    load_id_of,
    mart_named,
)

TARGET = RedshiftTarget(workgroup_name="{{ params.wg }}", iam_role="{{ params.role }}")


def build(**kwargs: Any) -> BuildMartsOperator:
    return BuildMartsOperator(task_id="t", target=TARGET, **kwargs)


def test_the_constructor_touches_nothing_and_shows_its_templates() -> None:
    operator = build(days="{{ ds }}")
    assert operator.marts == MARTS
    assert {"target", "days", "loads"} <= set(operator.template_fields)
    assert not {"hook", "place"} & set(vars(operator))


@pytest.mark.parametrize("kwargs", [{}, {"loads": [], "days": []}])
def test_the_days_come_from_one_side(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="needs either loads="):
        build(**kwargs)


def test_marts_by_name() -> None:
    assert mart_named("users") is USERS
    assert mart_named(USERS) is USERS
    assert [mart.name for mart in build(days=[], marts=["users"]).marts] == ["user_days", "users"]
    with pytest.raises(ConfigurationError, match=r"no mart 'user'\. There are page_views"):
        build(days=[], marts=["user"])


def test_days_are_read() -> None:
    assert as_days("2026-01-05") == as_days(date(2026, 1, 5)) == [date(2026, 1, 5)]
    assert as_days(["2026-01-06", date(2026, 1, 5), "2026-01-06"]) == [date(2026, 1, 5), date(2026, 1, 6)]
    with pytest.raises(ConfigurationError, match="write them as YYYY-MM-DD"):
        as_days(["05.01.2026"])
    spans = [
        {"first_day": "2026-01-05", "last_day": "2026-01-06"},
        {"first_day": "2025-12-31", "last_day": "2025-12-31"},
        {"first_day": "2026-01-06", "last_day": "2026-01-06"},
    ]
    assert days_within(spans) == [date(2025, 12, 31), date(2026, 1, 5), date(2026, 1, 6)]


def test_the_load_of_a_result() -> None:
    assert load_id_of({"load_id": "x", "rows": 1}) == "x"
    for wrong in (None, "x", {"rows": 1}):
        with pytest.raises(ConfigurationError, match="no result of a load task"):
            load_id_of(wrong)


def test_a_statement_that_failed_is_an_error() -> None:
    statement = {"Id": "i", "Status": "FAILED", "Error": "ERROR: relation does not exist"}
    payload = {"status": "done", "statement_id": "i", "attempt": 1, "statement": statement}
    with pytest.raises(StatementFailedError, match="relation does not exist"):
        build(days="2026-01-05")._settle({}, payload)  # type: ignore[arg-type]
