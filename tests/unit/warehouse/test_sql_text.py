"""Names and values in SQL: what gets in, and what never does."""

from __future__ import annotations

import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.warehouse import literals
from airflow_emr_etl.warehouse.identifiers import column_list, qualified, quote


@pytest.mark.parametrize(
    ("name", "quoted"), [("Events", '"events"'), ("_a1$", '"_a1$"'), ("a" * 127, f'"{"a" * 127}"')]
)
def test_a_name_is_quoted_and_folded(name: str, quoted: str) -> None:
    assert quote(name) == quoted


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1a",
        "a b",
        'a"b',
        'a"; drop table x; --',
        "a.b",
        "a-b",
        "a\n",
        "é",
        "a\0",
        "a" * 128,
        "a'",
        "a;b",
        "#a",
        "*",
    ],
)
def test_what_is_not_a_plain_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="not a name"):
        quote(name)


def test_qualified_names() -> None:
    assert qualified("analytics.Events") == '"analytics"."events"'
    assert qualified("events") == '"events"'
    assert column_list(["a", "B"]) == '"a", "b"'
    for bad in ("a.b.c", "a..b", ".a", 'a."b"'):
        with pytest.raises(ConfigurationError):
            qualified(bad)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_text_is_one_literal_with_the_same_value(value: str) -> None:
    tree = sqlglot.parse_one(f"SELECT {literals.text(value)} AS x", read="redshift")
    literal = tree.expressions[0].this
    assert literal.is_string
    assert literal.this == value


@pytest.mark.parametrize(
    ("value", "literal"),
    [("it's", "'it''s'"), ("a\\", "'a\\\\'"), ("\\'; drop table x; --", "'\\\\''; drop table x; --'")],
)
def test_quotes_and_backslashes(value: str, literal: str) -> None:
    assert literals.text(value) == literal


def test_other_values() -> None:
    assert literals.integer(-3) == "-3"
    assert literals.integer(None) == "NULL"
    assert literals.s3_url("s3a://lake/x y/manifest.json") == "'s3://lake/x y/manifest.json'"
    assert literals.iam_role("DEFAULT") == "DEFAULT"
    assert (
        literals.iam_role("arn:aws-cn:iam::123456789012:role/a/b")
        == "'arn:aws-cn:iam::123456789012:role/a/b'"
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda: literals.text("a\0b"),
        lambda: literals.integer(True),
        lambda: literals.integer("1; drop"),  # type: ignore[arg-type]
        lambda: literals.s3_url("https://lake/x"),
        lambda: literals.s3_url("s3://lake"),
        lambda: literals.iam_role("arn:aws:iam::1:user/x"),
        lambda: literals.iam_role("arn:aws:iam::123456789012:role/x' ACCESS_KEY_ID 'y"),
    ],
)
def test_values_that_are_refused(call: object) -> None:
    with pytest.raises(ConfigurationError):
        call()  # type: ignore[operator]
