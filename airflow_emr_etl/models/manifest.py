"""The manifest: what a Spark job wrote, file by file, and how its lines add up.

One JSON document a dataset, written after all of its files, so that its presence says "complete". It is at
the same time the manifest that Redshift's COPY reads (``entries``, with ``meta.content_length``, which COPY
demands for columnar files) and the contract that the loader checks (``meta.record_count``, ``schema``, and
the section ``airflow_emr_etl``). Runs on the cluster: no dependency, valid on Python 3.9.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_emr_etl.exceptions import AccountingError, ManifestError

VERSION = 1
FILE_NAME = "manifest.json"
BATCH = "batch"
"""What ``partition`` names in a manifest of one of several batches of a day, whose rows are not the whole day's."""
_SECTION = "airflow_emr_etl"


@dataclass(frozen=True)
class Column:
    """A column as the files have it; ``type`` is Redshift's name, such as ``VARCHAR(64)``."""

    name: str
    type: str


@dataclass(frozen=True)
class ManifestEntry:
    """One data file. ``content_length`` in bytes."""

    url: str
    content_length: int
    record_count: int


@dataclass(frozen=True)
class Accounting:
    """Where each line of a day's logs went.

    ``lines_in == valid + sum(quarantined) + delivered_twice + repeated + sum(filtered) + headers + erased`` always
    holds; see :meth:`check`. ``repeated`` are equal requests that followed too closely to count, ``filtered`` the
    lines that were left out, by reason (``internal``); both were valid, and neither is stored. ``bots``,
    ``page_views`` and ``outside_day`` (valid lines whose time is not in the day) are parts of ``valid``;
    ``empty_files`` is a part of ``files``. ``sessions`` is None before they were computed.
    """

    lines_in: int
    valid: int
    quarantined: Mapping[str, int] = field(default_factory=dict)
    delivered_twice: int = 0
    bots: int = 0
    page_views: int = 0
    files: int = 0
    empty_files: int = 0
    outside_day: int = 0
    sessions: int | None = None
    repeated: int = 0
    filtered: Mapping[str, int] = field(default_factory=dict)
    headers: int = 0
    """Lines that describe the others, such as ``#Fields:``."""
    drift: Mapping[str, int] = field(default_factory=dict)
    """What records have that their source does not declare, or the other way round, and how often."""
    erased: int = 0
    """Lines that were valid, and were taken out since, at the request of whom they were about."""

    @property
    def quarantined_lines(self) -> int:
        return sum(self.quarantined.values())

    @property
    def filtered_lines(self) -> int:
        return sum(self.filtered.values())

    def check(self) -> None:
        """Raise AccountingError unless every line that came in is counted exactly once."""
        counts = [self.lines_in, self.valid, self.delivered_twice, self.bots, self.page_views]
        counts += [
            self.files,
            self.empty_files,
            self.outside_day,
            self.sessions or 0,
            self.headers,
            self.erased,
        ]
        counts += [self.repeated, *self.quarantined.values(), *self.filtered.values(), *self.drift.values()]
        if min(counts) < 0:
            raise AccountingError(f"A count is negative: {self.to_dict()}")
        out = self.valid + self.quarantined_lines + self.delivered_twice + self.headers
        out += self.repeated + self.filtered_lines + self.erased
        if out != self.lines_in:
            raise AccountingError(
                f"{self.lines_in} lines came in, but {out} are accounted for: {self.valid} valid + "
                f"{self.quarantined_lines} quarantined + {self.delivered_twice} delivered twice + "
                f"{self.repeated} repeated + {self.filtered_lines} filtered + {self.headers} headers + "
                f"{self.erased} erased.",
                lines_in=self.lines_in,
                lines_out=out,
            )
        for name in ("bots", "page_views", "outside_day"):
            if getattr(self, name) > self.valid:
                raise AccountingError(
                    f"{name} is {getattr(self, name)}, more than the {self.valid} valid lines."
                )
        if self.empty_files > self.files:
            raise AccountingError(f"{self.empty_files} of {self.files} files are said to be empty.")

    def to_dict(self) -> dict[str, Any]:
        document = dataclasses.asdict(self)
        for name in ("quarantined", "filtered", "drift"):
            document[name] = dict(sorted(getattr(self, name).items()))
        if self.sessions is None:
            del document["sessions"]
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Accounting:
        """Raise ManifestError where a count is missing or no count. Names that are not known are ignored."""
        counts: dict[str, Any] = {}
        for spec in dataclasses.fields(cls):
            if spec.name in ("quarantined", "filtered", "drift"):
                numbers = _mapping(document.get(spec.name, {}), f"accounting.{spec.name}")
                counts[spec.name] = {str(k): _count(v, f"{spec.name}.{k}") for k, v in numbers.items()}
            elif spec.name in document:
                counts[spec.name] = _count(document[spec.name], f"accounting.{spec.name}")
            elif spec.default is dataclasses.MISSING:
                raise ManifestError(f"The manifest's accounting has no {spec.name!r}.")
        return cls(**counts)


@dataclass(frozen=True)
class Manifest:
    """The files of one dataset for one partition.

    ``partition`` maps the partition column to its value (``{"dt": "2026-01-05"}``); ``created_at`` is UTC,
    ISO 8601 with a ``Z``. ``accounting`` is None for a dataset whose lines nobody counted. ``restatement`` numbers
    the states of a dataset that is stated anew, over all partitions: a later state has a greater number.
    """

    dataset: str
    partition: Mapping[str, str]
    job: str
    created_at: str
    entries: tuple[ManifestEntry, ...]
    columns: tuple[Column, ...]
    accounting: Accounting | None = None
    restatement: int | None = None

    @property
    def record_count(self) -> int:
        return sum(entry.record_count for entry in self.entries)

    @property
    def content_length(self) -> int:
        return sum(entry.content_length for entry in self.entries)

    @property
    def urls(self) -> list[str]:
        return [entry.url for entry in self.entries]

    def to_json(self) -> str:
        """The document, the same text for the same manifest."""
        document: dict[str, Any] = {
            "entries": [
                {
                    "url": entry.url,
                    "mandatory": True,
                    "meta": {"content_length": entry.content_length, "record_count": entry.record_count},
                }
                for entry in self.entries
            ],
            "schema": {"elements": [{"name": column.name, "type": column.type} for column in self.columns]},
            "meta": {"content_length": self.content_length, "record_count": self.record_count},
            _SECTION: {
                "version": VERSION,
                "dataset": self.dataset,
                "partition": dict(self.partition),
                "job": self.job,
                "created_at": self.created_at,
                "accounting": None if self.accounting is None else self.accounting.to_dict(),
                **({} if self.restatement is None else {"restatement": self.restatement}),
            },
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest; raise ManifestError, naming the part, where it is broken or contradicts itself."""
        try:
            document = json.loads(text)
        except ValueError as error:
            raise ManifestError(f"The manifest is not JSON: {error}") from error
        document = _mapping(document, "the manifest")
        section = _mapping(document.get(_SECTION), _SECTION)
        if section.get("version") != VERSION:
            raise ManifestError(
                f"The manifest is of version {section.get('version')!r}; this release reads version {VERSION}."
            )
        accounting = section.get("accounting")
        manifest = cls(
            dataset=_text(section.get("dataset"), "dataset"),
            partition={
                str(k): _text(v, k) for k, v in _mapping(section.get("partition"), "partition").items()
            },
            job=_text(section.get("job"), "job"),
            created_at=_text(section.get("created_at"), "created_at"),
            entries=tuple(_entry(item) for item in _list(document.get("entries"), "entries")),
            columns=tuple(
                Column(_text(item.get("name"), "column name"), _text(item.get("type"), "column type"))
                for item in _list(
                    _mapping(document.get("schema"), "schema").get("elements"), "schema.elements"
                )
            ),
            accounting=None
            if accounting is None
            else Accounting.from_dict(_mapping(accounting, "accounting")),
            restatement=None
            if section.get("restatement") is None
            else _count(section["restatement"], "restatement"),
        )
        meta = _mapping(document.get("meta"), "meta")
        for name in ("record_count", "content_length"):
            stated, summed = _count(meta.get(name), f"meta.{name}"), getattr(manifest, name)
            if stated != summed:
                raise ManifestError(f"The manifest states {name} {stated}, but its entries sum to {summed}.")
        if len(set(manifest.urls)) != len(manifest.urls):
            raise ManifestError("The manifest lists a file twice.")
        return manifest


def _entry(item: Mapping[str, Any]) -> ManifestEntry:
    url = _text(item.get("url"), "entry url")
    meta = _mapping(item.get("meta"), f"meta of {url}")
    return ManifestEntry(
        url=url,
        content_length=_count(meta.get("content_length"), f"content_length of {url}"),
        record_count=_count(meta.get("record_count"), f"record_count of {url}"),
    )


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ManifestError(f"The manifest is broken: {what} is no JSON object but {value!r:.80}.")
    return value


def _list(value: Any, what: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise ManifestError(f"The manifest is broken: {what} is no list but {value!r:.80}.")
    return [_mapping(item, f"an item of {what}") for item in value]


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ManifestError(f"The manifest is broken: {what} is no text but {value!r:.80}.")
    return value


def _count(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ManifestError(f"The manifest is broken: {what} is no count but {value!r:.80}.")
    return value
