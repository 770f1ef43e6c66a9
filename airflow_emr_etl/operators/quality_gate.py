"""A quality check that can stop a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk import BaseOperator

from airflow_emr_etl.exceptions import ConfigurationError, GateFailedError
from airflow_emr_etl.operators.emr_step import EmrSparkOperator, beside_dag, read_local
from airflow_emr_etl.operators.failures import retry_only_what_can_pass
from airflow_emr_etl.operators.gate_lineage import lineage_of, s3_name

if TYPE_CHECKING:
    from airflow.sdk import Context

GO_ON = "Go on"
STOP = "Stop"
ASKED_KEY = "quality_gate_asked"
"""XCom in which a gate that waits for an answer keeps what it found."""

_COUNTS = ("failed_critical", "failed_warning", "quarantined")
_COLUMNS = ("dataset", "check", "column", "severity", "result", "unexpected", "observed", "examples")
_WIDEST_CELL = 48


class GateOperator(BaseOperator):
    """What a gate does with a verdict, wherever the data was checked.

    :param on_failure: what a failed gate does: ``fail`` (the default), or ``ask``: the task waits until somebody
        chooses in Airflow's UI (Required Actions) whether the run goes on. Needs Airflow 3.1; before, it fails.
    :param response_timeout: how long ``ask`` waits; no answer is a no. Default: for ever
    """

    def __init__(
        self,
        *,
        on_failure: Literal["fail", "ask"] = "fail",
        response_timeout: timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if on_failure not in ("fail", "ask"):
            raise ConfigurationError(f"on_failure of {self.task_id} is {on_failure!r}; valid: 'fail', 'ask'.")
        self.on_failure = on_failure
        self.response_timeout = response_timeout
        self._verdict: dict[str, Any] | None = None

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """For the OpenLineage provider, which also calls it for a task that failed: each dataset with its row count
        and assertions; None before there is a verdict."""
        return None if self._verdict is None else lineage_of(self._verdict, self._lineage_names())

    def _lineage_names(self) -> dict[str, tuple[str, str]]:
        """OpenLineage's namespace and name of each dataset."""
        raise NotImplementedError

    def _judged(
        self, context: Context, document: bytes | str, address: str, result: dict[str, Any]
    ) -> dict[str, Any]:
        """``result`` and what the gate found; GateFailedError where that stops the run, or is asked about."""
        try:
            verdict = json.loads(document)
            checks = list(_checks(verdict))
            summary = {
                "passed": bool(verdict["passed"]),
                "suite": verdict["suite"],
                "rows": {name: dataset.get("rows") for name, dataset in verdict["datasets"].items()},
                "checks": len(checks),
                "failed_critical": int(verdict["failed_critical"]),
                "failed_warning": int(verdict["failed_warning"]),
                "data_docs": verdict.get("data_docs"),
                **_put_aside(verdict),
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GateFailedError(
                f"{address} is not the result of a gate: {type(error).__name__}: {error}", failed=[]
            ) from error
        self._verdict = verdict
        self.log.info("%d checks of suite %s:\n%s", len(checks), summary["suite"], table(checks))
        failed = [check for check in checks if not check["success"] and check["severity"] == "critical"]
        self._tell_outlets(context, summary)
        if failed or not summary["passed"]:
            told = _told(failed, summary)
            if self.on_failure == "ask":
                self._ask(context, told, {**result, **summary})
            raise GateFailedError(told, failed=[check["id"] for check in failed])
        if summary["failed_warning"]:
            self.log.warning(
                "%d checks of severity warning failed; the gate lets them pass", summary["failed_warning"]
            )
        return {**result, **summary}

    def _answered(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Go on, or not, as somebody said."""
        with retry_only_what_can_pass():
            ti: Any = context["ti"]
            asked = ti.xcom_pull(task_ids=self.task_id, key=ASKED_KEY, map_indexes=ti.map_index) or {}
            told = asked.get("told", f"The gate {self.task_id} failed.")
            if event.get("chosen_options") != [GO_ON]:
                answer = "nobody answered in time" if "error_type" in event else "the answer was no"
                raise GateFailedError(f"{told}\nWhether to go on was asked, and {answer}.", failed=[])
            self._tell_outlets(context, asked["result"])
            self.log.warning(
                "%s\nThe run goes on: %s said so.", told, event.get("responded_by_user") or "somebody"
            )
            self._verdict = asked.get("verdict")
            return {**asked["result"], "approved": True}

    def _ask(self, context: Context, told: str, result: dict[str, Any]) -> None:
        """Wait for a human; returns only where this Airflow has nobody to ask."""
        try:
            from airflow.providers.standard.operators.hitl import HITLOperator
        except Exception as error:  # the provider raises an error of its own on Airflow 3.0
            self.log.warning("on_failure='ask' needs Airflow 3.1 and its standard provider: %s", error)
            return
        ti: Any = context["ti"]
        ti.xcom_push(key=ASKED_KEY, value={"told": told, "result": result, "verdict": self._verdict})
        request = HITLOperator(
            task_id=f"{self.task_id}_approval",
            subject=f"Quality gate {self.task_id} failed: go on all the same?",
            body=told,
            options=[GO_ON, STOP],
            response_timeout=self.response_timeout,
        )
        # Registers the question for this task, and ends this try by an exception that Airflow waits on; the answer
        # comes to execute_complete.
        request.execute(context)

    def _tell_outlets(self, context: Context, summary: dict[str, Any]) -> None:
        told = {
            name: summary[name] for name in ("passed", "suite", "rows", "checks", *_COUNTS) if name in summary
        }
        for outlet in self.outlets or ():
            context["outlet_events"][outlet].extra["quality"] = told


class EmrQualityGateOperator(GateOperator, EmrSparkOperator):
    """Run a Great Expectations suite on the cluster, and fail the task where a critical expectation failed.

    The step writes ``result.json`` and the data docs to its attempt's own path. Returns the step's result
    with ``passed``, ``suite``, ``rows`` (a dataset), ``checks``, ``failed_critical``, ``failed_warning`` and
    ``data_docs``, and ``quarantined`` and ``clean`` (by dataset: rows that were put aside, and the manifest of the
    others) where the suite has expectations of severity quarantine. A failed gate is not retried: the same data
    fails again. The events of the task's outlets carry the verdict and the counts as extras.

    :param suite: the YAML file of the suite: beside the DAG, or ``s3://…`` (templated)
    :param data: what to check: ``{"events": <manifest's address>}``, or one address alone; the address of a folder
        is that of Parquet files without a manifest (templated)
    :param output: ``s3://…`` folder for results
    :param history: ``s3://…`` folder that holds the results of earlier nights under ``dt=<day>/``, for
        expectations that compare with the past (templated)
    :param on_failure: what a failed gate does: ``fail`` (the default), or ``ask``: the task waits until somebody
        chooses in Airflow's UI (Required Actions) whether the run goes on. Needs Airflow 3.1; before, it fails.
    :param response_timeout: how long ``ask`` waits; no answer is a no. Default: for ever
    """

    template_fields: Sequence[str] = (*EmrSparkOperator.template_fields, "suite", "data", "history")
    template_fields_renderers: ClassVar[dict[str, str]] = {"data": "json"}
    ui_color = "#b5e2c4"

    def __init__(
        self,
        *,
        suite: str,
        data: str | Mapping[str, str],
        output: str,
        history: str | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("job", "quality_gate")
        super().__init__(output=output, **kwargs)
        self.suite = suite
        self.data = data
        self.history = history

    def arguments(self, context: Context) -> Sequence[str] | Mapping[str, Any]:
        data = self._data()
        if not data:
            raise ConfigurationError(
                f"Gate {self.task_id} has nothing to check. Set data={{'name': 's3://…'}}."
            )
        return [
            "--suite",
            self._suite_uri(),
            *(word for pair in data.items() for word in ("--data", "=".join(pair))),
            *(["--history", self.history] if self.history else []),
        ]

    def result(self, context: Context, step: dict[str, Any]) -> dict[str, Any]:
        address = f"{self.attempt_output()}result.json"
        return self._judged(context, self.lake.read(address), address, super().result(context, step))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        if is_answer(event):
            return self._answered(context, event)
        return super().execute_complete(context, event)

    def _lineage_names(self) -> dict[str, tuple[str, str]]:
        return {name: s3_name(address) for name, address in self._data().items()}

    def _data(self) -> Mapping[str, str]:
        return {"data": self.data} if isinstance(self.data, str) else self.data

    def _suite_uri(self) -> str:
        if self.suite.startswith(("s3://", "s3a://")):
            return self.suite
        path = beside_dag(self, self.suite)
        return self.lake.write_once(self._folder("suites"), path.name, read_local(path))


def is_answer(event: Mapping[str, Any]) -> bool:
    """Whether an event is a human's answer, or its absence, and not a trigger's."""
    return "chosen_options" in event or "error_type" in event


def _put_aside(verdict: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: dataset for name, dataset in verdict["datasets"].items() if dataset.get("clean")}
    if not found:
        return {}
    return {
        "quarantined": {name: int(dataset["quarantined"]) for name, dataset in found.items()},
        "clean": {name: dataset["clean"] for name, dataset in found.items()},
    }


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
        ", ".join(json.dumps(one, default=str, ensure_ascii=False) for one in check.get("examples") or ()),
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
