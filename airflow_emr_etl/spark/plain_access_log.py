r"""Lines of Common and Combined Log Format that raise no question, to columns within Arrow.

What :func:`read` takes, ``models/access_log.py`` calls a plain line, and its columns are those that ``line_parser.py``
gives; all other lines, good or bad, are for that module. RE2 knows no lookahead, so a line that begins with
``vhost:port`` is left as well.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Tuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_emr_etl.models import access_log
from airflow_emr_etl.models.log_source import COLUMNS
from airflow_emr_etl.spark.arrow_text import flags, known, width_fits


def _expression() -> str:
    """PLAIN_LINE without what RE2 does not know, and without groups: RE2 is fast where it has to remember nothing."""
    behind_vhost = access_log.PLAIN_LINE.replace(r"(?:[!#-9;-\[\]-~]++:\d{1,5} (?!- ))?", "", 1)
    # Its quantifiers never have a choice, so it is all one whether they are possessive. A count is checked faster later
    # than in an automaton.
    greedy = re.sub(r"(?<!\\)([*+?}])\+", r"\1", behind_vhost).replace("{1,255}", "+").replace("{0,31}", "*")
    return re.sub(r"(?<!\\)\((?!\?)", "(?:", greedy).replace(r"\z", r"\n$")


EXPRESSION = _expression()
"""For a line with its line feed."""


def read(lines: Any, max_line_bytes: int) -> Tuple[Any, Dict[str, Any]]:
    """Which of ``lines`` are plain, and the columns of these.

    Args:
        lines: a pyarrow array of strings, which need not be UTF-8, each with its line feed.
        max_line_bytes: without the line feed.

    Returns:
        a numpy array of booleans, one for each line, and the columns, one value for each plain line: ``ts`` (int64,
        microseconds since 1970), ``status`` (int16), ``bytes`` (int64), and texts as dictionaries.
    """
    matches = flags(pc.match_substring_regex(lines, EXPRESSION))
    matches &= pc.binary_length(lines).to_numpy() <= max_line_bytes + 1
    plain = np.flatnonzero(matches)
    # All that a line has stands before, within or after its quotes, and in a plain line these are never escaped.
    pieces = pc.split_pattern(lines.take(pa.array(plain)), '"')
    begins = np.asarray(pieces.offsets)
    counts = np.diff(begins)
    values = pieces.values

    def piece(number: int) -> Any:
        rows = begins[:-1] + number
        return values.take(pa.array(np.where(counts > number, rows, 0), mask=counts <= number))

    head, request, result = piece(0), piece(1), piece(2)
    times = pc.binary_slice(head.cast(pa.binary()), -28, -2).cast(pa.string()).dictionary_encode()
    ts, known_time = _times(times)
    host = _cell(head, 0)
    target = pc.split_pattern(_cell(request, 1), "?", max_splits=1)
    answer = pc.utf8_trim_whitespace(result)
    columns = {
        "host": host,
        "method": _cell(request, 0),
        "path": _part(target, 0),
        "query": _part(target, 1),
        "protocol": _cell(request, 2),
        "referrer": known(piece(3)),
        "user_agent": known(piece(5)),
    }
    columns = {name: text.dictionary_encode() for name, text in columns.items()}
    size = _cell(answer, 1)
    columns["ts"] = pa.array(ts)
    columns["status"] = _cell(answer, 0).cast(pa.int16())
    columns["bytes"] = pc.if_else(pc.equal(size, "-"), None, size).cast(pa.int64())
    good = known_time
    for name in ("host", "method"):
        good &= width_fits(columns[name], COLUMNS[name])
    if not good.all():
        matches[plain[~good]] = False
        columns = {name: column.filter(pa.array(good)) for name, column in columns.items()}
    return matches, columns


def _cell(texts: Any, number: int) -> Any:
    """What stands between the spaces of each text."""
    return _part(pc.split_pattern(texts, " "), number)


def _part(lists: Any, number: int) -> Any:
    """The element ``number`` of each list; NULL where a list is shorter."""
    begins = np.asarray(lists.offsets)
    short = np.diff(begins) <= number
    rows = begins[:-1] + number
    return lists.values.take(
        pa.array(np.where(short, 0, rows), mask=short) if short.any() else pa.array(rows)
    )


def _times(times: Any) -> Tuple[Any, Any]:
    """Microseconds, and whether the calendar has the time. A log has few times, each in many lines."""
    found = [access_log.read_time(text) for text in times.dictionary.to_pylist()]
    micros = np.array(
        [0 if time is None else round(time.timestamp()) * 1_000_000 for time in found], np.int64
    )
    known = np.array([time is not None for time in found], bool)
    of_line = np.asarray(times.indices)
    return micros[of_line], known[of_line]
