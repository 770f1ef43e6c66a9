"""Lines of a declared source to columns, by Spark's own expressions only; see ``models/log_source.py``.

Each kind of record becomes an array of texts, one for each field that a column is made of, where NULL means that
the record does not have the field. From there on all kinds are alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce
from typing import Dict, List, Optional, Sequence, Tuple

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.models import access_log
from airflow_emr_etl.models.log_format import compile_time_format
from airflow_emr_etl.models.log_source import COLUMNS, FieldRule, LogSource, log_format_source
from airflow_emr_etl.spark import storage
from airflow_emr_etl.spark.line_parser import (
    iso_time,
    known,
    parse_lines,
    split_request,
    unescape,
    unreadable,
)
from airflow_emr_etl.spark.sources import built_in_source, parse_source

HEADER = "header"
"""The reason of lines that describe the others and are no record; they are counted apart."""

FIELD_TYPES = {
    name: {"ts": "timestamp", "status": "smallint", "bytes": "bigint"}.get(name, "string") for name in COLUMNS
}
"""The columns that sources can give, with Spark's types."""

_ISO = (
    r"^[12]\d{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])[Tt ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d"
    r"(?:[.,]\d{1,9})?(?: ?(?:[+-]\d\d(?::?[0-5]\d)?|Z|z|UTC|GMT))?\z"
)
_ZONED = r"(?::\d\d(?:[.,]\d+)? ?[+-][\d:]+|Z|z|UTC|GMT)\z"
_EPOCH = r"^\d{1,19}(?:\.\d{1,9}\d*)?(?:E\d{1,2})?\z"
_EPOCH_UNITS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
MOST_MESSAGES = 100


def load_source(spark: SparkSession, source: str = "combined", log_format: Optional[str] = None) -> LogSource:
    """The source of this name or at this address (``….yaml``), or that of an Apache ``LogFormat`` string.

    Raise ConfigurationError for one that is not valid, MissingInputError where there is no file.
    """
    if log_format is not None:
        return log_format_source(log_format)
    if source.endswith((".yaml", ".yml")):
        return parse_source(storage.read_text(spark, source), source)
    return built_in_source(source)


@dataclass(frozen=True)
class Parsed:
    """Lines with ``reason``, ``drift`` (messages, NULL where there is none) and the source's columns.

    ``file_drift`` has messages that are about whole files, with the number of these.
    """

    lines: DataFrame
    columns: Sequence[str]
    file_drift: Dict[str, int]


def read_source(lines: DataFrame, source: LogSource, max_line_bytes: int) -> Parsed:
    """Parse ``lines`` (``value``, ``file``, ``split`` and ``position``, as the job reads them)."""
    if source.kind == "ncsa":
        parsed = parse_lines(lines, max_line_bytes).withColumn("drift", F.lit(None).cast("array<string>"))
        return Parsed(parsed, source.columns, {})
    kept = lines.columns
    header_drift: Dict[str, int] = {}
    layouts = [_Layout(source.record_fields, source)]
    if source.kind == "w3c":
        lines, layouts, header_drift = _with_headers(lines, source)
    value = F.col("value")
    lines = lines.withColumn("unreadable", unreadable(value, max_line_bytes))
    whole = F.when(value.startswith("\ufeff"), F.expr("substring(value, 2)")).otherwise(value)
    lines = lines.withColumn("text", F.when(F.col("unreadable").isNull(), whole))
    lines = lines.withColumn(
        "text",
        F.when(F.col("text").endswith("\r"), F.expr("left(text, char_length(text) - 1)")).otherwise(
            F.col("text")
        ),
    )
    is_header = F.col("text").startswith(source.comment) if source.comment else F.lit(False)
    lines = lines.withColumn("is_header", F.coalesce(is_header, F.lit(False)))
    lines = lines.withColumn("text", F.when(~F.col("is_header"), F.col("text")))
    lines = _with_record(lines, source, layouts)
    lines = _with_columns(lines, source)
    return Parsed(
        lines.select(
            *kept, "reason", "drift", *(F.col(f"read_{name}").alias(name) for name in source.columns)
        ),
        source.columns,
        header_drift,
    )


def drift_counts(lines: DataFrame, most: int = MOST_MESSAGES) -> Dict[str, int]:
    """How many lines each message in ``drift`` is about; the ``most`` frequent ones."""
    counted = (
        lines.where(F.col("drift").isNotNull())
        .select(F.explode("drift").alias("message"))
        .groupBy("message")
        .agg(F.count(F.lit(1)).alias("lines"))
        .orderBy(F.col("lines").desc(), "message")
        .limit(most)
    )
    return {row["message"]: row["lines"] for row in counted.collect()}


class _Layout:
    """The fields of a record in their order, and where in it are those that the columns need."""

    def __init__(self, fields: Sequence[str], source: LogSource) -> None:
        self.fields = tuple(fields)
        wanted = _wanted(source)
        self.places = [self.fields.index(name) if name in self.fields else None for name in wanted]
        known_names = {*source.record_fields, *source.known_fields}
        self.new = [name for name in self.fields if name not in known_names]
        self.missing = [name for name, place in zip(wanted, self.places) if place is None]


def _wanted(source: LogSource) -> List[str]:
    """The fields that columns are made of, each once."""
    return list(dict.fromkeys(name for rule in source.rules.values() for name in rule.sources))


def _with_headers(lines: DataFrame, source: LogSource) -> Tuple[DataFrame, List[_Layout], Dict[str, int]]:
    """Add ``layout``, the number of the layout that the last ``#Fields:`` above a line declares.

    One pass over the lines finds the headers: files are read in pieces, so a line does not see what is above it.
    """
    found = (
        lines.where(F.col("value").rlike("^\ufeff?#Fields:"))
        .select("file", "split", "position", "value")
        .collect()
    )
    declared: Dict[Tuple[str, ...], int] = {tuple(source.record_fields): 0}
    places: Dict[str, List[Tuple[int, int, int]]] = {}
    drift: Dict[str, int] = {}
    layouts = [_Layout(source.record_fields, source)]
    for row in sorted(found, key=lambda row: (row["file"], row["split"], row["position"])):
        fields = tuple(row["value"].split(":", 1)[1].split())
        if fields not in declared:
            declared[fields] = len(layouts)
            layouts.append(_Layout(fields, source))
        number = declared[fields]
        places.setdefault(row["file"], []).append((row["split"], row["position"], number))
        messages = [f"new field {name}" for name in layouts[number].new if source.drift.new_field != "ignore"]
        for message in messages + [f"missing field {name}" for name in layouts[number].missing]:
            drift[message] = drift.get(message, 0) + 1
    used = {number for at in places.values() for _, _, number in at}
    if len(used) <= 1:
        only = next(iter(used), 0)
        return lines.withColumn("layout", F.lit(0)), [layouts[only]], drift
    table = lines.sparkSession.createDataFrame(
        list(places.items()),
        "file string, headers array<struct<split: bigint, position: bigint, layout: int>>",
    )
    above = "h -> h.split < split OR (h.split = split AND h.position <= position)"
    joined = lines.join(F.broadcast(table), "file", "left").withColumn(
        "layout", F.coalesce(F.expr(f"try_element_at(filter(headers, {above}), -1).layout"), F.lit(0))
    )
    return joined.drop("headers"), layouts, drift


def _with_record(lines: DataFrame, source: LogSource, layouts: Sequence[_Layout]) -> DataFrame:
    """Add ``record`` (NULL for what is none), ``broken`` (the reason why not), ``new_fields``, ``missing_fields``."""
    text = F.col("text")
    nothing = F.lit(None).cast("array<string>")
    if source.kind == "json_lines":
        return _with_json(lines, source)
    if source.line_format is not None:
        lines = lines.withColumn(
            "cells", cells(text, source.line_format.expression, len(source.record_fields))
        )
        return lines.withColumns(
            {
                "record": F.when(F.size("cells") > 1, _picked(layouts[0])),
                "broken": F.when(F.size("cells") <= 1, "malformed"),
                "new_fields": nothing,
                "missing_fields": nothing,
            }
        )
    unmatched = F.lit("malformed")
    if source.quote:
        value, between = _cell_expression(source)
        unclosed = rf"(?s)^(?:{value}{between})*+\"(?:[^\"\\]*+(?:\\.[^\"\\]*+)*+)\\?+\z"
        unmatched = F.when(text.rlike(unclosed), "truncated").otherwise("malformed")
        expression, count = _delimited_expression(source)
        lines = lines.withColumn("matched", cells(text, expression, count))
        lines = lines.withColumn(
            "cells",
            # What is there is told from what is not by the delimiter that each cell but the first has in front.
            F.when(
                F.size("matched") > 1,
                F.expr(
                    "transform(filter(slice(matched, 1, size(matched) - 1), (c, i) -> i = 0 OR c != ''), "
                    "(c, i) -> CASE WHEN i = 0 THEN c ELSE substring(c, 2) END)"
                ),
            ),
        )
    else:
        lines = lines.withColumn("cells", F.split(text, re.escape(source.delimiter), -1))
    least = source.least_fields
    record, broken, new, missing = nothing, F.lit(None).cast("string"), nothing, nothing
    for number, layout in enumerate(layouts):
        width = len(layout.fields)
        here = F.col("layout") == number if source.kind == "w3c" else F.lit(True)
        size = F.size("cells")
        at_least = width if source.kind == "w3c" else least
        why = F.when(F.col("cells").isNull(), unmatched).when(size < at_least, "truncated")
        if source.kind == "w3c":
            why = why.when(size > width, "malformed")
        names = F.lit(None).cast("array<string>")
        if source.kind == "w3c" and layout.new and source.drift.new_field == "quarantine":
            names = F.array(*(F.lit(name) for name in layout.new))
        elif source.kind == "delimited" and source.drift.new_field != "ignore":
            extra = F.expr(f"transform(sequence({width} + 1, size(cells)), n -> concat('column ', n))")
            names = F.when(size > width, extra)
        absent = F.lit(None).cast("array<string>")
        if source.kind == "w3c" and layout.missing and source.drift.missing_field == "quarantine":
            absent = F.array(*(F.lit(name) for name in layout.missing))
        elif source.kind == "delimited":
            declared = F.array(*(F.lit(name) for name in layout.fields))
            absent = F.when(
                (size < width) & (size >= least), F.slice(declared, size + 1, F.lit(width) - size)
            )
        record = F.when(here, F.when(why.isNull(), _picked(layout))).otherwise(record)
        broken = F.when(here, why).otherwise(broken)
        new = F.when(here, names).otherwise(new)
        missing = F.when(here, absent).otherwise(missing)
    return lines.withColumns(
        {"record": record, "broken": broken, "new_fields": new, "missing_fields": missing}
    )


def cells(text: Column, expression: str, count: int) -> Column:
    """The groups of a match of the whole ``text`` and one empty text more; an array of one where it does not match."""
    groups = "".join(f"${number}\n" for number in range(1, count + 1))
    return F.split(F.regexp_replace(text, expression, groups), "\n", -1)


def _picked(layout: _Layout) -> Column:
    return F.array(
        *(
            F.lit(None).cast("string") if place is None else F.get("cells", F.lit(place))
            for place in layout.places
        )
    )


def _cell_expression(source: LogSource) -> Tuple[str, str]:
    """An expression for a cell with its quotes, if it has any, and one for what stands between two."""
    between = re.escape(source.delimiter)
    quoted = r"\"(?:[^\"\\]*+(?:(?:\\.|\"\")[^\"\\]*+)*+)\""
    return rf"(?:{quoted}|(?!\")[^{between}]*+)", between


def _delimited_expression(source: LogSource) -> Tuple[str, int]:
    """An expression with a group for each field, where all but the first include the delimiter, and one for the rest.

    The groups have the quotes in them.
    """
    value, between = _cell_expression(source)
    nested = rf"((?:{between}.*+)?+)"
    for _ in source.record_fields[1:]:
        nested = rf"(?:({between}{value}){nested})?+"
    return rf"(?s)^({value}){nested}\z", len(source.record_fields) + 1


def _with_json(lines: DataFrame, source: LogSource) -> DataFrame:
    text = F.col("text")
    # In brackets, so that a second value after the first is an error, and not passed over in silence.
    strictly = {"allowSingleQuotes": "false", "allowNonNumericNumbers": "false"}
    listed = F.concat(F.lit("["), text, F.lit("]"))
    lines = lines.withColumn("objects", F.from_json(listed, "array<map<string,string>>", strictly))
    one = F.when(F.size("objects") == 1, F.get("objects", F.lit(0)))
    lines = lines.withColumn("cells", F.when(F.ltrim(text).startswith("{"), one))
    wanted = _wanted(source)

    def value(name: str) -> Column:
        plain = F.expr(f"try_element_at(cells, '{_quoted(name)}')")
        if "." not in name:
            return plain
        top, rest = name.split(".", 1)
        below = F.get_json_object(F.expr(f"try_element_at(cells, '{_quoted(top)}')"), f"$.{rest}")
        return F.coalesce(plain, below)

    expected = {*(name.split(".", 1)[0] for name in wanted), *wanted, *source.known_fields}
    new = F.lit(None).cast("array<string>")
    if source.drift.new_field != "ignore":
        names = F.array_except(F.map_keys("cells"), F.array(*(F.lit(name) for name in sorted(expected))))
        new = F.when(F.size(names) > 0, names)
    missing = F.lit(None).cast("array<string>")
    if source.drift.missing_field == "quarantine":
        absent = [F.when(value(name).isNull(), F.lit(name)) for name in wanted]
        missing = F.array_compact(F.array(*absent))
        missing = F.when(F.size(missing) > 0, missing)
    unfinished = F.ltrim(text).startswith("{") & ~F.rtrim(text).endswith("}")
    return lines.withColumns(
        {
            "record": F.when(F.col("cells").isNotNull(), F.array(*(value(name) for name in wanted))),
            "broken": F.when(F.col("cells").isNull(), F.when(unfinished, "truncated").otherwise("malformed")),
            "new_fields": new,
            "missing_fields": missing,
        }
    )


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\").replace("'", "\\'")


def _with_columns(lines: DataFrame, source: LogSource) -> DataFrame:
    """Add ``reason``, ``drift`` and ``read_<column>`` for each column of the source."""
    place = {name: number for number, name in enumerate(_wanted(source))}
    texts: Dict[str, Column] = {}
    for target, rule in source.rules.items():
        lines = lines.withColumn(f"text_{target}", _text(rule, place, source.quote))
        texts[target] = F.col(f"text_{target}")
    columns = {name: texts[name] for name in COLUMNS if name in texts}
    if "query" in columns:  # %q brings its question mark
        columns["query"] = F.regexp_replace(columns["query"], r"^\?", "")
    if "request" in texts:
        lines, parts = split_request(lines, "text_request")
        columns.update({name: _either(columns.get(name), part) for name, part in parts.items()})
    if "url" in texts:
        relative = F.regexp_replace(F.regexp_replace("text_url", access_log.ABSOLUTE_URI, ""), "#.*", "")
        lines = lines.withColumn("url_target", relative)
        path = F.substring_index("url_target", "?", 1)
        query = F.expr("substring(url_target, char_length(substring_index(url_target, '?', 1)) + 2)")
        site = F.lower(F.regexp_extract("text_url", access_log.URI_HOST, 1))
        parts = {
            "path": F.when(path == "", F.lit("/")).otherwise(path),
            "query": F.when(F.col("url_target").contains("?"), query),
            "site": F.when(site != "", site),
        }
        columns.update({name: _either(columns.get(name), part) for name, part in parts.items()})
    for name, default in source.defaults.items():
        columns[name] = F.coalesce(columns.get(name, F.lit(None).cast("string")), F.lit(default))
    raw = {f"raw_{name}": columns[name] for name in source.columns}
    lines = lines.withColumns(raw)
    lines = _with_time(lines, source)
    lines = lines.withColumns({f"read_{name}": _typed(name) for name in source.columns if name != "ts"})

    bad = {name: _misfit(name, source) for name in source.columns}
    retyped_is_null = source.drift.retyped_field == "null"
    required = [F.col(f"raw_{name}").isNull() for name in source.required]
    objects = has_nul = F.lit(False)
    if source.kind == "json_lines":
        objects = _object_where_text(source)
        # Of all kinds only this one has ways to write a NUL that is none in the line, and all begin with a backslash.
        nul = [F.col(f"raw_{name}").contains("\u0000") for name in source.columns if COLUMNS[name]]
        has_nul = F.col("text").contains("\\") & _any([F.coalesce(check, F.lit(False)) for check in nul])
    reason = (
        F.when(F.col("unreadable").isNotNull(), F.col("unreadable"))
        .when(F.col("is_header"), HEADER)
        .when(F.col("broken").isNotNull(), F.col("broken"))
        .when(has_nul, "nul_byte")
    )
    if source.drift.new_field == "quarantine":
        reason = reason.when(F.col("new_fields").isNotNull(), "new_field")
    if source.drift.missing_field == "quarantine":
        reason = reason.when(F.col("missing_fields").isNotNull(), "missing_field")
    reason = reason.when(_any(required), "missing_field")
    if not retyped_is_null:
        reason = reason.when(objects, "retyped_field")
    for name in source.columns:
        # A time that cannot be read is never a NULL in silence: such an event has no place in a day.
        if name == "ts" or not retyped_is_null:
            reason = reason.when(bad[name], "bad_timestamp" if name == "ts" else f"bad_{name}")
    lines = lines.withColumn("reason", reason)

    messages = [F.expr("transform(new_fields, n -> concat('new field ', left(n, 100)))")]
    messages.append(F.expr("transform(missing_fields, n -> concat('missing field ', n))"))
    if retyped_is_null:
        retyped = [F.when(bad[n], F.lit(f"retyped field {n}")) for n in source.columns if n != "ts"]
        messages.append(F.array_compact(F.array(*retyped)))
    empty = F.array().cast("array<string>")
    told = F.concat(*(F.coalesce(message, empty) for message in messages))
    valid = F.col("reason").isNull()
    lines = lines.withColumn("drift", F.when(F.size(told) > 0, told))
    good = {
        f"read_{name}": F.when(valid & ~F.coalesce(bad[name], F.lit(False)), F.col(f"read_{name}"))
        for name in source.columns
    }
    return lines.withColumns(good)


def _any(conditions: Sequence[Column]) -> Column:
    return reduce(lambda left, right: left | right, conditions, F.lit(False))


def _either(first: Optional[Column], second: Column) -> Column:
    return second if first is None else F.coalesce(first, second)


def _text(rule: FieldRule, place: Dict[str, int], quote: str) -> Column:
    found = [_unquoted(F.get("record", F.lit(place[name])), quote) for name in rule.sources]
    texts = [known(text) for text in found]
    if rule.joint is not None and len(texts) > 1:
        # Half a time is none.
        whole = reduce(lambda left, right: left & right, (text.isNotNull() for text in texts))
        text = F.when(whole, F.concat_ws(rule.joint, *texts))
    else:
        text = F.coalesce(*texts) if len(texts) > 1 else texts[0]
    text = _decoded(text, rule.decode)
    if rule.values:
        pairs = [F.lit(item) for pair in rule.values.items() for item in pair]
        text = F.coalesce(F.try_element_at(F.create_map(*pairs), text), text)
    return text


def _unquoted(text: Column, quote: str) -> Column:
    if not quote:
        return text
    inside = F.regexp_replace(F.regexp_replace(text, r'^"|"\z', ""), '""', '"')
    return F.when(text.startswith(quote), inside).otherwise(text)


def _decoded(text: Column, decode: str) -> Column:
    if decode == "backslash":
        return unescape(text)
    if decode == "host_port":
        return F.regexp_replace(text, r"^\[?(.*?)\]?:\d{1,5}\z", "$1")
    if decode in ("undouble", "percent"):
        single = F.when(text.contains("%25"), F.regexp_replace(text, "%25([0-9A-Fa-f]{2})", "%$1")).otherwise(
            text
        )
        return single if decode == "undouble" else _percent_decoded(single)
    return text


def _percent_decoded(text: Column) -> Column:
    """Decoded once; as it stands where the escapes are broken, are no UTF-8 or would give a NUL."""
    # url_decode is that of forms, where a plus is a space.
    decodable = text.rlike(r"^(?:[^%]|%(?!00)[0-9A-Fa-f]{2})*+\z")
    decoded = F.when(decodable, F.url_decode(F.replace(text, F.lit("+"), F.lit("%2B"))))
    sound = decoded.isNotNull() & ~decoded.contains("\ufffd")
    return F.when(text.contains("%") & sound, decoded).otherwise(text)


def _typed(name: str) -> Column:
    raw = F.col(f"raw_{name}")
    if name == "status":
        return F.when(raw.rlike(r"^\d{3}\z"), raw).cast("smallint")
    if name == "bytes":
        return F.when(raw.rlike(r"^\d+\z"), F.expr("try_cast(raw_bytes AS BIGINT)"))
    return raw


def _misfit(name: str, source: LogSource) -> Column:
    """Whether there is something that the column cannot take."""
    raw, width = F.col(f"raw_{name}"), COLUMNS[name]
    if width is None:
        return raw.isNotNull() & F.col(f"read_{name}").isNull()
    return F.coalesce(F.octet_length(raw) > width, F.lit(False))


def _object_where_text(source: LogSource) -> Column:
    """Whether a text or number is an object or a list in this record: the reader gives these as their JSON."""
    conditions = []
    for place, name in enumerate(_wanted(source)):
        value = F.get("record", F.lit(place))
        key = re.escape(name.rsplit(".", 1)[-1])
        # NULL would not keep the second condition, which is dear, from being asked.
        may_be = F.coalesce(value.startswith("[") | value.startswith("{"), F.lit(False))
        conditions.append(may_be & F.col("text").rlike(rf'"{key}"\s*+:\s*+[\[{{]'))
    return F.coalesce(_any(conditions), F.lit(False))


def _with_time(lines: DataFrame, source: LogSource) -> DataFrame:
    """Add ``read_ts``, the TIMESTAMP of ``raw_ts``; NULL where there is none in the source's format."""
    raw, form = F.col("raw_ts"), source.time_format
    if form in _EPOCH_UNITS:
        lines = lines.withColumn("amount", F.when(raw.rlike(_EPOCH), raw))
        amount = F.expr("try_cast(amount AS DECIMAL(38, 9))")
        micros = F.floor(amount * F.lit(_EPOCH_UNITS[form])).cast("decimal(38, 0)")
        # From 1970 to 2999, so that milliseconds that are taken for seconds do not pass.
        sane = F.when(micros < F.lit(32_503_680_000_000_000), micros.cast("bigint"))
        return lines.withColumn("read_ts", F.timestamp_micros(sane))
    if form == "iso8601":
        # The shape is checked first: the cast alone takes "2026" for a time. It knows no small t and z, and no comma.
        lines = lines.withColumn("iso", F.when(raw.rlike(_ISO), F.translate(raw, "tz,", "TZ.")))
        moment, has_offset = F.expr("try_cast(iso AS TIMESTAMP)"), raw.rlike(_ZONED)
    else:
        time = compile_time_format(form)
        iso = F.when(raw.rlike(time.expression), F.regexp_replace(raw, time.expression, time.iso))
        lines = lines.withColumn("iso", iso)
        moment = F.expr(iso_time("iso") if time.month_name else "try_cast(iso AS TIMESTAMP)")
        has_offset = F.lit(time.zoned)
    local = F.lit(None) if source.time_zone is None else F.to_utc_timestamp(moment, source.time_zone)
    return lines.withColumn("read_ts", F.when(has_offset, moment).otherwise(local).cast("timestamp"))
