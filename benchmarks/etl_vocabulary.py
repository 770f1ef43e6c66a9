"""What the made-up clicks consist of: pages, assets, queries, referrers and user agents, as lists.

All are plain ASCII without quotes or backslashes, so that JSON and log lines need no escaping.
"""

from __future__ import annotations

import json

from airflow_emr_etl.spark.package_data import read_data

SITE = "https://www.example.com"

_SECTIONS = "shop blog docs help news guides products support careers events".split()  # noqa: SIM905
_WORDS = "alpha river stone maple orbit quartz cedar ember tidal north violet copper".split()  # noqa: SIM905


def pages() -> list[str]:
    """2,921 paths of pages, the most visited first."""
    fixed = [
        "/",
        "/cart",
        "/checkout",
        "/checkout/done",
        "/login",
        "/search",
        *(f"/{name}/" for name in _SECTIONS),
    ]
    found = [f"/{section}/{a}-{b}" for a in _WORDS for b in _WORDS for section in _SECTIONS]
    return fixed + found + [f"{path}/reviews" for path in found[::2]] + ["/about", "/terms"] + _numbered()


def _numbered() -> list[str]:
    return [f"/products/item-{number}" for number in range(743)]


def assets() -> list[str]:
    """Paths of what pages load."""
    return [
        *(f"/static/app.{number:02x}.js" for number in range(20)),
        *(f"/static/site.{number:02x}.css" for number in range(10)),
        *(f"/images/{word}-{number}.webp" for word in _WORDS for number in range(30)),
        "/favicon.ico",
        "/robots.txt",
    ]


def queries() -> list[str]:
    """Queries of first pages, campaigns for the most part."""
    tagged = [
        f"utm_source={source}&utm_medium={medium}&utm_campaign={word}-{season}"
        for source, medium in (
            ("google", "cpc"),
            ("newsletter", "email"),
            ("facebook", "paid_social"),
            ("bing", "cpc"),
            ("partner", "affiliate"),
        )
        for word in _WORDS
        for season in ("spring", "summer", "winter")
    ]
    clicked = [f"gclid=Cj0KCQ{number:06d}&lang=en" for number in range(60)]
    return tagged + clicked + [f"q={a}+{b}" for a in _WORDS for b in _WORDS]


def external_referrers() -> list[str | None]:
    """Where visits come from; None is a direct one. The most frequent first."""
    searches = [
        f"https://{host}{parameter}{a}+{b}"
        for host, parameter in (
            ("www.google.com/search?q=", ""),
            ("www.bing.com/search?q=", ""),
            ("duckduckgo.com/?q=", ""),
            ("search.yahoo.com/search?p=", ""),
        )
        for a in _WORDS
        for b in _WORDS
    ]
    plain = ["https://www.google.com/", "https://www.facebook.com/", "https://t.co/AbCd123", None, None]
    return [None, *plain, *searches, *(f"https://blog{number}.example.org/post" for number in range(200))]


def browsers() -> list[str]:
    """Some 3,500 user agents of people, the most frequent first."""
    systems = (
        "Windows NT 10.0; Win64; x64",
        "Macintosh; Intel Mac OS X 10_15_7",
        "X11; Linux x86_64",
        "Windows NT 6.1; Win64; x64",
    )
    models = (
        *(f"SM-{series}{number}B" for series in "SAG" for number in range(900, 999, 9)),
        *(f"Pixel {number}" for number in range(3, 10)),
        "Redmi Note 9 Pro",
        "moto g(60)",
        "CPH2269",
    )
    found: list[str] = []
    for version in range(139, 89, -1):
        found += [
            f"Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version}.0.0.0 Safari/537.36{tail}"
            for tail in ("", f" Edg/{version}.0.0.0")
            for system in systems
        ]
        found += [
            f"Mozilla/5.0 (Linux; Android {8 + (version + index) % 8}; {model}) AppleWebKit/537.36 "
            f"(KHTML, like Gecko) Chrome/{version}.0.0.0 Mobile Safari/537.36"
            for index, model in enumerate(models)
        ]
        found += [
            f"Mozilla/5.0 ({system}; rv:{version}.0) Gecko/20100101 Firefox/{version}.0" for system in systems
        ]
    for major in range(18, 11, -1):
        for minor in range(8):
            found += [
                f"Mozilla/5.0 ({device} OS {major}_{minor} like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
                f"Version/{major}.{minor} Mobile/15E148 Safari/604.1"
                for device in ("iPhone; CPU iPhone", "iPad; CPU")
            ]
    return found


def robots() -> list[str]:
    """User agents of robots: the instances in the package crawler-user-agents that need no escaping."""
    entries = json.loads(read_data("crawleruseragents", "crawler-user-agents.json", "crawler-user-agents"))
    named = dict.fromkeys(name.strip() for entry in entries for name in entry.get("instances", ()))
    return [name for name in named if name.isascii() and name.isprintable() and not {'"', "\\"} & set(name)]
