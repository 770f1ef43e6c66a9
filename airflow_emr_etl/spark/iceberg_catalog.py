"""Iceberg as this Spark has it, or has it not, and the names of its tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from airflow_emr_etl.exceptions import ConfigurationError

_CATALOG_CLASS = "org.apache.iceberg.spark.SparkCatalog"
_ANY_CATALOG_CLASS = "org.apache.iceberg.spark.BaseCatalog"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,254}")
_NOT_NEEDED = (
    "Nothing was read or written; the Parquet datasets and their manifests are complete without Iceberg."
)


@dataclass(frozen=True)
class TableName:
    """``catalog.database.table``. The one place that quotes names for Iceberg."""

    catalog: str
    database: str
    table: str

    @classmethod
    def parse(cls, text: str) -> TableName:
        """Raise ConfigurationError for anything but three plain names; nothing is escaped."""
        parts = text.split(".")
        if len(parts) != 3 or not all(_NAME.fullmatch(part) for part in parts):
            raise ConfigurationError(
                f"{text!r:.300} is no name for an Iceberg table here. Write catalog.database.table, such as "
                "lake.analytics.events, each of letters, digits, _ and -, where the catalog is one that "
                "spark.sql.catalog.<name> sets up.",
                value=text,
            )
        return cls(*parts)

    @property
    def sql(self) -> str:
        return ".".join(quote(part) for part in (self.catalog, self.database, self.table))

    def __str__(self) -> str:
        return f"{self.catalog}.{self.database}.{self.table}"


def quote(name: str) -> str:
    """``events`` → `` `events` ``. Raise ConfigurationError for anything but a plain name."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r:.200} is no plain name: letters, digits, _ and -.", value=name)
    return f"`{name}`"


def require(spark: SparkSession, catalog: str) -> None:
    """Raise ConfigurationError unless this Spark has Iceberg's classes, and ``catalog`` set up to use them.

    Reads nothing but Spark's own settings and class path.
    """
    if not _has_class(spark, _CATALOG_CLASS):
        raise ConfigurationError(
            f"Iceberg is not on this Spark's class path: there is no {_CATALOG_CLASS}. EMR (6.5 and later) has the "
            "jars where the cluster's configurations have the classification iceberg-defaults with "
            "iceberg.enabled=true; elsewhere, add the iceberg-spark-runtime jar of your Spark and Scala with --jars. "
            f"{_settings(catalog)} {_NOT_NEEDED}",
            catalog=catalog,
        )
    key = f"spark.sql.catalog.{catalog}"
    found = spark.conf.get(key, None)
    if found is None:
        raise ConfigurationError(
            f"This Spark has Iceberg, but no catalog {catalog!r}: {key} is not set. {_settings(catalog)} {_NOT_NEEDED}",
            catalog=catalog,
        )
    if not _is_iceberg(spark, found):
        raise ConfigurationError(
            f"The catalog {catalog!r} is no Iceberg catalog: {key} is {found}, which is absent or none of Iceberg's. "
            f"{_settings(catalog)} {_NOT_NEEDED}",
            catalog=catalog,
        )


def _settings(catalog: str) -> str:
    key = f"spark.sql.catalog.{catalog}"
    return (
        f"A catalog needs, for Glue: {key}={_CATALOG_CLASS}, "
        f"{key}.catalog-impl=org.apache.iceberg.aws.glue.GlueCatalog and {key}.warehouse=s3://bucket/prefix, given to "
        "spark-submit with --conf or in the classification spark-defaults."
    )


def _loader(spark: SparkSession) -> Any:
    # Jars that came with --jars are known to this one, and not to that of py4j.
    jvm: Any = spark.sparkContext._jvm
    return jvm.java.lang.Thread.currentThread().getContextClassLoader()


def _has_class(spark: SparkSession, name: str) -> bool:
    try:
        _loader(spark).loadClass(name)
    except Py4JJavaError:
        return False
    return True


def _is_iceberg(spark: SparkSession, name: str) -> bool:
    try:
        loader = _loader(spark)
        return bool(loader.loadClass(_ANY_CATALOG_CLASS).isAssignableFrom(loader.loadClass(name)))
    except Py4JJavaError:
        return False
