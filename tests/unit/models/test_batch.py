from __future__ import annotations

import json
from datetime import date

import pytest

from airflow_emr_etl.exceptions import ManifestError
from airflow_emr_etl.models.batch import Batch, entry_name

DAY = date(2026, 1, 5)
NIGHT = Batch(DAY, "s3://lake/events/manifest.json", {DAY: 3}, 7, ("s3://lake/old/manifest.json",))


@pytest.mark.parametrize("batch", [NIGHT, Batch(DAY, "s3://lake/manifest.json", name="stream-0000000001")])
def test_an_entry_comes_back_as_it_was(batch: Batch) -> None:
    assert Batch.from_json(batch.to_json()) == batch


def test_a_nights_name_is_its_day_also_in_entries_without_one() -> None:
    document = json.loads(NIGHT.to_json())
    assert document.pop("name") == "2026-01-05"
    assert Batch.from_json(json.dumps(document)) == NIGHT
    assert entry_name(NIGHT.name) == "2026-01-05.json"


@pytest.mark.parametrize("name", ["_hidden", ".hidden", "a/b", "a b", "a" * 201])
def test_a_name_that_is_no_file_of_the_catalog_is_refused(name: str) -> None:
    with pytest.raises(ManifestError, match="is no name of a batch"):
        Batch(DAY, "s3://lake/manifest.json", name=name)
