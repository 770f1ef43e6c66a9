"""Steps: what runs on a cluster. Arguments are lists; nothing here is ever shell text."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, field_validator, model_validator

from airflow_emr_etl.models.base import Model, Name, Names

#: EMR's limit on one argument of a step.
MAX_ARGUMENT_LENGTH = 10_280
#: EMR's limit on the steps of one cluster that wait or run.
MAX_ACTIVE_STEPS = 256
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class ActionOnFailure(enum.StrEnum):
    """What EMR does with the cluster when the step fails."""

    CONTINUE = "CONTINUE"
    CANCEL_AND_WAIT = "CANCEL_AND_WAIT"
    TERMINATE_CLUSTER = "TERMINATE_CLUSTER"


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Command-line arguments from a mapping, in its order.

    ``{"input": ["a", "b"], "inactivity_minutes": 30, "dry_run": True, "limit": None}`` becomes
    ``--input a --input b --inactivity-minutes 30 --dry-run``: a list repeats its option, True is a bare
    flag, False and None are left out. A name that is no option is a ValueError.
    """
    result: list[str] = []
    for name, value in options.items():
        if not _OPTION.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of an option; write letters, digits, '-' or '_'")
        flag = "--" + name.replace("_", "-")
        for item in value if isinstance(value, list | tuple) else [value]:
            if item is None or item is False:
                continue
            result += [flag] if item is True else [flag, str(item)]
    return result


def _as_arguments(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(
            f"{value!r} is one text; arguments are a list such as ['--day', '2026-01-05'] "
            "or a mapping such as {'day': '2026-01-05'}"
        )
    if isinstance(value, Mapping):
        return arguments(value)
    return [str(item) if isinstance(item, int | float) else item for item in value]


def _fits(value: tuple[str, ...]) -> tuple[str, ...]:
    for item in value:
        if len(item) > MAX_ARGUMENT_LENGTH:
            raise ValueError(
                f"the argument {item[:40]!r}… has {len(item)} characters; EMR takes {MAX_ARGUMENT_LENGTH}. "
                "Put it into a file in S3 and pass the file's address"
            )
    return value


Arguments = Annotated[tuple[str, ...], BeforeValidator(_as_arguments), AfterValidator(_fits)]


class _Step(Model):
    name: Name
    action_on_failure: ActionOnFailure = ActionOnFailure.CONTINUE
    """CONTINUE leaves the cluster to its other steps: the DAG decides what a failure means."""

    @field_validator("name")
    @classmethod
    def _short(cls, value: str) -> str:
        if len(value) > 256:
            raise ValueError(f"the name has {len(value)} characters; EMR takes 256")
        return value

    def _to_api(self, jar: dict[str, Any]) -> dict[str, Any]:
        return {"Name": self.name, "ActionOnFailure": self.action_on_failure.value, "HadoopJarStep": jar}


class SparkStep(_Step):
    """A ``spark-submit`` on the cluster."""

    kind: Literal["spark"] = "spark"
    entry: str
    """The program: ``s3://…`` of a ``.py`` or ``.jar``, or a path on the primary machine."""
    args: Arguments = ()
    """The program's own arguments, a list or a mapping of options."""
    main_class: str | None = None
    """For a jar."""
    conf: Mapping[str, str] = {}
    py_files: Names = ()
    files: Names = ()
    jars: Names = ()
    packages: Names = ()
    """Maven coordinates; they are fetched when the step starts."""
    deploy_mode: Literal["client", "cluster"] = "client"
    """Where the driver runs: in the step, so that it ends when the step is cancelled, or in YARN, where EMR
    leaves it running then."""

    @field_validator("conf", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {key: _spark_value(item) for key, item in value.items()}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in self.conf:
            if "=" in key or not key:
                raise ValueError(f"conf has the key {key!r}; write conf={{'spark.some.setting': 'value'}}")
        if self.entry.endswith(".jar") and self.main_class is None:
            raise ValueError(f"{self.entry!r} is a jar; say what to run in it: main_class='com.example.Main'")
        if self.entry.startswith("-"):
            raise ValueError(
                f"entry is {self.entry!r}, which spark-submit takes for an option; give the program's address"
            )
        return self

    def command(self) -> list[str]:
        """The whole ``spark-submit`` command, one argument an item."""
        command = ["spark-submit", "--deploy-mode", self.deploy_mode]
        for key, value in self.conf.items():
            command += ["--conf", f"{key}={value}"]
        if self.main_class is not None:
            command += ["--class", self.main_class]
        for flag, values in (
            ("--py-files", self.py_files),
            ("--files", self.files),
            ("--jars", self.jars),
            ("--packages", self.packages),
        ):
            if values:
                command += [flag, ",".join(values)]
        return [*command, self.entry, *self.args]

    def to_api(self) -> dict[str, Any]:
        """One entry of ``add_job_flow_steps(Steps=…)``."""
        return self._to_api({"Jar": "command-runner.jar", "Args": self.command()})


class CommandStep(_Step):
    """Any program on the primary machine, or a jar of your own.

    ``CommandStep(name="copy", command=["s3-dist-cp", "--src", "s3://a/", "--dest", "hdfs:///a"])``
    """

    kind: Literal["command"] = "command"
    command: Arguments = ()
    """Program and arguments, a list. For a shell's syntax: ``["bash", "-c", "…"]``, which is then yours to quote."""
    jar: str = "command-runner.jar"
    main_class: str | None = None
    properties: Mapping[str, str] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.jar == "command-runner.jar" and not self.command:
            raise ValueError("nothing to run; set command=['program', 'argument', …]")
        return self

    def to_api(self) -> dict[str, Any]:
        """One entry of ``add_job_flow_steps(Steps=…)``."""
        jar: dict[str, Any] = {"Jar": self.jar, "Args": list(self.command)}
        if self.main_class is not None:
            jar["MainClass"] = self.main_class
        if self.properties:
            jar["Properties"] = [{"Key": key, "Value": text} for key, text in self.properties.items()]
        return self._to_api(jar)


Step = SparkStep | CommandStep


def step_from(document: Step | Mapping[str, Any]) -> Step:
    """A step from its document (``Step.document()`` plus ``kind``), checked again after rendering."""
    if isinstance(document, SparkStep | CommandStep):
        return document
    kind = document.get("kind") or ("command" if "command" in document or "jar" in document else "spark")
    model: type[SparkStep] | type[CommandStep] = CommandStep if kind == "command" else SparkStep
    return model.model_validate({**document, "kind": kind})


def _spark_value(value: Any) -> Any:
    # Spark reads true and false in lower case; numbers are welcome as they are.
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def documents(steps: Any) -> Any:
    """Steps as plain fields; what is no list or tuple, such as the output of a task, as it is."""
    if not isinstance(steps, list | tuple):
        return steps
    return [step.document() if isinstance(step, SparkStep | CommandStep) else step for step in steps]
