"""The end of a demo in the terminal: counts, checks, tables, seconds and where to look."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from airflow_emr_etl.cli.demo.outcome import TABLES, DayOutcome, Outcome, merged_reasons
from airflow_emr_etl.cli.demo.runs import Runs

_MAX_DAYS = 7


def print_summary(outcome: Outcome, console: Console) -> None:
    days = outcome.days
    console.print()
    console.print(_lines(days))
    console.print(_checks(days))
    console.print(_tables(outcome))
    console.print(_seconds(days))
    for day in days:
        for task, error in day.failures.items():
            console.print(f"[red]{day.day} {task}:[/] {escape(error)}", highlight=False)
    if outcome.error:
        console.print(f"[red]{escape(outcome.error)}[/]", highlight=False)
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in outcome.phases.items())
    console.print(f"[bold]Took[/]  {phases}", highlight=False)
    for name, place in outcome.places.items():
        console.print(f"[bold]{name}[/]  {escape(place)}", highlight=False, soft_wrap=True)


def draw(outcome: Outcome, runs: Runs, path: Path) -> None:
    """A picture of the end of a demo: the runs, the lines and the tables, without the long list of checks."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=92, file=nowhere, force_terminal=True)
        console.print("[bold]$ make demo[/]\n")
        console.print(runs.table())
        console.print(_lines(outcome.days))
        console.print(_tables(outcome))
        checks = [
            check.success for day in outcome.days for check in day.checks if check.severity == "critical"
        ]
        console.print(f"Quality checks: {sum(checks)} of {len(checks)} critical ones passed")
        phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in outcome.phases.items())
        console.print(f"Took {phases}", highlight=False)
        picture = console.export_svg(title="make demo")
        # rich has the reader's browser fetch a font from elsewhere; any monospaced one will do.
        path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL), encoding="utf-8")


def _numbers(title: str, days: Sequence[DayOutcome]) -> tuple[Table, Sequence[DayOutcome]]:
    """A table with a column for each day (the last of them, when there are many) and a total."""
    shown = days if len(days) <= _MAX_DAYS else days[-_MAX_DAYS:]
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for day in shown:
        table.add_column(day.day, justify="right")
    table.add_column("all" if len(shown) == len(days) else f"all {len(days)} days", justify="right")
    return table, shown


def _add(
    table: Table,
    name: str,
    shown: Sequence[DayOutcome],
    days: Sequence[DayOutcome],
    count: Callable[[DayOutcome], int],
) -> None:
    table.add_row(name, *(f"{count(day):,}" for day in shown), f"{sum(map(count, days)):,}")


def _lines(days: Sequence[DayOutcome]) -> Table:
    table, shown = _numbers("Lines", days)
    _add(table, "lines in", shown, days, lambda day: day.lines_in)
    _add(table, "valid", shown, days, lambda day: day.valid)
    for reason in merged_reasons(days):
        _add(table, f"quarantined: {reason}", shown, days, lambda day, r=reason: day.quarantined.get(r, 0))  # type: ignore[misc]
    _add(table, "delivered twice", shown, days, lambda day: day.delivered_twice)
    table.add_section()
    _add(table, "late or early (kept)", shown, days, lambda day: day.outside_day)
    _add(table, "from bots", shown, days, lambda day: day.bots)
    _add(table, "page views", shown, days, lambda day: day.page_views)
    _add(table, "sessions", shown, days, lambda day: day.sessions)
    return table


def _checks(days: Sequence[DayOutcome]) -> Table:
    table = Table(title="Quality checks", title_justify="left")
    for column in ("dataset", "expectation", "column", "severity"):
        table.add_column(column)
    table.add_column("days passed", justify="right")
    verdicts: dict[tuple[str, str, str, str], list[bool]] = {}
    for day in days:
        for check in day.checks:
            key = (check.dataset, check.expectation, check.column, check.severity)
            verdicts.setdefault(key, []).append(check.success)
    for key, passed in verdicts.items():
        mark = "[green]✓[/]" if all(passed) else "[red]✗[/]" if key[3] == "critical" else "[yellow]![/]"
        table.add_row(*key, f"{sum(passed)} of {len(passed)} {mark}")
    return table


def _tables(outcome: Outcome) -> Table:
    table, shown = _numbers("Rows in Redshift", outcome.days)
    for name in TABLES:
        if name in outcome.table_totals:
            _add(table, name, shown, outcome.days, lambda day, n=name: day.rows.get(n, 0))  # type: ignore[misc]
    return table


def _seconds(days: Sequence[DayOutcome]) -> Table:
    shown = days if len(days) <= _MAX_DAYS else days[-_MAX_DAYS:]
    table = Table(title="Seconds", title_justify="left")
    table.add_column("task")
    for day in shown:
        table.add_column(day.day, justify="right")
    tasks = list(dict.fromkeys(task for day in days for task in day.tasks))
    for task in tasks:
        cells = []
        for day in shown:
            state = day.states.get(task, "")
            mark = "" if state == "success" else f" [red]{state}[/]"
            cells.append(f"{day.tasks.get(task, 0.0):.1f}{mark}")
        table.add_row(task, *cells)
    table.add_section()
    table.add_row("[bold]run[/]", *(f"[bold]{day.seconds:.1f}[/]" for day in shown))
    return table
