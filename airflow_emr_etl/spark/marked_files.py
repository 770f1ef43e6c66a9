"""Files of events and sessions to events with ``session_id``, file by file: what is shuffled is marks, not events.

See session_marks.py for what a mark is. For one task a file; so there are as many tasks as files, and their marks, like
all that a task holds, do not grow with the number of files.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from airflow_emr_etl.models.manifest import Column
from airflow_emr_etl.spark import dataset
from airflow_emr_etl.spark.dataset import in_rows
from airflow_emr_etl.spark.partition_keys import partition_keys
from airflow_emr_etl.spark.session_engine import HitFiles

_SENT = "partition_key int, path string, piece int, content binary, marks binary"


class MarkedFiles:
    """``columns`` of the events in ``files`` that are in a session of ``found``, of which ``session_id`` is one.

    ``sent`` has the files and marks, a partition for each file, and :meth:`tables` takes each to its events.
    ``found`` is what ``sessions_of`` made of these (numbered) files, and perhaps of more hits; but all sessions of a
    visitor, or none. An event that is in a file twice is there twice in the outcome.
    """

    def __init__(self, files: HitFiles, found: DataFrame, columns: Sequence[Column]) -> None:
        self.columns = columns
        keys = partition_keys(len(files.files))

        def files_sent(batches: Iterable[Any]) -> Iterator[Any]:
            from airflow_emr_etl.spark import session_marks

            return session_marks.files_sent(batches, keys)

        def marks_sent(batches: Iterable[Any]) -> Iterator[Any]:
            from airflow_emr_etl.spark import session_marks

            return session_marks.marks_sent(batches, keys)

        there = files.found().mapInArrow(files_sent, _SENT)
        marks = _marks(found).mapInArrow(marks_sent, _SENT)
        self.sent = there.unionByName(marks).repartition(len(keys), "partition_key")

    @property
    def tables(self) -> Callable[[Iterable[Any]], Iterator[Any]]:
        """A function for ``Dataset.write_tables``."""
        columns = self.columns

        def tables(batches: Iterable[Any]) -> Iterator[Any]:
            import pyarrow

            from airflow_emr_etl.spark import session_marks

            # As in the engine.
            pyarrow.set_memory_pool(pyarrow.system_memory_pool())
            schema = arrow_schema(columns)
            # A task may have several files, one after the other.
            for of_file in session_marks.by_file(batches):
                for content, marks in session_marks.received(of_file):
                    for batch in session_marks.with_sessions(content, marks, schema):
                        yield pyarrow.Table.from_batches([batch])

        return tables

    def rows(self) -> DataFrame:
        """The events as Spark's rows."""
        return self.sent.mapInArrow(in_rows(self.tables), dataset.schema(self.columns))


def _marks(found: DataFrame) -> DataFrame:
    return found.where(~F.col("retracted")).select(
        "visitor_id",
        F.unix_micros("started_at").alias("ts"),
        F.col("first_event").alias("event"),
        F.unix_micros("restates_to").alias("until"),
        "session_id",
        "files",
    )


def arrow_schema(columns: Sequence[Column]) -> Any:
    """The pyarrow schema in which Spark takes these columns."""
    import pyarrow

    types = {
        "string": pyarrow.string(),
        "timestamp": pyarrow.timestamp("us", "UTC"),
        "date": pyarrow.date32(),
        "smallint": pyarrow.int16(),
        "bigint": pyarrow.int64(),
        "boolean": pyarrow.bool_(),
        "binary": pyarrow.binary(),
    }
    return pyarrow.schema([(column.name, types[dataset.spark_type(column.type)]) for column in columns])
