"""Every dataset in which visitors are: by the catalog of batches, and by the manifests under folders."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Dict, FrozenSet, Iterable, List, Optional, Sequence, Set
from urllib.parse import unquote

from pyspark.sql import DataFrame, SparkSession

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models import visitor_list
from airflow_emr_etl.models.batch import Batch
from airflow_emr_etl.models.manifest import FILE_NAME, Manifest
from airflow_emr_etl.models.visitor_list import VISITOR
from airflow_emr_etl.spark import storage
from airflow_emr_etl.spark.dataset import read_files, read_manifest


@dataclass(frozen=True)
class VisitorDataset:
    """A complete dataset with a column ``visitor_id``. ``files``: Parquet files in its folder, listed or not."""

    uri: str
    manifest: Manifest
    files: FrozenSet[str]

    @property
    def folder(self) -> str:
        return self.uri.rsplit("/", 1)[0]

    @property
    def columns(self) -> FrozenSet[str]:
        return frozenset(column.name for column in self.manifest.columns)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say where to look, ``catalog`` and ``data``, for :func:`find`."""
    parser.add_argument("--catalog", help="folder of the batches' entries")
    parser.add_argument(
        "--data", action="append", default=[], help="a folder of datasets, at any depth; repeatable"
    )


def find(
    spark: SparkSession, batches: Optional[Iterable[Batch]], folders: Sequence[str]
) -> List[VisitorDataset]:
    """The datasets of ``batches``, former versions too, and of the manifests below ``folders``.

    Lists of visitors are none. Raise MissingInputError or ManifestError for what is not there or broken, and
    ConfigurationError where nothing is given to look in.
    """
    if batches is None and not folders:
        raise ConfigurationError("Say where to look: --catalog, the catalog of batches, or --data, a folder.")
    # Files first, manifests after: what a job writes meanwhile is not taken for litter.
    listed: Dict[str, Set[str]] = {}
    for folder in folders:
        files = [file.uri for file in storage.list_files(spark, folder)]
        listed.update({uri: _data_files(files, uri) for uri in files if uri.endswith(f"/{FILE_NAME}")})
    known = {place(uri) for uri in listed}
    for uri in (uri for batch in batches or () for uri in batch.versions):
        if place(uri) not in known:
            known.add(place(uri))
            files = [file.uri for file in storage.list_files(spark, uri.rsplit("/", 1)[0])]
            listed[uri] = _data_files(files, uri)
    manifests = {uri: read_manifest(spark, uri) for uri in sorted(listed)}
    with_visitors = {
        uri: manifest
        for uri, manifest in manifests.items()
        if any(column.name == VISITOR for column in manifest.columns) and not visitor_list.is_list(manifest)
    }
    # A folder may have other datasets in it.
    others = {
        place(url) for uri, manifest in manifests.items() if uri not in with_visitors for url in manifest.urls
    }
    return [
        VisitorDataset(uri, manifest, frozenset(file for file in listed[uri] if place(file) not in others))
        for uri, manifest in with_visitors.items()
    ]


def read_visitors(spark: SparkSession, uri: str) -> DataFrame:
    """The visitors of the list whose manifest is at ``uri``. Raise MissingInputError or ManifestError."""
    manifest = read_manifest(spark, uri)
    visitor_list.check(manifest, uri)
    return read_files(spark, manifest.urls, manifest.columns)


def place(uri: str) -> str:
    """What spellings of one file agree in: those of :func:`storage.after_scheme`, and ``%20`` and a space."""
    return storage.after_scheme(unquote(uri))


def _data_files(files: Sequence[str], manifest: str) -> Set[str]:
    folder = manifest.rsplit("/", 1)[0] + "/"
    return {uri for uri in files if uri.startswith(folder) and uri.endswith(".parquet")}
