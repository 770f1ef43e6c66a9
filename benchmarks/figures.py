"""The file that a benchmark writes: figures with ours, the peer's and their ratio, from one run."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path("build/bench")


@dataclass
class Figures:
    """Collects figures and writes them to ``build/bench/<name>.json``."""

    name: str
    figures: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    quiet: bool = False

    def add(
        self,
        figure: str,
        unit: str,
        ours: Sequence[float],
        peer: Sequence[float] | None = None,
        peer_name: str | None = None,
        **more: Any,
    ) -> None:
        """Medians of ``ours`` and ``peer``; every single run is kept beside them."""
        mine = statistics.median(ours)
        theirs = statistics.median(peer) if peer else None
        row = {
            "figure": figure,
            "unit": unit,
            "ours": round(mine, 3),
            "peer": None if theirs is None else round(theirs, 3),
            "peer_name": peer_name,
            "ratio": None if not theirs else round(mine / theirs, 3),
            "runs": [round(value, 3) for value in ours],
            "peer_runs": [round(value, 3) for value in peer or ()],
            **more,
        }
        self.figures.append(row)
        if not self.quiet:
            print(json.dumps(row))

    def write(self) -> Path:
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / f"{self.name}.json"
        machine = {"cores": _cores(), "python": platform.python_version(), "system": platform.system()}
        document = {
            "figures": self.figures,
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine,
            **self.notes,
        }
        path.write_text(json.dumps(document, indent=2) + "\n")
        if not self.quiet:
            print(f"wrote {path}")
        return path


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
