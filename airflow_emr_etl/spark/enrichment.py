"""Parsed lines to events: who, from where, with what, robot or not; what is counted once; what is not ours to count.

The rules are in docs/enrichment.md. The wide rows are shuffled once, by visitor, and sorted once, by visitor and
time; all that needs neighbours (deliveries, repeats, behaviour) is found in that order, and the files have it. What
Python answers comes from small tables of distinct values (``lookup.py``).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from datetime import date
from typing import Optional, Sequence, Tuple

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models import access_log
from airflow_emr_etl.spark import campaigns, columns, internal_traffic, referrers, robots, urls, user_agents
from airflow_emr_etl.spark.arguments import whole_number
from airflow_emr_etl.spark.lookup import Lookups
from airflow_emr_etl.spark.robots import BehaviourRules
from airflow_emr_etl.spark.visitor_privacy import MODES, Privacy, read_key, with_visitor

_INTERNAL = ("mark", "drop")


@dataclass(frozen=True)
class Enrichment:
    """What to make of the lines. Raise ConfigurationError for what is not valid."""

    sites: Tuple[str, ...] = ()
    """The site's own hosts, without port: a referrer of one is internal."""

    internal_networks: Tuple[internal_traffic.Network, ...] = ()

    drop_internal: bool = False
    """Leave internal traffic out, and count it, instead of marking it."""

    robot_rules: BehaviourRules = field(default_factory=BehaviourRules)

    privacy: Privacy = field(default_factory=Privacy)

    repeat_window_seconds: int = 0
    """Of equal hits, each within so many seconds of the one before, count the first only; 0 counts all."""

    def __post_init__(self) -> None:
        for site in self.sites:
            if not site or any(sign in site for sign in "/:@* ") or site != site.lower():
                raise ConfigurationError(
                    f"--site {site!r} is no host; write it in lower case without scheme, port and path, such as "
                    "www.example.com."
                )
        if self.drop_internal and not self.internal_networks:
            raise ConfigurationError("--internal drop needs at least one --internal-cidr.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("cleaning and enrichment")
    group.add_argument(
        "--site", action="append", default=[], metavar="HOST", help="a host of the site itself; repeatable"
    )
    group.add_argument(
        "--internal-cidr",
        action="append",
        default=[],
        metavar="CIDR",
        help="a network of one's own; repeatable",
    )
    group.add_argument(
        "--internal", choices=_INTERNAL, default="mark", help="mark internal traffic or drop it"
    )
    group.add_argument(
        "--robot-behaviour",
        default=",".join(robots.DEFAULT_BEHAVIOURS),
        metavar="NAMES",
        help=f"behaviours that make a robot, of {','.join(robots.BEHAVIOURS)}, or none",
    )
    group.add_argument("--ip", choices=MODES, default="keep", help="how much of an address is kept")
    group.add_argument("--hash-key-uri", metavar="URI", help="the file with the key of --ip hash or truncate")
    group.add_argument(
        "--dedupe-window-seconds",
        type=whole_number,
        default=0,
        metavar="N",
        help="count equal requests of a visitor within N seconds once; 0 counts all",
    )


def from_arguments(spark: SparkSession, arguments: argparse.Namespace) -> Enrichment:
    """The options of :func:`add_arguments`. Raise ConfigurationError or, for the key's file, MissingInputError."""
    uri: Optional[str] = arguments.hash_key_uri
    names = arguments.robot_behaviour
    return Enrichment(
        sites=tuple(site.lower() for site in arguments.site),
        internal_networks=internal_traffic.parse_networks(arguments.internal_cidr),
        drop_internal=arguments.internal == "drop",
        robot_rules=BehaviourRules(behaviours=() if names == "none" else tuple(names.split(","))),
        privacy=Privacy(arguments.ip, None if uri is None else read_key(spark, uri)),
        repeat_window_seconds=arguments.dedupe_window_seconds,
    )


def internal_hosts(good: DataFrame, rules: Enrichment, lookups: Lookups) -> Optional[DataFrame]:
    """The internal ones among the hosts of ``good``; None where no network is given."""
    if not rules.internal_networks:
        return None
    hosts = good.select("host").where(F.col("host").isNotNull()).distinct()
    return lookups.keep(internal_traffic.internal_hosts(hosts, rules.internal_networks))


def enrich(
    good: DataFrame, internal: Optional[DataFrame], rules: Enrichment, day: date, lookups: Lookups
) -> DataFrame:
    """The events of ``good`` (the columns of a parsed line, ``key`` and ``file``), as columns.NORMALIZED.

    ``internal`` comes from :func:`internal_hosts`; with ``drop_internal``, ``good`` is without them.
    """
    agents = lookups.keep(agents_of(good))
    known_referrers = lookups.keep(known_referrers_of(good, rules))
    hits = good.withColumn("is_internal", F.lit(False))
    if internal is not None and not rules.drop_internal:
        found = internal.withColumn("found", F.lit(True))
        hits = good.join(found, "host", "left").withColumn("is_internal", F.col("found").isNotNull())
    hits = with_visitor(hits, rules.privacy)
    # A name in a file's place: files are many characters, and only whether two are the same counts.
    hits = hits.withColumn("file", F.xxhash64("file"))
    written = {column.name for column in columns.NORMALIZED}
    carried = [name for name in hits.columns if name in written or name in ("key", "file")]
    hits = _distinct(hits.select(*carried).repartition("visitor_id"))
    if rules.repeat_window_seconds:
        hits = _without_repeats(hits, rules.repeat_window_seconds)
    else:
        hits = hits.withColumn("dropped_repeats", F.lit(0))
    hits = hits.withColumn("is_asset", is_asset())
    hits = (
        robots.with_behaviour(hits, rules.robot_rules)
        if rules.robot_rules.behaviours
        else hits.withColumn("behaviour", F.lit(None).cast("string"))
    )
    hits = hits.join(agents, "user_agent", "left").join(known_referrers, "referrer", "left")
    return hits.select(*_event_columns(hits, rules, day))


def is_asset() -> Column:
    """Whether ``path`` ends like an asset; never NULL."""
    # The text behind the last dot: one look into a set, where an expression would be tried at every character.
    extension = F.substring_index(F.lower("path"), ".", -1)
    found = F.col("path").contains(".") & extension.isin(*access_log.ASSET_EXTENSIONS)
    return F.coalesce(found, F.lit(False))


def with_named_pages(good: DataFrame, names: Sequence[str]) -> DataFrame:
    """Add ``is_named_page``: whether ``event_name`` is one of ``names``; without names nothing is added."""
    if not names:
        return good
    return good.withColumn("is_named_page", F.col("event_name").isin(*names))


def is_page_view(bot_reason: Column, is_named_page: Column) -> Column:
    """Whether a hit with ``method``, ``status`` and ``is_asset`` is a page view; never NULL.

    A hit that has no method or no status is no request: its name says what it is.
    """
    method, status = F.col("method"), F.col("status")
    by_request = (method == "GET") & (status.between(200, 299) | (status == 304)) & ~F.col("is_asset")
    is_page = F.when(method.isNull() | status.isNull(), is_named_page).otherwise(by_request)
    return F.coalesce(is_page & bot_reason.isNull(), F.lit(False))


def agents_of(good: DataFrame) -> DataFrame:
    """Every user agent once, with what it says of itself and ``name_reason``, why its name is a robot's."""
    agents = good.select("user_agent").where(F.col("user_agent").isNotNull()).distinct()
    by_parser = F.when(F.col("device_family") == user_agents.ROBOT_DEVICE, "parser")
    return user_agents.parse_agents(agents).withColumn(
        "name_reason", F.coalesce(robots.name_reason(F.col("user_agent")), by_parser)
    )


def known_referrers_of(good: DataFrame, rules: Enrichment) -> DataFrame:
    """Every referrer from elsewhere once, if it is known."""
    texts = good.select("referrer").where(F.col("referrer").isNotNull())
    if rules.sites:
        texts = texts.where(~_is_own(referrers.referrer_host(F.col("referrer")), rules))
    return referrers.parse_referrers(texts.distinct())


def _is_own(host: Column, rules: Enrichment) -> Column:
    return F.coalesce(host.isin(*rules.sites), F.lit(False)) if rules.sites else F.lit(False)


def _distinct(hits: DataFrame) -> DataFrame:
    """The hits that count, with ``occurrence`` (of the same line, from 1) and ``dropped_copies``, on the first.

    A line counts as often as it is in the file that has it most often; more comes from deliveries of the same.
    Equal lines have the same visitor and time, so they lie together in the one order that is sorted for.
    """
    line = Window.partitionBy("visitor_id", "ts", "key")
    in_file = Window.partitionBy("visitor_id", "ts", "key", "file")
    in_order = line.orderBy("file")
    all_of_it = in_order.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    one = F.lit(1)
    return (
        hits.withColumn("in_file", F.count(one).over(in_file))
        .withColumn("kept", F.max("in_file").over(all_of_it))
        .withColumn("copies", F.count(one).over(all_of_it))
        .withColumn("occurrence", F.row_number().over(in_order))
        .where(F.col("occurrence") <= F.col("kept"))
        .withColumn(
            "dropped_copies", F.when(F.col("occurrence") == 1, F.col("copies") - F.col("kept")).otherwise(0)
        )
        .drop("file", "in_file", "kept", "copies")
    )


def _without_repeats(hits: DataFrame, seconds: int) -> DataFrame:
    """The first hit of each chain of equal ones, with ``dropped_repeats`` (how many followed) and all their
    ``dropped_copies``. Sorts once more, but shuffles nothing: equal hits have the same visitor."""
    same = ["visitor_id", "method", "path", "query", "status"]
    in_order = Window.partitionBy(*same).orderBy("ts", "key", "occurrence")
    gap = F.unix_micros("ts") - F.unix_micros(F.lag("ts").over(in_order))
    hits = hits.withColumn("starts", F.coalesce(gap > seconds * 1_000_000, F.lit(True)).cast("int"))
    so_far = in_order.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    hits = hits.withColumn("chain", F.sum("starts").over(so_far))
    chain = Window.partitionBy(*same, "chain")
    return (
        hits.withColumn("dropped_repeats", F.count(F.lit(1)).over(chain) - 1)
        .withColumn("dropped_copies", F.sum("dropped_copies").over(chain))
        .where(F.col("starts") == 1)
        .drop("starts", "chain")
    )


def _event_columns(hits: DataFrame, rules: Enrichment, day: date) -> Tuple[Column, ...]:
    host = referrers.referrer_host(F.col("referrer"))
    own = _is_own(host, rules)
    bot_reason = F.coalesce("name_reason", "behaviour")
    is_named_page = F.col("is_named_page") if "is_named_page" in hits.columns else F.lit(None).cast("boolean")
    key = F.lower(F.hex("key"))
    made = {
        # Nearly every line is there once, and its key is a digest already.
        "event_id": F.when(F.col("occurrence") == 1, key).otherwise(
            F.sha2(F.concat_ws(":", key, "occurrence"), 256)
        ),
        "page": urls.page_of(F.col("path")),
        "referrer_host": host,
        "referrer_medium": F.when(F.col("referrer").isNull(), "direct")
        .when(own, "internal")
        .otherwise(F.coalesce("referrer_medium", F.lit("unknown"))),
        "is_bot": bot_reason.isNotNull(),
        "bot_reason": bot_reason,
        "is_page_view": is_page_view(bot_reason, is_named_page),
        "dt": F.lit(day.isoformat()).cast("date"),
        **campaigns.campaign_columns(F.col("query")),
    }
    missing = {c.name for c in columns.NORMALIZED} - set(made) - set(hits.columns)
    made.update({name: F.lit(None).cast("string") for name in missing})
    return tuple(made.get(c.name, F.col(c.name)).alias(c.name) for c in columns.NORMALIZED)
