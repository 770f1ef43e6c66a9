"""Events to sessions and daily totals. Reads only the files that manifests list.

Writes the datasets ``events`` (as for the warehouse, with ``session_id``), ``sessions`` and ``daily_traffic``.
With ``--catalog``, sessions go on across midnight and across batches: what a line of this batch touches is stated
anew, in ``sessions`` and in ``events``, for the load to merge. The rules are in docs/sessions.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from datetime import date
from functools import reduce
from typing import Any, Callable, Collection, Dict, List, Mapping, Optional, Sequence, Set, Union
from zoneinfo import ZoneInfo

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import AccountingError, ConfigurationError, ManifestError
from airflow_emr_etl.models.batch import Batch
from airflow_emr_etl.models.manifest import FILE_NAME, Accounting, Manifest
from airflow_emr_etl.models.session_rules import CUTS, SessionRules
from airflow_emr_etl.spark import columns, file_layout, storage
from airflow_emr_etl.spark.arguments import job_parser, or_none, whole_number
from airflow_emr_etl.spark.batch_catalog import BatchCatalog
from airflow_emr_etl.spark.dataset import Dataset, read_manifest
from airflow_emr_etl.spark.day_behaviour import DayBehaviour
from airflow_emr_etl.spark.marked_files import MarkedFiles
from airflow_emr_etl.spark.neighbours import Neighbours
from airflow_emr_etl.spark.referrers import referrer_host
from airflow_emr_etl.spark.robots import BehaviourRules
from airflow_emr_etl.spark.session import job_session
from airflow_emr_etl.spark.session_engine import HitFiles, HitRows, Hits, event_hash, sessions_of

NAME = "clickstream_sessionize"

_ATTEMPTS = 3
_NEVER_OWNS = 2**31 - 1


def parse_arguments(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = job_parser(NAME, "Group the events of one day into sessions.")
    parser.add_argument("--input", required=True, help="the output of clickstream_normalize")
    parser.add_argument("--catalog", help="folder of the batches' entries; without it, a batch stands alone")
    add_rules(parser)
    file_layout.add_arguments(parser)
    arguments = parser.parse_args(argv)
    arguments.rules = rules_of(arguments)
    return arguments


def add_rules(parser: argparse.ArgumentParser) -> None:
    """The options that say what a session is, for :func:`rules_of`."""
    parser.add_argument("--inactivity-minutes", type=whole_number, default=30)
    parser.add_argument(
        "--max-minutes", type=or_none(whole_number), help="no session is longer than this; none: no limit"
    )
    parser.add_argument(
        "--cut-at-midnight",
        type=or_none(str),
        metavar="ZONE",
        help="end sessions at midnight of a time zone such as UTC; none: let them go on",
    )
    parser.add_argument(
        "--cut-on", action="append", default=[], choices=CUTS, help="what begins a session; repeatable"
    )


def rules_of(arguments: argparse.Namespace) -> SessionRules:
    """Raise ConfigurationError for what is not valid."""
    rules = SessionRules(
        inactivity_minutes=arguments.inactivity_minutes,
        max_minutes=arguments.max_minutes,
        midnight_zone=arguments.cut_at_midnight,
        cut_on=tuple(arguments.cut_on),
    )
    _check_zone(rules)
    return rules


def main(argv: Optional[Sequence[str]] = None) -> None:
    arguments = parse_arguments(argv)
    spark = job_session(NAME, file_layout.settings(file_layout.from_arguments(arguments)))
    try:
        accounting = sessionize(
            spark,
            source=arguments.input,
            day=arguments.day,
            output=arguments.output,
            rules=arguments.rules,
            catalog=arguments.catalog,
        )
        print(f"{NAME}: {accounting.to_dict()}")  # noqa: T201 - the step's stdout
    finally:
        spark.stop()


def sessionize(
    spark: SparkSession,
    source: str,
    day: date,
    output: str,
    rules: Optional[SessionRules] = None,
    catalog: Optional[str] = None,
    clock: Callable[[], float] = time.time,
    name: Optional[str] = None,
    robots: Optional[BehaviourRules] = None,
) -> Accounting:
    """Run the job in ``spark``; see the module. Raise MissingInputError, ManifestError or AccountingError.

    ``name`` enters the batch as one of several of its day; then no totals of the day are written, and the manifest of
    ``events`` is of the batch, not of the day. With ``robots``, which such batches need, behaviour is judged over
    all batches of a day.

    A run that finds that another batch was entered meanwhile begins again, so that none misses the other.
    """
    rules = rules or SessionRules()
    _check_zone(rules)
    given = _given(spark, source, day)
    if name is not None and catalog is None:
        raise ConfigurationError(f"The batch {name} is one of several of its day; it needs a catalog.")
    name = name or day.isoformat()
    known = None if catalog is None else BatchCatalog(spark, catalog)
    for _ in range(_ATTEMPTS):
        before = {} if known is None else known.entries()
        run = _Run(spark, source, given, day, output, rules, before, name, robots)
        try:
            run.write()
        finally:
            run.release()
        if known is None:
            return run.finish(None)
        own = run.entry(clock)
        known.put(own)
        after = known.entries()
        if _without(after, name) == _without(before, name):
            return run.finish(own.restatement)
    raise ManifestError(
        f"Other batches were entered in {catalog} during each of {_ATTEMPTS} attempts at {name}. Let one run at a time "
        "sessionize (max_active_runs=1)."
    )


def _without(entries: Mapping[str, Batch], own: str) -> Dict[str, Batch]:
    return {name: batch for name, batch in entries.items() if name != own}


def _given(spark: SparkSession, source: str, day: date) -> Manifest:
    uri = storage.join(source, "events", FILE_NAME)
    given = read_manifest(spark, uri)
    if given.accounting is None or given.partition.get("dt") != day.isoformat():
        raise ManifestError(
            f"{uri} is of {dict(given.partition)}, not of the day {day}, or has no accounting."
        )
    given.accounting.check()
    return given


class _Run:
    """One attempt: read, find, write; the manifests come last, in :meth:`finish`."""

    def __init__(
        self,
        spark: SparkSession,
        source: str,
        given: Manifest,
        day: date,
        output: str,
        rules: SessionRules,
        entries: Dict[str, Batch],
        name: str,
        robots: Optional[BehaviourRules],
    ) -> None:
        assert given.accounting is not None
        self.spark, self.day, self.rules, self.name = spark, day, rules, name
        self.given, self.accounting = given, given.accounting
        self.uri = storage.join(source, "events", FILE_NAME)
        self.before = entries.get(name)
        self.others = list(_without(entries, name).values())
        self.owners = {each: number for number, each in enumerate(sorted({*entries, name}))}
        self.newest = max((batch.restatement for batch in entries.values()), default=0)
        whole = name == day.isoformat()
        # A batch's events are not its day's: a load must not clear the day for them.
        of_batch = None if whole else {"batch": name}
        self.events = Dataset(spark, output, "events", day, columns.EVENTS, of_batch)
        self.sessions = Dataset(spark, output, "sessions", day, [*columns.SESSIONS, *columns.RESTATES])
        self.traffic = Dataset(spark, output, "daily_traffic", day, columns.DAILY_TRAFFIC) if whole else None
        self.neighbours = Neighbours(self.others, rules, self._events_of, self.owners)
        self.behaviour = None
        if robots is not None and robots.behaviours:
            self.behaviour = DayBehaviour(self.others, robots, self._events_of)
        self.days: Dict[date, int] = {}
        self._kept: List[DataFrame] = []

    def write(self) -> None:
        from airflow_emr_etl.spark.session_pass import FRESH, GONE, KNOWN

        normalized = self._read(self.given.urls)
        self.days = {
            row["day"]: row["count"]
            for row in normalized.groupBy(F.to_date("ts").alias("day")).count().collect()
        }
        gone = self._gone(normalized)
        reach, reached_days = normalized.select("visitor_id", "ts"), set(self.days)
        if self.behaviour is not None:
            turned = self.behaviour.turned_hits(normalized, self.day)
            if turned is not None:
                reach = reach.unionByName(turned.select("visitor_id", "ts"))
                reached_days |= self.neighbours.days
        near = self.neighbours.find(reach, reached_days, gone)
        alone = near is None and gone is None
        own = normalized.withColumn("owner", F.lit(self.owners[self.name]))
        if self.behaviour is not None:
            own, near = self.behaviour.judged(own, near, self.neighbours.touched)
        hits: List[Hits] = []
        files = None
        if self.behaviour is None and HitFiles.fit(self.given.entries, self.rules):
            files = HitFiles(self.spark, self.given.urls, self.owners[self.name], FRESH, numbered=True)
            hits.append(files)
        else:
            hits.append(HitRows(_narrow(own, self.rules, kind=FRESH)))
        if near is not None:
            # Hits whose visitor turned out to be a robot, or no robot, are stated anew as well.
            kind: Union[int, Column] = KNOWN
            if self.behaviour is not None:
                kind = F.when(F.col("turned"), FRESH).otherwise(KNOWN)
            hits.append(HitRows(_narrow(near, self.rules, kind=kind)))
        if gone is not None:
            hits.append(HitRows(_narrow(gone.withColumn("owner", F.lit(_NEVER_OWNS)), self.rules, kind=GONE)))
        found = sessions_of(hits, self.rules, rows=self.given.record_count).where("fresh")
        found = found.persist(StorageLevel.DISK_ONLY)
        self._kept.append(found)
        self.sessions.write(_sessions(found))
        self.session_files, counted = self.sessions.measure(
            F.sum("hits").alias("hits"), F.count(F.when(F.col("retracted"), 1)).alias("retracted")
        )

        row_bytes = self.given.content_length / max(self.given.record_count, 1)
        expected = file_layout.Expected(_get(counted, "hits"), row_bytes)
        if files is None:
            self.events.write(_with_sessions([own] if near is None else [own, near], found), expected)
        else:
            self._write_by_file(files, near, found, expected)
        # One pass over what was written: it gives the files' rows, and most of the day's totals with them.
        of_day = F.col("dt") == F.lit(self.day)
        self.event_files, of_events = self.events.measure(
            *(F.sum(F.when(of_day, value)).alias(name) for name, value in _counted().items())
        )
        kept, written = _get(of_events, "hits"), sum(file.record_count for file in self.event_files)
        self.own_rows = self._written().where(of_day)
        shared_day = any(batch.day == self.day for batch in self.others)
        if shared_day:
            self.own_rows = self.own_rows.join(self._owned(normalized, near), "event_id", "left_semi")
            kept = self.own_rows.count()
        listed, valid = self.given.record_count, self.accounting.valid
        if listed != valid or written != _get(counted, "hits") or kept > valid or (alone and kept != valid):
            raise AccountingError(
                f"{valid} valid events were announced by {self.uri} and {listed} are listed; {kept} of them and "
                f"{written - kept} of other batches were written, and the sessions have {_get(counted, 'hits')} hits.",
            )
        session_count = sum(file.record_count for file in self.session_files) - _get(counted, "retracted")
        parts: Dict[str, Any] = self._parts(valid - kept)
        self.accounting = dataclasses.replace(
            self.accounting,
            valid=kept,
            delivered_twice=self.accounting.delivered_twice + valid - kept,
            sessions=session_count,
            **parts,
        )
        self.accounting.check()
        if self.traffic is not None:
            sums = {name: _get(of_events, name) for name in _counted()}
            if shared_day:
                sums = _first(self.own_rows.agg(*(F.sum(v).alias(name) for name, v in _counted().items())))
            self.traffic.write(self._totals({**sums, **self._distinct(alone, session_count)}))
            self.traffic_files, _ = self.traffic.measure()

    def finish(self, restatement: Optional[int]) -> Accounting:
        """Write the manifests."""
        number = 0 if restatement is None else restatement
        if self.traffic is not None:
            self.traffic.finish(self.traffic_files, NAME, self.accounting)
        self.sessions.finish(self.session_files, NAME, self.accounting, number)
        self.events.finish(self.event_files, NAME, self.accounting, number)
        return self.accounting

    def entry(self, clock: Callable[[], float]) -> Batch:
        """This batch as the next ones will know it."""
        earlier: Sequence[str] = ()
        if self.before is not None:
            earlier = [uri for uri in dict.fromkeys(self.before.versions) if uri != self.uri]
        return Batch(
            day=self.day,
            manifest=self.uri,
            days=self.days,
            restatement=max(self.newest + 1, int(clock() * 1_000_000)),
            earlier=tuple(earlier),
            name=self.name,
        )

    def release(self) -> None:
        for frame in self._kept:
            frame.unpersist()
        self.neighbours.release()
        if self.behaviour is not None:
            self.behaviour.release()

    def _write_by_file(
        self, files: HitFiles, near: Optional[DataFrame], found: DataFrame, expected: file_layout.Expected
    ) -> None:
        """Write what :func:`_with_sessions` makes of the events in ``files`` and of ``near``, in any order.

        Only events of visitors that have some in ``near`` are shuffled: the same event may be there too.
        """
        marked = MarkedFiles(files, found.where(~F.col("elsewhere")), columns.EVENTS)
        if near is None:
            self.events.write_tables(marked.sent, marked.tables, expected)
            return
        elsewhere = found.where("elsewhere")
        # An own event is always in a session that is stated anew: so these are all events of these visitors.
        own = MarkedFiles(files, elsewhere, columns.EVENTS).rows().drop("session_id")
        own = own.withColumn("owner", F.lit(self.owners[self.name]))
        rows = _with_sessions([own, near.select(own.columns)], elsewhere)
        self.events.write_tables(marked.sent, marked.tables, expected, rows)

    def _written(self) -> DataFrame:
        return self.events.read([file.url for file in self.event_files])

    def _owned(self, normalized: DataFrame, near: Optional[DataFrame]) -> DataFrame:
        """The ids of the events that count in this batch, and in none before it."""
        ids = normalized.select("event_id")
        if near is None:
            return ids
        before = near.where(F.col("owner") < F.lit(self.owners[self.name])).select("event_id")
        return ids.join(before, "event_id", "left_anti")

    def _read(self, urls: Sequence[str]) -> DataFrame:
        return Dataset(self.spark, "", "events", self.day, columns.NORMALIZED).read(urls)

    def _events_of(self, batch: Batch) -> DataFrame:
        return self._read(read_manifest(self.spark, batch.manifest).urls)

    def _gone(self, normalized: DataFrame) -> Optional[DataFrame]:
        """Events of former versions of this batch that it no longer has."""
        versions: Set[str] = set()
        if self.before is not None:
            versions = set(self.before.versions) - {self.uri}
        if not versions:
            return None
        former = [self._read(read_manifest(self.spark, uri).urls) for uri in sorted(versions)]
        current = normalized.select("event_id")
        gone = reduce(DataFrame.unionByName, former).join(current, "event_id", "left_anti")
        gone = gone.select(*normalized.columns).dropDuplicates(["event_id"]).persist(StorageLevel.DISK_ONLY)
        self._kept.append(gone)
        return None if gone.isEmpty() else gone

    def _parts(self, repeated: int) -> Dict[str, int]:
        """The parts of the valid events, counted again where some turned out to be repeated."""
        if not repeated:
            return {}
        day = self.day.isoformat()
        (row,) = self.own_rows.agg(
            F.count(F.when(F.col("is_bot"), 1)).alias("bots"),
            F.count(F.when(F.col("is_page_view"), 1)).alias("page_views"),
            F.count(F.when(F.to_date("ts") != F.lit(day).cast("date"), 1)).alias("outside_day"),
        ).collect()
        return {name: int(row[name]) for name in row.__fields__}

    def _distinct(self, alone: bool, session_count: int) -> Dict[str, int]:
        """The visitors and sessions of the events that count in this batch."""
        if not alone:
            visitors, sessions = (F.count_distinct(name) for name in ("visitor_id", "session_id"))
            return _first(self.own_rows.agg(visitors.alias("visitors"), sessions.alias("sessions")))
        # Then the sessions are those of these events and of no others, and far fewer rows.
        rows = self.sessions.read([file.url for file in self.session_files])
        return {
            **_first(rows.agg(F.count_distinct("visitor_id").alias("visitors"))),
            "sessions": session_count,
        }

    def _totals(self, totals: Mapping[str, int]) -> DataFrame:
        day = F.lit(self.day.isoformat()).alias("dt")
        values = [F.lit(value).alias(name) for name, value in totals.items()]
        return self.spark.range(0, 1, 1, 1).select(day, *values)


def _first(rows: DataFrame) -> Dict[str, int]:
    row = rows.first()
    return {} if row is None else {name: _get(row, name) for name in row.__fields__}


def _counted() -> Dict[str, Column]:
    """The totals of a day that are sums over its events, and what each event adds to them."""

    def one_if(condition: Column) -> Column:
        return F.when(condition, 1).otherwise(0)

    return {
        "hits": F.lit(1),
        "page_views": one_if(F.col("is_page_view")),
        "bot_hits": one_if(F.col("is_bot")),
        "bytes": F.col("bytes"),
        "client_errors": one_if(F.col("status").between(400, 499)),
        "server_errors": one_if(F.col("status").between(500, 599)),
    }


def _narrow(events: DataFrame, rules: SessionRules, kind: Union[int, Column]) -> DataFrame:
    """What the engine needs of events: no other column goes through its shuffle."""
    columns_ = [F.col(name) for name in ("visitor_id", "ts", "event_id", "is_page_view", "path", "referrer")]
    columns_.append(F.col("owner").cast("int").alias("owner"))
    columns_.append(F.lit(kind).cast("tinyint").alias("kind"))
    if rules.cut_on:
        columns_.append(_cut_key(rules.cut_on).alias("cut_key"))
    if rules.midnight_zone is not None:
        local = F.to_date(F.from_utc_timestamp("ts", rules.midnight_zone))
        columns_.append(F.datediff(local, F.lit("1970-01-01").cast("date")).alias("cut_day"))
    return events.select(*columns_)


def _cut_key(cut_on: Collection[str]) -> Column:
    """A number for the campaign or, where a hit has none, the referrer from another site; NULL for neither."""
    parts = []
    if "campaign" in cut_on:
        names = [F.col(name) for name in columns.CAMPAIGN]
        some = reduce(Column.__or__, (name.isNotNull() for name in names))
        parts.append(F.when(some, F.xxhash64(F.lit("campaign"), *names)))
    if "referrer" in cut_on:
        other = F.col("referrer_host").isNotNull() & (F.coalesce("referrer_medium", F.lit("")) != "internal")
        parts.append(F.when(other, F.xxhash64(F.lit("referrer"), "referrer_host")))
    return F.coalesce(*parts)


def _sessions(found: DataFrame) -> DataFrame:
    return found.withColumn("referrer_host", referrer_host(F.col("referrer"))).withColumn(
        "dt", F.to_date("started_at")
    )


def _with_sessions(events: Sequence[DataFrame], found: DataFrame) -> DataFrame:
    """Add ``session_id``, once for each event id, and leave out what is in no session of ``found``.

    Sessions go among the events as marks where they begin, so each event has the id of the last mark before it; the
    rules are applied in one place only.
    """
    marks = found.where(~F.col("retracted")).select(
        "visitor_id",
        F.col("started_at").alias("ts"),
        F.col("first_event").alias("event_hash"),
        F.lit(-1).alias("owner"),
        F.struct("session_id", "restates_to").alias("mark"),
    )
    hits = reduce(DataFrame.unionByName, events).withColumn("event_hash", event_hash())
    rows = hits.unionByName(marks, allowMissingColumns=True)
    in_order = Window.partitionBy("visitor_id").orderBy("ts", "event_hash", "owner")
    so_far = in_order.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    before = F.lag(F.struct("ts", "event_id", F.col("mark").isNull().alias("is_event"))).over(in_order)
    return (
        rows.withColumn("session", F.last("mark", ignorenulls=True).over(so_far))
        .withColumn("before", before)
        .where(F.col("mark").isNull() & (F.col("ts") <= F.col("session.restates_to")))
        .where(
            ~F.coalesce(
                F.col("before.is_event")
                & (F.col("before.event_id") == F.col("event_id"))
                & (F.col("before.ts") == F.col("ts")),
                F.lit(False),
            )
        )
        .withColumn("session_id", F.col("session.session_id"))
    )


def _get(row: object, name: str) -> int:
    return int(row[name] or 0) if row and name in row else 0  # type: ignore[index,operator]


def _check_zone(rules: SessionRules) -> None:
    if rules.midnight_zone is None:
        return
    try:
        ZoneInfo(rules.midnight_zone)
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            f"{rules.midnight_zone!r} is no time zone; write one such as UTC or Europe/Berlin."
        ) from error


if __name__ == "__main__":
    main(sys.argv[1:])
