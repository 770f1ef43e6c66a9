"""``make bench-page``: keep the last figures in ``docs/bench/`` and draw ``docs/benchmarks.md`` from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.figures import FOLDER

DOCS = Path("docs")
KEPT = DOCS / "bench"

INTRODUCTION = """\
# Benchmarks

Drawn by `make bench-page` from the figures in `docs/bench/`, which `make bench-local` and `make bench-demo` write. Ours
and the peer take turns in one run on one machine; medians. Seconds drift from machine to machine, ratios hardly do.
"""

MEANING = {
    "step_start_seconds": "From AddJobFlowSteps to the first result of a small Spark script. The peer is bare "
    "`spark-submit` of the same script with the same Java. Ours is quicker since local AWS starts Java from an "
    "archive of loaded classes, with the compiler and collector that suit a short life.",
    "idle_memory_mib": "All processes of local AWS, Postgres included, with a cluster up and no step running: "
    "proportional set size, which counts shared pages once. Resident sizes added up are in the JSON.",
    "demo_seconds": "A whole first `make demo` with the packages installed: three days of 200,000 lines, two days at "
    "a time. The peer is its floor: the nine Spark programs started bare with nothing to do, two at a time.",
    "demo_again_seconds": "The same once more: nothing is generated or uploaded, everything is computed again.",
}


def main() -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.json"):
        shutil.copy(path, KEPT / path.name)
    rows, details = [], []
    for path in sorted(KEPT.glob("*.json"), reverse=True):
        document = json.loads(path.read_text())
        machine = document["machine"]
        for figure in document["figures"]:
            rows.append(_row(figure))
            details += _details(figure)
        details.append(
            f"`{path.name}`: {document['measured_at'][:10]}, {machine['cores']} cores, Python {machine['python']}.\n"
        )
    table = "| figure | ours | peer | ratio |\n|---|--:|--:|--:|\n" + "".join(rows)
    (DOCS / "benchmarks.md").write_text("\n".join([INTRODUCTION, table, *details]))


def _row(figure: dict[str, Any]) -> str:
    peer = "" if figure["peer"] is None else f"{figure['peer']:.1f} {figure['unit']} ({figure['peer_name']})"
    ratio = "" if figure["ratio"] is None else f"{figure['ratio']:.2f}"
    return f"| `{figure['figure']}` | {figure['ours']:.1f} {figure['unit']} | {peer} | {ratio} |\n"


def _details(figure: dict[str, Any]) -> list[str]:
    told = [f"**`{figure['figure']}`.** {MEANING[figure['figure']]}\n"]
    for detail in figure.get("details", [])[:1]:
        phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in detail["phases"].items())
        tasks = sorted(detail["task_seconds_of_all_days"].items(), key=lambda item: -item[1])
        told.append(f"Seconds by phase: {phases}. By task, the three days added up: ")
        told.append(", ".join(f"{name} {seconds:.1f}" for name, seconds in tasks) + ".\n")
    return told


if __name__ == "__main__":
    main()
