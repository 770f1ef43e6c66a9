r"""Raw lines to columns, by Spark's own expressions only.

A line is matched once: the expression replaces it by its groups, joined by newlines (which no line contains),
and ``split`` takes them apart. ``regexp_extract`` would match again for every field.
"""

from __future__ import annotations

from typing import Dict, List, Tuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from airflow_emr_etl.models import access_log

FIELDS = (
    "ts host method path query protocol status bytes referrer user_agent".split()  # noqa: SIM905 - reads as a row
)
"""What :func:`parse_lines` reads out of a line."""

MAX_LINE_BYTES = 65535
"""The widest VARCHAR of Redshift: no field of a shorter line can be too long for its column."""

MAX_HOST_BYTES = 255


def iso_time(text: str) -> str:
    """SQL for the TIMESTAMP of an expression that gives ``2026-Jan-05T…``; NULL for what no calendar has."""
    month = f"locate(substring({text}, 6, 3), 'JanFebMarAprMayJunJulAugSepOctNovDec')"
    number = f"substring('01 02 03 04 05 06 07 08 09 10 11 12', {month}, 2)"
    iso = f"concat(substring({text}, 1, 5), {number}, substring({text}, 9))"
    return f"CASE WHEN {month} > 0 THEN try_cast({iso} AS TIMESTAMP) END"


def parse_lines(lines: DataFrame, max_line_bytes: int) -> DataFrame:
    """Add ``reason`` (NULL for a valid line) and the columns of :data:`FIELDS` (NULL where not valid).

    ``lines`` has ``value``, the bytes of a line as the text source gives them.

    Nearly all lines are plain: one expression reads them and vouches for all that would have to be checked. The
    others go through the checks one by one, where each sees only lines that passed the ones before it.
    """
    value = F.col("value")
    kept = [name for name in lines.columns if name not in _WORKING]
    lines = lines.withColumn(
        "plain",
        F.when(F.octet_length(value) <= max_line_bytes, _groups(value, access_log.PLAIN_LINE, 10, _PLAIN)),
    )
    # Spark's cast is several times as fast as its parser with a pattern; what it refuses, the checks will judge.
    lines = lines.withColumn("plain_ts", F.when(F.size("plain") == len(_PLAIN_PARTS), F.expr(_PLAIN_TIME)))
    lines = lines.withColumn("doubtful", F.when(F.col("plain_ts").isNull(), value))
    lines = _parse_doubtful(lines, max_line_bytes)
    plain = {name: F.get("plain", F.lit(index)) for index, name in enumerate(_PLAIN_PARTS)}
    query = F.when(plain["query"] != "", F.expr(f"substring(get(plain, {_PLAIN_PARTS.index('query')}), 2)"))
    read = {
        **plain,
        "ts": F.col("plain_ts"),
        "query": query,
        "protocol": plain["protocol"],
        "status": plain["status"].cast("smallint"),
        # "-" is no number, and ANSI's cast would fail on it.
        "bytes": F.expr(f"try_cast(get(plain, {_PLAIN_PARTS.index('bytes')}) AS BIGINT)"),
        "referrer": known(plain["referrer"]),
        "user_agent": known(plain["user_agent"]),
    }
    is_plain = F.col("plain_ts").isNotNull()
    return lines.select(
        *kept,
        F.col("reason"),
        *(F.when(is_plain, read[name]).otherwise(F.col(f"doubtful_{name}")).alias(name) for name in FIELDS),
    )


def _parse_doubtful(lines: DataFrame, max_line_bytes: int) -> DataFrame:
    """Add ``reason`` and ``doubtful_<field>`` for the lines in ``doubtful``; all NULL where that is NULL."""
    value = F.col("doubtful")
    lines = lines.withColumn("unreadable", unreadable(value, max_line_bytes))
    width = len(access_log.LINE_GROUPS)
    lines = lines.withColumn(
        "strict",
        F.when(value.isNotNull() & F.col("unreadable").isNull(), _groups(value, access_log.LINE, width)),
    )
    lines = lines.withColumn(
        "parts",
        F.when(F.size("strict") == 1, _groups(value, access_log.LOOSE_LINE, width)).otherwise(
            F.col("strict")
        ),
    )
    part = {name: F.col("parts")[index] for index, name in enumerate(access_log.LINE_GROUPS)}
    matched = F.size("parts") == width

    lines = lines.withColumn(
        "ts",
        # The shape is checked first: the parser alone accepts more than the log formats have.
        F.when(
            matched & part["time"].rlike(access_log.TIME),
            F.expr(
                f"try_to_timestamp(parts[{access_log.LINE_GROUPS.index('time')}], 'dd/MMM/yyyy:HH:mm:ss Z')"
            ),
        ),
    )
    sent = access_log.LINE_GROUPS.index("bytes")
    lines = lines.withColumn(
        "sent", F.when(matched & part["bytes"].rlike(r"^\d+\z"), F.expr(f"try_cast(parts[{sent}] AS BIGINT)"))
    )
    lines = lines.withColumn(
        "reason",
        F.when(value.isNull(), None)
        .when(F.col("unreadable").isNotNull(), F.col("unreadable"))
        .when(~matched & value.rlike(access_log.TRUNCATED), "truncated")
        .when(~matched, "malformed")
        .when(F.col("ts").isNull(), "bad_timestamp")
        .when(~part["status"].rlike(r"^\d{3}\z"), "bad_status")
        .when((part["bytes"] != "-") & F.col("sent").isNull(), "bad_bytes")
        .when(F.octet_length(part["host"]) > MAX_HOST_BYTES, "bad_host"),
    )
    valid = value.isNotNull() & F.col("reason").isNull()
    lines = lines.withColumn("request", F.when(valid, unescape(part["request"])))
    lines, request = split_request(lines, "request")
    columns = {
        "ts": F.when(valid, F.col("ts")),
        "host": F.when(valid, part["host"]),
        **request,
        "status": F.when(valid, part["status"]).cast("smallint"),
        "bytes": F.when(valid, F.col("sent")),
        "referrer": F.when(valid, known(unescape(part["referrer"]))),
        "user_agent": F.when(valid, known(unescape(part["user_agent"]))),
    }
    return lines.withColumns({f"doubtful_{name}": columns[name] for name in FIELDS})


def split_request(lines: DataFrame, column: str) -> Tuple[DataFrame, Dict[str, Column]]:
    """``lines`` with working columns, and the method, path, query and protocol of the request lines in ``column``."""
    lines = lines.withColumn("request_parts", _groups(F.col(column), access_log.REQUEST, 3, "$1$3\n$2$4\n$5"))
    well_formed = F.size("request_parts") == 3
    lines = lines.withColumn(
        "target",
        F.when(well_formed, F.regexp_replace(F.col("request_parts")[1], access_log.ABSOLUTE_URI, "")),
    )
    path = F.substring_index("target", "?", 1)
    return lines, {
        "method": F.when(well_formed, F.col("request_parts")[0]),
        # An empty path is the root (`GET http://host?q`); what is no request is kept whole.
        "path": F.when(well_formed, F.when(path == "", F.lit("/")).otherwise(path)).otherwise(
            known(F.col(column))
        ),
        "query": F.when(
            F.col("target").contains("?"),
            F.expr("substring(target, char_length(substring_index(target, '?', 1)) + 2)"),
        ),
        "protocol": F.when(well_formed, known(F.col("request_parts")[2])),
    }


def unreadable(value: Column, max_line_bytes: int) -> Column:
    """Why a line, whatever its format, is no text to read; NULL where it is."""
    return (
        F.when(F.octet_length(value) > max_line_bytes, "too_long")
        .when(value.rlike(r"^[ \t\r]*\z"), "empty_line")
        .when(value.contains("\u0000"), "nul_byte")
        # Java decodes what is not UTF-8 as U+FFFD, so plain ASCII needs no second look.
        .when(
            value.rlike(r"[^\x00-\x7F]")
            & ~F.decode(value.cast("binary"), "ISO-8859-1").rlike(access_log.UTF8),
            "not_utf8",
        )
    )


_WORKING = {*FIELDS, "reason"}

_PLAIN_PARTS = (
    "host ts method path query protocol status bytes referrer user_agent".split()  # noqa: SIM905 - reads as a row
)


def _plain_replacement() -> str:
    number = {name: f"${index}" for index, name in enumerate(access_log.PLAIN_LINE_GROUPS, start=1)}
    time = "{year}-{month}-{day}T{hour}{rest_of_time}{offset_hours}:{offset_minutes}"
    return "\n".join(time.format(**number) if name == "ts" else number[name] for name in _PLAIN_PARTS)


_PLAIN = _plain_replacement()
_PLAIN_TIME = iso_time(f"get(plain, {_PLAIN_PARTS.index('ts')})")


def _groups(text: Column, expression: str, count: int, replacement: str = "") -> Column:
    """The groups of a match of the whole ``text``, as an array; an array of one where it does not match."""
    groups: List[str] = [f"${number}" for number in range(1, count + 1)]
    return F.split(F.regexp_replace(text, expression, replacement or "\n".join(groups)), "\n", -1)


def unescape(text: Column) -> Column:
    r"""``\"`` and ``\\`` as servers write them; all other escapes (``\x16``, ``\t``) stay as they were logged."""
    return F.when(text.contains("\\"), F.regexp_replace(text, r'\\(["\\])', "$1")).otherwise(text)


def known(text: Column) -> Column:
    """NULL for the logs' way to say "nothing"."""
    return F.when(~text.isin("-", ""), text)
