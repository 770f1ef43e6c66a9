"""What a run of the pipeline left behind, read back from S3 and the warehouse."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from airflow_emr_etl.cli.demo.runs import RunProgress, Runs
from airflow_emr_etl.exceptions import StatementFailedError

TABLES = ("analytics.events", "analytics.sessions", "analytics.daily_traffic", "etl.quarantine_counts")


@dataclass
class Check:
    """One expectation of the quality suite on one day."""

    dataset: str
    expectation: str
    column: str
    severity: str
    success: bool
    observed: str


@dataclass
class DayOutcome:
    """One day: the accounting of its lines, its checks, and its rows in the warehouse."""

    day: str
    state: str
    seconds: float
    lines_in: int = 0
    valid: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    delivered_twice: int = 0
    outside_day: int = 0
    bots: int = 0
    page_views: int = 0
    sessions: int = 0
    checks: list[Check] = field(default_factory=list)
    data_docs: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, float] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """All days of a demo. ``phases`` are wall-clock seconds; ``places`` say where to look further."""

    source: str
    days: list[DayOutcome]
    table_totals: dict[str, int]
    phases: dict[str, float] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    error: str | None = None

    @property
    def succeeded(self) -> bool:
        return self.error is None and all(day.state == "success" for day in self.days)

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "succeeded": self.succeeded}, indent=2)


def collect(runs: Runs, source: str, s3: Any, redshift: Any, *, workgroup: str, database: str) -> Outcome:
    """Read the manifests, the gate's results and the warehouse for every day of ``runs``."""
    query = Query(redshift, workgroup, database)
    days = [_day(run, s3) for run in runs.days.values()]
    totals: dict[str, int] = {}
    existing = {
        f"{schema}.{table}"
        for schema, table in query.rows("SELECT table_schema, table_name FROM information_schema.tables")
    }
    for table in TABLES:
        if table not in existing:
            continue
        counts = {str(dt): int(n) for dt, n in query.rows(f"SELECT dt, COUNT(*) FROM {table} GROUP BY dt")}  # noqa: S608
        totals[table] = sum(counts.values())
        for day in days:
            day.rows[table] = counts.get(day.day, 0)
    return Outcome(source, days, totals, error=runs.error)


class Query:
    """Reads through the Redshift Data API, waiting for each statement."""

    def __init__(self, client: Any, workgroup: str, database: str, budget_seconds: float = 60) -> None:
        self._client, self._budget = client, budget_seconds
        self._target = {"WorkgroupName": workgroup, "Database": database}

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        statement = self._client.execute_statement(Sql=sql, **self._target)["Id"]
        deadline = time.monotonic() + self._budget
        while True:
            described = self._client.describe_statement(Id=statement)
            if described["Status"] == "FINISHED":
                break
            if described["Status"] in ("FAILED", "ABORTED") or time.monotonic() > deadline:
                raise StatementFailedError(described.get("Error") or f"{sql}: no answer in {self._budget} s")
            time.sleep(0.02)
        pages = self._client.get_paginator("get_statement_result").paginate(Id=statement)
        return [
            tuple(None if "isNull" in cell else next(iter(cell.values())) for cell in record)
            for page in pages
            for record in page["Records"]
        ]


def _day(run: RunProgress, s3: Any) -> DayOutcome:
    outcome = DayOutcome(
        run.day,
        run.state,
        run.seconds,
        tasks={name: task.seconds for name, task in run.tasks.items()},
        states={name: task.state for name, task in run.tasks.items()},
        failures=run.failures,
    )
    # The last job that ended knows most: sessionize's accounting holds normalize's and the sessions.
    for task in ("normalize", "sessionize"):
        value = run.values.get(task)
        if isinstance(value, dict) and value.get("output"):
            manifest = _read_json(s3, f"{value['output'].rstrip('/')}/events/manifest.json")
            _account(outcome, manifest["airflow_emr_etl"]["accounting"])
    gate = run.values.get("check")
    if isinstance(gate, dict) and gate.get("output"):
        _gate(outcome, _read_json(s3, f"{gate['output'].rstrip('/')}/result.json"))
    return outcome


def _account(outcome: DayOutcome, accounting: dict[str, Any]) -> None:
    for name in ("lines_in", "valid", "quarantined", "delivered_twice", "outside_day", "bots", "page_views"):
        setattr(outcome, name, accounting.get(name, getattr(outcome, name)))
    outcome.sessions = accounting.get("sessions") or 0


def _gate(outcome: DayOutcome, result: dict[str, Any]) -> None:
    outcome.data_docs = result.get("data_docs") or ""
    for dataset, checked in result["datasets"].items():
        for check in checked["expectations"]:
            observed = check.get("observed")
            outcome.checks.append(
                Check(
                    dataset,
                    check["type"].removeprefix("expect_"),
                    str(check.get("column") or ""),
                    check["severity"],
                    bool(check["success"]),
                    "" if observed is None else str(observed),
                )
            )


def _read_json(s3: Any, uri: str) -> dict[str, Any]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    loaded: dict[str, Any] = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    return loaded


def merged_reasons(days: Sequence[DayOutcome]) -> list[str]:
    """Every quarantine reason of any day, the most frequent first."""
    totals: dict[str, int] = {}
    for day in days:
        for reason, lines in day.quarantined.items():
            totals[reason] = totals.get(reason, 0) + lines
    return sorted(totals, key=lambda reason: (-totals[reason], reason))
