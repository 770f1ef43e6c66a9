from __future__ import annotations

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.spark.internal_traffic import is_internal, parse_networks

NETWORKS = parse_networks(["10.0.0.0/8", "192.0.2.7/32", "2001:db8:5::/48"])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8:5::1", True),
        ("2001:DB8:5:FFFF::", True),
        ("2001:db8:6::1", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        ("10.0.0.1.example.com", False),
        ("localhost", False),
        ("10.0.0", False),
        ("", False),
    ],
)
def test_is_internal(host: str, expected: bool) -> None:
    assert is_internal(host, NETWORKS) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.1/8", r"host bits set.*Did you mean 10\.0\.0\.0/8\?"),
        ("10.0.0.0/33", r"such as 10\.0\.0\.0/8 or 2001:db8::/32"),
        ("office", r"--internal-cidr office"),
    ],
)
def test_what_is_no_network_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_networks([text])
