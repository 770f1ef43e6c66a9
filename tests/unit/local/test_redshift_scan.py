"""Statement text as far as quotes and comments go, and S3 URLs as paths: no server needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_emr_etl.local.redshift import scan
from airflow_emr_etl.local.redshift.errors import RedshiftError
from airflow_emr_etl.local.redshift.objects import Objects


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a; b;", ["a", "b"]),
        ("a ';' b", ["a ';' b"]),
        (r"a '\';' b; c", [r"a '\';' b", "c"]),
        ('a ";" b; -- c; d\n', ['a ";" b']),
        ("a /* ; /* ; */ ; */ b; c", ["a /* ; /* ; */ ; */ b", "c"]),
        ("do $x$ a; b $x$; c", ["do $x$ a; b $x$", "c"]),
        (" ; -- nothing\n;", []),
    ],
)
def test_split(text: str, pieces: list[str]) -> None:
    assert scan.split(text) == pieces


@pytest.mark.parametrize("text", ["'open", 'a "open', "/* open", "/* /* */"])
def test_what_is_not_closed(text: str) -> None:
    with pytest.raises(scan.ScanError):
        scan.tokens(text)


def test_bind_replaces_placeholders_and_nothing_else() -> None:
    text, used = scan.bind("select :a, ':a', x::a, \":a\", : a -- :a\n, :b1", {"a": "it's \\", "b1": "2"})
    assert text == "select 'it''s \\\\', ':a', x::a, \":a\", : a -- :a\n, '2'"
    assert used == {"a", "b1"}
    with pytest.raises(KeyError, match="c"):
        scan.bind("select :c", {"a": "1"})


def test_strings_for_postgres() -> None:
    assert (
        scan.to_postgres_strings(r"x 'a\\b' 'it\'s' 'plain' $$a\b$$")
        == "x E'a\\\\b' 'it''s' 'plain' $$a\\b$$"
    )


def test_temporary_names() -> None:
    assert scan.quote_temporary("select '#a' from #Ab join x.#c") == 'select \'#a\' from "#ab" join x."#c"'


@pytest.mark.parametrize(
    "url",
    [
        "s3://lake/../x",
        "s3://lake/a/../../x",
        "s3://lake/./x",
        "s3://lake//x",
        "s3://../x",
        "s3://./x",
        "s3:///x",
        "/etc/passwd",
        "s3://LAKE/x",
        "s3://lake/a\0b",
        "file:///x",
    ],
)
def test_urls_that_lead_elsewhere(tmp_path: Path, url: str) -> None:
    with pytest.raises(RedshiftError):
        Objects(tmp_path).path(url)
    with pytest.raises(RedshiftError):
        list(Objects(tmp_path).list(url))


def test_listing_goes_by_prefix_and_skips_markers(tmp_path: Path) -> None:
    for name in ("a/part-1", "a/part-0", "a/_SUCCESS", "a/.part-0.crc", "a/_temporary/0/x", "ab", "b"):
        path = tmp_path / "lake" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    objects = Objects(tmp_path)
    assert [url for url, _ in objects.list("s3://lake/a/")] == ["s3://lake/a/part-0", "s3://lake/a/part-1"]
    assert [url for url, _ in objects.list("s3://lake/a")] == [
        "s3://lake/a/part-0",
        "s3://lake/a/part-1",
        "s3://lake/ab",
    ]
    assert list(objects.list("s3://other/a")) == []
