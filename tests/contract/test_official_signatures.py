"""The drop-in operators and sensors take what the installed Amazon provider's take; every difference is listed here."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from typing import Any

import pytest

PAIRS = {
    "operators": (
        "EmrAddStepsOperator",
        "EmrCreateJobFlowOperator",
        "EmrModifyClusterOperator",
        "EmrTerminateJobFlowOperator",
    ),
    "sensors": ("EmrJobFlowSensor", "EmrStepSensor"),
}
CLASSES = [(layer, name) for layer, names in PAIRS.items() for name in names]
#: Defaults that differ on purpose: name → (theirs, ours, why).
DEFAULTS = {
    ("EmrAddStepsOperator", "waiter_max_attempts"): (
        60,
        2880,
        "half an hour gives up on a step that goes on",
    ),
    ("EmrStepSensor", "max_attempts"): (60, 10080, "a deferred sensor waits as long as one that is not"),
    ("EmrJobFlowSensor", "max_attempts"): (60, 10080, "a deferred sensor waits as long as one that is not"),
}


def pair(layer: str, name: str) -> tuple[Any, Any]:
    official = importlib.import_module(f"airflow.providers.amazon.aws.{layer}.emr")
    ours = importlib.import_module(f"airflow_emr_etl.{layer}.emr")
    return getattr(official, name), getattr(ours, name)


def parameters(cls: Any) -> dict[str, inspect.Parameter]:
    """Everything that a constructor takes by name, that of the classes below it included."""
    found: dict[str, inspect.Parameter] = {}
    for each in cls.__mro__:
        if "__init__" in vars(each):
            named = inspect.signature(each.__init__).parameters.values()
            for parameter in named:
                if parameter.name != "self" and parameter.kind not in (
                    parameter.VAR_KEYWORD,
                    parameter.VAR_POSITIONAL,
                ):
                    found.setdefault(parameter.name, parameter)
    return found


def is_set(value: Any) -> bool:
    """False for Airflow's mark of an argument that was not given, which stands for None."""
    return value is not None and type(value).__name__ != "ArgNotSet"


@pytest.mark.parametrize(("layer", "name"), CLASSES)
def test_every_parameter_of_theirs_is_taken_with_the_same_default(layer: str, name: str) -> None:
    official, ours = map(parameters, pair(layer, name))
    assert [each for each in official if each not in ours] == []
    for each, parameter in official.items():
        theirs, mine = parameter.default, ours[each].default
        if (name, each) in DEFAULTS:
            assert DEFAULTS[name, each][:2] == (theirs, mine)
        elif is_set(theirs) or is_set(mine):
            assert mine == theirs, f"{name}({each}=): {mine!r}, and theirs is {theirs!r}"


@pytest.mark.parametrize(("layer", "name"), CLASSES)
def test_the_same_fields_are_templates(layer: str, name: str) -> None:
    official, ours = pair(layer, name)
    assert set(ours.template_fields) == set(official.template_fields)
    assert tuple(ours.template_ext) == tuple(official.template_ext)
    assert dict(ours.template_fields_renderers) == dict(official.template_fields_renderers)


@pytest.mark.parametrize(("layer", "name"), CLASSES)
def test_what_users_set_and_read_has_the_same_names(layer: str, name: str) -> None:
    """DAGs set attributes after construction, and custom operators read them."""
    official, ours = pair(layer, name)
    needed = {
        "EmrAddStepsOperator": {"job_flow_id": "j-1"},
        "EmrCreateJobFlowOperator": {},
        "EmrModifyClusterOperator": {"cluster_id": "j-1", "step_concurrency_level": 1},
        "EmrTerminateJobFlowOperator": {"job_flow_id": "j-1"},
        "EmrJobFlowSensor": {"job_flow_id": "j-1"},
        "EmrStepSensor": {"job_flow_id": "j-1", "step_id": "s-1"},
    }[name]
    theirs, mine = (cls(task_id="t", **needed) for cls in (official, ours))
    for each in parameters(official):
        if each in vars(theirs):
            assert each in vars(mine), f"{name}.{each}"
    assert type(mine).ui_color == type(theirs).ui_color
    assert len(mine.operator_extra_links) == len(theirs.operator_extra_links)


@pytest.mark.parametrize("layer", PAIRS)
def test_every_other_name_of_theirs_is_passed_through(layer: str) -> None:
    official = importlib.import_module(f"airflow.providers.amazon.aws.{layer}.emr")
    ours = importlib.import_module(f"airflow_emr_etl.{layer}.emr")
    theirs = {
        name
        for name, item in vars(official).items()
        if isinstance(item, type) and item.__module__ == official.__name__ and not name.startswith("_")
    }
    assert theirs >= set(PAIRS[layer])
    for name in theirs - set(PAIRS[layer]):
        assert getattr(ours, name) is getattr(official, name)
    with pytest.raises(AttributeError, match="EmrNothing"):
        _ = ours.EmrNothing


@pytest.mark.parametrize("layer", PAIRS)
def test_importing_ours_loads_neither_theirs_nor_boto(layer: str) -> None:
    unwanted = ["boto3", "botocore", "airflow.providers.amazon.aws", "airflow_emr_etl.local"]
    names = ", ".join(PAIRS[layer])
    script = (
        f"from airflow_emr_etl.{layer}.emr import {names}\nimport sys\n"
        f"print([m for m in {unwanted!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
