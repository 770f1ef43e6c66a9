"""The HTML report of a demo: one self-contained file, readable without a network."""

from __future__ import annotations

from pathlib import Path

from airflow_emr_etl.cli.demo.outcome import TABLES, DayOutcome, Outcome, merged_reasons

_TEMPLATES = Path(__file__).parent.parent / "templates"


def write_report(outcome: Outcome, path: Path) -> Path:
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=select_autoescape(default=True), trim_blocks=True
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    page = environment.get_template("report.html.j2").render(
        outcome=outcome,
        days=outcome.days,
        reasons=merged_reasons(outcome.days),
        tables=[name for name in TABLES if name in outcome.table_totals],
        tasks=list(dict.fromkeys(task for day in outcome.days for task in day.tasks)),
        most=max((day.lines_in for day in outcome.days), default=0) or 1,
        checks=_verdicts(outcome.days),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _verdicts(days: list[DayOutcome]) -> list[dict[str, object]]:
    """One row for each expectation, with its outcome on each day (None where it did not run)."""
    rows: dict[tuple[str, str, str, str], dict[str, object]] = {}
    for day in days:
        for check in day.checks:
            key = (check.dataset, check.expectation, check.column, check.severity)
            row = rows.setdefault(key, {"key": key, "days": {}})
            row["days"][day.day] = check  # type: ignore[index]
    return list(rows.values())
