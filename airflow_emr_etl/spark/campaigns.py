"""The campaign that brought a visitor, from the query of the request: utm parameters and click identifiers.

Spark's own expressions; a query without any of the names costs a few substring searches. :func:`campaign_of` is the
same in Python.
"""

from __future__ import annotations

import codecs
import re
from types import MappingProxyType
from typing import Dict, Mapping, Match, Optional, Tuple

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

# ``;`` too: links that were escaped for HTML twice say ``&amp;utm_source=``.
_BEGIN = r"(?i)(?:^|[&;])"
_CLICK = f"{_BEGIN}({'|'.join(NETWORKS)})=([^&]+)"


def campaign_columns(query: Column) -> Dict[str, Column]:
    """:data:`COLUMNS` out of ``query`` (without its ``?``). Names in any case; the first of several that is not
    empty counts; values are decoded as forms are; NULL where there is nothing."""
    lower = F.lower(query)
    marked = lower.contains(_SIGNS[0])
    for sign in _SIGNS[1:]:
        marked = marked | lower.contains(sign)
    found = {name: F.regexp_extract(query, f"{_BEGIN}{key}=([^&]+)", 1) for name, key in PARAMETERS.items()}
    found["campaign_click_id"] = F.regexp_extract(query, _CLICK, 2)
    columns = {name: F.when(marked, _form_decoded(value)) for name, value in found.items()}
    key = F.lower(F.regexp_extract(query, _CLICK, 1))
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


_PARAMETERS = [re.compile(f"{_BEGIN}{key}=([^&]+)", re.ASCII) for key in PARAMETERS.values()]
_CLICKS = re.compile(_CLICK, re.ASCII)
_ESCAPES = re.compile("(?:%[0-9A-Fa-f]{2})+")
_NOTHING: Tuple[Optional[str], ...] = (None,) * len(COLUMNS)


def campaign_of(query: str) -> Tuple[Optional[str], ...]:
    """The same as :func:`campaign_columns`, in Python: a text or None for each of :data:`COLUMNS`."""
    lower = query.lower()
    if not any(sign in lower for sign in _SIGNS):
        return _NOTHING
    values = [pattern.search(query) for pattern in _PARAMETERS]
    click = _CLICKS.search(query)
    return (
        *(None if value is None else _form_text(value.group(1)) for value in values),
        *((None, None) if click is None else (_form_text(click.group(2)), NETWORKS[click.group(1).lower()])),
    )


def _form_text(value: str) -> str:
    decoded = _ESCAPES.sub(_bytes_decoded, value.replace("+", " "))
    return decoded.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _bytes_decoded(escapes: Match[str]) -> str:
    return bytes.fromhex(escapes.group(0).replace("%", "")).decode("utf-8", _AS_JAVA)


def _replaced(error: UnicodeError) -> Tuple[str, int]:
    """One replacement character where Java gives one: a surrogate is one mistake to it, and three to Python."""
    assert isinstance(error, UnicodeDecodeError)
    wrong = error.object[error.start : error.start + 3]
    is_surrogate = (
        len(wrong) == 3 and wrong[0] == 0xED and 0xA0 <= wrong[1] <= 0xBF and 0x80 <= wrong[2] <= 0xBF
    )
    return "\N{REPLACEMENT CHARACTER}", error.start + 3 if is_surrogate else error.end


_AS_JAVA = "airflow_emr_etl.as_java"
codecs.register_error(_AS_JAVA, _replaced)
