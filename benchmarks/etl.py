"""``make bench-etl``: sessions and the whole pipeline, beside DuckDB, Polars and the PySpark one writes first.

The contenders take turns, each in a process of its own, which is timed from its start to its end. What they found
is compared before their seconds are kept. Options choose single figures and smaller sizes::

    python -m benchmarks.etl --events 200000 --only sessions_parquet --only skew_10_percent
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import etl_agents, etl_data, etl_process, etl_sessions, etl_stages
from benchmarks.etl_data import Clicks
from benchmarks.etl_process import Failed, Measured
from benchmarks.etl_sessions import FULL, TIMES, Differ, Digest
from benchmarks.etl_spark import DRIVER_MEMORY
from benchmarks.figures import FOLDER, Figures

GROUPS = (
    "sessions_parquet",
    "skew_10_percent",
    "quality_20",
    "curve",
    "pipeline_gz_json",
    "pipeline_gz_clf",
)
CURVE = (1, 2, 5, 10, 20, 50, 100)
"""Million events."""
PEERS = ("duckdb", "polars", "pyspark")
SPARK = ("ours", "pyspark")
SKEW = 0.1


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-etl", allow_abbrev=False)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--only", action="append", choices=GROUPS, help="repeatable; all when not given")
    parser.add_argument("--runs", type=int, default=3, help="of sessions from Parquet")
    parser.add_argument("--pipeline-runs", type=int, default=1, help="of the pipeline, which takes minutes")
    parser.add_argument(
        "--curve",
        type=lambda text: [float(each) for each in text.split(",")],
        default=list(CURVE),
        help="sizes in million events, with commas in between; each runs once",
    )
    parser.add_argument(
        "--add", action="store_true", help="keep the figures of the run before that this one does not measure"
    )
    parser.add_argument("--keep", action="store_true", help="keep what the contenders wrote")
    return parser.parse_args(argv)


@dataclass
class Bench:
    chosen: argparse.Namespace
    work: Path
    environment: dict[str, str]
    figures: Figures = field(default_factory=lambda: Figures("etl"))
    left_out: dict[str, str] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    """What an earlier run wrote: its figures are kept where this one has none of the name."""

    def run(self) -> int:
        groups = self.chosen.only or GROUPS
        for group in GROUPS:
            if group not in groups:
                continue
            try:
                getattr(self, group)()
            except (Failed, Differ) as error:
                self.left_out[group] = str(error)
                said = getattr(error, "said", "")
                print(f"{said}\n{group} is left out: {error}", file=sys.stderr, flush=True)
            # A run that is stopped later has what came before.
            self.write()
        return 1 if self.left_out else 0

    def write(self) -> None:
        left_out_before = {
            group: why
            for group, why in self.before.get("left_out", {}).items()
            if group not in (self.chosen.only or GROUPS)
        }
        self.figures.notes = {
            "events": self.before.get("events", self.chosen.events),
            "runs": {"sessions": self.chosen.runs, "pipeline": self.chosen.pipeline_runs, "curve": 1},
            "driver_memory": DRIVER_MEMORY,
            "versions": {
                name: version(name) for name in ("pyspark", "duckdb", "polars", "ua-parser", "pyarrow")
            },
            "ua_parser_backend": etl_agents.backend(),
            "left_out": left_out_before | self.left_out,
        }
        measured = self.figures.figures
        names = {row["figure"] for row in measured}
        self.figures.figures = [
            *(
                {"measured_at": self.before["measured_at"], **row}
                for row in self.before.get("figures", ())
                if row["figure"] not in names
            ),
            *measured,
        ]
        self.figures.write()
        self.figures.figures = measured

    def sessions_parquet(self) -> None:
        data = etl_data.make(Clicks(self.chosen.events))
        found, stages = self.turns(
            dict.fromkeys(("ours", *PEERS), ("sessions", data)), self.chosen.runs, FULL
        )
        for peer in PEERS:
            self.compare(f"sessions_parquet.{peer}", found["ours"], found[peer], self.name_of(peer))
        for peer in PEERS:
            self.memory(peer, found["ours"], found[peer], self.name_of(peer))
        self.where("sessions_parquet", stages)
        floor = [self.once("pyspark", "floor", data)[0] for _ in range(self.chosen.runs)]
        self.compare("sessions_parquet.floor", found["ours"], floor, "Spark's read, shuffle and sort alone")

    def skew_10_percent(self) -> None:
        data = {
            "skewed": etl_data.make(Clicks(self.chosen.events, skew=SKEW)),
            "uniform": etl_data.make(Clicks(self.chosen.events)),
        }
        _, expected = self.once("duckdb", "sessions", data["skewed"], FULL)
        found: dict[str, list[Measured]] = defaultdict(list)
        for turn in range(self.chosen.runs):
            for name, folder in data.items():
                first = turn == 0 and name == "skewed"
                measured, seen = self.once("ours", "sessions", folder, FULL if first else None)
                found[name].append(measured)
                if first:
                    etl_sessions.check({"duckdb": _there(expected), "ours": _there(seen)})
        self.compare(
            "skew_10_percent.uniform", found["skewed"], found["uniform"], "ours, without the one visitor"
        )
        self.memory("skew_10_percent", found["skewed"], found["uniform"], "ours, without the one visitor")

    def quality_20(self) -> None:
        """Over the sessions that ours writes."""
        data = etl_data.make(Clicks(self.chosen.events))
        sessions = self.work / "quality_sessions"
        self.python("ours", "table", data, sessions)
        measured = self.python(
            "ours", "quality", sessions, self.work / "quality", "--runs", str(self.chosen.runs)
        )
        told = measured.told["quality"]
        self.figures.add(
            "quality_20.one_scan",
            "s",
            told["quality_20"],
            told["one_scan"],
            "one aggregate scan of the same numbers",
            rows=told["rows"],
        )

    def pipeline_gz_json(self) -> None:
        self.pipeline("pipeline_gz_json", "json", "json_events")

    def pipeline_gz_clf(self) -> None:
        self.pipeline("pipeline_gz_clf", "clf", "combined")

    def pipeline(self, figure: str, kind: str, source: str) -> None:
        data = etl_data.make(Clicks(self.chosen.events, kind=kind))
        found, stages = self.turns(
            dict.fromkeys(SPARK, ("pipeline", data, "--source", source)), self.chosen.pipeline_runs, TIMES
        )
        self.compare(f"{figure}.pyspark", found["ours"], found["pyspark"], self.name_of("pyspark"))
        self.memory(f"{figure}.pyspark", found["ours"], found["pyspark"], self.name_of("pyspark"))
        self.where(figure, stages)
        floor = [self.once("pyspark", "read", data)[0]]
        self.compare(f"{figure}.floor", found["ours"], floor, "Spark unpacking the lines, and nothing else")

    def curve(self) -> None:
        for millions in self.chosen.curve:
            clicks = Clicks(round(millions * 1_000_000))
            was_there = clicks.folder.exists()
            data = etl_data.make(clicks)
            try:
                measured, _ = self.once("ours", "sessions", data)
                rows = clicks.summary()["rows"]
                self.figures.add(
                    f"curve.{clicks.events}",
                    "s",
                    [measured.seconds],
                    rows=rows,
                    peak_mib=round(measured.peak_mib),
                    microseconds_an_event=round(measured.seconds / rows * 1e6, 3),
                )
            finally:
                # The large ones are worth more as free space.
                if not was_there:
                    shutil.rmtree(data, ignore_errors=True)

    def turns(
        self, contenders: dict[str, tuple[Any, ...]], runs: int, columns: tuple[str, ...]
    ) -> tuple[dict[str, list[Measured]], dict[str, dict[str, float]]]:
        """Each contender in turn, ``runs`` times; compares what they found the first time. Also where the time of
        the first run went, of those on Spark."""
        found: dict[str, list[Measured]] = defaultdict(list)
        digests: dict[str, Digest] = {}
        stages: dict[str, dict[str, float]] = {}
        for turn in range(runs):
            for name, (command, data, *more) in contenders.items():
                log = self.work / f"log-{name}"
                shutil.rmtree(log, ignore_errors=True)
                log.mkdir()
                if name in SPARK:
                    more = [*more, "--event-log", str(log)]
                first = turn == 0
                measured, seen = self.once(name, command, data, columns if first else None, *more)
                found[name].append(measured)
                if first:
                    digests[name] = _there(seen)
                    if name in SPARK:
                        stages[name] = etl_stages.seconds_of(log) | measured.told
        etl_sessions.check(digests)
        return found, stages

    def once(
        self, name: str, command: str, data: Path, columns: tuple[str, ...] | None = None, *more: str
    ) -> tuple[Measured, Digest | None]:
        """One run; its sessions' digest by ``columns``. What it wrote is gone afterwards."""
        output = self.work / "output"
        measured = self.python(name, command, data, output, *more)
        try:
            # A pipeline writes several tables.
            sessions = output / "sessions" if (output / "sessions").is_dir() else output
            return measured, etl_sessions.digest(sessions, columns) if columns else None
        finally:
            if not self.chosen.keep:
                shutil.rmtree(output, ignore_errors=True)

    def python(self, name: str, command: str, data: Path, output: Path, *more: str) -> Measured:
        shutil.rmtree(output, ignore_errors=True)
        options = ["--input", str(data.resolve()), "--output", str(output), *more]
        measured = etl_process.run([f"benchmarks.etl_{name}", command, *options], self.environment)
        print(f"{name} {command}: {measured.seconds:.1f} s, {measured.peak_mib:,.0f} MiB", flush=True)
        return measured

    def compare(self, figure: str, ours: list[Measured], peer: list[Measured], peer_name: str) -> None:
        laps = {"laps": ours[0].told.get("laps"), "peer_laps": peer[0].told.get("laps")}
        self.figures.add(
            figure,
            "s",
            [each.seconds for each in ours],
            [each.seconds for each in peer],
            peer_name,
            events=self.chosen.events,
            **{name: seconds for name, seconds in laps.items() if seconds},
        )

    def memory(self, figure: str, ours: list[Measured], peer: list[Measured], peer_name: str) -> None:
        self.figures.add(
            f"peak_memory_mib.{figure}",
            "MiB",
            [each.peak_mib for each in ours],
            [each.peak_mib for each in peer],
            peer_name,
        )

    def where(self, figure: str, stages: dict[str, dict[str, float]]) -> None:
        self.figures.add(
            f"start_seconds.{figure}",
            "s",
            [stages["ours"]["start_seconds"]],
            [stages["pyspark"]["start_seconds"]],
            self.name_of("pyspark"),
        )
        for kind in (*etl_stages.KINDS, *etl_stages.PARTS):
            self.figures.add(
                f"task_seconds.{figure}.{kind}",
                "s",
                [stages["ours"][kind]],
                [stages["pyspark"][kind]],
                self.name_of("pyspark"),
            )

    def name_of(self, peer: str) -> str:
        return {
            "duckdb": f"DuckDB {version('duckdb')}",
            "polars": f"Polars {version('polars')}",
            "pyspark": f"plain PySpark {version('pyspark')}",
        }[peer]


def _there(found: Digest | None) -> Digest:
    assert found is not None
    return found


def environment(work: Path) -> dict[str, str]:
    """For the contenders: this Python and this package, a Java, and ``work`` for all that spills."""
    from airflow_emr_etl.local.java import find_java

    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    scratch = work / "spill"
    scratch.mkdir()
    return {
        **os.environ,
        "JAVA_HOME": str(find_java(work / "java").home),
        "PYTHONPATH": path,
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(scratch),
        "POLARS_TEMP_DIR": str(scratch),
    }


def main(argv: Sequence[str] | None = None) -> int:
    chosen = parse_arguments(argv)
    # Contenders are in sessions of their own: who ends this process must end them by it.
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Beside the data: the system's own folder for such things may be in memory.
    work = Path(tempfile.mkdtemp(prefix="etl-", dir=FOLDER)).resolve()
    try:
        before = json.loads((FOLDER / "etl.json").read_text()) if chosen.add else {}
        return Bench(chosen, work, environment(work), before=before).run()
    finally:
        signal.signal(signal.SIGTERM, handler)
        if not chosen.keep:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
