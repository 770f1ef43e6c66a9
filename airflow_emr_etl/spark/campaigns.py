"""The campaign that brought a visitor, from the query of the request: utm parameters and click identifiers.

Spark's own expressions; a query without any of the names costs a few substring searches.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Dict, Mapping

from pyspark.sql import Column
from pyspark.sql import functions as F

PARAMETERS: Mapping[str, str] = MappingProxyType(
    {
        "campaign_source": "utm_source",
        "campaign_medium": "utm_medium",
        "campaign_name": "utm_campaign",
        "campaign_term": "utm_term",
        "campaign_content": "utm_content",
        "campaign_id": "utm_id",
    }
)

NETWORKS: Mapping[str, str] = MappingProxyType(
    {
        "gclid": "google",
        "gbraid": "google",
        "wbraid": "google",
        "dclid": "google",
        "msclkid": "microsoft",
        "fbclid": "facebook",
        "ttclid": "tiktok",
        "twclid": "x",
        "li_fat_id": "linkedin",
        "yclid": "yandex",
    }
)
"""The parameters that advertising networks add to a link when it is clicked, and whose each is."""

COLUMNS = (*PARAMETERS, "campaign_click_id", "campaign_network")

_SIGNS = ("utm_", "clid", "clkid", "braid", "li_fat_id")


def campaign_columns(query: Column) -> Dict[str, Column]:
    """:data:`COLUMNS` out of ``query`` (without its ``?``). Names in any case; the first of several that is not
    empty counts; values are decoded as forms are; NULL where there is nothing."""
    lower = F.lower(query)
    marked = lower.contains(_SIGNS[0])
    for sign in _SIGNS[1:]:
        marked = marked | lower.contains(sign)
    # ``;`` too: links that were escaped for HTML twice say ``&amp;utm_source=``.
    begin = r"(?i)(?:^|[&;])"
    click = begin + f"({'|'.join(NETWORKS)})=([^&]+)"
    found = {name: F.regexp_extract(query, f"{begin}{key}=([^&]+)", 1) for name, key in PARAMETERS.items()}
    found["campaign_click_id"] = F.regexp_extract(query, click, 2)
    columns = {name: F.when(marked, _form_decoded(value)) for name, value in found.items()}
    key = F.lower(F.regexp_extract(query, click, 1))
    network = F.lit(None).cast("string")
    for name, owner in NETWORKS.items():
        network = F.when(key == name, owner).otherwise(network)
    columns["campaign_network"] = F.when(marked, network)
    return columns


def _form_decoded(value: Column) -> Column:
    # The decoder raises on a percent sign that begins no escape; bytes that are no UTF-8 become U+FFFD.
    decoded = F.url_decode(F.regexp_replace(value, r"%(?![0-9A-Fa-f]{2})", "%25"))
    # No warehouse stores a NUL.
    return F.when(value != "", F.translate(decoded, "\0", "\N{REPLACEMENT CHARACTER}"))
