"""A quality check that can stop a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_emr_etl.exceptions import ConfigurationError, GateFailedError
from airflow_emr_etl.operators.emr_step import EmrSparkOperator, beside_dag, read_local

if TYPE_CHECKING:
    from airflow.sdk import Context

_COLUMNS = ("dataset", "check", "column", "severity", "result", "unexpected", "observed")
_WIDEST_CELL = 48


class EmrQualityGateOperator(EmrSparkOperator):
    """Run a Great Expectations suite on the cluster, and fail the task where a critical expectation failed.

    The step writes ``result.json`` and the data docs to its attempt's own path. Returns the step's result
    with ``passed``, ``suite``, ``rows`` (a dataset), ``checks``, ``failed_critical``, ``failed_warning`` and
    ``data_docs``. A failed gate is not retried: the same data fails again.

    :param suite: the YAML file of the suite: beside the DAG, or ``s3://…`` (templated)
    :param data: what to check: ``{"events": <manifest's address>}``, or one address alone (templated)
    :param output: ``s3://…`` folder for results
    """

    template_fields: Sequence[str] = (*EmrSparkOperator.template_fields, "suite", "data")
    template_fields_renderers: ClassVar[dict[str, str]] = {"data": "json"}
    ui_color = "#b5e2c4"

    def __init__(self, *, suite: str, data: str | Mapping[str, str], output: str, **kwargs: Any) -> None:
        kwargs.setdefault("job", "quality_gate")
        super().__init__(output=output, **kwargs)
        self.suite = suite
        self.data = data

    def arguments(self, context: Context) -> Sequence[str] | Mapping[str, Any]:
        data = {"data": self.data} if isinstance(self.data, str) else self.data
        if not data:
            raise ConfigurationError(
                f"Gate {self.task_id} has nothing to check. Set data={{'name': 's3://…'}}."
            )
        return [
            "--suite",
            self._suite_uri(),
            *(word for pair in data.items() for word in ("--data", "=".join(pair))),
        ]

    def result(self, context: Context, step: dict[str, Any]) -> dict[str, Any]:
        address = f"{self.attempt_output()}result.json"
        try:
            verdict = json.loads(self.lake.read(address))
            checks = list(_checks(verdict))
            summary = {
                "passed": bool(verdict["passed"]),
                "suite": verdict["suite"],
                "rows": {name: dataset.get("rows") for name, dataset in verdict["datasets"].items()},
                "checks": len(checks),
                "failed_critical": int(verdict["failed_critical"]),
                "failed_warning": int(verdict["failed_warning"]),
                "data_docs": verdict.get("data_docs"),
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GateFailedError(
                f"{address} is not the result of a gate: {type(error).__name__}: {error}", failed=[]
            ) from error
        self.log.info("%d checks of suite %s:\n%s", len(checks), summary["suite"], table(checks))
        failed = [check for check in checks if not check["success"] and check["severity"] == "critical"]
        if failed or not summary["passed"]:
            raise GateFailedError(_told(failed, summary), failed=[check["id"] for check in failed])
        if summary["failed_warning"]:
            self.log.warning(
                "%d checks of severity warning failed; the gate lets them pass", summary["failed_warning"]
            )
        return {**super().result(context, step), **summary}

    def _suite_uri(self) -> str:
        if self.suite.startswith(("s3://", "s3a://")):
            return self.suite
        path = beside_dag(self, self.suite)
        return self.lake.write_once(self._folder("suites"), path.name, read_local(path))


def table(checks: Sequence[Mapping[str, Any]]) -> str:
    """The checks as lines of text, for a log."""
    rows = [_COLUMNS, *(_cells(check) for check in checks)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cells(check: Mapping[str, Any]) -> tuple[str, ...]:
    unexpected = check.get("unexpected_count")
    values = (
        check["dataset"],
        check.get("type") or check["id"],
        check.get("column") or "",
        check["severity"],
        "ok" if check["success"] else "FAILED",
        "" if unexpected is None else str(unexpected),
        "" if check.get("observed") is None else json.dumps(check["observed"], default=str),
    )
    return tuple(value if len(value) <= _WIDEST_CELL else value[: _WIDEST_CELL - 1] + "…" for value in values)


def _checks(verdict: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, dataset in verdict["datasets"].items():
        for check in dataset["expectations"]:
            yield {**check, "dataset": name}


def _told(failed: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    lines = [
        f"Suite {summary['suite']} failed: {summary['failed_critical']} critical expectations do not hold."
    ]
    for check in failed:
        column = f" on {check['column']}" if check.get("column") else ""
        examples = f" Examples: {check['examples'][:5]}" if check.get("examples") else ""
        said = (
            check.get("message")
            or f"unexpected: {check.get('unexpected_count')}, observed: {check.get('observed')}"
        )
        lines.append(f"- {check['dataset']}: {check.get('type') or check['id']}{column}: {said}.{examples}")
    if summary.get("data_docs"):
        lines.append(f"Data docs: {summary['data_docs']}")
    return "\n".join(lines)
