"""SQL that the docs offer to users, so that tests can run what is written there."""

from __future__ import annotations

import re
from pathlib import Path

ENRICHMENT = Path(__file__).resolve().parents[2] / "docs" / "enrichment.md"


def recognised() -> str:
    """The query of docs/enrichment.md that says how much of a log is recognised."""
    [sql] = re.findall(r"```sql\n(.*?)```", ENRICHMENT.read_text(), re.DOTALL)
    return str(sql)
