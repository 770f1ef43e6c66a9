"""The part of ``docs/benchmarks.md`` that is drawn from ``waiting.json``: hundreds of figures as one table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import waiting_chart
from benchmarks.waiting import FIRST, GRACE, LAST, LONGEST_GRACE, SCENARIOS, Scenario, runs

CHART = "waiting.svg"

INTRODUCTION = """\
## Waiting

N deferred tasks wait for N steps on C clusters, in Airflow's own triggerer (its supervisor, its runner, their
sockets and log files; only the database is not there) against a fake EMR on loopback. Once all wait, the steps begin to
run; they end evenly between {first:.0f} and {last:.0f} seconds later. The fake has token buckets like AWS's. *Healthy*:
the bursts of a new account, and its overall rate of 5 calls a second for each operation and for all together.
*Throttled*: bursts of 2, and the 0.5 calls a second of an operation in a new account. All triggers come at once, as
after a restart of the triggerer.
"""

COLUMNS: dict[str, tuple[str, float]] = {
    "calls_per_minute": ("EMR calls a minute", 1),
    "resume_delay_p95_seconds": ("delay p95, s", 1),
    "connections": ("connections", 1),
    "bytes_per_trigger": ("KiB a trigger", 1024),
    "loop_lag_p99_ms": ("loop lag p99, ms", 1),
}

MEANING = {
    "calls_per_minute": "From when all wait to the last end; refused calls and retries are calls. Calls to SQS are "
    "`sqs_calls_per_minute`.",
    "peak_calls_per_second": "The busiest second, the start included, when all triggers come at once.",
    "calls_throttled": "Calls that the fake EMR refused.",
    "sqs_calls_per_minute": "Receiving and deleting the events of which each step has two.",
    "resume_delay_*_seconds": "From a step's end to the event's arrival in the triggerer's supervisor, which would "
    "write it to the database. The runner hands events over once a second. A step that had not been noticed when the "
    "run was ended counts with the time until then. The pauses of our polling grow for some three minutes up to the "
    "interval of 30 seconds that the peer keeps throughout: longer steps take fewer calls and are seen later.",
    "connections": "Opened, over the whole run; `connections_open_peak` is how many were open at once.",
    "bytes_per_trigger": "By how much the runner's resident memory has grown when all wait, by their number. One "
    "trigger has run before, so that what is loaded once does not count; what is made once for all that wait (clients, "
    "threads) does, and shows where they are a hundred.",
    "cpu_seconds": "Of the runner's process, from the first trigger to the last resumption.",
    "loop_lag_*_ms": "How late the runner's event loop wakes a task that sleeps for 20 ms, from start to end.",
    "failed, unseen, early, twice": "Waits that ended in an error, that had not ended {grace}, that ended before their "
    "step, and that ended again. All but these are `steps_resumed`.",
    "events_lost": "The queue is deleted 60 seconds after the steps have begun to run; what ends later is found by "
    "polling.",
}


def section(document: dict[str, Any], docs: Path) -> str:
    """Markdown; draws the chart into ``docs``."""
    values = {figure["figure"]: figure for figure in document["figures"]}
    parts = [INTRODUCTION.format(first=FIRST, last=LAST)]
    parts += [
        f"**Measured again**, by the same benchmark and in a run of their own: {', '.join(each['rows'])}, "
        f"{each['why']}. What the first run said is kept in the JSON.\n"
        for each in document.get("again", ())
    ]
    if not document["complete"]:
        reasons = Counter(why.splitlines()[0] for why in document["left_out"].values())
        missing = [f"{number} left out ({why})" for why, number in reasons.items()]
        if document["still_to_come"]:
            missing.append(f"{document['still_to_come']} that had not ended when it was written")
        parts.append(f"**This run was partial.** Of {len(runs())} rows it lacks: {'; '.join(missing)}.\n")
    if waiting_chart.draw(document, docs / CHART):
        parts.append(f"![Calls a minute and delay of resumption against the number of steps]({CHART})\n")
    peer = next((figure["peer_name"] for figure in document["figures"] if figure["peer_name"]), None)
    parts.append(
        "Each cell: ours by polling / ours by events / the peer by polling"
        + (f", which is {peer.removesuffix(', polling')}" if peer else "")
        + ". *Not resumed* are waits that failed or had not ended when the run was. The single figures, `"
        "resume_delay_p95_seconds.n100.c1.healthy.poll` and so on, are in `docs/bench/waiting.json`; – was not "
        "measured.\n"
    )
    heads = [title for title, _ in COLUMNS.values()]
    table = [
        "| steps | clusters | | " + " | ".join([*heads, "not resumed"]) + " |",
        "|--:|--:|---|" + "--:|" * (len(heads) + 1),
        *(row for scenario in SCENARIOS if (row := _row(values, scenario))),
    ]
    parts.append("\n".join(table) + "\n")
    if any(scenario.beyond_emr_limit for scenario in SCENARIOS):
        parts.append("\\* more active steps than EMR allows on so many clusters.\n")
    parts += _lost(values)
    throttled = f"{GRACE['throttled']:.0f} s when throttled, {LONGEST_GRACE:.0f} s then for ten thousand"
    grace = f"{GRACE['healthy']:.0f} s after the last end ({throttled})"
    parts += [f"**`{name}`.** {text.replace('{grace}', grace)}\n" for name, text in MEANING.items()]
    machine = document["machine"]
    parts.append(
        f"`waiting.json`: {document['measured_at'][:10]}, {machine['cores']} cores, Python {machine['python']}; "
        "several runs at a time.\n"
    )
    return "\n".join(parts)


def _row(values: dict[str, dict[str, Any]], scenario: Scenario) -> str | None:
    """None where nothing of it was measured."""

    def found(figure: str) -> list[float | None]:
        poll = values.get(f"{figure}.{scenario.name}.poll", {})
        events = values.get(f"{figure}.{scenario.name}.events", {})
        return [poll.get("ours"), events.get("ours"), poll.get("peer", events.get("peer"))]

    cells = [
        " / ".join(_number(value, unit) for value in found(figure)) for figure, (_, unit) in COLUMNS.items()
    ]
    if all(value is None for value in found("calls_per_minute")):
        return None
    missed = ["–" if value is None else f"{scenario.steps - value:,.0f}" for value in found("steps_resumed")]
    cells.append(" / ".join(missed))
    star = r" \*" if scenario.beyond_emr_limit else ""
    return (
        f"| {scenario.steps:,}{star} | {scenario.clusters} | {scenario.health} | " + " | ".join(cells) + " |"
    )


def _number(value: float | None, unit: float) -> str:
    if value is None:
        return "–"
    value /= unit
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"


def _lost(values: dict[str, dict[str, Any]]) -> list[str]:
    told = []
    for scenario in SCENARIOS:
        name = f"{scenario.name}.events_lost"
        delay = values.get(f"resume_delay_p95_seconds.{name}")
        if delay is not None:
            resumed = values[f"steps_resumed.{name}"]["ours"]
            told.append(
                f"{scenario.steps:,} steps on {scenario.clusters} cluster{'s' * (scenario.clusters > 1)}: "
                f"{values[f'calls_per_minute.{name}']['ours']:.0f} calls a minute, p95 {delay['ours']:.1f} s, "
                f"{resumed:,.0f} resumed"
            )
    return ["When the queue is lost on the way: " + "; ".join(told) + ".\n"] if told else []
