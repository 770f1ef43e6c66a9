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
from datetime import date, datetime, timezone
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import AccountingError, ManifestError
from airflow_emr_etl.models.manifest import Accounting, Manifest, ManifestEntry
from airflow_emr_etl.spark import storage, visitor_datasets
from airflow_emr_etl.spark.batch_catalog import BatchCatalog
from airflow_emr_etl.spark.dataset import read_manifest
from airflow_emr_etl.spark.session import job_session
from airflow_emr_etl.spark.visitor_datasets import VISITOR, VisitorDataset, place

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
    parser.add_argument("--catalog", help="folder of the batches' entries")
    parser.add_argument(
        "--data", action="append", default=[], help="a folder of datasets, at any depth; repeatable"
    )
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

    Raise MissingInputError or ManifestError for a list or a dataset that is not there or broken, or that another job
    wrote meanwhile; AccountingError where the files do not hold the rows that their manifest says.
    """
    datasets = visitor_datasets.find(spark, catalog, data, without=visitors)
    listed = visitor_datasets.read_visitors(spark, visitors).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        held = _rows_by_file(spark, datasets, listed)
        # No two runs share a file, however many died before this one.
        token = f"erased-{uuid.uuid4().hex}"
        changed = {
            dataset.uri: _without(spark, dataset, listed, held, token)
            for dataset in datasets
            if any(place(url) in held for url in dataset.manifest.urls)
        }
    finally:
        listed.unpersist()
    if catalog is not None:
        _enter(spark, BatchCatalog(spark, catalog), changed)
    for dataset in datasets:
        if dataset.uri in changed:
            if read_manifest(spark, dataset.uri) != dataset.manifest:
                raise ManifestError(
                    f"{dataset.uri} was written anew while visitors were taken out. Run the erasure again, at a time "
                    "when nothing writes there.",
                    uri=dataset.uri,
                )
            storage.write_text(spark, dataset.uri, changed[dataset.uri].to_json())
    replaced = {
        place(url): url for dataset in datasets for url in dataset.manifest.urls if place(url) in held
    }
    deleted = _delete_unlisted(spark, datasets, changed, replaced)
    by_uri = {dataset.uri: dataset.manifest for dataset in datasets}
    erasure = Erasure(
        rows={uri: by_uri[uri].record_count - manifest.record_count for uri, manifest in changed.items()},
        files_rewritten=len(replaced),
        files_deleted=deleted,
    )
    storage.write_text(spark, storage.join(output, REPORT), erasure.to_json())
    return erasure


def _rows_by_file(
    spark: SparkSession, datasets: Sequence[VisitorDataset], listed: DataFrame
) -> Dict[str, int]:
    """How many rows of these visitors each file has, by its place; files without any are left out."""
    urls = {place(url): url for dataset in datasets for url in dataset.manifest.urls}
    if not urls:
        return {}
    # One column of each file is read, however wide the rows are.
    reader = spark.read.schema(f"{VISITOR} string").option("__globPaths__", "false")
    rows = reader.parquet(*sorted(urls.values())).select(VISITOR, F.col("_metadata.file_path").alias("file"))
    found = rows.join(F.broadcast(listed), VISITOR, "left_semi").groupBy("file").count().collect()
    return {place(row["file"]): row["count"] for row in found}


def _without(
    spark: SparkSession, dataset: VisitorDataset, listed: DataFrame, held: Mapping[str, int], token: str
) -> Manifest:
    """The dataset's manifest with new files in place of those that hold visitors of the list."""
    manifest = dataset.manifest
    old = [entry for entry in manifest.entries if place(entry.url) in held]
    rows = dataset.read(spark, [entry.url for entry in old])
    folder = storage.join(dataset.folder, token)
    kept = rows.join(F.broadcast(listed), VISITOR, "left_anti")
    # A join puts its column first, and COPY goes by position.
    kept.select(*(column.name for column in manifest.columns)).write.parquet(folder)
    new = _measured(spark, dataset, folder)
    expected = sum(entry.record_count - held[place(entry.url)] for entry in old)
    written = sum(entry.record_count for entry in new)
    if written != expected:
        raise AccountingError(
            f"{expected} rows of {dataset.uri} are to stay, but {written} were written: its files do not hold the "
            "rows that it says. Run the job that wrote it again.",
            expected=expected,
            rows=written,
        )
    accounting = manifest.accounting
    if accounting is not None:
        gone = rows.join(F.broadcast(listed), VISITOR, "left_semi")
        accounting = _accounting(manifest, accounting, gone)
    return dataclasses.replace(
        manifest,
        entries=(*(entry for entry in manifest.entries if entry not in old), *new),
        accounting=accounting,
        created_at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _measured(spark: SparkSession, dataset: VisitorDataset, folder: str) -> List[ManifestEntry]:
    """The files under ``folder`` that have a row, as they really are; those that have none are deleted."""
    files = {place(file.uri): file for file in storage.list_files(spark, folder)}
    data = [file.uri for file in files.values() if file.uri.endswith(".parquet")]
    if not data:
        return []
    counted = dataset.read(spark, data).groupBy(F.col("_metadata.file_path").alias("file")).count().collect()
    rows = {place(row["file"]): row["count"] for row in counted}
    for uri in data:
        if place(uri) not in rows:
            storage.delete(spark, uri)
    return [ManifestEntry(files[at].uri, files[at].size, rows[at]) for at in sorted(rows)]


def _accounting(manifest: Manifest, accounting: Accounting, gone: DataFrame) -> Accounting:
    """``accounting`` without the rows ``gone``. Rows that a batch restates for others are in the others' accounting."""
    names = {column.name for column in manifest.columns}
    if manifest.dataset == "events":
        own = gone
        if "dt" in names and "dt" in manifest.partition:
            own = gone.where(F.col("dt") == F.lit(manifest.partition["dt"]).cast("date"))
        (counted,) = own.agg(
            F.count(F.lit(1)).alias("erased"),
            *(F.count(F.when(F.col(flag), 1)).alias(part) for flag, part in _flags(names).items()),
            *(
                [F.count(F.when(F.to_date("ts") != F.col("dt"), 1)).alias("outside_day")]
                if {"ts", "dt"} <= names
                else []
            ),
        ).collect()
        parts: Dict[str, Any] = {
            part: getattr(accounting, part) - counted[part] for part in counted.__fields__ if part != "erased"
        }
        accounting = dataclasses.replace(
            accounting,
            valid=accounting.valid - counted["erased"],
            erased=accounting.erased + counted["erased"],
            **parts,
        )
    elif manifest.dataset == "sessions" and accounting.sessions is not None:
        stated = gone.where(~F.col("retracted")) if "retracted" in names else gone
        accounting = dataclasses.replace(accounting, sessions=accounting.sessions - stated.count())
    accounting.check()
    return accounting


def _flags(names: Set[str]) -> Dict[str, str]:
    flags = {"is_bot": "bots", "is_page_view": "page_views"}
    return {flag: part for flag, part in flags.items() if flag in names}


def _enter(spark: SparkSession, catalog: BatchCatalog, changed: Mapping[str, Manifest]) -> None:
    """Count the days of changed batches anew. Before the manifests: a run that dies in between counts them again."""
    manifests = {place(uri): manifest for uri, manifest in changed.items()}
    for batch in catalog.entries().values():
        manifest = manifests.get(place(batch.manifest))
        if manifest is None:
            continue
        days: Dict[date, int] = {}
        if manifest.urls:
            reader = spark.read.schema("ts timestamp").option("__globPaths__", "false")
            rows = reader.parquet(*manifest.urls).groupBy(F.to_date("ts").alias("day")).count().collect()
            days = {row["day"]: row["count"] for row in rows}
        catalog.put(dataclasses.replace(batch, days=days))


def _delete_unlisted(
    spark: SparkSession,
    datasets: Sequence[VisitorDataset],
    changed: Mapping[str, Manifest],
    replaced: Mapping[str, str],
) -> int:
    """Delete the files that were replaced, and what earlier runs left in the datasets' folders; how many."""
    listed = {place(url) for dataset in datasets for url in changed.get(dataset.uri, dataset.manifest).urls}
    unlisted = dict(replaced)
    for dataset in datasets:
        unlisted.update({place(uri): uri for uri in dataset.files})
    unwanted = [uri for at, uri in sorted(unlisted.items()) if at not in listed]
    for uri in unwanted:
        storage.delete(spark, uri)
    return len(unwanted)


if __name__ == "__main__":
    main(sys.argv[1:])
