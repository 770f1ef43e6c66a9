"""Traffic of one's own: requests from networks in CIDR notation."""

from __future__ import annotations

import ipaddress
from typing import Optional, Sequence, Tuple, Union

from pyspark.sql import DataFrame

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.spark.lookup import Answer, ask

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


def parse_networks(texts: Sequence[str]) -> Tuple[Network, ...]:
    """Raise ConfigurationError for what is no network."""
    return tuple(_network(text) for text in texts)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        try:
            meant = f" Did you mean {ipaddress.ip_network(text, strict=False)}?"
        except ValueError:
            meant = ""
        raise ConfigurationError(
            f"--internal-cidr {text}: {error}. Write a network of IPv4 or IPv6, such as 10.0.0.0/8 or "
            f"2001:db8::/32.{meant}"
        ) from error


def is_internal(host: str, networks: Sequence[Network]) -> bool:
    """Whether ``host`` is an address in one of ``networks``. A name never is; an IPv4 address that is written as
    IPv6 (``::ffff:10.0.0.1``) counts as what it is."""
    try:
        address: Optional[Union[ipaddress.IPv4Address, ipaddress.IPv6Address]] = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def internal_hosts(hosts: DataFrame, networks: Sequence[Network]) -> DataFrame:
    """Those of ``hosts`` (one column of distinct texts) that are internal."""

    def make() -> Answer:
        return lambda host: () if is_internal(host, networks) else None

    return ask(hosts, make, ())
