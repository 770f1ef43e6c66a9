"""Raw access logs that look like those of a shop's web servers, the same bytes for the same seed.

Every number comes from ``random.Random.random`` and integer arithmetic, which Python keeps stable between
versions; gzip is framed here. (The *compressed* bytes also follow from zlib, so they may differ between
machines with different zlibs; the lines in them do not.)

What is in a day: people's sessions with entry pages, referrers, assets, revalidations (304) and dead links;
search engines and other robots, with robots.txt; scanners; sessions that go on past midnight, so that a
visitor of one day is in the next day's files too; late lines, whose request began the day before; two equal
requests in a second (both count); damaged lines of several kinds; one file that was delivered again in part;
one server that had no traffic.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import accumulate
from pathlib import Path
from random import Random

from airflow_emr_etl.clickstream.gzip_file import GzipWriter
from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.access_log import MONTHS

MINIMUM_LINES = 200
_DAY = 86_400
_SERVERS = ("web-1.log.gz", "web-2.log.gz", "web-3.log")
_RESENT = "web-1.resent.log.gz"
_IDLE = "web-4.log"
_SITE = "https://www.example.com"


@dataclass(frozen=True)
class GeneratedDay:
    """The files of one day and what is known about them.

    ``quarantined`` counts the damaged lines by the reason that the normalize job gives them; ``delivered_twice``
    the lines of the file that came again; ``outside_day`` the late lines.
    """

    day: date
    files: Mapping[str, bytes] = field(repr=False)
    lines: int
    quarantined: Mapping[str, int]
    delivered_twice: int
    empty_files: int
    outside_day: int

    @property
    def valid(self) -> int:
        return self.lines - sum(self.quarantined.values()) - self.delivered_twice

    def write(self, folder: Path) -> list[Path]:
        """Write the files to ``<folder>/<day>/``."""
        target = folder / self.day.isoformat()
        target.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (target / name).write_bytes(content)
        return [target / name for name in self.files]


def generate(start: date, days: int, lines: int = 200_000, seed: int = 7) -> Iterator[GeneratedDay]:
    """``days`` days from ``start`` on, one at a time."""
    for number in range(days):
        yield generate_day(start + timedelta(days=number), lines, seed)


def generate_day(day: date, lines: int = 200_000, seed: int = 7) -> GeneratedDay:
    """One day: exactly ``lines`` lines in all files together. Each day can be made by itself."""
    if lines < MINIMUM_LINES:
        raise ConfigurationError(f"A day of {lines} lines was asked for; valid is {MINIMUM_LINES} and more.")
    rng = Random(f"{seed}:{day.isoformat()}")  # text seeds go through SHA-512, the same everywhere
    damaged = _damaged_lines(rng, day, max(7, lines // 2_000))
    resent = max(5, lines // 400)
    evening, _, _ = _midnight(day, lines, seed)
    _, night, late = _midnight(day - timedelta(days=1), lines, seed)

    hits = [*evening, *night, *late]
    wanted = lines - resent - len(damaged)
    while len(hits) < wanted:
        chance = rng.random()
        if chance < 0.90:
            hits += _person(rng, day, _second_of_day(rng), _DAY)
        elif chance < 0.985:
            hits += _robot(rng, day)
        else:
            hits += _scanner(rng, day)
    del hits[wanted:]
    hits += [(second, server, line) for second, server, line, _ in damaged]
    hits.sort()

    texts: dict[str, list[str]] = {name: [] for name in _SERVERS}
    for _, server, line in hits:
        texts[_SERVERS[server]].append(line)
    first = texts[_SERVERS[0]]
    # A short day may leave the first server with fewer lines than are to come again; the others make up for it.
    resent = min(resent, len(first))
    begin = (len(first) - resent) // 2
    texts[_RESENT] = first[begin : begin + resent]
    missing = lines - sum(len(text) for text in texts.values())
    texts[_SERVERS[2]] += [line for _, server, line in _filler(rng, day, missing)]
    files = {name: _content(name, text) for name, text in texts.items()}
    files[_IDLE] = b""
    return GeneratedDay(
        day=day,
        files=dict(sorted(files.items())),
        lines=lines,
        quarantined=dict(sorted(Counter(reason for *_, reason in damaged).items())),
        delivered_twice=resent,
        empty_files=1,
        outside_day=len(late),
    )


_Hit = tuple[int, int, str]
"""Second of the day when the line was written, server, line."""


def _content(name: str, lines: list[str]) -> bytes:
    raw = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    if not name.endswith(".gz"):
        return raw
    target = io.BytesIO()
    writer = GzipWriter(target)
    writer.write(raw)
    writer.close()
    return target.getvalue()


# --- what the site and its visitors are like -------------------------------------------------------------------

_HOURS = list(
    accumulate((22, 15, 11, 9, 9, 12, 20, 34, 48, 56, 60, 62, 64, 61, 58, 57, 58, 62, 70, 78, 80, 71, 53, 34))
)

_PRODUCTS = [f"/products/{number}" for number in range(1_000, 1_400)]
_ARTICLES = [
    f"/blog/2025/{month:02d}/{word}"
    for month in range(1, 13)
    for word in ("how-to-choose", "behind-the-scenes", "spring-sale", "field-notes", "care-guide")
]
_SECTIONS = [
    "/",
    "/products",
    "/blog",
    "/about",
    "/contact",
    "/search",
    "/cart",
    "/checkout",
    "/account",
    "/faq",
]
_PAGES = _SECTIONS + _PRODUCTS + _ARTICLES
_PAGE_WEIGHTS = list(
    accumulate(
        [900, 500, 220, 60, 50, 320, 180, 90, 110, 70]
        + [1200 // (rank + 4) + 1 for rank in range(len(_PRODUCTS))]
        + [500 // (rank + 3) + 1 for rank in range(len(_ARTICLES))]
    )
)
_COMMON_ASSETS = [
    ("/static/app.3f9c2.css", 48_211),
    ("/static/app.81be0.js", 187_330),
    ("/static/vendor.c01d4.js", 402_118),
    ("/static/fonts/inter.woff2", 98_868),
    ("/favicon.ico", 4_286),
    ("/static/logo.svg", 3_120),
]
_TERMS = ["tent", "rain+jacket", "trail%20shoes", "lamp", "caf%C3%A9", "backpack+40l", "socks", "stove"]
_REFERRERS = [
    "-", "-", "-", "-", "https://www.google.com/", "https://www.google.com/", "https://www.google.com/",
    "https://www.google.de/", "https://www.bing.com/", "https://duckduckgo.com/", "https://t.co/9aXk2LmQ1z",
    "https://www.facebook.com/", "https://www.instagram.com/", "https://news.example.org/outdoor/best-tents",
    "android-app://com.google.android.googlequicksearchbox/",
]  # fmt: skip
_CAMPAIGNS = [
    "",
    "",
    "",
    "",
    "",
    "?utm_source=newsletter&utm_medium=email",
    "?utm_source=google&utm_medium=cpc",
    "?gclid=Cj0K",
]


def _browsers() -> list[str]:
    """User agents as browsers of 2025 send them, the frequent ones more often."""
    agents: list[str] = []
    webkit = "AppleWebKit/537.36 (KHTML, like Gecko)"
    for version, weight in ((143, 9), (142, 5), (141, 2), (138, 1), (109, 1)):
        chrome = f"{webkit} Chrome/{version}.0.0.0"
        agents += [f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {chrome} Safari/537.36"] * weight * 3
        agents += [f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {chrome} Safari/537.36"] * weight
        agents += [f"Mozilla/5.0 (X11; Linux x86_64) {chrome} Safari/537.36"]
        agents += [f"Mozilla/5.0 (Linux; Android 10; K) {chrome} Mobile Safari/537.36"] * weight * 4
        agents += [
            f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {chrome} Safari/537.36 Edg/{version}.0.0.0"
        ] * weight
    for safari, weight in (("26.1", 5), ("18.6", 9), ("18.5", 4), ("17.6", 3), ("16.6", 1)):
        system = safari.replace(".", "_")
        webkit605 = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
        agents += [
            f"Mozilla/5.0 (iPhone; CPU iPhone OS {system} like Mac OS X) {webkit605} Version/{safari} "
            "Mobile/15E148 Safari/604.1"
        ] * (weight * 3)
        agents += [
            f"Mozilla/5.0 (iPad; CPU OS {system} like Mac OS X) {webkit605} Version/{safari} "
            "Mobile/15E148 Safari/604.1"
        ]
        agents += [
            f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {webkit605} Version/{safari} Safari/605.1.15"
        ] * weight
    for version in (145, 144, 140, 128, 115):
        agents += [
            f"Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:{version}.0) Gecko/20100101 Firefox/{version}.0"
        ] * 2
        agents += [
            f"Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:{version}.0) Gecko/20100101 Firefox/{version}.0"
        ]
        agents += [f"Mozilla/5.0 (Android 15; Mobile; rv:{version}.0) Gecko/{version}.0 Firefox/{version}.0"]
    for model in ("SM-S928B", "SM-A556B", "SM-G991U"):
        agents += [
            f"Mozilla/5.0 (Linux; Android 14; {model}) {webkit} SamsungBrowser/28.0 "
            "Chrome/130.0.0.0 Mobile Safari/537.36"
        ] * 2
    # A server escapes the quotes that a client put into its name.
    return [
        *agents,
        r"Mozilla/5.0 (Windows NT 10.0; Win64; x64) \"Kiosk\" AppleWebKit/537.36 (KHTML, like Gecko)",
    ]


_BROWSERS = _browsers()
_ROBOTS = [
    ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "66.249.66.", 40),
    ("Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)", "157.55.39.", 25),
    ("Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)", "54.36.148.", 30),
    ("Mozilla/5.0 (compatible; SemrushBot/7~bl; +http://www.semrush.com/bot.html)", "85.208.96.", 20),
    ("Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; "
     "+https://openai.com/gptbot)", "20.171.207.", 30),
    ("Mozilla/5.0 (compatible; ClaudeBot/1.0; +claudebot@anthropic.com)", "18.97.9.", 20),
    ("facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", "173.252.87.", 3),
    ("Mozilla/5.0 (compatible; YandexBot/3.0; +http://yandex.com/bots)", "5.255.231.", 15),
    ("Feedly/1.0 (+http://www.feedly.com/fetcher.html; 18 subscribers)", "8.29.198.", 2),
    ("curl/8.5.0", "203.0.113.", 2),
]  # fmt: skip
_PROBES = [
    "/wp-login.php",
    "/.env",
    "/.git/config",
    "/phpmyadmin/index.php",
    "/xmlrpc.php",
    "/admin/",
    "/cgi-bin/luci",
]


def _pick(rng: Random, items: list[str]) -> str:
    return items[int(rng.random() * len(items))]


def _page(rng: Random) -> str:
    return _PAGES[bisect_right(_PAGE_WEIGHTS, int(rng.random() * _PAGE_WEIGHTS[-1]))]


def _second_of_day(rng: Random) -> int:
    return bisect_right(_HOURS, int(rng.random() * _HOURS[-1])) * 3_600 + int(rng.random() * 3_600)


_MONTH_NAMES = {number: name for name, number in MONTHS.items()}


def _date_text(day: date) -> str:
    return f"{day.day:02d}/{_MONTH_NAMES[day.month]}/{day.year:04d}"


def _clock(second: int) -> str:
    return f"{second // 3_600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"


def _address(rng: Random) -> tuple[str, int]:
    """A client's address and its server: one address is always on one server, as behind a sticky balancer."""
    number = int(rng.random() * 2**32)
    if number % 11 == 0:
        return f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::{number % 4093:x}", number % 3
    return f"{1 + (number >> 24) % 222}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", number % 3


def _person(rng: Random, day: date, start: int, end: int) -> list[_Hit]:
    """A session: pages with their assets, some minutes apart. Hits from the second ``end`` on are left out."""
    address, server = _address(rng)
    agent = _pick(rng, _BROWSERS)
    user = "-" if rng.random() < 0.97 else f"user{int(rng.random() * 5_000)}"
    prefix = f"{address} - {user} [{_date_text(day)}:"
    suffix = f'" "{agent}"'
    referrer = _pick(rng, _REFERRERS)
    page = _page(rng) + _pick(rng, _CAMPAIGNS)
    returning = rng.random() < 0.35
    second = start
    hits: list[_Hit] = []

    def hit(request: str, status: int, size: object, origin: str) -> None:
        if second < end:
            line = f'{prefix}{_clock(second)} +0000] "{request} HTTP/1.1" {status} {size} "{origin}{suffix}'
            hits.append((second, server, line))

    number = 0
    while second < end:
        chance = rng.random()
        if chance < 0.02:
            hit(f"GET {page.partition('?')[0]}-old", 404, 1_245, referrer)
        elif chance < 0.03:
            hit(f"GET {page}/", 301, 178, referrer)
        elif chance < 0.033:
            hit(f"GET {page}", 500, 612, referrer)
        elif page == "/search":
            page = f"/search?q={_pick(rng, _TERMS)}"
            hit(f"GET {page}", 200, 9_000 + int(rng.random() * 22_000), referrer)
        elif page in ("/cart", "/account"):
            hit(f"POST {page}", 302 if rng.random() < 0.8 else 403, "-", referrer)
        else:
            hit(f"GET {page}", 200, 6_000 + int(rng.random() * 40_000), referrer)
            if rng.random() < 0.002 and hits:
                hits.append(hits[-1])  # a double click: two equal lines, both true
        origin = _SITE + page
        if number == 0:
            for asset, size in _COMMON_ASSETS[: 3 + int(rng.random() * 4)]:
                second += rng.random() < 0.3
                known = returning and rng.random() < 0.8
                hit(f"GET {asset}", 304 if known else 200, "-" if known else size, origin)
        if page.startswith("/products/"):
            hit(
                f"GET /images{page[9:].partition('?')[0]}.jpg",
                200,
                30_000 + int(rng.random() * 90_000),
                origin,
            )
        number += 1
        if rng.random() < (0.45 if number == 1 else 0.22):
            break
        pause = rng.random()
        second += 4 + int(pause * pause * 240)
        if rng.random() < 0.02:
            second += 1_800 + int(rng.random() * 3_600)  # away for lunch: another session
        referrer, page = origin, _page(rng)
    return hits


def _robot(rng: Random, day: date) -> list[_Hit]:
    agent, network, pages = _ROBOTS[int(rng.random() * len(_ROBOTS))]
    host = int(rng.random() * 30)
    second = int(rng.random() * (_DAY - 1_800))
    hits: list[_Hit] = []
    paths = ["/robots.txt"] if rng.random() < 0.5 else []
    paths += [_page(rng) for _ in range(1 + int(rng.random() * pages))]
    if agent.startswith("Feedly"):
        paths = ["/blog/feed.xml"]
    for path in paths:
        status = 404 if rng.random() < 0.04 else 200
        line = (
            f'{network}{host} - - [{_date_text(day)}:{_clock(second)} +0000] "GET {path} HTTP/1.1" '
            f'{status} {5_000 + int(rng.random() * 30_000)} "-" "{agent}"'
        )
        hits.append((second, host % 3, line))
        second = min(second + 1 + int(rng.random() * 40), _DAY - 1)
    return hits


def _scanner(rng: Random, day: date) -> list[_Hit]:
    """Somebody who tries doors, one of them with a request that is none."""
    address, server = _address(rng)
    second = int(rng.random() * (_DAY - 60))
    agent = "python-requests/2.32.3" if rng.random() < 0.6 else "-"
    requests = [f"GET {probe} HTTP/1.1" for probe in _PROBES] + [r"\x16\x03\x01\x02", "-", "GET /"]
    hits: list[_Hit] = []
    for request in requests[int(rng.random() * 6) :]:
        status, size = (400, "226") if not request.startswith("GET /") else (404, "1245")
        line = f'{address} - - [{_date_text(day)}:{_clock(second)} +0000] "{request}" {status} {size} "-" "{agent}"'
        hits.append((second, server, line))
        second += int(rng.random() * 3)
    return hits


def _midnight(day: date, lines: int, seed: int) -> tuple[list[_Hit], list[_Hit], list[_Hit]]:
    """Sessions over the midnight that ends ``day``: the hits of its files, and, of the next day's files, the hits
    after midnight and the late ones, whose requests began before it and ended after it."""
    rng = Random(f"{seed}:{day.isoformat()}:midnight")
    tomorrow = day + timedelta(days=1)
    evening: list[_Hit] = []
    night: list[_Hit] = []
    late: list[_Hit] = []
    for _ in range(max(2, lines // 5_000)):
        address, server = _address(rng)
        agent = _pick(rng, _BROWSERS)
        second = _DAY - 30 - int(rng.random() * 900)
        referrer = _pick(rng, _REFERRERS)
        for _ in range(4 + int(rng.random() * 8)):
            page = _page(rng)
            date_text = _date_text(day if second < _DAY else tomorrow)
            line = (
                f'{address} - - [{date_text}:{_clock(second % _DAY)} +0000] "GET {page} HTTP/1.1" 200 '
                f'{6_000 + int(rng.random() * 40_000)} "{referrer}" "{agent}"'
            )
            (evening if second < _DAY else night).append((second % _DAY, server, line))
            referrer = _SITE + page
            second += 20 + int(rng.random() * 300)
        line = (
            f"{address} - - [{_date_text(day)}:{_clock(_DAY - 1 - int(rng.random() * 20))} +0000] "
            f'"GET /downloads/catalogue.pdf HTTP/1.1" 200 {8_000_000 + int(rng.random() * 9_000)} "-" "{agent}"'
        )
        late.append((1 + int(rng.random() * 50), server, line))
    return evening, night, late


def _filler(rng: Random, day: date, count: int) -> list[_Hit]:
    """``count`` calls of a health check, in order."""
    return [
        (number, 2, f'192.0.2.{1 + int(rng.random() * 250)} - - [{_date_text(day)}:{_clock(number % _DAY)} +0000] '
         f'"GET /healthz HTTP/1.1" 200 {number} "-" "health-check/1.0"')
        for number in range(count)
    ]  # fmt: skip


def _damaged_lines(rng: Random, day: date, count: int) -> list[tuple[int, int, str, str]]:
    """``count`` lines that must go to quarantine, each with its reason; of every kind at least one."""
    kinds = ["truncated", "malformed", "bad_timestamp", "not_utf8", "nul_byte", "empty_line"]
    damaged: list[tuple[int, int, str, str]] = []
    for number in range(count):
        second = _second_of_day(rng)
        address, server = _address(rng)
        when = f"{_date_text(day)}:{_clock(second)} +0000"
        agent = _pick(rng, _BROWSERS)
        rest = f'200 {int(rng.random() * 90_000)} "-" "{agent}"'
        kind = "too_long" if number == len(kinds) else kinds[number % len(kinds)]
        if kind == "truncated":
            line = f'{address} - - [{when}] "GET {_page(rng)} HTTP/1.1" {rest}'[: -1 - int(rng.random() * 60)]
        elif kind == "malformed":
            line = f"{address} {when} GET {_page(rng)} 200"
        elif kind == "bad_timestamp":
            line = f'{address} - - [31/Feb/{day.year:04d}:{_clock(second)} +0000] "GET {_page(rng)} HTTP/1.1" {rest}'
        elif kind == "not_utf8":
            line = f'{address} - - [{when}] "GET /search?q=caf\udce9 HTTP/1.1" {rest}'
        elif kind == "nul_byte":
            line = f'{address} - - [{when}] "GET {_page(rng)}\0\0\0 HTTP/1.1" {rest}'
        elif kind == "empty_line":
            line, server = "", 1  # on one server: an empty line of another file would count as the same one
        else:
            line = f'{address} - - [{when}] "GET /search?q={"A" * 70_000} HTTP/1.1" {rest}'
        damaged.append((second, server, line, kind))
    return damaged
