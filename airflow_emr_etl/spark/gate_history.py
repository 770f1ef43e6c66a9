"""What earlier nights' gates found, read by Spark's file systems."""

from __future__ import annotations

from pyspark.sql import SparkSession

from airflow_emr_etl.exceptions import MissingInputError
from airflow_emr_etl.quality.history import NIGHTS, Past, past_nights
from airflow_emr_etl.spark import storage


def past_of(spark: SparkSession, folder: str, before: str, nights: int = NIGHTS) -> Past:
    """What :func:`past_nights` makes of ``<folder>/dt=<day>/…/result.json``. No folder, no past."""
    try:
        files = storage.list_files(spark, folder)
    except MissingInputError:
        return Past()
    return past_nights(
        [file.uri for file in files], lambda uri: storage.read_text(spark, uri), before, nights
    )
