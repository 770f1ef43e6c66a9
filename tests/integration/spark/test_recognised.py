"""How much of a real log and of a generated day is recognised: printed, and held to what the docs say."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest
from integration.documented_sql import ENRICHMENT, recognised

from airflow_emr_etl.clickstream.generator import generate_day
from airflow_emr_etl.clickstream.split import split_logs
from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.spark.enrichment import Enrichment
from airflow_emr_etl.spark.jobs.clickstream_normalize import normalize

pytestmark = pytest.mark.spark

Row = tuple[str, int, int, int, int]


def counted(spark: Any, days: dict[date, str], sites: tuple[str, ...], folder: Path) -> list[Row]:
    """The rows of the documented query over a batch for each day, whose raw files are in a folder."""
    urls: list[str] = []
    for day, raw in days.items():
        output = folder / "normalized" / str(day)
        normalize(spark, [raw], day, str(output), rules=Enrichment(sites=sites))
        urls += Manifest.from_json((output / "events" / "manifest.json").read_text()).urls
    connection = duckdb.connect()
    connection.execute("CREATE SCHEMA analytics")
    connection.read_parquet(urls).create("analytics.events")
    return connection.execute(recognised()).fetchall()


def as_documented(name: str, rows: list[Row]) -> list[str]:
    """The rows as they stand in the docs."""

    def share(some: int, of: int) -> str:
        return f"{some:,} of {of:,} ({100 * some / of:.1f} %)"

    found = []
    for what, values, known_values, lines, known_lines in rows:
        if what.startswith("robots: "):
            total = next(row for row in rows if row[0] == "robots")
            values, lines = total[1], total[3]
        found.append(f"| {name} | {what} | {share(known_values, values)} | {share(known_lines, lines)} |")
    print("\n".join(found))
    return found


def documented(name: str) -> list[str]:
    found = [line for line in ENRICHMENT.read_text().splitlines() if line.startswith(f"| {name} |")]
    assert found
    return found


def test_of_a_real_log(spark: Any, real_log: Path, tmp_path: Path) -> None:
    split = split_logs([real_log], tmp_path / "days")
    days = {day: str(tmp_path / "days" / str(day)) for day in split.days}
    rows = counted(spark, days, ("www.semicomplete.com", "semicomplete.com"), tmp_path)
    assert sorted(as_documented("real log", rows)) == sorted(documented("real log"))


def test_of_a_generated_day(spark: Any, tmp_path: Path) -> None:
    day = date(2026, 1, 5)
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, content in generate_day(day, lines=20_000, seed=5).files.items():
        (raw / name).write_bytes(content)
    rows = counted(spark, {day: str(raw)}, ("www.example.com",), tmp_path)
    assert sorted(as_documented("generated day", rows)) == sorted(documented("generated day"))
