"""Normalize and sessionize as a stream, over log files as they arrive.

Each micro-batch of new files is a batch: the very functions of clickstream_normalize and clickstream_sessionize run
over it, and the catalog of batches gives it the hits of earlier ones that its sessions depend on. So all micro-batches
together say what one run over all files says. The rules are in docs/streaming.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from datetime import date
from typing import Any, Dict, List, Optional, Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from airflow_emr_etl.exceptions import ConfigurationError, MissingInputError
from airflow_emr_etl.models.log_source import LogSource
from airflow_emr_etl.models.manifest import BATCH, FILE_NAME
from airflow_emr_etl.models.session_rules import SessionRules
from airflow_emr_etl.spark import enrichment, storage
from airflow_emr_etl.spark.arguments import iso_day, whole_number
from airflow_emr_etl.spark.batch_catalog import BatchCatalog
from airflow_emr_etl.spark.dataset import read_manifest
from airflow_emr_etl.spark.enrichment import Enrichment
from airflow_emr_etl.spark.jobs.clickstream_normalize import (
    add_line_arguments,
    check_line_arguments,
    normalize,
)
from airflow_emr_etl.spark.jobs.clickstream_sessionize import add_rules, rules_of, sessionize
from airflow_emr_etl.spark.line_parser import MAX_LINE_BYTES
from airflow_emr_etl.spark.session import job_session
from airflow_emr_etl.spark.source_reader import load_source
from airflow_emr_etl.spark.stream_files import ArrivedFile, batch_name, by_day
from airflow_emr_etl.spark.stream_quarantine import write_new_lines

NAME = "clickstream_stream"
AVAILABLE_NOW = "available-now"
MAX_FILES = 1000

_INTERVAL = re.compile(r"[1-9]\d* (?:seconds?|minutes?)")
_FILES = "path string, modificationTime timestamp, length bigint, content binary"


def parse_arguments(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=NAME, description="Turn log files into events and sessions as they arrive.", allow_abbrev=False
    )
    parser.add_argument("--input", required=True, help="the folder where log files arrive, at any depth")
    parser.add_argument("--output", required=True, help="folder of this stream alone")
    parser.add_argument("--checkpoint", required=True, help="folder of what was read already; keep it")
    parser.add_argument("--catalog", help="folder of the batches' entries; <output>/catalog by default")
    parser.add_argument(
        "--trigger",
        default=AVAILABLE_NOW,
        help=f"{AVAILABLE_NOW}: take what is there, and end; or how often to look, such as '5 minutes'",
    )
    parser.add_argument(
        "--max-files", type=whole_number, default=MAX_FILES, help="take at most so many in one micro-batch"
    )
    parser.add_argument(
        "--day",
        type=iso_day,
        help="the UTC day of all files; by default that of their folder or of their arrival",
    )
    add_line_arguments(parser)
    add_rules(parser)
    arguments = parser.parse_args(argv)
    check_line_arguments(arguments)
    arguments.rules = rules_of(arguments)
    _check_trigger(arguments.trigger)
    return arguments


def main(argv: Optional[Sequence[str]] = None) -> None:
    arguments = parse_arguments(argv)
    spark = job_session(NAME)
    try:
        query = start(
            spark,
            input_folder=arguments.input,
            checkpoint=arguments.checkpoint,
            sink=MicroBatches(
                spark,
                output=arguments.output,
                catalog=arguments.catalog,
                day=arguments.day,
                source=load_source(spark, arguments.source, arguments.log_format),
                rules=enrichment.from_arguments(spark, arguments),
                session_rules=arguments.rules,
                max_line_bytes=arguments.max_line_bytes,
            ),
            trigger=arguments.trigger,
            max_files=arguments.max_files,
        )
        query.awaitTermination()
    finally:
        spark.stop()


def start(
    spark: SparkSession,
    input_folder: str,
    checkpoint: str,
    sink: MicroBatches,
    trigger: str = AVAILABLE_NOW,
    max_files: int = MAX_FILES,
) -> StreamingQuery:
    """Start the query; see the module. Raise ConfigurationError for options that are not valid.

    What a micro-batch raises ends the query, and is the cause of what its ``awaitTermination`` raises; started again,
    the query begins with that micro-batch.
    """
    _check_trigger(trigger)
    if not max_files:
        raise ConfigurationError("--max-files is 0; at least one file has to be taken in a micro-batch.")
    if not _INTERVAL.fullmatch(trigger):
        timing: Dict[str, Any] = {"availableNow": True}
    else:
        timing = {"processingTime": trigger}
    files = (
        # Files, not lines: the lines are read by normalize. Without its column content, this format opens no file.
        spark.readStream.format("binaryFile")
        .schema(_FILES)
        .option("recursiveFileLookup", "true")
        .option("maxFilesPerTrigger", str(max_files))
        # By default, files that are a week older than the newest would never be read, without a word.
        .option("maxFileAge", "36500d")
        .load(input_folder)
        .select("path", "length", F.unix_millis("modificationTime").alias("modified"))
    )
    writer = files.writeStream.queryName(NAME).option("checkpointLocation", checkpoint)
    return writer.foreachBatch(sink.write).trigger(**timing).start()


class MicroBatches:
    """What is done with each micro-batch, under ``output``:

    - ``normalized/<name>/``: what normalize made of its files;
    - ``batches/<name>/``: the datasets ``events``, ``sessions``, ``quarantine`` and ``quarantine_counts``.

    Files of several days make a batch each. A batch whose last manifest is there is done, and is left as it is: so a
    micro-batch that comes again after a crash is done once.
    """

    def __init__(
        self,
        spark: SparkSession,
        output: str,
        catalog: Optional[str] = None,
        day: Optional[date] = None,
        source: Optional[LogSource] = None,
        rules: Optional[Enrichment] = None,
        session_rules: Optional[SessionRules] = None,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        """Raise ConfigurationError for rules that no stream can follow."""
        self.spark, self.output, self.day = spark, output, day
        self.catalog = catalog or storage.join(output, "catalog")
        self.source, self.rules = source, rules or Enrichment()
        self.session_rules, self.max_line_bytes = session_rules, max_line_bytes
        if self.rules.repeat_window_seconds:
            raise ConfigurationError(
                f"--dedupe-window-seconds is {self.rules.repeat_window_seconds}; a stream takes only 0. Which of two "
                "equal requests is the repeated one would change with files that are still to come."
            )

    def write(self, frame: DataFrame, batch_id: int) -> None:
        """For ``foreachBatch``: ``frame`` has path, length and modified (milliseconds since 1970) of the new files."""
        files = [ArrivedFile(row["path"], row["length"], row["modified"]) for row in frame.collect()]
        for day, of_day in sorted(by_day(files, self.day).items()):
            self._write_day(batch_name(batch_id, day, of_day), day, of_day)

    def output_of(self, name: str) -> str:
        return storage.join(self.output, "batches", name)

    def _write_day(self, name: str, day: date, files: Sequence[ArrivedFile]) -> None:
        if self._is_done(name):
            return
        arrived = storage.join(self.output, "normalized", name)
        accounting = normalize(
            self.spark,
            inputs=[file.path for file in files],
            day=day,
            output=arrived,
            max_line_bytes=self.max_line_bytes,
            rules=self.rules,
            source=self.source,
        )
        accounting = write_new_lines(
            self.spark,
            job=NAME,
            arrived=arrived,
            earlier=self._earlier(name, day),
            output=self.output_of(name),
            day=day,
            accounting=accounting,
            partition={BATCH: name},
        )
        uri = storage.join(arrived, "events", FILE_NAME)
        stated = dataclasses.replace(read_manifest(self.spark, uri), accounting=accounting)
        storage.write_text(self.spark, uri, stated.to_json())
        accounting = sessionize(
            self.spark,
            source=arrived,
            day=day,
            output=self.output_of(name),
            rules=self.session_rules,
            catalog=self.catalog,
            name=name,
            robots=self.rules.robot_rules,
        )
        print(f"{NAME}: {name}: {accounting.to_dict()}", flush=True)  # noqa: T201 - the step's stdout

    def _is_done(self, name: str) -> bool:
        try:
            # Sessionize writes this one last.
            read_manifest(self.spark, storage.join(self.output_of(name), "events", FILE_NAME))
        except MissingInputError:
            return False
        return True

    def _earlier(self, name: str, day: date) -> List[str]:
        """The outputs of this stream's batches of ``day`` before ``name``."""
        entries = BatchCatalog(self.spark, self.catalog).entries().values()
        own = storage.join(self.output, "normalized", "")
        return [
            self.output_of(batch.name)
            for batch in entries
            if batch.day == day and batch.name < name and batch.manifest.startswith(own)
        ]


def _check_trigger(trigger: str) -> None:
    if trigger != AVAILABLE_NOW and not _INTERVAL.fullmatch(trigger):
        raise ConfigurationError(
            f"--trigger {trigger!r} is none; write {AVAILABLE_NOW}, or how often to look, such as '30 seconds' or "
            "'5 minutes'."
        )


if __name__ == "__main__":
    main(sys.argv[1:])
