"""What a gate found, as data, as JSON and as text.

The JSON form is the contract between the step on the cluster, which writes ``result.json``, and the operator
that reads it::

    {"passed": bool, "suite": str, "failed_critical": N, "failed_warning": N,
     "data_docs": "s3://.../data_docs/index.html" | null, "seconds": float,
     "datasets": {name: {"rows": N, "quarantined": N, "clean": "s3://.../manifest.json" | null, "expectations": [
        {"id": str, "type": str, "column": str | null,
         "severity": "critical" | "warning" | "info" | "quarantine",
         "success": bool, "observed": any, "unexpected_count": N | null, "unexpected_percent": float | null,
         "examples": [any, ...], "message": str}]}}}

``passed`` is false when a critical expectation failed; warnings and infos are counted and shown, no more. Rows that
broke a ``quarantine`` expectation are in ``quarantined``, once each, and ``clean`` is the manifest of the others.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Dict, List, Mapping, Optional, Tuple

from airflow_emr_etl.exceptions import CorruptInputError
from airflow_emr_etl.quality.suite import CRITICAL, SEVERITIES, WARNING


@dataclasses.dataclass(frozen=True)
class ExpectationResult:
    """What one expectation found."""

    id: str
    type: str
    column: Optional[str]
    severity: str
    success: bool
    observed: Any = None
    """The measured value of an aggregate or table; None for expectations that look at each row."""
    unexpected_count: Optional[int] = None
    unexpected_percent: Optional[float] = None
    """Of the rows that were looked at (those with a value), 0 to 100."""
    examples: Tuple[Any, ...] = ()
    message: str = ""
    """Why it failed, in one line; empty when it did not."""

    @property
    def found(self) -> str:
        """What it found, for people, in one line."""
        if not self.success:
            return self.message
        if self.unexpected_count:
            return f"{self.unexpected_count:,} unexpected ({self.unexpected_percent or 0:.2g} %), allowed"
        if self.unexpected_count == 0:
            return "none unexpected"
        return "" if self.observed is None else str(self.observed)


@dataclasses.dataclass(frozen=True)
class DatasetResult:
    """What all expectations of one dataset found."""

    rows: int
    expectations: Tuple[ExpectationResult, ...]
    quarantined: int = 0
    """How many of the rows were put aside."""
    clean: Optional[str] = None
    """The manifest of the rows that may go on; None where the suite puts no rows of this dataset aside."""


@dataclasses.dataclass(frozen=True)
class GateResult:
    """The verdict over a suite."""

    suite: str
    datasets: Mapping[str, DatasetResult]
    seconds: float
    data_docs: Optional[str] = None

    @property
    def passed(self) -> bool:
        return self.failed_critical == 0

    @property
    def failed_critical(self) -> int:
        return len(self.failed(CRITICAL))

    @property
    def failed_warning(self) -> int:
        return len(self.failed(WARNING))

    def failed(self, *severities: str) -> List[ExpectationResult]:
        """The expectations that failed, of these severities (default: all), in the suite's order."""
        wanted = severities or SEVERITIES
        return [
            entry
            for dataset in self.datasets.values()
            for entry in dataset.expectations
            if not entry.success and entry.severity in wanted
        ]

    def to_json(self) -> str:
        """Strict JSON (no NaN), in the form on top of this module."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False)

    def to_dict(self) -> Dict[str, Any]:
        """The form on top of this module as plain data, fit for an XCom."""
        return {
            "passed": self.passed,
            "suite": self.suite,
            "failed_critical": self.failed_critical,
            "failed_warning": self.failed_warning,
            "data_docs": self.data_docs,
            "seconds": round(self.seconds, 3),
            "datasets": {
                name: {
                    "rows": dataset.rows,
                    "quarantined": dataset.quarantined,
                    "clean": dataset.clean,
                    "expectations": [
                        {**dataclasses.asdict(entry), "examples": list(entry.examples)}
                        for entry in dataset.expectations
                    ],
                }
                for name, dataset in self.datasets.items()
            },
        }

    @classmethod
    def from_json(cls, text: str) -> GateResult:
        """Read back what :meth:`to_json` wrote; unknown keys of a later version are left aside.

        Raises:
            CorruptInputError: the text is not a gate's result, or its verdict contradicts its own entries.
        """
        try:
            document = json.loads(text)
            result = cls(
                suite=document["suite"],
                seconds=float(document["seconds"]),
                data_docs=document.get("data_docs"),
                datasets={
                    name: DatasetResult(
                        rows=int(dataset["rows"]),
                        expectations=tuple(_entry(entry) for entry in dataset["expectations"]),
                        quarantined=int(dataset.get("quarantined", 0)),
                        clean=dataset.get("clean"),
                    )
                    for name, dataset in document["datasets"].items()
                },
            )
            told = bool(document["passed"])
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise CorruptInputError(
                f"this is not the result of a quality gate ({problem!r}): {text[:200]!r}"
            ) from problem
        if told != result.passed:
            raise CorruptInputError(
                f"the result of suite {result.suite} says passed={told}, but lists "
                f"{result.failed_critical} failed critical expectations"
            )
        return result

    def render(self) -> str:
        """A table for people: one line an expectation, failures with their reason, the verdict last."""
        rows = [
            (
                "ok" if entry.success else ("FAILED" if entry.severity == CRITICAL else "failed"),
                entry.severity,
                name,
                entry.column or "-",
                entry.type.replace("expect_", "", 1),
                entry.found,
            )
            for name, dataset in self.datasets.items()
            for entry in dataset.expectations
        ]
        head = ("", "severity", "dataset", "column", "expectation", "found")
        widths = [max(len(row[index]) for row in [head, *rows]) for index in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [head, *rows]
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        counts = ", ".join(f"{name} {dataset.rows:,} rows" for name, dataset in self.datasets.items())
        verdict = "passed" if self.passed else "FAILED"
        lines += [
            "",
            f"suite {self.suite}: {verdict}; {len(rows)} expectations, {self.failed_critical} critical and "
            f"{self.failed_warning} warnings failed; {counts}; {self.seconds:.1f} s",
        ]
        lines += [
            f"{name}: {dataset.quarantined:,} of {dataset.rows:,} rows were put aside; the others: {dataset.clean}"
            for name, dataset in self.datasets.items()
            if dataset.quarantined
        ]
        if self.data_docs:
            lines.append(f"data docs: {self.data_docs}")
        return "\n".join(lines)


def _entry(raw: Mapping[str, Any]) -> ExpectationResult:
    if raw["severity"] not in SEVERITIES:
        raise ValueError(f"severity {raw['severity']!r}")
    return ExpectationResult(
        id=raw["id"],
        type=raw["type"],
        column=raw.get("column"),
        severity=raw["severity"],
        success=bool(raw["success"]),
        observed=raw.get("observed"),
        unexpected_count=raw.get("unexpected_count"),
        unexpected_percent=raw.get("unexpected_percent"),
        examples=tuple(raw.get("examples") or ()),
        message=raw.get("message") or "",
    )
