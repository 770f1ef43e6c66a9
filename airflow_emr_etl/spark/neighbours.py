"""Hits of other batches that a batch's sessions depend on: found by day and visitor, never by reading everything.

A hit can only change sessions of its own activity (see session_pass.py). So beside a batch itself it takes the hits
of its visitors on the days around its hits, as far as activities go on; day by day, farther back twice as fast, for the
few that have no pause for days.
"""

from __future__ import annotations

from datetime import date
from functools import reduce
from typing import Callable, Collection, Iterable, List, Mapping, Optional, Sequence, Set

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from airflow_emr_etl.models.batch import Batch
from airflow_emr_etl.models.session_rules import SessionRules

Read = Callable[[Batch], DataFrame]


class Neighbours:
    """The hits of ``others`` that touch those of ``own`` or ``gone``.

    ``owners`` numbers the batches by name: of equal events that of the least number counts.
    ``own`` and ``gone`` have visitor_id and ts; ``read`` gives a batch's normalized events. Call :meth:`release` when
    what :meth:`find` gave is no more needed.
    """

    def __init__(
        self, others: Sequence[Batch], rules: SessionRules, read: Read, owners: Mapping[str, int]
    ) -> None:
        self.others = sorted(others, key=lambda batch: batch.name)
        self.owners = owners
        self.rules = rules
        self.read = read
        self.days: Set[date] = {day for batch in others for day in batch.days}
        self.touched: List[Batch] = []
        """The batches that what :meth:`find` gave last is from."""
        self._kept: List[DataFrame] = []

    def find(
        self, own: DataFrame, own_days: Collection[date], gone: Optional[DataFrame]
    ) -> Optional[DataFrame]:
        """Events of the other batches, with ``owner`` (the batch's number); None for surely none."""
        fresh = own.select("visitor_id", "ts")
        if gone is not None:
            fresh = fresh.unionByName(gone.select("visitor_id", "ts"))
        elif not (_around(own_days) & self.days):
            return None
        near = fresh.where(self._in_reach(F.col("ts"), self.days)) if gone is None else fresh
        near = near.persist(StorageLevel.MEMORY_AND_DISK)
        visitors = near.select("visitor_id").distinct().persist(StorageLevel.MEMORY_AND_DISK)
        self._kept += [near, visitors]
        days = {
            row["day"]
            for shift in (-1, 0, 1)
            for row in near.select(self._day(F.col("ts"), shift).alias("day")).distinct().collect()
        } & self.days
        if not days:
            return None
        # All hits of these visitors, since an activity that touches a neighbour may have begun long before midnight.
        mine = fresh.join(visitors, "visitor_id", "left_semi").withColumn("fresh", F.lit(True))
        mine = mine.persist(StorageLevel.MEMORY_AND_DISK)
        self._kept.append(mine)
        step = 1
        while True:
            found = self._events(days, visitors)
            times = found.select("visitor_id", "ts").withColumn("fresh", F.lit(False))
            more = self._days_beyond(mine.unionByName(times), days)
            if not more:
                return found
            # Whoever is active for days is so for many: look twice as far each time.
            days |= {day for day in self.days - days if any(abs((day - edge).days) < step for edge in more)}
            step *= 2

    def release(self) -> None:
        for frame in self._kept:
            frame.unpersist()
        self._kept = []

    def _events(self, days: Set[date], visitors: DataFrame) -> DataFrame:
        on_days = F.to_date("ts").isin(sorted(days))
        self.touched = [batch for batch in self.others if days & set(batch.days)]
        frames = [
            self.read(batch)
            .where(on_days)
            .join(visitors, "visitor_id", "left_semi")
            .withColumn("owner", F.lit(self.owners[batch.name]))
            for batch in self.touched
        ]
        return reduce(DataFrame.unionByName, frames)

    def _days_beyond(self, hits: DataFrame, days: Set[date]) -> Set[date]:
        """Days that are not in ``days`` and on which an activity with a fresh hit may go on."""
        left = self.days - days
        if not left:
            return set()
        in_order = Window.partitionBy("visitor_id").orderBy("ts")
        pause = F.unix_micros("ts") - F.unix_micros(F.lag("ts").over(in_order))
        begins = F.when(pause <= self.rules.inactivity_micros, 0).otherwise(1)
        activities = (
            hits.withColumn("begins", begins)
            .withColumn("activity", F.sum("begins").over(in_order.rowsBetween(Window.unboundedPreceding, 0)))
            .groupBy("visitor_id", "activity")
            .agg(F.min("ts").alias("begin"), F.max("ts").alias("end"), F.max("fresh").alias("fresh"))
            .where("fresh")
        )
        edges = activities.select(
            F.explode(F.array(self._day(F.col("begin"), -1), self._day(F.col("end"), 1))).alias("day")
        )
        return {row["day"] for row in edges.distinct().where(F.col("day").isin(sorted(left))).collect()}

    def _in_reach(self, ts: Column, days: Iterable[date]) -> Column:
        wanted = sorted(days)
        return reduce(Column.__or__, (self._day(ts, shift).isin(wanted) for shift in (-1, 0, 1)))

    def _day(self, ts: Column, shift: int) -> Column:
        """The day of the time that is ``shift`` times the inactivity after ``ts``."""
        moved = F.timestamp_micros(F.unix_micros(ts) + F.lit(shift * self.rules.inactivity_micros))
        return F.to_date(moved)


def _around(days: Collection[date]) -> Set[date]:
    # The calendar ends; a time beyond it has no neighbour.
    ordinals = {day.toordinal() + shift for day in days for shift in (-1, 0, 1)}
    return {date.fromordinal(ordinal) for ordinal in ordinals if 1 <= ordinal <= date.max.toordinal()}
