"""Release labels of EMR that are known here. Whatever the label, the Spark that runs is the one installed."""

from __future__ import annotations

import re

_MINOR_VERSIONS = {7: 12, 6: 15, 5: 36}
_LABEL = re.compile(r"emr-(\d+)\.(\d+)\.(\d+)(-latest)?")

RELEASE_LABELS = [
    f"emr-{major}.{minor}.0" for major, last in _MINOR_VERSIONS.items() for minor in range(last, -1, -1)
]


def release_version(label: str) -> tuple[int, int, int] | None:
    """``emr-7.9.0`` → (7, 9, 0); None for what is no release label."""
    match = _LABEL.fullmatch(label)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None
