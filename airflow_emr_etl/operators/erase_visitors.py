"""Takes visitors out of Redshift, by a list that only Redshift reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_emr_etl.exceptions import MissingInputError
from airflow_emr_etl.hooks.redshift_data import affected_rows
from airflow_emr_etl.hooks.s3_lake import S3LakeHook
from airflow_emr_etl.models import visitor_list
from airflow_emr_etl.models.clickstream_marts import MARTS
from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.models.s3 import S3Uri
from airflow_emr_etl.models.table import RedshiftTable
from airflow_emr_etl.operators.failures import retry_only_what_can_pass
from airflow_emr_etl.operators.redshift_batch import RedshiftBatchOperator
from airflow_emr_etl.warehouse import erasure, schema
from airflow_emr_etl.warehouse.clickstream import TABLES
from airflow_emr_etl.warehouse.history import FENCE, LOAD_DAYS
from airflow_emr_etl.warehouse.marts import SCHEMA

if TYPE_CHECKING:
    from airflow.sdk import Context


class EraseVisitorsOperator(RedshiftBatchOperator):
    """Delete every row of some visitors, in one transaction; to run it again changes nothing.

    The rows go from events and sessions, and from the marts that have rows for visitors. Give the result to
    ``BuildMartsOperator(loads=[erase.output])``: it makes the marts of the days that were touched anew. Tables that
    are not there are left out.

    Returns ``{"load_id": …, "rows": {"analytics.events": 123, …}}``.

    :param visitors: ``s3://…/visitors/manifest.json`` of clickstream_erasure_list (templated); the ids in it reach
        Redshift by COPY, never by a statement
    :param target: the database, and the role that COPY reads S3 with (templated)
    """

    template_fields: Sequence[str] = (*RedshiftBatchOperator.template_fields, "visitors")
    ui_color = "#f5c8c8"

    def __init__(self, *, visitors: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.visitors = visitors

    @cached_property
    def lake(self) -> S3LakeHook:
        return S3LakeHook(self.aws_conn_id, self.region_name)

    def execute(self, context: Context) -> dict[str, Any]:
        with retry_only_what_can_pass():
            return self._attempt(context, 1)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        self._statement_id = event["statement_id"]
        with retry_only_what_can_pass():
            return self._settle(context, event)

    def _list(self) -> tuple[Manifest, str]:
        """The list's manifest, and what the erasure is called."""
        try:
            data = self.lake.read(self.visitors)
        except MissingInputError as error:
            raise MissingInputError(
                f"There is no list of visitors at {self.visitors}. The job clickstream_erasure_list writes it: has it "
                "completed, and with this output?",
                uri=self.visitors,
            ) from error
        manifest = Manifest.from_json(data.decode(errors="replace"))
        visitor_list.check(manifest, self.visitors)
        return manifest, erasure.erasure_id(data)

    def _tables(self) -> list[RedshiftTable]:
        """The tables to delete from; their locks and fences, and ``etl.load_days``, are there afterwards."""
        names = [*(table.name for table in TABLES), *(f"{SCHEMA}.{mart.name}" for mart in MARTS)]
        existing = schema.existing_columns(self.hook.query(schema.select_columns(names)))
        tables = erasure.tables_of_visitors(existing)
        if not tables:
            return []
        fences = sorted({erasure.fence_of(table) for table in tables})
        self._run_ddl(
            [
                f"CREATE SCHEMA IF NOT EXISTS {schema.CONTROL_SCHEMA}",
                schema.create_table(FENCE),
                schema.create_table(LOAD_DAYS),
                *(schema.create_lock(name) for name in fences),
            ]
        )
        for name in fences:
            if not self.hook.query(schema.select_fence(name)):
                self.hook.wait(self.hook.batch(schema.create_fence(name)))
        return tables

    def _attempt(self, context: Context, attempt: int) -> dict[str, Any]:
        manifest, load_id = self._list()
        tables = self._tables()
        if not tables:
            self.log.info("The warehouse has no table with visitors.")
            return {"load_id": load_id, "rows": {}}
        statements = erasure.erase_transaction(
            tables, manifest, str(S3Uri.parse(self.visitors)), load_id=load_id, iam_role=self.place.iam_role
        )
        names = [table.name for table in tables]
        self.log.info("Erasing %d visitors from %s", manifest.record_count, ", ".join(names))
        ti: Any = context["ti"]
        ti.xcom_push(key="erasure", value={"load_id": load_id, "tables": names})
        payload = self._submit(
            context,
            statements,
            token=self._token(context, load_id, attempt),
            name="emr-etl erasure",
            attempt=attempt,
        )
        return self._settle(context, payload)

    def _settle(self, context: Context, payload: dict[str, Any]) -> dict[str, Any]:
        statement = self._ended(payload)
        if statement is None:
            return self._attempt(context, int(payload["attempt"]) + 1)
        ti: Any = context["ti"]
        submitted = ti.xcom_pull(task_ids=self.task_id, key="erasure", map_indexes=ti.map_index)
        rows = affected_rows(statement, erasure.delete_positions(submitted["tables"]))
        for name, count in rows.items():
            self.log.info("%s: %d rows deleted", name, count)
        return {"load_id": submitted["load_id"], "rows": rows}
