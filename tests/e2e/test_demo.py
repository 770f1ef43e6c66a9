"""``emr-etl demo`` as a user runs it, with no Java in sight, held against counts taken by SQL from the same file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]


def environment_without_java(folder: Path) -> dict[str, str]:
    """This process's environment with a PATH on which everything but Java is found."""
    tools = folder / "bin"
    tools.mkdir(parents=True, exist_ok=True)
    for directory in reversed(os.environ["PATH"].split(os.pathsep)):
        if not Path(directory).is_dir():
            continue
        for tool in Path(directory).iterdir():
            if tool.name.startswith("java"):
                continue
            (tools / tool.name).unlink(missing_ok=True)
            (tools / tool.name).symlink_to(tool)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAVA_", "JDK_"))}
    return {**kept, "PATH": str(tools)}


def emr_etl(*arguments: str | Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [BIN / "emr-etl", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def summary(state: Path) -> dict[str, Any]:
    newest = max((state / "demo" / "runs").iterdir())
    found: dict[str, Any] = json.loads((newest / "summary.json").read_text())
    assert (newest / "report.html").stat().st_size > 5_000
    return found


def processes_of(state: Path) -> list[str]:
    return [
        " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline"])
        if str(state) in " ".join(process.info["cmdline"] or [])
    ]


@pytest.mark.spark
@pytest.mark.parametrize("again", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_generated_days_without_java(tmp_path: Path, again: bool) -> None:
    """A fresh machine: two small days, and then, maybe, the same again, which changes no row."""
    state, environment = tmp_path / "state", environment_without_java(tmp_path)
    assert shutil.which("java", path=environment["PATH"]) is None

    arguments = ("demo", "--state", state, "--lines", "2000", "--days", "2")
    emr_etl(*arguments, environment=environment)
    first = summary(state)
    assert first["succeeded"]
    for day in first["days"]:
        assert day["lines_in"] == day["valid"] + sum(day["quarantined"].values()) + day["delivered_twice"]
        assert day["rows"]["analytics.events"] == day["valid"]
        # A run also states sessions that began the day before and that its lines are in.
        assert 0 < day["rows"]["analytics.sessions"] <= day["sessions"]
        assert day["rows"]["analytics.daily_traffic"] == 1
        assert day["delivered_twice"] > 0
        assert day["quarantined"]
        assert all(check["success"] for check in day["checks"] if check["severity"] == "critical")
    stated = sum(day["sessions"] for day in first["days"])
    assert 0 < first["table_totals"]["analytics.sessions"] <= stated
    if again:
        emr_etl(*arguments, environment=environment)
        second = summary(state)
        assert second["succeeded"]
        assert second["table_totals"] == first["table_totals"]
    assert processes_of(state) == [], "nothing is left running"


@pytest.mark.slow  # four nights, one after the other; tests/integration/spark/test_real_log.py has their counts
@pytest.mark.spark
def test_the_real_log_gives_the_counts_of_sql_over_the_file(real_log: Path, tmp_path: Path) -> None:
    state, environment = tmp_path / "state", dict(os.environ)

    emr_etl("demo", "--state", state, "--logs", real_log, environment=environment)
    outcome = summary(state)
    emr_etl("local", "start", "--state", state, environment=environment)
    try:

        def sql(query: str) -> list[dict[str, Any]]:
            answer = emr_etl(
                "local", "sql", query, "--format", "json", "--state", state, environment=environment
            )
            rows: list[dict[str, Any]] = json.loads(answer)
            return rows

        ours = sql(
            "SELECT COUNT(*) AS lines, COUNT(DISTINCT host) AS hosts, SUM(bytes) AS bytes,"
            " COUNT(DISTINCT visitor_id) AS visitors FROM analytics.events"
        )[0]
        statuses = sql("SELECT status, COUNT(*) AS n FROM analytics.events GROUP BY status ORDER BY status")
        sessions = sql(
            "SELECT dt, COUNT(*) AS n, SUM(hits) AS hits FROM analytics.sessions GROUP BY dt ORDER BY dt"
        )
        quarantined = sql("SELECT SUM(lines) AS n FROM etl.quarantine_counts")[0]
    finally:
        emr_etl("local", "stop", "--state", state, environment=environment)

    theirs = counts_by_duckdb(real_log)
    assert sum(day["lines_in"] for day in outcome["days"]) == theirs["lines"] == 10_000
    assert int(quarantined["n"]) == theirs["malformed"] == 1
    duplicates = sum(day["delivered_twice"] for day in outcome["days"])
    assert duplicates == 0, "equal lines of one file are separate requests"
    assert int(ours["lines"]) == theirs["lines"] - theirs["malformed"]
    assert int(ours["hosts"]) == theirs["hosts"]
    assert int(ours["bytes"]) == theirs["bytes"]
    assert int(ours["visitors"]) == theirs["visitors"]
    assert [(int(row["status"]), int(row["n"])) for row in statuses] == theirs["statuses"]
    assert [(str(row["dt"]), int(row["n"]), int(row["hits"])) for row in sessions] == theirs["sessions"]


def counts_by_duckdb(log: Path) -> dict[str, Any]:
    """The same numbers, by other means: one regular expression and window functions over the raw file."""
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    db.execute(
        r"""
        CREATE TABLE raw AS
        SELECT line, regexp_extract(line,
            '^(\S+) \S+ \S+ \[([^\]]+)\] "((?:[^"\\]|\\.)*)" (\d{3}) (\S+) "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"$',
            ['host', 'time', 'request', 'status', 'bytes', 'referrer', 'agent']) AS f
        FROM read_csv(?, columns = {'line': 'VARCHAR'}, delim = '\x01', quote = '', escape = '', header = false,
                      null_padding = true)
        """.replace(r"\x01", "\x01"),
        [str(log)],
    )
    db.execute(
        """
        CREATE TABLE hits AS
        SELECT f.host AS host, try_strptime(f.time, '%d/%b/%Y:%H:%M:%S %z') AS ts, TRY_CAST(f.status AS INT) AS status,
               TRY_CAST(f.bytes AS BIGINT) AS bytes, f.host || ' ' || f.agent AS visitor
        FROM raw WHERE f.host <> ''
        """
    )
    sessions = db.execute(
        """
        WITH gaps AS (
            SELECT ts::DATE AS dt, ts - lag(ts) OVER (PARTITION BY ts::DATE, visitor ORDER BY ts) AS gap FROM hits
        )
        SELECT dt::VARCHAR, count(*) FILTER (gap IS NULL OR gap > INTERVAL 30 MINUTES), count(*)
        FROM gaps GROUP BY dt ORDER BY dt
        """
    ).fetchall()

    def one(query: str) -> int:
        row = db.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    return {
        "lines": one("SELECT count(*) FROM raw"),
        "malformed": one("SELECT count(*) FROM raw WHERE f.host = ''"),
        "hosts": one("SELECT count(DISTINCT host) FROM hits"),
        "bytes": one("SELECT sum(bytes) FROM hits"),
        "visitors": one("SELECT count(DISTINCT visitor) FROM hits"),
        "statuses": db.execute(
            "SELECT status, count(*) FROM hits GROUP BY status ORDER BY status"
        ).fetchall(),
        "sessions": sessions,
    }
