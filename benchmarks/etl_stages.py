"""Where a Spark program's time went, from the event log that Spark itself wrote.

Task seconds, summed over the tasks: on two cores they are up to twice the wall clock. A stage belongs to one of

    read     takes its rows from files: scan, unpacking, parsing, and what is done in the same pass
    shuffle  takes its rows from a shuffle and gives them to another
    write    writes files, wherever its rows come from

and ``python``, ``shuffle_write``, ``shuffle_wait``, ``sort`` and ``gc`` are parts of these, which Spark measures on
their own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

KINDS = ("read", "shuffle", "write")
PARTS = ("python", "shuffle_write", "shuffle_wait", "sort", "gc")

#: Spark's names of SQL metrics, in milliseconds. Not "time to run Python workers": it has the time that these wait
#: for their rows, which are made in the same stage.
_METRICS = {"time to execute Python code": "python", "sort time": "sort"}


def seconds_of(folder: Path) -> dict[str, float]:
    """Seconds by kind and part, of all event logs in ``folder``, one plain file each."""
    # Hadoop puts a hidden checksum beside each.
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return seconds_in(json.loads(line) for path in files for line in path.open(encoding="utf-8"))


def seconds_in(events: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Seconds by kind and part, of Spark's listener ``events``."""
    tasks: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    found = dict.fromkeys((*KINDS, *PARTS), 0.0)
    for event in events:
        if event["Event"] == "SparkListenerTaskEnd" and event.get("Task Metrics"):
            tasks[event["Stage ID"], event["Stage Attempt ID"]].append(event["Task Metrics"])
            for update in event["Task Info"].get("Accumulables", ()):
                part = _METRICS.get(update.get("Name"))
                if part:
                    found[part] += max(int(update.get("Update") or 0), 0) / 1000
    for metrics in tasks.values():
        found[_kind(metrics)] += sum(each["Executor Run Time"] for each in metrics) / 1000
        for each in metrics:
            found["gc"] += each["JVM GC Time"] / 1000
            found["shuffle_write"] += each["Shuffle Write Metrics"]["Shuffle Write Time"] / 1e9
            found["shuffle_wait"] += each["Shuffle Read Metrics"]["Fetch Wait Time"] / 1000
    return {name: round(value, 3) for name, value in found.items()}


def _kind(metrics: list[dict[str, Any]]) -> str:
    if any(each["Output Metrics"]["Bytes Written"] for each in metrics):
        return "write"
    # Files that Python opens are in no metric of Spark's; so what takes nothing from a shuffle reads.
    shuffled = any(each["Shuffle Read Metrics"]["Total Records Read"] for each in metrics)
    return (
        "read" if any(each["Input Metrics"]["Bytes Read"] for each in metrics) or not shuffled else "shuffle"
    )
