"""Files as they arrive, with stops, crashes and repeats between, say what one batch run over all of them says."""

from __future__ import annotations

import json
from collections import Counter
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.spark.conftest import DAY, collected

from airflow_emr_etl.clickstream.generator import generate_day
from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.spark.enrichment import Enrichment
from airflow_emr_etl.spark.jobs.clickstream_normalize import normalize
from airflow_emr_etl.spark.jobs.clickstream_sessionize import sessionize
from airflow_emr_etl.spark.jobs.clickstream_stream import MicroBatches, parse_arguments, start

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.spark

SESSION = (
    "visitor_id",
    "started_at",
    "ended_at",
    "hits",
    "page_views",
    "entry_path",
    "exit_path",
    "referrer_host",
)
SUMS = ("lines_in", "valid", "delivered_twice", "headers", "repeated")
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


class Crash(Exception):
    """The process dies here."""


class CrashOnce(MicroBatches):
    """Dies after a micro-batch is written whole, before the query can say so in its checkpoint."""

    crashes = 1

    def write(self, frame: DataFrame, batch_id: int) -> None:
        super().write(frame, batch_id)
        if self.crashes:
            self.crashes -= 1
            raise Crash


class CrashHalfWay(MicroBatches):
    """Dies once with the batch entered in the catalog, and without the manifests."""

    crashes = 1

    def write(self, frame: DataFrame, batch_id: int) -> None:
        super().write(frame, batch_id)
        if self.crashes:
            self.crashes -= 1
            for entry in (Path(self.catalog)).glob(f"stream-{batch_id:010d}-*.json"):
                for manifest in (Path(self.output_of(entry.stem))).glob("*/manifest.json"):
                    manifest.unlink()
            raise Crash


class Warehouse:
    """Loads what a stream wrote, batch by batch and by merge, as the SQL does."""

    def __init__(self, spark: SparkSession, output: Path) -> None:
        self.spark = spark
        self.events: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.quarantine: Counter[tuple[str, bytes]] = Counter()
        self.accounting: list[dict[str, Any]] = []
        batches = [json.loads(entry.read_text()) for entry in (output / "catalog").glob("*.json")]
        for entry in sorted(batches, key=lambda entry: entry["restatement"]):
            self._load(output / "batches" / entry["name"])

    def _load(self, folder: Path) -> None:
        staged = self._staged(folder, "sessions")
        for row in staged:
            for key, old in list(self.sessions.items()):
                if old["visitor_id"] == row["visitor_id"] and (
                    row["restates_from"] <= old["started_at"] <= row["restates_to"]
                ):
                    del self.sessions[key]
        self.sessions.update({row["session_id"]: row for row in staged if not row["retracted"]})
        self.events.update({row["event_id"]: row for row in self._staged(folder, "events")})
        for row in self._staged(folder, "quarantine"):
            self.quarantine[row["reason"], bytes(row["line"])] += 1

    def _staged(self, folder: Path, dataset: str) -> list[dict[str, Any]]:
        manifest = Manifest.from_json((folder / dataset / "manifest.json").read_text())
        if dataset == "events":
            assert manifest.accounting is not None
            self.accounting.append(manifest.accounting.to_dict())
        if not manifest.urls:
            return []
        return [row.asDict() for row in collected(self.spark.read.parquet(*manifest.urls))]

    def total(self, name: str) -> int:
        return sum(accounting[name] for accounting in self.accounting)


class Streamed:
    """A folder where files arrive, and a query over it that is started again and again."""

    def __init__(self, spark: SparkSession, folder: Path, day: date | None = DAY) -> None:
        self.spark, self.folder, self.day = spark, folder, day
        self.input, self.output = folder / "raw", folder / "stream"
        self.input.mkdir()

    def arrive(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            path = self.input / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def run(self, sink: type[MicroBatches] = MicroBatches, max_files: int = 1000) -> None:
        """Take what is there, and end."""
        query = start(
            self.spark,
            str(self.input),
            str(self.folder / "checkpoint"),
            sink(self.spark, str(self.output), day=self.day),
            max_files=max_files,
        )
        query.awaitTermination()

    def crash(self, sink: type[MicroBatches]) -> None:
        with pytest.raises(Exception, match="Crash"):
            self.run(sink)

    def check(self) -> Warehouse:
        """The stream's tables are those of one batch run over everything."""
        expected_events, expected_sessions, accounting, quarantine = self._one_run()
        found = Warehouse(self.spark, self.output)
        assert found.sessions.keys() == expected_sessions.keys()
        for key, row in expected_sessions.items():
            assert {name: found.sessions[key][name] for name in SESSION} == {
                name: row[name] for name in SESSION
            }
        assert found.events == expected_events
        assert found.quarantine == quarantine
        assert {name: found.total(name) for name in SUMS} == {name: accounting.get(name, 0) for name in SUMS}
        # A stream does not see files without a byte.
        empty = sum(path.stat().st_size == 0 for path in self.input.rglob("*") if path.is_file())
        assert empty == 1
        assert found.total("files") == accounting["files"] - empty
        assert found.total("empty_files") == accounting["empty_files"] - empty
        quarantined: Counter[str] = Counter()
        for each in found.accounting:
            quarantined.update(each["quarantined"])
        assert dict(quarantined) == accounting["quarantined"]
        return found

    def _one_run(self) -> tuple[Any, Any, dict[str, Any], Counter[tuple[str, bytes]]]:
        output = self.folder / "batch"
        normalize(self.spark, [str(self.input)], DAY, str(output / "normalized"))
        accounting = sessionize(self.spark, str(output / "normalized"), DAY, str(output / "sessions"))

        def rows(folder: str) -> list[dict[str, Any]]:
            return [row.asDict() for row in collected(self.spark.read.parquet(str(output / folder / "dt=*")))]

        quarantine = Counter((row["reason"], bytes(row["line"])) for row in rows("normalized/quarantine"))
        events = {row["event_id"]: row for row in rows("sessions/events")}
        sessions = {row["session_id"]: row for row in rows("sessions/sessions")}
        return events, sessions, accounting.to_dict(), quarantine


@pytest.fixture
def streamed(spark: SparkSession, tmp_path: Path) -> Streamed:
    return Streamed(spark, tmp_path)


def log_line(
    at: datetime, path: str, host: str = "192.0.2.1", method: str = "GET", agent: str = BROWSER
) -> bytes:
    logged = at.strftime("%d/Jan/2026:%H:%M:%S +0000")
    return f'{host} - - [{logged}] "{method} {path} HTTP/1.1" 200 5 "-" "{agent}"\n'.encode()


NOON = datetime.combine(DAY, time(12))
MINUTE = timedelta(minutes=1)


@pytest.mark.slow
def test_a_day_that_arrives_in_parts_is_one_batch(streamed: Streamed) -> None:
    files = dict(generate_day(DAY, lines=1200, seed=11).files)
    names = sorted(files)
    # The file that came again has lines, damaged ones too, of another arrival.
    assert any("resent" in name for name in names)
    streamed.arrive({name: files[name] for name in names[:1]})
    streamed.run()
    streamed.arrive({name: files[name] for name in names[1:2]})
    streamed.crash(CrashOnce)
    written = {path: path.stat().st_mtime_ns for path in streamed.output.rglob("*") if path.is_file()}
    streamed.arrive({name: files[name] for name in names[2:3]})
    # The micro-batch that crashed comes first, and is found to be done; then the file that arrived meanwhile.
    streamed.run()
    assert {path: path.stat().st_mtime_ns for path in written} == written
    streamed.arrive({name: files[name] for name in names[3:]})
    streamed.crash(CrashHalfWay)
    streamed.run()
    found = streamed.check()
    assert len(found.accounting) == 4
    streamed.run()
    assert len(list((streamed.output / "catalog").glob("*.json"))) == 4


@pytest.mark.slow
def test_what_counts_once_and_who_is_a_robot_is_found_across_arrivals(streamed: Streamed) -> None:
    twice = log_line(NOON, "/twice")
    broken = b"no log line at all\n"
    robot = "192.0.2.2"
    heads = [log_line(NOON + step * MINUTE, "/", "192.0.2.3", "HEAD") for step in range(4)]
    # Each arrival is a later file, but not later lines.
    streamed.arrive(
        {
            "a.log": twice * 2 + broken * 2 + heads[0] + heads[1] + heads[2],
            "a2.log": b"".join(
                log_line(NOON + step * MINUTE, f"/page-{step}", robot) for step in (0, 10, 70)
            ),
        }
    )
    streamed.run()
    assert {row["is_bot"] for row in Warehouse(streamed.spark, streamed.output).events.values()} == {
        False,
        True,
    }
    streamed.arrive(
        {
            # Three of the line, of which two are there; a GET, so that the other is no robot any more.
            "b.log": twice * 3 + broken * 3 + log_line(NOON + 90 * MINUTE, "/", "192.0.2.3"),
            # Hours later, in another session, the visitor shows that it is a robot.
            "b2.log": log_line(NOON + 500 * MINUTE, "/robots.txt", robot),
        }
    )
    streamed.run(max_files=1)
    # Between the others in time: two sessions become one.
    streamed.arrive({"c.log": log_line(NOON + 40 * MINUTE, "/between", robot) + twice, "empty.log": b""})
    streamed.run()
    found = streamed.check()
    assert {row["bot_reason"] for row in found.events.values() if row["host"] == robot} == {"robots_txt"}
    assert not any(row["is_bot"] for row in found.events.values() if row["host"] == "192.0.2.3")
    assert sum(row["path"] == "/twice" for row in found.events.values()) == 3
    assert found.total("delivered_twice") == 5


@pytest.mark.slow
def test_files_are_of_the_day_of_their_folder(spark: SparkSession, tmp_path: Path) -> None:
    streamed = Streamed(spark, tmp_path, day=None)
    midnight = datetime.combine(date(2026, 1, 6), time())
    streamed.arrive(
        {
            "dt=2026-01-05/a.log": log_line(midnight - MINUTE, "/before"),
            "dt=2026-01-06/a.log": log_line(midnight + MINUTE, "/after"),
        }
    )
    streamed.run()
    found = Warehouse(spark, streamed.output)
    assert {row["path"]: row["dt"] for row in found.events.values()} == {
        "/before": date(2026, 1, 5),
        "/after": date(2026, 1, 6),
    }
    [session] = found.sessions.values()
    assert (session["hits"], session["dt"]) == (2, date(2026, 1, 5))


def test_what_no_stream_can_do_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--dedupe-window-seconds is 5"):
        MicroBatches(spark, str(tmp_path), rules=Enrichment(repeat_window_seconds=5))
    places = ["--input", "s3://raw/", "--output", "s3://lake/stream", "--checkpoint", "s3://lake/checkpoint"]
    assert parse_arguments([*places, "--trigger", "5 minutes"]).trigger == "5 minutes"
    with pytest.raises(ConfigurationError, match="--trigger 'now' is none"):
        parse_arguments([*places, "--trigger", "now"])
