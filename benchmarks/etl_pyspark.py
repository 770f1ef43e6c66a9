"""The PySpark that a good engineer writes first: ``python -m benchmarks.etl_pyspark sessions|pipeline|floor ...``.

Schemas are given, nothing is inferred; Spark's own functions wherever there is one; lag and a running sum make
sessions. User agents go through ua-parser, robots through crawler-user-agents, each in an ordinary Python function,
robots with a cache in front, because without one the 1,500 patterns take some 0.2 ms a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from benchmarks.etl_agents import agent_parts, is_robot
from benchmarks.etl_process import Laps, arguments
from benchmarks.etl_spark import session

if TYPE_CHECKING:
    import argparse

PARQUET = (
    "event_id string, ts timestamp, visitor_id string, path string, query string, referrer string, "
    "user_agent string, status smallint, bytes bigint, is_page_view boolean"
)
JSON = (
    "event_id string, ts timestamp, event string, visitor_id string, user_id string, method string, url string, "
    "referrer string, user_agent string, ip string, status smallint, bytes bigint"
)
COMBINED = r'^(\S+) (\S+) (\S+) \[([^\]]+)\] "(\S+) (\S+) ([^"]*)" (\d{3}) (\d+|-) "([^"]*)" "([^"]*)"'
ASSET = r"\.(css|js|png|jpe?g|gif|svg|webp|ico|woff2?|ttf|map|json|xml|txt|pdf|zip|mp4)$"
CAMPAIGN = ("source", "medium", "campaign", "term", "content")
FUNNEL = (("shop", "/shop/%"), ("cart", "/cart"), ("checkout", "/checkout"), ("done", "/checkout/done"))


def main() -> None:
    chosen = arguments("sessions", "pipeline", "floor", "read")
    with session(f"plain {chosen.command}", chosen) as spark:
        spark.conf.set("spark.sql.session.timeZone", "UTC")
        {"sessions": sessions, "pipeline": pipeline, "floor": floor, "read": read}[chosen.command](
            spark, chosen
        )


def sessions(spark: SparkSession, chosen: argparse.Namespace) -> None:
    events = spark.read.schema(PARQUET).parquet(chosen.input).dropDuplicates(["event_id"])
    sessions_of(with_sessions(events)).write.parquet(chosen.output)


def floor(spark: SparkSession, chosen: argparse.Namespace) -> None:
    """What no way around remains of in Spark: read the columns, bring visitors together, put each in order."""
    events = spark.read.schema(PARQUET).parquet(chosen.input)
    events = events.select("visitor_id", "ts", "event_id", "path", "is_page_view")
    in_order = events.repartition("visitor_id").sortWithinPartitions("visitor_id", "ts", "event_id")
    in_order.write.format("noop").mode("overwrite").save()


def read(spark: SparkSession, chosen: argparse.Namespace) -> None:
    """Only unpack the lines of the logs."""
    spark.read.text(chosen.input).write.format("noop").mode("overwrite").save()


def with_sessions(events: DataFrame) -> DataFrame:
    visits = Window.partitionBy("visitor_id").orderBy("ts", "event_id")
    gap = F.col("ts").cast("double") - F.lag("ts").over(visits).cast("double")
    # To a microsecond: a double of seconds has some 0.2 of them.
    starts = F.when(gap.isNull() | (F.round(gap, 6) > 30 * 60), 1).otherwise(0)
    number = F.sum("starts").over(visits.rowsBetween(Window.unboundedPreceding, Window.currentRow))
    return (
        events.withColumn("starts", starts)
        .withColumn("session_id", F.concat_ws("-", "visitor_id", number))
        .drop("starts")
    )


def sessions_of(hits: DataFrame) -> DataFrame:
    hit = F.struct("ts", "event_id", "path")
    page = F.when(F.col("is_page_view"), hit)
    return (
        hits.groupBy("session_id", "visitor_id")
        .agg(
            F.min("ts").alias("started_at"),
            F.max("ts").alias("ended_at"),
            F.count(F.lit(1)).alias("hits"),
            F.count(F.when(F.col("is_page_view"), 1)).alias("page_views"),
            F.min(hit).alias("first_hit"),
            F.max(hit).alias("last_hit"),
            F.min(page).alias("first_page"),
            F.max(page).alias("last_page"),
        )
        .select(
            "session_id",
            "visitor_id",
            "started_at",
            "ended_at",
            "hits",
            "page_views",
            F.coalesce("first_page.path", "first_hit.path").alias("entry_path"),
            F.coalesce("last_page.path", "last_hit.path").alias("exit_path"),
        )
    )


def pipeline(spark: SparkSession, chosen: argparse.Namespace) -> None:
    """Lines to events, sessions and marts."""
    laps = Laps()
    read = {"json_events": _json_events, "combined": _combined}[chosen.source]
    events = enriched(read(spark, chosen.input))
    with_sessions(events).write.parquet(f"{chosen.output}/events")
    laps.lap("events")
    hits = spark.read.parquet(f"{chosen.output}/events")
    sessions_of(hits).write.parquet(f"{chosen.output}/sessions")
    laps.lap("sessions")
    marts(hits, spark.read.parquet(f"{chosen.output}/sessions"), chosen.output)
    laps.lap("marts")
    laps.report()


def _json_events(spark: SparkSession, folder: str) -> DataFrame:
    events = spark.read.schema(JSON).json(folder).dropDuplicates(["event_id"])
    return events.select(
        "event_id",
        "ts",
        "visitor_id",
        "user_id",
        F.col("ip").alias("host"),
        "method",
        F.parse_url("url", F.lit("PATH")).alias("path"),
        F.parse_url("url", F.lit("QUERY")).alias("query"),
        "status",
        "bytes",
        "referrer",
        "user_agent",
    )


def _combined(spark: SparkSession, folder: str) -> DataFrame:
    lines = spark.read.text(folder).where(F.col("value").rlike(COMBINED)).dropDuplicates(["value"])

    def field(number: int) -> Column:
        return F.regexp_extract("value", COMBINED, number)

    def known(column: Column) -> Column:
        return F.when(column != "-", column)

    target, agent = field(6), known(field(11))
    visitor = F.sha2(F.concat(field(1), F.lit("\n"), F.coalesce(agent, F.lit(""))), 256)
    return lines.select(
        F.sha2("value", 256).alias("event_id"),
        F.to_timestamp(field(4), "dd/MMM/yyyy:HH:mm:ss Z").alias("ts"),
        visitor.alias("visitor_id"),
        F.lit(None).cast("string").alias("user_id"),
        field(1).alias("host"),
        field(5).alias("method"),
        F.substring_index(target, "?", 1).alias("path"),
        F.when(target.contains("?"), F.substring_index(target, "?", -1)).alias("query"),
        field(8).cast("smallint").alias("status"),
        known(field(9)).cast("bigint").alias("bytes"),
        known(field(10)).alias("referrer"),
        agent.alias("user_agent"),
    )


AGENT = (
    "struct<agent_family:string,agent_version:string,os_family:string,os_version:string,device_family:string>"
)


def enriched(events: DataFrame) -> DataFrame:
    robot = F.udf(is_robot, "boolean")("user_agent")
    agent = F.udf(agent_parts, AGENT)("user_agent")
    url = F.concat(F.lit("http://x/?"), F.col("query"))
    campaign = [
        F.parse_url(url, F.lit("QUERY"), F.lit(f"utm_{name}")).alias(f"campaign_{name}") for name in CAMPAIGN
    ]
    page = (
        (F.col("method") == "GET")
        & (F.col("status").between(200, 299) | (F.col("status") == 304))
        & ~F.lower("path").rlike(ASSET)
        & ~F.col("is_bot")
    )
    return (
        events.withColumn("is_bot", robot)
        .withColumn("agent", agent)
        .withColumn("is_page_view", page)
        .select(
            *events.columns,
            "is_bot",
            "is_page_view",
            "agent.*",
            *campaign,
            F.parse_url("referrer", F.lit("HOST")).alias("referrer_host"),
        )
    )


def marts(hits: DataFrame, sessions: DataFrame, output: str) -> None:
    """Daily traffic, page views, entries, exits, users and a funnel."""

    def write(name: str, rows: DataFrame) -> None:
        rows.write.parquet(f"{output}/{name}")

    pages = hits.where("is_page_view")
    traffic = hits.groupBy(F.to_date("ts").alias("dt")).agg(
        F.count(F.lit(1)).alias("hits"),
        F.count_if("is_page_view").alias("page_views"),
        F.count_if("is_bot").alias("bot_hits"),
        F.count_distinct("visitor_id").alias("visitors"),
        F.count_distinct("session_id").alias("sessions"),
        F.sum("bytes").alias("bytes"),
        F.count_if(F.col("status").between(400, 499)).alias("client_errors"),
        F.count_if(F.col("status").between(500, 599)).alias("server_errors"),
    )
    write("daily_traffic", traffic)
    in_session = Window.partitionBy("session_id").orderBy("ts", "event_id")
    seconds = F.lead("ts").over(in_session).cast("double") - F.col("ts").cast("double")
    viewed = pages.select("event_id", "session_id", "ts", "path", seconds.alias("seconds_on_page"))
    write("page_views", viewed)
    for name in ("entry_path", "exit_path"):
        write(name, sessions.groupBy(F.to_date("started_at").alias("dt"), name).count())
    users = sessions.groupBy("visitor_id").agg(
        F.min("started_at").alias("first_seen"),
        F.max("ended_at").alias("last_seen"),
        F.count(F.lit(1)).alias("sessions"),
        F.sum("page_views").alias("page_views"),
    )
    write("users", users)
    reached = F.lit(None).cast("timestamp")
    steps = pages.select("session_id", "ts", "path")
    firsts = steps.groupBy("session_id").agg(
        *(F.min(F.when(F.col("path").like(pattern), F.col("ts"))).alias(name) for name, pattern in FUNNEL)
    )
    counts, condition, before = [], F.lit(True), reached
    for name, _ in FUNNEL:
        condition = condition & F.col(name).isNotNull() & (before.isNull() | (F.col(name) >= before))
        counts.append(F.count_if(condition).alias(name))
        before = F.col(name)
    write("funnel", firsts.agg(*counts))


if __name__ == "__main__":
    main()
