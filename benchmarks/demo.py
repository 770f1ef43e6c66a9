"""``make bench-demo``: seconds of ``make demo`` with a warm ``.venv``, by phase, first and second time.

``demo_seconds``: a whole ``emr-etl demo`` in a new state folder, three days of 200,000 lines. The floor that it is
held against is the same nine Spark programs started bare, one after another, with nothing to do: JVM, Python and
Spark session alone, times nine, divided by the days that run side by side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from airflow_emr_etl.local.java import find_java
from benchmarks.figures import Figures

RUNS = 2
STEPS = 9


def demo(state: Path) -> tuple[float, dict[str, object]]:
    began = time.monotonic()
    subprocess.run(
        [Path(sys.executable).parent / "emr-etl", "demo", "--state", state],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.monotonic() - began
    summary = max((state / "demo" / "runs").iterdir()) / "summary.json"
    outcome = json.loads(summary.read_text())
    tasks: dict[str, float] = {}
    for day in outcome["days"]:
        for task, took in day["tasks"].items():
            tasks[task] = round(tasks.get(task, 0.0) + took, 2)
    return seconds, {"phases": outcome["phases"], "task_seconds_of_all_days": tasks}


def empty_session(folder: Path) -> float:
    script = folder / "empty.py"
    script.write_text(
        "from pyspark.sql import SparkSession\n"
        "spark = SparkSession.builder.getOrCreate()\nspark.range(1).count()\nspark.stop()\n"
    )
    environment = {**os.environ, "JAVA_HOME": str(find_java(folder / "java").home)}
    environment |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    began = time.monotonic()
    subprocess.run(
        [Path(sys.executable).parent / "spark-submit", script],
        env=environment,
        check=True,
        capture_output=True,
    )
    return time.monotonic() - began


def main() -> None:
    figures = Figures("demo")
    first, second, details = [], [], []
    with tempfile.TemporaryDirectory(prefix="bench-demo-") as folder:
        root = Path(folder)
        for number in range(RUNS):
            seconds, detail = demo(root / f"state-{number}")
            first.append(seconds)
            details.append(detail)
            seconds, detail = demo(root / f"state-{number}")
            second.append(seconds)
        sessions = [empty_session(root) for _ in range(3)]
    floor = sorted(sessions)[1] * STEPS
    figures.add(
        "demo_seconds", "s", first, [floor], "nine empty spark-submit runs, two at a time", details=details
    )
    figures.add("demo_again_seconds", "s", second)
    figures.write()


if __name__ == "__main__":
    main()
