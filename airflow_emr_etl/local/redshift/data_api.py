"""The Redshift Data API: asynchronous statements with ids, kept results, and idempotency by client token.

Every cluster and workgroup name is accepted and all share one set of databases; a database is made on first use.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import psycopg

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.api import ApiError, JsonApi
from airflow_emr_etl.local.redshift import scan
from airflow_emr_etl.local.redshift.engine import Engine
from airflow_emr_etl.local.redshift.errors import RedshiftError
from airflow_emr_etl.local.redshift.objects import Objects
from airflow_emr_etl.local.redshift.records import Outcome, as_csv
from airflow_emr_etl.local.redshift.session import Session
from airflow_emr_etl.local.redshift.store import FINAL, Statement, Store, SubStatement, now

_MAX_SQL_BYTES = 100_000
_MAX_BATCH = 40
_MAX_RUNNING = 60
_MAX_ACTIVE = 500
_STOP_SECONDS = 10.0
_TARGET_FIELDS = ("ClusterIdentifier", "WorkgroupName", "DbUser", "SecretArn")
_DATABASE_NAME = re.compile(r"[a-zA-Z_][\w$-]{0,62}")
_RESERVED_DATABASES = frozenset({"postgres", "template0", "template1"})


class RedshiftDataApi(JsonApi):
    """``state`` keeps databases, statements and results; ``objects`` is the folder that holds the S3 buckets.

    ``start`` is quick: Postgres starts with the first statement.
    """

    service: ClassVar[str] = "redshift-data"

    def __init__(self, state: Path, objects: Path) -> None:
        self._state = state
        self._engine = Engine(state)
        self._objects = Objects(objects)
        self._store: Store | None = None
        self._changed = threading.Condition()
        self._active: dict[str, Statement] = {}
        self._sessions: dict[str, Session] = {}
        self._cancelled: set[str] = set()
        self._threads: dict[str, threading.Thread] = {}
        self._slots = threading.BoundedSemaphore(_MAX_RUNNING)
        self._stopping = False

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._store is not None:
            return
        self._engine.open()
        self._store = Store(self._state / "statements.sqlite")
        self._store.prune()
        self._stopping = False
        for statement in self._store.unfinished():
            _lose(statement)
            self._store.save(statement)

    def stop(self) -> None:
        if self._store is None:
            return
        with self._changed:
            self._stopping = True
            threads = list(self._threads.values())
            sessions = list(self._sessions.values())
            self._changed.notify_all()
        for session in sessions:
            _quietly(session.cancel)
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._engine.stop()
        for thread in threads:  # without a server under it, a statement fails at once
            thread.join(_STOP_SECONDS)
        self._store.close()
        self._store = None

    @property
    def postmaster_pid(self) -> int | None:
        """The process id of the Postgres server, while it runs."""
        return self._engine.pid

    def query(self, sql: str, database: str = "dev") -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run one statement now and return its columns and rows. Raises ApiError where it fails."""
        try:
            session = Session(self._engine, self._objects, database)
        except psycopg.Error as error:
            raise ApiError("InternalServerException", str(error), status=500) from error
        try:
            outcome = session.run_alone(sql, self._open_store().next_query_ids(1)[0])
        except RedshiftError as error:
            raise ApiError("ExecuteStatementException", f"ERROR: {error.message}") from error
        finally:
            session.close()
        names = [column["name"] for column in outcome.columns or []]
        rows = [
            tuple(None if e.get("isNull") else next(iter(e.values())) for e in record)
            for record in outcome.records
        ]
        return names, rows

    # -- submitting -----------------------------------------------------------------------------------------------

    def execute_statement(self, params: dict[str, Any]) -> dict[str, Any]:
        text = params["Sql"]
        pieces = _split(text)
        if len(pieces) != 1:
            reason = (
                "Sql is empty" if not pieces else "Multiple statements are not allowed in ExecuteStatement"
            )
            raise ApiError("ValidationException", f"{reason}; use BatchExecuteStatement for several.")
        return self._submit(params, [text], batch=False)

    def batch_execute_statement(self, params: dict[str, Any]) -> dict[str, Any]:
        texts = params["Sqls"]
        if not 1 <= len(texts) <= _MAX_BATCH:
            raise ApiError(
                "ValidationException", f"Sqls must have 1 to {_MAX_BATCH} statements, not {len(texts)}."
            )
        for at, text in enumerate(texts, 1):
            if len(_split(text)) != 1:
                raise ApiError(
                    "ValidationException", f"Statement #{at} of Sqls must be exactly one statement."
                )
        return self._submit(params, texts, batch=True)

    def _submit(self, params: dict[str, Any], texts: list[str], *, batch: bool) -> dict[str, Any]:
        store = self._open_store()
        database = _database(params)
        _refuse_unsupported(params)
        size = sum(len(text.encode()) for text in texts)
        if size > _MAX_SQL_BYTES:
            raise ApiError(
                "ValidationException",
                f"The statements have {size} bytes; at most {_MAX_SQL_BYTES} are allowed.",
            )
        bound = _bind(texts, params.get("Parameters", []))
        with self._changed:
            if self._stopping:
                raise ApiError("InternalServerException", "Local Redshift is stopping.", status=500)
            if len(self._active) >= _MAX_ACTIVE:
                raise ApiError(
                    "ActiveStatementsExceededException", f"{_MAX_ACTIVE} statements are active already."
                )
            id = str(uuid.uuid4())
            token = params.get("ClientToken")
            if token:
                request = hashlib.sha256(json.dumps(_essence(params), sort_keys=True).encode()).hexdigest()
                owner, first_request = store.claim_token(token, id, request)
                if first_request != request:
                    raise ApiError(
                        "ValidationException", f"ClientToken {token} was used before with another request."
                    )
                if owner != id and (known := store.load(owner)) is not None:
                    return _submitted(self._active.get(owner, known))
            statement = _new_statement(id, params, texts, database, store, batch=batch)
            store.save(statement)
            self._active[id] = statement
            for field in ("ClusterIdentifier", "WorkgroupName"):
                if params.get(field):
                    store.remember_endpoint(params[field])
            thread = threading.Thread(
                target=self._work, args=(statement, bound), name=f"redshift-{id[:8]}", daemon=True
            )
            self._threads[id] = thread
            thread.start()
        return _submitted(self._await_final(statement, params))

    # -- running --------------------------------------------------------------------------------------------------

    def _work(self, statement: Statement, texts: list[str]) -> None:
        try:
            with self._slots:
                self._run(statement, texts)
        except (LocalAwsError, psycopg.Error, OSError) as error:
            self._fail(statement, 0, f"ERROR: {error}")
        except Exception as error:  # a defect of ours must not leave a statement running for ever
            self._fail(statement, 0, f"ERROR: local Redshift has a defect: {type(error).__name__}: {error}")
            raise
        finally:
            with self._changed:
                self._active.pop(statement.id, None)
                self._threads.pop(statement.id, None)
                self._cancelled.discard(statement.id)
                self._changed.notify_all()

    def _run(self, statement: Statement, texts: list[str]) -> None:
        if not self._advance(statement, "PICKED"):
            return
        session = Session(self._engine, self._objects, statement.database)
        try:
            with self._changed:
                self._sessions[statement.id] = session
                statement.pid = session.pid
            statement.started = now()
            began = time.monotonic_ns()
            if not self._advance(statement, "STARTED"):
                return
            if statement.batch and statement.mode == "TRANSACTION":
                self._run_transaction(statement, texts, session)
            else:
                self._run_each(statement, texts, session)
            self._settle(statement, began)
        finally:
            with self._changed:
                self._sessions.pop(statement.id, None)
            session.close()

    def _run_transaction(self, statement: Statement, texts: list[str], session: Session) -> None:
        store = self._open_store()
        clock = [time.monotonic_ns()]

        def done(at: int, outcome: Outcome) -> None:
            self._part_done(store, statement.parts[at], outcome, clock)
            if at + 1 < len(statement.parts):
                statement.parts[at + 1].status = "STARTED"

        statement.parts[0].status = "STARTED"
        failure = session.run_transaction(texts, [part.query_id for part in statement.parts], done)
        if failure is not None:
            part = statement.parts[failure.at]
            part.status, part.error = "FAILED", f"ERROR: {failure.error.message}"
            for later in statement.parts[failure.at + 1 :]:
                later.status = "ABORTED"
            statement.error = f"Query #{failure.at + 1} failed with ERROR: {failure.error.message}"

    def _run_each(self, statement: Statement, texts: list[str], session: Session) -> None:
        store = self._open_store()
        for part, text in zip(statement.parts, texts, strict=True):
            clock = [time.monotonic_ns()]
            part.status = "STARTED"
            try:
                outcome = session.run_alone(text, part.query_id)
            except RedshiftError as error:
                part.status, part.error = "FAILED", f"ERROR: {error.message}"
                number = f"Query #{statement.parts.index(part) + 1} failed with " if statement.batch else ""
                statement.error = statement.error or f"{number}ERROR: {error.message}"
            else:
                self._part_done(store, part, outcome, clock)

    def _part_done(self, store: Store, part: SubStatement, outcome: Outcome, clock: list[int]) -> None:
        moment = time.monotonic_ns()
        part.duration_ns, clock[0] = moment - clock[0], moment
        part.rows, part.size, part.has_result = outcome.rows, outcome.size, outcome.has_result
        part.columns = outcome.columns
        part.status = "FINISHED"
        part.updated = now()
        if outcome.has_result:
            store.save_result(part.id, outcome)

    def _settle(self, statement: Statement, began: int) -> None:
        with self._changed:
            statement.duration_ns = time.monotonic_ns() - began
            interrupted = statement.error is not None and "canceling statement due to user" in statement.error
            if statement.error is None:
                statement.status = "FINISHED"
            elif interrupted and statement.id in self._cancelled:
                _abort(statement, "Query cancelled on user's request")
            elif interrupted and self._stopping:
                _lose(statement)
            else:
                statement.status = "FAILED"
            self._open_store().save(statement)
            self._changed.notify_all()

    def _advance(self, statement: Statement, status: str) -> bool:
        """False, with the statement aborted, when somebody cancelled it."""
        with self._changed:
            if statement.id in self._cancelled:
                _abort(statement, "Query cancelled on user's request")
            elif self._stopping:
                _lose(statement)
            else:
                statement.status = status
            self._open_store().save(statement)
            self._changed.notify_all()
            return not statement.final

    def _fail(self, statement: Statement, at: int, error: str) -> None:
        with self._changed:
            if statement.final:
                return
            statement.status, statement.error = "FAILED", error
            statement.parts[at].error = error
            for part in statement.parts:
                part.status = "FAILED" if part is statement.parts[at] else "ABORTED"
            if self._store is not None:
                self._store.save(statement)
            self._changed.notify_all()

    # -- looking --------------------------------------------------------------------------------------------------

    def describe_statement(self, params: dict[str, Any]) -> dict[str, Any]:
        statement, at = self._find(params["Id"])
        statement = self._await_final(statement, params)
        return _described(statement) if at is None else _described_part(statement, at)

    def get_statement_result(self, params: dict[str, Any]) -> dict[str, Any]:
        part, records, token = self._page(params, "JSON")
        answer = {"Records": records, "ColumnMetadata": part.columns, "TotalNumRows": part.rows}
        return answer | ({"NextToken": token} if token else {})

    def get_statement_result_v2(self, params: dict[str, Any]) -> dict[str, Any]:
        part, records, token = self._page(params, "CSV")
        text = as_csv(part.columns or [], records, header="NextToken" not in params)
        answer = {
            "Records": [{"CSVRecords": text}],
            "ColumnMetadata": part.columns,
            "TotalNumRows": part.rows,
            "ResultFormat": "CSV",
        }
        return answer | ({"NextToken": token} if token else {})

    def _page(self, params: dict[str, Any], form: str) -> tuple[SubStatement, list[Any], str | None]:
        statement, at = self._find(params["Id"])
        statement = self._await_final(statement, params)
        if statement.result_format != form:
            other = "GetStatementResult" if form == "CSV" else "GetStatementResultV2"
            raise ApiError(
                "ValidationException", f"The result is in format {statement.result_format}; use {other}."
            )
        if at is None and statement.batch:
            raise ApiError(
                "ValidationException",
                f"{statement.id} is a batch. Ask for a sub-statement, such as {statement.id}:1.",
            )
        part = statement.parts[at or 0]
        if statement.status != "FINISHED" or not part.has_result:
            why = (
                f"its status is {statement.status}"
                if statement.status != "FINISHED"
                else "it returns no rows"
            )
            raise ApiError(
                "ResourceNotFoundException", f"Query does not have result: {why}. Id {params['Id']}."
            )
        number = _page_number(params.get("NextToken"))
        found = self._open_store().result_page(part.id, number)
        if found is None:
            raise ApiError("ValidationException", "NextToken is not one that this statement gave.")
        records, more = found
        return part, records, str(number + 1) if more else None

    def list_statements(self, params: dict[str, Any]) -> dict[str, Any]:
        wanted = params.get("Status", "ALL")
        found = [self._active.get(s.id, s) for s in self._open_store().newest_first()]
        matching = [
            s
            for s in found
            if wanted in ("ALL", s.status)
            and (s.name or "").startswith(params.get("StatementName", ""))
            and params.get("Database") in (None, s.database)
            and all(params.get(f) in (None, s.target.get(f)) for f in ("ClusterIdentifier", "WorkgroupName"))
        ]
        page, token = _slice(matching, params, 100)
        answer: dict[str, Any] = {"Statements": [_listed(statement) for statement in page]}
        return answer | ({"NextToken": token} if token else {})

    def cancel_statement(self, params: dict[str, Any]) -> dict[str, Any]:
        statement, _ = self._find(params["Id"])
        with self._changed:
            if statement.final:
                raise ApiError(
                    "ValidationException",
                    f"Could not cancel a query that is already in {statement.status} state",
                )
            self._cancelled.add(statement.id)
            session = self._sessions.get(statement.id)
        if session is not None:
            name = f"redshift-cancel-{statement.id}"
            threading.Thread(
                target=self._cancel_until_over, args=(statement, session), name=name, daemon=True
            ).start()
        return {"Status": True}

    def _cancel_until_over(self, statement: Statement, session: Session) -> None:
        """Postgres forgets a cancellation that comes between two queries, so one is not enough."""

        def is_over() -> bool:
            return statement.final or self._stopping or statement.id not in self._sessions

        while True:
            _quietly(session.cancel)
            with self._changed:
                if self._changed.wait_for(is_over, timeout=0.2):
                    return

    # -- catalogue ------------------------------------------------------------------------------------------------

    def list_databases(self, params: dict[str, Any]) -> dict[str, Any]:
        rows = self._catalogue(
            params,
            "SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1') ORDER BY 1",
        )
        page, token = _slice([row[0] for row in rows], params, 1000)
        return {"Databases": page} | ({"NextToken": token} if token else {})

    def list_schemas(self, params: dict[str, Any]) -> dict[str, Any]:
        rows = self._catalogue(
            params,
            "SELECT schema_name FROM svv_all_schemas WHERE schema_name LIKE %s ORDER BY 1",
            (params.get("SchemaPattern", "%"),),
        )
        page, token = _slice([row[0] for row in rows], params, 1000)
        return {"Schemas": page} | ({"NextToken": token} if token else {})

    def list_tables(self, params: dict[str, Any]) -> dict[str, Any]:
        rows = self._catalogue(
            params,
            "SELECT table_schema, table_name, table_type FROM svv_tables WHERE table_schema LIKE %s "
            "AND table_name LIKE %s ORDER BY 1, 2",
            (params.get("SchemaPattern", "%"), params.get("TablePattern", "%")),
        )
        page, token = _slice(rows, params, 1000)
        tables = [
            {"schema": r[0], "name": r[1], "type": "TABLE" if r[2] == "BASE TABLE" else r[2]} for r in page
        ]
        return {"Tables": tables} | ({"NextToken": token} if token else {})

    def describe_table(self, params: dict[str, Any]) -> dict[str, Any]:
        rows = self._catalogue(
            params,
            "SELECT column_name, udt_name, is_nullable, table_schema, table_name, column_default, "
            "coalesce(character_maximum_length, numeric_precision, 0), coalesce(numeric_scale, 0) "
            "FROM information_schema.columns WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
            (params.get("Schema", "public"), params.get("Table", "")),
        )
        if not rows:
            name = f"{params.get('Schema', 'public')}.{params.get('Table', '')}"
            raise ApiError("ResourceNotFoundException", f"There is no table {name}.")
        page, token = _slice(rows, params, 1000)
        columns = [
            {
                "name": r[0],
                "label": r[0],
                "typeName": r[1],
                "nullable": int(r[2] == "YES"),
                "schemaName": r[3],
                "tableName": r[4],
                "precision": r[6],
                "scale": r[7],
                "length": r[6],
            }
            | ({"columnDefault": r[5]} if r[5] else {})
            for r in page
        ]
        return {"TableName": rows[0][4], "ColumnList": columns} | ({"NextToken": token} if token else {})

    def _catalogue(
        self, params: dict[str, Any], sql: str, values: tuple[Any, ...] = ()
    ) -> list[tuple[Any, ...]]:
        database = params.get("ConnectedDatabase") or _database(params)
        try:
            with self._engine.connect(database) as connection:
                return connection.execute(sql.encode(), values or None).fetchall()
        except (LocalAwsError, psycopg.Error) as error:
            raise ApiError("DatabaseConnectionException", str(error), status=500) from error

    # -- pieces ---------------------------------------------------------------------------------------------------

    def _open_store(self) -> Store:
        store = self._store
        if store is None:
            raise ApiError("InternalServerException", "Local Redshift is stopped.", status=500)
        return store

    def _find(self, id: str) -> tuple[Statement, int | None]:
        whole, _, number = id.partition(":")
        statement = self._active.get(whole) or self._open_store().load(whole)
        at = int(number) - 1 if number.isdigit() else None
        if statement is None or (
            number and (at is None or not 0 <= at < len(statement.parts) or not statement.batch)
        ):
            raise ApiError("ResourceNotFoundException", f"Query does not exist. Id {id}")
        return statement, at

    def _await_final(self, statement: Statement, params: dict[str, Any]) -> Statement:
        """The statement, after the long poll that was asked for."""
        seconds = params.get("WaitTimeSeconds")
        if seconds:
            with self._changed:
                self._changed.wait_for(lambda: statement.final or self._stopping, timeout=float(seconds))
        return statement


# -- requests -----------------------------------------------------------------------------------------------------


def _split(text: str) -> list[str]:
    try:
        return scan.split(text)
    except scan.ScanError:
        return [text]  # the statement itself will fail, as it does on Redshift


def _database(params: dict[str, Any]) -> str:
    if params.get("ClusterIdentifier") and params.get("WorkgroupName"):
        raise ApiError("ValidationException", "Say ClusterIdentifier or WorkgroupName, not both.")
    if not params.get("ClusterIdentifier") and not params.get("WorkgroupName"):
        raise ApiError("ValidationException", "One of ClusterIdentifier and WorkgroupName is required.")
    name = str(params.get("Database") or "dev").lower()
    if not _DATABASE_NAME.fullmatch(name) or name in _RESERVED_DATABASES:
        raise ApiError("ValidationException", f"Database {name!r} is not a name that local Redshift can use.")
    return name


def _refuse_unsupported(params: dict[str, Any]) -> None:
    for field in ("SessionId", "SessionKeepAliveSeconds"):
        if params.get(field):
            raise ApiError("ValidationException", f"{field} is not supported by local Redshift.")


def _bind(texts: list[str], parameters: list[dict[str, str]]) -> list[str]:
    values: dict[str, str] = {}
    for parameter in parameters:
        if not parameter.get("value"):
            raise ApiError(
                "ValidationException",
                f"Parameter {parameter.get('name')} has no value; NULL and '' cannot be sent.",
            )
        values[parameter["name"]] = parameter["value"]
    if not values:
        return texts
    bound: list[str] = []
    used: set[str] = set()
    for text in texts:
        try:
            result, names = scan.bind(text, values)
        except KeyError as error:
            raise ApiError(
                "ValidationException", f"Parameter {error.args[0]} is in the statement but not in Parameters."
            ) from error
        except scan.ScanError:
            result, names = text, frozenset()
        bound.append(result)
        used |= names
    if unused := sorted(values.keys() - used):
        raise ApiError(
            "ValidationException", f"Parameters {', '.join(unused)} are not used by any statement."
        )
    return bound


def _essence(params: dict[str, Any]) -> dict[str, Any]:
    """What makes a request the same request."""
    return {k: v for k, v in params.items() if k not in ("ClientToken", "WaitTimeSeconds", "WithEvent")}


def _new_statement(
    id: str, params: dict[str, Any], texts: list[str], database: str, store: Store, *, batch: bool
) -> Statement:
    moment = now()
    parts = [
        SubStatement(f"{id}:{n}" if batch else id, text, query_id, created=moment, updated=moment)
        for n, (text, query_id) in enumerate(zip(texts, store.next_query_ids(len(texts)), strict=True), 1)
    ]
    return Statement(
        id=id,
        batch=batch,
        parts=parts,
        created=moment,
        updated=moment,
        database=database,
        target={field: params[field] for field in _TARGET_FIELDS if params.get(field)},
        name=params.get("StatementName"),
        parameters=params.get("Parameters", []),
        result_format=params.get("ResultFormat", "JSON"),
        mode=params.get("ExecutionMode", "TRANSACTION"),
    )


def _abort(statement: Statement, reason: str) -> None:
    statement.status, statement.error = "ABORTED", reason
    for part in statement.parts:
        if part.status not in FINAL:
            part.status = "ABORTED"


def _lose(statement: Statement) -> None:
    statement.status = "FAILED"
    statement.error = "ERROR: the connection was lost: local Redshift was stopped while this statement ran"
    for part in statement.parts:
        if part.status not in FINAL:
            part.status = "ABORTED"


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except psycopg.Error:
        return  # it ended by itself in between


# -- answers ------------------------------------------------------------------------------------------------------


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def _submitted(statement: Statement) -> dict[str, Any]:
    return {
        "Id": statement.id,
        "CreatedAt": _time(statement.created),
        "Database": statement.database,
        "DbGroups": [],
        "Status": statement.status,
        "HasResultSet": statement.has_result,
        **({"RedshiftPid": statement.pid} if statement.pid else {}),
        **statement.target,
    }


def _described(statement: Statement) -> dict[str, Any]:
    last = statement.parts[-1]
    answer = {
        "Id": statement.id,
        "Status": statement.status,
        "CreatedAt": _time(statement.created),
        "UpdatedAt": _time(statement.updated),
        "Database": statement.database,
        "Duration": statement.duration_ns if statement.final else -1,
        "HasResultSet": statement.has_result if statement.status == "FINISHED" else False,
        "RedshiftPid": statement.pid,
        "RedshiftQueryId": last.query_id if not statement.batch else 0,
        "ResultRows": last.rows if not statement.batch else -1,
        "ResultSize": last.size if not statement.batch else -1,
        "ResultFormat": statement.result_format,
        **statement.target,
    }
    if statement.parameters:
        answer["QueryParameters"] = statement.parameters
    if statement.error:
        answer["Error"] = statement.error
    if statement.batch:
        answer["ExecutionMode"] = statement.mode
        answer["SubStatements"] = [_part(part, statement) for part in statement.parts]
    else:
        answer["QueryString"] = last.query
    return answer


def _part(part: SubStatement, statement: Statement) -> dict[str, Any]:
    return {
        "Id": part.id,
        "Status": part.status,
        "CreatedAt": _time(part.created),
        "UpdatedAt": _time(part.updated),
        "Duration": part.duration_ns if part.status in FINAL else -1,
        "HasResultSet": part.has_result and statement.status == "FINISHED",
        "QueryString": part.query,
        "RedshiftQueryId": part.query_id if part.status not in ("SUBMITTED", "ABORTED") else -1,
        "ResultRows": part.rows,
        "ResultSize": part.size,
        **({"Error": part.error} if part.error else {}),
    }


def _described_part(statement: Statement, at: int) -> dict[str, Any]:
    return _part(statement.parts[at], statement) | {"Database": statement.database, **statement.target}


def _listed(statement: Statement) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "Id": statement.id,
        "Status": statement.status,
        "CreatedAt": _time(statement.created),
        "UpdatedAt": _time(statement.updated),
        "IsBatchStatement": statement.batch,
        "ResultFormat": statement.result_format,
        "QueryStrings": [part.query for part in statement.parts],
    }
    if not statement.batch:
        answer["QueryString"] = statement.parts[0].query
    if statement.name:
        answer["StatementName"] = statement.name
    if statement.parameters:
        answer["QueryParameters"] = statement.parameters
    return answer


def _page_number(token: str | None) -> int:
    if token is None:
        return 0
    if not token.isdigit():
        raise ApiError("ValidationException", "NextToken is not one that this operation gave.")
    return int(token)


def _slice(items: list[Any], params: dict[str, Any], most: int) -> tuple[list[Any], str | None]:
    start = _page_number(params.get("NextToken"))
    size = min(params.get("MaxResults") or most, most)
    return items[start : start + size], str(start + size) if start + size < len(items) else None
