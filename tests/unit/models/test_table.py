"""Tables and targets: what they accept, and what they say about the rest."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from airflow_emr_etl.models.table import RedshiftTable, RedshiftTarget, normal_type

ROLE = "arn:aws:iam::123456789012:role/loader"
STAGING = ["since TIMESTAMP", "until TIMESTAMP", "gone BOOLEAN"]
VISITS: dict[str, Any] = {
    "name": "a.visits",
    "mode": "restate",
    "keys": ["id"],
    "columns": ["id BIGINT", "who VARCHAR(9)", "at TIMESTAMP"],
    "staging_columns": STAGING,
    "restates": {"by": "who", "at": "at", "begin": "since", "end": "until", "retracted": "gone"},
}


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("varchar( 64 )", "VARCHAR(64)"),
        ("character varying(64)", "VARCHAR(64)"),
        ("varchar(max)", "VARCHAR(65535)"),
        ("int8", "BIGINT"),
        ("numeric(10,2)", "DECIMAL(10, 2)"),
        ("double  precision", "DOUBLE PRECISION"),
        ("timestamp without time zone", "TIMESTAMP"),
    ],
)
def test_types_have_one_spelling(written: str, normal: str) -> None:
    assert normal_type(written) == normal


@pytest.mark.parametrize(
    "written", ["", "varchar", "int; drop table x", "varchar(64) encode zstd", "super", "VARCHAR(0)"]
)
def test_types_that_are_refused(written: str) -> None:
    with pytest.raises(ValueError, match="not a column type"):
        normal_type(written)


def test_columns_in_three_spellings() -> None:
    table = RedshiftTable(
        "A.B",
        partition="dt",
        columns=["Dt DATE", ("n", "int"), {"name": "x", "type": "REAL", "nullable": False}],
    )
    assert table.name == "a.b"
    assert [(c.name, c.type, c.nullable) for c in table.columns] == [
        ("dt", "DATE", True),
        ("n", "INTEGER", True),
        ("x", "REAL", False),
    ]
    assert RedshiftTable.model_validate(table.model_dump()) == table


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "events", "partition": "dt"}, "does not say schema and table"),
        ({"name": 'a.b"; drop', "partition": "dt"}, "is not a name"),
        ({"name": "a.b"}, "needs partition="),
        ({"name": "a.b", "mode": "merge"}, "needs keys="),
        ({"name": "a.b", "partition": "dt", "columns": ["x REAL"]}, "has no column dt; it has x"),
        ({"name": "a.b", "partition": "dt", "columns": ["dt DATE", "DT DATE"]}, "column twice"),
        ({"name": "a.b", "partition": "dt", "dist_key": "x", "dist_style": "ALL"}, "say one"),
        ({"name": "a.b", "partition": "dt", "colour": "red"}, "Extra inputs"),
        ({"name": "a.b", "partition": "dt", "mode": "restate"}, "needs keys= to restate by"),
        ({"name": "a.b", "keys": ["x"], "mode": "restate"}, "needs partition= or restates="),
        ({"name": "a.b", "partition": "dt", "columns": ["dt DATE"], "days": "at"}, "has no column at"),
        ({"name": "a.b", "partition": "dt", "columns": ["dt DATE"], "key_time": "at"}, "has no column at"),
        (
            {"name": "a.b", "partition": "n", "columns": ["n BIGINT"], "key_time": "n"},
            "key_time='n', which is BIGINT; it must be a time",
        ),
        ({"name": "a.b", "partition": "dt", "staging_columns": ["x DATE"]}, "must state its columns too"),
        (
            {**VISITS, "staging_columns": ["until TIMESTAMP", "gone BOOLEAN"]},
            "no staging column since; it has until",
        ),
        ({**VISITS, "staging_columns": ()}, "it has none. Add it to staging_columns"),
        ({**VISITS, "staging_columns": [*STAGING, "id BIGINT"]}, "has id among columns and staging_columns"),
        ({**VISITS, "staging_columns": [*STAGING, "since DATE"]}, "a staging column twice"),
        ({**VISITS, "staging_columns": [*STAGING[:2], "gone DATE"]}, "gone is DATE; it must be BOOLEAN"),
        ({**VISITS, "staging_columns": ["since DATE", *STAGING[1:]]}, "since is DATE .* must be of one type"),
        ({**VISITS, "mode": "merge"}, "which needs mode='restate'; it is 'merge'"),
        ({**VISITS, "restates": {**VISITS["restates"], "by": "whom"}}, "has no column whom"),
    ],
)
def test_tables_that_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RedshiftTable(**fields)


def test_a_target_is_one_place() -> None:
    assert RedshiftTarget(workgroup_name="wg", iam_role=ROLE).request() == {
        "WorkgroupName": "wg",
        "Database": "dev",
    }
    templated = RedshiftTarget(cluster_identifier="{{ params.c }}", db_user="u", iam_role="{{ params.role }}")
    assert templated.document() == {
        "cluster_identifier": "{{ params.c }}",
        "db_user": "u",
        "iam_role": "{{ params.role }}",
    }
    for fields in ({}, {"workgroup_name": "a", "cluster_identifier": "b"}):
        with pytest.raises(ValidationError, match="say either"):
            RedshiftTarget(iam_role=ROLE, **fields)
    with pytest.raises(ValidationError, match="not the ARN"):
        RedshiftTarget(workgroup_name="a", iam_role="AKIAXXXXXXXX:secret")


def test_a_table_that_is_restated() -> None:
    table = RedshiftTable(**VISITS, days=("at", "at"))
    assert RedshiftTable.model_validate(table.model_dump()) == table
    assert RedshiftTable(**VISITS, days="at") == table
    assert RedshiftTable(**{**VISITS, "partition": "at"}).restates == table.restates
