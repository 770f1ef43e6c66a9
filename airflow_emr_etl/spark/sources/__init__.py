"""The sources that come with the package, one YAML file each, and how a source is read."""

from __future__ import annotations

import pkgutil
from typing import Any, Tuple

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.log_source import LogSource

BUILT_IN: Tuple[str, ...] = ("common", "combined", "cloudfront", "alb", "json_events", "snowplow")


def built_in_source(name: str) -> LogSource:
    """The source of this name, from the folder or the zip that is installed; raise ConfigurationError."""
    if name not in BUILT_IN:
        raise ConfigurationError(
            f"There is no source {name!r}. Built in are {', '.join(BUILT_IN)}; a source of your own is the address "
            "of a file that ends in .yaml."
        )
    data = pkgutil.get_data(__name__, f"{name}.yaml")
    assert data is not None
    return parse_source(data.decode("utf-8"), name)


def parse_source(text: str, name: str) -> LogSource:
    """The source in a YAML document; raise ConfigurationError, naming ``name``."""
    import yaml

    try:
        document: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"The source {name!r} is no YAML: {error}") from error
    return LogSource.from_document(document, name)
