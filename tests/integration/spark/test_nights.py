"""Days of made-up logs, night by night with lines that are late or come twice, against one run over everything."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from integration.spark.nights import Nights, late_and_twice

from airflow_emr_etl.clickstream.generator import generate
from airflow_emr_etl.spark.enrichment import Enrichment
from airflow_emr_etl.spark.robots import BehaviourRules

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark

FIRST = date(2026, 1, 5)
# What a visitor does in a batch makes a robot, so that is the one thing that follows the batches.
BY_NAME = Enrichment(robot_rules=BehaviourRules(behaviours=()))


@pytest.mark.slow
def test_generated_days(spark: SparkSession, tmp_path: Path) -> None:
    days = list(generate(FIRST, 3, lines=1_500, seed=23))
    whole = Nights(spark, tmp_path / "whole")
    whole.run(
        FIRST,
        {f"{day.day}-{name}": content for day in days for name, content in day.files.items()},
        rules=BY_NAME,
    )

    nights = Nights(spark, tmp_path / "nights")
    delivered = late_and_twice({day.day: day.files for day in days})
    accounts = [nights.run(day, files, rules=BY_NAME) for day, files in delivered.items()]

    assert len(accounts) == 4
    assert accounts[3].outside_day > 0, "nothing was late"
    assert nights.stated() == whole.stated()
    assert any(row.started_at.date() < row.ended_at.date() for row in nights.sessions.values())
    assert {row.dt for row in nights.events.values()} == set(delivered)
