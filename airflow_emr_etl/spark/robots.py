"""User agents of robots: the patterns of the PyPI package crawler-user-agents and an expression of our own.

The list is read as data, not through its package's code: that code opens a file beside itself, which fails
inside the zip that a job is shipped in. Its 1,500 patterns become one Java expression; the literal ones, nearly
all, as a tree, because an alternation of 1,500 words would be tried word by word at each position.
"""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any, Dict, Iterable, List

from airflow_emr_etl.exceptions import ConfigurationError

OWN = r"(?i:(?<!cu)bot(?![a-z])|crawl|spider|slurp|scraper|\+https?://)"
"""What calls itself a robot without being on the list. ``Cubot`` is a make of telephones."""

_PACKAGE = "crawleruseragents"
_FILE = "crawler-user-agents.json"


def load_patterns() -> List[str]:
    """The list's patterns (regular expressions, case-sensitive), from the folder or the zip that is installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None or spec.loader is None:
        raise ConfigurationError(
            "The robot list is missing. Ship the package crawler-user-agents with the job: "
            "`emr-etl jobs package` does so."
        )
    loader: Any = spec.loader
    data = loader.get_data(spec.origin[: -len("__init__.py")] + _FILE)
    return [entry["pattern"] for entry in json.loads(data.decode("utf-8"))]


def robot_expression(patterns: Iterable[str]) -> str:
    """One Java expression that finds what any of ``patterns`` or :data:`OWN` finds."""
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
    return "|".join([_alternation(tree), *(f"(?:{other})" for other in others), OWN])


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
