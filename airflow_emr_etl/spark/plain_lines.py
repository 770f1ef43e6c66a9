"""The lines of a day's logs within Arrow: Python takes plain lines apart, and leaves what is doubtful to Spark.

Nearly all lines of nearly all logs are plain, and to read, move and sort them row by row is most of what normalize
costs. So a task reads whole files, parses their plain lines (``plain_access_log.py``, ``plain_json.py``) and hands
each partition its share of them (``line_shares.py``); doubtful lines go as they are to ``source_reader.py``, and what
is good of them joins the others. Then each partition makes events of its visitors (``event_pass.py``).

One shuffle, by visitor, of as many partitions as the size of the files asks for: no partition has more hits than a
Python worker can hold, on a laptop as on a hundred nodes, as long as no single visitor has.
"""

from __future__ import annotations

import importlib.util
from datetime import date
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.models.log_source import LogSource
from airflow_emr_etl.spark import enrichment, lookup, referrers, user_agents, whole_files
from airflow_emr_etl.spark.dataset import Dataset
from airflow_emr_etl.spark.enrichment import Enrichment
from airflow_emr_etl.spark.file_layout import Expected
from airflow_emr_etl.spark.log_files import LogFiles
from airflow_emr_etl.spark.partition_keys import partition_keys

HITS_A_PARTITION = 500_000
"""Some 300 MB in a Python worker."""

LEAST_HITS_A_PARTITION = 20_000
"""As long as there is no more than one partition for each core: smaller shares cost more than they bring."""

MOST_TEXT_BYTES = 128 << 20
"""Of all distinct user agents, or referrers, that every worker holds."""

_COMPRESSED = (".gz", ".bz2", ".zst")
_LINE_BYTES, _COMPRESSED_LINE_BYTES = 150, 30
"""At the least, about: more partitions than need be cost little."""

_PARTS = "kind tinyint, partition_key int, content binary, file string, position bigint"
_HITS, _DOUBT, _AGENT, _REFERRER, _LINES, _DRIFT = range(6)


class TooManyTextsError(Exception):
    """There are more distinct user agents or referrers than every worker should hold."""


class PlainLines:
    """``given``'s lines of ``source``; :meth:`fits` has to hold. Call :meth:`release` at the end."""

    @staticmethod
    def fits(given: LogFiles, source: LogSource, rules: Enrichment, erased: Sequence[str]) -> bool:
        """Whether all that is asked can be done within Arrow. What cannot be, ``enrichment.py`` does."""
        if any(importlib.util.find_spec(name) is None for name in ("numpy", "pyarrow")):
            return False
        from airflow_emr_etl.spark.plain_json import JsonReader

        readable = all(whole_files.fits_log(uri, size) for uri, size in given.sizes.items())
        known_source = source.kind == "ncsa" or JsonReader.fits(source)
        simple = (
            rules.privacy.mode == "keep" and not rules.internal_networks and not rules.repeat_window_seconds
        )
        return readable and known_source and simple and not erased

    def __init__(self, spark: SparkSession, given: LogFiles, source: LogSource, max_line_bytes: int) -> None:
        self.spark, self.source = spark, source
        expected = sum(
            size // (_COMPRESSED_LINE_BYTES if uri.endswith(_COMPRESSED) else _LINE_BYTES)
            for uri, size in given.sizes.items()
        )
        by_work = min(spark.sparkContext.defaultParallelism, -(-expected // LEAST_HITS_A_PARTITION))
        self.partitions = max(1, by_work, -(-expected // HITS_A_PARTITION))
        self.keys = partition_keys(self.partitions)
        read = _reading(source, max_line_bytes, self.keys)
        files = [uri for uri in given.files if given.sizes[uri]]
        parts = whole_files.whole_files(spark, files).mapInArrow(read, _PARTS)
        self.parts = parts.persist(StorageLevel.DISK_ONLY)
        self._shared: List[Any] = []

    def lines(self) -> DataFrame:
        """The doubtful lines, as ``LogFiles.lines`` gives all of them."""
        line = F.col("content")
        return self.parts.where(F.col("kind") == _DOUBT).select(
            line.cast("string").alias("value"),
            "file",
            F.lit(0).cast("bigint").alias("split"),
            "position",
            line.alias("line"),
            F.octet_length("content").cast("bigint").alias("line_bytes"),
            F.unhex(F.sha2("content", 256)).alias("key"),
        )

    def splits(self) -> Sequence[Row]:
        """How many lines each file has that has any, as ``LogFiles.numbered`` takes it: a file is one split."""
        counted = self.parts.where((F.col("kind") == _LINES) & (F.col("position") > 0))
        return counted.select(
            "file",
            F.lit(0).alias("split"),
            F.col("position").alias("lines"),
            F.lit(0).alias("first_position"),
        ).collect()

    def drift(self) -> Dict[str, int]:
        """How many of the plain lines each message about drift is about."""
        told = (
            self.parts.where(F.col("kind") == _DRIFT)
            .select(F.col("content").cast("string"), "position")
            .collect()
        )
        counts: Dict[str, int] = {}
        for message, lines in told:
            counts[message] = counts.get(message, 0) + lines
        return counts

    def write_events(
        self, to: Dataset, expected: Expected, good: Optional[DataFrame], rules: Enrichment, day: date
    ) -> None:
        """Write all events, as ``enrichment.enrich`` makes them; ``good`` has the doubtful lines that are good, if any.

        Raise TooManyTextsError.
        """
        agents = self._distinct(_AGENT, "user_agent", good)
        known = self._distinct(_REFERRER, "referrer", good)
        agent_table = _collected(enrichment.agents_of(agents))
        referrer_table = _collected(enrichment.known_referrers_of(known, rules))
        shared = self.spark.sparkContext.broadcast((agent_table, referrer_table))
        self._shared.append(shared)
        hits = self.parts.where(F.col("kind") == _HITS).select("partition_key", "content")
        if good is not None:
            hits = hits.unionByName(self._packed(good))
        sites, behaviour = rules.sites, rules.robot_rules

        def made(batches: Iterable[Any]) -> Iterator[Any]:
            import pyarrow

            from airflow_emr_etl.spark import event_pass, line_shares

            pyarrow.set_memory_pool(pyarrow.system_memory_pool())
            agent_rows, referrer_rows = shared.value
            judge = event_pass.Judge(
                day,
                sites,
                behaviour,
                _table(agent_rows, ("user_agent", *user_agents.COLUMNS, "name_reason")),
                _table(referrer_rows, ("referrer", *referrers.COLUMNS)),
            )
            # A task may have several partitions, one after the other.
            for blobs in line_shares.by_partition(batches):
                yield event_pass.events(line_shares.opened(blobs), judge)

        to.write_tables(hits.repartition(self.partitions, "partition_key"), made, expected)

    def release(self) -> None:
        """Give back what is kept."""
        self.parts.unpersist()
        for shared in self._shared:
            shared.destroy()
        self._shared.clear()

    def _distinct(self, kind: int, name: str, good: Optional[DataFrame]) -> DataFrame:
        texts = self.parts.where(F.col("kind") == kind).select(F.col("content").cast("string").alias(name))
        return texts if good is None or name not in good.columns else texts.unionByName(good.select(name))

    def _packed(self, good: DataFrame) -> DataFrame:
        """The shares of lines that Spark has parsed."""
        keys, partitions, page_views = self.keys, self.partitions, self.source.page_views

        def packed(batches: Iterable[Any]) -> Iterator[Any]:
            from airflow_emr_etl.spark import line_shares

            for table in line_shares.gathered(line_shares.of_rows(batch, page_views) for batch in batches):
                for to, blob in line_shares.shares(table, partitions):
                    yield from _as_parts([(_HITS, keys[to], blob, None, None)])

        micros = F.unix_micros("ts").alias("ts")
        given = [
            F.col(name)
            for name in good.columns
            if name not in ("ts", "split", "line", "line_bytes", "reason", "drift")
        ]
        rows = good.select(micros, *given).mapInArrow(packed, _PARTS)
        return rows.select("partition_key", "content")


def _reading(
    source: LogSource, max_line_bytes: int, keys: Sequence[int]
) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """What a task does with its files."""

    def read(batches: Iterable[Any]) -> Iterator[Any]:
        import pyarrow

        from airflow_emr_etl.spark import log_chunks
        from airflow_emr_etl.spark.line_pass import LinePass

        # Arrow's own gives large blocks back at once, and most of the time goes into getting them again.
        pyarrow.set_memory_pool(pyarrow.system_memory_pool())
        # Shares are of all files of a task: each costs some kilobytes, and there may be many small files.
        lines = LinePass(source, max_line_bytes, len(keys))
        for name, file in whole_files.opened(batches):
            lines.begin(name)
            for chunk in log_chunks.chunks_of(name, file):
                lines.feed(chunk)
                yield from _as_parts(
                    (_DOUBT, None, line, name, position) for line, position in lines.doubtful()
                )
                yield from _as_parts((_HITS, keys[to], blob, None, None) for to, blob in lines.shares())
            yield from _as_parts([(_LINES, None, None, name, lines.lines)])
        yield from _as_parts(
            (_HITS, keys[to], blob, None, None) for to, blob in lines.shares(all_of_them=True)
        )
        rows: List[Tuple[Any, ...]] = [(_AGENT, None, text, None, None) for text in lines.agents]
        rows += [(_REFERRER, None, text, None, None) for text in lines.referrers]
        rows += [(_DRIFT, None, message, None, count) for message, count in lines.drift.items()]
        yield from _as_parts(rows)

    return read


def _as_parts(rows: Iterable[Tuple[Any, ...]]) -> Iterator[Any]:
    import pyarrow as pa

    kinds = [
        ("kind", pa.int8()),
        ("partition_key", pa.int32()),
        ("content", pa.binary()),
        ("file", pa.string()),
    ]
    form = pa.schema([*kinds, ("position", pa.int64())])
    columns_: List[Tuple[Any, ...]] = list(zip(*rows))
    if columns_:
        yield pa.RecordBatch.from_arrays(
            [pa.array(list(column), field.type) for column, field in zip(columns_, form)], schema=form
        )


def _collected(table: DataFrame) -> List[Tuple[Any, ...]]:
    """The rows of a table of answers. Raise TooManyTextsError."""
    table = table.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        size = table.agg(
            F.count(F.lit(1)).alias("rows"), F.sum(F.octet_length(table.columns[0])).alias("bytes")
        )
        (row,) = size.collect()
        if row["rows"] > lookup.MOST_BROADCAST_ROWS or (row["bytes"] or 0) > MOST_TEXT_BYTES:
            raise TooManyTextsError
        return [tuple(each) for each in table.collect()]
    finally:
        table.unpersist()


def _table(rows: List[Tuple[Any, ...]], names: Sequence[str]) -> Any:
    import pyarrow as pa

    columns_ = zip(*rows) if rows else ([] for _ in names)
    return pa.table([pa.array(list(column), pa.string()) for column in columns_], list(names))
