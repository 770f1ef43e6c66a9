"""A dataset of an attempt: Parquet files under ``dt=``, and the manifest that says they are complete."""

from __future__ import annotations

from datetime import date, datetime, timezone
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import ManifestError
from airflow_emr_etl.models import manifest as manifests
from airflow_emr_etl.models.manifest import Accounting, Column, Manifest, ManifestEntry
from airflow_emr_etl.spark import file_layout, storage
from airflow_emr_etl.spark.file_layout import Expected

_IDS = ("event_id", "visitor_id", "session_id")

PARQUET_OPTIONS = {
    # They have more values than a dictionary holds: to begin one, and give it up, is work for nothing.
    f"parquet.enable.dictionary#{name}": "false"
    for name in _IDS
}
"""How files are written."""

_BATCH_ROWS = 32_768
"""Of a batch that goes to Spark, some 20 MB."""

_SPARK_TYPES = {
    "TIMESTAMP": "timestamp",
    "DATE": "date",
    "SMALLINT": "smallint",
    "BIGINT": "bigint",
    "BOOLEAN": "boolean",
}


def spark_type(redshift_type: str) -> str:
    """The Spark type whose Parquet form COPY reads into a column of ``redshift_type``."""
    base = redshift_type.split("(")[0]
    if base == "VARCHAR":
        return "string"
    if base == "VARBYTE":
        return "binary"
    return _SPARK_TYPES[base]


def empty(spark: SparkSession, columns: Sequence[Column]) -> DataFrame:
    return spark.createDataFrame([], schema(columns))


def schema(columns: Sequence[Column]) -> str:
    return ", ".join(f"{column.name} {spark_type(column.type)}" for column in columns)


def read_files(spark: SparkSession, urls: Sequence[str], columns: Sequence[Column]) -> DataFrame:
    """``columns`` of exactly these files; an empty frame for none."""
    if not urls:
        return empty(spark, columns)
    # The names are taken as they are, never as patterns; the schema is known, so none is inferred.
    return spark.read.schema(schema(columns)).option("__globPaths__", "false").parquet(*urls)


def measure_files(
    spark: SparkSession, folder: str, columns: Sequence[Column], *sums: SparkColumn
) -> Tuple[List[ManifestEntry], Row]:
    """The files that one write left under ``folder``, with their rows, and ``sums`` over all rows; both read back
    from what is really there."""
    sizes = {
        file.uri.rsplit("/", 1)[-1]: file
        for file in storage.list_files(spark, folder)
        if file.uri.endswith(".parquet")
    }
    if not sizes:
        return [], Row()
    rows = (
        read_files(spark, [file.uri for file in sizes.values()], columns)
        .groupBy(F.col("_metadata.file_name").alias("_file"))
        .agg(F.count(F.lit(1)).alias("_rows"), *sums)
        .collect()
    )
    counted: Dict[str, int] = {row["_file"]: row["_rows"] for row in rows}
    entries = [
        ManifestEntry(file.uri, file.size, counted.get(name, 0))
        for name, file in sizes.items()
        # Spark may write a file without a row to carry the schema; COPY has no use for it.
        if counted.get(name, 0)
    ]
    names = [name for name in (rows[0].__fields__ if rows else []) if not name.startswith("_")]
    return entries, Row(**{name: sum(row[name] or 0 for row in rows) for name in names})


class Dataset:
    """One dataset of one attempt and day, at ``<output>/<name>/dt=<day>/``.

    ``partition`` is what the manifest says that it is of; the day unless given.
    """

    def __init__(
        self,
        spark: SparkSession,
        output: str,
        name: str,
        day: date,
        columns: Sequence[Column],
        partition: Optional[Mapping[str, str]] = None,
    ) -> None:
        self.spark = spark
        self.name = name
        self.day = day
        self.columns = tuple(columns)
        self.folder = storage.join(output, name)
        self.data_folder = storage.join(self.folder, f"dt={day.isoformat()}")
        self.partition = partition or {"dt": day.isoformat()}
        self.manifest_uri = storage.join(self.folder, manifests.FILE_NAME)

    def write(self, rows: DataFrame, expected: Optional[Expected] = None) -> None:
        """Write the files, in place of what an earlier start of the same attempt left.

        The manifest goes first, so that a crash in between can never leave an old one over new files.

        With ``expected``, the session's :class:`FileLayout` says how many files there are at the most: tasks are put
        together, and rows of a task that has too many are cut. Neither moves a row; so where there are fewer tasks,
        there are fewer files.
        """
        storage.delete(self.spark, self.manifest_uri)
        typed = self._typed(rows)
        writer = typed.write
        if expected is not None:
            layout = file_layout.of_session(self.spark)
            files = layout.files(expected.bytes, self.spark.sparkContext.defaultParallelism)
            writer = typed.coalesce(files).write.option(
                "maxRecordsPerFile", layout.most_rows(expected.row_bytes)
            )
        writer.mode("overwrite").options(**PARQUET_OPTIONS).parquet(self.data_folder)

    def write_tables(
        self,
        source: DataFrame,
        tables: Callable[[Iterable[Any]], Iterator[Any]],
        expected: Expected,
        rows: Optional[DataFrame] = None,
    ) -> None:
        """The same as :meth:`write`, for what ``tables`` makes of the Arrow batches of partitions of ``source``:
        tables in Arrow, whose texts may be dictionaries. ``rows``, if given, are written too.

        Where the folder is on the machine itself, tasks write the files, without a way through Spark's rows, which is
        most of what a write costs. Elsewhere Spark writes them, with its file system, credentials and committer.
        """
        from airflow_emr_etl.spark.parquet_parts import show

        folder = storage.local_path(self.spark, self.data_folder)
        if folder is None:
            made = source.mapInArrow(in_rows(tables), schema(self.columns))
            self.write(made if rows is None else made.unionByName(self._typed(rows)), expected)
            return
        for uri in (self.manifest_uri, self.data_folder):
            storage.delete(self.spark, uri)
        layout = file_layout.of_session(self.spark)
        files = layout.files(expected.bytes, self.spark.sparkContext.defaultParallelism)
        most_rows = layout.most_rows(expected.row_bytes)
        written = source.coalesce(files).mapInArrow(_in_files(tables, folder, most_rows), "name string")
        names = {row["name"] for row in written.collect()}
        show(folder, names)
        if rows is not None:
            self._typed(rows).write.mode("append").options(**PARQUET_OPTIONS).parquet(self.data_folder)

    def _typed(self, rows: DataFrame) -> DataFrame:
        return rows.select(*(F.col(c.name).cast(spark_type(c.type)).alias(c.name) for c in self.columns))

    def measure(self, *sums: SparkColumn) -> Tuple[List[ManifestEntry], Row]:
        """Its files and ``sums``, as :func:`measure_files` says."""
        return measure_files(self.spark, self.data_folder, self.columns, *sums)

    def read(self, urls: Sequence[str]) -> DataFrame:
        """The rows of exactly these files; an empty frame of the same schema for none."""
        return read_files(self.spark, urls, self.columns)

    def finish(
        self,
        entries: Sequence[ManifestEntry],
        job: str,
        accounting: Optional[Accounting],
        restatement: Optional[int] = None,
    ) -> Manifest:
        """Write the manifest: from here on the dataset is complete."""
        manifest = Manifest(
            dataset=self.name,
            partition=self.partition,
            job=job,
            created_at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            entries=tuple(entries),
            columns=self.columns,
            accounting=accounting,
            restatement=restatement,
        )
        storage.write_text(self.spark, self.manifest_uri, manifest.to_json())
        return manifest


def in_rows(tables: Callable[[Iterable[Any]], Iterator[Any]]) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """What gives Spark the rows of ``tables``."""

    def made(batches: Iterable[Any]) -> Iterator[Any]:
        from airflow_emr_etl.spark.parquet_parts import without_dictionaries

        for table in tables(batches):
            for begin in range(0, table.num_rows, _BATCH_ROWS):
                yield from without_dictionaries(table.slice(begin, _BATCH_ROWS)).to_batches()

    return made


def _in_files(
    tables: Callable[[Iterable[Any]], Iterator[Any]], folder: str, most_rows: int
) -> Callable[[Iterable[Any]], Iterator[Any]]:
    def made(batches: Iterable[Any]) -> Iterator[Any]:
        import pyarrow

        from airflow_emr_etl.spark.parquet_parts import PartFiles

        for name in PartFiles(folder, most_rows, _IDS).write(tables(batches)):
            yield pyarrow.RecordBatch.from_pydict({"name": [name]})

    return made


def read_manifest(spark: SparkSession, uri: str) -> Manifest:
    """The manifest at ``uri``. Raise MissingInputError or ManifestError, naming ``uri``."""
    text = storage.read_text(spark, uri)
    try:
        return Manifest.from_json(text)
    except ManifestError as error:
        raise ManifestError(f"{uri}: {error.message}", uri=uri) from error
