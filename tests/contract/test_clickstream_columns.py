"""The Spark jobs write the columns that the tables take, in their order: COPY of Parquet goes by position."""

from __future__ import annotations

import pytest

from airflow_emr_etl.spark import columns
from airflow_emr_etl.warehouse import clickstream


@pytest.mark.parametrize("name", ["EVENTS", "SESSIONS", "DAILY_TRAFFIC", "QUARANTINE_COUNTS"])
def test_files_and_tables_have_the_same_columns(name: str) -> None:
    written = [(column.name, column.type) for column in getattr(columns, name)]
    table = getattr(clickstream, name)
    assert written == [(column.name, column.type) for column in table.columns]
