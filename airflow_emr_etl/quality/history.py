"""What the gates of earlier nights found, read from their results, and given to a suite as its past."""

from __future__ import annotations

import dataclasses
import re
from typing import Callable, Dict, Iterable, List

from airflow_emr_etl.exceptions import CorruptInputError
from airflow_emr_etl.quality.expectations import NEAR_PAST, SHARE_NEAR_PAST
from airflow_emr_etl.quality.result import GateResult
from airflow_emr_etl.quality.suite import Suite

NIGHTS = 14
"""How many nights are looked back at most."""

_RESULT = re.compile(r"/dt=(\d{4}-\d\d-\d\d)/(?:.*/)?result\.json$")


@dataclasses.dataclass
class Past:
    """Oldest night first."""

    rows: Dict[str, List[int]] = dataclasses.field(default_factory=dict)
    """By dataset."""
    shares: Dict[str, List[float]] = dataclasses.field(default_factory=dict)
    """Observed by the expectations about shares, by their id."""

    def given_to(self, suite: Suite) -> Suite:
        """*suite* with this as ``past`` of the entries that compare with the past and name none themselves."""
        return suite.with_past(NEAR_PAST, lambda entry: self.rows.get(entry.dataset, ())).with_past(
            SHARE_NEAR_PAST, lambda entry: self.shares.get(entry.id, ())
        )


def past_nights(uris: Iterable[str], read: Callable[[str], str], before: str, nights: int = NIGHTS) -> Past:
    """What was found on the last *nights* days before the day *before*.

    Args:
        uris: files; those like ``…/dt=<day>/…/result.json`` are looked at. Of a day with several results the one that
            sorts last and passed counts; a day whose gate failed is no measure of a good night.
        read: gives the text of one of them.
    """
    days: Dict[str, List[str]] = {}
    for uri in uris:
        match = _RESULT.search(uri)
        if match and match.group(1) < before:
            days.setdefault(match.group(1), []).append(uri)
    past = Past()
    seen = 0
    for day in sorted(days, reverse=True):
        if seen == nights:
            break
        for uri in sorted(days[day], reverse=True):
            try:
                result = GateResult.from_json(read(uri))
            except CorruptInputError:  # of another program, or half a file: no measure of anything
                continue
            if result.passed:
                seen += 1
                _put_first(past, result)
                break
    return past


def _put_first(past: Past, result: GateResult) -> None:
    for name, dataset in result.datasets.items():
        past.rows.setdefault(name, []).insert(0, dataset.rows)
        for entry in dataset.expectations:
            if entry.type == SHARE_NEAR_PAST and isinstance(entry.observed, (int, float)):
                past.shares.setdefault(entry.id, []).insert(0, float(entry.observed))
