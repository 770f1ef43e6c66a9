"""The raw access logs of a day, as they arrived: which files, what is in them, and where in them a line was."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple
from urllib.parse import unquote

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import AccountingError, MissingInputError
from airflow_emr_etl.models.manifest import Accounting, ManifestEntry
from airflow_emr_etl.spark import storage


class LogFiles:
    """Every file under ``inputs``, once. Raise MissingInputError for an input that has none.

    What a run of normalize reads: a :class:`~airflow_emr_etl.spark.replay.Replay` has the same methods.
    """

    already = 0
    """Deliveries of events that an earlier run has."""
    entries: Sequence[ManifestEntry] = ()
    """Files of events that an earlier run has."""

    def __init__(self, spark: SparkSession, inputs: Sequence[str]) -> None:
        self.spark = spark
        self.sizes: Dict[str, int] = {}
        for uri in inputs:
            found = storage.list_files(spark, uri)
            if not found:
                raise MissingInputError(f"There is no log file in {uri}", uri=uri)
            self.sizes.update({file.uri: file.size for file in found})
        self.files = sorted(self.sizes)

    def lines(self) -> DataFrame:
        r"""Lines with ``file``, ``split`` (where the split of the file begins), ``position`` (in the order of the
        lines within a split), ``line`` (the bytes), ``line_bytes`` and ``key``, the identity of the bytes.

        Only ``\n`` ends a line, as for ``wc -l``; an unfinished last line counts as one.
        """
        reader = self.spark.read.option("lineSep", "\n").option("__globPaths__", "false")
        return reader.text(self.files).select(
            "value",
            F.col("_metadata.file_path").alias("file"),
            F.col("_metadata.file_block_start").alias("split"),
            F.monotonically_increasing_id().alias("position"),
            F.col("value").cast("binary").alias("line"),
            F.octet_length("value").cast("bigint").alias("line_bytes"),
            F.unhex(F.sha2(F.col("value").cast("binary"), 256)).alias("key"),
        )

    def check_read(self, lines: int, expected: Optional[int]) -> None:
        """Raise AccountingError unless there are as many lines as the ingest counted, if that is known."""
        if expected is not None and lines != expected:
            raise AccountingError(
                f"{lines} lines were read from {len(self.files)} files, but the ingest counted {expected}. "
                "A file was added, replaced or cut since then; ingest the day again.",
                lines_in=lines,
                expected_lines=expected,
            )

    def numbered(self, bad: DataFrame, splits: Sequence[Row]) -> DataFrame:
        """``bad`` with ``line_number`` and ``listed``, the file's name as the input has it (Spark's own is
        percent-encoded in some versions).

        ``splits`` has ``file``, ``split``, ``lines`` and ``first_position`` of each that has a line.
        """
        listed = {storage.after_scheme(uri): uri for uri in self.files}
        rows: List[Tuple[str, int, int, str]] = []
        before: Dict[str, int] = {}
        for row in sorted(splits, key=lambda row: (row["file"], row["split"])):
            file = row["file"]
            name = listed.get(storage.after_scheme(file)) or listed.get(
                storage.after_scheme(unquote(file)), file
            )
            rows.append((file, row["split"], before.get(file, 0) - row["first_position"] + 1, name))
            before[file] = before.get(file, 0) + row["lines"]
        # What turns a position in the split into a line number of the file.
        shifts = self.spark.createDataFrame(rows, "file string, split bigint, shift bigint, listed string")
        numbered = bad.join(F.broadcast(shifts), ["file", "split"])
        return numbered.withColumn("line_number", F.col("position") + F.col("shift"))

    def counts(self, splits: Sequence[Row]) -> Dict[str, int]:
        """How many files there are, and how many of them have no line."""
        return {
            "files": len(self.files),
            "empty_files": len(self.files) - len({row["file"] for row in splits}),
        }

    def new_events(self, events: DataFrame) -> DataFrame:
        """Those of ``events`` that no earlier run has: all of them."""
        return events

    def whole_day(self, part: Accounting) -> Accounting:
        """The accounting of the day, of which ``part`` is that of the lines that were read: the same."""
        return part

    def release(self) -> None:
        """Nothing is kept."""
