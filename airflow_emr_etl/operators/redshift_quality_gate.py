"""A quality check of tables in Redshift that can stop a run."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_emr_etl.exceptions import ConfigurationError, EmrEtlError, MissingInputError
from airflow_emr_etl.hooks.redshift_data import RedshiftDataHook
from airflow_emr_etl.hooks.s3_lake import S3LakeHook
from airflow_emr_etl.models.s3 import as_folder
from airflow_emr_etl.models.table import RedshiftTarget
from airflow_emr_etl.operators.emr_step import beside_dag, read_local
from airflow_emr_etl.operators.failures import checked, retry_only_what_can_pass
from airflow_emr_etl.operators.gate_lineage import redshift_name
from airflow_emr_etl.operators.quality_gate import GateOperator, is_answer
from airflow_emr_etl.operators.waiting import as_timedelta
from airflow_emr_etl.warehouse import literals, schema
from airflow_emr_etl.warehouse.identifiers import qualified, quote

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_emr_etl.hooks.redshift_sql import DataApiConnection
    from airflow_emr_etl.quality.result import GateResult


class RedshiftQualityGateOperator(GateOperator):
    """Run a Great Expectations suite on tables of Redshift, and fail the task where a critical expectation failed.

    Redshift computes everything; the worker, which needs the ``quality`` extra, fetches counts and a few examples
    through the Data API. Suite, results and what is returned are those of ``EmrQualityGateOperator``. Severity
    ``quarantine`` is refused: the rows are in the table already. A failed gate is not retried.

    :param suite: the YAML file of the suite: beside the DAG, or ``s3://…`` (templated)
    :param target: the database (templated)
    :param data: what to check: ``{"events": "analytics.events"}``, a table for each dataset of the suite (templated)
    :param partition: check only rows with these values, such as ``{"dt": "{{ ds }}"}``; the suite finds them as
        ``${partition.dt}`` (templated)
    :param output: ``s3://…`` folder for results (templated)
    :param history: ``s3://…`` folder that holds the results of earlier nights under ``dt=<day>/``, for expectations
        that compare with the past; needs ``dt`` in ``partition`` (templated)
    :param statement_timeout: how long one statement may take, a timedelta or seconds
    """

    template_fields: Sequence[str] = (
        *("suite", "target", "data", "partition", "output_folder", "history", "aws_conn_id", "region_name"),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"data": "json", "partition": "json"}
    ui_color = "#b5e2c4"

    def __init__(
        self,
        *,
        suite: str,
        target: RedshiftTarget | Mapping[str, Any],
        data: Mapping[str, str],
        output: str,
        partition: Mapping[str, str] | None = None,
        history: str | None = None,
        statement_timeout: timedelta | float = timedelta(hours=1),
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.suite = suite
        self.target = target if isinstance(target, Mapping) else target.document()
        self.data = data
        self.partition = partition
        self.output_folder = output  # BaseOperator has an ``output`` of its own
        self.history = history
        self.statement_timeout = as_timedelta(statement_timeout)
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self._connection: DataApiConnection | None = None

    @cached_property
    def hook(self) -> RedshiftDataHook:
        place = checked(RedshiftTarget, self.target, of=f"The target of task {self.task_id}")
        return RedshiftDataHook(place, self.aws_conn_id, self.region_name)

    @cached_property
    def lake(self) -> S3LakeHook:
        return S3LakeHook(self.aws_conn_id, self.region_name)

    def execute(self, context: Context) -> dict[str, Any]:
        with retry_only_what_can_pass():
            output = f"{as_folder(self.output_folder)}attempt={_attempt(context)}/"
            document = self._checked(output).to_json()
            address = f"{output}result.json"
            self.lake.write(address, document.encode())
            return self._judged(context, document, address, {"output": output})

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        if not is_answer(event):
            raise ConfigurationError(
                f"{self.task_id} waits for nothing but an answer; this came: {event!r:.200}"
            )
        return self._answered(context, event)

    def on_kill(self) -> None:
        if self._connection is None:
            return
        try:
            self._connection.cancel()
        except EmrEtlError as error:
            self.log.warning("Could not cancel the statement that runs: %s", error)

    def _lineage_names(self) -> dict[str, tuple[str, str]]:
        place, region = self.hook.target.request(), self.hook.client.meta.region_name
        return {name: redshift_name(place, region, table.lower()) for name, table in self.data.items()}

    def _checked(self, output: str) -> GateResult:
        from airflow_emr_etl.hooks.redshift_sql import DataApiConnection, sql_engine
        from airflow_emr_etl.quality.history import past_nights
        from airflow_emr_etl.quality.runner import run_suite_on_tables
        from airflow_emr_etl.quality.sql_engine import Rows
        from airflow_emr_etl.quality.suite import load_suite

        suite = load_suite(self._suite_text(), self.suite)
        tables = tables_of(self.data, list(suite.datasets), self.suite)
        partition = dict(self.partition or {})
        suite = suite.for_partitions(
            dict.fromkeys(tables, partition),
            {name: selection(table, partition) for name, table in tables.items()},
        )
        if self.history is not None:
            if "dt" not in partition:
                raise ConfigurationError(
                    f"history= of {self.task_id} is given, but partition= has no day (dt), so no night is past."
                )
            files = [str(item.uri) for item in self.lake.list_objects(as_folder(self.history))]
            past = past_nights(files, lambda uri: self.lake.read(uri).decode(), before=partition["dt"])
            suite = past.given_to(suite)
        columns = schema.existing_columns(self.hook.query(schema.select_columns(tables.values())))
        absent = sorted(set(tables.values()) - columns.keys())
        if absent:
            raise MissingInputError(
                f"There is no table {', '.join(absent)} in {self.hook.target.database}, or its owner has not granted "
                "it to this user. Load it first, or name another in data=."
            )
        self._connection = DataApiConnection(
            self.hook,
            name=f"emr-etl gate {self.task_id}",
            timeout_seconds=self.statement_timeout.total_seconds(),
        )
        with tempfile.TemporaryDirectory(prefix="quality-gate-") as folder:
            docs = Path(folder)
            rows = {name: Rows(table, partition) for name, table in tables.items()}
            try:
                result = run_suite_on_tables(suite, sql_engine(self._connection, columns), rows, docs)
            finally:
                if self._connection.broken is not None:  # so no rule was broken, and another try may pass
                    raise self._connection.broken
            self.log.info("%d statements took %.1f s", self._connection.statements, result.seconds)
            for path in sorted(docs.rglob("*")):
                if path.is_file():
                    self.lake.write(
                        f"{output}data_docs/{path.relative_to(docs).as_posix()}", path.read_bytes()
                    )
        return dataclasses.replace(result, data_docs=f"{output}data_docs/index.html")

    def _suite_text(self) -> str:
        if self.suite.startswith(("s3://", "s3a://")):
            return self.lake.read(self.suite).decode()
        return read_local(beside_dag(self, self.suite)).decode()


def tables_of(data: Mapping[str, str], datasets: Sequence[str], source: str) -> dict[str, str]:
    """``schema.table`` in lower case for each dataset. ConfigurationError unless *data* has just these datasets."""
    if set(data) != set(datasets):
        raise ConfigurationError(
            f"{source} checks {', '.join(datasets)}, and data= gives tables for {', '.join(data) or 'none'}; give one "
            "table for each, such as data={'events': 'analytics.events'}."
        )
    for name, table in data.items():
        if qualified(table).count(".") != 1:
            raise ConfigurationError(
                f"data= has {table!r} for {name}; name the schema too, such as 'analytics.{table}'.",
                value=table,
            )
    return {name: data[name].lower() for name in datasets}


def selection(table: str, partition: Mapping[str, str]) -> str:
    """The rows that are checked, as a query of a suite joins them (in braces, with an alias of its own)."""
    if not partition:
        return qualified(table)
    wanted = " AND ".join(f"{quote(name)} = {literals.text(value)}" for name, value in partition.items())
    # The query is filled by str.format.
    return f"(SELECT * FROM {qualified(table)} WHERE {wanted})".replace("{", "{{").replace("}", "}}")  # noqa: S608


def _attempt(context: Context) -> str:
    ti: Any = context["ti"]
    owner = f"{ti.dag_id}|{ti.run_id}|{ti.task_id}|{ti.map_index}|{ti.try_number}"
    return hashlib.sha256(owner.encode()).hexdigest()[:16]
