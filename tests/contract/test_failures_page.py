"""The table of docs/failures.md has every error, in the order of the tree, and what the code does about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from airflow_emr_etl.exceptions import EmrEtlError
from airflow_emr_etl.models.duration import told
from airflow_emr_etl.retry_policy import emr_retry_policy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "failures.md"


def rows() -> list[list[str]]:
    found = re.findall(r"^\| `(\w+Error)` \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    return [[name, *(cell.strip() for cell in rest.split(" | "))] for name, rest in found]


def tree(kind: type[EmrEtlError] = EmrEtlError) -> Iterator[type[EmrEtlError]]:
    yield kind
    for each in kind.__subclasses__():
        if each.__module__ == EmrEtlError.__module__:
            yield from tree(each)


def test_every_error_has_a_row() -> None:
    assert {row[0] for row in rows()} == {kind.__name__ for kind in tree()}
    assert all(len(row) == 4 and all(row) for row in rows())


def test_the_column_retry_is_what_the_policy_does() -> None:
    policy = emr_retry_policy()
    assert policy is not None
    for kind in tree():
        decision = policy.evaluate(kind("m"), 1, 3)
        does = "no" if decision.action.value == "fail" else f"after {told(decision.retry_delay)}"  # type: ignore[arg-type]
        [row] = [row for row in rows() if row[0] == kind.__name__]
        assert row[1] == does, kind.__name__
