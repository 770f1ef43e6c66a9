"""COPY carried out: the files of a manifest or a prefix, checked as Redshift checks them, into a table.

Parquet goes by columns: checked by Arrow, printed as CSV by Arrow, read by Postgres; no value becomes a Python object.
Text formats go by rows.
"""

from __future__ import annotations

import bz2
import csv
import datetime as dt
import gzip
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from psycopg import sql

from airflow_emr_etl.local.redshift.copy_command import CopyCommand, Format
from airflow_emr_etl.local.redshift.errors import LoadErrorRow, RedshiftError, from_postgres
from airflow_emr_etl.local.redshift.objects import Objects

_BATCH_ROWS = 32_768
_TEXT_CHUNK_ROWS = 5_000


@dataclass(frozen=True)
class TableColumn:
    name: str
    type: str
    """As Postgres prints it, without a length: ``character varying``, ``smallint`` …"""
    not_null: bool
    max_bytes: int | None
    precision: int | None
    scale: int | None

    @property
    def is_text(self) -> bool:
        return self.type in ("character varying", "character", "text")


@dataclass(frozen=True)
class SourceFile:
    url: str
    path: Path


class _RowError(Exception):
    def __init__(self, line: int, message: str, code: int, column: TableColumn | None = None) -> None:
        super().__init__(message)
        self.line, self.message, self.code, self.column = line, message, code, column


def run_copy(connection: psycopg.Connection[Any], objects: Objects, command: CopyCommand) -> int:
    """Load the files and return the number of rows.

    Raises RedshiftError, with the row to log where one row is wrong.
    """
    columns = _target_columns(connection, command)
    total = 0
    for file in source_files(objects, command):
        try:
            if command.format is Format.PARQUET:
                total += _copy_parquet(connection, command, columns, file)
            else:
                total += _copy_text(connection, command, columns, file)
        except _RowError as error:
            raise _failed(command, file, error) from error
        except psycopg.Error as error:
            raise _failed(command, file, _from_copy_error(error, columns)) from error
    return total


def _failed(command: CopyCommand, file: SourceFile, error: _RowError) -> RedshiftError:
    table = ".".join(command.table)
    column = error.column
    where = f"{file.url}" + (f", line {error.line}" if error.line else "")
    where += f", column {column.name}" if column else ""
    return RedshiftError(
        f"Load into table '{table}' failed. Check 'sys_load_error_detail' system table for details. "
        f"{error.message} ({where})",
        "XX000",
        LoadErrorRow(
            table=table,
            file=file.url,
            line=error.line,
            message=error.message,
            code=error.code,
            column=column.name if column else None,
            column_type=column.type if column else None,
            column_length=str(column.max_bytes) if column and column.max_bytes else None,
        ),
    )


def _from_copy_error(error: psycopg.Error, columns: list[TableColumn]) -> _RowError:
    translated = from_postgres(error)
    found = re.search(r"COPY .*?, line (\d+)(?:, column ([^:]+))?", error.diag.context or "")
    line = int(found.group(1)) if found else 0
    name = (found.group(2) if found else None) or error.diag.column_name
    column = next((c for c in columns if c.name == name), None)
    code = {"23502": 1213, "22001": 1204, "22003": 1216, "22007": 1205, "22008": 1205}.get(
        translated.state, 1207
    )
    return _RowError(line, translated.message, code, column)


# -- the table ----------------------------------------------------------------------------------------------------

_COLUMNS_SQL = """
SELECT a.attname, format_type(a.atttypid, NULL), a.attnotnull, a.atttypmod,
    (SELECT substring(c.conname FROM 'redshift_bytes_([0-9]+)_')::int FROM pg_constraint c
     WHERE c.conrelid = a.attrelid AND a.attnum = ANY (c.conkey) AND c.conname LIKE 'redshift\\_bytes\\_%%' LIMIT 1)
FROM pg_attribute a
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""


def _target_columns(connection: psycopg.Connection[Any], command: CopyCommand) -> list[TableColumn]:
    rendered = ".".join('"' + part.replace('"', '""') + '"' for part in command.table)
    rows = connection.execute(_COLUMNS_SQL, (rendered,)).fetchall()
    if not rows:
        raise RedshiftError(f'relation "{".".join(command.table)}" does not exist', "42P01")
    found = {row[0]: _table_column(*row) for row in rows}
    if not command.columns:
        return list(found.values())
    for name in command.columns:
        if name not in found:
            raise RedshiftError(
                f'column "{name}" of relation "{".".join(command.table)}" does not exist', "42703"
            )
    return [found[name] for name in command.columns]


def _table_column(name: str, kind: str, not_null: bool, modifier: int, max_bytes: int | None) -> TableColumn:
    precision = scale = None
    if kind == "numeric" and modifier >= 0:
        precision, scale = (modifier - 4) >> 16, (modifier - 4) & 0x7FF
    if kind in ("character varying", "character") and max_bytes is None and modifier > 4:
        max_bytes = modifier - 4
    return TableColumn(name, kind, not_null, max_bytes, precision, scale)


# -- the files ----------------------------------------------------------------------------------------------------


def source_files(objects: Objects, command: CopyCommand) -> list[SourceFile]:
    if not command.manifest:
        found = [SourceFile(url, path) for url, path in objects.list(command.source)]
        if not found:
            raise RedshiftError(f"The specified S3 prefix '{command.source}' does not exist", "XX000")
        return found
    return list(_manifest_files(objects, command))


def _manifest_files(objects: Objects, command: CopyCommand) -> Iterator[SourceFile]:
    path = objects.path(command.source)
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RedshiftError(
            f"Problem reading manifest file - S3ServiceException: {command.source} does not exist"
        ) from error
    except (OSError, ValueError) as error:
        raise RedshiftError(
            f"Error parsing the manifest {command.source}: it is not JSON ({error})"
        ) from error
    entries = manifest.get("entries") if isinstance(manifest, dict) else None
    if not isinstance(entries, list):
        raise RedshiftError(f'Error parsing the manifest {command.source}: it has no list "entries"')
    if not entries:
        raise RedshiftError(f"The manifest {command.source} lists no file; COPY has nothing to load")
    for entry in entries:
        file = _manifest_file(objects, command, entry)
        if file is not None:
            yield file


def _manifest_file(objects: Objects, command: CopyCommand, entry: Any) -> SourceFile | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("url"), str):
        raise RedshiftError(f"Error parsing the manifest {command.source}: an entry has no url: {entry!r}")
    url = entry["url"]
    if not url.startswith("s3://"):
        raise RedshiftError(f"Error parsing the manifest {command.source}: {url!r} is not an s3:// URL")
    path = objects.path(url)
    if not path.is_file():
        if entry.get("mandatory"):
            raise RedshiftError(
                f"The manifest's mandatory file {url} does not exist (S3ServiceException: NoSuchKey)"
            )
        return None
    meta = entry.get("meta")
    length = meta.get("content_length") if isinstance(meta, dict) else None
    if command.format is Format.PARQUET and not isinstance(length, int):
        raise RedshiftError(
            f"The manifest {command.source} has no meta.content_length for {url}; COPY from PARQUET requires it"
        )
    actual = path.stat().st_size
    if isinstance(length, int) and length != actual:
        raise RedshiftError(
            f"The manifest {command.source} says that {url} has {length} bytes (content_length); it has {actual}"
        )
    return SourceFile(url, path)


# -- Parquet ------------------------------------------------------------------------------------------------------

_ARROW_TYPES: dict[str, Callable[[pa.DataType], bool]] = {
    "smallint": pa.types.is_int16,
    "integer": pa.types.is_int32,
    "bigint": pa.types.is_int64,
    "boolean": pa.types.is_boolean,
    "real": pa.types.is_float32,
    "double precision": pa.types.is_float64,
    "date": pa.types.is_date32,
    "timestamp without time zone": pa.types.is_timestamp,
    "timestamp with time zone": pa.types.is_timestamp,
}


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _fits(column: TableColumn, kind: pa.DataType) -> bool:
    if column.is_text or column.type == "jsonb":
        return _is_string(kind)
    if column.type == "numeric":
        return bool(
            pa.types.is_decimal128(kind) and kind.precision == column.precision and kind.scale == column.scale
        )
    check = _ARROW_TYPES.get(column.type)
    return check is not None and bool(check(kind))


def _copy_parquet(
    connection: psycopg.Connection[Any], command: CopyCommand, columns: list[TableColumn], file: SourceFile
) -> int:
    try:
        parquet = pq.ParquetFile(file.path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise RedshiftError(f"Spectrum Scan Error. {file.url} is not a Parquet file: {error}") from error
    with parquet:
        _check_schema(parquet.schema_arrow, columns, file)
        rows = 0
        with connection.cursor() as cursor, cursor.copy(_copy_statement(command, columns)) as stream:
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
                stream.write(_as_csv(batch, columns, rows))
                rows += batch.num_rows
        return rows


def _check_schema(schema: pa.Schema, columns: list[TableColumn], file: SourceFile) -> None:
    if len(schema) != len(columns):
        raise RedshiftError(
            f"Spectrum Scan Error. Unmatched number of columns between table and file. Table columns: {len(columns)} "
            f"({', '.join(c.name for c in columns)}), Data columns: {len(schema)} ({', '.join(schema.names)}), "
            f"File name: {file.url}"
        )
    for column, field in zip(columns, schema, strict=True):
        if not _fits(column, field.type):
            wanted = column.type
            if column.precision is not None:
                wanted += f"({column.precision}, {column.scale})"
            raise RedshiftError(
                f"Spectrum Scan Error. File '{file.url}' has an incompatible Parquet schema for column "
                f"'{column.name}'. Column type: {wanted.upper()}, Parquet schema: {field.name} {field.type}"
            )


def _as_csv(batch: pa.RecordBatch, columns: list[TableColumn], before: int) -> memoryview:
    arrays = []
    for column, array in zip(columns, batch.columns, strict=True):
        _check_values(column, array, before)
        if pa.types.is_decimal(array.type):
            array = array.cast(pa.string())
        elif pa.types.is_timestamp(array.type):
            # Spark writes instants in UTC; a TIMESTAMP of Redshift holds the UTC wall clock.
            array = array.cast(pa.timestamp("us", array.type.tz), safe=False).cast(pa.timestamp("us"))
        arrays.append(array)
    sink = pa.BufferOutputStream()
    names = [str(i) for i in range(len(arrays))]
    # Strings are always quoted and a null never is, which is how Postgres tells '' from NULL.
    pacsv.write_csv(
        pa.RecordBatch.from_arrays(arrays, names=names), sink, pacsv.WriteOptions(include_header=False)
    )
    return memoryview(sink.getvalue())


def _check_values(column: TableColumn, array: pa.Array, before: int) -> None:
    if column.not_null and array.null_count:
        line = before + int(pc.index(array.is_null(), True).as_py()) + 1
        raise _RowError(line, f"Missing data for not-null field {column.name}", 1213, column)
    if column.is_text and column.max_bytes is not None and len(array) > array.null_count:
        lengths = pc.binary_length(array)
        longest = pc.max(lengths).as_py()
        if longest is not None and longest > column.max_bytes:
            line = before + int(pc.index(pc.greater(lengths, column.max_bytes), True).as_py()) + 1
            raise _RowError(
                line,
                f"String length exceeds DDL length: {longest} bytes into {column.name} VARCHAR({column.max_bytes})",
                1204,
                column,
            )


def _copy_statement(command: CopyCommand, columns: list[TableColumn]) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv, NULL '', ENCODING 'UTF8')").format(
        sql.Identifier(*command.table), sql.SQL(", ").join(sql.Identifier(c.name) for c in columns)
    )


# -- text ---------------------------------------------------------------------------------------------------------


def _copy_text(
    connection: psycopg.Connection[Any], command: CopyCommand, columns: list[TableColumn], file: SourceFile
) -> int:
    rows = 0
    with connection.cursor() as cursor, cursor.copy(_copy_statement(command, columns)) as stream:
        chunk: list[str] = []
        for line, values in _records(command, columns, file):
            chunk.append(_csv_line(command, columns, values, line))
            rows += 1
            if len(chunk) >= _TEXT_CHUNK_ROWS:
                stream.write("".join(chunk))
                chunk.clear()
        stream.write("".join(chunk))
    return rows


def _text(command: CopyCommand, file: SourceFile) -> str:
    data = file.path.read_bytes()
    try:
        if command.compression == "GZIP":
            data = gzip.decompress(data)
        elif command.compression == "BZIP2":
            data = bz2.decompress(data)
        elif command.compression == "ZSTD":
            with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
                data = stream.read()
    except (OSError, EOFError, ValueError, pa.ArrowInvalid) as error:
        raise _RowError(0, f"The file is not valid {command.compression}: {error}", 1203) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _RowError(line, "String contains invalid or unsupported UTF8 codepoints", 1220) from error


def _records(
    command: CopyCommand, columns: list[TableColumn], file: SourceFile
) -> Iterator[tuple[int, list[str | None]]]:
    text = _text(command, file)
    if command.format is Format.JSON:
        yield from _json_records(text, columns)
        return
    rows: Iterable[tuple[int, list[str]]]
    if command.format is Format.CSV:
        rows = _csv_rows(text, command)
    else:
        delimiter = command.delimiter or "|"
        rows = ((n, line.split(delimiter)) for n, line in enumerate(text.splitlines(), 1) if line)
    for line, values in rows:
        if line <= command.skip_lines:
            continue
        if len(values) > len(columns):
            raise _RowError(
                line, f"Extra column(s) found: {len(values)} in the file, {len(columns)} in the table", 1202
            )
        if len(values) < len(columns):
            raise _RowError(
                line,
                f"Delimiter not found: {len(values)} columns in the file, {len(columns)} in the table",
                1214,
            )
        yield line, [None if value == command.null_as else value for value in values]


def _csv_rows(text: str, command: CopyCommand) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=command.delimiter or ",",
        quotechar=command.quote,
        strict=True,
    )
    try:
        for values in reader:
            if values:
                yield reader.line_num, values
    except csv.Error as error:
        raise _RowError(reader.line_num, f"Invalid quote formatting for CSV: {error}", 1212) from error


def _json_records(text: str, columns: list[TableColumn]) -> Iterator[tuple[int, list[str | None]]]:
    decoder = json.JSONDecoder(parse_float=str, parse_int=str)
    at = 0
    spaces = re.compile(r"[\s,]*")
    while True:
        skipped = spaces.match(text, at)
        at = skipped.end() if skipped else at
        if at >= len(text):
            return
        line = text.count("\n", 0, at) + 1 if at < 1_000_000 else 0
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as error:
            raise _RowError(line, f"Invalid JSON: {error}", 1224) from error
        if not isinstance(value, dict):
            raise _RowError(line, "COPY from JSON reads objects, one for each row", 1224)
        yield line, [_json_text(value.get(column.name)) for column in columns]


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value)


def _csv_line(command: CopyCommand, columns: list[TableColumn], values: list[str | None], line: int) -> str:
    pieces = []
    for column, value in zip(columns, values, strict=True):
        prepared = _prepare(command, column, value, line)
        pieces.append("" if prepared is None else '"' + prepared.replace('"', '""') + '"')
    return ",".join(pieces) + "\n"


def _prepare(command: CopyCommand, column: TableColumn, value: str | None, line: int) -> str | None:
    if value is not None and column.is_text:
        if command.trim_blanks:
            value = value.rstrip(" ")
        if (command.empty_as_null and not value) or (command.blanks_as_null and not value.strip()):
            value = None
        elif column.max_bytes is not None and len(value.encode()) > column.max_bytes:
            if not command.truncate_columns:
                raise _RowError(line, "String length exceeds DDL length", 1204, column)
            value = value.encode()[: column.max_bytes].decode(errors="ignore")
    elif value is not None and not value.strip():
        value = None
    elif (
        value is not None
        and column.type.startswith("timestamp")
        and command.time_format not in (None, "auto")
    ):
        value = _epoch(value, 1000 if command.time_format == "epochmillisecs" else 1, line, column)
    if value is None and column.not_null:
        raise _RowError(line, f"Missing data for not-null field {column.name}", 1213, column)
    return value


def _epoch(value: str, per_second: int, line: int, column: TableColumn) -> str:
    try:
        return (
            dt.datetime.fromtimestamp(float(value) / per_second, dt.UTC).replace(tzinfo=None).isoformat(" ")
        )
    except (ValueError, OverflowError, OSError) as error:
        raise _RowError(line, f"Invalid timestamp {value!r}", 1206, column) from error
