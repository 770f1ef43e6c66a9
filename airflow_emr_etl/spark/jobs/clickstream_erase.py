"""Takes visitors out of every dataset they are in. Only files that hold them are written anew.

The manifest of a dataset is replaced where it is, in one write. So whatever knows its address (the catalog of batches,
a cleared task, a load that has not run yet) sees the dataset without these visitors, and nothing brings them back.

New files come first, then the catalog and the manifests, and the old files are deleted last. Whatever a run that died
left behind is not listed by any manifest, and the next run deletes it: at every point a reader sees the rows of before
or those of after. The rules are in docs/erasure.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Dict, Mapping, Optional, Sequence

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import AccountingError, ConfigurationError, ManifestError
from airflow_emr_etl.models import visitor_list
from airflow_emr_etl.models.batch import Batch
from airflow_emr_etl.models.manifest import BATCH, Accounting, Column, Manifest
from airflow_emr_etl.models.visitor_list import VISITOR
from airflow_emr_etl.spark import storage, visitor_datasets
from airflow_emr_etl.spark.batch_catalog import BatchCatalog
from airflow_emr_etl.spark.dataset import PARQUET_OPTIONS, measure_files, read_files, read_manifest
from airflow_emr_etl.spark.quarantine import valid_parts
from airflow_emr_etl.spark.session import job_session
from airflow_emr_etl.spark.visitor_datasets import VisitorDataset, place

NAME = "clickstream_erase"
REPORT = "erasure.json"


@dataclass(frozen=True)
class Erasure:
    """What a run did. ``rows``: those that went, by the URI of the manifest of the dataset they were in."""

    rows: Mapping[str, int]
    files_rewritten: int
    files_deleted: int

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"


def parse_arguments(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=NAME, description="Take visitors out of the datasets they are in.", allow_abbrev=False
    )
    parser.add_argument("--visitors", required=True, help="the manifest that clickstream_erasure_list wrote")
    visitor_datasets.add_arguments(parser)
    parser.add_argument("--output", required=True, help="folder of this attempt alone")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    arguments = parse_arguments(argv)
    spark = job_session(NAME)
    try:
        erasure = erase(
            spark,
            visitors=arguments.visitors,
            output=arguments.output,
            catalog=arguments.catalog,
            data=arguments.data,
        )
        print(f"{NAME}: {erasure.to_json()}")  # noqa: T201 - the step's stdout
    finally:
        spark.stop()


def erase(
    spark: SparkSession,
    visitors: str,
    output: str,
    catalog: Optional[str] = None,
    data: Sequence[str] = (),
) -> Erasure:
    """Run the job in ``spark``; see the module. Running it again changes nothing more.

    Raise ConfigurationError where nothing is given to look in, or the catalog of a batch is missing;
    MissingInputError or ManifestError for a list or a dataset that is not there or broken, or that another job wrote
    meanwhile; AccountingError where the files do not hold the rows that their manifest says.
    """
    known = None if catalog is None else BatchCatalog(spark, catalog)
    batches = {} if known is None else known.entries()
    datasets = visitor_datasets.find(spark, None if known is None else batches.values(), data)
    listed = visitor_datasets.read_visitors(spark, visitors).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        run = _Run(spark, datasets, batches, listed)
        changed = {dataset.uri: run.without(dataset) for dataset in datasets if run.holds_any(dataset)}
    finally:
        listed.unpersist()
    if known is not None:
        _enter(spark, known, batches, changed)
    # Of a batch, what it delivered comes last: it says which rows of the others are the batch's own.
    delivered = {place(uri) for batch in batches.values() for uri in batch.versions}
    for dataset in sorted(datasets, key=lambda dataset: place(dataset.uri) in delivered):
        if dataset.uri in changed:
            if read_manifest(spark, dataset.uri) != dataset.manifest:
                raise _meanwhile(dataset.uri)
            storage.write_text(spark, dataset.uri, changed[dataset.uri].to_json())
    deleted = _delete_unlisted(spark, datasets, changed)
    before = {dataset.uri: dataset.manifest.record_count for dataset in datasets}
    erasure = Erasure(
        rows={uri: before[uri] - manifest.record_count for uri, manifest in changed.items()},
        files_rewritten=len(run.held),
        files_deleted=deleted,
    )
    storage.write_text(spark, storage.join(output, REPORT), erasure.to_json())
    return erasure


class _Run:
    """What is found, and the files that are written, before anything that a reader sees is changed."""

    def __init__(
        self,
        spark: SparkSession,
        datasets: Sequence[VisitorDataset],
        batches: Mapping[str, Batch],
        listed: DataFrame,
    ) -> None:
        self.spark, self.batches, self.listed = spark, batches, F.broadcast(listed)
        self.manifests = {place(dataset.uri): dataset.manifest for dataset in datasets}
        # No two runs share a file, however many died before this one.
        self.token = f"erased-{uuid.uuid4().hex}"
        self.held = self._rows_by_file()
        """How many rows of these visitors each file has, by its place; files without any are left out."""

    def _rows_by_file(self) -> Dict[str, int]:
        urls = {place(url): url for manifest in self.manifests.values() for url in manifest.urls}
        # One column of each file is read, however wide the rows are.
        rows = read_files(self.spark, sorted(urls.values()), visitor_list.COLUMNS)
        if not urls:
            return {}
        rows = rows.select(VISITOR, F.col("_metadata.file_path").alias("file"))
        found = rows.join(self.listed, VISITOR, "left_semi").groupBy("file").count().collect()
        held = {place(row["file"]): row["count"] for row in found}
        if not held.keys() <= urls.keys():
            raise ManifestError(
                f"Spark calls files of {len(urls)} otherwise than their manifests do, such as "
                f"{min(held.keys() - urls.keys())}. Name the data by the same scheme as the jobs that wrote it."
            )
        return held

    def holds_any(self, dataset: VisitorDataset) -> bool:
        return any(place(url) in self.held for url in dataset.manifest.urls)

    def without(self, dataset: VisitorDataset) -> Manifest:
        """The dataset's manifest with new files in place of those that hold visitors of the list."""
        manifest = dataset.manifest
        old = [entry for entry in manifest.entries if place(entry.url) in self.held]
        rows = read_files(self.spark, [entry.url for entry in old], manifest.columns)
        folder = storage.join(dataset.folder, self.token)
        kept = rows.join(self.listed, VISITOR, "left_anti")
        # A join puts its column first, and COPY goes by position.
        kept.select(*(column.name for column in manifest.columns)).write.options(**PARQUET_OPTIONS).parquet(
            folder
        )
        new, _ = measure_files(self.spark, folder, manifest.columns)
        for file in storage.list_files(self.spark, folder):
            if file.uri not in {entry.url for entry in new}:
                storage.delete(self.spark, file.uri)
        expected = sum(entry.record_count - self.held[place(entry.url)] for entry in old)
        written = sum(entry.record_count for entry in new)
        if written != expected:
            raise AccountingError(
                f"{expected} rows of {dataset.uri} are to stay, but {written} were written: its files do not hold "
                "the rows that it says. Run the job that wrote it again.",
                expected=expected,
                rows=written,
            )
        accounting = manifest.accounting
        if accounting is not None:
            gone = rows.join(self.listed, VISITOR, "left_semi")
            accounting = self._accounting(dataset, accounting, gone)
        return dataclasses.replace(
            manifest,
            entries=(*(entry for entry in manifest.entries if entry not in old), *new),
            accounting=accounting,
            created_at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )

    def _accounting(self, dataset: VisitorDataset, accounting: Accounting, gone: DataFrame) -> Accounting:
        """``accounting`` without the rows ``gone``."""
        if dataset.manifest.dataset == "events":
            parts = valid_parts(sorted(dataset.columns))
            sums = [part.alias(name) for name, part in parts.items()]
            (counted,) = self._own(dataset, gone).agg(F.count(F.lit(1)).alias("erased"), *sums).collect()
            changes: Dict[str, Any] = {name: getattr(accounting, name) - counted[name] for name in parts}
            accounting = dataclasses.replace(
                accounting,
                valid=accounting.valid - counted["erased"],
                erased=accounting.erased + counted["erased"],
                **changes,
            )
        elif dataset.manifest.dataset == "sessions" and accounting.sessions is not None:
            stated = gone.where(~F.col("retracted")) if "retracted" in dataset.columns else gone
            accounting = dataclasses.replace(accounting, sessions=accounting.sessions - stated.count())
        accounting.check()
        return accounting

    def _own(self, dataset: VisitorDataset, gone: DataFrame) -> DataFrame:
        """The rows among ``gone`` that are in the accounting of ``dataset``, which has events.

        Rows that a batch states anew for others are in the others', and so are those that came in one before.
        """
        partition = dataset.manifest.partition
        if "session_id" not in dataset.columns or not {"dt", BATCH} & partition.keys():
            return gone
        name = partition.get(BATCH, partition.get("dt", ""))
        batch = self.batches.get(name)
        if batch is None and BATCH in partition:
            raise ConfigurationError(
                f"{dataset.uri} is of the batch {name}, which is in no catalog that was given. Give the catalog of the "
                "stream that wrote it, with --catalog."
            )
        day = partition["dt"] if batch is None else batch.day.isoformat()
        own = gone.where(F.col("dt") == F.lit(day).cast("date"))
        rivals = [each for each in self.batches.values() if batch and each.day == batch.day and each != batch]
        if batch is None or not rivals:
            return own
        own = own.join(self._delivered([batch]), "event_id", "left_semi")
        before = [each for each in rivals if each.name < name]
        return own.join(self._delivered(before), "event_id", "left_anti") if before else own

    def _delivered(self, batches: Sequence[Batch]) -> DataFrame:
        """The ids of the events that came in ``batches``."""
        manifests = [self.manifests[place(uri)] for batch in batches for uri in batch.versions]
        urls = {place(url): url for manifest in manifests for url in manifest.urls}
        return read_files(self.spark, sorted(urls.values()), [Column("event_id", "VARCHAR(64)")])


def _enter(
    spark: SparkSession,
    catalog: BatchCatalog,
    batches: Mapping[str, Batch],
    changed: Mapping[str, Manifest],
) -> None:
    """Count the days of changed batches anew. Before the manifests: a run that dies in between counts them again."""
    if catalog.entries() != batches:
        raise _meanwhile(catalog.uri)
    manifests = {place(uri): manifest for uri, manifest in changed.items()}
    for batch in batches.values():
        manifest = manifests.get(place(batch.manifest))
        if manifest is not None:
            times = read_files(spark, manifest.urls, [Column("ts", "TIMESTAMP")])
            rows = times.groupBy(F.to_date("ts").alias("day")).count().collect()
            catalog.put(dataclasses.replace(batch, days={row["day"]: row["count"] for row in rows}))


def _meanwhile(uri: str) -> ManifestError:
    return ManifestError(
        f"{uri} was written anew while visitors were taken out. Run the erasure again, at a time when nothing writes "
        "there.",
        uri=uri,
    )


def _delete_unlisted(
    spark: SparkSession, datasets: Sequence[VisitorDataset], changed: Mapping[str, Manifest]
) -> int:
    """Delete the files that were replaced, and what earlier runs left in the datasets' folders; how many."""
    listed = {place(url) for dataset in datasets for url in changed.get(dataset.uri, dataset.manifest).urls}
    had = {place(uri): uri for dataset in datasets for uri in (*dataset.files, *dataset.manifest.urls)}
    unwanted = [uri for at, uri in sorted(had.items()) if at not in listed]
    for uri in unwanted:
        storage.delete(spark, uri)
    return len(unwanted)


if __name__ == "__main__":
    main(sys.argv[1:])
