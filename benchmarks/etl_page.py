"""The part of ``docs/benchmarks.md`` that is drawn from ``etl.json``: seconds beside the peers', the curve, and where
the time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import etl_chart
from benchmarks.etl_stages import KINDS, PARTS

CHART = "etl.svg"

INTRODUCTION = """\
## Clickstream

One day of made-up clicks, {events:,} events of {visitors:,} visitors by a power law, 1 % of them delivered twice, as
24 hourly files. *Sessions from Parquet*: drop the copies, cut sessions after 30 minutes of inactivity, write the
sessions table. *Pipeline*: gzipped lines to events (robots, user agents, referrers, campaigns), sessions and marts.
Each contender is a process of its own, timed from its start to its end, and they take turns; before its seconds
count, start, end and hits of all its sessions are compared with the others'. Spark runs as `local[{cores}]` with a heap
of {memory} for ours and the plain PySpark alike. Peak memory adds up what the process and all below it have resident,
so pages that they share count for each.
"""

NAMES = {
    "sessions_parquet": "sessions from Parquet",
    "pipeline_gz_json": "pipeline from gzipped JSON lines",
    "pipeline_gz_clf": "pipeline from gzipped Combined Log Format",
    "skew_10_percent": "sessions, one visitor with 10 % of all hits",
    "quality_20": "20 expectations over the sessions",
    "peak_memory_mib": "peak memory",
}

PLAIN = """\
The plain PySpark is what one writes first: schemas given, Spark's own functions throughout, `regexp_extract` for each
field of a log line, `lag` and a running sum for sessions. Its user agents go through `ua-parser` {ua_parser}
({resolver}) and its robots through `crawler-user-agents`, row by row in Python functions; the robots with a cache in
front, because without one the 1,500 patterns take some 0.2 ms a row, which is an hour of a core for 20 million.
DuckDB and Polars drop the copies where they have them side by side, which is quicker than by a hash table of all.
*Floor* is what Spark needs for what cannot be left out: to read the columns, shuffle and sort them, or to unpack the
lines.
"""

PIPELINE = """\
The two pipelines do not do the same work. The plain one drops equal lines and what its expression does not match, and
writes its events once. Ours keeps what it cannot read, with file and line number, and accounts for each line; tells a
line that was delivered twice from one that is twice in a file; finds robots by behaviour too; normalizes pages; and
writes events twice, since a rerun, a late line and an erasure start from what there was before sessions. Each of its
files is read back and counted before a manifest names it. Both write to the local disk, where our tasks write their
files of events themselves; on S3 Spark writes them, which is some 5 µs of a core more for each event and write.
"""

TASKS = """\
Where the time goes, in task seconds (on {cores} cores up to {cores} a second of wall clock), ours / plain PySpark.
`read`, `shuffle` and `write` are stages by what they do first and last and add up to the whole; the others are parts
of these, as Spark measures them. Parsing is part of `read`. Files of events that our tasks write themselves are in no
metric of Spark's: what writes them is `shuffle`.
"""


def section(document: dict[str, Any], docs: Path) -> str:
    """Markdown; draws the chart into ``docs``."""
    values = {figure["figure"]: figure for figure in document["figures"]}
    cores = document["machine"]["cores"]
    events = document["events"]
    parts = [
        INTRODUCTION.format(
            events=events, visitors=events // 10, cores=cores, memory=document["driver_memory"]
        )
    ]
    for group, why in document["left_out"].items():
        parts.append(f"**`{group}` is missing**: {why}\n")
    if etl_chart.draw(document, docs / CHART):
        parts.append(f"![Seconds of each contender, and ours from few events to many]({CHART})\n")
    rows = [_row(figure, events) for name, figure in values.items() if name.partition(".")[0] in NAMES]
    if rows:
        parts.append(
            "| figure | | ours | peer | | ratio | runs |\n|---|---|--:|--:|---|--:|--:|\n" + "".join(rows)
        )
    parts.append(
        PLAIN.format(ua_parser=document["versions"]["ua-parser"], resolver=document["ua_parser_backend"])
    )
    if any(name.startswith("pipeline_") for name in values):
        parts.append(PIPELINE)
    parts += _laps(values)
    parts += _tasks(values, cores)
    parts += _curve(values)
    days = {figure.get("measured_at", document["measured_at"])[:10] for figure in values.values()}
    parts.append(
        f"`etl.json`: {', '.join(sorted(days))}, {cores} cores, Python {document['machine']['python']}.\n"
    )
    return "\n".join(parts)


def _row(figure: dict[str, Any], events: int) -> str:
    name = figure["figure"]
    what = NAMES[name.partition(".")[0]]
    if figure.get("events", events) != events:
        what += f", {figure['events']:,} events"
    digits = 0 if figure["unit"] == "MiB" else 1
    return (
        f"| `{name}` | {what} | {figure['ours']:,.{digits}f} {figure['unit']} | "
        f"{figure['peer']:,.{digits}f} {figure['unit']} | {figure['peer_name']} | {figure['ratio']:.2f} | "
        f"{len(figure['runs'])} |\n"
    )


def _laps(values: dict[str, dict[str, Any]]) -> list[str]:
    told = []
    for name, figure in values.items():
        if "laps" in figure and "peer_laps" in figure:
            both = [
                ", ".join(f"{part} {seconds:.0f}" for part, seconds in figure[whose].items())
                for whose in ("laps", "peer_laps")
            ]
            told.append(f"{NAMES[name.partition('.')[0]]}: ours {both[0]}; {figure['peer_name']} {both[1]}")
    return ["Seconds by part, of the first run. Of the " + ". Of the ".join(told) + ".\n"] if told else []


def _tasks(values: dict[str, dict[str, Any]], cores: int) -> list[str]:
    groups = [group for group in NAMES if f"task_seconds.{group}.read" in values]
    if not groups:
        return []
    columns = (*KINDS, *PARTS)
    head = f"| | {' | '.join(columns)} |\n|---|" + "--:|" * len(columns) + "\n"
    rows = ""
    for group in groups:
        cells = [values[f"task_seconds.{group}.{column}"] for column in columns]
        rows += (
            f"| {NAMES[group]} | " + " | ".join(f"{c['ours']:.0f} / {c['peer']:.0f}" for c in cells) + " |\n"
        )
    return [TASKS.format(cores=cores), head + rows]


def _curve(values: dict[str, dict[str, Any]]) -> list[str]:
    rows = [figure for name, figure in values.items() if name.startswith("curve.")]
    if not rows:
        return []
    head = "| events | seconds | µs an event | peak MiB |\n|--:|--:|--:|--:|\n"
    return [
        "Sessions from Parquet by ours, one run a size, the start of Spark included:\n",
        head
        + "".join(
            f"| {row['rows']:,} | {row['ours']:.1f} | {row['microseconds_an_event']:.2f} | {row['peak_mib']:,} |\n"
            for row in rows
        ),
    ]
