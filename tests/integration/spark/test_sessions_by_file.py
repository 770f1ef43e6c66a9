"""Events get their ``session_id`` file by file, or by a shuffle of all of them: it must not matter which."""

from __future__ import annotations

import re
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.spark.conftest import collected
from integration.spark.nights import Nights, late_and_twice

from airflow_emr_etl.clickstream.generator import generate_day
from airflow_emr_etl.exceptions import AccountingError
from airflow_emr_etl.models.manifest import Accounting, Manifest
from airflow_emr_etl.models.session_rules import SessionRules
from airflow_emr_etl.spark import columns, storage
from airflow_emr_etl.spark.dataset import Dataset
from airflow_emr_etl.spark.jobs.clickstream_sessionize import sessionize
from airflow_emr_etl.spark.marked_files import MarkedFiles
from airflow_emr_etl.spark.session_engine import HitFiles, sessions_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.spark

FIRST = date(2026, 1, 5)
DAYS = [FIRST + timedelta(days=number) for number in range(3)]


def manifest_of(output: str, dataset: str) -> Manifest:
    return Manifest.from_json(Path(output.removeprefix("file://"), dataset, "manifest.json").read_text())


def rewritten(spark: SparkSession, rows: DataFrame, day: date, output: str, accounting: Accounting) -> str:
    """A batch of these rows as normalize would leave it, but in files as the rows lie."""
    dataset = Dataset(spark, output, "events", day, columns.NORMALIZED)
    dataset.write(rows)
    files, _ = dataset.measure()
    dataset.finish(files, "test", accounting)
    return output


def scattered(spark: SparkSession, normalized: Path, day: date, output: str) -> str:
    """Its events in four files, in no order: a visitor's are in several."""
    given = manifest_of(str(normalized), "events")
    assert given.accounting is not None
    rows = spark.read.parquet(*given.urls).repartition(4, "event_id").sortWithinPartitions("path", "status")
    return rewritten(spark, rows, day, output, given.accounting)


class Both:
    """Each batch twice: by file, and with all events shuffled; with a catalog for each way."""

    def __init__(self, spark: SparkSession, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spark, self.folder, self.monkeypatch = spark, folder, monkeypatch
        self.runs = 0

    def run(
        self,
        day: date,
        source: str,
        rules: SessionRules | None = None,
        catalog: bool = True,
        elsewhere: bool = False,
    ) -> dict[str, Counter[Any]]:
        """What both ways write, which is the same, by dataset. ``elsewhere``: as if this machine had no file of it."""
        self.runs += 1
        found, accounts = [], []
        for way in ("files", "rows"):
            output = str(self.folder / f"{way}-{self.runs}")
            with self.monkeypatch.context() as patch:
                if elsewhere:
                    patch.setattr(storage, "local_path", lambda *_: None)
                    patch.setattr(storage, "local_paths", lambda *_: None)
                if way == "rows":
                    patch.setattr(HitFiles, "MOST_BYTES", 0)
                batches = str(self.folder / f"batches-{way}") if catalog else None
                accounts.append(sessionize(self.spark, source, day, output, rules, batches))
            found.append({name: self._rows(output, name) for name in ("events", "sessions", "daily_traffic")})
        assert accounts[0] == accounts[1]
        for name, rows in found[0].items():
            assert rows == found[1][name], name
        return found[0]

    def _rows(self, output: str, dataset: str) -> Counter[Any]:
        urls = manifest_of(output, dataset).urls
        return Counter(collected(self.spark.read.parquet(*urls)) if urls else [])


@pytest.mark.parametrize("nights_run", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_both_ways_write_the_same(
    nights_run: int, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three nights, and the one in the middle once more; or the first two of them."""
    nights = Nights(spark, tmp_path / "nights")
    both = Both(spark, tmp_path, monkeypatch)
    batches = late_and_twice({day: generate_day(day, lines=500 * nights_run, seed=3).files for day in DAYS})
    sources = {}
    # Local files are opened in place, and written by the tasks; others Spark reads and writes.
    for day, scheme in list(zip(DAYS, ("file://", "", "file://"), strict=True))[:nights_run]:
        nights.write(day, batches[day])
        normalized, _ = nights.normalize(day)
        sources[day] = scattered(spark, normalized, day, f"{scheme}{tmp_path}/scattered-{day}")
    alone = both.run(DAYS[0], sources[DAYS[0]])
    assert {row.dt for row in alone["events"]} == {DAYS[0]}
    # Late and doubled lines: events of the night before are stated anew, and one that both have counts there.
    second = both.run(DAYS[1], sources[DAYS[1]], elsewhere=True)
    assert {row.dt for row in second["events"]} == set(DAYS[:2])
    # Only some of its visitors are in another night.
    touched = {row.visitor_id for row in second["events"] if row.dt == DAYS[0]}
    assert touched < {row.visitor_id for row in second["events"]}
    if nights_run == 2:
        return
    assert {row.dt for row in both.run(DAYS[2], sources[DAYS[2]])["events"]} == set(DAYS[1:])
    # The night in the middle again, without some of its events and with events that are new.
    given = manifest_of(sources[DAYS[1]], "events")
    assert given.accounting is not None
    whole = spark.read.parquet(*given.urls)
    some = whole.where(
        "crc32(encode(visitor_id, 'utf-8')) % 7 != 0 and crc32(encode(event_id, 'utf-8')) % 9 != 0"
    )
    counts = some.selectExpr(
        "count(*) as valid", "count_if(is_bot) as bots", "count_if(is_page_view) as page_views",
        "count_if(to_date(ts) != dt) as outside_day", "sum(dropped_copies) as delivered_twice",
    ).first()  # fmt: skip
    assert counts is not None
    kept = Accounting(lines_in=counts.valid + counts.delivered_twice, **counts.asDict())
    again = both.run(DAYS[1], rewritten(spark, some, DAYS[1], f"file://{tmp_path}/again", kept))
    assert any(row.retracted for row in again["sessions"])
    assert {row.dt for row in again["events"]} >= set(DAYS[:2])


def test_both_ways_write_the_same_by_rules_that_cut(
    spark: SparkSession, normalize_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = normalize_files(dict(generate_day(FIRST, lines=600, seed=8).files))
    source = scattered(spark, run.output, FIRST, f"file://{tmp_path}/scattered")
    rules = SessionRules(inactivity_minutes=5, max_minutes=7)
    Both(spark, tmp_path, monkeypatch).run(FIRST, source, rules, catalog=False)


def test_an_event_that_a_batch_has_twice_fails_it(
    spark: SparkSession, normalize_files: Any, tmp_path: Path
) -> None:
    run = normalize_files(dict(generate_day(FIRST, lines=200, seed=8).files))
    rows = spark.read.parquet(str(run.output / "events" / "dt=*"))
    count = rows.count()
    twice = rows.unionByName(rows.limit(1))
    source = rewritten(
        spark, twice, FIRST, str(tmp_path / "twice"), Accounting(lines_in=count + 1, valid=count + 1)
    )
    with pytest.raises(AccountingError):
        sessionize(spark, source, FIRST, str(tmp_path / "out"))


def test_no_event_is_shuffled(spark: SparkSession, normalize_files: Any, tmp_path: Path) -> None:
    run = normalize_files(dict(generate_day(FIRST, lines=500, seed=9).files))
    source = scattered(spark, run.output, FIRST, f"file://{tmp_path}/scattered")
    urls = manifest_of(source, "events").urls
    assert len(urls) == 4
    hits = HitFiles(spark, urls, numbered=True)
    found = sessions_of([hits], SessionRules()).persist()
    events = MarkedFiles(hits, found, columns.EVENTS).rows()
    plan = events._jdf.queryExecution().executedPlan().toString()
    # What is inside the cache is the sessions' own plan, which shuffles the hits' shares.
    outside = re.sub(r"(?m)^.*InMemoryRelation(.|\n)*", "", plan)
    assert not re.search(r"Sort|Window|Join|Broadcast", outside)
    above, exchange, below = re.split(r"(Exchange hashpartitioning\(partition_key.*)", outside)
    assert "user_agent" in above
    assert "Exchange" not in above + below
    assert "user_agent" not in exchange + below
    # Each file's events keep their order.
    in_files = [row.event_id for url in urls for row in spark.read.parquet(url).collect()]
    assert [row.event_id for row in events.collect()] == in_files
    found.unpersist()
