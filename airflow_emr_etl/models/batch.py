"""A batch in the catalog of batches: which files hold a night's events, and on which days those were.

The catalog is a folder with one small JSON document for each batch. Sessionize reads it to find the hits that
late lines and sessions across midnight touch, and writes its own batch's entry when it is done.
Runs on the cluster: no dependency, valid on Python 3.9.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from airflow_emr_etl.exceptions import ManifestError

VERSION = 1
KEY_MOVES_DAYS = 2
"""How far the time of an event or a session may move while its id stays: two time zones are up to 26 hours apart, and
a log that is read again in the right one has the ids that it had. Replacing rows by id looks so far around."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,199}")


@dataclass(frozen=True)
class Batch:
    """``day``: whose batch; several may be of one day. ``manifest``: URI of the manifest of its normalized events.
    ``days``: events by UTC day.

    ``restatement`` grows with each entry that is written to a catalog. ``earlier``: manifests of former versions of
    this batch, the newest first; what is in them and no more in ``manifest`` must be taken back.

    ``name`` makes a batch one of a kind, and names are in order: of equal events that of the first counts. A night's
    is its day in ISO form. Raise ManifestError for a name that is none.
    """

    day: date
    manifest: str
    days: Mapping[date, int] = field(default_factory=dict)
    restatement: int = 0
    earlier: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.day.isoformat())
        if not _NAME.fullmatch(self.name):
            raise ManifestError(
                f"{self.name!r} is no name of a batch; valid are up to 200 letters, digits, dots and hyphens, the "
                "first a letter or digit."
            )

    @property
    def versions(self) -> tuple[str, ...]:
        """The manifests of this version and of the former ones, the newest first."""
        return (self.manifest, *self.earlier)

    def to_json(self) -> str:
        document = {
            "version": VERSION,
            "name": self.name,
            "day": self.day.isoformat(),
            "manifest": self.manifest,
            "days": {day.isoformat(): count for day, count in sorted(self.days.items())},
            "restatement": self.restatement,
            "earlier": list(self.earlier),
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Batch:
        """Raise ManifestError where ``text`` is no entry of this version."""
        try:
            document: Any = json.loads(text)
            if document["version"] != VERSION:
                raise ManifestError(
                    f"The catalog's entry is of version {document['version']!r}; this release reads {VERSION}."
                )
            return cls(
                day=date.fromisoformat(document["day"]),
                manifest=str(document["manifest"]),
                days={date.fromisoformat(day): int(count) for day, count in document["days"].items()},
                restatement=int(document["restatement"]),
                earlier=tuple(str(uri) for uri in document["earlier"]),
                # Entries of nights were written without one.
                name=str(document.get("name", "")),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"The catalog's entry is broken: {text!r:.200} ({error})") from error


def entry_name(name: str) -> str:
    """The file of the batch ``name`` within the catalog."""
    return f"{name}.json"
