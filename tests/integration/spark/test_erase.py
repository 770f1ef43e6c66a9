"""Visitors are taken out of every dataset, whatever dies on the way, and the nights after go on as if without them."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from airflow_emr_etl.exceptions import ConfigurationError, CorruptInputError, ManifestError
from airflow_emr_etl.models.batch import Batch
from airflow_emr_etl.models.manifest import Accounting, Column, Manifest
from airflow_emr_etl.spark import columns, storage
from airflow_emr_etl.spark.dataset import Dataset, schema
from airflow_emr_etl.spark.jobs import clickstream_erase
from airflow_emr_etl.spark.jobs.clickstream_erase import Erasure, erase
from airflow_emr_etl.spark.jobs.clickstream_erasure_list import list_visitors
from airflow_emr_etl.spark.jobs.clickstream_sessionize import sessionize

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

FIRST = date(2026, 1, 5)
TOTAL = Column("total", "BIGINT")
VISITORS = {name: hashlib.sha256(name.encode()).hexdigest() for name in "abcdef"}


class Killed(Exception):
    """The driver died."""


class Lake:
    """Nights of events, normalized and sessionized, with a catalog."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.spark, self.folder = spark, folder
        self.catalog = str(folder / "catalog")
        self.runs = 0

    def night(
        self,
        day: date,
        visitors: str,
        users: dict[str, str] | None = None,
        minutes: tuple[int, ...] = (-730, 0, 5, 715),
        batch: str | None = None,
    ) -> Accounting:
        """Each visitor has hits before midnight of the day before, at noon, and at the end of the day; or as many
        minutes after noon as ``minutes`` says, of which each is an event of its own. ``batch``: one of several."""
        rows = []
        for name in visitors:
            noon = datetime.combine(day, datetime.min.time()) + timedelta(hours=12)
            for n, after in enumerate(minutes):
                ts = noon + timedelta(minutes=after)
                rows.append(
                    {
                        "event_id": hashlib.sha256(f"{name}{day}{after}".encode()).hexdigest(),
                        "ts": ts.isoformat(sep=" "),
                        "visitor_id": VISITORS[name],
                        "user_id": (users or {}).get(name) if n == 1 else None,
                        "path": f"/{name}",
                        "status": 200,
                        "bytes": 1,
                        "is_bot": n == 2,
                        "is_page_view": n == 1,
                        "dt": day.isoformat(),
                        "dropped_copies": 0,
                    }
                )
        names = [name.split()[0] for name in schema(columns.NORMALIZED).split(", ")]
        frame = self.spark.createDataFrame(
            [[None if row.get(name) is None else str(row[name]) for name in names] for row in rows],
            ", ".join(f"{name} string" for name in names),
        )
        self.runs += 1
        source = self.folder / "normalized" / f"dt={day}" / f"attempt={self.runs}"
        dataset = Dataset(self.spark, str(source), "events", day, columns.NORMALIZED)
        # A file for each visitor, or nearly so.
        dataset.write(frame.repartitionByRange(4, "visitor_id"))
        files, _ = dataset.measure()
        count = len(visitors)
        outside = count * sum(not -720 <= after < 720 for after in minutes)
        parts = {"bots": count, "page_views": count, "outside_day": outside}
        dataset.finish(
            files, "test", Accounting(lines_in=len(rows) + 1, valid=len(rows), delivered_twice=1, **parts)
        )
        output = self.folder / "sessionized" / f"dt={day}" / f"attempt={self.runs}"
        return sessionize(self.spark, str(source), day, str(output), catalog=self.catalog, name=batch)

    def list(self, *, visitors: str = "", users: str = "") -> str:
        self.runs += 1
        output = self.folder / "erasures" / f"attempt={self.runs}"
        lists: dict[str, str] = {}
        for name, text in (("visitors", visitors), ("users", users)):
            if text:
                lists[name] = str(self.folder / f"{name}-{self.runs}.txt")
                Path(lists[name]).write_text(text)
        list_visitors(self.spark, str(output), catalog=self.catalog, **lists)
        return str(output / "visitors" / "manifest.json")

    def erase(self, visitors: str) -> Erasure:
        self.runs += 1
        return erase(
            self.spark,
            visitors,
            str(self.folder / "erasures" / f"attempt={self.runs}"),
            catalog=self.catalog,
            data=[str(self.folder)],
        )

    def manifests(self) -> dict[Path, Manifest]:
        found = {}
        for layer in ("normalized", "sessionized"):
            for path in sorted((self.folder / layer).rglob("manifest.json")):
                found[path] = Manifest.from_json(path.read_text())
        return found

    def rows(self) -> dict[Path, list[tuple[Any, ...]]]:
        """The rows of every dataset, as its manifest lists them, and only as many as it says."""
        found = {}
        for path, manifest in self.manifests().items():
            rows = []
            for entry in manifest.entries:
                assert Path(entry.url).stat().st_size == entry.content_length
                part = pq.ParquetFile(entry.url).read().to_pylist()
                assert len(part) == entry.record_count
                rows += [tuple(map(str, row.values())) for row in part]
            found[path] = sorted(rows)
        return found

    def visitors_on_disk(self) -> set[str]:
        """In every Parquet file there is, whether a manifest lists it or not."""
        found: set[str] = set()
        names = {digest: name for name, digest in VISITORS.items()}
        for layer in ("normalized", "sessionized"):
            for path in (self.folder / layer).rglob("*.parquet"):
                table = pq.ParquetFile(path).read()
                if "visitor_id" in table.column_names:
                    found |= {names[digest] for digest in table["visitor_id"].to_pylist()}
        return found

    def batches(self) -> list[Batch]:
        return [Batch.from_json(path.read_text()) for path in sorted(Path(self.catalog).glob("*.json"))]


def without(rows: dict[Path, list[tuple[Any, ...]]], *names: str) -> dict[Path, list[tuple[Any, ...]]]:
    gone = {VISITORS[name] for name in names}
    return {path: [row for row in of_it if not gone & set(row)] for path, of_it in rows.items()}


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Lake:
    return Lake(spark, tmp_path / "lake")


@pytest.mark.slow
def test_visitors_go_and_everything_else_stays(lake: Lake) -> None:
    lake.night(FIRST, "abc")
    lake.night(FIRST + timedelta(days=1), "bcd")
    before, manifests = lake.rows(), lake.manifests()
    visitors = lake.list(visitors=f"{VISITORS['a']}\r\n\n{VISITORS['b'].upper()}\n{VISITORS['f']}\n")

    erasure = lake.erase(visitors)

    assert lake.rows() == without(before, "a", "b")
    assert lake.visitors_on_disk() == {"c", "d"}
    lost = {str(path): len(before[path]) - len(rows) for path, rows in lake.rows().items()}
    assert erasure.rows == {uri: count for uri, count in lost.items() if count}
    assert erasure.files_deleted >= erasure.files_rewritten > 0
    for path, manifest in lake.manifests().items():
        old = manifests[path]
        if "normalized" in path.parts:
            # A file that holds nobody of the list is as it was.
            assert set(old.urls) & set(manifest.urls)
        accounting, was = manifest.accounting, old.accounting
        assert accounting is not None
        assert was is not None
        accounting.check()
        if manifest.dataset == "events":
            gone = was.valid - accounting.valid
            assert accounting.erased == gone > 0
            assert was.page_views - accounting.page_views == gone / 4
            assert was.bots - accounting.bots == gone / 4
            assert was.outside_day - accounting.outside_day == gone / 4
    assert [sum(batch.days.values()) for batch in lake.batches()] == [4, 8]

    # Again: nothing to do.
    again = lake.erase(visitors)
    assert (again.rows, again.files_rewritten, again.files_deleted) == ({}, 0, 0)


@pytest.mark.slow
def test_the_nights_after_are_those_of_a_lake_that_never_had_them(lake: Lake, tmp_path: Path) -> None:
    days = [FIRST + timedelta(days=n) for n in range(3)]
    other = Lake(lake.spark, tmp_path / "other")
    for day, visitors in zip(days, ("abc", "bcd"), strict=False):
        lake.night(day, visitors)
        other.night(day, visitors.replace("b", ""))
    lake.erase(lake.list(visitors=VISITORS["b"]))

    # The sessions of c and d go on across midnight, in batches whose files were written anew.
    lake.night(days[2], "cd")
    other.night(days[2], "cd")

    def of_persons(one: Lake) -> dict[str, list[tuple[Any, ...]]]:
        """The rows by what they are; totals of a day are no person's, and stay."""
        found = {path.relative_to(one.folder).parts: rows for path, rows in one.rows().items()}
        return {
            "/".join((*parts[:2], parts[3])): rows
            for parts, rows in found.items()
            if parts[3] != "daily_traffic"
        }

    assert of_persons(lake) == of_persons(other)
    assert len(of_persons(lake)) == 9
    # The night is cleared and runs again over the erased events.
    batch = lake.batches()[1]
    source = batch.manifest.removesuffix("/events/manifest.json")
    accounting = sessionize(lake.spark, source, days[1], str(tmp_path / "again"), catalog=lake.catalog)
    assert (accounting.valid, accounting.erased, accounting.delivered_twice) == (8, 4, 1)


class Deaths:
    """The driver dies before its n-th write or delete of a file whose name ends in ``of``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, of: str = "") -> None:
        self.left: int | None = None
        self.of = of
        for name in ("write_text", "delete"):
            monkeypatch.setattr(storage, name, self._dying(getattr(storage, name)))

    def _dying(self, done: Any) -> Any:
        def call(spark: SparkSession, uri: str, *text: str) -> None:
            if self.left is not None and uri.endswith(self.of):
                if self.left == 0:
                    raise Killed
                self.left -= 1
            done(spark, uri, *text)

        return call


def test_a_run_that_died_between_two_manifests_is_made_whole(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.night(FIRST, "ab")
    before = lake.rows()
    after = without(before, "b")
    visitors = lake.list(visitors=VISITORS["b"])
    deaths = Deaths(monkeypatch, of="/manifest.json")
    deaths.left = 1
    with pytest.raises(Killed):
        lake.erase(visitors)
    found = lake.rows()
    assert [path for path in found if found[path] == after[path] != before[path]]
    assert [path for path in found if found[path] == before[path] != after[path]]

    deaths.left = None
    lake.erase(visitors)

    assert lake.rows() == after
    assert lake.visitors_on_disk() == {"a"}


def arrivals(lake: Lake, visitors: str) -> None:
    """Batches of one day: the second brings an event of the first again, and goes on with its sessions."""
    lake.night(FIRST, visitors, minutes=(0, 5, 10, 800), batch="stream-1")
    lake.night(FIRST, visitors, minutes=(5, 15, 20), batch="stream-2")
    lake.night(FIRST, "c", minutes=(0, 25, -800), batch="stream-3")


def counted(lake: Lake) -> list[tuple[Any, ...]]:
    """The accounting of each batch's events and sessions, of what is said of its rows."""
    found = []
    for path, manifest in lake.manifests().items():
        assert manifest.accounting is not None
        manifest.accounting.check()
        numbers = manifest.accounting.to_dict()
        names = (
            ["sessions"] if manifest.dataset == "sessions" else ["valid", "bots", "page_views", "outside_day"]
        )
        found.append((*path.parts[-5:-1], {name: numbers[name] for name in names}))
    return found


@pytest.mark.slow
def test_several_batches_of_a_day_each_count_their_own(lake: Lake, tmp_path: Path) -> None:
    other = Lake(lake.spark, tmp_path / "other")
    arrivals(lake, "abc")
    arrivals(other, "ac")
    valid = {path: manifest.accounting for path, manifest in lake.manifests().items()}
    # Of the second and the third batch some came in the first, which each states anew.
    repeated = [of for of in valid.values() if of is not None and of.delivered_twice > 1]
    assert [of.valid for of in repeated] == [6, 6, 2, 2]

    lake.erase(lake.list(visitors=VISITORS["b"]))

    assert lake.visitors_on_disk() == {"a", "c"}
    assert counted(lake) == counted(other)
    for path, manifest in lake.manifests().items():
        was, now = valid[path], manifest.accounting
        assert was is not None
        assert now is not None
        assert now.erased == (was.valid - now.valid if manifest.dataset == "events" else 0)
    assert [batch.days for batch in lake.batches()] == [batch.days for batch in other.batches()]


@pytest.mark.slow
def test_whatever_dies_the_next_run_makes_it_whole(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before every write and every delete; each time a reader sees before or after."""
    other = Lake(lake.spark, tmp_path / "other")
    arrivals(lake, "abc")
    arrivals(other, "ac")
    before = lake.rows()
    after = without(before, "b")
    visitors = lake.list(visitors=VISITORS["b"])
    saved = shutil.copytree(lake.folder, tmp_path / "saved")
    deaths = Deaths(monkeypatch)
    for survived in range(100):
        shutil.rmtree(lake.folder)
        shutil.copytree(saved, lake.folder)
        deaths.left = survived
        try:
            lake.erase(visitors)
        except Killed:
            for path, rows in lake.rows().items():
                assert rows in (before[path], after[path])
            deaths.left = None
            lake.erase(visitors)
        else:
            break
        assert lake.rows() == after
        assert lake.visitors_on_disk() == {"a", "c"}
        assert counted(lake) == counted(other)
        assert [batch.days for batch in lake.batches()] == [batch.days for batch in other.batches()]
    # Two entries, six manifests and as many files that held b, at least.
    assert 14 < survived < 99


def test_whatever_has_a_manifest_and_visitors_is_cleaned_and_nothing_else(lake: Lake) -> None:
    """A gate that puts no row aside lists the files that came; marts and totals lie in one folder; lists stay."""
    lake.night(FIRST, "ab")
    [events] = [path for path in lake.manifests() if "sessionized" in str(path) and "events" in str(path)]
    clean = events.parents[1] / "clean" / "events" / "manifest.json"
    clean.parent.mkdir(parents=True)
    clean.write_text(events.read_text())
    marts = lake.folder / "sessionized" / "marts"
    dataset = Dataset(
        lake.spark, str(marts.parent), "marts", FIRST, [Column("visitor_id", "VARCHAR(64)"), TOTAL]
    )
    totals = Dataset(lake.spark, str(marts), "totals", FIRST, [TOTAL])
    users = [(VISITORS[name], len(name)) for name in "ab"]
    for each in (dataset, totals):
        each.write(lake.spark.createDataFrame(users, "visitor_id string, total bigint"))
        files, _ = each.measure()
        each.finish(files, "test", None)
    listed = Path(lake.list(visitors=f"{VISITORS['a']}\n{VISITORS['c']}"))
    before = lake.rows()

    lake.erase(lake.list(visitors=VISITORS["a"]))

    assert lake.rows() == without(before, "a")
    assert len(lake.rows()[marts / "manifest.json"]) == 1
    assert len(lake.rows()[marts / "totals" / "manifest.json"]) == 2
    assert lake.visitors_on_disk() == {"b"}
    assert Manifest.from_json(listed.read_text()).record_count == 2
    for url in Manifest.from_json(listed.read_text()).urls:
        assert Path(url).exists()


def test_a_batch_that_is_entered_meanwhile_is_not_passed_over(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.night(FIRST, "ab")
    before = lake.rows()
    visitors = lake.list(visitors=VISITORS["a"])
    measured = clickstream_erase.measure_files

    def late(*arguments: Any) -> Any:
        entry = next(Path(lake.catalog).glob("*.json"))
        batch = replace(Batch.from_json(entry.read_text()), name="stream-1")
        (Path(lake.catalog) / "stream-1.json").write_text(batch.to_json())
        return measured(*arguments)

    monkeypatch.setattr(clickstream_erase, "measure_files", late)
    with pytest.raises(ManifestError, match="written anew while visitors were taken out"):
        lake.erase(visitors)
    assert lake.rows() == before


@pytest.mark.slow
def test_a_user_is_every_visitor_that_the_user_signed_in_on(lake: Lake) -> None:
    lake.night(FIRST, "abc", users={"a": 'ann, it\'s "me"', "b": "bob"})
    lake.night(FIRST + timedelta(days=1), "abd", users={"d": 'ann, it\'s "me"', "b": "carl"})

    lake.erase(lake.list(users='\ufeffann, it\'s "me"\r\nnobody\n'))

    assert lake.visitors_on_disk() == {"b", "c"}


def test_lists_that_cannot_be_meant_are_refused(lake: Lake) -> None:
    lake.night(FIRST, "a")
    with pytest.raises(
        CorruptInputError, match=r"2 lines of .*visitors-.* are no visitor id: 64 hex"
    ) as error:
        lake.list(visitors=f"{VISITORS['a']}\nxerxes\n{VISITORS['a']}0\n")
    assert "xerxes" not in str(error.value)
    with pytest.raises(CorruptInputError, match="name nobody"):
        lake.list(users="nobody")
    with pytest.raises(ConfigurationError, match="--visitors or --users"):
        lake.list()
    events = lake.batches()[0].manifest
    with pytest.raises(ManifestError, match="is no list of visitors"):
        lake.erase(events)
    visitors = lake.list(visitors=VISITORS["a"])
    with pytest.raises(ConfigurationError, match="--catalog"):
        erase(lake.spark, visitors, str(lake.folder / "erasures" / "x"))
