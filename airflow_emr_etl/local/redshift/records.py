"""Results of statements in the Data API's shape."""

from __future__ import annotations

import base64
import csv
import io
from dataclasses import dataclass, field
from typing import Any

import psycopg

_INTEGERS = {20: "int8", 21: "int2", 23: "int4", 26: "oid"}
_FLOATS = {700: "float4", 701: "float8"}
_NAMES = {
    **_INTEGERS,
    **_FLOATS,
    16: "bool",
    17: "varbyte",
    19: "name",
    25: "text",
    705: "unknown",
    1042: "bpchar",
    1043: "varchar",
    1082: "date",
    1083: "time",
    1114: "timestamp",
    1184: "timestamptz",
    1186: "interval",
    1266: "timetz",
    1700: "numeric",
    3802: "super",
}
_TEXT_KINDS = frozenset({19, 25, 705, 1042, 1043})
_PAGE_BYTES = 1_000_000

Record = list[dict[str, Any]]


@dataclass
class Outcome:
    """What a statement answered: rows of a result set, or how many rows it changed (-1: not applicable)."""

    rows: int = -1
    columns: list[dict[str, Any]] | None = None
    records: list[Record] = field(default_factory=list)
    size: int = -1

    @property
    def has_result(self) -> bool:
        return self.columns is not None


def read_outcome(cursor: psycopg.Cursor[Any]) -> Outcome:
    result = cursor.pgresult
    if cursor.description is None or result is None:
        return Outcome(rows=cursor.rowcount)
    columns = [_column(result, i) for i in range(result.nfields)]
    kinds = [result.ftype(i) for i in range(result.nfields)]
    records: list[Record] = []
    size = 0
    for row in range(result.ntuples):
        record: Record = []
        for i, kind in enumerate(kinds):
            value = result.get_value(row, i)
            size += len(value) if value is not None else 0
            record.append(_field(value, kind))
        records.append(record)
    return Outcome(rows=result.ntuples, columns=columns, records=records, size=size)


def _field(value: bytes | None, kind: int) -> dict[str, Any]:
    if value is None:
        return {"isNull": True}
    text = value.decode()
    if kind in _INTEGERS:
        return {"longValue": int(text)}
    if kind in _FLOATS:
        return {"doubleValue": float(text)}
    if kind == 16:
        return {"booleanValue": text == "t"}
    if kind == 17:
        return {"blobValue": base64.b64encode(bytes.fromhex(text.removeprefix("\\x"))).decode()}
    return {"stringValue": text}


def _column(result: Any, i: int) -> dict[str, Any]:
    name = (result.fname(i) or b"?column?").decode()
    kind, modifier = result.ftype(i), result.fmod(i)
    precision = scale = 0
    if kind == 1700 and modifier >= 4:
        precision, scale = (modifier - 4) >> 16, (modifier - 4) & 0x7FF
    elif kind in (1042, 1043):
        precision = modifier - 4 if modifier >= 4 else 65535
    elif kind in _INTEGERS:
        precision = {20: 19, 21: 5, 23: 10}.get(kind, 10)
    return {
        "name": name,
        "label": name,
        "typeName": _NAMES.get(kind, "varchar"),
        "precision": precision,
        "scale": scale,
        "length": 0,
        "nullable": 1,
        "isSigned": kind in _INTEGERS or kind in _FLOATS or kind == 1700,
        "isCaseSensitive": kind in _TEXT_KINDS,
        "isCurrency": False,
        "schemaName": "",
        "tableName": "",
    }


def pages(records: list[Record]) -> list[list[Record]]:
    """The records in pages of about a megabyte; one empty page where there are none."""
    found: list[list[Record]] = [[]]
    size = 0
    for record in records:
        size += sum(len(str(value)) for entry in record for value in entry.values())
        if size > _PAGE_BYTES and found[-1]:
            found.append([])
            size = 0
        found[-1].append(record)
    return found


def as_csv(columns: list[dict[str, Any]], records: list[Record], *, header: bool) -> str:
    """A page of a result as GetStatementResultV2 has it."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\r\n")
    if header:
        writer.writerow([column["name"] for column in columns])
    for record in records:
        writer.writerow([_plain(entry) for entry in record])
    return sink.getvalue()


def _plain(entry: dict[str, Any]) -> str:
    if entry.get("isNull"):
        return ""
    value = next(iter(entry.values()))
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
