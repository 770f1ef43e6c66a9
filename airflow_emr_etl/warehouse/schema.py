"""DDL: everything is created only where it is absent, and changed only by adding columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from airflow_emr_etl.exceptions import SchemaMismatchError
from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.models.table import Column, RedshiftTable, normal_type
from airflow_emr_etl.warehouse import literals
from airflow_emr_etl.warehouse.history import FENCE, HISTORY, LOAD_DAYS
from airflow_emr_etl.warehouse.identifiers import column_list, qualified, quote

CONTROL_SCHEMA = "etl"


def lock_table(target: str) -> str:
    """The tiny table that loads of ``target`` take turns by; locking the target itself would block its readers."""
    return f"{CONTROL_SCHEMA}.lock_{target.replace('.', '__')}"


def create_table(table: RedshiftTable) -> str:
    columns = ", ".join(
        column_definition(column, required=column.name in table.keys) for column in table.columns
    )
    statement = f"CREATE TABLE IF NOT EXISTS {qualified(table.name)} ({columns})"
    if table.dist_key:
        statement += f" DISTSTYLE KEY DISTKEY ({quote(table.dist_key)})"
    else:
        statement += f" DISTSTYLE {table.dist_style}"
    if table.sort_keys:
        statement += f" SORTKEY ({column_list(table.sort_keys)})"
    return statement


def column_definition(column: Column, *, required: bool = False) -> str:
    return f"{quote(column.name)} {column.type}{'' if column.nullable and not required else ' NOT NULL'}"


def create_all(table: RedshiftTable) -> list[str]:
    """What a load of ``table`` needs: the schemas, the table, and the loader's own tables. Idempotent."""
    return [
        f"CREATE SCHEMA IF NOT EXISTS {quote(CONTROL_SCHEMA)}",
        f"CREATE SCHEMA IF NOT EXISTS {quote(table.schema_name)}",
        create_table(HISTORY),
        create_table(FENCE),
        create_table(LOAD_DAYS),
        create_lock(table.name),
        create_table(table),
    ]


def create_lock(target: str) -> str:
    return f"CREATE TABLE IF NOT EXISTS {qualified(lock_table(target))} (unused SMALLINT)"


def create_fence(target: str) -> list[str]:
    """The fence row of a target, for a transaction of its own: one that loads must not read before its lock."""
    name = literals.text(target)
    return [
        f"LOCK TABLE {qualified(lock_table(target))}",
        f"INSERT INTO {qualified(FENCE.name)} (target, epoch) SELECT {name}, 0 "  # noqa: S608 - quoted, and literals
        f"WHERE NOT EXISTS (SELECT 1 FROM {qualified(FENCE.name)} WHERE target = {name})",
    ]


def select_fence(target: str) -> str:
    """One row where ``create_fence`` has run for this target."""
    return f"SELECT epoch FROM {qualified(FENCE.name)} WHERE target = {literals.text(target)}"  # noqa: S608


def select_columns(tables: Iterable[str]) -> str:
    """The columns of these tables as the warehouse has them, for ``existing_columns``."""
    wanted = " OR ".join(
        f"(table_schema = {literals.text(schema)} AND table_name = {literals.text(name)})"
        for schema, _, name in (table.partition(".") for table in tables)
    )
    return (
        "SELECT table_schema, table_name, column_name, data_type, character_maximum_length, "  # noqa: S608
        "numeric_precision, numeric_scale, is_nullable "
        f"FROM svv_columns WHERE {wanted} ORDER BY ordinal_position"
    )


def existing_columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Column]]:
    """``{"analytics.events": [Column, …]}`` from the rows of ``select_columns``.

    A column of a type that is unknown here stays out.
    """
    found: dict[str, list[Column]] = {}
    for row in rows:
        kind = str(row["data_type"])
        if kind.lower() in ("character varying", "character"):
            kind = f"{kind}({row['character_maximum_length']})"
        elif kind.lower() == "numeric":
            kind = f"{kind}({row['numeric_precision']}, {row['numeric_scale']})"
        columns = found.setdefault(f"{row['table_schema']}.{row['table_name']}", [])
        try:
            normal = normal_type(kind)
        except ValueError:
            continue
        nullable = str(row["is_nullable"]).upper() in ("YES", "TRUE", "1")
        columns.append(Column(name=row["column_name"], type=normal, nullable=nullable))
    return found


def changes(table: RedshiftTable, existing: Sequence[Column]) -> list[str]:
    """What brings an existing table up to ``table``: added columns only, one statement each.

    Raises SchemaMismatchError for anything else, with both sides named.
    """
    there = {column.name: column for column in existing}
    statements = []
    for column in table.columns:
        found = there.get(column.name)
        if found is None:
            if not column.nullable or column.name in table.keys:
                raise SchemaMismatchError(
                    f"{table.name} in the warehouse has no column {column.name}, which must not be NULL, so it "
                    "cannot be added to the rows there. Add and fill it by hand.",
                    table=table.name,
                    column=column.name,
                )
            statements.append(f"ALTER TABLE {qualified(table.name)} ADD COLUMN {column_definition(column)}")
        elif found.type != column.type:
            raise SchemaMismatchError(
                f"{table.name}.{column.name} is {found.type} in the warehouse and {column.type} in this table's "
                "definition. Only new columns are added by themselves: change one of the two by hand.",
                table=table.name,
                column=column.name,
            )
    return statements


def check_manifest(table: RedshiftTable, manifest: Manifest) -> None:
    """Raise SchemaMismatchError unless the files' columns are the table's and then its staging columns, in order.

    COPY of Parquet goes by position.
    """
    try:
        offered = [(column.name.lower(), normal_type(column.type)) for column in manifest.columns]
    except ValueError as error:
        raise SchemaMismatchError(
            f"The manifest of {manifest.dataset} has a column that cannot be loaded. {error}"
        ) from error
    wanted = [(column.name, column.type) for column in (*table.columns, *table.staging_columns)]
    if offered == wanted:
        return
    differences = []
    for at in range(max(len(offered), len(wanted))):
        ours = " ".join(wanted[at]) if at < len(wanted) else "nothing"
        theirs = " ".join(offered[at]) if at < len(offered) else "nothing"
        if ours != theirs:
            differences.append(f"column {at + 1}: {theirs} in the manifest, {ours} in the table")
    raise SchemaMismatchError(
        f"The manifest of {manifest.dataset} does not fit {table.name}. {'; '.join(differences[:5])}"
        f"{f'; and {len(differences) - 5} more' if len(differences) > 5 else ''}.",
        table=table.name,
        dataset=manifest.dataset,
    )


def columns_of(manifest: Manifest) -> tuple[Column, ...]:
    """The manifest's columns as a table's."""
    try:
        return tuple(Column(name=column.name, type=column.type) for column in manifest.columns)
    except ValueError as error:
        raise SchemaMismatchError(
            f"The manifest of {manifest.dataset} has a column that cannot be loaded. {error}"
        ) from error
