"""docs/marts.md describes every mart, column by column, in the words of its definition."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_emr_etl.models.clickstream_marts import MARTS
from airflow_emr_etl.models.mart import Mart

PAGE = Path(__file__).resolve().parents[2] / "docs" / "marts.md"


def section(mart: Mart) -> str:
    """The mart's part of the page."""
    made = f"Made anew by `{mart.day}`" if mart.day else "Made anew as a whole"
    reads = ", ".join(f"`{name}`" for name in mart.reads)
    lines = [
        f"### marts.{mart.name}",
        "",
        f"{mart.grain[0].upper()}{mart.grain[1:]}. {made}, from {reads}. Key: "
        + ", ".join(f"`{key}`" for key in mart.keys)
        + ".",
        "",
        "| column | type | unit | meaning |",
        "|---|---|---|---|",
        *(f"| `{c.name}` | {c.type} | {c.unit} | {c.meaning} |" for c in mart.columns),
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("mart", MARTS, ids=lambda mart: str(mart.name))
def test_each_mart_is_on_the_page(mart: Mart) -> None:
    assert section(mart) in PAGE.read_text(), f"docs/marts.md lacks this:\n\n{section(mart)}"


def test_the_page_has_no_mart_that_is_not_there() -> None:
    told = [
        line.removeprefix("### marts.") for line in PAGE.read_text().splitlines() if line.startswith("### ")
    ]
    assert told == [mart.name for mart in MARTS]
