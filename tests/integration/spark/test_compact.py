"""Files of a dataset, put together: the same rows in the same order, whatever dies on the way."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_emr_etl.exceptions import AccountingError, ManifestError
from airflow_emr_etl.models.batch import Batch
from airflow_emr_etl.models.manifest import Accounting, Column, Manifest
from airflow_emr_etl.spark import storage
from airflow_emr_etl.spark.batch_catalog import BatchCatalog
from airflow_emr_etl.spark.dataset import Dataset
from airflow_emr_etl.spark.file_layout import Expected, FileLayout, settings
from airflow_emr_etl.spark.jobs.clickstream_compact import NOTE, compact

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

DAY = date(2026, 1, 5)
COLUMNS = [Column("number", "BIGINT"), Column("text", "VARCHAR(255)"), Column("dt", "DATE")]
ROWS, FILES = 1000, 7


class Crash(Exception):
    """The process dies here."""


@pytest.fixture
def dataset(spark: SparkSession, tmp_path: Path) -> Dataset:
    """A thousand rows in seven files, in order, with their manifest."""
    made = Dataset(spark, str(tmp_path), "events", DAY, COLUMNS)
    numbers = spark.range(0, ROWS, 1, FILES)
    made.write(numbers.selectExpr("id AS number", "concat('row ', id) AS text", "DATE'2026-01-05' AS dt"))
    entries, _ = made.measure()
    made.finish(entries, "test", Accounting(lines_in=ROWS, valid=ROWS), restatement=7)
    return made


def manifest_of(dataset: Dataset) -> Manifest:
    return Manifest.from_json(Path(dataset.manifest_uri).read_text())


def numbers_of(spark: SparkSession, manifest: Manifest) -> list[int]:
    """File by file, as the manifest lists them, each in its own order."""
    found: list[int] = []
    for entry in manifest.entries:
        rows = [row["number"] for row in spark.read.parquet(entry.url).collect()]
        assert len(rows) == entry.record_count
        assert Path(entry.url).stat().st_size == entry.content_length
        found += rows
    return found


def files_of(dataset: Dataset) -> set[str]:
    return {str(path) for path in Path(dataset.folder).rglob("*.parquet")}


@pytest.mark.parametrize(("slices", "files"), [(1, 1), (4, 4)])
def test_small_files_become_one_or_a_multiple_of_the_slices(
    spark: SparkSession, dataset: Dataset, slices: int, files: int
) -> None:
    before = manifest_of(dataset)
    after = compact(spark, dataset.manifest_uri, FileLayout(slices=slices))
    assert after == manifest_of(dataset)
    assert len(after.entries) == files
    assert {entry.record_count for entry in after.entries} == {ROWS // files}
    assert numbers_of(spark, after) == list(range(ROWS))
    assert files_of(dataset) == set(after.urls)
    assert all("/dt=2026-01-05/" in url for url in after.urls)
    assert (after.accounting, after.restatement, after.columns, after.partition, after.created_at) == (
        before.accounting, before.restatement, before.columns, before.partition, before.created_at,
    )  # fmt: skip
    assert not (Path(dataset.folder) / NOTE).exists()
    # Once more, and nothing is left to be done.
    assert compact(spark, dataset.manifest_uri, FileLayout(slices=slices)) == after
    assert files_of(dataset) == set(after.urls)


@pytest.mark.parametrize("step", ["noted", "written", "stated"])
def test_a_crash_leaves_a_whole_dataset_and_the_next_run_cleans_up(
    spark: SparkSession, dataset: Dataset, step: str
) -> None:
    def die(done: str) -> None:
        if done == step:
            raise Crash

    with pytest.raises(Crash):
        compact(spark, dataset.manifest_uri, progress=die)
    assert numbers_of(spark, manifest_of(dataset)) == list(range(ROWS))
    after = compact(spark, dataset.manifest_uri)
    assert len(after.entries) == 1
    assert numbers_of(spark, after) == list(range(ROWS))
    assert files_of(dataset) == set(after.urls)
    assert not (Path(dataset.folder) / NOTE).exists()


def test_a_dataset_that_changes_meanwhile_is_left_alone(spark: SparkSession, dataset: Dataset) -> None:
    path, changed = Path(dataset.manifest_uri), manifest_of(dataset).to_json().replace('"test"', '"another"')

    def change(done: str) -> None:
        if done == "written":
            storage.write_text(spark, dataset.manifest_uri, changed)

    with pytest.raises(ManifestError, match="was changed while it was compacted"):
        compact(spark, dataset.manifest_uri, progress=change)
    assert path.read_text() == changed
    assert numbers_of(spark, manifest_of(dataset)) == list(range(ROWS))
    assert len(files_of(dataset)) == FILES


def test_rows_that_are_not_there_stop_it(spark: SparkSession, dataset: Dataset) -> None:
    document = json.loads(Path(dataset.manifest_uri).read_text())
    document["entries"][-1]["meta"]["record_count"] += 1
    document["meta"]["record_count"] += 1
    storage.write_text(spark, dataset.manifest_uri, json.dumps(document))
    with pytest.raises(AccountingError, match=f"lists {ROWS + 1} rows, but {ROWS} were read"):
        compact(spark, dataset.manifest_uri)
    assert len(files_of(dataset)) == FILES


def test_files_that_another_manifest_lists_are_kept(
    spark: SparkSession, dataset: Dataset, tmp_path: Path
) -> None:
    """As a replay's manifest does."""
    shared = manifest_of(dataset).entries[:2]
    replay = Dataset(spark, str(tmp_path / "replay"), "events", DAY, COLUMNS)
    replay.finish(shared, "test", None)
    catalog = BatchCatalog(spark, str(tmp_path / "catalog"))
    catalog.put(Batch(DAY, replay.manifest_uri, earlier=(dataset.manifest_uri,)))
    after = compact(spark, dataset.manifest_uri, catalog=catalog.uri)
    assert files_of(dataset) == {*after.urls, *(entry.url for entry in shared)}
    # The replay's own compaction takes the rows over, and leaves what is not its own.
    compact(spark, replay.manifest_uri)
    assert len(manifest_of(replay).entries) == 1
    assert files_of(dataset) == {*after.urls, *(entry.url for entry in shared)}


def test_what_is_known_before_a_write_says_how_many_files_there_are(
    spark: SparkSession, tmp_path: Path
) -> None:
    made = Dataset(spark, str(tmp_path), "events", DAY, COLUMNS)
    rows = spark.range(0, ROWS, 1, FILES).selectExpr("id AS number", "'x' AS text", "DATE'2026-01-05' AS dt")

    def files(expected: Expected | None) -> list[int]:
        made.write(rows, expected)
        return [entry.record_count for entry in made.measure()[0]]

    before = {key: spark.conf.get(key, None) for key in settings(FileLayout())}
    try:
        assert len(files(None)) == FILES
        assert files(Expected(ROWS, 20)) == [ROWS]
        for key, value in settings(FileLayout(target_mib=1, slices=3)).items():
            spark.conf.set(key, value)
        assert len(files(Expected(ROWS, 20))) == 3
        # Rows of 4 KiB: 4 MiB make 6 files, and none has more than 2 MiB.
        assert len(files(Expected(ROWS, 4096))) == 6
        assert max(files(Expected(ROWS, 40_000))) <= 2 * 1024 * 1024 // 40_000
    finally:
        for key, value in before.items():
            if value is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, value)
