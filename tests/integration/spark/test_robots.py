from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import crawleruseragents
import pytest

from airflow_emr_etl.spark.robots import load_patterns, robot_expression

pytestmark = pytest.mark.spark


def test_java_finds_what_the_list_finds_in_python(spark: Any) -> None:
    """The one expression against each pattern of the list, over the list's own examples and some browsers."""
    from pyspark.sql import functions as F

    entries = json.loads(Path(crawleruseragents.__file__).with_name("crawler-user-agents.json").read_text())
    agents = {instance for entry in entries for instance in entry["instances"]}
    agents |= {entry["pattern"] for entry in entries}
    agents |= {
        "Mozilla/5.0 (Linux; Android 9; CUBOT P40) Chrome/120",
        "Mozilla/5.0 (X11; Linux) Firefox/145.0",
        "x",
    }
    python = [re.compile(pattern) for pattern in load_patterns()]
    expected = {agent for agent in agents if any(pattern.search(agent) for pattern in python)}
    frame = spark.createDataFrame([(agent,) for agent in agents], "agent string")
    found = frame.where(F.col("agent").rlike(robot_expression(load_patterns()))).collect()
    assert {row.agent for row in found} == expected
    assert len(expected) > 2_000
    assert agents - expected >= {"Mozilla/5.0 (Linux; Android 9; CUBOT P40) Chrome/120", "x"}
