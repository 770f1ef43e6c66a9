"""Our lookup against Snowplow's own, ``referer_parser.Referer``, over the same database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from referer_parser import Referer, load_referers

from airflow_emr_etl.spark.referrer_database import find_source, load_database, sources_by_domain

DATABASE = load_database()
SOURCES = sources_by_domain(DATABASE)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The library's own reading of the database; its loader cannot do without a list of parameters."""
    file = tmp_path_factory.mktemp("referers") / "referers.json"
    file.write_text(json.dumps(DATABASE))
    return load_referers(str(file))


def answer_of(library: Any, url: str) -> Any:
    found = Referer(url, referers=library)
    return None if found.referer is None else (found.medium, found.referer, found.search_term)


def test_every_domain_of_the_database(library: Any) -> None:
    terms = ["", "?q=tent", "?Q=caf%C3%A9+au&p=x&query=y&wd=z", "?q=&p=&text=lamp%20red", "?q=a&q=b"]
    urls = [
        f"{scheme}://{prefix}{domain}{path}{term}"
        for domain in SOURCES
        for scheme, prefix in (("https", ""), ("http", "a.b."), ("android-app", ""))
        for path in ("", "/", "/search", "/imgres/x")
        for term in terms
    ]
    differing = [url for url in urls if find_source(url, SOURCES) != answer_of(library, url)]
    assert differing == []
    mediums = {find_source(url, SOURCES)[0] for url in urls if find_source(url, SOURCES)}  # type: ignore[index]
    assert mediums == {"search", "social", "email", "paid", "unknown"}


@given(
    st.sampled_from(["http", "https", "HTTP", "ftp", ""]),
    st.sampled_from(
        [*sorted(SOURCES)[::40], "example.com", "localhost", "[::1]", "x@google.com:80", "GOOGLE.com", ""]
    ),
    st.sampled_from(["", "/", "//", "/search", "/a/b"]) | st.text(max_size=8),
    st.sampled_from(["", "q=x", "q=a%20b&q=", "Q=1;p=2"]) | st.text(max_size=12),
)
def test_whatever_is_sent(scheme: str, host: str, path: str, query: str) -> None:
    library = {
        domain: {"name": s.name, "medium": s.medium, "params": list(s.term_parameters)}
        for domain, s in SOURCES.items()
    }
    url = f"{scheme}://{host}{path}?{query}"
    try:
        expected = answer_of(library, url)
    except ValueError:  # of urllib; the library lets it through
        expected = None
    assert find_source(url, SOURCES) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://www.google.com/", ("search", "Google", None)),
        ("https://www.bing.com/search?q=rain+jacket", ("search", "Bing", "rain jacket")),
        ("https://l.instagram.com/?u=x", ("social", "Instagram", None)),
        ("https://mail.google.com/mail/u/0/", ("email", "Gmail", None)),
        ("https://shop.example.com/", None),
        ("http://[x", None),
        ("not a url", None),
        ("", None),
    ],
)
def test_examples(url: str, expected: Any) -> None:
    assert find_source(url, SOURCES) == expected


def test_the_zip_s_json_says_the_same() -> None:
    import io
    import zipfile

    from airflow_emr_etl.spark import referrer_database
    from airflow_emr_etl.spark.package import build_package

    name = f"{referrer_database.PACKAGE}/{referrer_database.JSON}"
    with zipfile.ZipFile(io.BytesIO(build_package().archive)) as archive:
        assert sources_by_domain(json.loads(archive.read(name))) == SOURCES
    assert Path(name).suffix == ".json"
