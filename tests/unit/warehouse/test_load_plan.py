"""The transaction, the DDL and the history as text and as decisions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from airflow_emr_etl.exceptions import ConfigurationError, ManifestError, SchemaMismatchError
from airflow_emr_etl.models.manifest import Accounting, Column, Manifest, ManifestEntry
from airflow_emr_etl.models.table import RedshiftTable, Restatement
from airflow_emr_etl.warehouse import load_plan, schema
from airflow_emr_etl.warehouse.clickstream import EVENTS, TABLES
from airflow_emr_etl.warehouse.history import Load, load_id

ROLE = "arn:aws:iam::123456789012:role/loader"
ORDERS = RedshiftTable("public.orders", partition="dt", keys=["id"], columns=["id BIGINT", "dt DATE"])


VISITS = RedshiftTable(
    "public.visits",
    mode="restate",
    partition="dt",
    keys=["id"],
    columns=["id BIGINT", "who VARCHAR(9)", "at TIMESTAMP", "dt DATE"],
    staging_columns=["since TIMESTAMP", "until TIMESTAMP", "gone BOOLEAN"],
    restates=Restatement(by="who", at="at", begin="since", end="until", retracted="gone"),
    days="at",
)


def load(
    table: RedshiftTable = ORDERS,
    *,
    rows: int = 3,
    partition: str | None = "2026-01-05",
    restatement: int | None = None,
) -> Load:
    manifest = Manifest(
        dataset="orders",
        partition={"dt": "2026-01-05"},
        job="j",
        created_at="2026-01-06T00:00:00Z",
        entries=(ManifestEntry("s3://lake/o/part-0.parquet", 10, rows),) if rows else (),
        columns=tuple(Column(c.name, c.type) for c in (*table.columns, *table.staging_columns)),
        accounting=Accounting(lines_in=5, valid=3, quarantined={"x": 2}),
        restatement=restatement,
    )
    return Load("f" * 64, table.name, partition, "d'ag", "run", "s3://lake/o/manifest.json", manifest)


def test_the_transaction_of_a_load() -> None:
    assert load_plan.load_transaction(ORDERS, load(), iam_role=ROLE) == [
        'LOCK TABLE "etl"."lock_public__orders"',
        'UPDATE "etl"."load_fence" SET epoch = epoch + 1 WHERE target = \'public.orders\'',
        'CREATE TEMP TABLE "assert_0_ffffffffffff" ("not_already_loaded" INTEGER NOT NULL)',
        'INSERT INTO "assert_0_ffffffffffff" SELECT CASE WHEN COUNT(*) = 0 THEN 1 END FROM "etl"."load_history" '
        f"WHERE load_id = '{'f' * 64}'",
        'CREATE TEMP TABLE "staged_ffffffffffff" ("id" BIGINT NOT NULL, "dt" DATE)',
        'COPY "staged_ffffffffffff" ("id", "dt") FROM \'s3://lake/o/manifest.json\' '
        f"IAM_ROLE '{ROLE}' FORMAT AS PARQUET MANIFEST",
        'CREATE TEMP TABLE "assert_1_ffffffffffff" ("row_count_matches" INTEGER NOT NULL)',
        'INSERT INTO "assert_1_ffffffffffff" SELECT CASE WHEN COUNT(*) = 3 THEN 1 END FROM "staged_ffffffffffff"',
        'CREATE TEMP TABLE "assert_2_ffffffffffff" ("keys_are_distinct" INTEGER NOT NULL)',
        'INSERT INTO "assert_2_ffffffffffff" SELECT CASE WHEN COUNT(*) = 3 THEN 1 END FROM '
        '(SELECT DISTINCT "id" FROM "staged_ffffffffffff") AS k',
        'CREATE TEMP TABLE "assert_3_ffffffffffff" ("rows_are_of_the_partition" INTEGER NOT NULL)',
        'INSERT INTO "assert_3_ffffffffffff" SELECT CASE WHEN COUNT(*) = 0 THEN 1 END FROM "staged_ffffffffffff" '
        'WHERE "dt" IS NULL OR "dt" <> \'2026-01-05\'',
        'DELETE FROM "public"."orders" WHERE "dt" = \'2026-01-05\'',
        'INSERT INTO "public"."orders" ("id", "dt") SELECT "id", "dt" FROM "staged_ffffffffffff"',
        'INSERT INTO "etl"."load_history" ("load_id", "target", "partition_value", "dag_id", "run_id", "manifest", '
        '"rows_loaded", "bytes_loaded", "lines_in", "valid", "quarantined", "delivered_twice", "loaded_at", '
        '"restatement") VALUES '
        f"('{'f' * 64}', 'public.orders', '2026-01-05', 'd''ag', 'run', 's3://lake/o/manifest.json', 3, 10, 5, 3, 2, "
        "0, GETDATE(), NULL)",
    ]


def test_the_transaction_of_a_restatement() -> None:
    statements = load_plan.load_transaction(VISITS, load(VISITS, restatement=7), iam_role=ROLE)
    mark = "ffffffffffff"
    span = (
        f'"public"."visits"."who" = "staged_{mark}"."who" AND "public"."visits"."at" >= "staged_{mark}"."since" '
        f'AND "public"."visits"."at" <= "staged_{mark}"."until"'
    )
    assert statements[4:8] == [
        f'CREATE TEMP TABLE "assert_4_{mark}" ("no_later_state_is_loaded" INTEGER NOT NULL)',
        f'INSERT INTO "assert_4_{mark}" SELECT CASE WHEN COUNT(*) = 0 THEN 1 END FROM "etl"."load_history" '
        "WHERE target = 'public.visits' AND restatement > 7",
        f'CREATE TEMP TABLE "staged_{mark}" ("id" BIGINT NOT NULL, "who" VARCHAR(9), "at" TIMESTAMP, "dt" DATE, '
        '"since" TIMESTAMP, "until" TIMESTAMP, "gone" BOOLEAN)',
        f'COPY "staged_{mark}" ("id", "who", "at", "dt", "since", "until", "gone") FROM '
        f"'s3://lake/o/manifest.json' IAM_ROLE '{ROLE}' FORMAT AS PARQUET MANIFEST",
    ]
    assert not [s for s in statements if load_plan.ROWS_ARE_OF_THE_PARTITION in s]
    assert statements[-5:-1] == [
        'INSERT INTO "etl"."load_days" (load_id, first_day, last_day) '
        f"SELECT '{'f' * 64}', first_day, last_day FROM ("
        f'SELECT CAST("at" AS DATE) AS first_day, CAST("at" AS DATE) AS last_day FROM "staged_{mark}" UNION '
        f'SELECT CAST("since" AS DATE) AS first_day, CAST("until" AS DATE) AS last_day FROM "staged_{mark}" UNION '
        'SELECT CAST("public"."visits"."at" AS DATE) AS first_day, CAST("public"."visits"."at" AS DATE) AS last_day '
        f'FROM "public"."visits", "staged_{mark}" WHERE {span}) AS d '
        "WHERE first_day IS NOT NULL AND last_day IS NOT NULL",
        f'DELETE FROM "public"."visits" USING "staged_{mark}" WHERE {span}',
        f'DELETE FROM "public"."visits" USING "staged_{mark}" WHERE "public"."visits"."id" = "staged_{mark}"."id"',
        'INSERT INTO "public"."visits" ("id", "who", "at", "dt") SELECT "id", "who", "at", "dt" '
        f'FROM "staged_{mark}" WHERE NOT "gone"',
    ]
    assert statements[-1].endswith("GETDATE(), 7)")


def test_a_restatement_of_a_partition_also_replaces_rows_of_others_by_key() -> None:
    table = RedshiftTable(**{**ORDERS.model_dump(), "mode": "restate"})
    statements = load_plan.load_transaction(table, load(table, restatement=0), iam_role=ROLE)
    assert [s for s in statements if s.startswith("DELETE")] == [
        'DELETE FROM "public"."orders" WHERE "dt" = \'2026-01-05\'',
        'DELETE FROM "public"."orders" USING "staged_ffffffffffff" WHERE '
        '"public"."orders"."id" = "staged_ffffffffffff"."id"',
    ]
    assert not [s for s in statements if load_plan.ROWS_ARE_OF_THE_PARTITION in s]


def test_keys_that_stand_for_a_time_are_looked_for_around_it() -> None:
    table = RedshiftTable(**{**ORDERS.model_dump(), "mode": "restate", "key_time": "dt"})
    staging = '"staged_ffffffffffff"'
    statements = load_plan.load_transaction(table, load(table, restatement=0), iam_role=ROLE)
    assert f'CREATE TEMP TABLE {staging} ("id" BIGINT NOT NULL, "dt" DATE NOT NULL)' in statements
    assert [s for s in statements if s.startswith("DELETE")][1:] == [
        f'DELETE FROM "public"."orders" USING {staging} WHERE "public"."orders"."id" = {staging}."id" '
        f'AND "public"."orders"."dt" >= (SELECT MIN("dt") FROM {staging}) - INTERVAL \'2 days\' '
        f'AND "public"."orders"."dt" <= (SELECT MAX("dt") FROM {staging}) + INTERVAL \'2 days\'',
    ]


def test_a_restatement_without_a_number_is_refused() -> None:
    with pytest.raises(ManifestError, match="has no restatement number"):
        load_plan.load_transaction(VISITS, load(VISITS), iam_role=ROLE)


def test_no_copy_without_files() -> None:
    statements = load_plan.load_transaction(ORDERS, load(rows=0), iam_role="default")
    assert not [s for s in statements if s.startswith("COPY")]
    assert any("COUNT(*) = 0 THEN" in s for s in statements)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.name))
def test_the_stock_tables_stay_within_the_limits(table: RedshiftTable) -> None:
    statements = load_plan.load_transaction(table, load(table, restatement=1), iam_role=ROLE)
    assert len(statements) <= load_plan.MAX_STATEMENTS
    assert sum(map(len, statements)) < load_plan.MAX_BYTES
    assert len(schema.create_all(table)) <= load_plan.MAX_STATEMENTS


def test_a_plan_that_is_too_large_is_refused() -> None:
    wide = RedshiftTable(
        "a.b", partition="dt", columns=["dt DATE", *(f"c{n}_{'x' * 100} BIGINT" for n in range(400))]
    )
    with pytest.raises(ConfigurationError, match="Load fewer columns"):
        load_plan.load_transaction(wide, load(wide), iam_role=ROLE)


@pytest.mark.parametrize(
    ("kind", "value", "literal"),
    [("DATE", "2026-01-05", "'2026-01-05'"), ("INTEGER", "-12", "-12"), ("VARCHAR(9)", "it's", "'it''s'")],
)
def test_a_partition_is_a_literal_of_its_type(kind: str, value: str, literal: str) -> None:
    table = RedshiftTable("a.b", partition="p", columns=[("p", kind)])
    assert load_plan.partition_literal(table, value) == literal


@pytest.mark.parametrize(
    ("kind", "value"),
    [("DATE", "05.01.2026"), ("DATE", "2026-01-05' OR 1=1"), ("BIGINT", "1 OR 1"), ("REAL", "1")],
)
def test_a_partition_that_is_none_is_refused(kind: str, value: str) -> None:
    with pytest.raises(ConfigurationError):
        load_plan.partition_literal(RedshiftTable("a.b", partition="p", columns=[("p", kind)]), value)


def test_the_assertion_in_an_error() -> None:
    text = "Query #4 failed with ERROR: Cannot insert a NULL value into column {}"
    for name in load_plan.ASSERTIONS:
        assert load_plan.failed_assertion(text.format(name)) == name
    assert load_plan.failed_assertion(text.format("id")) is None


def test_the_identity_of_a_load() -> None:
    assert load_id("d", "a.b", "p", b"m") == hashlib.sha256(b"d|a.b|p|m").hexdigest()
    assert load_id("d", "a.b", None, b"m") == hashlib.sha256(b"d|a.b||m").hexdigest()


def test_ddl_of_the_events() -> None:
    text = schema.create_table(EVENTS)
    assert text.startswith(
        'CREATE TABLE IF NOT EXISTS "analytics"."events" ("event_id" VARCHAR(64) NOT NULL, "ts" TIMESTAMP'
    )
    assert text.endswith('DISTSTYLE KEY DISTKEY ("visitor_id") SORTKEY ("dt", "ts")')


def test_only_new_columns_are_added() -> None:
    existing = list(ORDERS.columns)
    assert schema.changes(ORDERS, existing) == []
    wider = ORDERS.with_columns(
        (*ORDERS.columns, *RedshiftTable("a.b", mode="merge", keys=["x"], columns=["x REAL"]).columns)
    )
    assert schema.changes(wider, existing) == ['ALTER TABLE "public"."orders" ADD COLUMN "x" REAL']
    with pytest.raises(SchemaMismatchError, match="has no column id, which must not be NULL"):
        schema.changes(ORDERS, existing[1:])
    other = RedshiftTable("public.orders", partition="dt", columns=["id INTEGER", "dt DATE"])
    with pytest.raises(SchemaMismatchError, match="id is INTEGER in the warehouse and BIGINT"):
        schema.changes(ORDERS, list(other.columns))


def test_existing_columns_from_the_system_view() -> None:
    row = {
        "table_schema": "a",
        "table_name": "b",
        "column_name": "c",
        "data_type": "character varying",
        "character_maximum_length": 7,
        "numeric_precision": None,
        "numeric_scale": None,
        "is_nullable": "NO",
    }
    exotic = row | {"column_name": "d", "data_type": "super"}
    number = row | {
        "column_name": "e",
        "data_type": "numeric",
        "numeric_precision": 5,
        "numeric_scale": 2,
        "is_nullable": "YES",
    }
    [(name, columns)] = schema.existing_columns([row, exotic, number]).items()
    assert name == "a.b"
    assert [(c.name, c.type, c.nullable) for c in columns] == [
        ("c", "VARCHAR(7)", False),
        ("e", "DECIMAL(5, 2)", True),
    ]


def test_a_manifest_is_compared_by_position() -> None:
    manifest = load().manifest
    schema.check_manifest(ORDERS, manifest)
    schema.check_manifest(ORDERS, replace(manifest, columns=(Column("ID", "int8"), Column("dt", "date"))))
    with pytest.raises(
        SchemaMismatchError, match="column 1: dt DATE in the manifest, id BIGINT in the table"
    ):
        schema.check_manifest(ORDERS, replace(manifest, columns=manifest.columns[::-1]))
    with pytest.raises(SchemaMismatchError, match="column 3: x REAL in the manifest, nothing in the table"):
        schema.check_manifest(ORDERS, replace(manifest, columns=(*manifest.columns, Column("x", "REAL"))))
    schema.check_manifest(VISITS, load(VISITS).manifest)
    with pytest.raises(SchemaMismatchError, match="column 5: nothing in the manifest, since TIMESTAMP"):
        schema.check_manifest(VISITS, replace(manifest, columns=load(VISITS).manifest.columns[:4]))
    with pytest.raises(SchemaMismatchError, match="cannot be loaded"):
        schema.check_manifest(ORDERS, replace(manifest, columns=(Column("x", "GEOMETRY"),)))


def test_the_accounting_is_plain_text_in_the_history() -> None:
    manifest = replace(load().manifest, accounting=None)
    statement = load_plan.load_transaction(ORDERS, replace(load(), manifest=manifest), iam_role=ROLE)[-1]
    assert "3, 10, NULL, NULL, NULL, NULL, GETDATE(), NULL)" in statement
    json.dumps(statement)
