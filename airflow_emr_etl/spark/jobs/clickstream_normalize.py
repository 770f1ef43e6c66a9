"""Raw access logs of a day to events: parse, quarantine, drop what was delivered twice, mark robots and pages.

Writes the datasets ``events``, ``quarantine`` and ``quarantine_counts``. The rules are in docs/clickstream.md.
Order plays no part: the same lines in other files order or other splits give the same rows and ids.
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import date, timedelta
from typing import Dict, List, Optional, Sequence, Set, Tuple
from urllib.parse import unquote

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import AccountingError, ConfigurationError, MissingInputError
from airflow_emr_etl.models import access_log
from airflow_emr_etl.models.log_source import LogSource
from airflow_emr_etl.models.manifest import Accounting
from airflow_emr_etl.spark import columns, robots, storage
from airflow_emr_etl.spark.arguments import job_parser, whole_number
from airflow_emr_etl.spark.dataset import Dataset, empty
from airflow_emr_etl.spark.line_parser import MAX_LINE_BYTES
from airflow_emr_etl.spark.session import job_session
from airflow_emr_etl.spark.source_reader import FIELD_TYPES, HEADER, drift_counts, load_source, read_source
from airflow_emr_etl.spark.sources import BUILT_IN

NAME = "clickstream_normalize"


def parse_arguments(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = job_parser(NAME, "Turn the raw access logs of one day into events.")
    parser.add_argument(
        "--input", required=True, action="append", help="a log file or a folder of them; repeatable"
    )
    parser.add_argument("--expected-lines", type=whole_number, help="fail unless this many lines are read")
    parser.add_argument("--max-line-bytes", type=whole_number, default=MAX_LINE_BYTES)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--source",
        default="combined",
        help=f"what the lines look like: {', '.join(BUILT_IN)}, or the address of a file that ends in .yaml",
    )
    source.add_argument("--log-format", help="what the lines look like, as one of Apache's LogFormat strings")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.max_line_bytes <= MAX_LINE_BYTES:
        raise ConfigurationError(
            f"--max-line-bytes is {arguments.max_line_bytes}; valid is 1 to {MAX_LINE_BYTES}, the widest column."
        )
    return arguments


def main(argv: Optional[Sequence[str]] = None) -> None:
    arguments = parse_arguments(argv)
    spark = job_session(NAME)
    try:
        accounting = normalize(
            spark,
            inputs=arguments.input,
            day=arguments.day,
            output=arguments.output,
            expected_lines=arguments.expected_lines,
            max_line_bytes=arguments.max_line_bytes,
            source=load_source(spark, arguments.source, arguments.log_format),
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
    source: Optional[LogSource] = None,
) -> Accounting:
    """Run the job in ``spark``; see the module. Raise MissingInputError or AccountingError.

    ``source`` says what the lines look like; None is Common and Combined Log Format.

    No manifest is written unless every line is accounted for.
    """
    files = _input_files(spark, inputs)
    source = source or load_source(spark)
    parsed = read_source(_read_lines(spark, files), source, max_line_bytes)
    lines = parsed.lines.withColumn(
        "line", F.when(F.col("reason").isNotNull(), _prefix(F.col("line"), max_line_bytes))
    )
    lines = lines.drop("value").persist(StorageLevel.MEMORY_AND_DISK)
    # A row for each split of each file: the one thing that comes to the driver, and it holds no data.
    splits = (
        lines.groupBy("file", "split")
        .agg(
            F.count(F.lit(1)).alias("lines"),
            F.count("reason").alias("bad"),
            _count_where(F.col("reason") == HEADER).alias("headers"),
            F.min("position").alias("first_position"),
        )
        .collect()
    )
    lines_in, headers = sum(row["lines"] for row in splits), sum(row["headers"] for row in splits)
    bad_lines = sum(row["bad"] for row in splits) - headers
    if expected_lines is not None and lines_in != expected_lines:
        raise AccountingError(
            f"{lines_in} lines were read from {len(files)} files, but the ingest counted {expected_lines}. "
            "A file was added, replaced or cut since then; ingest the day again.",
            lines_in=lines_in,
            expected_lines=expected_lines,
        )

    events = Dataset(spark, output, "events", day, columns.NORMALIZED)
    quarantine = Dataset(spark, output, "quarantine", day, columns.QUARANTINE)
    counts = Dataset(spark, output, "quarantine_counts", day, columns.QUARANTINE_COUNTS)

    good = lines.where(F.col("reason").isNull())
    bad = lines.where(F.col("reason").isNotNull() & (F.col("reason") != HEADER))
    events.write(
        _events(_with_all_fields(_distinct(good, source.columns)), _robots(good), day)
        if lines_in > bad_lines + headers
        else empty(spark, columns.NORMALIZED)
    )
    quarantine.write(
        _quarantine(bad, _line_numbers(spark, splits, files), day)
        if bad_lines
        else empty(spark, columns.QUARANTINE)
    )

    inside = (F.col("ts") >= F.lit(day.isoformat()).cast("timestamp")) & (
        F.col("ts") < F.lit((day + timedelta(days=1)).isoformat()).cast("timestamp")
    )
    event_files, seen = events.measure(
        _count_where(F.col("is_bot")).alias("bots"),
        _count_where(F.col("is_page_view")).alias("page_views"),
        _count_where(~inside).alias("outside_day"),
        F.sum("dropped_copies").alias("dropped"),
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
        delivered_twice=_get(seen, "dropped") + _get(dropped, "dropped"),
        bots=_get(seen, "bots"),
        page_views=_get(seen, "page_views"),
        files=len(files),
        empty_files=len(files) - len({row["file"] for row in splits}),
        outside_day=_get(seen, "outside_day"),
        headers=headers,
        drift={**(drift_counts(lines) if source.drifts else {}), **parsed.file_drift},
    )
    accounting.check()

    rows = [(day, reason, number) for reason, number in sorted(by_reason.items())]
    frame = spark.createDataFrame(rows, "dt date, reason string, lines bigint")
    counts.write(frame.coalesce(1))
    count_files, _ = counts.measure()
    counts.finish(count_files, NAME, accounting)
    quarantine.finish(quarantine_files, NAME, accounting)
    # Last: the next job starts from this one.
    events.finish(event_files, NAME, accounting)
    lines.unpersist()
    return accounting


def _get(row: Row, name: str) -> int:
    return int(row[name]) if row and name in row else 0


def _count_where(condition: Column) -> Column:
    return F.count(F.when(condition, 1))


def _input_files(spark: SparkSession, inputs: Sequence[str]) -> List[str]:
    """Every file under ``inputs``, once. Raise MissingInputError for an input that has none."""
    files: Set[str] = set()
    for uri in inputs:
        found = storage.list_files(spark, uri)
        if not found:
            raise MissingInputError(f"There is no log file in {uri}", uri=uri)
        files.update(file.uri for file in found)
    return sorted(files)


def _read_lines(spark: SparkSession, files: Sequence[str]) -> DataFrame:
    r"""Lines with ``file``, ``split`` (where the split of the file begins), ``position`` (in the order of the
    lines within a split), ``line`` (the bytes), ``line_bytes`` and ``key``, the identity of the bytes.

    Only ``\n`` ends a line, as for ``wc -l``; an unfinished last line counts as one.
    """
    reader = spark.read.option("lineSep", "\n").option("__globPaths__", "false")
    return reader.text(list(files)).select(
        "value",
        F.col("_metadata.file_path").alias("file"),
        F.col("_metadata.file_block_start").alias("split"),
        F.monotonically_increasing_id().alias("position"),
        F.col("value").cast("binary").alias("line"),
        F.octet_length("value").cast("bigint").alias("line_bytes"),
        F.unhex(F.sha2(F.col("value").cast("binary"), 256)).alias("key"),
    )


def _prefix(line: Column, length: int) -> Column:
    return F.substring(line, 1, length)


def _distinct(good: DataFrame, fields: Sequence[str]) -> DataFrame:
    """One row for each distinct line: the columns, ``kept`` (how often it counts) and ``dropped_copies``.

    A line counts as often as it is in the file that has it most often; more comes from deliveries of the same.
    Repartitioned once by the line's key, so that neither of the two aggregates shuffles again; all columns
    follow from the key and are grouping keys only because hash aggregation cannot carry text along.
    """
    by_file = (
        good.repartition(F.col("key")).groupBy("key", "file", *fields).agg(F.count(F.lit(1)).alias("copies"))
    )
    return (
        by_file.groupBy("key", *fields)
        .agg(F.max("copies").alias("kept"), F.sum("copies").alias("copies"))
        .withColumn("dropped_copies", F.col("copies") - F.col("kept"))
    )


def _with_all_fields(events: DataFrame) -> DataFrame:
    """``events`` with NULL in the columns that their source cannot give."""
    return events.withColumns(
        {name: F.lit(None).cast(kind) for name, kind in FIELD_TYPES.items() if name not in events.columns}
    )


def _robots(good: DataFrame) -> DataFrame:
    """Every user agent among ``good`` once, with ``robot``.

    No filter on ``robot`` here: Spark would move it below the ``distinct`` and try the patterns on every line.
    """
    expression = robots.robot_expression(robots.load_patterns())
    if "user_agent" not in good.columns:
        good = good.limit(0).withColumn("user_agent", F.lit(None).cast("string"))
    agents = good.select("user_agent").distinct()
    return agents.select("user_agent", F.col("user_agent").rlike(expression).alias("robot"))


def _events(distinct: DataFrame, robot_agents: DataFrame, day: date) -> DataFrame:
    hits = distinct.join(robot_agents, "user_agent", "left").select(
        *distinct.columns,
        F.coalesce("robot", F.lit(False)).alias("is_bot"),
        F.explode(F.expr("sequence(1, kept)")).alias("occurrence"),
    )
    status = F.col("status")
    is_asset = F.lower("path").rlike(r"\.(?:" + "|".join(access_log.ASSET_EXTENSIONS) + r")\z")
    is_page = (
        (F.col("method") == "GET")
        & (status.between(200, 299) | (status == 304))
        & ~is_asset
        & ~F.col("is_bot")
    )
    return (
        hits.withColumn("event_id", F.sha2(F.concat_ws(":", F.hex("key"), "occurrence"), 256))
        .withColumn("is_page_view", F.coalesce(is_page, F.lit(False)))
        .withColumn(
            "visitor_id", F.sha2(F.concat("host", F.lit("\n"), F.coalesce("user_agent", F.lit(""))), 256)
        )
        .withColumn(
            "dropped_copies", F.when(F.col("occurrence") == 1, F.col("dropped_copies")).otherwise(F.lit(0))
        )
        .withColumn("dt", F.lit(day.isoformat()).cast("date"))
    )


def _line_numbers(spark: SparkSession, splits: Sequence[Row], files: Sequence[str]) -> DataFrame:
    """For ``file`` and ``split``: ``shift``, which turns a position in the split into a line number of the file,
    and ``listed``, the file's name as the input has it (Spark's own is percent-encoded in some versions)."""
    listed = {_after_scheme(uri): uri for uri in files}
    rows: List[Tuple[str, int, int, str]] = []
    before: Dict[str, int] = {}
    for row in sorted(splits, key=lambda row: (row["file"], row["split"])):
        file = row["file"]
        name = listed.get(_after_scheme(file)) or listed.get(_after_scheme(unquote(file)), file)
        rows.append((file, row["split"], before.get(file, 0) - row["first_position"] + 1, name))
        before[file] = before.get(file, 0) + row["lines"]
    return spark.createDataFrame(rows, "file string, split bigint, shift bigint, listed string")


def _after_scheme(uri: str) -> str:
    """What two spellings of one file agree in: ``s3`` and ``s3a``, ``file:/x`` and ``/x``."""
    return re.sub("^[A-Za-z][A-Za-z0-9+.-]*:", "", uri).lstrip("/")


def _quarantine(bad: DataFrame, line_numbers: DataFrame, day: date) -> DataFrame:
    """The quarantined lines that count, each with its own line number, in the file that has most of the line."""
    copies = F.count(F.lit(1))
    numbered = bad.join(F.broadcast(line_numbers), ["file", "split"])
    numbered = numbered.withColumn("line_number", F.col("position") + F.col("shift"))
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
