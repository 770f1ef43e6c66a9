"""The life of statements: ids, states, tokens, batches, results, cancellation, restarts."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from airflow_emr_etl.local.api import ApiError
from airflow_emr_etl.local.redshift import RedshiftDataApi
from tests.integration.local_redshift.conftest import Warehouse


def test_a_statement_is_described(warehouse: Warehouse) -> None:
    done = warehouse.ok("select 1 as one, 'x' as two", StatementName="first")
    assert done["HasResultSet"] is True
    assert (done["ResultRows"], done["ResultSize"]) == (1, 2)
    assert done["QueryString"] == "select 1 as one, 'x' as two"
    assert done["RedshiftQueryId"] > 0
    assert done["Duration"] > 0
    assert done["WorkgroupName"] == "tests"
    assert done["CreatedAt"].tzinfo is not None
    warehouse.ok("create table x (a int)")
    changed = warehouse.ok("insert into x values (1), (2)")
    assert (changed["HasResultSet"], changed["ResultRows"], changed["ResultSize"]) == (False, 2, -1)


def test_a_result_is_typed(warehouse: Warehouse) -> None:
    id = warehouse.ok(
        "select 1::smallint a, 2.5::float b, true c, null::int d, 'é' e, 1.50::decimal(5,2) f, date '2026-01-05' g"
    )["Id"]
    result = warehouse.api.get_statement_result({"Id": id})
    assert result["Records"] == [
        [
            {"longValue": 1},
            {"doubleValue": 2.5},
            {"booleanValue": True},
            {"isNull": True},
            {"stringValue": "é"},
            {"stringValue": "1.50"},
            {"stringValue": "2026-01-05"},
        ]
    ]
    assert [(c["name"], c["typeName"]) for c in result["ColumnMetadata"]] == [
        ("a", "int2"),
        ("b", "float8"),
        ("c", "bool"),
        ("d", "int4"),
        ("e", "varchar" if result["ColumnMetadata"][4]["typeName"] == "varchar" else "text"),
        ("f", "numeric"),
        ("g", "date"),
    ]
    assert (result["ColumnMetadata"][5]["precision"], result["ColumnMetadata"][5]["scale"]) == (5, 2)


def test_a_large_result_has_pages(warehouse: Warehouse) -> None:
    id = warehouse.ok("select n, repeat('x', 1000) from generate_series(1, 2500) n")["Id"]
    pages, token = [], None
    while True:
        page = warehouse.api.get_statement_result({"Id": id} | ({"NextToken": token} if token else {}))
        assert page["TotalNumRows"] == 2500
        pages.append(page["Records"])
        token = page.get("NextToken")
        if token is None:
            break
    assert len(pages) == 3
    assert [record[0]["longValue"] for page in pages for record in page] == list(range(1, 2501))


def test_a_result_as_csv(warehouse: Warehouse) -> None:
    id = warehouse.ok("select 1 as a, null as b, 'x,y' as c, true as d", ResultFormat="CSV")["Id"]
    result = warehouse.api.get_statement_result_v2({"Id": id})
    assert result["Records"] == [{"CSVRecords": 'a,b,c,d\r\n1,,"x,y",true\r\n'}]
    with pytest.raises(ApiError, match="GetStatementResultV2"):
        warehouse.api.get_statement_result({"Id": id})


def test_a_batch_is_one_transaction(warehouse: Warehouse) -> None:
    done = warehouse.run(
        "create table x (a int)", "insert into x values (1)", "select * from nowhere", "select 1"
    )
    assert done["Status"] == "FAILED"
    assert done["Error"] == 'Query #3 failed with ERROR: relation "nowhere" does not exist'
    assert [part["Status"] for part in done["SubStatements"]] == ["FINISHED", "FINISHED", "FAILED", "ABORTED"]
    assert [part["Id"] for part in done["SubStatements"]] == [f"{done['Id']}:{n}" for n in (1, 2, 3, 4)]
    assert warehouse.api.describe_statement({"Id": f"{done['Id']}:2"})["ResultRows"] == 1
    assert "does not exist" in warehouse.error("select * from x")


def test_a_batch_that_commits_each_statement(warehouse: Warehouse) -> None:
    done = warehouse.run(
        "create table x (a int)", "select 1/0", "insert into x values (1)", ExecutionMode="AUTO_COMMIT"
    )
    assert done["Status"] == "FAILED"
    assert [part["Status"] for part in done["SubStatements"]] == ["FINISHED", "FAILED", "FINISHED"]
    assert warehouse.rows("select a from x") == [(1,)]


def test_the_results_of_a_batch_are_those_of_its_parts(warehouse: Warehouse) -> None:
    done = warehouse.ok("select 1", "select 2")
    assert warehouse.result(f"{done['Id']}:2") == [(2,)]
    with pytest.raises(ApiError, match="sub-statement"):
        warehouse.api.get_statement_result({"Id": done["Id"]})
    with pytest.raises(ApiError, match="does not exist"):
        warehouse.api.describe_statement({"Id": f"{done['Id']}:3"})


def test_the_same_token_is_the_same_statement(warehouse: Warehouse) -> None:
    warehouse.ok("create table x (a int)")
    ids = {
        warehouse.submit("insert into x values (1)", ClientToken="t-1" + warehouse.database) for _ in range(3)
    }
    assert len(ids) == 1
    warehouse.wait(ids.pop())
    assert warehouse.rows("select count(*) from x") == [(1,)]
    with pytest.raises(ApiError, match="used before with another request"):
        warehouse.submit("insert into x values (2)", ClientToken="t-1" + warehouse.database)


def test_parameters_are_values(warehouse: Warehouse) -> None:
    nasty = "x'; drop table t; -- \\"
    rows = warehouse.rows(
        "select :text as a, :n::int + 1 as b, ':text' as c where 1 = :one",
        Parameters=[
            {"name": "text", "value": nasty},
            {"name": "n", "value": "41"},
            {"name": "one", "value": "1"},
        ],
    )
    assert rows == [(nasty, 42, ":text")]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"Sql": "select 1; select 2"}, "Multiple statements"),
        ({"Sql": " -- nothing\n"}, "empty"),
        (
            {"Sql": "select :a", "Parameters": [{"name": "b", "value": "1"}]},
            "Parameter a is in the statement",
        ),
        (
            {"Sql": "select :a", "Parameters": [{"name": "a", "value": "1"}, {"name": "b", "value": "1"}]},
            "b are not used",
        ),
        ({"Sql": "select :a", "Parameters": [{"name": "a", "value": ""}]}, "cannot be sent"),
        ({"Sql": "select '" + "x" * 100_000 + "'"}, "at most 100000"),
        ({"Sql": "select 1", "ClusterIdentifier": "c"}, "not both"),
        ({"Sql": "select 1", "Database": "template1"}, "not a name"),
        ({"Sql": "select 1", "Database": 'x"; drop'}, "not a name"),
        ({"Sql": "select 1", "SessionKeepAliveSeconds": 5}, "not supported by local Redshift"),
        ({"Sqls": ["select 1"] * 41}, "1 to 40"),
        ({"Sqls": ["select 1", "select 1; select 2"]}, "Statement #2"),
    ],
)
def test_a_request_that_is_refused(shared: Warehouse, params: dict[str, Any], message: str) -> None:
    call = shared.api.batch_execute_statement if "Sqls" in params else shared.api.execute_statement
    with pytest.raises(ApiError, match=message) as raised:
        call({"WorkgroupName": "tests"} | params)
    assert raised.value.code == "ValidationException"


def test_no_target_and_no_statement(shared: Warehouse) -> None:
    with pytest.raises(ApiError, match="One of ClusterIdentifier and WorkgroupName"):
        shared.api.execute_statement({"Sql": "select 1"})
    with pytest.raises(ApiError) as raised:
        shared.api.describe_statement({"Id": "00000000-0000-0000-0000-000000000000"})
    assert raised.value.code == "ResourceNotFoundException"
    id = shared.ok("set query_group to 'x'")["Id"]
    with pytest.raises(ApiError, match="does not have result"):
        shared.api.get_statement_result({"Id": id})


def test_a_statement_is_cancelled(warehouse: Warehouse) -> None:
    id = warehouse.submit("select pg_sleep(60)")
    while warehouse.api.describe_statement({"Id": id})["Status"] != "STARTED":
        threading.Event().wait(0.01)
    assert warehouse.api.cancel_statement({"Id": id}) == {"Status": True}
    done = warehouse.wait(id)
    assert done["Status"] == "ABORTED"
    assert "cancelled" in done["Error"]
    with pytest.raises(ApiError, match="already in ABORTED state"):
        warehouse.api.cancel_statement({"Id": id})


def test_statements_are_listed_newest_first(warehouse: Warehouse) -> None:
    for n in range(3):
        warehouse.run(f"select {n}", StatementName=f"list-{n}")
    where = {"Database": warehouse.database}
    listed = warehouse.api.list_statements(where)["Statements"]
    assert [s["QueryString"] for s in listed] == ["select 2", "select 1", "select 0"]
    page = warehouse.api.list_statements({**where, "MaxResults": 2})
    assert len(page["Statements"]) == 2
    assert (
        len(
            warehouse.api.list_statements({**where, "MaxResults": 2, "NextToken": page["NextToken"]})[
                "Statements"
            ]
        )
        == 1
    )
    assert len(warehouse.api.list_statements({**where, "StatementName": "list-1"})["Statements"]) == 1
    assert warehouse.api.list_statements({**where, "Status": "FAILED"})["Statements"] == []


def test_the_catalogue(warehouse: Warehouse) -> None:
    warehouse.ok("create schema sales", "create table sales.x (a int not null, b varchar(7))")
    where = {"Database": warehouse.database, "WorkgroupName": "tests"}
    assert warehouse.database in warehouse.api.list_databases(where)["Databases"]
    assert "sales" in warehouse.api.list_schemas(where)["Schemas"]
    assert "redshift_internal" not in warehouse.api.list_schemas(where)["Schemas"]
    assert warehouse.api.list_tables({**where, "SchemaPattern": "sa%"}) == {
        "Tables": [{"schema": "sales", "name": "x", "type": "TABLE"}]
    }
    described = warehouse.api.describe_table({**where, "Schema": "sales", "Table": "x"})
    assert [(c["name"], c["typeName"], c["nullable"]) for c in described["ColumnList"]] == [
        ("a", "int4", 0),
        ("b", "varchar", 1),
    ]


def test_snapshots_meet_with_error_1023(warehouse: Warehouse) -> None:
    warehouse.ok("create table x (a int)", "insert into x values (1)")
    slow = warehouse.submit("select * from x", "select pg_sleep(0.5)", "update x set a = a + 1")
    while warehouse.api.describe_statement({"Id": f"{slow}:1"})["Status"] != "FINISHED":
        threading.Event().wait(0.01)
    warehouse.ok("update x set a = a + 10")
    assert "1023" in warehouse.wait(slow)["Error"]
    assert warehouse.rows("select a from x") == [(11,)]


def test_a_restart_keeps_data_and_history(tmp_path: Path) -> None:
    api = RedshiftDataApi(tmp_path / "redshift", tmp_path / "s3")
    api.start()
    first = Warehouse(api, tmp_path / "s3", "dev")
    try:
        id = first.ok("create table x as select 1 as a", "select a from x")["Id"]
        running = first.submit("select pg_sleep(60)")
        while api.describe_statement({"Id": running})["Status"] != "STARTED":
            threading.Event().wait(0.01)
    finally:
        api.stop()
    assert api.postmaster_pid is None
    api.stop()
    with pytest.raises(ApiError, match="stopped"):
        first.submit("select 1")

    again = RedshiftDataApi(tmp_path / "redshift", tmp_path / "s3")
    again.start()
    second = Warehouse(again, tmp_path / "s3", "dev")
    try:
        assert second.result(f"{id}:2") == [(1,)]
        lost = again.describe_statement({"Id": running})
        assert lost["Status"] == "FAILED"
        assert "connection was lost" in lost["Error"]
        assert second.rows("select a from x") == [(1,)]
    finally:
        again.stop()
