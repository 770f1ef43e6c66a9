"""The gate on a real Spark: verdicts, exceptions, empty data, data docs, and the job as it is called."""

from __future__ import annotations

import dataclasses
import datetime
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.manifest import Column, Manifest, ManifestEntry
from airflow_emr_etl.quality.result import ExpectationResult, GateResult
from airflow_emr_etl.quality.runner import run_suite
from airflow_emr_etl.quality.suite import load_suite
from airflow_emr_etl.spark.jobs import quality_gate

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.spark
pytest.importorskip("great_expectations", reason="the quality extra is not installed")

SAMPLE_SUITE = Path(__file__).resolve().parents[3] / "dags" / "suites" / "clickstream.yaml"
DAY = datetime.date(2026, 1, 5)
MORNING = datetime.datetime(2026, 1, 5, 8, tzinfo=datetime.UTC)

EVENTS = {
    "event_id": "string",
    "ts": "timestamp",
    "method": "string",
    "status": "smallint",
    "bytes": "bigint",
    "visitor_id": "string",
    "session_id": "string",
    "dt": "date",
}
SESSIONS = {
    "session_id": "string",
    "visitor_id": "string",
    "started_at": "timestamp",
    "ended_at": "timestamp",
    "hits": "bigint",
    "page_views": "bigint",
    "dt": "date",
    "restates_from": "timestamp",
    "restates_to": "timestamp",
    "retracted": "boolean",
}
TRAFFIC = {"dt": "date", "hits": "bigint", "sessions": "bigint"}
REDSHIFT = {
    "string": "VARCHAR(64)",
    "timestamp": "TIMESTAMP",
    "smallint": "SMALLINT",
    "bigint": "BIGINT",
    "boolean": "BOOLEAN",
    "date": "DATE",
}


def uri(path: Path) -> str:
    """As Hadoop writes it: the path as it is, where ``Path.as_uri`` would escape the ``=`` of a partition."""
    return f"file://{path}"


def event(number: int, **changes: Any) -> dict[str, Any]:
    good = {
        "event_id": f"e{number}",
        "ts": MORNING + datetime.timedelta(seconds=number),
        "method": "GET",
        "status": 200,
        "bytes": 10,
        "visitor_id": "v",
        "session_id": "s0",
        "dt": DAY,
    }
    return {**good, **changes}


def session_row(number: int, **changes: Any) -> dict[str, Any]:
    good = {
        "session_id": f"s{number}",
        "visitor_id": "v",
        "started_at": MORNING,
        "ended_at": MORNING,
        "hits": 2,
        "page_views": 1,
        "dt": DAY,
        "restates_from": MORNING,
        "restates_to": MORNING,
        "retracted": False,
    }
    return {**good, **changes}


def frame(spark: SparkSession, columns: dict[str, str], rows: list[dict[str, Any]]) -> DataFrame:
    schema = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    return spark.createDataFrame([tuple(row[name] for name in columns) for row in rows], schema=schema)


def check(
    frames: dict[str, DataFrame], *entries: str, docs: Path | None = None
) -> dict[str, ExpectationResult]:
    text = "suite: small\ndatasets:\n  events:\n" + "".join(f"    - {entry}\n" for entry in entries)
    result = run_suite(load_suite(text, "small.yaml"), frames, docs=docs)
    assert result.datasets["events"].rows == frames["events"].count()
    return {entry.id: entry for entry in result.datasets["events"].expectations}


def test_counts_and_examples_of_failures(spark: SparkSession) -> None:
    rows = [event(n, status=[200, 999, None, 499][n % 4]) for n in range(40)]
    found = check(
        {"events": frame(spark, EVENTS, [*rows, event(0)])},
        "expect_column_values_to_be_between: {id: status, column: status, max_value: 499}",
        "expect_column_values_to_be_between: {id: mostly, column: status, max_value: 499, mostly: 0.5}",
        "expect_column_values_to_be_unique: {id: unique, column: event_id}",
        "expect_column_values_to_not_be_null: {id: nulls, column: status}",
        "expect_column_max_to_be_between: {id: max, column: status, max_value: 500}",
        "expect_column_values_to_not_be_null: {id: ts, column: ts}",
    )
    status = found["status"]
    assert (status.success, status.unexpected_count, status.examples) == (False, 10, (999,))
    assert status.unexpected_percent == pytest.approx(100 * 10 / 31, abs=1e-3)
    assert (found["mostly"].success, found["mostly"].unexpected_count) == (True, 10)
    assert (found["unique"].unexpected_count, found["unique"].examples) == (2, ("e0",))
    assert (found["nulls"].unexpected_count, found["nulls"].examples) == (10, ())
    assert (found["max"].success, found["max"].observed) == (False, 999)
    assert found["max"].message == "observed 999, expected max_value=500"
    assert (found["ts"].success, found["ts"].message) == (True, "")


def test_an_exception_fails_its_own_expectation_only(spark: SparkSession) -> None:
    found = check(
        {"events": frame(spark, EVENTS, [event(1), event(2)])},
        "expect_column_values_to_not_be_null: {id: good, column: event_id}",
        "expect_column_values_to_not_be_null: {id: missing, column: nowhere}",
        # Spark cannot compare text such as e1 with a number, and says so in the middle of the shared scan.
        "expect_column_values_to_be_between: {id: text, column: event_id, min_value: 1}",
        "expect_column_values_to_be_in_set: {id: also_good, column: method, value_set: [GET]}",
    )
    assert found["good"].success
    assert found["also_good"].success
    for identity in ("missing", "text"):
        assert not found[identity].success
        assert found[identity].message.startswith("could not be evaluated: ")
    assert "nowhere" in found["missing"].message


def test_empty_data_passes_what_looks_at_rows_and_fails_what_counts_them(spark: SparkSession) -> None:
    found = check(
        {"events": frame(spark, EVENTS, [])},
        "expect_column_values_to_be_unique: {id: unique, column: event_id}",
        "expect_column_values_to_be_between: {id: between, column: bytes, min_value: 0}",
        "expect_table_row_count_to_be_between: {id: rows, min_value: 1}",
        "expect_column_max_to_be_between: {id: max, column: bytes, max_value: 5}",
    )
    assert found["unique"].success
    assert found["between"].success
    assert (found["rows"].success, found["rows"].observed) == (False, 0)
    json.dumps([dataclasses.asdict(entry) for entry in found.values()], allow_nan=False)


def test_a_dataset_without_data_is_refused(spark: SparkSession) -> None:
    with pytest.raises(ConfigurationError, match="no data for dataset events; given: sessions"):
        check({"sessions": frame(spark, SESSIONS, [])}, "expect_column_to_exist: {column: a}")


def test_writes_into_the_docs_folder_alone(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here, temporary, docs = (tmp_path / name for name in ("home", "here", "tmp", "docs"))
    for folder in (home, here, temporary, docs):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    nasty = "<script>alert(1)</script> $HOME ${x} {{ 7 * 7 }}"
    check(
        {"events": frame(spark, EVENTS, [event(n, method=nasty) for n in range(2)])},
        "expect_column_values_to_be_in_set: {column: method, value_set: [GET], note: methods}",
        "expect_column_distinct_values_to_be_in_set: {column: method, value_set: [GET]}",
        "expect_column_most_common_value_to_be_in_set: {column: method, value_set: [GET]}",
        "expect_compound_columns_to_be_unique: {column_list: [method, status]}",
        "expect_column_pair_values_to_be_equal: {column_A: method, column_B: event_id}",
        "expect_column_values_to_be_between: {column: method, min_value: 1}",
        "unexpected_rows_expectation: {unexpected_rows_query: 'SELECT method FROM {batch}'}",
        docs=docs,
    )
    assert [list(folder.iterdir()) for folder in (home, here, temporary)] == [[], [], []]
    index = (docs / "index.html").read_text(encoding="utf-8")
    assert "2 of 2 rows are unexpected" in index
    assert nasty[:25] not in index
    (page,) = docs.glob("validations/events/*/*/events.html")
    assert f'href="{page.relative_to(docs).as_posix()}"' in index
    text = page.read_text(encoding="utf-8")
    assert "values must belong to this set" in text
    assert "100% unexpected" in text
    assert nasty[:25] not in text


class Lake:
    """Datasets with manifests in a folder, as the jobs before the gate leave them."""

    def __init__(self, spark: SparkSession, root: Path) -> None:
        self.spark = spark
        self.root = root
        self.output = uri(root / "gate" / "attempt=1")

    def add(
        self, name: str, columns: dict[str, str], rows: list[dict[str, Any]], promised: int | None = None
    ) -> str:
        folder = self.root / name / "dt=2026-01-05"
        files: list[Path] = []
        if rows:
            frame(self.spark, columns, rows).coalesce(1).write.parquet(uri(folder))
            files = sorted(folder.glob("*.parquet"))
            # A file that the manifest does not list, such as that of a lost attempt, is not read.
            frame(self.spark, columns, rows).coalesce(1).write.mode("append").parquet(uri(folder))
        count = len(rows) if promised is None else promised
        manifest = Manifest(
            dataset=name,
            partition={"dt": DAY.isoformat()},
            job="test",
            created_at="2026-01-06T00:00:00Z",
            entries=tuple(ManifestEntry(uri(file), file.stat().st_size, count) for file in files),
            columns=tuple(Column(column, REDSHIFT[kind]) for column, kind in columns.items()),
        )
        path = self.root / name / "manifest.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(manifest.to_json(), encoding="utf-8")
        return f"{name}={uri(path)}"

    def run(self, *data: str, suite: Path = SAMPLE_SUITE) -> GateResult:
        self.main(*data, suite=suite)
        folder = self.root / "gate" / "attempt=1"
        assert (folder / "data_docs" / "index.html").is_file()
        return GateResult.from_json((folder / "result.json").read_text(encoding="utf-8"))

    def main(self, *data: str, suite: Path = SAMPLE_SUITE) -> None:
        given = [argument for item in data for argument in ("--data", item)]
        quality_gate.main(["--suite", uri(suite), *given, "--output", f"{self.output}/"])

    @property
    def has_result(self) -> bool:
        return (self.root / "gate" / "attempt=1" / "result.json").exists()


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Lake:
    return Lake(spark, tmp_path)


MESSY = [
    event(0),
    event(1, method=None, bytes=None),
    event(2, status=999),
    event(3, status=499, ts=MORNING - datetime.timedelta(days=1)),
]
BEFORE = MORNING - datetime.timedelta(days=1)
GONE = session_row(2, hits=0, page_views=0, retracted=True)


def test_job_passes_messy_but_sound_data(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    result = lake.run(
        lake.add("events", EVENTS, [*MESSY, event(4, session_id="s1", ts=BEFORE, dt=BEFORE.date())]),
        lake.add("sessions", SESSIONS, [session_row(0, hits=4), session_row(1, hits=1), GONE]),
        lake.add("daily_traffic", TRAFFIC, [{"dt": DAY, "hits": 5, "sessions": 2}]),
    )
    assert result.passed
    assert {name: dataset.rows for name, dataset in result.datasets.items()} == {
        "events": 5,
        "sessions": 3,
        "daily_traffic": 1,
    }
    assert [(entry.id, entry.unexpected_count) for entry in result.failed("warning")] == [
        ("events.status.column_values_to_be_between", 1)
    ]
    (info,) = result.failed("info")
    assert (info.id, info.observed) == ("events.ts.within_the_day", 1)
    assert info.message == "the query returned 1 rows, expected none"
    assert result.data_docs == f"{lake.output}/data_docs/index.html"
    said = capsys.readouterr().out
    assert "suite clickstream: passed" in said
    assert "seconds: Spark session" in said


def test_job_reports_broken_data_and_still_ends_well(lake: Lake) -> None:
    later = MORNING + datetime.timedelta(days=2)
    result = lake.run(
        lake.add(
            "events",
            EVENTS,
            [*MESSY, event(0), event(9, session_id=None, bytes=-1), event(8, dt=None)],
        ),
        lake.add(
            "sessions",
            SESSIONS,
            [
                session_row(0, hits=0),
                session_row(1, started_at=later),
                session_row(1, ended_at=later),
            ],
        ),
        lake.add("daily_traffic", TRAFFIC, [{"dt": DAY, "hits": 1, "sessions": 2}] * 2),
    )
    assert not result.passed
    assert {entry.id for entry in result.failed("critical")} == {
        "events.event_id.column_values_to_be_unique",
        "events.session_id.column_values_to_not_be_null",
        "events.dt.column_values_to_not_be_null",
        "events.session_id.in_sessions",
        "events.bytes.column_values_to_be_between",
        "sessions.session_id.column_values_to_be_unique",
        "sessions.hits.some_unless_retracted",
        "sessions.started_at.in_what_it_restates",
        "sessions.hits+page_views.column_pair_values_a_to_be_greater_than_b",
        "sessions.ended_at+started_at.column_pair_values_a_to_be_greater_than_b",
        "daily_traffic.table_row_count_to_equal",
        "daily_traffic.hits+sessions.column_pair_values_a_to_be_greater_than_b",
    }
    assert "sessions.duration.below_a_day" in {entry.id for entry in result.failed("warning")}
    assert all(entry.message for entry in result.failed())


def test_job_runs_again_over_what_a_killed_run_left(lake: Lake, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("suite: s\ndatasets:\n  events:\n    - expect_column_to_exist: {column: dt}\n")
    data = lake.add("events", EVENTS, [])
    for _ in range(2):
        assert lake.run(data, suite=suite).datasets["events"].rows == 0
    assert not (tmp_path / "gate" / "attempt=1" / "data_docs" / "data_docs").exists()


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (["events=SOUND"], 2, "checks daily_traffic, sessions, but no data was given"),
        (["events=SOUND", "sessions=x", "daily_traffic=x", "other=x"], 2, "no such dataset"),
        (["events"], 2, "give NAME=URI"),
        (["events=SOUND", "events=SOUND"], 2, "names dataset events twice"),
        (["events=GONE", "sessions=GONE", "daily_traffic=GONE"], 1, "There is no file"),
        (["events=SHORT"], 1, "promises 7 rows in 1 files, but they hold 4"),
        (["events=OTHER"], 1, "manifest of dataset sessions, not of events"),
        (["events=LOST"], 1, "cannot be read"),
    ],
)
def test_job_says_why_it_could_not_run(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: list[str], code: int, said: str
) -> None:
    suite = SAMPLE_SUITE
    if data[0].endswith(("SHORT", "OTHER", "LOST")):
        suite = tmp_path / "suite.yaml"
        suite.write_text("suite: s\ndatasets:\n  events:\n    - expect_column_to_exist: {column: dt}\n")
    manifest = ""
    if "SHORT" in data[0]:
        manifest = lake.add("events", EVENTS, MESSY, promised=7).partition("=")[2]
    elif "OTHER" in data[0]:
        manifest = lake.add("sessions", SESSIONS, []).partition("=")[2]
    elif "LOST" in data[0]:
        manifest = lake.add("events", EVENTS, MESSY).partition("=")[2]
        for file in (tmp_path / "events" / "dt=2026-01-05").glob("*.parquet"):
            file.unlink()
    elif "GONE" in data[0]:
        manifest = uri(tmp_path / "gone.json")
    given = [item.partition("=")[0] + (f"={manifest or 'x'}" if "=" in item else "") for item in data]
    with pytest.raises(SystemExit) as raised:
        lake.main(*given, suite=suite)
    assert raised.value.code == code
    output = capsys.readouterr()
    assert said in output.out
    assert said in output.err
    assert not lake.has_result


def test_job_refuses_a_suite_that_great_expectations_does_not_know(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("suite: s\ndatasets:\n  events:\n    - expect_column_to_exits: {column: dt}\n")
    with pytest.raises(SystemExit) as raised:
        lake.main(lake.add("events", EVENTS, []), suite=suite)
    assert raised.value.code == 2
    said = capsys.readouterr().out
    assert f"{uri(suite)}, line 4: dataset events, entry 1" in said
    assert "did you mean expect_column_to_exist" in said
