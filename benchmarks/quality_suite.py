"""What twenty expectations over a sessions table cost, beside one aggregate that computes the same numbers.

``measure`` runs both in the given Spark session over the same Parquet files, taking turns, so that whatever else
the machine does falls on both. The peer is what an engineer who needs no suite writes: one ``DataFrame.agg``,
with an exact count of distinct session ids. Neither writes anything; data docs are not built.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_emr_etl.quality.runner import run_suite
from airflow_emr_etl.quality.suite import Suite, load_suite

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

SUITE = Path(__file__).with_name("quality_sessions.yaml")


def measure(spark: SparkSession, sessions_uri: str, runs: int = 3) -> dict[str, Any]:
    """``rows``, and the seconds of each run of ``quality_20`` and ``one_scan``.

    Each is run once before it is measured. ``sessions_uri`` is a folder of Parquet with the columns of
    ``sessions``. Raise RuntimeError where the suite does not hold: then the two do not do the same work.
    """
    suite = suite_of_twenty()
    frame = spark.read.parquet(sessions_uri)
    rows = 0

    def ours() -> None:
        nonlocal rows
        result = run_suite(suite, {"sessions": frame})
        rows = result.datasets["sessions"].rows
        if result.failed():
            raise RuntimeError(f"the suite must hold on the data that is measured:\n{result.render()}")

    def peer() -> None:
        one_scan(frame)

    seconds: dict[str, list[float]] = {"quality_20": [], "one_scan": []}
    for turn in range(runs + 1):
        for name, run in (("quality_20", ours), ("one_scan", peer)):
            took = _seconds(run)
            if turn:
                seconds[name].append(took)
    return {"rows": rows, **{name: [round(value, 3) for value in values] for name, values in seconds.items()}}


def suite_of_twenty() -> Suite:
    return load_suite(SUITE.read_text(encoding="utf-8"), SUITE.name)


def one_scan(sessions: DataFrame) -> dict[str, Any]:
    """The numbers that the suite needs, by name, from one aggregate."""
    from pyspark.sql import functions as F

    def rows_where(condition: Column) -> Column:
        return F.count(F.when(condition, 1))

    def nulls(name: str) -> Column:
        return rows_where(F.col(name).isNull())

    seconds = F.unix_timestamp("ended_at") - F.unix_timestamp("started_at")
    numbers = {
        "rows": F.count(F.lit(1)),
        "different_session_ids": F.count_distinct("session_id"),
        **{
            f"no_{name}": nulls(name)
            for name in ("session_id", "visitor_id", "started_at", "ended_at", "hits", "page_views")
        },
        **{f"no_{name}": nulls(name) for name in ("entry_path", "exit_path", "referrer_host", "dt")},
        "session_id_length": rows_where(F.length("session_id") != 64),
        "visitor_id_form": rows_where(~F.col("visitor_id").rlike("^[0-9a-f]{64}$")),
        "ends_before_start": rows_where(F.col("ended_at") < F.col("started_at")),
        "no_hit": rows_where(F.col("hits") < 1),
        "mean_hits": F.avg("hits"),
        "most_hits": F.max("hits"),
        "negative_page_views": rows_where(F.col("page_views") < 0),
        "more_page_views_than_hits": rows_where(F.col("hits") < F.col("page_views")),
        "exit_path_length": rows_where(~F.length("exit_path").between(1, 65535)),
        "referrer_host_form": rows_where(~F.col("referrer_host").rlike("^[^/A-Z]+$")),
        "longer_than_a_day": rows_where(seconds > 86400),
    }
    return dict(sessions.agg(*(number.alias(name) for name, number in numbers.items())).collect()[0].asDict())


def _seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
