r"""JSON lines that raise no question, to columns within Arrow.

What :class:`JsonReader` takes, ``source_reader.py`` finds good, and its columns are the same; whatever could be
otherwise (an escape, a nested value, a fraction, a text too long for its column) is left for that module. So there is
one place that knows the rules of doubtful lines.

Arrow reads a chunk at once, and refuses all of it for one line that is not like the others. Such a chunk is read line
by line, several times as slow, and still faster than to leave it.
"""

from __future__ import annotations

import re
from json import JSONDecoder
from typing import Any, Callable, Counter, Dict, List, Optional, Sequence, Tuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from airflow_emr_etl.models import access_log
from airflow_emr_etl.models.log_source import COLUMNS, LogSource
from airflow_emr_etl.spark.arrow_text import dictionary_at, flags, known, width_fits

TEXTS = tuple(name for name, width in COLUMNS.items() if width is not None)

_ABSOLUTE = access_log.python_pattern(access_log.ABSOLUTE_URI)
_HOST = access_log.python_pattern(access_log.URI_HOST)
_DAY = (
    r"[12]\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|[12]\d))"
)
_ISO = rf"^{_DAY}[T ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{{1,6}})?(?:Z|[+-](?:0\d|1[0-7])(?::?[0-5]\d)?)$"
_LEAP_DAY = "-02-29"
_EPOCH_UNITS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
_BEFORE_NUMBER = np.frombuffer(b": \t\r", np.uint8)
_LONG_LINE = 32 << 10
"""Longer lines may have names that are too long for Spark's reader, and are left to it."""
_MOST_DIGITS = 900
"""Of a number: at a thousand Spark's reader refuses the line."""
_LONG_NUMBER = re.compile(rb"\d{%d}" % _MOST_DIGITS)
_SAMPLE_BYTES = 16 << 10
_SANE = 32_503_680_000_000_000
"""The year 3000. What is later is doubtful: milliseconds may have been taken for seconds."""


class JsonReader:
    """Reads the lines of ``source``, for which :meth:`fits` holds.

    ``drift`` counts what the lines that were taken have told so far: messages as ``drift_counts`` gives them.
    """

    @staticmethod
    def fits(source: LogSource) -> bool:
        """Whether all that ``source`` says is known here."""
        plain = all(
            rule.decode == "none"
            and (rule.joint is None or len(rule.sources) == 1)
            and not any("." in name for name in rule.sources)
            for rule in source.rules.values()
        )
        known_time = source.time_format in ("iso8601", *_EPOCH_UNITS)
        composed = "request" in source.rules or bool(source.comment)
        return source.kind == "json_lines" and plain and known_time and not composed

    def __init__(self, source: LogSource, max_line_bytes: int) -> None:
        self.source, self.max_line_bytes = source, max_line_bytes
        self.drift: Counter[str] = Counter()
        self.texts = [name for name in TEXTS if name in source.columns]
        wanted = [name for rule in source.rules.values() for name in rule.sources]
        self.wanted = tuple(dict.fromkeys(wanted))
        self.expected = frozenset((*self.wanted, *source.known_fields))
        numbers = {name for target in ("status", "bytes", "ts") for name in _sources(source, target)}
        if source.time_format == "iso8601":
            numbers -= set(_sources(source, "ts"))
        self.numbers = sorted(numbers)
        # Numbers may be texts. Of the others Arrow is told what they are: it would take some for times.
        self.schema = pa.schema([(name, pa.string()) for name in self.wanted if name not in numbers])
        decoder = JSONDecoder(
            object_pairs_hook=_record_of, parse_int=str, parse_float=_refused, parse_constant=_refused
        )
        self._scan: Callable[[str], Tuple[Any, int]] = decoder.raw_decode

    def read(self, content: bytes, ends: Any) -> Tuple[Any, Dict[str, Any]]:
        """Which lines of ``content`` are plain, and the columns of these; see ``plain_access_log.read``.

        ``ends``: for each line the place behind its line feed, in numpy. The columns are those that the source gives.
        """
        plain = self._simple(content, ends)
        told: List[List[str]] = []
        fields = self._together(content, ends, plain)
        if fields is None:
            fields, told = self._one_by_one(content, ends, plain)
        column, good = self._columns(fields, int(plain.sum()))
        for messages, counts in zip(told, good.tolist()):
            if counts:
                self.drift.update(messages)
        plain[np.flatnonzero(plain)[~good]] = False
        return plain, column

    def _simple(self, content: bytes, ends: Any) -> Any:
        """Which lines look like one object of plain values, with nothing that readers take differently."""
        data = np.frombuffer(content, np.uint8)
        begins = np.append(0, ends[:-1])
        lengths = ends - begins - 1
        last = np.where((lengths > 2) & (data[ends - 2] == ord("\r")), ends - 3, ends - 2)
        simple = (lengths > 1) & (lengths <= min(self.max_line_bytes, _LONG_LINE))
        simple &= (data[begins] == ord("{")) & (data[np.where(lengths > 1, last, 0)] == ord("}"))

        def leave(places: Any) -> None:
            simple[np.searchsorted(ends, places, side="right")] = False

        # Within a text too, which is seldom; then nothing is nested, and no reader has a say in how deep.
        if content.count(b"{") > np.count_nonzero(data[begins] == ord("{")):
            opened = np.flatnonzero(data == ord("{"))
            line = np.searchsorted(ends, opened, side="right")
            simple[line[opened != begins[line]]] = False
        for sign in (b"[", b"\\"):
            if sign in content:
                leave(np.flatnonzero(data == ord(sign)))
        if not content.isascii():
            try:
                content.decode()
            except UnicodeDecodeError:
                leave(np.flatnonzero(data > 127))
        # Zero to one reader, and minus zero to another.
        minus = np.flatnonzero(data[:-1] == ord("-"))
        minus = minus[(data[minus + 1] == ord("0")) & np.isin(data[minus - 1], _BEFORE_NUMBER)]
        leave(minus)
        for row in np.flatnonzero(simple & (lengths > _MOST_DIGITS)).tolist():
            if _LONG_NUMBER.search(content, int(begins[row]), int(ends[row])):
                simple[row] = False
        return simple

    def _together(self, content: bytes, ends: Any, plain: Any) -> Optional[Dict[str, Any]]:
        """The fields of the plain lines as texts; None where there is anything that Arrow cannot tell of."""
        if not plain.any():
            return {name: pa.array([], pa.string()) for name in self.wanted}
        if not plain.all():
            begins = np.append(0, ends[:-1])
            pieces = zip(begins[plain].tolist(), ends[plain].tolist())
            content = b"".join([content[begin:end] for begin, end in pieces])
        try:
            # The types of all lines are those of the first ones, or it is not for Arrow: to let it find out by itself
            # would give it a column of the chunk's length for each new name.
            first = content[: content.find(b"\n", _SAMPLE_BYTES) + 1 or len(content)]
            found = _read(first, self.schema, "infer").schema
            if self.source.drift.new_field == "ignore":
                found = pa.schema([field for field in found if field.name in self.wanted])
            elif not set(found.names) <= self.expected:
                return None
            fields_ = [
                pa.field(field.name, pa.string()) if pa.types.is_null(field.type) else field
                for field in found
            ]
            missing = [pa.field(name, pa.int64()) for name in self.numbers if name not in found.names]
            missing += [
                pa.field(name, pa.string())
                for name in self.expected
                if name not in {*found.names, *self.numbers}
            ]
            unknown = "ignore" if self.source.drift.new_field == "ignore" else "error"
            table = _read(content, pa.schema([*fields_, *missing]), unknown)
        except pa.ArrowInvalid:
            return None
        if table.num_rows != plain.sum():
            return None
        fields = {}
        for name in self.wanted:
            texts = table.column(name).combine_chunks()
            if not (pa.types.is_string(texts.type) or pa.types.is_int64(texts.type)):
                return None
            fields[name] = texts.cast(pa.string())
        return fields

    def _one_by_one(self, content: bytes, ends: Any, plain: Any) -> Tuple[Dict[str, Any], List[List[str]]]:
        """The same, and what each line tells about drift; those not plain after all are taken out of ``plain``."""
        begins = np.append(0, ends[:-1])
        found: Dict[str, List[Optional[str]]] = {name: [] for name in self.wanted}
        told: List[List[str]] = []
        for row in np.flatnonzero(plain).tolist():
            record = self._record(content[begins[row] : ends[row] - 1])
            new = (
                ()
                if record is None or self.source.drift.new_field == "ignore"
                else record.keys() - self.expected
            )
            if record is None or (new and self.source.drift.new_field == "quarantine"):
                plain[row] = False
                continue
            told.append([f"new field {name[:100]}" for name in new])
            for name in self.wanted:
                found[name].append(record.get(name))
        return {name: pa.array(texts, pa.string()) for name, texts in found.items()}, told

    def _record(self, line: bytes) -> Optional[Dict[str, Any]]:
        try:
            text = line.decode()
            record, end = self._scan(text)
        except (ValueError, RecursionError):
            return None
        if text[end:] not in ("", "\r"):
            return None
        for name in self.wanted:
            value = record.get(name)
            if value is not None and value.__class__ is not str:
                return None
        return record  # type: ignore[no-any-return]

    def _columns(self, fields: Dict[str, Any], count: int) -> Tuple[Dict[str, Any], Any]:
        """The columns, and which of the lines they are of, as numpy booleans."""
        good = np.ones(count, bool)
        if self.source.drift.missing_field == "quarantine":
            for texts in fields.values():
                good &= flags(texts.is_valid())
        raw = {target: self._text(target, fields) for target in self.source.rules}
        parts: Dict[str, Any] = {}
        if "url" in raw:
            parts, sound = _urls(raw["url"].dictionary_encode())
            good &= sound
        column: Dict[str, Any] = {}
        for name in self.texts:
            texts = raw.get(name)
            if name == "query" and texts is not None:
                texts = pc.replace_substring_regex(texts, r"^\?", "")
            if name in parts and (texts is None or texts.null_count == count):
                texts = parts[name]
            elif name in parts:
                texts = pc.coalesce(texts, parts[name].dictionary_decode())
            texts = self._filled(name, texts, count)
            column[name] = texts if pa.types.is_dictionary(texts.type) else texts.dictionary_encode()
            good &= width_fits(column[name], COLUMNS[name])
        for name, shape, kind in (("status", r"^\d{3}$", pa.int16()), ("bytes", r"^\d{1,18}$", pa.int64())):
            if name in self.source.columns:
                texts = self._filled(name, raw.get(name), count)
                sound = _shaped(texts, shape)
                good &= sound
                column[name] = pc.if_else(pa.array(sound), texts, None).cast(kind)
        column["ts"], sound = self._times(raw["ts"])
        good &= sound
        for name in self.source.required:
            good &= flags(column[name].is_valid())
        if not good.all():
            column = {name: values.filter(pa.array(good)) for name, values in column.items()}
        return column, good

    def _text(self, target: str, fields: Dict[str, Any]) -> Any:
        """The first of the fields that says something, as the rule for ``target`` has it."""
        rule = self.source.rules[target]
        texts = [known(fields[name]) for name in rule.sources]
        text = pc.coalesce(*texts) if len(texts) > 1 else texts[0]
        if rule.values:
            each = text.dictionary_encode()
            named = [rule.values.get(value, value) for value in each.dictionary.to_pylist()]
            text = pa.array(named, pa.string()).take(each.indices)
        return text

    def _filled(self, name: str, texts: Any, count: int) -> Any:
        default = self.source.defaults.get(name)
        if texts is None:
            return pa.nulls(count, pa.string()) if default is None else pa.repeat(default, count)
        if default is None or not texts.null_count:
            return texts
        return pc.fill_null(texts.cast(pa.string()), default)

    def _times(self, texts: Any) -> Tuple[Any, Any]:
        """Microseconds, and which of ``texts`` is surely a time, or not there."""
        unit = _EPOCH_UNITS.get(self.source.time_format)
        if unit is not None:
            sound = _shaped(texts, r"^\d{1,16}$")
            number = pc.if_else(pa.array(sound), texts, None).cast(pa.int64())
            sound &= flags(pc.fill_null(pc.less(number, _SANE // unit), True))
            return pc.multiply(pc.if_else(pa.array(sound), number, None), unit), sound
        sound = _shaped(texts, _ISO)
        kind = pa.timestamp("us", "UTC")
        try:
            times = pc.if_else(pa.array(sound), texts, None).cast(kind)
        except pa.ArrowInvalid:
            # Not each year has one, and the cast does not say which text it was.
            sound &= ~flags(pc.fill_null(pc.match_substring(texts, _LEAP_DAY), False))
            times = pc.if_else(pa.array(sound), texts, None).cast(kind)
        return times.cast(pa.int64()), sound


def _sources(source: LogSource, target: str) -> Sequence[str]:
    return source.rules[target].sources if target in source.rules else ()


def _read(content: bytes, schema: Any, unknown: str) -> Any:
    """Lines as a table; ``unknown`` says what is done about fields that ``schema`` does not have."""
    return pj.read_json(
        pa.BufferReader(content),
        pj.ReadOptions(use_threads=False, block_size=len(content) + 1),
        pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unknown),
    )


def _record_of(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a name is there twice, and readers differ in which of the two counts")
    return record


def _refused(text: str) -> Any:
    raise ValueError(text)


def _urls(urls: Any) -> Tuple[Dict[str, Any], Any]:
    """Path, query and site of each URL, and whether it is surely read as Spark reads it."""
    paths: List[Optional[str]] = []
    queries: List[Optional[str]] = []
    sites: List[Optional[str]] = []
    sound: List[bool] = []
    for url in urls.dictionary.to_pylist():
        target, _, _ = _ABSOLUTE.sub("", url).partition("#")
        path, mark, query = target.partition("?")
        host = _HOST.search(url)
        paths.append(path or "/")
        queries.append(query if mark else None)
        sites.append(host.group(1).lower() if host else None)
        # To Java a dot is no line end, of which Unicode has some.
        sound.append(url.isascii())
    parts = {"path": paths, "query": queries, "site": sites}
    at = urls.indices
    read = flags(pc.fill_null(pa.array(sound, pa.bool_()).take(at), True))
    return {name: dictionary_at(pa.array(texts, pa.string()), at) for name, texts in parts.items()}, read


def _shaped(texts: Any, shape: str) -> Any:
    """Whether each of ``texts`` has this shape, or is not there."""
    return flags(pc.fill_null(pc.match_substring_regex(texts, shape), True))
