"""Files that arrived in a micro-batch: whose day they are, and what their batch is called."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Dict, List, Optional, Sequence

_DAY_FOLDER = re.compile(r"/dt=(\d{4}-\d{2}-\d{2})/")


@dataclass(frozen=True)
class ArrivedFile:
    """``length`` in bytes; ``modified`` in milliseconds since 1970, UTC."""

    path: str
    length: int
    modified: int

    @property
    def day(self) -> date:
        """That of the last folder ``dt=YYYY-MM-DD``, or else the UTC day on which the file was written."""
        for text in reversed(_DAY_FOLDER.findall(self.path.replace("/", "//"))):
            try:
                return date.fromisoformat(text)
            except ValueError:
                continue
        return datetime.fromtimestamp(self.modified / 1000, timezone.utc).date()


def by_day(files: Sequence[ArrivedFile], day: Optional[date] = None) -> Dict[date, List[ArrivedFile]]:
    """``files`` by their days; all are of ``day`` if that is given."""
    found: Dict[date, List[ArrivedFile]] = {}
    for file in files:
        found.setdefault(day or file.day, []).append(file)
    return found


def batch_name(batch_id: int, day: date, files: Sequence[ArrivedFile]) -> str:
    """The name in the catalog: the same for the same files of the same micro-batch, and in the order of these.

    With other files it is another name, so that a query without its checkpoint, which counts from 0 again, never
    takes the place of what is there.
    """
    listed = "".join(sorted(f"{file.path}\0{file.length}\0{file.modified}\n" for file in files))
    digest = hashlib.sha256(listed.encode("utf-8", "surrogatepass")).hexdigest()
    return f"stream-{batch_id:010d}-{day.isoformat()}-{digest[:16]}"
