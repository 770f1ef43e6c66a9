"""Robots: by name (the patterns of the PyPI package crawler-user-agents, and an expression of our own) and by
what they do.

The list is read as data, not through its package's code: that code opens a file beside itself, which fails
inside the zip that a job is shipped in. Its 1,500 patterns become one Java expression; the literal ones, nearly
all, as a tree, because an alternation of 1,500 words would be tried word by word at each position.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Tuple

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.spark.package_data import read_data

OWN = r"(?i:(?<!cu)bot(?![a-z])|crawl|spider|slurp|scraper|\+https?://)"
"""What calls itself a robot without being on the list. ``Cubot`` is a make of telephones."""

BEHAVIOURS = ("robots_txt", "head_only", "rate", "no_assets")
"""What a visitor can give itself away by, in the order in which the reasons are looked for."""

DEFAULT_BEHAVIOURS = BEHAVIOURS[:3]
"""Not ``no_assets``: where assets come from another server, everybody would be found."""

_PACKAGE = "crawleruseragents"
_DISTRIBUTION = "crawler-user-agents"
_FILE = "crawler-user-agents.json"


def load_patterns() -> List[str]:
    """The list's patterns (regular expressions, case-sensitive). Raise ConfigurationError where it is missing."""
    return [
        entry["pattern"] for entry in json.loads(read_data(_PACKAGE, _FILE, _DISTRIBUTION).decode("utf-8"))
    ]


def robot_expression(patterns: Iterable[str]) -> str:
    """One Java expression that finds what any of ``patterns`` finds."""
    tree: Dict[str, Any] = {}
    others: List[str] = []
    for pattern in patterns:
        literal = re.sub(r"\\([^A-Za-z0-9])", r"\1", pattern)
        if re.search(r"(?<!\\)[\[\](){}?+*^$|.]|\\[A-Za-z0-9]", pattern):
            others.append(pattern)
        else:
            node = tree
            for character in literal:
                node = node.setdefault(character, {})
            node[""] = {}
    return "|".join([_alternation(tree), *(f"(?:{other})" for other in others)])


def _alternation(node: Dict[str, Any]) -> str:
    # A word that ends here makes whatever follows it immaterial: the question is only whether there is a match.
    if "" in node:
        return ""
    branches = []
    for character, below in sorted(node.items()):
        branches.append(
            (re.escape(character) if not character.isalnum() else character) + _alternation(below)
        )
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


@dataclass(frozen=True)
class BehaviourRules:
    """From when on a visitor's hits in a batch are those of a robot. Pages here are hits that are no assets."""

    behaviours: Tuple[str, ...] = DEFAULT_BEHAVIOURS
    """Which of :data:`BEHAVIOURS` count; none switches them off."""

    head_only_hits: int = 3
    """``head_only``: at least so many hits, all of them HEAD."""

    rate_pages: int = 60
    """``rate``: at least so many pages ..."""

    rate_pages_a_minute: int = 30
    """... and so many a minute from the first to the last; a span of less than a minute counts as one."""

    no_assets_pages: int = 30
    """``no_assets``: at least so many pages, and not one asset."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.behaviours) - set(BEHAVIOURS))
        if unknown:
            raise ConfigurationError(
                f"{', '.join(unknown)} is no behaviour of robots; valid: {', '.join(BEHAVIOURS)}, or none."
            )


def name_reason(user_agent: Column) -> Column:
    """``list`` or ``name`` where the user agent is a robot's, otherwise NULL."""
    return F.when(user_agent.rlike(robot_expression(load_patterns())), "list").when(
        user_agent.rlike(OWN), "name"
    )


def with_behaviour(hits: DataFrame, rules: BehaviourRules) -> DataFrame:
    """Add ``behaviour``: the first of ``rules.behaviours`` that the visitor of a hit shows in ``hits``, or NULL.

    ``hits`` has ``visitor_id``, ``ts``, ``method``, ``path`` and ``is_asset``, and has to lie by ``visitor_id``
    already: then nothing is shuffled here.
    """
    visitor = Window.partitionBy("visitor_id")
    return hits.withColumn("behaviour", behaviour(rules, lambda aggregate: aggregate.over(visitor)))


def behaviour(rules: BehaviourRules, of_visitor: Callable[[Column], Column]) -> Column:
    """The first of ``rules.behaviours`` that a visitor shows, or NULL, from the columns that :func:`with_behaviour`
    names. ``of_visitor`` takes an aggregate to the same over the visitor's hits."""
    is_page = ~F.col("is_asset")

    def count(condition: Column) -> Column:
        return of_visitor(F.count(F.when(condition, 1)))

    pages = count(is_page)
    page_time = F.when(is_page, F.unix_seconds("ts"))
    span = F.greatest(of_visitor(F.max(page_time)) - of_visitor(F.min(page_time)), F.lit(60))
    conditions = {
        "robots_txt": count(F.lower("path") == "/robots.txt") > 0,
        "head_only": (count(F.lit(True)) >= rules.head_only_hits)
        & (count(F.col("method") == "HEAD") == count(F.lit(True))),
        "rate": (pages >= rules.rate_pages) & (pages * 60 >= span * rules.rate_pages_a_minute),
        "no_assets": (pages >= rules.no_assets_pages) & (count(F.col("is_asset")) == 0),
    }
    found = F.lit(None).cast("string")
    for name in reversed(BEHAVIOURS):
        if name in rules.behaviours:
            found = F.when(conditions[name], name).otherwise(found)
    return found
