"""``make bench-etl`` from end to end, small: it fails unless all engines find the same sessions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import etl, etl_data, figures
from benchmarks.etl_stages import KINDS

pytestmark = pytest.mark.spark


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(etl, "FOLDER", tmp_path)
    monkeypatch.setattr(etl_data, "FOLDER", tmp_path / "data")
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "peers"),
    [
        ("sessions_parquet", ["duckdb", "polars", "pyspark", "floor"]),
        ("pipeline_gz_json", ["pyspark", "floor"]),
        ("pipeline_gz_clf", ["pyspark", "floor"]),
    ],
)
def test_all_find_the_same_sessions(group: str, peers: list[str], folder: Path) -> None:
    assert etl.main(["--events", "2000", "--only", group, "--runs", "1"]) == 0
    document = json.loads((folder / "etl.json").read_text())
    assert document["left_out"] == {}
    found = {figure["figure"]: figure for figure in document["figures"]}
    for peer in peers:
        assert found[f"{group}.{peer}"]["ratio"] > 0
    # Ours may have no stage between two shuffles.
    assert all(found[f"task_seconds.{group}.{kind}"]["peer"] > 0 for kind in KINDS)
    assert all(found[f"task_seconds.{group}.{kind}"]["ours"] > 0 for kind in ("read", "write"))
    assert {path.name for path in folder.iterdir()} == {"etl.json", "data"}
