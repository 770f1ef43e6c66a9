"""COPY: what it loads, and what it refuses with nothing loaded."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.local_redshift.conftest import Warehouse

ROLE = "iam_role 'arn:aws:iam::123456789012:role/loader'"


class Files:
    """Objects below ``s3://lake/<name of the test's database>/``."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.folder = warehouse.objects / "lake" / warehouse.database
        self.url = f"s3://lake/{warehouse.database}"
        self.folder.mkdir()

    def text(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return f"{self.url}/{name}"

    def parquet(self, name: str, columns: dict[str, Any]) -> str:
        pq.write_table(pa.table(columns), self.folder / name, row_group_size=2)
        return f"{self.url}/{name}"

    def path(self, name: str) -> Path:
        return self.folder / name

    def entry(self, name: str, **changes: Any) -> dict[str, Any]:
        size = self.path(name).stat().st_size if self.path(name).exists() else 1
        return {"url": f"{self.url}/{name}", "mandatory": True, "meta": {"content_length": size}} | changes

    def manifest(self, *entries: dict[str, Any], name: str = "manifest.json") -> str:
        return self.text(
            name, json.dumps({"entries": list(entries), "schema": {"elements": []}, "author": {}})
        )


@pytest.fixture
def files(warehouse: Warehouse) -> Files:
    return Files(warehouse)


def copy(source: str, options: str = "format as parquet manifest", role: str = ROLE) -> str:
    return f"copy t from '{source}' {role} {options}"


def test_every_type_of_parquet(warehouse: Warehouse, files: Files) -> None:
    warehouse.ok(
        "create table t (a smallint, b int, c bigint, d real, e double precision, f decimal(10,2), g boolean, h date, "
        "i timestamp, j timestamptz, k varchar(20), l char(3))"
    )
    at = dt.datetime(2026, 1, 5, 1, 2, 3, 456789)  # noqa: DTZ001 - what a TIMESTAMP holds
    files.parquet(
        "x.parquet",
        {
            "a": pa.array([1, None], pa.int16()),
            "b": pa.array([2, None], pa.int32()),
            "c": pa.array([3, None], pa.int64()),
            "d": pa.array([0.5, None], pa.float32()),
            "e": pa.array([float("nan"), None], pa.float64()),
            "f": pa.array([Decimal("12.30"), None], pa.decimal128(10, 2)),
            "g": pa.array([True, None]),
            "h": pa.array([at.date(), None]),
            "i": pa.array([at, None], pa.timestamp("us", "UTC")),
            "j": pa.array([at, None], pa.timestamp("ns")),
            "k": pa.array(['a "quoted",\n\\. \\N', ""]),
            "l": pa.array(["é", None]),
        },
    )
    done = warehouse.ok(copy(files.manifest(files.entry("x.parquet"))))
    assert done["ResultRows"] == 2
    first, second = warehouse.rows("select * from t order by a nulls last")
    assert first[:4] == (1, 2, 3, 0.5)
    assert first[5:] == (
        "12.30",
        True,
        "2026-01-05",
        "2026-01-05 01:02:03.456789",
        "2026-01-05 01:02:03.456789+00",
        'a "quoted",\n\\. \\N',
        "é  ",
    )
    assert second == (None,) * 10 + ("", None)


def test_several_files_a_column_list_and_the_count_of_the_last_copy(
    warehouse: Warehouse, files: Files
) -> None:
    warehouse.ok("create table t (a int default 7, b varchar(5))")
    names = [f"part-{n}.parquet" for n in range(3)]
    for n, name in enumerate(names):
        files.parquet(name, {"b": [f"{n}-{i}" for i in range(5)]})
    files.text("_SUCCESS", "")
    manifest = files.manifest(*map(files.entry, names))
    done = warehouse.ok(
        f"copy t (b) from '{manifest}' {ROLE} parquet manifest region 'us-east-1' statupdate off compupdate off",
        "select pg_last_copy_count(), count(*), count(distinct b), min(a) from t",
    )
    assert warehouse.result(f"{done['Id']}:2") == [(15, 15, 15, 7)]
    warehouse.ok(f"copy t (b) from '{files.url}/part-' {ROLE} format as parquet")
    assert warehouse.rows("select count(*) from t") == [(30,)]


def good(files: Files) -> dict[str, Any]:
    files.parquet("good.parquet", {"a": pa.array([1, 2, 3], pa.int32()), "b": ["x", "y", "z"]})
    return files.entry("good.parquet")


REJECTED: dict[str, tuple[Any, str]] = {
    "a missing file": (lambda f: [good(f), f.entry("absent.parquet")], "absent.parquet does not exist"),
    "a wrong length": (
        lambda f: [good(f) | {"meta": {"content_length": 5}}],
        "has 5 bytes (content_length)",
    ),
    "no length": (lambda f: [{"url": good(f)["url"]}], "no meta.content_length"),
    "an extra column": (
        lambda f: [f.parquet("x", {"a": pa.array([1], pa.int32()), "b": ["x"], "c": ["y"]}) and f.entry("x")],
        "Table columns: 2 (a, b), Data columns: 3 (a, b, c)",
    ),
    "a column too few": (
        lambda f: [f.parquet("x", {"a": pa.array([1], pa.int32())}) and f.entry("x")],
        "Table columns: 2 (a, b), Data columns: 1",
    ),
    "a wider integer": (
        lambda f: [f.parquet("x", {"a": pa.array([1], pa.int64()), "b": ["x"]}) and f.entry("x")],
        "Column type: INTEGER, Parquet schema: a int64",
    ),
    "a narrower integer": (
        lambda f: [f.parquet("x", {"a": pa.array([1], pa.int16()), "b": ["x"]}) and f.entry("x")],
        "Column type: INTEGER, Parquet schema: a int16",
    ),
    "another type": (
        lambda f: [f.parquet("x", {"a": pa.array([1], pa.int32()), "b": [1.5]}) and f.entry("x")],
        "incompatible Parquet schema for column 'b'",
    ),
    "a text that is too long": (
        lambda f: [
            good(f),
            f.parquet("x", {"a": pa.array([1, 2], pa.int32()), "b": ["x", "ééé"]}) and f.entry("x"),
        ],
        "String length exceeds DDL length: 6 bytes into b VARCHAR(5)",
    ),
    "a NULL": (
        lambda f: [
            good(f),
            f.parquet("x", {"a": pa.array([1, None, 2], pa.int32()), "b": ["x", "y", "z"]}) and f.entry("x"),
        ],
        "Missing data for not-null field a",
    ),
    "a file that is not Parquet": (
        lambda f: [f.text("x", "nonsense") and f.entry("x")],
        "is not a Parquet file",
    ),
    "another scheme": (lambda f: [good(f) | {"url": "https://lake/x"}], "is not an s3:// URL"),
    "a way out of the bucket": (
        lambda f: [good(f) | {"url": "s3://lake/../../redshift/engine.json"}],
        "is not a plain path",
    ),
    "a bucket that is a path": (
        lambda f: [good(f) | {"url": "s3://../redshift/engine.json"}],
        "is not an s3://bucket/key URL",
    ),
    "an entry without a url": (lambda f: [{"mandatory": True}], "an entry has no url"),
    "no entries": (lambda f: [], "lists no file"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_a_manifest_that_is_rejected_loads_nothing(warehouse: Warehouse, files: Files, case: str) -> None:
    entries, message = REJECTED[case]
    warehouse.ok("create table t (a int not null, b varchar(5))")
    assert message in warehouse.error(copy(files.manifest(*entries(files))))
    assert warehouse.rows("select count(*) from t") == [(0,)]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("copy t from '{m}' format as parquet manifest", "IAM_ROLE"),
        ("copy t from '{m}' iam_role 'somebody' format as parquet manifest", "not the ARN of a role"),
        (
            "copy t from '{m}' access_key_id 'A' secret_access_key 'B' format as parquet manifest",
            "ACCESS_KEY_ID is refused",
        ),
        (
            "copy t from '{m}' credentials 'aws_access_key_id=A' format as parquet manifest",
            "CREDENTIALS is refused",
        ),
        ("copy t from '{m}' " + ROLE + " format as parquet manifest fillrecord", "FILLRECORD"),
        ("copy t from '{m}' " + ROLE + " format as orc manifest", "ORC"),
        ("copy t from '{m}' " + ROLE + " format as parquet manifest nonsense", "NONSENSE"),
        ("copy t from '{m}' " + ROLE + " csv maxerror 5", "MAXERROR"),
        ("copy t from '/etc/passwd' " + ROLE + " csv", "s3:// only"),
        ("copy t from 's3://lake/none/manifest' " + ROLE + " parquet manifest", "does not exist"),
        ("copy t from 's3://lake/none/' " + ROLE + " parquet", "does not exist"),
        ("copy nowhere from '{m}' " + ROLE + " parquet manifest", 'relation "nowhere" does not exist'),
        ("copy t (a, z) from '{m}' " + ROLE + " parquet manifest", 'column "z"'),
    ],
)
def test_a_copy_that_is_refused(warehouse: Warehouse, files: Files, statement: str, message: str) -> None:
    warehouse.ok("create table t (a int, b varchar(5))")
    assert message in warehouse.error(statement.replace("{m}", files.manifest(good(files))))


def test_a_file_that_is_not_mandatory_may_be_absent(warehouse: Warehouse, files: Files) -> None:
    warehouse.ok("create table t (a int, b varchar(5))")
    warehouse.ok(copy(files.manifest(good(files), files.entry("absent", mandatory=False))))
    assert warehouse.rows("select count(*) from t") == [(3,)]


def test_a_symbolic_link_leads_nowhere(warehouse: Warehouse, files: Files, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("1,x\n")
    files.path("link.csv").symlink_to(tmp_path / "secret.csv")
    warehouse.ok("create table t (a int, b varchar(5))")
    assert "does not exist" in warehouse.error(f"copy t from '{files.url}/link' {ROLE} csv")
    manifest = files.manifest({"url": f"{files.url}/link.csv", "mandatory": True})
    assert "leads out" in warehouse.error(f"copy t from '{manifest}' {ROLE} csv manifest")


def test_error_rows_outlive_the_rollback(warehouse: Warehouse, files: Files) -> None:
    warehouse.ok("create table t (a int, b varchar(5))")
    source = files.text("bad.csv", "1,x\nnot a number,y\n")
    done = warehouse.run("insert into t values (0, '')", f"copy t from '{source}' {ROLE} csv")
    assert "sys_load_error_detail" in done["Error"]
    assert "line 2" in done["Error"]
    part = done["SubStatements"][1]
    assert warehouse.rows(
        "select query_id, file_name, line_number, column_name, error_code from sys_load_error_detail"
    ) == [(part["RedshiftQueryId"], source, 2, "a", 1207)]
    assert warehouse.rows(
        "select query, trim(filename), line_number, trim(colname) from stl_load_errors"
    ) == [(part["RedshiftQueryId"], source, 2, "a")]
    assert warehouse.rows("select count(*) from t") == [(0,)]


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("a,b\n1,x\n2,\n", "csv ignoreheader 1", [(1, "x"), (2, "")]),
        ('1,"a ""b"", c\nd"\n,\n', "csv", [(1, 'a "b", c\nd'), (None, "")]),
        ("1;'x;y'\n2;\\N\n", "csv delimiter ';' quote as ''''", [(1, "x;y"), (2, None)]),
        ("1|x\n2|\n", "", [(1, "x"), (2, "")]),
        ("1\tx\n2\t\n", r"delimiter '\t' emptyasnull", [(1, "x"), (2, None)]),
        ("1,longer than five\n", "csv truncatecolumns", [(1, "longe")]),
        (
            '{"b": "x", "a": 1, "c": 0}\n{"a": 2}\n{"a": null,\n "b": [1]}',
            "format as json 'auto'",
            [(1, "x"), (2, None), (None, '["1"]')],
        ),
        (gzip.compress(b"1,x\n"), "csv gzip", [(1, "x")]),
    ],
)
def test_text_formats(
    warehouse: Warehouse, files: Files, content: str | bytes, options: str, expected: list[tuple[Any, ...]]
) -> None:
    source = files.text("x.txt", content)
    warehouse.ok("create table t (a int, b varchar(20))")
    warehouse.ok(
        "alter table t drop column b", "alter table t add column b varchar(5)"
    ) if "trunc" in options else None
    warehouse.ok(copy(source, options))
    assert warehouse.rows("select a, b from t order by a nulls last") == expected


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("1,x,y\n", "csv", "Extra column(s) found"),
        ("1\n", "csv", "Delimiter not found"),
        ("1,toolong\n", "csv", "String length exceeds DDL length"),
        (b"1,\xff\n", "csv", "invalid or unsupported UTF8"),
        ("99999999999,x\n", "csv", "out of range"),
        ('{"a": 1', "json 'auto'", "Invalid JSON"),
        ("1,x\n", "csv gzip", "not valid GZIP"),
    ],
)
def test_text_that_is_rejected(
    warehouse: Warehouse, files: Files, content: str | bytes, options: str, message: str
) -> None:
    warehouse.ok("create table t (a int, b varchar(5))")
    assert message in warehouse.error(copy(files.text("x.txt", content), options))


def test_unload_and_copy_back(warehouse: Warehouse, files: Files) -> None:
    warehouse.ok(
        "create table t (a int, b varchar(20), c date)",
        "insert into t values (1, 'it''s, x', '2026-01-05'), (2, null, null)",
    )
    expected = warehouse.rows("select * from t order by a")
    for form, back in (
        ("parquet", "parquet"),
        ("csv header", "csv ignoreheader 1 null as ''"),
        ("csv gzip", "csv gzip null as ''"),
    ):
        target = f"{files.url}/{form.replace(' ', '-')}/"
        warehouse.ok(
            f"unload ('select * from t where b is null or b <> \\'\\'') to '{target}' {ROLE} format as {form} manifest"
        )
        assert "not empty" in warehouse.error(f"unload ('select 1') to '{target}' {ROLE} csv")
        warehouse.ok("truncate t")
        warehouse.ok(copy(f"{target}manifest", f"{back} manifest"))
        assert warehouse.rows("select * from t order by a") == expected
