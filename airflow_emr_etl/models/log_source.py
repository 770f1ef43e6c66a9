"""A *source*: what the records of a log look like, and which column each of their fields becomes.

A source is a small YAML document; :func:`LogSource.from_document` takes it as the plain dictionaries and lists
that a YAML reader gives. docs/sources.md is the reference.
Runs on the cluster: no dependency, valid on Python 3.9.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.log_format import LineFormat, compile_log_format, compile_time_format

COLUMNS: Mapping[str, int | None] = {
    "ts": None,
    "host": 255,
    "method": 32,
    "path": 65535,
    "query": 65535,
    "protocol": 32,
    "status": None,
    "bytes": None,
    "referrer": 65535,
    "user_agent": 65535,
    "source_event_id": 255,
    "user_id": 255,
    "visitor_cookie": 255,
    "event_name": 255,
    "site": 255,
}
"""What a source can give, with the widest value in bytes of those that are text."""

_COMPOSED = {"request": ("method", "path", "query", "protocol"), "url": ("path", "query", "site")}
"""Fields that are read apart into several columns: a request line, and an absolute or relative URL."""

KINDS = ("ncsa", "apache_logformat", "w3c", "delimited", "json_lines")
DECODINGS = ("none", "percent", "undouble", "backslash", "host_port")
TIME_FORMATS = ("iso8601", "epoch_s", "epoch_ms", "epoch_us")


@dataclass(frozen=True)
class FieldRule:
    """One column: the first of ``sources`` that a record has, or, with ``joint``, all of them joined by it."""

    sources: tuple[str, ...]
    decode: str = "none"
    joint: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Drift:
    """What is done about records that do not have the declared fields."""

    new_field: str = "warn"
    """``ignore``, ``warn`` or ``quarantine``."""
    missing_field: str = "null"
    """``null`` or ``quarantine``; a required column that is missing is always quarantined."""
    retyped_field: str = "quarantine"
    """``quarantine``, or ``null`` for all but the time."""


@dataclass(frozen=True)
class LogSource:
    """See the module. ``record_fields`` are the fields of a record in their order (empty for JSON)."""

    name: str
    kind: str
    record_fields: tuple[str, ...] = ()
    rules: Mapping[str, FieldRule] = field(default_factory=dict)
    time_format: str = "iso8601"
    time_zone: str | None = None
    """For times without an offset; None: a time without an offset is a bad one."""
    required: tuple[str, ...] = ("ts",)
    defaults: Mapping[str, str] = field(default_factory=dict)
    drift: Drift = Drift()
    delimiter: str = "\t"
    quote: str = ""
    comment: str = ""
    least_fields: int = 1
    known_fields: tuple[str, ...] = ()
    """Fields that are expected and not mapped."""
    line_format: LineFormat | None = None
    page_views: tuple[str, ...] = ()
    """Names of events (``event_name``) that are page views, of those that are no request."""

    @property
    def columns(self) -> list[str]:
        """The columns of :data:`COLUMNS` that this source can give, in that order."""
        given = set(self.defaults)
        for target in self.rules:
            given.update(_COMPOSED.get(target, (target,)))
        return [name for name in COLUMNS if name in given]

    @property
    def drifts(self) -> bool:
        """Whether lines of this source can have messages about drift."""
        return self.kind in ("w3c", "delimited", "json_lines") or self.drift.retyped_field == "null"

    @classmethod
    def from_document(cls, document: Any, name: str) -> LogSource:
        """Raise ConfigurationError, naming ``name`` and the key, for anything that is no source."""
        return _Reader(document, name).source()


def log_format_source(text: str, zone: str | None = None) -> LogSource:
    """The source of one of Apache's ``LogFormat`` strings, each column from the directive that has it."""
    document = {"kind": "apache_logformat", "format": text, "zone": zone or "UTC"}
    return LogSource.from_document(document, "--log-format")


_KEYS = {
    "kind", "format", "fields", "known_fields", "columns", "time_format", "zone", "required", "defaults", "drift",
    "delimiter", "quote", "comment", "least_fields", "description", "page_views",
}  # fmt: skip


class _Reader:
    def __init__(self, document: Any, name: str) -> None:
        self.name = name
        self.document = self._mapping(document, "the document")

    def _bad(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"The source {self.name!r}: {what} docs/sources.md has the reference.")

    def _mapping(self, value: Any, what: str) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self._bad(f"{what} is {value!r:.80}; it has to be a mapping.")
        return value

    def _text(self, key: str, default: str = "") -> str:
        value = self.document.get(key, default)
        if not isinstance(value, str):
            raise self._bad(f"{key} is {value!r:.80}; it has to be text.")
        return value

    def _texts(self, value: Any, what: str) -> tuple[str, ...]:
        items = value if isinstance(value, list) else [value]
        if not items or not all(isinstance(item, str) and item for item in items):
            raise self._bad(f"{what} is {value!r:.80}; it has to be a name or a list of names.")
        return tuple(items)

    def _one_of(self, value: Any, what: str, valid: tuple[str, ...]) -> str:
        if value not in valid:
            raise self._bad(f"{what} is {value!r}; valid is {', '.join(valid)}.")
        return str(value)

    def source(self) -> LogSource:
        unknown = sorted(self.document.keys() - _KEYS)
        if unknown:
            raise self._bad(f"there is no key {unknown[0]!r}; valid are {', '.join(sorted(_KEYS))}.")
        kind = self._one_of(self.document.get("kind"), "kind", KINDS)
        if kind == "ncsa":
            extra = sorted(self.document.keys() - {"kind", "description"})
            if extra:
                raise self._bad(f"the kind ncsa knows its columns, and takes no {extra[0]!r}.")
            names = list(COLUMNS)[:10]
            return LogSource(self.name, kind, rules={column: FieldRule((column,)) for column in names})
        line_format = self._line_format() if kind == "apache_logformat" else None
        fields = line_format.fields if line_format else self._fields(kind)
        rules = self._rules(line_format, fields, kind)
        if "ts" not in rules:
            raise self._bad("columns has no 'ts': without a time there is no event.")
        return LogSource(
            name=self.name,
            kind=kind,
            record_fields=fields,
            rules=rules,
            time_format=self._time_format(line_format),
            time_zone=self._zone(),
            required=self._required(rules),
            defaults=self._defaults(),
            drift=self._drift(),
            delimiter=self._delimiter(),
            quote=self._one_of(self._text("quote"), "quote", ("", '"')),
            comment=self._text("comment", "#" if kind == "w3c" else ""),
            least_fields=self._least_fields(fields),
            known_fields=self._texts(self.document["known_fields"], "known_fields")
            if self.document.get("known_fields")
            else (),
            line_format=line_format,
            page_views=self._page_views(rules),
        )

    def _line_format(self) -> LineFormat:
        return compile_log_format(self._text("format"))

    def _fields(self, kind: str) -> tuple[str, ...]:
        if kind == "json_lines":
            return ()
        fields = self._texts(self.document.get("fields"), "fields")
        if len(set(fields)) != len(fields):
            raise self._bad("fields names one field twice.")
        return fields

    def _rules(self, form: LineFormat | None, fields: tuple[str, ...], kind: str) -> dict[str, FieldRule]:
        rules = _format_rules(form) if form else {}
        for target, spec in self._mapping(self.document.get("columns", {}), "columns").items():
            if target not in COLUMNS and target not in _COMPOSED:
                valid = ", ".join([*COLUMNS, *_COMPOSED])
                raise self._bad(f"there is no column {target!r}; valid are {valid}.")
            if not isinstance(spec, dict):
                spec = {"from": spec}
            unknown = sorted(spec.keys() - {"from", "decode", "join", "values"})
            if unknown:
                raise self._bad(
                    f"columns.{target} has {unknown[0]!r}; valid are from, decode, join and values."
                )
            sources = self._texts(spec.get("from"), f"columns.{target}.from")
            if kind != "json_lines":
                stranger = next((source for source in sources if source not in fields), None)
                if stranger:
                    raise self._bad(
                        f"columns.{target} is from {stranger!r}, which is none of its fields: {', '.join(fields)}."
                    )
            decode = self._one_of(spec.get("decode", "none"), f"columns.{target}.decode", DECODINGS)
            values = self._mapping(spec.get("values", {}), f"columns.{target}.values")
            joint = spec.get("join")
            if joint is not None and not isinstance(joint, str):
                raise self._bad(f"columns.{target}.join is {joint!r}; it has to be text.")
            rules[target] = FieldRule(sources, decode, joint, {k: str(v) for k, v in values.items()})
        return rules

    def _time_format(self, form: LineFormat | None) -> str:
        text = self._text("time_format", (form.time_format if form else None) or "iso8601")
        if text not in TIME_FORMATS:
            if "%" not in text:
                raise self._bad(
                    f"time_format is {text!r}; valid is {', '.join(TIME_FORMATS)} or a strftime format."
                )
            compile_time_format(text)
        return text

    def _zone(self) -> str | None:
        zone = self.document.get("zone")
        if zone is not None and not (isinstance(zone, str) and re.fullmatch(r"[A-Za-z0-9_+:/-]+", zone)):
            raise self._bad(f"zone is {zone!r:.80}; it has to be a time zone such as UTC or Europe/Berlin.")
        return zone

    def _required(self, rules: Mapping[str, FieldRule]) -> tuple[str, ...]:
        required = self._texts(self.document.get("required", ["ts"]), "required")
        given = {column for target in rules for column in _COMPOSED.get(target, (target,))}
        stranger = next((column for column in required if column not in given), None)
        if stranger:
            raise self._bad(f"required names {stranger!r}, which columns does not give.")
        return tuple(dict.fromkeys(("ts", *required)))

    def _defaults(self) -> dict[str, str]:
        defaults = self._mapping(self.document.get("defaults", {}), "defaults")
        stranger = next((c for c in defaults if c == "ts" or c not in COLUMNS), None)
        if stranger:
            raise self._bad(f"defaults has {stranger!r}; valid are {', '.join(list(COLUMNS)[1:])}.")
        for column in ("status", "bytes"):
            if column in defaults and not re.fullmatch(
                r"\d{1,3}" if column == "status" else r"\d{1,18}", str(defaults[column])
            ):
                raise self._bad(f"defaults.{column} is {defaults[column]!r}, which is no {column}.")
        return {column: str(value) for column, value in defaults.items()}

    def _page_views(self, rules: Mapping[str, FieldRule]) -> tuple[str, ...]:
        if "page_views" not in self.document:
            return ()
        if "event_name" not in {*rules, *self._defaults()}:
            raise self._bad("page_views are names of events, and columns gives no event_name.")
        return self._texts(self.document["page_views"], "page_views")

    def _drift(self) -> Drift:
        drift = self._mapping(self.document.get("drift", {}), "drift")
        valid = {
            "new_field": ("ignore", "warn", "quarantine"),
            "missing_field": ("null", "quarantine"),
            "retyped_field": ("quarantine", "null"),
        }
        given = {}
        for key, rule in drift.items():
            if key not in valid:
                raise self._bad(f"drift has {key!r}; valid are {', '.join(valid)}.")
            # YAML reads a bare null as nothing.
            given[key] = self._one_of("null" if rule is None else rule, f"drift.{key}", valid[key])
        return Drift(**given)

    def _delimiter(self) -> str:
        delimiter = self._text("delimiter", "\t")
        if len(delimiter) != 1 or delimiter in '\n"\\':
            raise self._bad(
                f"delimiter is {delimiter!r}; it has to be one character, such as a tab or a comma."
            )
        return delimiter

    def _least_fields(self, fields: tuple[str, ...]) -> int:
        least = self.document.get("least_fields", len(fields) or 1)
        if not isinstance(least, int) or isinstance(least, bool) or not 1 <= least <= max(len(fields), 1):
            raise self._bad(f"least_fields is {least!r}; valid is 1 to {len(fields)}, the number of fields.")
        return least


_DIRECTIVES: Mapping[str, tuple[str, ...]] = {
    "host": ("%h", "%a", "%{c}a", "%{c}h"),
    "request": ("%r",),
    "method": ("%m",),
    "path": ("%U",),
    "query": ("%q",),
    "protocol": ("%H",),
    "status": ("%>s", "%s", "%<s"),
    "bytes": ("%b", "%B", "%O"),
    "referrer": ("%{referer}i",),
    "user_agent": ("%{user-agent}i",),
    "user_id": ("%u", "%>u", "%<u"),
    "site": ("%v", "%V", "%{host}i"),
}
"""For each column the directives that have it, the better ones first."""


def _format_rules(form: LineFormat) -> dict[str, FieldRule]:
    rules: dict[str, FieldRule] = {}
    for target, directives in _DIRECTIVES.items():
        found = tuple(name for name in directives if name in form.fields)
        if found and not ("request" in rules and target in _COMPOSED["request"]):
            rules[target] = FieldRule(found, "backslash")
    if form.time_fields:
        rules["ts"] = FieldRule(form.time_fields, "none", form.time_joint)
    return rules
