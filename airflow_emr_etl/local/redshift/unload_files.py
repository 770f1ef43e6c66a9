"""UNLOAD carried out: one file for the whole result, named as Redshift names the first of a slice."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import IO, Any, cast

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_emr_etl.local.redshift.copy_command import Format, UnloadCommand
from airflow_emr_etl.local.redshift.errors import RedshiftError
from airflow_emr_etl.local.redshift.objects import Objects
from airflow_emr_etl.local.redshift.scan import postgres_literal

_ARROW: dict[int, pa.DataType] = {
    16: pa.bool_(),
    21: pa.int16(),
    23: pa.int32(),
    20: pa.int64(),
    700: pa.float32(),
    701: pa.float64(),
    1082: pa.date32(),
    1114: pa.timestamp("us"),
    1184: pa.timestamp("us", "UTC"),
}
_FETCH_ROWS = 10_000


def run_unload(
    connection: psycopg.Connection[Any], objects: Objects, command: UnloadCommand, query: str
) -> int:
    """Write the result and return the number of rows."""
    existing = list(objects.list(command.target))
    if existing and command.clean_path:
        for _, path in existing:
            path.unlink()
    elif existing and not command.overwrite:
        raise RedshiftError(
            f"Specified unload destination on S3 is not empty: {command.target}. Use another prefix, remove the "
            "files, or say ALLOWOVERWRITE or CLEANPATH."
        )
    ending = ".parquet" if command.format is Format.PARQUET else ""
    ending = f".{command.extension}" if command.extension else ending + (".gz" if command.gzip else "")
    url = f"{command.target}0000_part_00{ending}"
    path = objects.path(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.unload")
    try:
        rows = (
            _parquet(connection, query, draft)
            if command.format is Format.PARQUET
            else _text(connection, command, query, draft)
        )
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    if command.manifest:
        entry = {"url": url, "meta": {"content_length": path.stat().st_size, "record_count": rows}}
        objects.path(f"{command.target}manifest").write_text(json.dumps({"entries": [entry]}))
    return rows


def _text(connection: psycopg.Connection[Any], command: UnloadCommand, query: str, path: Path) -> int:
    separator = command.delimiter or ("," if command.format is Format.CSV else "|")
    options = [f"DELIMITER {postgres_literal(separator)}", f"NULL {postgres_literal(command.null_as)}"]
    if command.format is Format.CSV or command.add_quotes or command.header:
        options += ["FORMAT csv", f"HEADER {'true' if command.header else 'false'}"]
    if command.add_quotes:
        options.append("FORCE_QUOTE *")
    statement = f"COPY ({query}) TO STDOUT ({', '.join(options)})"
    with _opened(path, compressed=command.gzip) as target, connection.cursor() as cursor:
        with cursor.copy(statement.encode()) as stream:
            for data in stream:
                target.write(data)
        return cursor.rowcount


def _opened(path: Path, *, compressed: bool) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "wb")) if compressed else path.open("wb")


def _parquet(connection: psycopg.Connection[Any], query: str, path: Path) -> int:
    rows = 0
    with connection.cursor(name="unload") as cursor:
        cursor.execute(query.encode())
        names = [column.name for column in cursor.description or ()]
        kinds = [_arrow_type(column) for column in cursor.description or ()]
        schema = pa.schema(list(zip(names, kinds, strict=True)))
        with pq.ParquetWriter(path, schema) as writer:
            while batch := cursor.fetchmany(_FETCH_ROWS):
                arrays = [
                    _array(values, kind) for values, kind in zip(zip(*batch, strict=True), kinds, strict=True)
                ]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                rows += len(batch)
    return rows


def _arrow_type(column: psycopg.Column) -> pa.DataType:
    if column.type_code == 1700:
        return pa.decimal128(min(column.precision or 38, 38), column.scale or 0)
    return _ARROW.get(column.type_code, pa.string())


def _array(values: tuple[Any, ...], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return pa.array([None if value is None else str(value) for value in values], kind)
    return pa.array(values, kind)
