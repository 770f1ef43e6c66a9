"""Small files of a dataset to files of a target size, and its manifest to these. Rows and their order stay.

The new files are in a folder of their own. The manifest is written over the old one when they are complete, and only
then are the old files deleted. ``compaction.json``, beside the manifest, says what is under way: after a crash the next
run deletes what that one left, new files if the manifest does not list them, otherwise the old ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import uuid
from typing import Any, Callable, Dict, List, Optional, Sequence, Set

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import AccountingError, ManifestError, MissingInputError
from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.spark import file_layout, storage
from airflow_emr_etl.spark.batch_catalog import BatchCatalog
from airflow_emr_etl.spark.dataset import PARQUET_OPTIONS, measure_files, read_files, read_manifest
from airflow_emr_etl.spark.file_layout import FileLayout
from airflow_emr_etl.spark.partition_keys import partition_keys
from airflow_emr_etl.spark.session import job_session

NAME = "clickstream_compact"
NOTE = "compaction.json"
_PLACE = "_place"


def parse_arguments(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=NAME, description="Rewrite the small files of datasets.", allow_abbrev=False
    )
    parser.add_argument(
        "--manifest", action="append", required=True, metavar="URI", help="a dataset's manifest; repeatable"
    )
    parser.add_argument(
        "--catalog",
        metavar="URI",
        help="the catalog of batches, where the datasets are in one: files that its other manifests list are kept",
    )
    file_layout.add_arguments(parser)
    arguments = parser.parse_args(argv)
    arguments.layout = file_layout.from_arguments(arguments)
    return arguments


def main(argv: Optional[Sequence[str]] = None) -> None:
    arguments = parse_arguments(argv)
    spark = job_session(NAME)
    try:
        for uri in arguments.manifest:
            before = len(read_manifest(spark, uri).entries)
            after = len(compact(spark, uri, arguments.layout, arguments.catalog).entries)
            print(f"{NAME}: {uri}: {before} files, now {after}")  # noqa: T201 - the step's stdout
    finally:
        spark.stop()


def compact(
    spark: SparkSession,
    uri: str,
    layout: Optional[FileLayout] = None,
    catalog: Optional[str] = None,
    progress: Callable[[str], None] = lambda done: None,
) -> Manifest:
    """Compact the dataset of the manifest at ``uri``, and give the manifest that is there now.

    Nothing is done where there are less than twice as many files as there should be, and a multiple of the slices.
    Old files are left that are in no folder of this dataset, or that another manifest in ``catalog`` lists: a replay's
    manifest lists files of the first run. ``progress`` is told each step that is done. One run at a time for a dataset;
    a reader whose file is gone has to read the manifest again.

    Raise MissingInputError, ManifestError, or AccountingError if rows got lost; the dataset is then as it was.
    """
    layout = layout or FileLayout()
    folder = uri.rsplit("/", 1)[0]
    note = storage.join(folder, NOTE)
    _clean_up(spark, uri, note, catalog)
    old = read_manifest(spark, uri)
    # What has no row has no file.
    wanted, found = min(layout.files(old.content_length), old.record_count), len(old.entries)
    if found == wanted or (found < 2 * wanted and found % layout.slices == 0):
        return old

    attempt = storage.join(folder, f"compacted-{uuid.uuid4().hex}")
    storage.write_text(spark, note, json.dumps({"new": attempt, "old": old.urls}, indent=1) + "\n")
    progress("noted")
    data_folder = _data_folder(attempt, old)
    _in_order(spark, old, wanted).write.options(**PARQUET_OPTIONS).parquet(data_folder)
    progress("written")
    entries, _ = measure_files(spark, data_folder, old.columns)
    new = dataclasses.replace(old, entries=tuple(entries))
    if new.record_count != old.record_count:
        storage.delete(spark, attempt)
        storage.delete(spark, note)
        raise AccountingError(
            f"{uri} lists {old.record_count} rows, but {new.record_count} were read from its files; it stays as it was."
        )
    ours = _read_note(spark, note).get("new") == attempt
    if not ours or read_manifest(spark, uri) != old:
        storage.delete(spark, attempt)
        if ours:
            storage.delete(spark, note)
        raise ManifestError(
            f"{uri} was changed while it was compacted; it is left as it is. Let one run at a time write to it.",
            uri=uri,
        )
    storage.write_text(spark, uri, new.to_json())
    progress("stated")
    _clean_up(spark, uri, note, catalog)
    return new


def _clean_up(spark: SparkSession, uri: str, note: str, catalog: Optional[str]) -> None:
    """Delete what the run that wrote ``note`` left: of its old and its new files those that are not listed."""
    noted = _read_note(spark, note)
    if not noted:
        return
    listed = set(read_manifest(spark, uri).urls)
    if any(url.startswith(noted["new"] + "/") for url in listed):
        own = uri.rsplit("/", 1)[0] + "/"
        kept = listed | _listed_by_others(spark, uri, catalog)
        for url in noted["old"]:
            if url.startswith(own) and url not in kept:
                storage.delete(spark, url)
    else:
        storage.delete(spark, noted["new"])
    storage.delete(spark, note)


def _listed_by_others(spark: SparkSession, uri: str, catalog: Optional[str]) -> Set[str]:
    batches = BatchCatalog(spark, catalog).entries().values() if catalog else ()
    others = {named for batch in batches for named in (batch.manifest, *batch.earlier)} - {uri}
    return {url for other in others for url in read_manifest(spark, other).urls}


def _read_note(spark: SparkSession, note: str) -> Dict[str, Any]:
    try:
        text = storage.read_text(spark, note)
    except MissingInputError:
        return {}
    try:
        document = json.loads(text)
        return {"new": str(document["new"]), "old": [str(url) for url in document["old"]]}
    except (KeyError, TypeError, ValueError):
        # Cut off while it was written, which is before anything else is.
        return {}


def _data_folder(attempt: str, old: Manifest) -> str:
    """As the old files lie, under ``dt=…``, so that readers of folders find their partition."""
    parents = {url.rsplit("/", 2)[-2] for url in old.urls}
    only = next(iter(parents))
    return storage.join(attempt, only) if len(parents) == 1 and only.startswith("dt=") else attempt


def _in_order(spark: SparkSession, old: Manifest, files: int) -> DataFrame:
    """The rows in the order of the manifest, in as many partitions as there are to be files, all equally long."""
    first: List[Any] = []
    position = 0
    for entry in old.entries:
        first.append((entry.url.rsplit("/", 1)[-1], position))
        position += entry.record_count
    names = spark.createDataFrame(first, "_file string, _first bigint")
    rows = read_files(spark, old.urls, old.columns).select(
        "*", F.col("_metadata.file_name").alias("_file"), F.col("_metadata.row_index").alias("_row")
    )
    rows = rows.join(F.broadcast(names), "_file").withColumn(_PLACE, F.col("_first") + F.col("_row"))
    number = F.floor(F.col(_PLACE) * F.lit(files) / F.lit(max(position, 1))).cast("int")
    keys = F.array(*(F.lit(key).cast("int") for key in partition_keys(files)))
    placed = rows.withColumn("_key", F.get(keys, number))
    return (
        placed.repartition(files, "_key")
        .sortWithinPartitions(_PLACE)
        .select(*(column.name for column in old.columns))
    )


if __name__ == "__main__":
    main(sys.argv[1:])
