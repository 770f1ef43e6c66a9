"""What ``make bench-etl`` does around its contenders, and the sessions of those that need no Spark."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import etl, etl_chart, etl_page, etl_process, etl_sessions, etl_stages
from benchmarks.etl_process import Failed
from benchmarks.etl_sessions import FULL, TIMES, Differ, digest

BEGIN = datetime(2026, 1, 5, 12, tzinfo=UTC)


def events(folder: Path) -> Path:
    """Copies, ties, a pause of exactly half an hour and one of a millisecond more, a session without a page."""
    rows = [
        # visitor, seconds, event, path, page
        ("a", 0, "1", "/first", True),
        ("a", 1800, "2", "/b.css", False),
        ("a", 1800, "3", "/tied", True),
        ("a", 3600.001, "4", "/next", True),
        ("a", 3600.001, "4", "/next", True),
        ("b", 50, "6", "/z.css", False),
        ("b", 40, "5", "/y.css", False),
        ("b", 50, "6", "/z.css", False),
    ]
    visitor, seconds, event, path, page = zip(*rows, strict=True)
    table = pa.table(
        {
            "event_id": event,
            "ts": pa.array([BEGIN + timedelta(seconds=each) for each in seconds], pa.timestamp("us", "UTC")),
            "visitor_id": visitor,
            "path": path,
            "is_page_view": page,
        }
    )
    folder.mkdir()
    # The copies are in another file than what they are copies of.
    pq.write_table(table.slice(0, 4), folder / "a.parquet")
    pq.write_table(table.slice(4), folder / "b.parquet")
    return folder


@pytest.mark.parametrize("contender", ["duckdb", "polars"])
def test_the_peers_find_the_sessions(contender: str, tmp_path: Path) -> None:
    source, target = events(tmp_path / "in"), tmp_path / "out"
    command = [
        f"benchmarks.etl_{contender}",
        "sessions",
        "--input",
        str(source),
        "--output",
        str(target),
        "--cores",
        "1",
    ]
    etl_process.run(command, os.environ)
    rows = duckdb.execute(
        f"SELECT {', '.join(FULL)} FROM read_parquet(?) ORDER BY visitor_id, started_at",
        [f"{target}/*.parquet"],
    ).fetchall()
    found = [
        (visitor, (start - BEGIN).total_seconds(), (end - BEGIN).total_seconds(), *more)
        for visitor, start, end, *more in rows
    ]
    assert found == [
        ("a", 0, 1800, 3, 2, "/first", "/tied"),
        ("a", 3600.001, 3600.001, 1, 1, "/next", "/next"),
        ("b", 40, 50, 2, 0, "/y.css", "/z.css"),
    ]


def sessions(folder: Path, *rows: tuple[str, int, int, int]) -> Path:
    folder.mkdir()
    visitor, start, end, hits = zip(*rows, strict=True)
    pq.write_table(
        pa.table(
            {
                "visitor_id": visitor,
                "started_at": pa.array([each * 1_000_000 for each in start], pa.timestamp("us", "UTC")),
                "ended_at": pa.array([each * 1_000_000 for each in end], pa.timestamp("us")),
                "hits": hits,
            }
        ),
        folder / "part.parquet",
    )
    return folder


def test_the_same_counts_are_not_the_same_sessions(tmp_path: Path) -> None:
    rows = [("a", 0, 10, 3), ("b", 5, 9, 2)]
    one = digest(sessions(tmp_path / "one", *rows), TIMES)
    assert digest(sessions(tmp_path / "two", *reversed(rows)), TIMES) == one
    other = digest(sessions(tmp_path / "other", ("a", 0, 9, 3), ("b", 5, 10, 2)), TIMES)
    assert (other.sessions, other.hits) == (one.sessions, one.hits)
    etl_sessions.check({"ours": one, "peer": one})
    with pytest.raises(Differ, match="peer: Digest"):
        etl_sessions.check({"ours": one, "peer": other})


def test_memory_is_that_of_a_process_and_all_below_it() -> None:
    held = "x = bytearray(200 << 20); x[::4096] = bytes(len(x) // 4096); print('held', flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {held!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    watch = etl_process._Watch(process.pid)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert watch.resident() > 200 << 20
    process.communicate("\n")
    watch.stop()
    assert watch.resident() == 0


def test_a_run_hands_over_all_that_was_told(tmp_path: Path) -> None:
    (tmp_path / "teller.py").write_text(
        "from benchmarks.etl_process import report\nreport({'a': 1})\nprint('noise')\nreport({'b': 2})\n"
    )
    measured = etl_process.run(["teller"], environment(tmp_path))
    assert measured.told == {"a": 1, "b": 2}
    assert measured.seconds > 0


def test_a_run_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "print('first', flush=True)\n"
        "raise SystemExit('no such thing')\n"
    )
    with pytest.raises(Failed) as error:
        etl_process.run(["broken", "sessions", "--input", "folder"], environment(tmp_path))
    assert str(error.value) == "broken sessions ended with 1: no such thing"
    assert error.value.said == "first\nno such thing\n"
    pid = int((tmp_path / "pid").read_text())
    with contextlib.suppress(ProcessLookupError):
        # Readable once the process has ended, whether or not anyone has collected it.
        assert select.select([os.pidfd_open(pid)], [], [], 60)[0]


def environment(folder: Path) -> dict[str, str]:
    root = Path(etl.__file__).parent.parent
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(root)])}


def task(
    stage: int,
    run_ms: int,
    read: int = 0,
    written: int = 0,
    shuffled_ns: int = 0,
    python_ms: int = 0,
    taken: int = 0,
) -> dict[str, Any]:
    return {
        "Event": "SparkListenerTaskEnd",
        "Stage ID": stage,
        "Stage Attempt ID": 0,
        "Task Info": {"Accumulables": [{"Name": "time to execute Python code", "Update": str(python_ms)}]},
        "Task Metrics": {
            "Executor Run Time": run_ms,
            "JVM GC Time": 100,
            "Input Metrics": {"Bytes Read": read},
            "Output Metrics": {"Bytes Written": written},
            "Shuffle Write Metrics": {"Shuffle Write Time": shuffled_ns},
            "Shuffle Read Metrics": {"Fetch Wait Time": 0, "Total Records Read": taken},
        },
    }


def test_a_stage_is_told_by_where_its_rows_come_from_and_go_to() -> None:
    found = etl_stages.seconds_in(
        [
            {"Event": "SparkListenerApplicationStart"},
            task(0, 2000, read=10, shuffled_ns=500_000_000),
            # A split may have nothing in it; its stage reads all the same.
            task(0, 1000),
            task(1, 4000, python_ms=1500, taken=5),
            task(2, 3000, written=10, taken=5),
            # Python opened the files.
            task(3, 500),
        ]
    )
    assert {name: found[name] for name in etl_stages.KINDS} == {"read": 3.5, "shuffle": 4.0, "write": 3.0}
    assert (found["python"], found["shuffle_write"], found["gc"]) == (1.5, 0.5, 0.5)


def document() -> dict[str, Any]:
    def figure(
        name: str, ours: float, peer: float | None = None, peer_name: str = "", **more: Any
    ) -> dict[str, Any]:
        unit = "MiB" if name.startswith("peak") else "s"
        ratio = None if peer is None else round(ours / peer, 3)
        return {
            "figure": name,
            "unit": unit,
            "ours": ours,
            "peer": peer,
            "peer_name": peer_name,
            "ratio": ratio,
            "runs": [ours],
            **more,
        }

    kinds = (*etl_stages.KINDS, *etl_stages.PARTS)
    return {
        "figures": [
            figure("sessions_parquet.duckdb", 30.0, 20.0, "DuckDB 2.0.0"),
            figure("sessions_parquet.floor", 30.0, 15.0, "Spark's read, shuffle and sort alone"),
            figure(
                "pipeline_gz_clf.pyspark",
                100.0,
                300.0,
                "plain PySpark 4.3.0",
                events=5_000_000,
                laps={"normalize": 60.2, "sessionize": 30.0},
                peer_laps={"events": 250.0, "sessions": 40.0},
            ),
            figure("peak_memory_mib.duckdb", 2000.4, 4000.0, "DuckDB 2.0.0"),
            *(figure(f"task_seconds.pipeline_gz_clf.{kind}", 10.4, 20.0) for kind in kinds),
            figure("curve.1000000", 5.0, rows=1_010_000, peak_mib=2048, microseconds_an_event=4.95),
        ],
        "events": 20_000_000,
        "driver_memory": "4g",
        "versions": {"ua-parser": "1.0.2"},
        "ua_parser_backend": "its regex backend, without a cache",
        "left_out": {"quality_20": "no suite"},
        "machine": {"cores": 2, "python": "3.11.7"},
        "measured_at": "2026-01-05T00:00:00+00:00",
    }


def test_the_page_has_each_figure_and_what_is_missing(tmp_path: Path) -> None:
    text = etl_page.section(document(), tmp_path)
    assert (
        "| `sessions_parquet.duckdb` | sessions from Parquet | 30.0 s | 20.0 s | DuckDB 2.0.0 | 1.50 | 1 |"
        in text
    )
    assert (
        "| `peak_memory_mib.duckdb` | peak memory | 2,000 MiB | 4,000 MiB | DuckDB 2.0.0 | 0.50 | 1 |" in text
    )
    assert "| pipeline from gzipped Combined Log Format, 5,000,000 events | 100.0 s |" in text
    assert "The two pipelines do not do the same work." in text
    assert "| pipeline from gzipped Combined Log Format | 10 / 20 |" in text
    assert "| 1,010,000 | 5.0 | 4.95 | 2,048 |" in text
    assert "**`quality_20` is missing**: no suite" in text
    assert "ours normalize 60, sessionize 30; plain PySpark 4.3.0 events 250, sessions 40." in text
    assert "20,000,000 events of 2,000,000 visitors" in text
    assert (tmp_path / etl_page.CHART).read_text().startswith("<svg")


def test_the_chart_has_contenders_without_versions_and_no_floor() -> None:
    rows = [(row["group"], row["who"], row["seconds"]) for row in etl_chart.bars(document())]
    assert rows == [
        ("sessions from Parquet", "ours", 30.0),
        ("sessions from Parquet", "DuckDB", 20.0),
        ("pipeline, gzipped Combined", "ours", 100.0),
        ("pipeline, gzipped Combined", "plain PySpark", 300.0),
    ]
    assert etl_chart.curve(document()) == [{"events": 1_010_000, "seconds": 5.0, "gib": 2.0}]


def test_options_choose() -> None:
    chosen = etl.parse_arguments(["--events", "1000", "--only", "curve", "--curve", "0.1,2"])
    assert (chosen.events, chosen.only, chosen.curve) == (1000, ["curve"], [0.1, 2.0])
    assert etl.parse_arguments([]).events == 20_000_000
    with pytest.raises(SystemExit):
        etl.parse_arguments(["--only", "nothing"])
