"""``make bench-waiting``: what it costs to wait for many steps, and how late their ends are seen.

N deferred tasks wait for N steps, spread over C clusters, in a real triggerer (``waiting_contender``) against a fake
EMR on loopback (``waiting_server``) with token buckets like AWS's. Once all wait, the steps begin to run, and end
evenly over two minutes. Ours runs by polling and by events; the peer, which knows no events, by polling. The peer
needs aiobotocore, which cannot be installed beside this package's boto3, so it gets an environment under ``build``.

Several runs go on at the same time, as many as two cores can do without one being felt in another; they start one
after the other, since that is when they compute most.

``SCENARIOS=n100.c1.healthy,…`` and ``MODES=poll,events`` choose, ``PEER=0`` leaves the peer out, and
``PEER_TEN_THOUSAND=1`` adds the one run of ten thousand of its triggers, if there is memory for it. The file is written
after each run, says in ``complete`` whether all are in it, and in ``left_out`` what is not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures

PEER_HOME = Path("build/bench-waiting-peer")
PEER_PACKAGES = ["apache-airflow-providers-amazon[aiobotocore]"]
#: Seconds from when all wait to the first and the last end of a step.
FIRST, LAST = 45.0, 165.0
#: And from the last end until nothing more is waited for; to read the list of ten thousand steps takes 200 calls, which
#: at half a call a second is seven minutes.
GRACE = {"healthy": 240.0, "throttled": 480.0}
LONGEST_GRACE = 780.0
QUEUE_LOST_AFTER = 60.0
#: Active steps that EMR lets a cluster have.
MOST_ACTIVE = 256
#: The most triggers that the peer gets unless told otherwise, and the memory that each takes.
PEER_STEPS, PEER_MIB = 1000, 1.5
#: What runs at the same time weighs no more than this together.
CAPACITY = 100
RESULT, BEGUN = "RESULT ", "BEGUN"


@dataclass(frozen=True, order=True)
class Scenario:
    steps: int
    clusters: int
    health: str

    @property
    def name(self) -> str:
        return f"n{self.steps}.c{self.clusters}.{self.health}"

    @property
    def grace(self) -> float:
        return LONGEST_GRACE if self.steps >= 10_000 and self.health == "throttled" else GRACE[self.health]

    @property
    def beyond_emr_limit(self) -> bool:
        return self.steps > MOST_ACTIVE * self.clusters


@dataclass(frozen=True)
class Run:
    scenario: Scenario
    whose: str
    mode: str

    @property
    def name(self) -> str:
        return f"{self.scenario.name}.{self.mode}"

    @property
    def by_default(self) -> bool:
        return self.whose == "ours" or self.scenario.steps <= PEER_STEPS

    @property
    def seconds(self) -> float:
        """From when all wait to the end at the latest."""
        return LAST + self.scenario.grace

    @property
    def weight(self) -> int:
        """Of ``CAPACITY``."""
        return (WEIGHTS if self.whose == "ours" else PEER_WEIGHTS)[self.scenario.steps]


WEIGHTS = {100: 8, 1000: 10, 10_000: 20}
PEER_WEIGHTS = {100: 10, 1000: 20, 10_000: CAPACITY}
SCENARIOS = [
    Scenario(steps, clusters, health)
    for steps in (100, 1000, 10_000)
    for clusters in (1, 10, 100)
    for health in ("healthy", "throttled")
]
LOST = {"n100.c1.healthy", "n1000.c10.healthy"}
PEER_TEN_THOUSAND = "n10000.c100.healthy"


def runs() -> list[Run]:
    """All, the longest first."""
    found = []
    for scenario in SCENARIOS:
        found += [
            Run(scenario, "ours", "poll"),
            Run(scenario, "ours", "events"),
            Run(scenario, "peer", "poll"),
        ]
        if scenario.name in LOST:
            found.append(Run(scenario, "ours", "events_lost"))
    return sorted(
        found, key=lambda run: (run.weight, run.scenario.health == "throttled", run.scenario), reverse=True
    )


def chosen(run: Run) -> bool:
    scenarios = [name for name in os.environ.get("SCENARIOS", "").split(",") if name]
    modes = [name for name in os.environ.get("MODES", "").split(",") if name]
    return (not scenarios or run.scenario.name in scenarios) and (
        not modes or run.whose == "peer" or run.mode.partition("_")[0] in modes
    )


def reason_to_leave_out(run: Run) -> str | None:
    if not chosen(run):
        return "not chosen"
    if run.whose == "ours":
        return None
    if os.environ.get("PEER", "1") == "0":
        return "PEER=0"
    if run.by_default:
        return None
    if run.scenario.name != PEER_TEN_THOUSAND or os.environ.get("PEER_TEN_THOUSAND", "0") == "0":
        return "ten thousand of the peer's triggers take some 12 GiB"
    wanted = run.scenario.steps * PEER_MIB * 1.3
    return None if free_mib() >= wanted else f"{free_mib():.0f} MiB of memory are free, {wanted:.0f} wanted"


def free_mib() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Places:
    """Who runs at the same time: so many that they weigh ``CAPACITY``, and one that starts."""

    def __init__(self) -> None:
        self.free = CAPACITY
        self.changed = threading.Condition()
        self.starting = threading.Lock()

    def run(self, weight: int, work: Callable[[Run], None], run: Run) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.free >= weight)
            self.free -= weight
        try:
            work(run)
        finally:
            with self.changed:
                self.free += weight
                self.changed.notify_all()


def perform(run: Run, python: str, starting: threading.Lock) -> dict[str, Any]:
    """What the contender measured, and what the fake EMR counted.

    Raises ``RuntimeError`` where the contender came to no result.
    """
    settings = {
        "steps": run.scenario.steps,
        "clusters": run.scenario.clusters,
        "first": FIRST,
        "last": LAST,
        "health": run.scenario.health,
        "queue_lost_after": QUEUE_LOST_AFTER if run.mode == "events_lost" else None,
    }
    command = [sys.executable, "-m", "benchmarks.waiting_server", json.dumps(settings)]
    with tempfile.TemporaryDirectory(prefix="bench-waiting-") as home, ExitStack() as start:
        start.enter_context(starting)
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            endpoint = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            found = contend(run, python, endpoint, home, begun=start.close)
            with urllib.request.urlopen(f"{endpoint}/stats") as answer:
                counted = json.loads(answer.read())
        finally:
            server.terminate()
            server.wait()
            server.stdout.close()
    return judged(found, counted)


def contend(run: Run, python: str, endpoint: str, home: str, begun: Callable[[], object]) -> dict[str, Any]:
    """Run the contender; ``begun`` is called when all its triggers wait."""
    script = str(Path(__file__).with_name("waiting_contender.py").resolve())
    settings = {
        "whose": run.whose,
        "steps": run.scenario.steps,
        "clusters": run.scenario.clusters,
        "seconds": run.seconds,
        "endpoint": endpoint,
    }
    with subprocess.Popen(
        [python, script, json.dumps(settings)],
        env=environment(run, endpoint, home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as contender:
        assert contender.stdout is not None
        latest: deque[str] = deque(maxlen=40)
        # A triggerer that hangs ends by its own clock; this is for one that has lost it.
        overdue = threading.Timer(run.seconds + 1500, contender.kill)
        overdue.start()
        try:
            for line in contender.stdout:
                if line.startswith(RESULT):
                    found: dict[str, Any] = json.loads(line.removeprefix(RESULT))
                    return found
                if line.strip() == BEGUN:
                    begun()
                latest.append(line)
        finally:
            overdue.cancel()
            contender.terminate()
    raise RuntimeError(f"{run.whose} {run.name} came to no result:\n{''.join(latest)}")


def judged(found: dict[str, Any], counted: dict[str, Any]) -> dict[str, Any]:
    """With delays in seconds, of which those of steps that nobody has noticed yet are still growing."""
    begun, ends = counted["begun"], counted.pop("ends")
    resumed, failed = found.pop("resumed"), found.pop("failed")
    delays = {step_id: moment - begun - ends[step_id] for step_id, moment in resumed.items()}
    unseen = {
        step_id: found["ended"] - begun - end
        for step_id, end in ends.items()
        if step_id not in resumed and step_id not in failed
    }
    ordered = sorted([*delays.values(), *unseen.values()])
    return {
        **found,
        **counted,
        "steps_resumed": len(resumed),
        "early": sum(delay < 0 for delay in delays.values()),
        "failed": len(failed),
        "failure": next(iter(failed.values()), None),
        "unseen": len(unseen),
        "delays": {
            f"p{percent}": ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else None
            for percent in (50, 95, 99)
        },
    }


def environment(run: Run, endpoint: str, home: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "AIRFLOW", "PYTHON"))
    }
    events = {} if run.mode == "poll" else {"AIRFLOW__EMR_ETL__EVENTS_QUEUE": "emr-etl-events"}
    return {
        **kept,
        **events,
        "PYTHONPATH": str(Path.cwd()) if run.whose == "ours" else "",
        "AIRFLOW_HOME": home,
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
            wanted = [f"apache-airflow=={version('apache-airflow')}", *PEER_PACKAGES]
            subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *wanted], check=True)
            (PEER_HOME / ".installed").touch()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"the peer is left out: {error}", file=sys.stderr)
        return None
    return str(python.absolute())


def peer_name(python: str | None) -> str:
    if python is None:
        return PEER_PACKAGES[0]
    code = "import importlib.metadata as m, sys; print(*(m.version(each) for each in sys.argv[1:]))"
    packages = ["apache-airflow-providers-amazon", "aiobotocore"]
    told = subprocess.run([python, "-c", code, *packages], check=True, capture_output=True, text=True)
    return " with ".join(f"{name} {found}" for name, found in zip(packages, told.stdout.split(), strict=True))


class Report:
    """What has been found so far, written after each run."""

    def __init__(self, peer: str, wanted: list[Run], left_out: dict[str, str]) -> None:
        self.peer, self.wanted, self.left_out = peer, wanted, left_out
        self.found: dict[Run, dict[str, Any]] = {}
        self.lock = threading.Lock()

    def add(self, run: Run, found: dict[str, Any]) -> None:
        with self.lock:
            self.found[run] = found
            print(progress(run, found), f"({len(self.found)} of {len(self.wanted)})", flush=True)
            self.write()

    def without(self, run: Run, why: str) -> None:
        with self.lock:
            self.left_out[f"{run.whose} {run.name}"] = why
            print(f"{run.whose} {run.name}: {why}", file=sys.stderr, flush=True)
            self.write()

    def write(self) -> None:
        figures = Figures("waiting", quiet=True)
        figures.notes = {
            "complete": all(run in self.found for run in runs() if run.by_default),
            "left_out": self.left_out,
            "still_to_come": len(self.wanted)
            - len(self.found)
            - sum(f"{run.whose} {run.name}" in self.left_out for run in self.wanted),
            "runs": {
                f"{run.name}.{run.whose}": found
                for run, found in sorted(
                    self.found.items(), key=lambda item: (item[0].scenario, item[0].mode, item[0].whose)
                )
            },
        }
        for scenario in SCENARIOS:
            for mode in ("poll", "events", "events_lost"):
                self.add_figures(figures, scenario, mode)
        figures.write()

    def add_figures(self, figures: Figures, scenario: Scenario, mode: str) -> None:
        ours = self.found.get(Run(scenario, "ours", mode))
        if ours is None:
            return
        peer = self.found.get(Run(scenario, "peer", "poll"))
        for figure, unit, read in FIGURES:
            mine, theirs = read(ours), read(peer) if peer else None
            if mine is None or (figure == "sqs_calls_per_minute" and mode == "poll"):
                continue
            figures.add(
                f"{figure}.{scenario.name}.{mode}",
                unit,
                [mine],
                None if theirs is None else [theirs],
                None if theirs is None else self.peer + ("" if mode == "poll" else ", polling"),
                **({"beyond_emr_limit": True} if scenario.beyond_emr_limit else {}),
            )


def progress(run: Run, found: dict[str, Any]) -> str:
    p95 = found["delays"]["p95"]
    return (
        f"{run.name} {run.whose}: {found['calls_per_minute']:.0f} calls/min, p95 "
        f"{'-' if p95 is None else format(p95, '.1f')} s, {found['bytes_per_trigger'] / 1024:.0f} KiB/trigger, "
        f"{found['cpu_seconds']:.1f} CPU s, {found['steps_resumed']} resumed, {found['early']} early, "
        f"{found['twice']} twice, {found['failed']} failed, {found['unseen']} unseen"
    )


def main() -> None:
    left_out = {f"{run.whose} {run.name}": why for run in runs() if (why := reason_to_leave_out(run))}
    wanted = [run for run in runs() if f"{run.whose} {run.name}" not in left_out]
    if not wanted:
        raise SystemExit(
            f"Nothing is chosen by SCENARIOS={os.environ.get('SCENARIOS', '')} and MODES="
            f"{os.environ.get('MODES', '')}. Valid are {', '.join(each.name for each in SCENARIOS)}; poll, events."
        )
    python = peer_python() if any(run.whose == "peer" for run in wanted) else None
    report = Report(peer_name(python), wanted, left_out)
    places = Places()

    def work(run: Run) -> None:
        where = sys.executable if run.whose == "ours" else python
        if where is None:
            report.without(run, "its environment could not be made")
            return
        try:
            report.add(run, perform(run, where, places.starting))
        except (OSError, RuntimeError) as error:
            report.without(run, f"failed: {error}")
        except Exception:
            report.without(run, f"failed: {traceback.format_exc()}")

    begun = time.monotonic()
    with ThreadPoolExecutor(len(wanted)) as threads:
        for run in wanted:
            threads.submit(places.run, run.weight, work, run)
    print(f"{len(wanted)} runs in {(time.monotonic() - begun) / 60:.0f} minutes")
    if any(f"{run.whose} {run.name}" in left_out for run in wanted):
        raise SystemExit(1)


FIGURES: list[tuple[str, str, Callable[[dict[str, Any]], float | None]]] = [
    ("calls_per_minute", "calls/min", lambda found: found["calls_per_minute"]),
    ("peak_calls_per_second", "calls/s", lambda found: found["peak_calls_per_second"]),
    ("calls_throttled", "count", lambda found: found["calls_throttled"]),
    ("sqs_calls_per_minute", "calls/min", lambda found: found["sqs_calls_per_minute"]),
    ("connections", "count", lambda found: found["connections"]),
    ("connections_open_peak", "count", lambda found: found["connections_open_peak"]),
    ("bytes_per_trigger", "bytes", lambda found: found["bytes_per_trigger"]),
    ("cpu_seconds", "s", lambda found: found["cpu_seconds"]),
    ("loop_lag_p99_ms", "ms", lambda found: found["loop_lag_p99_ms"]),
    ("loop_lag_max_ms", "ms", lambda found: found["loop_lag_max_ms"]),
    ("resume_delay_p50_seconds", "s", lambda found: found["delays"]["p50"]),
    ("resume_delay_p95_seconds", "s", lambda found: found["delays"]["p95"]),
    ("resume_delay_p99_seconds", "s", lambda found: found["delays"]["p99"]),
    ("steps_resumed", "count", lambda found: found["steps_resumed"]),
    ("early", "count", lambda found: found["early"]),
    ("twice", "count", lambda found: found["twice"]),
    ("failed", "count", lambda found: found["failed"]),
    ("unseen", "count", lambda found: found["unseen"]),
]


if __name__ == "__main__":
    main()
