"""What operators read from the context of a try."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import BaseOperator
from fakes.clock import MORNING
from fakes.task_instance import FakeTaskInstance

from airflow_emr_etl.operators.base import clears_of, has_more_tries, is_retry, run_start, scope_of, site


def operator(retries: int = 0) -> BaseOperator:
    return BaseOperator(task_id="t", retries=retries)


@pytest.mark.parametrize("retries", [0, 3])
def test_clears_grow_with_a_clear_and_not_with_a_retry(retries: int) -> None:
    """Airflow's own rule: a clear sets ``max_tries`` to the tries so far and the task's retries."""
    ti = FakeTaskInstance(max_tries=retries)
    task = operator(retries)
    assert clears_of(task, ti.context) == clears_of(task, ti.next_try().context) == 0
    once = ti.next_try().cleared(retries)
    assert clears_of(task, once.context) == clears_of(task, once.next_try().context) == 2
    twice = once.cleared(retries)
    assert clears_of(task, twice.context) == 3


def test_a_task_that_was_cleared_before_it_ran_was_not_cleared() -> None:
    ti = FakeTaskInstance(try_number=1, max_tries=0 + 3)
    assert clears_of(operator(3), ti.context) == 0


def test_clears_are_never_negative() -> None:
    ti = FakeTaskInstance(max_tries=1)  # the DAG got more retries since the run began
    assert clears_of(operator(5), ti.context) == 0
    assert clears_of(operator(5), {"ti": SimpleNamespace(max_tries=None)}) == 0  # type: ignore[typeddict-item]


def test_whether_there_was_and_will_be_another_try() -> None:
    first = FakeTaskInstance(max_tries=1)
    last = first.next_try()
    assert (is_retry(first.context), has_more_tries(first.context)) == (False, True)
    assert (is_retry(last.context), has_more_tries(last.context)) == (True, False)


def test_a_scope_is_the_task_instances_own_or_another_tasks_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW__EMR_ETL__SITE", "here")
    mapped = FakeTaskInstance("t", map_index=4)
    own = scope_of(mapped.context)
    assert (own.dag_id, own.run_id, own.task_id, own.map_index, own.site) == ("d", "r", "t", 4, "here")
    other = scope_of(mapped.context, "up")
    assert (other.task_id, other.map_index) == ("up", -1), "a cluster is made once, not for each mapped step"
    assert scope_of(mapped.context, "t") == own
    assert other == scope_of(FakeTaskInstance("up").context)


def test_a_scope_is_the_same_in_every_try() -> None:
    ti = FakeTaskInstance()
    assert scope_of(ti.context).lineage == scope_of(ti.next_try().cleared().context).lineage


def test_the_site_is_named_or_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://airflow.example")
    assert site() == "http://airflow.example"
    monkeypatch.setenv("AIRFLOW__EMR_ETL__SITE", "here")
    assert site() == "here"


def test_a_runs_start_where_there_is_one() -> None:
    assert run_start(FakeTaskInstance().context) == MORNING
    nothing: list[Any] = [{}, {"dag_run": None}, {"dag_run": SimpleNamespace(start_date=None)}]
    assert [run_start(context) for context in nothing] == [None, None, None]
