"""Parquet files that a task writes itself, from tables in Arrow. Only where its machine has the folder."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, Collection, Iterable, Iterator, List, Optional, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

COMPRESSION = "snappy"
ROW_GROUP_ROWS = 1 << 19
"""At the most, some 50 MB: what is smaller is put together."""


class PartFiles:
    """Files in ``folder`` of at most ``most_rows`` rows each.

    They are hidden until who asked for them says with :func:`show` which of them count: a task may be run twice.
    ``plain`` names columns that are no dictionaries in the file.
    """

    def __init__(self, folder: str, most_rows: int, plain: Sequence[str]) -> None:
        self.folder, self.most_rows, self.plain = Path(folder), most_rows, plain

    def write(self, tables: Iterable[Any]) -> Iterator[str]:
        """Write ``tables``, which have one schema, and give the name of each file that is whole."""
        name, rows = "", 0
        self.folder.mkdir(parents=True, exist_ok=True)
        writer: Optional[Any] = None
        for table in _grouped(tables):
            begin = 0
            while begin < table.num_rows:
                if writer is None:
                    name, rows = f"part-{uuid.uuid4().hex}.parquet", 0
                    writer = self._writer(self.folder / f".{name}", table.schema)
                piece = table.slice(begin, self.most_rows - rows)
                writer.write_table(piece, ROW_GROUP_ROWS)
                begin += piece.num_rows
                rows += piece.num_rows
                if rows >= self.most_rows:
                    writer.close()
                    writer = None
                    yield name
        if writer is not None:
            writer.close()
            yield name

    def _writer(self, path: Path, schema: Any) -> Any:
        return pq.ParquetWriter(
            path,
            schema,
            compression=COMPRESSION,
            use_dictionary=[field.name for field in schema if field.name not in self.plain],
            # A reader is to find what Spark would have written, and not how it was held in memory.
            store_schema=False,
        )


def show(folder: str, names: Collection[str]) -> None:
    """Give these files their names, and delete what other attempts have left."""
    for path in Path(folder).glob(".part-*.parquet"):
        if path.name[1:] in names:
            path.rename(path.with_name(path.name[1:]))
        else:
            path.unlink()


def _grouped(tables: Iterable[Any]) -> Iterator[Any]:
    """``tables`` in tables of about as many rows as a row group has, all with the schema of the first."""
    waiting: List[Any] = []
    rows = 0
    schema = None
    for table in tables:
        schema = schema or table.schema
        waiting.append(_in_form(table, schema))
        rows += table.num_rows
        if rows >= ROW_GROUP_ROWS:
            yield pa.concat_tables(waiting).unify_dictionaries()
            waiting, rows = [], 0
    if rows:
        yield pa.concat_tables(waiting).unify_dictionaries()


def _in_form(table: Any, schema: Any) -> Any:
    """``table`` with the types of ``schema``: what is a dictionary in one table may be plain texts in another."""
    if table.schema.equals(schema):
        return table
    columns = []
    for field, column in zip(schema, table.columns):
        if pa.types.is_dictionary(field.type) and not pa.types.is_dictionary(column.type):
            column = column.cast(field.type.value_type).dictionary_encode()
        columns.append(column.cast(field.type))
    return pa.table(columns, schema)


def without_dictionaries(table: Any) -> Any:
    """``table`` with all texts as such: Spark knows no dictionaries."""
    plain = [
        pa.field(field.name, field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(plain))
