"""Cleaning and enrichment: the expressions against plain Python, the lookups against the libraries, and the job."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import ipaddress
import re
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import crawleruseragents
import pytest
import ua_parser
from referer_parser import Referer

from airflow_emr_etl.clickstream.generator import generate_day
from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.spark import (
    campaigns,
    enrichment,
    lookup,
    referrers,
    robots,
    urls,
    user_agents,
    visitor_privacy,
)
from airflow_emr_etl.spark.enrichment import Enrichment
from airflow_emr_etl.spark.internal_traffic import parse_networks
from airflow_emr_etl.spark.referrer_database import load_database, sources_by_domain
from airflow_emr_etl.spark.robots import BehaviourRules
from airflow_emr_etl.spark.visitor_privacy import Privacy, truncated_address

pytestmark = pytest.mark.spark

DAY = date(2026, 1, 5)
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
KEY = b"an example of a key, 32 bytes..."


def line(
    path: str = "/",
    second: int = 0,
    host: str = "198.51.100.7",
    method: str = "GET",
    agent: str = BROWSER,
    referrer: str = "-",
) -> bytes:
    time = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
    return f'{host} - - [05/Jan/2026:{time} +0000] "{method} {path} HTTP/1.1" 200 12 "{referrer}" "{agent}"\n'.encode()


def texts(spark: Any, values: Any, name: str = "text") -> Any:
    return spark.createDataFrame([(value,) for value in values], f"{name} string")


def logged(real_log: Path) -> tuple[set[str], set[str]]:
    """The user agents and referrers of the real log and of a generated day, as they stand between the quotes."""
    raw = real_log.read_bytes()
    lines = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8", "replace").splitlines()
    for content in generate_day(DAY, lines=20_000, seed=5).files.values():
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        lines += content.decode("utf-8", "replace").splitlines()
    found = [re.search(r' "([^"]*)" "((?:[^"\\]|\\.)*)"$', text.rstrip("\r")) for text in lines]
    return {m.group(2).replace('\\"', '"') for m in found if m}, {m.group(1) for m in found if m}


@pytest.fixture(scope="module")
def agents(real_log: Path) -> list[str]:
    entries = crawleruseragents.CRAWLER_USER_AGENTS_DATA
    return sorted(logged(real_log)[0] | {instance for entry in entries for instance in entry["instances"]})


def test_agents_are_what_the_library_says(spark: Any, agents: list[str]) -> None:
    rows = {row.agent: row for row in user_agents.parse_agents(texts(spark, agents, "agent")).collect()}
    assert len(rows) == len(agents)
    for agent in agents:
        found, row = ua_parser.parse(agent), rows[agent]
        browser, system, device = found.user_agent, found.os, found.device
        assert (row.agent_family, row.agent_version) == (
            (browser.family, browser.major) if browser else (None, None)
        )
        assert (row.os_family, row.os_version) == ((system.family, system.major) if system else (None, None))
        assert (row.device_family, row.device_brand) == (
            (device.family, device.brand) if device else (None, None)
        )
    known = [sum(row[name] is not None for row in rows.values()) for name in user_agents.COLUMNS]
    print(f"recognised of {len(rows)} user agents: {dict(zip(user_agents.COLUMNS, known, strict=True))}")
    assert known[0] > 0.7 * len(rows)


def test_without_arrow_the_answers_are_the_same(spark: Any, monkeypatch: Any) -> None:
    few = texts(spark, [BROWSER, "curl/8.5.0", "x"], "agent")
    with_arrow = sorted(user_agents.parse_agents(few).collect())
    monkeypatch.setattr(lookup, "_has_arrow", lambda: False)
    assert sorted(user_agents.parse_agents(few).collect()) == with_arrow


def test_robots_by_list_are_what_the_library_says(spark: Any, agents: list[str]) -> None:
    frame = texts(spark, agents, "agent")
    rows = frame.select("agent", robots.name_reason(frame.agent).alias("reason")).collect()
    listed = {row.agent for row in rows if row.reason == "list"}
    assert listed == {agent for agent in agents if crawleruseragents.is_crawler(agent)}
    named = {row.agent for row in rows if row.reason == "name"}
    assert named == {agent for agent in agents if agent not in listed and re.search(robots.OWN, agent)}
    print(f"robots of {len(agents)} user agents: {len(listed)} by list, {len(named)} by name")


def test_referrers_are_what_the_library_says(spark: Any, real_log: Path) -> None:
    known = {
        domain: {"name": source.name, "medium": source.medium, "params": list(source.term_parameters)}
        for domain, source in sources_by_domain(load_database()).items()
    }
    sent = sorted(logged(real_log)[1] | {"http://[x", "https://www.google.com/search?q=a%00b"})
    rows = {
        row.referrer: tuple(row)[1:]
        for row in referrers.parse_referrers(texts(spark, sent, "referrer")).collect()
    }
    for referrer in sent:
        if referrer == "http://[x":
            expected = None
        else:
            answer = Referer(referrer, referers=known)
            term = answer.search_term.replace("\0", "\ufffd") if answer.search_term else answer.search_term
            expected = (answer.medium, answer.referer, term) if answer.referer else None
        assert rows.get(referrer) == expected, referrer
    print(f"known of {len(sent)} referrers: {len(rows)}; {Counter(row[0] for row in rows.values())}")
    assert len(rows) > 100


# --- pages ----------------------------------------------------------------------------------------------------

UNRESERVED = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def page(path: str) -> str | None:
    """The rules again, in Python, with the algorithm of RFC 3986, section 5.2.4, word for word."""
    if not path.startswith("/"):
        return None
    path = re.sub(r"(?i);jsessionid=[^/;]*", "", path)

    def escape(match: Any) -> str:
        char = unquote(match.group(), "latin-1")
        return char if char in UNRESERVED else str(match.group()).upper()

    given = re.sub("//+", "/", re.sub("%[0-9A-Fa-f]{2}", escape, path))
    done = ""
    while given:
        if given.startswith("/./") or given == "/.":
            given = "/" + given[3:]
        elif given.startswith("/../") or given == "/..":
            given, done = "/" + given[4:], done.rpartition("/")[0]
        else:
            end = given.find("/", 1) if given.find("/", 1) > 0 else len(given)
            done, given = done + given[:end], given[end:]
    done = re.sub(r"(?i)/(?:index|default)\.(?:x?html?|php\d?|aspx?|jspx?|cgi)\Z", "/", done)
    return done[:-1] if done.endswith("/") and done != "/" else done


def test_pages(spark: Any) -> None:
    from random import Random

    examples = {
        "/": "/",
        "/a/b": "/a/b",
        "/a/b/": "/a/b",
        "//a///b": "/a/b",
        "/%7Euser/%41%2d%2f%c3%a9": "/~user/A-%2F%C3%A9",
        "/100%": "/100%",
        "/%zz%4": "/%zz%4",
        "/a/b/c/./../../g": "/a/g",
        "/a/%2e%2e/b": "/b",
        "/../../etc": "/etc",
        "/a/..": "/",
        "/a/.": "/a",
        "/.well-known/x": "/.well-known/x",
        "/shop/INDEX.html": "/shop",
        "/default.aspx": "/",
        "/myindex.html": "/myindex.html",
        "/a;jsessionid=1F/b;c=1": "/a/b;c=1",
        "/Caf\u00e9": "/Caf\u00e9",
        "*": None,
        "h.example:443": None,
    }
    rng = Random(4)
    pieces = [
        "/",
        "//",
        ".",
        "..",
        "/.",
        "/..",
        "a",
        "%2e",
        "%2F",
        "%",
        "%7e",
        "%4",
        "index.php",
        ";jsessionid=x",
        "\n",
        "é",
        "\U0001f600",
    ]
    made = {"/" + "".join(rng.choice(pieces) for _ in range(rng.randrange(9))) for _ in range(3_000)}
    frame = texts(spark, [*examples, *made])
    rows = {
        row.text: row.page for row in frame.select("text", urls.page_of(frame.text).alias("page")).collect()
    }
    assert {text: rows[text] for text in examples} == examples
    assert rows == {text: page(text) for text in rows}
    again = texts(spark, {value for value in rows.values() if value})
    assert again.where(urls.page_of(again.text) != again.text).count() == len(
        {value for value in rows.values() if value and page(value) != value}
    )


def test_campaigns(spark: Any) -> None:
    cases: dict[str | None, dict[str, str]] = {
        None: {},
        "": {},
        "q=tent": {},
        "utm_source=news&utm_medium=email&utm_campaign=Winter+sale&utm_term=a%26b&utm_content=c&utm_id=7": {
            "campaign_source": "news",
            "campaign_medium": "email",
            "campaign_name": "Winter sale",
            "campaign_term": "a&b",
            "campaign_content": "c",
            "campaign_id": "7",
        },
        "x=1&amp;UTM_Source=A": {"campaign_source": "A"},
        "utm_source=&utm_source=b&utm_source=c": {"campaign_source": "b"},
        "my_utm_source=x": {},
        "utm_source=100%&utm_medium=%zz%ff": {"campaign_source": "100%", "campaign_medium": "%zz\ufffd"},
        "utm_source=a%00b": {"campaign_source": "a\ufffdb"},
        "gclid=Cj0K-_": {"campaign_click_id": "Cj0K-_", "campaign_network": "google"},
        "a=b&fbclid=x%3D": {"campaign_click_id": "x=", "campaign_network": "facebook"},
        "MSCLKID=1": {"campaign_click_id": "1", "campaign_network": "microsoft"},
        "li_fat_id=1&utm_source=linkedin": {
            "campaign_click_id": "1",
            "campaign_network": "linkedin",
            "campaign_source": "linkedin",
        },
        "notgclid=1": {},
    }
    frame = texts(spark, cases)
    made = campaigns.campaign_columns(frame.text)
    assert tuple(made) == campaigns.COLUMNS
    rows = frame.select("text", *(column.alias(name) for name, column in made.items())).collect()
    found = {row.text: {n: row[n] for n in campaigns.COLUMNS if row[n] is not None} for row in rows}
    assert found == cases


def test_truncated_addresses(spark: Any) -> None:
    from random import Random

    rng = Random(2)
    hosts = [
        "1.2.3.4",
        "255.255.255.255",
        "256.1.1.1",
        "1.2.3",
        "01.2.3.4",
        "::ffff:1.2.3.4",
        "::",
        "::1",
        "1::",
    ]
    hosts += [
        "2001:db8::1:2:3:4:5:6",
        "2001:DB8:0005::1",
        "fe80::1.2.3.4",
        "1:2:3:4:5:6:1.2.3.4",
        "1:2:3::4::5",
    ]
    hosts += [
        ":::",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9",
        "1:2:3:4:5:6:7:",
        ":1:2:3:4:5:6:7",
        "12345::",
        "g::",
    ]
    hosts += ["host.example", "", "a:b", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "0:0:5::9"]
    for _ in range(2_000):
        groups = [rng.choice([0, 0, rng.randrange(2**16)]) for _ in range(8)]
        address = ipaddress.IPv6Address(int("".join(f"{group:04x}" for group in groups), 16))
        hosts.append(rng.choice([str(address), address.exploded, str(address).upper()]))

    def expected(host: str) -> str | None:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return None
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped and "." in host:
            address = address.ipv4_mapped
        bits = 24 if address.version == 4 else 48
        return str(ipaddress.ip_network(f"{address}/{bits}", strict=False).network_address)

    frame = texts(spark, hosts, "host")
    rows = frame.select("host", truncated_address(frame.host).alias("kept")).collect()
    assert {row.host: row.kept for row in rows} == {host: expected(host) for host in hosts}


# --- the job --------------------------------------------------------------------------------------------------


def test_events_are_enriched(normalize_files: Any) -> None:
    rules = Enrichment(sites=("www.example.com",))
    run = normalize_files(
        {
            "a.log": line(
                "/Shop/index.html?utm_source=news", 1, referrer="https://www.bing.com/search?q=lamp"
            )
            + line("/b", 2, referrer="http://WWW.example.com:80/Shop/")
            + line("/c", 3)
            + line("/d", 4, referrer="https://blog.example.org/x")
        },
        rules=rules,
    )
    first, second, third, fourth = sorted(run.rows("events"), key=lambda row: row.ts)
    expected = {
        "path": "/Shop/index.html",
        "page": "/Shop",
        "campaign_source": "news",
        "referrer_host": "www.bing.com",
        "referrer_medium": "search",
        "referrer_source": "Bing",
        "referrer_term": "lamp",
        "agent_family": "Firefox",
        "agent_version": "145",
        "os_family": "Linux",
        "device_class": "desktop",
        "is_internal": False,
        "is_bot": False,
        "bot_reason": None,
        "is_page_view": True,
        "user_id": None,
    }
    assert {name: first[name] for name in expected} == expected
    mediums = [
        (row.referrer_medium, row.referrer_host, row.referrer_source) for row in (second, third, fourth)
    ]
    assert mediums == [
        ("internal", "www.example.com", None),
        ("direct", None, None),
        ("unknown", "blog.example.org", None),
    ]


def test_wide_rows_are_shuffled_and_sorted_once_and_files_are_in_order(
    spark: Any, normalize_files: Any
) -> None:
    generated = generate_day(DAY, lines=3_000, seed=9)
    run = normalize_files(dict(generated.files))
    for file in sorted((run.output / "events").rglob("*.parquet")):
        rows = [(row.visitor_id, row.ts) for row in spark.read.parquet(str(file)).collect()]
        assert rows == sorted(rows)
    good = spark.createDataFrame(
        [("f", b"k", None, "h", "GET", "/", None, None, 200, 1, None, "UA", "u1", None)],
        "file string, key binary, ts timestamp, host string, method string, path string, query string, "
        "protocol string, status smallint, bytes bigint, referrer string, user_agent string, user_id string, "
        "visitor_cookie string",
    )
    lookups = lookup.Lookups()
    events = enrichment.enrich(good, None, Enrichment(), DAY, lookups)
    plan = events._jdf.queryExecution().executedPlan().toString()
    # The plan has the lookups' own shuffles inside their caches; those end where a cache begins.
    wide = [text for text in plan.splitlines() if "Exchange hashpartitioning(visitor_id" in text]
    assert len(wide) == 1
    assert plan.count("SortMergeJoin") == 0
    assert len(re.findall(r"[-+] Sort \[visitor_id", plan)) == 1
    [row] = events.collect()
    assert row.user_id == "u1"
    lookups.release()


def test_a_cookie_is_the_visitor(spark: Any) -> None:
    frame = spark.createDataFrame(
        [("h", "UA", "c1", b"1"), ("g", "other", "c1", b"2"), ("h", "UA", None, b"3")],
        "host string, user_agent string, visitor_cookie string, key binary",
    )
    rows = visitor_privacy.with_visitor(frame, Privacy()).collect()
    ids = {bytes(row.key): row.visitor_id for row in rows}
    assert ids[b"1"] == ids[b"2"] != ids[b"3"]
    assert ids[b"3"] == hashlib.sha256(b"h\nUA").hexdigest()


def test_robots_by_behaviour(normalize_files: Any) -> None:
    def visit(number: int, *lines: bytes) -> bytes:
        return b"".join(text.replace(b"198.51.100.7", b"203.0.113.%d" % number) for text in lines)

    fast = [line(f"/p{n}", n) for n in range(60)]
    slow = [line(f"/p{n}", 3 * n) for n in range(60)]  # 60 pages in 177 seconds: 20 a minute
    files = {
        "a.log": visit(1, line("/ROBOTS.txt"), line("/a", 5))
        + visit(2, *(line(f"/h{n}", n, method="HEAD") for n in range(3)))
        + visit(3, *(line(f"/h{n}", n, method="HEAD") for n in range(2)))
        + visit(4, *fast)
        + visit(5, *slow)
        + visit(6, *fast[:59], *(line(f"/s{n}.css", n) for n in range(60)))
        + visit(7, line("/a", agent="x", method="GET"))
        + visit(8, line("/a", agent="Googlebot/2.1"))
        + visit(9, line("/a", agent="Foo crawler"), line("/robots.txt", 1, agent="Foo crawler"))
        + visit(
            10,
            line(
                "/a", agent="Mozilla/5.0 (compatible; MSIE or Firefox mutant; + http://x.example) Daumoa/3.0"
            ),
        )
    }
    expected = {1: "robots_txt", 2: "head_only", 4: "rate", 8: "list", 10: "parser"}
    run = normalize_files(files)
    reasons = {int(row.host.rsplit(".", 1)[1]): row.bot_reason for row in run.rows("events")}
    assert {n: reason for n, reason in reasons.items() if reason and n != 9} == expected
    assert reasons[9] in ("list", "name")
    assert all(row.is_bot == (row.bot_reason is not None) for row in run.rows("events"))
    assert not any(row.is_page_view for row in run.rows("events") if row.is_bot)
    # What comes again makes nobody faster.
    run = normalize_files(
        {**files, "b.log": b"".join(visit(5, *slow) for _ in range(1)), "c.log": visit(5, *slow)}
    )
    assert not any(row.is_bot for row in run.rows("events") if row.host == "203.0.113.5")
    run = normalize_files(files, rules=Enrichment(robot_rules=BehaviourRules(behaviours=())))
    assert {row.bot_reason for row in run.rows("events")} <= {None, "list", "name", "parser"}
    run = normalize_files(files, rules=Enrichment(robot_rules=BehaviourRules(behaviours=("no_assets",))))
    found = {int(row.host.rsplit(".", 1)[1]) for row in run.rows("events") if row.bot_reason == "no_assets"}
    assert found == {4, 5}


def test_internal_traffic(normalize_files: Any) -> None:
    files = {
        "a.log": line("/a", host="10.1.2.3") * 2
        + line("/b", host="2001:db8::5")
        + line("/c")
        + line("/d", host="10.example"),
        "b.log": line("/a", host="10.1.2.3") + b"broken\n",
    }
    networks = parse_networks(["10.0.0.0/8", "2001:db8::/32"])
    run = normalize_files(files, rules=Enrichment(internal_networks=networks))
    marks = Counter((row.path, row.is_internal) for row in run.rows("events"))
    assert marks == {("/a", True): 2, ("/b", True): 1, ("/c", False): 1, ("/d", False): 1}
    assert run.accounting.filtered == {}
    run = normalize_files(files, rules=Enrichment(internal_networks=networks, drop_internal=True))
    assert {row.path for row in run.rows("events")} == {"/c", "/d"}
    account = run.accounting
    assert (account.lines_in, account.valid, account.delivered_twice) == (7, 2, 0)
    assert (dict(account.filtered), dict(account.quarantined)) == ({"internal": 4}, {"malformed": 1})


def test_repeats_count_once(normalize_files: Any) -> None:
    hits = [line("/buy", second, method="POST") for second in (0, 3, 3, 6, 20)]
    files = {
        "a.log": b"".join(hits) + line("/buy", 4) + line("/buy", 4, host="203.0.113.1", method="POST"),
        "b.log": hits[1],
    }
    run = normalize_files(files, rules=Enrichment(repeat_window_seconds=5))
    rows = [row for row in run.rows("events") if row.method == "POST" and row.host == "198.51.100.7"]
    assert sorted((row.ts.second, row.dropped_repeats, row.dropped_copies) for row in rows) == [
        (0, 3, 1),
        (20, 0, 0),
    ]
    account = run.accounting
    assert (account.lines_in, account.valid, account.repeated, account.delivered_twice) == (8, 4, 3, 1)
    assert normalize_files(files).accounting.repeated == 0


def test_addresses_are_hashed_with_a_key_that_is_nowhere_to_be_seen(
    spark: Any, normalize_files: Any, tmp_path: Path
) -> None:
    from airflow_emr_etl.spark.jobs.clickstream_normalize import parse_arguments

    file = tmp_path / "key"
    file.write_bytes(KEY + b"\n")
    arguments = parse_arguments(
        ["--day", "2026-01-05", "--output", "o", "--input", "i", "--ip", "hash", "--hash-key-uri", str(file)]
    )
    rules = enrichment.from_arguments(spark, arguments)
    assert rules.privacy.key == KEY
    assert "key" not in repr(rules).replace("KEY", "")
    [row] = normalize_files({"a.log": line("/a")}, rules=rules).rows("events")
    assert row.host == hmac.new(KEY, b"198.51.100.7", hashlib.sha256).hexdigest()
    assert row.visitor_id == hmac.new(KEY, f"198.51.100.7\n{BROWSER}".encode(), hashlib.sha256).hexdigest()
    assert (
        row.event_id
        == hmac.new(KEY, hashlib.sha256(line("/a").rstrip()).digest(), hashlib.sha256).hexdigest()
    )
    frame = spark.createDataFrame([("h", "UA", b"k")], "host string, user_agent string, key binary")
    for key in (KEY, b"long " * 20):
        hashed = visitor_privacy.with_visitor(frame, Privacy("hash", key))
        plan = hashed._jdf.queryExecution().toString()
        pads = [bytes(byte ^ pad for byte in KEY.ljust(64, b"\0")) for pad in (0, 0x36, 0x5C)]
        for secret in [*pads, b"long "]:
            for form in (
                secret.hex(),
                secret.hex().upper(),
                repr(secret)[2:10],
                secret.decode("latin-1")[:8],
            ):
                assert form not in plan
        [row] = hashed.collect()
        assert row.host == hmac.new(key, b"h", hashlib.sha256).hexdigest()


def test_truncated_addresses_in_the_job(normalize_files: Any) -> None:
    plain = {
        row.path: row
        for row in normalize_files({"a.log": line("/a") + line("/n", host="h.example")}).rows("events")
    }
    run = normalize_files(
        {"a.log": line("/a") + line("/n", host="h.example")}, rules=Enrichment(privacy=Privacy("truncate"))
    )
    rows = {row.path: row for row in run.rows("events")}
    assert {path: row.host for path, row in rows.items()} == {"/a": "198.51.100.0", "/n": None}
    assert {path: row.visitor_id for path, row in rows.items()} == {
        path: row.visitor_id for path, row in plain.items()
    }
    keyed = normalize_files({"a.log": line("/a")}, rules=Enrichment(privacy=Privacy("truncate", KEY))).rows(
        "events"
    )
    assert keyed[0].host == "198.51.100.0"
    assert keyed[0].visitor_id != plain["/a"].visitor_id
    assert keyed[0].event_id != plain["/a"].event_id


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--site", "https://www.example.com"], "is no host"),
        (["--internal", "drop"], "needs at least one --internal-cidr"),
        (["--internal-cidr", "10.0.0.1/8"], "Did you mean"),
        (["--robot-behaviour", "rate,lies"], "lies is no behaviour of robots; valid: robots_txt"),
        (["--ip", "hash"], "needs a key"),
        (["--hash-key-uri", "{key}"], "--ip keep uses no key"),
        (["--ip", "hash", "--hash-key-uri", "{short}"], "has 5 bytes; valid is 16 and more"),
    ],
)
def test_wrong_options_are_refused(spark: Any, tmp_path: Path, options: list[str], message: str) -> None:
    from airflow_emr_etl.spark.jobs.clickstream_normalize import parse_arguments

    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "short").write_bytes(b"short")
    given = [text.format(key=tmp_path / "key", short=tmp_path / "short") for text in options]
    with pytest.raises(ConfigurationError, match=message):
        enrichment.from_arguments(
            spark, parse_arguments(["--day", "2026-01-05", "--output", "o", "--input", "i", *given])
        )
