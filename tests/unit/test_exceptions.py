"""The tree of errors: complete, decided, and able to travel."""

from __future__ import annotations

import ast
import inspect
import pickle
from pathlib import Path

import pytest

import airflow_emr_etl
from airflow_emr_etl import exceptions
from airflow_emr_etl.exceptions import EmrEtlError
from airflow_emr_etl.retry_policy import errors

ALL = [*errors()]


def test_every_class_is_in_the_tree_that_is_drawn() -> None:
    drawn = {line.split()[0]: line for line in tree()}
    assert set(drawn) == {kind.__name__ for kind in ALL}
    for kind in ALL:
        told = "*retryable*" in drawn[kind.__name__]
        assert told == kind.retryable, f"the drawn tree is wrong about {kind.__name__}"


def test_no_error_is_made_elsewhere() -> None:
    """The retry policy, and the way from the triggerer to the worker, know those of the one module alone."""
    names = {kind.__name__ for kind in ALL}
    package = Path(airflow_emr_etl.__file__).parent
    strays = [
        f"{path.relative_to(package)}: {node.name}"
        for path in sorted(package.rglob("*.py"))
        if path.name != "exceptions.py" and "local" not in path.parts  # local AWS runs in no task
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and names & {ast.unparse(base) for base in node.bases}
    ]
    assert strays == []


def tree() -> list[str]:
    drawing = (exceptions.__doc__ or "").split("::\n")[1].split("``retryable``")[0]
    lines = [line.lstrip(" │├└─") for line in drawing.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_each_says_what_it_is_and_survives_pickling(kind: type[EmrEtlError]) -> None:
    assert inspect.getdoc(kind)
    error = pickle.loads(pickle.dumps(kind("m", cluster_id="j-1")))
    assert (type(error), str(error), error.cluster_id) == (kind, "m", "j-1")
