from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from airflow_emr_etl.exceptions import AccountingError, ManifestError
from airflow_emr_etl.models.manifest import Accounting, Column, Manifest, ManifestEntry

ACCOUNTING = Accounting(
    lines_in=10,
    valid=6,
    quarantined={"truncated": 1, "bad_status": 1},
    delivered_twice=2,
    bots=1,
    page_views=2,
    files=3,
)
MANIFEST = Manifest(
    dataset="events",
    partition={"dt": "2026-01-05"},
    job="clickstream_sessionize",
    created_at="2026-01-06T01:02:03Z",
    entries=(
        ManifestEntry("s3://lake/events/a.parquet", 100, 4),
        ManifestEntry("s3://lake/events/b.parquet", 50, 2),
    ),
    columns=(Column("event_id", "VARCHAR(64)"), Column("dt", "DATE")),
    accounting=replace(ACCOUNTING, sessions=3),
)


def test_a_manifest_survives_the_way_through_json() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    empty = replace(MANIFEST, entries=(), accounting=None)
    assert Manifest.from_json(empty.to_json()) == empty
    restated = replace(MANIFEST, restatement=0)
    assert Manifest.from_json(restated.to_json()) == restated


def test_copy_finds_what_it_needs() -> None:
    document = json.loads(MANIFEST.to_json())
    assert document["entries"][0] == {
        "url": "s3://lake/events/a.parquet",
        "mandatory": True,
        "meta": {"content_length": 100, "record_count": 4},
    }
    assert document["meta"] == {"content_length": 150, "record_count": 6}
    assert document["schema"]["elements"][0] == {"name": "event_id", "type": "VARCHAR(64)"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("entries",), None, "entries is no list"),
        (("entries", 0, "url"), 7, "entry url is no text"),
        (("entries", 0, "meta", "record_count"), 5, "states record_count 6, but its entries sum to 7"),
        (
            ("entries", 0, "meta", "content_length"),
            -1,
            "content_length of s3://lake/events/a.parquet is no count",
        ),
        (("entries", 1, "url"), "s3://lake/events/a.parquet", "lists a file twice"),
        (("schema", "elements", 0), "x", "an item of schema.elements is no JSON object"),
        (("airflow_emr_etl",), None, "airflow_emr_etl is no JSON object"),
        (("airflow_emr_etl", "restatement"), "x", "restatement is no count"),
        (("airflow_emr_etl", "version"), 2, "version 2; this release reads version 1"),
        (("airflow_emr_etl", "accounting", "lines_in"), True, "accounting.lines_in is no count"),
        (("airflow_emr_etl", "accounting", "quarantined"), 3, "accounting.quarantined is no JSON object"),
    ],
)
def test_a_broken_manifest_is_refused(path: tuple[Any, ...], value: Any, message: str) -> None:
    document = json.loads(MANIFEST.to_json())
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_json(text)


def test_names_of_later_releases_are_ignored() -> None:
    document = json.loads(MANIFEST.to_json())
    document["airflow_emr_etl"]["accounting"]["news"] = "x"
    document["later"] = 1
    assert Manifest.from_json(json.dumps(document)) == MANIFEST


@pytest.mark.parametrize(
    "change",
    [
        {"lines_in": 11},
        {"valid": 5},
        {"delivered_twice": -2, "valid": 10},
        {"bots": 7},
        {"page_views": 9},
        {"empty_files": 4},
        {"outside_day": 8},
        {"quarantined": {"x": 3}},
    ],
)
def test_lines_that_do_not_add_up_are_noticed(change: dict[str, Any]) -> None:
    ACCOUNTING.check()
    with pytest.raises(AccountingError):
        replace(ACCOUNTING, **change).check()


def test_what_was_left_out_on_purpose_is_counted() -> None:
    cleaned = replace(ACCOUNTING, lines_in=16, repeated=2, filtered={"internal": 4})
    cleaned.check()
    assert Accounting.from_dict(cleaned.to_dict()) == cleaned
    with pytest.raises(AccountingError, match=r"2 repeated \+ 4 filtered"):
        replace(cleaned, lines_in=17).check()
    with pytest.raises(AccountingError, match="negative"):
        replace(cleaned, lines_in=11, filtered={"internal": -1}).check()


def test_an_accounting_from_before_there_was_cleaning_is_read() -> None:
    document = ACCOUNTING.to_dict()
    del document["repeated"], document["filtered"]
    assert Accounting.from_dict(document) == ACCOUNTING
