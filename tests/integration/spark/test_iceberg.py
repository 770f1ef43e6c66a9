"""What sessionize states anew, in Iceberg tables: the rows that the loads into Redshift end with.

Without Iceberg, which this project does not install, plain Spark works the same two SELECTs out. With it
(``make test-iceberg``), the job itself runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.spark.iceberg_spark import INSTALLED, JAVAS, IcebergSpark
from integration.spark.nights import Nights, late_and_twice

from airflow_emr_etl.clickstream.generator import generate
from airflow_emr_etl.exceptions import ConfigurationError, LoadError, ManifestError, RowCountMismatchError
from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.spark.dataset import read_files, spark_type
from airflow_emr_etl.spark.iceberg_catalog import TableName
from airflow_emr_etl.spark.iceberg_merge import Merge
from airflow_emr_etl.spark.iceberg_statements import (
    EVENTS,
    SESSIONS,
    STAGED,
    Kind,
    Reach,
    create_table,
    keys_that_go,
    merge_into,
    rows_that_come,
    set_properties,
    text_literal,
)
from airflow_emr_etl.spark.jobs.clickstream_iceberg import main, merge, parse_arguments
from airflow_emr_etl.spark.jobs.clickstream_sessionize import sessionize

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.spark

FIRST = date(2026, 1, 5)
TABLES = {kind.dataset: TableName.parse(f"lake.analytics.{kind.dataset}") for kind in (EVENTS, SESSIONS)}
Rows = dict[str, dict[str, str | None]]
"""By key; values as texts."""


@dataclass
class Night:
    """What one run of sessionize wrote, and what the warehouse holds after it was loaded."""

    day: date
    output: Path
    events: Rows
    sessions: Rows

    def uri(self, kind: Kind) -> str:
        return str(self.output / kind.dataset / "manifest.json")

    @property
    def step(self) -> dict[str, Any]:
        return {"events": self.uri(EVENTS), "sessions": self.uri(SESSIONS), "day": self.day.isoformat()}

    def held(self, kind: Kind) -> Rows:
        return self.events if kind is EVENTS else self.sessions

    def merge(self, kind: Kind) -> Merge:
        uri = self.uri(kind)
        return Merge(TABLES[kind.dataset], kind, uri, Manifest.from_json(Path(uri).read_text()))


def texts(rows: Mapping[str, Any], kind: Kind) -> Rows:
    def text(value: Any) -> str | None:
        return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    return {
        key: {column.name: text(row[column.name]) for column in kind.columns} for key, row in rows.items()
    }


@pytest.fixture(scope="module")
def history(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> list[Night]:
    """Two days with lines that are late or come twice, a day that is run again without half of its lines, and
    lines that a stream brings in between."""
    nights = Nights(spark, tmp_path_factory.mktemp("nights"))
    found = []

    def note(day: date, output: Path) -> None:
        found.append(Night(day, output, texts(nights.events, EVENTS), texts(nights.sessions, SESSIONS)))

    def night(day: date, files: dict[str, bytes]) -> None:
        nights.write(day, files)
        normalized, _ = nights.normalize(day)
        output, _ = nights.sessionize(day, normalized)
        nights.load(day, output)
        note(day, output)

    delivered = late_and_twice({day.day: day.files for day in generate(FIRST, 2, lines=300, seed=11)})
    for day, files in delivered.items():
        night(day, files)
    second = sorted(delivered)[1]
    night(
        second,
        {
            name: b"".join(content.splitlines(keepends=True)[::2])
            for name, content in delivered[second].items()
        },
    )
    # A batch of a day that has others: its manifest does not say dt, and no events go but by their keys.
    for path in (nights.folder / "raw" / FIRST.isoformat()).iterdir():
        path.unlink()
    line = b'203.0.113.77 - - [05/Jan/2026:12:00:00 +0000] "GET /late HTTP/1.1" 200 7 "-" "Mozilla/5.0"\n'
    nights.write(FIRST, {"access.log": line})
    normalized, _ = nights.normalize(FIRST)
    output = nights.step("sessions")
    sessionize(
        spark, str(normalized), FIRST, str(output), catalog=str(nights.folder / "batches"), name="stream-1"
    )
    nights.load(date(1970, 1, 1), output)
    note(FIRST, output)
    return found


# -- without Iceberg ----------------------------------------------------------------------------------------------


def test_without_its_jars_it_says_what_is_missing_and_reads_nothing(spark: SparkSession) -> None:
    with pytest.raises(ConfigurationError) as raised:
        merge(spark, "s3://nowhere/events", "s3://nowhere/sessions", TABLES["events"], TABLES["sessions"])
    message = str(raised.value)
    assert "there is no org.apache.iceberg.spark.SparkCatalog" in message
    assert "iceberg-defaults with iceberg.enabled=true" in message
    assert "spark.sql.catalog.lake.warehouse=s3://" in message
    assert "Nothing was read or written" in message


@pytest.mark.parametrize(
    "name",
    ["events", "analytics.events", "lake.analytics.ev`ents", "lake..events", "a.b.c.d", "lake.x.e;drop"],
)
def test_names_that_are_none_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"Write catalog\.database\.table"):
        TableName.parse(name)
    with pytest.raises(SystemExit):
        parse_arguments(
            ["--events", "e", "--sessions", "s", "--events-table", name, "--sessions-table", "lake.a.s"]
        )
    assert "Write catalog.database.table" in capsys.readouterr().err


def test_two_datasets_have_two_tables(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--events", "e", "--sessions", "s", "--events-table", "l.a.x", "--sessions-table", "l.a.x"])
    assert "l.a.x cannot be the table of both" in capsys.readouterr().err
    words = "--events e --sessions s --events-table l.a.e --sessions-table l.a.s --day 2026-01-05"
    given = parse_arguments(words.split())
    assert (given.events_table.sql, given.day) == ("`l`.`a`.`e`", FIRST)


def test_days_that_follow_one_another_are_one_span() -> None:
    days = [date(2026, 1, n) for n in (5, 6, 7, 9, 6)]
    reach = Reach.of(days, [FIRST])
    assert reach.days == ((date(2026, 1, 5), date(2026, 1, 7)), (date(2026, 1, 9), date(2026, 1, 9)))
    assert reach.condition("t", "ts") == (
        "((t.`ts` >= TIMESTAMP '2026-01-05T00:00:00Z' AND t.`ts` < TIMESTAMP '2026-01-08T00:00:00Z') OR "
        "(t.`ts` >= TIMESTAMP '2026-01-09T00:00:00Z' AND t.`ts` < TIMESTAMP '2026-01-10T00:00:00Z') OR "
        "t.`dt` IN (DATE '2026-01-05'))"
    )
    scattered = [date.fromordinal(730_000 + 2 * n) for n in range(65)]
    assert Reach.of(scattered).days == ((scattered[0], scattered[-1]),)
    assert Reach().condition("t", "ts") == "false"


@pytest.mark.parametrize("kind", [EVENTS, SESSIONS], ids=lambda kind: kind.dataset)
@pytest.mark.parametrize(
    "reach", [Reach(), Reach.of([FIRST, date(2026, 2, 1)], [FIRST])], ids=["none", "days"]
)
def test_spark_can_read_every_statement(spark: SparkSession, kind: Kind, reach: Reach) -> None:
    parser: Any = spark._jsparkSession.sessionState().sqlParser()
    table = TableName.parse("my-lake.a_1.events")
    for statement in (
        create_table(table, kind),
        merge_into(table, kind, reach),
        merge_into(table, kind, reach, FIRST),
        set_properties(table, {"a.b": "s3://it's/a\\b"}),
    ):
        assert "my-lake" in parser.parsePlan(statement).toString()


def test_texts_are_read_as_they_were_written(spark: SparkSession) -> None:
    text = 's3://b/it\'s \\ "x"/{n}'
    assert spark.sql(f"SELECT {text_literal(text)}").collect()[0][0] == text


def merged(spark: SparkSession, kind: Kind, reach: Reach, replaced: date | None) -> DataFrame:
    """The rows of the view ``target`` after those of the staged view."""
    return spark.sql(
        f"SELECT * FROM target AS t WHERE NOT EXISTS (SELECT 1 FROM "
        f"({keys_that_go(kind, 'target', reach, replaced)}) AS g "
        f"WHERE g._key = t.{kind.key} AND {reach.condition('t', kind.at)}) "
        f"UNION ALL {rows_that_come(kind)}"
    )


def test_rows_of_a_day_go_whatever_their_time(spark: SparkSession) -> None:
    """A line that was late is in no day of the rows that come, and its batch does not bring it any more."""
    from pyspark.sql import functions as F

    wide = read_files(spark, [], EVENTS.columns).schema
    columns = tuple(EVENTS.columns)
    manifest = Manifest("events", {"dt": "2026-01-05"}, "test", "2026-01-06T00:00:00Z", (), columns, None, 1)
    merging = Merge(TABLES["events"], EVENTS, "events", manifest)

    def view(name: str, *rows: str) -> DataFrame:
        given = spark.createDataFrame([row.split() for row in rows], "event_id string, ts string, dt string")
        frame = given.select(
            *(
                (given[f.name] if f.name in given.columns else F.lit(None)).cast(f.dataType).alias(f.name)
                for f in wide
            )
        )
        frame.createOrReplaceTempView(name)
        return frame

    view("target", "late 2026-01-01 2026-01-05", "moved 2026-01-02 2026-01-05", "other 2026-01-05 2026-01-06")
    staged = view(STAGED, "new 2026-01-05 2026-01-05", "moved 2026-01-05 2026-01-05")
    rows = merged(spark, EVENTS, merging.reach(staged), merging.replaced).select("event_id", F.to_date("ts"))
    assert {(row[0], row[1].day) for row in rows.collect()} == {("new", 5), ("moved", 5), ("other", 5)}
    # A batch that is not its day's takes the rows of its keys away, and no others.
    rows = merged(spark, EVENTS, merging.reach(staged), None).select("event_id")
    assert sorted(row[0] for row in rows.collect()) == ["late", "moved", "new", "other"]
    for name in (STAGED, "target"):
        spark.catalog.dropTempView(name)


def test_a_session_that_moved_by_a_time_zone_is_not_there_twice(spark: SparkSession) -> None:
    """Its id is made of its first event, whose id does not change when the time zone of its log is mended."""
    manifest = Manifest(
        "sessions", {"dt": "2026-01-05"}, "test", "2026-01-06T00:00:00Z", (), SESSIONS.staged, None, 1
    )
    merging = Merge(TABLES["sessions"], SESSIONS, "sessions", manifest)

    def view(name: str, columns: tuple[Any, ...], **known: str) -> DataFrame:
        values = (
            f"CAST({known[c.name]} AS {spark_type(c.type)}) AS {c.name}"
            if c.name in known
            else f"CAST(NULL AS {spark_type(c.type)}) AS {c.name}"
            for c in columns
        )
        frame = spark.sql(f"SELECT {', '.join(values)}")
        frame.createOrReplaceTempView(name)
        return frame

    at = {"session_id": "'s'", "visitor_id": "'v'"}
    view("target", SESSIONS.columns, **at, started_at="'2026-01-03T22:30:00'", dt="'2026-01-03'")
    begin = "'2026-01-05T00:30:00'"
    staged = view(
        STAGED,
        SESSIONS.staged,
        **at,
        started_at=begin,
        dt="'2026-01-05'",
        restates_from=begin,
        restates_to=begin,
        retracted="false",
    )
    from pyspark.sql import functions as F

    rows = merged(spark, SESSIONS, merging.reach(staged), None).select("session_id", F.to_date("started_at"))
    assert [(row[0], row[1]) for row in rows.collect()] == [("s", date(2026, 1, 5))]
    for name in (STAGED, "target"):
        spark.catalog.dropTempView(name)


@pytest.mark.parametrize("kind", [EVENTS, SESSIONS], ids=lambda kind: kind.dataset)
@pytest.mark.slow
def test_what_goes_and_what_comes_are_those_of_a_load(
    spark: SparkSession, tmp_path: Path, history: list[Night], kind: Kind
) -> None:
    """The merge's two SELECTs over plain Parquet, night by night, and each night once more."""
    table: DataFrame = spark.createDataFrame([], read_files(spark, [], kind.columns).schema)
    for number, night in enumerate(night for night in history for _ in range(2)):
        merging = night.merge(kind)
        staged = read_files(spark, merging.manifest.urls, kind.staged)
        staged.createOrReplaceTempView(STAGED)
        table.createOrReplaceTempView("target")
        reach = merging.reach(staged)
        merged(spark, kind, reach, merging.replaced).write.parquet(str(tmp_path / str(number)))
        table = spark.read.parquet(str(tmp_path / str(number)))
        rows = table.select(*(table[name].cast("string").alias(name) for name in table.columns)).collect()
        assert len(rows) == len(night.held(kind))
        assert {row[kind.key]: row.asDict() for row in rows} == night.held(kind), number
    for view in (STAGED, "target"):
        spark.catalog.dropTempView(view)


@pytest.mark.slow
def test_the_history_has_what_it_is_for(history: list[Night]) -> None:
    again, streamed = history[-2], history[-1]
    assert len(history) == 5
    assert again.events.keys() - history[-3].events.keys() == set()
    assert len(again.events) < len(history[-3].events)
    assert history[-3].sessions.keys() - again.sessions.keys()
    assert streamed.merge(EVENTS).replaced is None
    assert len(streamed.events) == len(again.events) + 1


@pytest.mark.slow
def test_rows_that_are_not_those_of_the_manifest_are_refused(
    spark: SparkSession, history: list[Night]
) -> None:
    from pyspark.sql import functions as F

    merging = history[0].merge(SESSIONS)
    text = merging.manifest.to_json()
    with pytest.raises(ManifestError, match="is the manifest of sessions, not of events"):
        Merge(TABLES["events"], EVENTS, merging.uri, merging.manifest)
    with pytest.raises(ManifestError, match="differs in clicks, hits"):
        Merge(TABLES["sessions"], SESSIONS, "x", Manifest.from_json(text.replace('"hits"', '"clicks"')))

    rows = read_files(spark, merging.manifest.urls, SESSIONS.staged)
    merging.check_rows(rows)
    with pytest.raises(RowCountMismatchError, match="but its files have"):
        merging.check_rows(rows.limit(1))
    for name, changed, error in (
        ("session_id", F.lit("same"), "session_id is not distinct"),
        (
            "started_at",
            F.expr("started_at - INTERVAL 9 DAYS"),
            "not within their restates_from to restates_to",
        ),
        ("retracted", F.lit(None).cast("boolean"), "rows without visitor_id, span or retracted"),
    ):
        with pytest.raises(LoadError, match=error):
            merging.check_rows(rows.withColumn(name, changed))


# -- with it ------------------------------------------------------------------------------------------------------


@pytest.fixture
def iceberg(tmp_path: Path) -> IcebergSpark:
    from airflow_emr_etl.local.java import find_java

    if not INSTALLED.exists():
        pytest.skip("there is no Spark with Iceberg here; make test-iceberg installs one")
    java = find_java(tmp_path / "java")
    if java.version not in JAVAS:
        pytest.fail(f"Spark 3.5 runs on Java {' and '.join(map(str, JAVAS))}, and this one is {java.version}")
    return IcebergSpark(tmp_path, java.home)


def rows_of(answer: Mapping[str, Any], kind: Kind) -> Rows:
    rows = answer[kind.dataset]["rows"]
    found = {row[kind.key]: row for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.slow
def test_the_tables_follow_night_by_night(iceberg: IcebergSpark, history: list[Night]) -> None:
    last = history[-1]
    steps = [step for night in history for step in ({"merge": night.step}, {"merge": night.step})]
    steps += [
        {"merge": history[0].step},
        {"merge": {**last.step, "events_table": "elsewhere.analytics.events"}},
        {"merge": {**last.step, "events_table": "spark_catalog.default.events"}},
        {"merge": {**last.step, "day": "2026-01-31"}},
        {"merge": {**last.step, "sessions": history[0].uri(SESSIONS)}},
        {"sql": "CREATE TABLE lake.analytics.old (event_id STRING) USING iceberg"},
        {"merge": {**last.step, "events_table": "lake.analytics.old"}},
    ]
    answers = iceberg.run(steps)
    for number, night in enumerate(history):
        first, again = answers[2 * number : 2 * number + 2]
        for kind in (EVENTS, SESSIONS):
            name = kind.dataset
            assert rows_of(first, kind) == night.held(kind), (number, name)
            assert len(first[name]["snapshots"]) == number + 1, "a merge is one snapshot"
            # The same manifest once more: not even a snapshot.
            assert again[name] == first[name]
            assert again["done"][f"lake.analytics.{name}"] is None
            known = first[name]["properties"]
            assert known["airflow-emr-etl.manifest"] == night.uri(kind)
            assert known["airflow-emr-etl.restatement"] == str(night.merge(kind).restatement)
            assert known["airflow-emr-etl.snapshot-id"] == first[name]["snapshots"][-1]

    held = {name: answers[2 * len(history) - 1][name] for name in TABLES}
    refused = answers[2 * len(history) :]
    for answer in refused:
        assert {name: answer[name] for name in TABLES} == held
    stale, unknown, other, day, mixed, _, narrow = refused
    assert stale["error"] == "StaleLoadError"
    assert "Run sessionize for" in stale["message"]
    assert unknown["error"] == "ConfigurationError"
    assert "spark.sql.catalog.elsewhere is not set" in unknown["message"]
    assert other["error"] == "ConfigurationError"
    assert day["error"] == "ManifestError"
    assert "not of 2026-01-31" in day["message"]
    assert "are of two runs of sessionize" in mixed["message"]
    assert narrow["error"] == "SchemaMismatchError"
    assert "ALTER TABLE `lake`.`analytics`.`old` ADD COLUMNS (`ts` TIMESTAMP" in narrow["message"]


@pytest.mark.slow
def test_a_table_that_was_rolled_back_gets_its_rows_again(
    iceberg: IcebergSpark, history: list[Night]
) -> None:
    """By the job as it is submitted, which leaves the table alone that has them still."""
    *_, before, last = history
    earlier, whole = iceberg.run([{"merge": before.step}, {"merge": last.step}])
    snapshot = earlier["events"]["snapshots"][-1]
    back = f"ALTER TABLE lake.analytics.events SET TBLPROPERTIES ('current-snapshot-id' = '{snapshot}')"
    [rolled] = iceberg.run([{"sql": back}])
    assert rows_of(rolled, EVENTS) == rows_of(earlier, EVENTS) != rows_of(whole, EVENTS)

    arguments = ["--events", last.uri(EVENTS), "--sessions", last.uri(SESSIONS)]
    arguments += ["--events-table", "lake.analytics.events", "--sessions-table", "lake.analytics.sessions"]
    output = iceberg.submit(*arguments)
    assert "lake.analytics.sessions: merged already, nothing changed" in output
    assert f"lake.analytics.events: {last.merge(EVENTS).manifest.record_count} rows merged" in output
    [state] = iceberg.run([{"sql": "SELECT 1"}])
    assert rows_of(state, EVENTS) == rows_of(whole, EVENTS)
    assert state["sessions"] == whole["sessions"]
