"""The catalog of batches, as files beside the data; see models/batch.py."""

from __future__ import annotations

from typing import Dict

from pyspark.sql import SparkSession

from airflow_emr_etl.exceptions import ManifestError, MissingInputError
from airflow_emr_etl.models.batch import Batch, entry_name
from airflow_emr_etl.spark import storage


class BatchCatalog:
    """The entries under ``uri``. A folder that is not there yet has none."""

    def __init__(self, spark: SparkSession, uri: str) -> None:
        self.spark, self.uri = spark, uri

    def entries(self) -> Dict[str, Batch]:
        """All entries, by name."""
        try:
            files = storage.list_files(self.spark, self.uri)
        except MissingInputError:
            return {}
        found: Dict[str, Batch] = {}
        for file in files:
            try:
                batch = Batch.from_json(storage.read_text(self.spark, file.uri))
            except ManifestError as error:
                raise ManifestError(f"{file.uri}: {error.message}", uri=file.uri) from error
            if file.uri.rsplit("/", 1)[-1] != entry_name(batch.name):
                raise ManifestError(
                    f"{file.uri} is the entry of {batch.name}; it must be named {entry_name(batch.name)}.",
                    uri=file.uri,
                )
            found[batch.name] = batch
        return found

    def put(self, batch: Batch) -> None:
        storage.write_text(self.spark, storage.join(self.uri, entry_name(batch.name)), batch.to_json())
