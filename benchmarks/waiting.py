"""``make bench-waiting``: what it costs to wait for many steps, and how late their ends are seen.

A fake EMR on loopback counts calls, and in the throttled runs admits one call in two seconds. The contenders'
triggers run by their own ``run()`` in one event loop in a process of their own, one after the other. The official
ones need aiobotocore, which cannot be installed beside this package's boto3, so they get an environment under
``build``.
``SCENARIOS=n100.c1.healthy`` runs one scenario, ``PEER=0`` leaves the peer out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures

PEER = "apache-airflow-providers-amazon triggers with aiobotocore"
PEER_HOME = Path("build/bench-waiting-peer")
#: Seconds from the start to the first and the last end of a step; the throttled ones have longer to be seen.
FIRST, LAST = 60.0, 180.0
GRACE = {"healthy": 150.0, "throttled": 420.0}
#: Burst and calls a second that an operation's bucket admits.
BUCKETS = {"healthy": (100.0, 100.0), "throttled": (2.0, 0.5)}


@dataclass(frozen=True)
class Scenario:
    steps: int
    clusters: int
    health: str

    @property
    def name(self) -> str:
        return f"n{self.steps}.c{self.clusters}.{self.health}"


SCENARIOS = [
    Scenario(100, 1, "healthy"),
    Scenario(100, 1, "throttled"),
    Scenario(1000, 10, "healthy"),
    Scenario(10_000, 100, "healthy"),
]
#: Ten thousand clients at a MiB each are more than a small machine has.
PEER_MOST_STEPS = 1000


def run(whose: str, python: str, scenario: Scenario) -> dict[str, Any]:
    """One contender in one scenario: what it measured, and what the fake EMR counted."""
    burst, rate = BUCKETS[scenario.health]
    numbers = [scenario.steps, scenario.clusters, FIRST, LAST, burst, rate]
    command = [sys.executable, "-m", "benchmarks.waiting_server", *map(str, numbers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            endpoint = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            seconds = LAST + GRACE[scenario.health]
            script = str(Path(__file__).with_name("waiting_contender.py"))
            arguments = [whose, scenario.steps, scenario.clusters, seconds, endpoint]
            done = subprocess.run(
                [python, script, *map(str, arguments)],
                env=environment(endpoint),
                capture_output=True,
                text=True,
                timeout=seconds + 300,
            )
            results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if not results:
                raise SystemExit(f"{whose} {scenario.name} failed:\n{done.stderr[-3000:]}")
            found: dict[str, Any] = json.loads(results[0].removeprefix("RESULT "))
            with urllib.request.urlopen(f"{endpoint}/stats") as answer:
                counted = json.loads(answer.read())
        finally:
            server.terminate()
    ends = counted.pop("ends")
    resumed = found.pop("resumed")
    delays = sorted(moment - counted["begun"] - ends[step_id] for step_id, moment in resumed.items())
    early = sum(delay < 0 for delay in delays)
    percentiles = {
        f"p{percent}": delays[min(len(delays) - 1, len(delays) * percent // 100)] if delays else None
        for percent in (50, 95, 99)
    }
    failed = found.pop("failed")
    return {
        **found,
        **counted,
        "resumed": len(resumed),
        "failed": len(failed),
        "failure": next(iter(failed.values()), None),
        "early": early,
        "delays": percentiles,
    }


def environment(endpoint: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "AIRFLOW", "PYTHON"))
    }
    return {
        **kept,
        "PYTHONPATH": str(Path.cwd()),
        "AIRFLOW_HOME": tempfile.mkdtemp(prefix="bench-waiting-"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "AIRFLOW_CONN_AWS_DEFAULT": "aws://",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "AKIAWAITING",
        "AWS_SECRET_ACCESS_KEY": "waiting",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def peer_python() -> str | None:
    """The Python of the peer's environment, made on first use; None where it cannot be made."""
    python = PEER_HOME / "bin" / "python"
    uv = str(Path(sys.executable).with_name("uv"))
    try:
        if not (PEER_HOME / ".installed").is_file():
            subprocess.run([uv, "venv", "--quiet", "--clear", "-p", sys.executable, PEER_HOME], check=True)
            wanted = ["apache-airflow", "apache-airflow-providers-amazon[aiobotocore]"]
            subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *wanted], check=True)
            (PEER_HOME / ".installed").touch()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"the peer is left out: {error}", file=sys.stderr)
        return None
    return str(python)


def main() -> None:
    chosen = os.environ.get("SCENARIOS", "").split(",")
    scenarios = [each for each in SCENARIOS if chosen == [""] or each.name in chosen]
    python = peer_python() if os.environ.get("PEER", "1") != "0" else None
    figures = Figures("waiting", notes={"runs": {}})
    for scenario in scenarios:
        ours = run("ours", sys.executable, scenario)
        peer = run("peer", python, scenario) if python and scenario.steps <= PEER_MOST_STEPS else None
        figures.notes["runs"][scenario.name] = {"ours": ours, "peer": peer}
        for figure, unit, read in FIGURES:
            mine, theirs = read(ours), read(peer) if peer else None
            if mine is not None:
                figures.add(
                    f"{figure}.{scenario.name}.poll",
                    unit,
                    [mine],
                    None if theirs is None else [theirs],
                    PEER if theirs is not None else None,
                )
        figures.write()


FIGURES: list[tuple[str, str, Any]] = [
    ("calls_per_minute", "calls/min", lambda found: found["calls_per_minute"]),
    ("peak_calls_per_second", "calls/s", lambda found: found["peak_calls_per_second"]),
    ("connections", "count", lambda found: found["connections"]),
    ("bytes_per_trigger", "bytes", lambda found: found["bytes_per_trigger"]),
    ("cpu_seconds", "s", lambda found: found["cpu_seconds"]),
    ("loop_lag_p99_ms", "ms", lambda found: found["loop_lag_p99_ms"]),
    ("resume_delay_p50_seconds", "s", lambda found: found["delays"]["p50"]),
    ("resume_delay_p95_seconds", "s", lambda found: found["delays"]["p95"]),
    ("resume_delay_p99_seconds", "s", lambda found: found["delays"]["p99"]),
    ("steps_resumed", "count", lambda found: found["resumed"]),
]


if __name__ == "__main__":
    main()
