"""Load what a manifest lists into Redshift, effectively once for each load id.

The promise holds for tables that only this loader writes. How it is kept is in ``warehouse/load_plan.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_emr_etl.exceptions import (
    AccountingError,
    EmrEtlError,
    LoadError,
    ManifestError,
    MissingInputError,
    RowCountMismatchError,
    StaleLoadError,
)
from airflow_emr_etl.hooks.redshift_data import error_text, failure, is_conflict, statement_state
from airflow_emr_etl.hooks.s3_lake import S3LakeHook
from airflow_emr_etl.models.manifest import BATCH, Manifest
from airflow_emr_etl.models.s3 import S3Uri
from airflow_emr_etl.models.statement import StatementState
from airflow_emr_etl.models.table import RedshiftTable, RedshiftTarget
from airflow_emr_etl.operators.failures import retry_only_what_can_pass
from airflow_emr_etl.operators.redshift_batch import MAX_ATTEMPTS, RedshiftBatchOperator
from airflow_emr_etl.operators.waiting import raise_if_not_waited
from airflow_emr_etl.warehouse import load_plan, schema
from airflow_emr_etl.warehouse.history import FENCE, HISTORY, LOAD_DAYS, Load, load_id, select_load

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["RedshiftLoadOperator", "RedshiftTable"]


class RedshiftLoadOperator(RedshiftBatchOperator):
    """Load one batch of Parquet files, all or nothing, once.

    The manifest is read and checked: its columns are the table's, its lines add up, it is for the partition.
    Then the history is asked whether this batch is loaded already; if so the task succeeds and says so. If not,
    schemas and tables are created where they are absent, and one transaction puts the rows in the place of those
    that the table's ``mode`` says.

    Returns ``{"load_id", "target", "partition", "rows", "already_loaded"}``.

    :param table: what to load into; columns that it does not state are taken from the manifest
    :param manifest: ``s3://…/manifest.json``, written last by the Spark job (templated)
    :param target: the database, and the role that COPY reads S3 with (templated)
    :param partition: the value that the manifest must be for; by default what the manifest says (templated). To be
        left out for a batch of a stream, which clears no partition
    """

    template_fields: Sequence[str] = (*RedshiftBatchOperator.template_fields, "manifest", "partition")

    def __init__(
        self, *, table: RedshiftTable, manifest: str, partition: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.manifest = manifest
        self.partition = partition

    @cached_property
    def lake(self) -> S3LakeHook:
        return S3LakeHook(self.aws_conn_id, self.region_name)

    # -- life -----------------------------------------------------------------------------------------------------

    def execute(self, context: Context) -> dict[str, Any]:
        with retry_only_what_can_pass():
            table, load = self._read(context)
            recorded = self._prepare(table, load)
            if recorded is not None:
                return self._result(load, recorded, already_loaded=True)
            return self._attempt(context, table, load, 1)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        self._statement_id = event["statement_id"]
        with retry_only_what_can_pass():
            table, load = self._read(context)
            return self._settle(context, table, load, event)

    # -- before ---------------------------------------------------------------------------------------------------

    def _read(self, context: Context) -> tuple[RedshiftTable, Load]:
        """The manifest, checked against the table and against itself."""
        try:
            data = self.lake.read(self.manifest)
        except MissingInputError as error:
            raise ManifestError(
                f"There is no manifest at {self.manifest}. The Spark job writes it last: has it completed, and "
                "with this output?",
                manifest=self.manifest,
            ) from error
        manifest = Manifest.from_json(data.decode(errors="replace"))
        table = self.table if self.table.columns else self.table.with_columns(schema.columns_of(manifest))
        schema.check_manifest(table, manifest)
        check_accounting(manifest)
        ti: Any = context["ti"]
        partition = partition_of(table, manifest, self.partition)
        return table, Load(
            load_id=load_id(ti.dag_id, table.name, partition, data),
            target=table.name,
            partition=partition,
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            manifest_uri=str(S3Uri.parse(self.manifest)),
            manifest=manifest,
        )

    def _prepare(self, table: RedshiftTable, load: Load) -> dict[str, Any] | None:
        """The history row of this load; where there is none, the tables that it needs exist afterwards."""
        needed = [table.name, HISTORY.name, FENCE.name, LOAD_DAYS.name, schema.lock_table(table.name)]
        existing = schema.existing_columns(self.hook.query(schema.select_columns(needed)))
        self._add_columns(HISTORY, existing)
        fenced = False
        if HISTORY.name in existing and FENCE.name in existing:
            recorded, fence = self.hook.query_all(
                [select_load(load.load_id), schema.select_fence(table.name)]
            )
            if recorded:
                return recorded[0]
            fenced = bool(fence)
        if any(name not in existing for name in needed):
            self.log.info("Creating what is absent of %s", ", ".join(sorted(set(needed) - set(existing))))
            self._run_ddl(schema.create_all(table))
        self._add_columns(table, existing)
        if not fenced:  # waits for a load of this table that is under way, so only the first time
            self.hook.wait(self.hook.batch(schema.create_fence(table.name)))
        return None

    def _recorded(self, load: Load) -> dict[str, Any] | None:
        rows = self.hook.query(select_load(load.load_id))
        return rows[0] if rows else None

    # -- the load -------------------------------------------------------------------------------------------------

    def _attempt(self, context: Context, table: RedshiftTable, load: Load, attempt: int) -> dict[str, Any]:
        statements = load_plan.load_transaction(table, load, iam_role=self.place.iam_role)
        ti: Any = context["ti"]
        self.log.info(
            "Loading %d rows of %d files into %s, partition %s: load %s",
            load.manifest.record_count,
            len(load.manifest.entries),
            load.target,
            load.partition,
            load.load_id,
        )
        payload = self._submit(
            context,
            statements,
            token=client_token(load, self.place, ti.map_index, ti.try_number, attempt),
            name=f"emr-etl load {load.target} {load.partition or ''}".strip(),
            attempt=attempt,
        )
        return self._settle(context, table, load, payload)

    def _settle(
        self, context: Context, table: RedshiftTable, load: Load, payload: dict[str, Any]
    ) -> dict[str, Any]:
        """What the end of the statement means. The history has the last word on every end but a good one."""
        if payload["status"] != "done":
            self._cancel()
            if recorded := self._recorded(load):
                return self._result(load, recorded, already_loaded=True)
            raise_if_not_waited(payload, f"statement {payload['statement_id']}")
        statement = payload["statement"]
        recorded = self._recorded(load)
        if recorded is not None:
            finished = statement_state(statement) is StatementState.FINISHED
            return self._result(load, recorded, already_loaded=not finished)
        text = error_text(statement)
        if is_conflict(text) and payload["attempt"] < MAX_ATTEMPTS:
            self.log.warning("Another transaction was in the way, loading again: %s", text)
            return self._attempt(context, table, load, int(payload["attempt"]) + 1)
        raise load_error(table, load, statement)

    def _result(self, load: Load, recorded: Mapping[str, Any], *, already_loaded: bool) -> dict[str, Any]:
        if already_loaded:
            self.log.info(
                "Loaded already: %s rows into %s, partition %s, at %s by run %s. Nothing was changed.",
                recorded["rows_loaded"],
                load.target,
                load.partition,
                recorded["loaded_at"],
                recorded["run_id"],
            )
        else:
            self.log.info(
                "Loaded %s rows into %s, partition %s", recorded["rows_loaded"], load.target, load.partition
            )
        return {
            "load_id": load.load_id,
            "target": load.target,
            "partition": load.partition,
            "rows": int(recorded["rows_loaded"]),
            "already_loaded": already_loaded,
        }


# -- decisions ----------------------------------------------------------------------------------------------------


def client_token(load: Load, place: RedshiftTarget, map_index: int, try_number: int, attempt: int) -> str:
    """The same for the same attempt of the same task, so that a request sent twice is one statement.

    The place is part of it: one run may load the same manifest into two warehouses.
    """
    where = "|".join(f"{name}={value}" for name, value in sorted(place.request().items()))
    owner = hashlib.sha256(f"{load.run_id}|{map_index}|{where}".encode()).hexdigest()
    return f"{load.load_id[:32]}-{owner[:12]}-{try_number}-{attempt}"


def check_accounting(manifest: Manifest) -> None:
    """Check again, after the job, that every line is accounted for, and that the rows are those that were counted."""
    accounting = manifest.accounting
    if accounting is None:
        return
    accounting.check()
    if (
        manifest.restatement is not None
    ):  # it also carries rows of other batches, which their own accounting counts
        return
    expected = {"events": accounting.valid, "sessions": accounting.sessions}.get(manifest.dataset)
    if expected is not None and expected != manifest.record_count:
        raise AccountingError(
            f"The manifest counts {expected} {manifest.dataset}, but its files have {manifest.record_count} rows.",
            expected=expected,
            rows=manifest.record_count,
        )


def partition_of(table: RedshiftTable, manifest: Manifest, wanted: str | None) -> str | None:
    """The partition's value; None for a batch that is not a whole partition's, and is loaded by its keys alone.

    Raises ManifestError where the manifest is for another one, or for none.
    """
    if table.partition is None:
        return wanted
    stated, batch = manifest.partition.get(table.partition), manifest.partition.get(BATCH)
    if stated is None and batch is not None:
        what = f"The manifest of {manifest.dataset} is of the batch {batch}, one of several of its {table.partition}"
        if table.mode == "replace":
            raise ManifestError(
                f"{what}: it must not take the place of a whole {table.partition}, as every load of {table.name} "
                "does (mode='replace'). Load what a run over the whole day writes, or into a table with "
                "mode='restate' or 'merge', whose keys tell its rows from those of the other batches."
            )
        if wanted is not None:
            raise ManifestError(
                f"{what}, and not all of {wanted}. Leave out partition=: the batch then takes the place of the rows "
                f"with the same {', '.join(table.keys)}, and all others of the {table.partition} stay. Load the "
                "batches of a stream one after another, in the order of their restatement."
            )
        return None
    if stated is None:
        raise ManifestError(
            f"The manifest of {manifest.dataset} does not say its {table.partition}, by which {table.name} is "
            f"partitioned; it says {dict(manifest.partition)}."
        )
    if wanted is not None and wanted != stated:
        raise ManifestError(
            f"The manifest of {manifest.dataset} is for {table.partition}={stated}, not {wanted}: is it the "
            "output of another run?"
        )
    return stated


def load_error(table: RedshiftTable, load: Load, statement: Mapping[str, Any]) -> EmrEtlError:
    """The error for a transaction that was rolled back, by the assertion that failed in it."""
    text = error_text(statement)
    details = {"statement_id": statement["Id"], "error": text, "load_id": load.load_id}
    what = f"Nothing of load {load.load_id[:12]} into {table.name} is visible"
    assertion = load_plan.failed_assertion(text)
    if assertion == load_plan.ROW_COUNT_MATCHES:
        return RowCountMismatchError(
            f"{what}: COPY did not stage the {load.manifest.record_count} rows that {load.manifest_uri} promises. "
            "Were its files changed after it was written? Run the Spark step again.",
            **details,
        )
    if assertion == load_plan.KEYS_ARE_DISTINCT:
        return LoadError(
            f"{what}: {', '.join(table.keys)} is not distinct among the rows of {load.manifest_uri}.",
            **details,
        )
    if assertion == load_plan.ROWS_ARE_OF_THE_PARTITION:
        return LoadError(
            f"{what}: {load.manifest_uri} has rows whose {table.partition} is not {load.partition}.",
            **details,
        )
    if assertion == load_plan.NO_LATER_STATE_IS_LOADED:
        remedy = (
            f"Run sessionize for {load.partition or 'this batch'} again: it states the rows anew on top of that, "
            "with a greater number. What a stream wrote is made anew by the stream, into another --output and from "
            "another --checkpoint."
        )
        if (batch := load.manifest.partition.get(BATCH)) is not None:
            remedy = (
                f"The batches of a stream are loaded in the order of their restatement, and {batch} comes too late: "
                "run the stream again, into another --output and from another --checkpoint, and load what it writes."
            )
        return StaleLoadError(
            f"{what}: a state later than {load.manifest.restatement} is in {table.name} already, and "
            f"{load.manifest_uri} would undo it. {remedy}",
            restatement=load.manifest.restatement,
            **details,
        )
    if assertion == load_plan.ROWS_ARE_WITHIN_THEIR_SPANS:
        assert table.restates is not None
        return LoadError(
            f"{what}: {load.manifest_uri} has rows without {table.restates.by}, span or {table.restates.retracted}, "
            f"or whose {table.restates.at} is not within their {table.restates.begin} to {table.restates.end}.",
            **details,
        )
    return failure(statement)
