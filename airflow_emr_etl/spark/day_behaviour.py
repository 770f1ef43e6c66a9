"""Robots by what they do over a whole day, where the day comes in several batches.

What a visitor does in one batch can make a robot of him, or no robot any more, for what earlier batches of the day
brought. So behaviour is judged anew over all that the day's batches have of the visitors at hand, and hits that came
earlier are stated anew where the judgement has turned. Names do not depend on batches and stay as they are.
"""

from __future__ import annotations

from datetime import date
from functools import reduce
from typing import Callable, Collection, List, Optional, Sequence, Tuple

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from airflow_emr_etl.models.batch import Batch
from airflow_emr_etl.spark import enrichment, robots
from airflow_emr_etl.spark.robots import BehaviourRules

_SEEN = ("visitor_id", "dt", "event_id", "ts", "method", "path")
_VISITOR = ["visitor_id", "dt"]


class DayBehaviour:
    """Behaviour over the batch at hand and ``others``; ``read`` gives a batch's normalized events.

    Call :meth:`turned_hits`, then :meth:`judged`, and :meth:`release` when what they gave is no more needed.
    """

    def __init__(
        self, others: Sequence[Batch], rules: BehaviourRules, read: Callable[[Batch], DataFrame]
    ) -> None:
        self.others, self.rules, self.read = others, rules, read
        self._kept: List[DataFrame] = []

    def turned_hits(self, own: DataFrame, day: date) -> Optional[DataFrame]:
        """Hits of other batches of ``day`` on whose visitors ``own`` changes the judgement; None for surely none."""
        self.day = day
        self._own = own.select(*_SEEN)
        self._visitors = self._keep(own.select("visitor_id").distinct())
        self._turned: Optional[DataFrame] = None
        self._of_day = self._seen({day})
        if self._of_day is None:
            return None
        self._keep(self._of_day)
        before = self._behaviours(self._of_day).withColumnRenamed("behaviour", "before")
        after = self._behaviours(self._of_day.unionByName(self._own))
        turned = before.join(after, _VISITOR).where(~F.col("before").eqNullSafe(F.col("behaviour")))
        self._turned = self._keep(turned.select(*_VISITOR))
        return self._of_day.join(self._turned, _VISITOR, "left_semi")

    def judged(
        self, own: DataFrame, near: Optional[DataFrame], touched: Sequence[Batch]
    ) -> Tuple[DataFrame, Optional[DataFrame]]:
        """``own`` and ``near`` (hits of ``touched``) as the behaviour of the whole days makes them.

        Both have ``turned`` too: whether the hit is one of :meth:`turned_hits`.
        """
        parts = [self._own, self._of_day, self._seen({batch.day for batch in touched} - {self.day})]
        hits = reduce(DataFrame.unionByName, [part for part in parts if part is not None])
        found = self._keep(self._behaviours(hits).where(F.col("behaviour").isNotNull()))
        own = self._keep(_judged(own, found).withColumn("turned", F.lit(False)))
        if near is None:
            return own, None
        near = _judged(near, found)
        if self._turned is None:
            return own, self._keep(near.withColumn("turned", F.lit(False)))
        marks = self._turned.withColumn("mark", F.lit(True))
        near = near.join(marks, _VISITOR, "left").withColumn("turned", F.col("mark").isNotNull()).drop("mark")
        return own, self._keep(near)

    def release(self) -> None:
        for frame in self._kept:
            frame.unpersist()
        self._kept = []

    def _keep(self, frame: DataFrame) -> DataFrame:
        self._kept.append(frame.persist(StorageLevel.MEMORY_AND_DISK))
        return frame

    def _seen(self, days: Collection[date]) -> Optional[DataFrame]:
        """What batches of ``days`` have of the visitors at hand."""
        frames = [
            self.read(batch).select(*_SEEN).join(self._visitors, "visitor_id", "left_semi")
            for batch in self.others
            if batch.day in days
        ]
        return reduce(DataFrame.unionByName, frames) if frames else None

    def _behaviours(self, hits: DataFrame) -> DataFrame:
        """``behaviour`` by visitor and day; a line that several batches have counts once."""
        once = hits.dropDuplicates([*_VISITOR, "event_id"]).withColumn("is_asset", enrichment.is_asset())
        behaviour = robots.behaviour(self.rules, lambda aggregate: aggregate)
        return once.groupBy(*_VISITOR).agg(behaviour.alias("behaviour"))


def _judged(events: DataFrame, found: DataFrame) -> DataFrame:
    by_name = F.when(~F.col("bot_reason").isin(*robots.BEHAVIOURS), F.col("bot_reason"))
    return (
        events.join(found, _VISITOR, "left")
        .withColumns({"bot_reason": F.coalesce(by_name, "behaviour"), "is_asset": enrichment.is_asset()})
        .withColumns(
            {
                "is_bot": F.col("bot_reason").isNotNull(),
                "is_page_view": enrichment.is_page_view(F.col("bot_reason"), F.col("is_named_page")),
            }
        )
        .drop("behaviour", "is_asset")
    )
