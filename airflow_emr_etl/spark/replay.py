"""The quarantined lines of a day, read again after a mend, and put together with what was good the first time.

What comes out is the whole day, as one run that never failed would have stated it: the events of the first run, which
are listed where they are and not copied, and those of the lines that can be read now. The rules are in docs/replay.md.
"""

from __future__ import annotations

import dataclasses
from datetime import date
from typing import Dict, List, Mapping, Optional, Sequence

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import AccountingError, ConfigurationError, ManifestError
from airflow_emr_etl.models.log_source import LogSource
from airflow_emr_etl.models.manifest import FILE_NAME, Accounting, Manifest, ManifestEntry
from airflow_emr_etl.spark import robots, storage
from airflow_emr_etl.spark.dataset import Dataset, read_manifest
from airflow_emr_etl.spark.enrichment import Enrichment


class Replay:
    """The output of an earlier run of normalize for ``day``, at ``uri``.

    Raise MissingInputError, ManifestError or AccountingError where that output is not whole, and ConfigurationError
    for what cannot be done without the rest of the day.
    """

    def __init__(
        self, spark: SparkSession, uri: str, day: date, output: str, source: LogSource, rules: Enrichment
    ) -> None:
        if storage.join(uri) == storage.join(output):
            raise ConfigurationError(
                f"--output {output} is what --replay reads; give an output folder of its own to each run."
            )
        if source.kind == "w3c":
            raise ConfigurationError(
                f"The source {source.name!r} reads lines by the #Fields: above them, which the quarantine does not "
                "have. Normalize the day again from its files (--input)."
            )
        if rules.repeat_window_seconds:
            raise ConfigurationError(
                "--dedupe-window-seconds compares with all hits of the day, of which --replay reads only some. "
                "Normalize the day again from its files (--input)."
            )
        self.spark, self.uri, self.day = spark, uri, day
        self.events = self._manifest("events")
        self.quarantine = self._manifest("quarantine")
        assert self.events.accounting is not None
        self.accounting: Accounting = self.events.accounting
        if self.quarantine.record_count != self.accounting.quarantined_lines:
            raise AccountingError(
                f"{uri} has {self.quarantine.record_count} lines in quarantine, but its accounting says "
                f"{self.accounting.quarantined_lines}. Normalize the day again from its files (--input)."
            )
        self.copies = 0
        """Further deliveries of the quarantined lines; known once :meth:`check_read` has been called."""
        self._kept: List[DataFrame] = []
        self.already = 0
        """Deliveries of events that the first run has; known once :meth:`new_events` has been called."""

    def _manifest(self, name: str) -> Manifest:
        uri = storage.join(self.uri, name, FILE_NAME)
        manifest = read_manifest(self.spark, uri)
        if manifest.partition.get("dt") != self.day.isoformat() or manifest.accounting is None:
            raise ManifestError(
                f"{uri} is of {dict(manifest.partition)}, not of the day {self.day}, or has no accounting; --replay "
                "takes what clickstream_normalize wrote for the day that --day says."
            )
        manifest.accounting.check()
        return manifest

    def _read(self, manifest: Manifest) -> DataFrame:
        return Dataset(self.spark, "", manifest.dataset, self.day, manifest.columns).read(manifest.urls)

    def lines(self) -> DataFrame:
        """The lines as normalize reads them from files, each with its place in its first file.

        Of lines that were delivered more than once, the further deliveries are lines as well, each in another file,
        so that whatever counts deliveries counts them again. ``was`` is the reason of a line that the quarantine
        has only the beginning of; NULL for all others.
        """
        stored = self._read(self.quarantine)
        is_cut = F.octet_length("line") < F.col("line_bytes")
        place = F.concat_ws("\n", "file", "line_number")
        delivery = F.explode(F.sequence(F.lit(0), F.col("dropped_copies").cast("int"))).alias("delivery")
        return stored.select("*", delivery).select(
            F.col("line").cast("string").alias("value"),
            # Behind the name of the file itself: of equally many copies the first in this order is kept.
            F.when(F.col("delivery") == 0, F.col("file"))
            .otherwise(F.concat_ws("\n", "file", "delivery"))
            .alias("file"),
            F.lit(0).cast("bigint").alias("split"),
            F.col("line_number").alias("position"),
            "line",
            "line_bytes",
            # Two lines that begin alike are two lines.
            F.unhex(F.sha2(F.when(is_cut, place.cast("binary")).otherwise(F.col("line")), 256)).alias("key"),
            F.when(is_cut, F.col("reason")).alias("was"),
        )

    def check_read(self, lines: int, expected: Optional[int]) -> None:
        """Raise AccountingError unless ``lines`` were to be read, and the whole day has ``expected`` lines."""
        (row,) = self._read(self.quarantine).agg(F.sum("dropped_copies").alias("copies")).collect()
        self.copies = int(row["copies"] or 0)
        listed = self.quarantine.record_count
        if lines != listed + self.copies:
            raise AccountingError(
                f"{listed} quarantined lines and {self.copies} further deliveries of them are listed by {self.uri}, "
                f"but {lines} were read."
            )
        if expected is not None and self.accounting.lines_in != expected:
            raise AccountingError(
                f"The run at {self.uri} was of {self.accounting.lines_in} lines, but the ingest counted {expected}. "
                "A file was added, replaced or cut since then; normalize the day again from its files (--input).",
                lines_in=self.accounting.lines_in,
                expected_lines=expected,
            )

    @property
    def entries(self) -> Sequence[ManifestEntry]:
        """The files of events of the first run."""
        return self.events.entries

    @staticmethod
    def counts(splits: Sequence[Row]) -> Dict[str, int]:
        """Nothing that was not counted by the first run."""
        return {}

    @staticmethod
    def numbered(bad: DataFrame, splits: Sequence[Row]) -> DataFrame:
        """``bad`` with ``line_number`` and ``listed``, the file as the quarantine calls it."""
        return bad.withColumn("line_number", F.col("position")).withColumn("listed", F.col("file"))

    def new_events(self, events: DataFrame) -> DataFrame:
        """``events`` that the first run does not have, judged as the rest of their visitor's day was.

        An event with an id of its own may have come in a second line, which was good.
        """
        events = events.persist(StorageLevel.DISK_ONLY)
        first = self._read(self.events)
        known = first.select("event_id").join(events.select("event_id"), "event_id", "left_semi")
        known = known.persist(StorageLevel.DISK_ONLY)
        self._kept += [events, known]
        (row,) = (
            events.join(known, "event_id", "left_semi")
            .agg(F.sum(1 + F.col("dropped_copies")).alias("deliveries"))
            .collect()
        )
        self.already = int(row["deliveries"] or 0)
        behaved = first.where(F.col("bot_reason").isin(*robots.BEHAVIOURS))
        behaved = behaved.groupBy("visitor_id").agg(F.min("bot_reason").alias("behaved"))
        by_name = F.col("bot_reason").isNotNull() & ~F.col("bot_reason").isin(*robots.BEHAVIOURS)
        reason = F.when(by_name, F.col("bot_reason")).otherwise(F.coalesce("behaved", "bot_reason"))
        return (
            events.join(known, "event_id", "left_anti")
            .join(behaved, "visitor_id", "left")
            .withColumn("bot_reason", reason)
            .withColumn("is_bot", F.col("bot_reason").isNotNull())
            .withColumn("is_page_view", F.col("is_page_view") & ~F.col("is_bot"))
        )

    def whole_day(self, part: Accounting) -> Accounting:
        """The accounting of the day, of which ``part`` is that of the lines that were read again."""
        first = self.accounting
        return dataclasses.replace(
            first,
            valid=first.valid + part.valid,
            quarantined=part.quarantined,
            delivered_twice=first.delivered_twice - self.copies + part.delivered_twice,
            filtered=_sums(first.filtered, part.filtered),
            bots=first.bots + part.bots,
            page_views=first.page_views + part.page_views,
            outside_day=first.outside_day + part.outside_day,
            headers=first.headers + part.headers,
            erased=first.erased + part.erased,
            # The first run has told most of it already, of lines that it could not read as well.
            drift={**part.drift, **first.drift},
        )

    def release(self) -> None:
        for frame in self._kept:
            frame.unpersist()
        self._kept = []


def _sums(left: Mapping[str, int], right: Mapping[str, int]) -> Dict[str, int]:
    return {name: left.get(name, 0) + right.get(name, 0) for name in {**left, **right}}
