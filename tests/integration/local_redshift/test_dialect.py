"""Redshift's dialect and semantics, run on the embedded Postgres."""

from __future__ import annotations

import re

import pytest

from tests.integration.local_redshift.conftest import Warehouse


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1/2", 0),
        ("-7/2", -3),
        ("7 % 3", 1),
        ("'a' || 'b'", "ab"),
        (r"'a\\b'", "a\\b"),
        (r"'it\'s'", "it's"),
        (r"'two\nlines'", "two\nlines"),
        ("'it''s :x and 1::int'", "it's :x and 1::int"),
        ("nvl(null, 2)", 2),
        ("nvl2(null, 1, 2)", 2),
        ("isnull(null, 3)", 3),
        ("decode(2, 1, 'x', 'y')", "y"),
        ("len('héllo')", 5),
        ("octet_length('héllo')", 6),
        ("charindex('l', 'hello')", 3),
        ("strtol('ff', 16)", 255),
        ("sha2('a', 256)", "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"),
        ("md5('a')", "0cc175b9c0f1b6a831c399e269772661"),
        ("split_part('a,b', ',', 2)", "b"),
        ("json_extract_path_text('{\"a\": {\"b\": 1}}', 'a', 'b')", "1"),
        ("is_valid_json('{')", False),
        # The number of boundaries between the two, not of whole units
        ("datediff(day, '2020-01-01 23:59', '2020-01-02 00:01')", 1),
        ("datediff(hour, '2020-01-01 01:59', '2020-01-01 02:01')", 1),
        ("datediff(year, '2019-12-31', '2020-01-01')", 1),
        ("datediff('month', date '2020-01-31', date '2020-03-01')", 2),
        ("datediff(week, '2020-01-05', '2020-01-06')", 1),
        ("datediff(qtr, '2020-03-31', '2020-04-01')", 1),
        ("datediff(seconds, '2020-01-01', '2020-01-02')", 86400),
        ("datediff(day, '2020-01-02', '2020-01-01')", -1),
        ("dateadd(month, 1, '2020-01-31')", "2020-02-29 00:00:00"),
        ("dateadd(qtr, -1, date '2020-05-31')", "2020-02-29 00:00:00"),
        ("dateadd(ms, 5, timestamp '2020-01-01')", "2020-01-01 00:00:00.005"),
        ("add_months('2020-02-29', 12)", "2021-02-28 00:00:00"),
        ("add_months('2020-04-30', 1)", "2020-05-31 00:00:00"),
        ("last_day('2020-02-03')", "2020-02-29"),
        ("months_between('2020-03-31', '2020-02-29')", 1.0),
        ("trunc(timestamp '2020-01-01 10:00')", "2020-01-01"),
        ("convert_timezone('Europe/Berlin', '2020-01-01 12:00')", "2020-01-01 13:00:00"),
        ("date_trunc('month', timestamp '2020-05-17')", "2020-05-01 00:00:00"),
        ("extract(dow from date '2020-01-05')", "0"),
        ("'2020-01-01'::date", "2020-01-01"),
        ("cast(1.5 as decimal(10,2))", "1.50"),
        ("cast('abcdef' as varchar(3))", "abc"),
        ("'abc'::varchar(max)", "abc"),
        ("null::int", None),
        ("true and not false", True),
        ("1.5::float", 1.5),
        ("getdate() between sysdate - interval '1 minute' and sysdate + interval '1 minute'", True),
        ("pg_last_copy_count()", 0),
        ("current_user", "awsuser"),
    ],
)
def test_an_expression(shared: Warehouse, expression: str, expected: object) -> None:
    assert shared.value(expression) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("select count(*) from {t}", [(4,)]),
        ("select avg(n) from {t}", [(2,)]),
        ("select avg(x) from {t}", [("1.5000000000000000",)]),
        ("select median(n) from {t}", [(2.5,)]),
        ("select listagg(g, '|') within group (order by n) from {t}", [("a|a|b|b",)]),
        ("select listagg(distinct g, ',') within group (order by g) from {t}", [("a,b",)]),
        (
            "select g, listagg(n, '+') within group (order by n desc) from {t} group by g order by g",
            [("a", "2+1"), ("b", "4+3")],
        ),
        ("select approximate count(distinct g) from {t}", [(2,)]),
        ("select top 2 n from {t} order by n desc", [(4,), (3,)]),
        (
            "select n from {t} qualify row_number() over (partition by g order by n desc) = 1 order by n",
            [(2,), (4,)],
        ),
        ('select "N" as "Big" from {t} order by "big" limit 1', [(1,)]),
        ("select n from {t} where g in (select g from {t} where n = 4) minus select 4 order by 1", [(3,)]),
        ("with x as (select max(n) m from {t}) select m from x", [(4,)]),
        (
            "select sum(n) over (order by n rows between unbounded preceding and current row) from {t} order by 1",
            [(1,), (3,), (6,), (10,)],
        ),
        ("/* a ' quote */ select n -- and 'another\n from {t} where g = 'a' order by n", [(1,), (2,)]),
    ],
)
def test_a_query(shared: Warehouse, query: str, expected: list[tuple[object, ...]]) -> None:
    shared.ok("create table if not exists facts (n int, g varchar(5), x decimal(5,1))")
    if shared.rows("select count(*) from facts") == [(0,)]:
        shared.ok("insert into facts values (1,'a',0), (2,'a',1), (3,'b',2), (4,'b',3)")
    assert shared.rows(query.format(t="facts")) == expected


@pytest.mark.parametrize(
    "statement",
    [
        "create table x (a int primary key distkey encode az64, b varchar(10) sortkey encode lzo unique)",
        "create table x (a int identity(1,1), b int not null default 3, primary key (a)) diststyle even",
        "create table x (a bigint generated by default as identity(5, 10), b int) distkey(a) compound sortkey(a, b)",
        "create table x (a int, b int, foreign key (b) references nowhere (a)) sortkey auto encode auto",
        "create table if not exists x (a varchar, b char(3), c timestamptz, d super, e decimal, f varchar(max))",
        "create table x backup no distkey(a) as select 1 as a, 'b' as b",
        "create local temporary table x (a int)",
        "create view x as select 1 as a with no schema binding",
        "create schema if not exists other",
    ],
)
def test_ddl_that_only_redshift_has(warehouse: Warehouse, statement: str) -> None:
    warehouse.ok(statement)


def test_an_identity_counts_by_its_step(warehouse: Warehouse) -> None:
    warehouse.ok("create table x (id bigint identity(5, 10), b int)", "insert into x (b) values (1), (2)")
    assert warehouse.rows("select id from x order by 1") == [(5,), (15,)]


def test_keys_bind_nobody_and_not_null_does(warehouse: Warehouse) -> None:
    warehouse.ok(
        "create table x (a int, b int not null, primary key (a))", "insert into x values (1, 1), (1, 1)"
    )
    assert "NULL value into column b" in warehouse.error("insert into x values (2, null)")


def test_varchar_counts_bytes(warehouse: Warehouse) -> None:
    warehouse.ok("create table x (a varchar(3))", "insert into x values ('abc'), ('é')")
    assert "value too long for type character varying(3)" in warehouse.error("insert into x values ('éé')")
    warehouse.ok("alter table x alter column a type varchar(4)")
    warehouse.ok("insert into x values ('éé')")
    warehouse.ok("create table y (like x)")
    assert "value too long" in warehouse.error("insert into y values ('ééé')")
    warehouse.ok("alter table x add column b varchar(2)")
    assert "character varying(2)" in warehouse.error("insert into x values ('a', 'abc')")


def test_temporary_tables_by_number_sign(warehouse: Warehouse) -> None:
    done = warehouse.ok(
        "create table #Stage (a int)",
        "insert into #stage values (1), (2)",
        "select count(*) from #STAGE",
        "drop table #stage",
    )
    assert warehouse.result(f"{done['Id']}:3") == [(2,)]
    assert "does not exist" in warehouse.error("select * from #stage")


def test_merge(warehouse: Warehouse) -> None:
    warehouse.ok(
        "create table t (id int, v varchar(9))",
        "create table s (id int, v varchar(9))",
        "insert into t values (1, 'old'), (2, 'old')",
        "insert into s values (2, 'new'), (3, 'new')",
    )
    warehouse.ok(
        "merge into t using s on t.id = s.id when matched then update set v = s.v "
        "when not matched then insert (id, v) values (s.id, s.v)"
    )
    assert warehouse.rows("select * from t order by 1") == [(1, "old"), (2, "new"), (3, "new")]
    warehouse.ok(
        "merge into t using s on t.id = s.id when matched then delete when not matched then insert values (s.id, s.v)"
    )
    assert warehouse.rows("select * from t order by 1") == [(1, "old")]
    warehouse.ok("insert into s values (3, 'new'), (1, 'newer')")
    warehouse.ok("merge into t using s on t.id = s.id remove duplicates")
    assert warehouse.rows("select * from t order by 1") == [(1, "newer"), (2, "new"), (3, "new")]
    assert "must be a table" in warehouse.error(
        "merge into t using (select * from s) q on t.id = q.id when matched then delete "
        "when not matched then insert values (1, 'x')"
    )
    warehouse.ok("insert into s values (1, 'again')")
    assert "multiple matches" in warehouse.error(
        "merge into t using s on t.id = s.id when matched then update set v = s.v "
        "when not matched then insert values (s.id, s.v)"
    )


def test_truncate_commits(warehouse: Warehouse) -> None:
    warehouse.ok("create table x (a int)")
    assert "does not exist" in warehouse.error(
        "insert into x values (1)", "truncate x", "insert into x values (2)", "select * from nowhere"
    )
    assert warehouse.rows("select count(*) from x") == [(0,)]
    warehouse.ok("insert into x values (3)")
    warehouse.ok("truncate table x", "insert into x values (4)")
    assert warehouse.rows("select a from x") == [(4,)]


@pytest.mark.parametrize(
    "statement",
    [
        "vacuum x",
        "alter table x append from y",
        "alter table x alter column b type varchar(9)",
        "begin",
        "commit",
    ],
)
def test_what_cannot_be_in_a_transaction(warehouse: Warehouse, statement: str) -> None:
    warehouse.ok(
        "create table x (a int, b varchar(3))",
        "create table y (a int, b varchar(3))",
        "insert into y values (1, 'b')",
    )
    assert re.search("cannot (run inside|be in)", warehouse.error("insert into x values (9, 'z')", statement))
    assert warehouse.rows("select count(*) from x") == [(0,)]
    warehouse.ok(statement)
    if "append" in statement:
        assert warehouse.rows("select (select count(*) from x), (select count(*) from y)") == [(1, 0)]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("selec 1", "syntax error"),
        ("select 'open", "syntax error"),
        ("select 1/0", "Divide by zero"),
        ("select * from nowhere", 'relation "nowhere" does not exist'),
        ("select nothing(1)", "does not exist"),
        ("create table x (a strange_type)", 'type "strange_type" does not exist'),
        ("create table x (a varchar(70000))", "cannot exceed 65535"),
        ("create table x (a int) nonsense", "syntax error"),
        ("create external table x (a int)", "not supported by local Redshift"),
        ("copy x from 's3://lake/x' iam_role 'arn:aws:iam::123456789012:role/r' program 'ls'", "PROGRAM"),
        ("do $$ begin end $$", "not supported"),
        ("select pg_read_file('/etc/passwd')", "permission denied"),
        ("select lo_import('/etc/passwd')", "permission denied"),
        ("create table redshift_internal.x (a int)", "permission denied"),
    ],
)
def test_a_statement_that_fails(warehouse: Warehouse, statement: str, message: str) -> None:
    assert message.lower() in warehouse.error(statement).lower()


def test_system_views_know_the_tables(warehouse: Warehouse) -> None:
    warehouse.ok(
        "create schema a",
        "create table a.x (n int not null, v varchar(7)) diststyle key distkey(n) sortkey(v, n)",
        "insert into a.x values (1, 'x')",
    )
    assert warehouse.rows(
        'select schema, "table", diststyle, sortkey1, sortkey_num, tbl_rows from svv_table_info'
    ) == [("a", "x", "KEY(n)", "v", 2, "1")]
    assert warehouse.rows(
        "select column_name, data_type, character_maximum_length, is_nullable from svv_columns "
        "where table_schema = 'a' order by ordinal_position"
    ) == [("n", "integer", None, "NO"), ("v", "character varying", 7, "YES")]
    assert warehouse.rows("select table_name from svv_tables where table_schema = 'a'") == [("x",)]
    assert warehouse.value("count(*) > 0 from stv_sessions") is True


def test_plans_settings_and_grants_pass(warehouse: Warehouse) -> None:
    warehouse.ok("create table x (a int)")
    assert warehouse.rows("explain select * from x")
    for statement in (
        "set query_group to 'etl'",
        "set search_path to public, pg_catalog",
        "analyze x",
        "vacuum full x to 99 percent",
        "grant select on x to public",
        "comment on table x is 'it''s'",
        "alter table x add column b decimal(5,2)",
        "alter table x rename column b to c",
        "alter table x alter diststyle even",
        "alter table x add primary key (a)",
        "drop table if exists x cascade",
    ):
        warehouse.ok(statement)
