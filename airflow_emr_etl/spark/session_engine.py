"""Events to sessions with one shuffle; see session_shuffle.py for what goes through it.

Correct for any number of partitions: a visitor's hits are all in one. Sized by rows, so that a partition's hits fit a
Python worker's memory on a laptop as on a hundred nodes; only the number of partitions grows.
"""

from __future__ import annotations

import importlib.util
from functools import reduce
from typing import Any, Iterable, Iterator, List, Optional, Sequence

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.manifest import ManifestEntry
from airflow_emr_etl.models.session_rules import SessionRules
from airflow_emr_etl.spark import whole_files
from airflow_emr_etl.spark.partition_keys import partition_keys

HITS_A_PARTITION = 1_000_000
"""Some 150 MB in a Python worker."""


class Hits:
    """Hits of one source on their way to :func:`sessions_of`.

    ``owner`` and ``kind`` are those of all of them; see session_shuffle.HITS and session_pass. ``numbered``: whether
    they say in which file they are.
    """

    numbered = False

    def __init__(self, spark: SparkSession, owner: int, kind: int) -> None:
        self.spark, self.owner, self.kind = spark, owner, kind

    def shares(self, rules: SessionRules, keys: Sequence[int]) -> DataFrame:
        """Them as ``session_shuffle.SHARES``, for one partition each of ``keys``."""
        raise NotImplementedError

    def _packed(
        self, rows: DataFrame, rules: SessionRules, keys: Sequence[int], read: Any = None
    ) -> DataFrame:
        owner, kind = self.owner, self.kind

        def packed(batches: Iterable[Any]) -> Iterator[Any]:
            import pyarrow

            from airflow_emr_etl.spark import session_shuffle

            # Arrow's own gives large blocks back at once, and most of the time goes into getting them again.
            pyarrow.set_memory_pool(pyarrow.system_memory_pool())
            hits = batches if read is None else read(batches)
            return session_shuffle.pack(hits, rules, keys, owner, kind)

        return rows.mapInArrow(packed, "partition_key int, hits binary")


class HitRows(Hits):
    """The rows of ``events``, which has visitor_id, ts, event_id, is_page_view, path and, if it matters, referrer;
    for rules that cut also ``cut_key`` (bigint) or ``cut_day`` (int).

    ``owner`` (int) and ``kind`` (tinyint), where it has them, are told hit by hit. Each string that goes to Python
    costs as much as five numbers, so event ids go as :func:`event_hash`.
    """

    def __init__(self, events: DataFrame, owner: int = 0, kind: int = 1) -> None:
        super().__init__(events.sparkSession, owner, kind)
        self.events = events

    def shares(self, rules: SessionRules, keys: Sequence[int]) -> DataFrame:
        from airflow_emr_etl.spark import session_shuffle

        columns: List[Column] = []
        for name in session_shuffle.HITS.names:
            if name == "event":
                columns.append(event_hash().alias(name))
            elif name == "ts":
                columns.append(F.unix_micros(F.col("ts").cast("timestamp")).alias(name))
            elif name in self.events.columns:
                columns.append(F.col(name))
        return self._packed(self.events.select(*columns), rules, keys)


class HitFiles(Hits):
    """All rows of Parquet files, which Python takes apart itself: no row is made of them.

    ``whole_files.py`` says how they get there. For rules without cuts, and for files that a task can hold twice; see
    :func:`fit`.

    With ``numbered``, sessions say which of the files have their visitors' hits.
    """

    MOST_BYTES = whole_files.MOST_BYTES

    def __init__(
        self,
        spark: SparkSession,
        files: Sequence[str],
        owner: int = 0,
        kind: int = 1,
        referrer: bool = True,
        numbered: bool = False,
    ) -> None:
        super().__init__(spark, owner, kind)
        self.files, self.numbered = files, numbered
        self._paths: Optional[List[str]] = None
        self.texts = ("visitor_id", "path", "referrer") if referrer else ("visitor_id", "path")

    @classmethod
    def fit(cls, files: Sequence[ManifestEntry], rules: SessionRules) -> bool:
        """Whether these files can be read so."""
        cut = bool(rules.cut_on) or rules.midnight_zone is not None
        return not cut and 0 < max((file.content_length for file in files), default=0) <= cls.MOST_BYTES

    def shares(self, rules: SessionRules, keys: Sequence[int]) -> DataFrame:
        texts = self.texts

        def read(batches: Iterable[Any]) -> Iterator[Any]:
            from airflow_emr_etl.spark import session_files

            return session_files.hits_of(batches, texts)

        return self._packed(self.found(), rules, keys, read)

    def found(self) -> DataFrame:
        """``path`` and ``content`` of each file, of local ones only the path; where they are numbered, ``file`` too, a
        number from 0 on."""
        rows = whole_files.whole_files(self.spark, self.files)
        if not self.numbered:
            return rows
        if self._paths is None:
            # How its file system spells a path, only Spark knows.
            self._paths = sorted(row["path"] for row in rows.select("path").collect())
        # Before Spark 4, array_position as a function takes no column for the value.
        rows = rows.withColumn("paths", F.array(*map(F.lit, self._paths)))
        number = F.expr("CAST(array_position(paths, path) - 1 AS INT)")
        return rows.select(number.alias("file"), "path", "content")


def sessions_of(hits: Sequence[Hits], rules: SessionRules, rows: Optional[int] = None) -> DataFrame:
    """The sessions of ``hits``: ``session_pass.OUTPUT`` with times, and ``session_id``.

    ``rows``, if known, sizes the partitions. Events of one visitor, time and id count once.

    Where hits are numbered, there are also ``files``, the numbers of the files that have hits of the session's visitor,
    and ``elsewhere``, whether this visitor has hits (that are not gone) beside them.
    """
    _check_arrow()
    spark = hits[0].spark
    keys = partition_keys(partition_count(spark, rows))
    numbered = any(each.numbered for each in hits)

    def found(batches: Iterable[Any]) -> Iterator[Any]:
        from airflow_emr_etl.spark import session_pass, session_shuffle

        visitors, in_order = session_shuffle.unpack(batches)
        for batch in session_pass.sessions(in_order, rules):
            visitor = batch.column(0)
            batch = batch.set_column(0, "visitor_id", visitors.ids.take(visitor))
            if numbered:
                batch = batch.append_column("files", visitors.files.take(visitor))
                batch = batch.append_column("elsewhere", visitors.elsewhere.take(visitor))
            yield batch

    shares = reduce(DataFrame.unionByName, (each.shares(rules, keys) for each in hits))
    out = shares.repartition(len(keys), "partition_key").mapInArrow(found, _schema(numbered))
    times = ("started_at", "ended_at", "restates_from", "restates_to")
    return out.withColumns({name: F.timestamp_micros(name) for name in times}).withColumn(
        "session_id", F.sha2(F.concat_ws(":", "visitor_id", F.hex("first_event")), 256)
    )


def event_hash() -> Column:
    """What orders the events of one visitor and time, and tells them apart: 64 bits of the event's id."""
    return F.xxhash64("event_id")


def partition_count(spark: SparkSession, rows: Optional[int]) -> int:
    """Enough partitions for every core, and for ``rows`` to fit."""
    cores = spark.sparkContext.defaultParallelism
    if rows is None:
        return max(cores, int(spark.conf.get("spark.sql.shuffle.partitions") or 200))
    return max(cores, -(-rows // HITS_A_PARTITION))


def _check_arrow() -> None:
    missing = [name for name in ("numpy", "pyarrow") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"This Python has no {' and no '.join(missing)}, which sessions are found with. On a cluster, the "
            "bootstrap action install_great_expectations.sh of airflow_emr_etl.quality installs both; point "
            "spark.pyspark.python at its Python. Elsewhere, pip install 'airflow-emr-etl[spark]'."
        )


def _schema(numbered: bool) -> str:
    from airflow_emr_etl.spark import session_pass

    names = {"string": "string", "int64": "bigint", "bool": "boolean"}
    fields = [f"{field.name} {names[str(field.type)]}" for field in session_pass.OUTPUT]
    more = ["files array<int>", "elsewhere boolean"] if numbered else []
    return ", ".join(["visitor_id string", *fields[1:], *more])
