"""What is a list of visitors, and what is refused as none."""

from __future__ import annotations

import pytest

from airflow_emr_etl.exceptions import ManifestError
from airflow_emr_etl.models import visitor_list
from airflow_emr_etl.models.manifest import Column, Manifest, ManifestEntry

FILE = ManifestEntry("s3://lake/visitors/part-0.parquet", 100, 2)


def manifest(*columns: Column, entries: tuple[ManifestEntry, ...] = (FILE,)) -> Manifest:
    return Manifest("visitors", {"dt": "2026-01-09"}, "test", "2026-01-09T00:00:00Z", entries, columns)


def test_a_list_has_visitors_and_nothing_else() -> None:
    visitors = manifest(*visitor_list.COLUMNS)
    assert visitor_list.is_list(visitors)
    visitor_list.check(visitors, "s3://lake/visitors/manifest.json")


@pytest.mark.parametrize(
    "other",
    [
        manifest(*visitor_list.COLUMNS, Column("ts", "TIMESTAMP")),
        manifest(Column("session_id", "VARCHAR(64)")),
        manifest(*visitor_list.COLUMNS, entries=()),
    ],
)
def test_what_is_no_list_of_somebody_is_refused(other: Manifest) -> None:
    with pytest.raises(
        ManifestError, match=r"s3://lake/m\.json is the manifest of visitors, which is no list"
    ):
        visitor_list.check(other, "s3://lake/m.json")
