"""Makes marts anew in Redshift, for the days that loads touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.hooks.redshift_data import affected_rows
from airflow_emr_etl.models.clickstream_marts import MARTS
from airflow_emr_etl.models.mart import Mart, in_order
from airflow_emr_etl.operators.failures import retry_only_what_can_pass
from airflow_emr_etl.operators.redshift_batch import RedshiftBatchOperator
from airflow_emr_etl.warehouse import marts as plan
from airflow_emr_etl.warehouse import schema
from airflow_emr_etl.warehouse.history import FENCE, select_days

if TYPE_CHECKING:
    from airflow.sdk import Context


class BuildMartsOperator(RedshiftBatchOperator):
    """Make marts anew for some days, in one transaction; to run it again changes nothing.

    The days are those that loads touched: the results of load tasks say which (``loads=[load.output, …]``), also
    where a load found that it was done before. Or say ``days`` yourself, as for a backfill.

    Returns ``{"days": ["2026-01-05", …], "rows": {"page_views": 123, …}}``; ``rows`` are those that were inserted.

    :param target: the database (templated)
    :param marts: marts, or names of those in ``models/clickstream_marts.py``; all of these by default. Marts that
        others read are made too.
    :param loads: results of ``RedshiftLoadOperator`` on tables with ``days=`` (templated)
    :param days: UTC days, as dates or ``YYYY-MM-DD`` (templated)
    """

    template_fields: Sequence[str] = (*RedshiftBatchOperator.template_fields, "loads", "days")
    ui_color = "#f5e6c8"

    def __init__(
        self,
        *,
        marts: Sequence[Mart | str] = MARTS,
        loads: Sequence[Any] | None = None,
        days: Sequence[date | str] | date | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (loads is None) == (days is None):
            raise ConfigurationError(
                f"{self.task_id} needs either loads=, the results of load tasks, or days=."
            )
        self.marts = in_order([mart_named(mart) for mart in marts], MARTS)
        self.loads = loads
        self.days = days

    def execute(self, context: Context) -> dict[str, Any]:
        with retry_only_what_can_pass():
            self._prepare()
            return self._attempt(context, 1)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        self._statement_id = event["statement_id"]
        with retry_only_what_can_pass():
            return self._settle(context, event)

    def _prepare(self) -> None:
        """Tables, columns and the fence that are absent are there afterwards."""
        tables = [plan.table_of(mart) for mart in self.marts]
        needed = [FENCE.name, schema.lock_table(plan.FENCE_TARGET), *(table.name for table in tables)]
        existing = schema.existing_columns(self.hook.query(schema.select_columns(needed)))
        if any(name not in existing for name in needed):
            self._run_ddl(plan.create_all(self.marts))
        for table in tables:
            self._add_columns(table, existing)
        if not self.hook.query(schema.select_fence(plan.FENCE_TARGET)):
            self.hook.wait(self.hook.batch(schema.create_fence(plan.FENCE_TARGET)))

    def _wanted_days(self) -> list[date]:
        if self.days is not None:
            return as_days(self.days)
        load_ids = [load_id_of(load) for load in self.loads or ()]
        return days_within(self.hook.query(select_days(load_ids))) if load_ids else []

    def _attempt(self, context: Context, attempt: int) -> dict[str, Any]:
        days = self._wanted_days()
        if not days:
            self.log.info("The loads touched no day, so every mart is as it should be.")
            return {"days": [], "rows": {}}
        [reach] = self.hook.query(plan.select_reach(days))
        statements = plan.build_transaction(
            self.marts, days, since=as_moment(reach["since"]), until=as_moment(reach["until"])
        )
        self.log.info(
            "Making %s anew for %d days, %s to %s",
            ", ".join(mart.name for mart in self.marts),
            len(days),
            days[0],
            days[-1],
        )
        ti: Any = context["ti"]
        ti.xcom_push(key="days", value=[day.isoformat() for day in days])
        payload = self._submit(
            context,
            statements,
            token=self._token(context, "|".join(statements), attempt),
            name="emr-etl marts",
            attempt=attempt,
        )
        return self._settle(context, payload)

    def _settle(self, context: Context, payload: dict[str, Any]) -> dict[str, Any]:
        statement = self._ended(payload)
        if statement is None:
            return self._attempt(context, int(payload["attempt"]) + 1)
        rows = affected_rows(statement, plan.insert_positions(self.marts))
        for name, count in rows.items():
            self.log.info("%s: %d rows", name, count)
        ti: Any = context["ti"]
        days = ti.xcom_pull(task_ids=self.task_id, key="days", map_indexes=ti.map_index)
        return {"days": days, "rows": rows}


# -- decisions ----------------------------------------------------------------------------------------------------


def mart_named(mart: Mart | str) -> Mart:
    """A mart as it is, or the one of this name. ConfigurationError for a name that is unknown."""
    if isinstance(mart, Mart):
        return mart
    for known in MARTS:
        if known.name == mart:
            return known
    raise ConfigurationError(
        f"There is no mart {mart!r}. There are {', '.join(known.name for known in MARTS)}; or give a Mart."
    )


def as_days(given: Sequence[date | str] | date | str) -> list[date]:
    """Days as dates, sorted, each once. ConfigurationError for what is no day."""
    items = [given] if isinstance(given, (str, date)) else given
    try:
        return sorted({item if type(item) is date else date.fromisoformat(str(item)) for item in items})
    except ValueError as error:
        raise ConfigurationError(f"{given!r:.200} are no days; write them as YYYY-MM-DD. {error}.") from error


def load_id_of(result: Any) -> str:
    """The load id in a load task's result. ConfigurationError for anything else."""
    if isinstance(result, Mapping) and isinstance(result.get("load_id"), str):
        return str(result["load_id"])
    raise ConfigurationError(
        f"loads= has {result!r:.200}, which is no result of a load task. Give load.output for tasks that "
        "RedshiftTable.load made; a task that was skipped has none."
    )


def days_within(spans: Sequence[Mapping[str, Any]]) -> list[date]:
    """Every day from each ``first_day`` to its ``last_day``, sorted, each once."""
    days: set[date] = set()
    for span in spans:
        first, last = (date.fromisoformat(str(span[name])) for name in ("first_day", "last_day"))
        days |= {first + timedelta(days=n) for n in range((last - first).days + 1)}
    return sorted(days)


def as_moment(text: str | None) -> datetime | None:
    """A TIMESTAMP as the Data API writes it."""
    return None if text is None else datetime.fromisoformat(text)
