"""Every dataset in which visitors are: by the catalog of batches, and by the manifests under folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, FrozenSet, List, Optional, Sequence, Set
from urllib.parse import unquote

from pyspark.sql import DataFrame, SparkSession

from airflow_emr_etl.exceptions import ConfigurationError, ManifestError
from airflow_emr_etl.models.manifest import FILE_NAME, Manifest
from airflow_emr_etl.spark import storage
from airflow_emr_etl.spark.batch_catalog import BatchCatalog
from airflow_emr_etl.spark.dataset import read_manifest, schema

VISITOR = "visitor_id"


@dataclass(frozen=True)
class VisitorDataset:
    """A complete dataset with a column ``visitor_id``. ``files``: Parquet files in its folder, listed or not."""

    uri: str
    manifest: Manifest
    files: FrozenSet[str]

    @property
    def folder(self) -> str:
        return self.uri.rsplit("/", 1)[0]

    def read(self, spark: SparkSession, urls: Sequence[str]) -> DataFrame:
        reader = spark.read.schema(schema(self.manifest.columns)).option("__globPaths__", "false")
        return reader.parquet(*urls)


def find(
    spark: SparkSession, catalog: Optional[str], folders: Sequence[str], without: Optional[str] = None
) -> List[VisitorDataset]:
    """The datasets of the batches in ``catalog``, former versions too, and of the manifests below ``folders``.

    ``without``: the URI of a manifest that is not one of them. Raise MissingInputError or ManifestError for what is
    not there or broken, and ConfigurationError where nothing is given to look in.
    """
    if catalog is None and not folders:
        raise ConfigurationError("Say where to look: --catalog, the catalog of batches, or --data, a folder.")
    listed: Dict[str, Set[str]] = {}
    for folder in folders:
        # Files first, manifests after: what a job writes meanwhile is not taken for litter.
        files = [file.uri for file in storage.list_files(spark, folder)]
        for uri in files:
            if uri.rsplit("/", 1)[-1] == FILE_NAME:
                listed[uri] = _data_files(files, uri)
    known = {place(uri) for uri in listed}
    batches = {} if catalog is None else BatchCatalog(spark, catalog).entries()
    for batch in batches.values():
        for uri in (batch.manifest, *batch.earlier):
            if place(uri) not in known:
                known.add(place(uri))
                files = [file.uri for file in storage.list_files(spark, uri.rsplit("/", 1)[0])]
                listed[uri] = _data_files(files, uri)
    found = []
    for uri, data_files in sorted(listed.items()):
        if without is not None and place(uri) == place(without):
            continue
        manifest = read_manifest(spark, uri)
        if any(column.name == VISITOR for column in manifest.columns):
            found.append(VisitorDataset(uri, manifest, frozenset(data_files)))
    return found


def read_visitors(spark: SparkSession, uri: str) -> DataFrame:
    """The visitors of the list that clickstream_erasure_list wrote, by its manifest. ManifestError otherwise."""
    manifest = read_manifest(spark, uri)
    if [column.name for column in manifest.columns] != [VISITOR] or not manifest.urls:
        raise ManifestError(
            f"{uri} is no list of visitors. Give visitors/{FILE_NAME} of what clickstream_erasure_list wrote.",
            uri=uri,
        )
    rows = spark.read.schema(schema(manifest.columns)).option("__globPaths__", "false")
    return rows.parquet(*manifest.urls)


def place(uri: str) -> str:
    """What two spellings of one file agree in: ``s3`` and ``s3a``, ``file:/x`` and ``/x``, ``%20`` and a space."""
    return re.sub("^[A-Za-z][A-Za-z0-9+.-]*:", "", unquote(uri)).lstrip("/")


def _data_files(files: Sequence[str], manifest: str) -> Set[str]:
    folder = manifest.rsplit("/", 1)[0] + "/"
    return {uri for uri in files if uri.startswith(folder) and uri.endswith(".parquet")}
