"""``make bench-page``: keep the last figures in ``docs/bench/`` and draw ``docs/benchmarks.md`` from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.etl_page import section as etl_section
from benchmarks.figures import FOLDER
from benchmarks.waiting_page import section as waiting_section

DOCS = Path("docs")
KEPT = DOCS / "bench"

INTRODUCTION = """\
# Benchmarks

Drawn by `make bench-page` from the figures in `docs/bench/`, which `make bench-local`, `make bench-demo`,
`make bench-exactly-once`, `make bench-etl` and `make bench-waiting` write. Ours and the peer run on one machine in one
run; seconds are medians. Seconds drift from machine to machine, ratios hardly do; the counts of `bench-exactly-once` do
not drift at all, since they come from virtual time. [Clickstream](#clickstream) and [waiting](#waiting) have tables of
their own.
"""

MEANING = {
    "step_start_seconds": "From AddJobFlowSteps to the first result of a small Spark script. The peer is bare "
    "`spark-submit` of the same script with the same Java. Ours is quicker since local AWS starts Java from an "
    "archive of loaded classes, with the compiler and collector that suit a short life.",
    "idle_memory_mib": "All processes of local AWS, Postgres included, with a cluster up and no step running: "
    "proportional set size, which counts shared pages once. Resident sizes added up are in the JSON.",
    "demo_seconds": "A whole first `make demo` with the packages installed: three days of 200,000 lines, two days at "
    "a time. The peer is its floor: the nine Spark programs started bare with nothing to do, two at a time.",
    "matrix_points": "A run (cluster up, three steps of which two in parallel, cluster down) is recorded; each of "
    "its API calls then meets each fault (throttled, 500, 503, time-out, reset connection, access denied, expired "
    "token) and SIGKILL of the worker, before and after it took effect. A contender has as many points as its own "
    "run has calls. The peer is the official provider's operators, unmodified, waiting in the worker, in the same "
    "simulation.",
    "matrix_failures": "Points after which a cluster was left, a step's effect was there twice or not at all, or a "
    "task ended in a state that the fault does not explain.",
    "random_schedules": "Seeded: DAGs of 10 to 50 steps under random faults, killed workers, lists that lag, spot loss "
    "and want of capacity, with ten retries a task.",
    "random_schedule_failures": "Schedules that broke any of the same rules.",
    "orphan_clusters": "Clusters alive when their run was over, over matrix and schedules.",
    "duplicate_steps": "Effects of steps that were there more than once.",
    "wrong_end_states": "Tasks that did not end as they should. One lost cluster fails many of the peer's.",
    "api_calls": "What it cost to be sure, over all runs, most of it polling.",
    "demo_again_seconds": "The same once more: nothing is generated or uploaded, everything is computed again.",
}


def main() -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.json"):
        shutil.copy(path, KEPT / path.name)
    rows, details, etl, waiting = [], [], "", ""
    for path in sorted(KEPT.glob("*.json"), reverse=True):
        document = json.loads(path.read_text())
        if path.stem == "waiting":
            waiting = waiting_section(document, DOCS)
            continue
        if path.stem == "etl":
            etl = etl_section(document, DOCS)
            continue
        machine = document["machine"]
        for figure in document["figures"]:
            rows.append(_row(figure))
            details += _details(figure)
        details.append(
            f"`{path.name}`: {document['measured_at'][:10]}, {machine['cores']} cores, Python {machine['python']}.\n"
        )
    table = "| figure | ours | peer | ratio |\n|---|--:|--:|--:|\n" + "".join(rows)
    (DOCS / "benchmarks.md").write_text(
        "\n".join([INTRODUCTION, table, *details, *filter(None, [etl, waiting])])
    )


def _row(figure: dict[str, Any]) -> str:
    peer = "" if figure["peer"] is None else f"{_number(figure, 'peer')} ({figure['peer_name']})"
    ratio = "" if figure["ratio"] is None else f"{figure['ratio']:.2f}"
    return f"| `{figure['figure']}` | {_number(figure, 'ours')} | {peer} | {ratio} |\n"


def _number(figure: dict[str, Any], whose: str) -> str:
    if figure["unit"] == "count":
        return f"{figure[whose]:,.0f}"
    return f"{figure[whose]:.1f} {figure['unit']}"


def _details(figure: dict[str, Any]) -> list[str]:
    meaning = MEANING.get(figure["figure"].partition(".")[0])
    told = [f"**`{figure['figure']}`.** {meaning}\n"] if meaning else []
    for detail in figure.get("details", [])[:1]:
        phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in detail["phases"].items())
        tasks = sorted(detail["task_seconds_of_all_days"].items(), key=lambda item: -item[1])
        told.append(f"Seconds by phase: {phases}. By task, the three days added up: ")
        told.append(", ".join(f"{name} {seconds:.1f}" for name, seconds in tasks) + ".\n")
    return told


if __name__ == "__main__":
    main()
