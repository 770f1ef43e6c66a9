"""Raw access logs of a day to events: parse, quarantine, clean and enrich (``enrichment.py``).

Writes the datasets ``events``, ``quarantine`` and ``quarantine_counts``. The rules are in docs/clickstream.md.
Order plays no part: the same lines in other files order or other splits give the same rows and ids.
"""

from __future__ import annotations

import argparse
import functools
import sys
from datetime import date, timedelta
from typing import Dict, Optional, Sequence, Union

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.log_source import LogSource
from airflow_emr_etl.models.manifest import Accounting
from airflow_emr_etl.spark import columns, enrichment, file_layout
from airflow_emr_etl.spark.arguments import job_parser, whole_number
from airflow_emr_etl.spark.dataset import Dataset, empty
from airflow_emr_etl.spark.enrichment import Enrichment
from airflow_emr_etl.spark.erased_lines import without_erased
from airflow_emr_etl.spark.line_parser import MAX_LINE_BYTES
from airflow_emr_etl.spark.log_files import LogFiles
from airflow_emr_etl.spark.lookup import Lookups
from airflow_emr_etl.spark.plain_lines import PlainLines, TooManyTextsError
from airflow_emr_etl.spark.replay import Replay
from airflow_emr_etl.spark.session import job_session
from airflow_emr_etl.spark.source_reader import (
    FIELD_TYPES,
    HEADER,
    MOST_MESSAGES,
    drift_counts,
    load_source,
    read_source,
)
from airflow_emr_etl.spark.sources import BUILT_IN
from airflow_emr_etl.spark.visitor_privacy import visitor_of

NAME = "clickstream_normalize"


def parse_arguments(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = job_parser(NAME, "Turn the raw access logs of one day into events.")
    lines = parser.add_mutually_exclusive_group(required=True)
    lines.add_argument("--input", action="append", help="a log file or a folder of them; repeatable")
    lines.add_argument(
        "--replay",
        metavar="URI",
        help="the output of an earlier run for this day: its quarantined lines are read again, the rest is kept",
    )
    parser.add_argument("--expected-lines", type=whole_number, help="fail unless this many lines are read")
    parser.add_argument(
        "--erased",
        action="append",
        default=[],
        metavar="URI",
        help="a list of visitors whose lines are left out, as clickstream_erasure_list wrote it; repeatable",
    )
    add_line_arguments(parser)
    file_layout.add_arguments(parser)
    arguments = parser.parse_args(argv)
    check_line_arguments(arguments)
    return arguments


def add_line_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what lines look like and what is made of them."""
    parser.add_argument("--max-line-bytes", type=whole_number, default=MAX_LINE_BYTES)
    enrichment.add_arguments(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--source",
        default="combined",
        help=f"what the lines look like: {', '.join(BUILT_IN)}, or the address of a file that ends in .yaml",
    )
    source.add_argument("--log-format", help="what the lines look like, as one of Apache's LogFormat strings")


def check_line_arguments(arguments: argparse.Namespace) -> None:
    """Raise ConfigurationError for what is not valid."""
    if not 1 <= arguments.max_line_bytes <= MAX_LINE_BYTES:
        raise ConfigurationError(
            f"--max-line-bytes is {arguments.max_line_bytes}; valid is 1 to {MAX_LINE_BYTES}, the widest column."
        )


def main(argv: Optional[Sequence[str]] = None) -> None:
    arguments = parse_arguments(argv)
    spark = job_session(NAME, file_layout.settings(file_layout.from_arguments(arguments)))
    try:
        accounting = normalize(
            spark,
            inputs=arguments.input or (),
            day=arguments.day,
            output=arguments.output,
            expected_lines=arguments.expected_lines,
            max_line_bytes=arguments.max_line_bytes,
            rules=enrichment.from_arguments(spark, arguments),
            source=load_source(spark, arguments.source, arguments.log_format),
            replay=arguments.replay,
            erased=arguments.erased,
        )
        for message, count in accounting.drift.items():
            print(f"{NAME}: schema drift: {message} ({count} times)")  # noqa: T201 - the step's stdout
        print(f"{NAME}: {accounting.to_dict()}")  # noqa: T201 - the step's stdout
    finally:
        spark.stop()


def normalize(
    spark: SparkSession,
    inputs: Sequence[str],
    day: date,
    output: str,
    expected_lines: Optional[int] = None,
    max_line_bytes: int = MAX_LINE_BYTES,
    rules: Optional[Enrichment] = None,
    source: Optional[LogSource] = None,
    replay: Optional[str] = None,
    erased: Sequence[str] = (),
) -> Accounting:
    """Run the job in ``spark``; see the module. Raise MissingInputError or AccountingError.

    ``source`` says what the lines look like; None is Common and Combined Log Format. ``replay``: the output of an
    earlier run for the day, whose quarantined lines are read in place of ``inputs``; the outcome is the whole day's.
    ``erased``: manifests of lists of visitors, whose lines are left out and counted.

    No manifest is written unless every line is accounted for.
    """
    source, rules = source or load_source(spark), rules or Enrichment()
    given = LogFiles(spark, inputs) if replay is None else Replay(spark, replay, day, output, source, rules)
    run = functools.partial(
        _normalize, spark, given, day, output, expected_lines, max_line_bytes, rules, source, erased
    )
    if isinstance(given, LogFiles) and PlainLines.fits(given, source, rules, erased):
        plain = PlainLines(spark, given, source, max_line_bytes)
        try:
            return run(plain)
        except TooManyTextsError:
            pass
        finally:
            plain.release()
    return run(None)


def _normalize(
    spark: SparkSession,
    given: Union[LogFiles, Replay],
    day: date,
    output: str,
    expected_lines: Optional[int],
    max_line_bytes: int,
    rules: Enrichment,
    source: LogSource,
    erased: Sequence[str],
    plain: Optional[PlainLines],
) -> Accounting:
    """With ``plain``, Spark parses only the lines that this leaves to it."""
    parsed = read_source((plain or given).lines(), source, max_line_bytes)
    lines = parsed.lines
    if "was" in lines.columns:
        lines = lines.withColumn("reason", F.coalesce("was", "reason"))
    lines = lines.withColumn(
        "line", F.when(F.col("reason").isNotNull(), _prefix(F.col("line"), max_line_bytes))
    )
    lines = lines.drop("value").persist(StorageLevel.MEMORY_AND_DISK)
    # A row for each split of each file: the one thing that comes to the driver, and it holds no data.
    parsed_splits = (
        lines.groupBy("file", "split")
        .agg(
            F.count(F.lit(1)).alias("lines"),
            F.count("reason").alias("bad"),
            _count_where(F.col("reason") == HEADER).alias("headers"),
            F.min("position").alias("first_position"),
        )
        .collect()
    )
    splits = parsed_splits if plain is None else plain.splits()
    lines_in, headers = sum(row["lines"] for row in splits), sum(row["headers"] for row in parsed_splits)
    bad_lines = sum(row["bad"] for row in parsed_splits) - headers
    given.check_read(lines_in, expected_lines)

    events = Dataset(spark, output, "events", day, columns.NORMALIZED)
    quarantine = Dataset(spark, output, "quarantine", day, columns.QUARANTINE)
    counts = Dataset(spark, output, "quarantine_counts", day, columns.QUARANTINE_COUNTS)

    good = parsed_good = lines.where(F.col("reason").isNull())
    if "source_event_id" in source.columns:
        good = _with_own_identity(good)
    good = enrichment.with_named_pages(_with_all_fields(good), source.page_views)
    bad = lines.where(F.col("reason").isNotNull() & (F.col("reason") != HEADER))
    lookups, filtered, erased_lines = Lookups(), {}, 0
    if erased:
        good, erased_lines = without_erased(good, erased, rules.privacy)
    if lines_in > bad_lines + headers:
        expected = file_layout.Expected(lines_in - bad_lines - headers, columns.EVENT_BYTES)
        if plain is not None:
            doubtful = sum(row["lines"] for row in parsed_splits) > bad_lines + headers
            try:
                plain.write_events(events, expected, parsed_good if doubtful else None, rules, day)
            except TooManyTextsError:
                lines.unpersist()
                raise
        else:
            internal = enrichment.internal_hosts(good, rules, lookups)
            if internal is not None and rules.drop_internal:
                filtered["internal"] = good.join(internal, "host", "left_semi").count()
                good = good.join(internal, "host", "left_anti")
            found = enrichment.enrich(good, internal, rules, day, lookups)
            events.write(given.new_events(found), expected)
    else:
        events.write(empty(spark, columns.NORMALIZED))
    if bad_lines:
        quarantine.write(_quarantine(given.numbered(bad, splits), day))
    else:
        quarantine.write(empty(spark, columns.QUARANTINE))

    inside = (F.col("ts") >= F.lit(day.isoformat()).cast("timestamp")) & (
        F.col("ts") < F.lit((day + timedelta(days=1)).isoformat()).cast("timestamp")
    )
    event_files, seen = events.measure(
        _count_where(F.col("is_bot")).alias("bots"),
        _count_where(F.col("is_page_view")).alias("page_views"),
        _count_where(~inside).alias("outside_day"),
        F.sum("dropped_copies").alias("dropped"),
        F.sum("dropped_repeats").alias("repeated"),
    )
    quarantine_files, dropped = quarantine.measure(F.sum("dropped_copies").alias("dropped"))
    by_reason = (
        {
            row["reason"]: row["lines"]
            for row in quarantine.read([file.url for file in quarantine_files])
            .groupBy("reason")
            .agg(F.count(F.lit(1)).alias("lines"))
            .collect()
        }
        if quarantine_files
        else {}
    )
    accounting = Accounting(
        lines_in=lines_in,
        valid=sum(file.record_count for file in event_files),
        quarantined=by_reason,
        delivered_twice=_get(seen, "dropped") + _get(dropped, "dropped") + given.already,
        repeated=_get(seen, "repeated"),
        filtered=filtered,
        bots=_get(seen, "bots"),
        page_views=_get(seen, "page_views"),
        outside_day=_get(seen, "outside_day"),
        headers=headers,
        erased=erased_lines,
        drift={**_drift(lines, source, plain), **parsed.file_drift},
        **given.counts(splits),
    )
    accounting.check()
    accounting = given.whole_day(accounting)
    accounting.check()
    given.release()

    rows = [(day, reason, number) for reason, number in sorted(by_reason.items())]
    frame = spark.createDataFrame(rows, "dt date, reason string, lines bigint")
    counts.write(frame.coalesce(1))
    count_files, _ = counts.measure()
    counts.finish(count_files, NAME, accounting)
    quarantine.finish(quarantine_files, NAME, accounting)
    # Last: the next job starts from this one.
    events.finish([*given.entries, *event_files], NAME, accounting)
    lookups.release()
    lines.unpersist()
    return accounting


def _drift(lines: DataFrame, source: LogSource, plain: Optional[PlainLines]) -> Dict[str, int]:
    if not source.drifts:
        return {}
    # What few doubtful lines tell, many plain ones may tell as well.
    told = drift_counts(lines) if plain is None else drift_counts(lines, 100 * MOST_MESSAGES)
    for message, count in ({} if plain is None else plain.drift()).items():
        told[message] = told.get(message, 0) + count
    most = sorted(told.items(), key=lambda item: (-item[1], item[0]))
    return dict(most[:MOST_MESSAGES])


def _get(row: Row, name: str) -> int:
    return int(row[name]) if row and name in row else 0


def _count_where(condition: Column) -> Column:
    return F.count(F.when(condition, 1))


def _prefix(line: Column, length: int) -> Column:
    return F.substring(line, 1, length)


def _with_own_identity(events: DataFrame) -> DataFrame:
    """The identity of an event with an id of its own is that id, its time and its visitor, not the bytes of its line.

    Such an event is one however often it was sent, in one file too; so each of its lines counts as a delivery.
    """
    has_id = F.col("source_event_id").isNotNull()
    identity = F.concat_ws(":", "source_event_id", F.unix_micros("ts"), visitor_of(events))
    return events.withColumns(
        {
            "key": F.when(has_id, F.unhex(F.sha2(identity, 256))).otherwise(F.col("key")),
            "file": F.when(has_id, F.concat_ws(":", "file", "position")).otherwise(F.col("file")),
        }
    )


def _with_all_fields(events: DataFrame) -> DataFrame:
    """``events`` with NULL in the columns that their source cannot give."""
    return events.withColumns(
        {name: F.lit(None).cast(kind) for name, kind in FIELD_TYPES.items() if name not in events.columns}
    )


def _quarantine(numbered: DataFrame, day: date) -> DataFrame:
    """The quarantined lines that count, each with its own line number, in the file that has most of the line."""
    copies = F.count(F.lit(1))
    same_line = Window.partitionBy("key")
    return (
        numbered.withColumn("in_file", copies.over(Window.partitionBy("key", "file")))
        .withColumn("in_all", copies.over(same_line))
        .withColumn("file_rank", F.dense_rank().over(same_line.orderBy(F.col("in_file").desc(), "file")))
        .where(F.col("file_rank") == 1)
        .withColumn("place", F.row_number().over(Window.partitionBy("key").orderBy("line_number")))
        .withColumn(
            "dropped_copies", F.when(F.col("place") == 1, F.col("in_all") - F.col("in_file")).otherwise(0)
        )
        .withColumn("file", F.col("listed"))
        .withColumn("dt", F.lit(day.isoformat()).cast("date"))
    )


if __name__ == "__main__":
    main(sys.argv[1:])
