"""Great Expectations' SQL engine over some rows of tables, on a SQLAlchemy engine that is given.

Great Expectations computes the numbers of a suite in the database, those that it can in one SELECT; here is only what
it has no way to be told: the engine, which it would make of an address, a condition on the rows, and what it need not
ask again. For many databases a statement costs more than what it computes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, Dict, Literal, Mapping, Optional

_EXAMPLES = ".unexpected_values"


@dataclasses.dataclass(frozen=True)
class Rows:
    """Those rows of a table whose columns have the values of ``partition``."""

    table: str
    """``schema.table``."""
    partition: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def open_source(context: Any, engine: Any, tables: Mapping[str, Rows]) -> Any:
    """A datasource of *context* whose table assets, called like the datasets, are *tables* in *engine*."""
    _datasource_type()  # defining it is what gives the context a method to add one
    source = context.data_sources.add_given_sql(name="sql")
    source._given = _engine_type()(engine=engine, create_temp_table=False)
    source._given.tables = tables
    return source


@functools.lru_cache(maxsize=1)
def _datasource_type() -> Any:
    from great_expectations.compatibility import pydantic
    from great_expectations.datasource.fluent.sql_datasource import SQLDatasource, TableAsset

    class GivenTableAsset(TableAsset):
        type: Literal["given_table"] = "given_table"  # type: ignore[assignment]

        def test_connection(self) -> None:
            """The table was looked up before."""

    class GivenSqlDatasource(SQLDatasource):
        asset_types: ClassVar[Any] = [GivenTableAsset]
        type: Literal["given_sql"] = "given_sql"  # type: ignore[assignment]
        connection_string: str = "none"
        _given: Any = pydantic.PrivateAttr(None)
        _TableAsset: Any = pydantic.PrivateAttr(GivenTableAsset)

        def get_engine(self) -> Any:
            return self._given.engine

        def get_execution_engine(self) -> Any:
            return self._given

        def test_connection(self, test_assets: bool = True) -> None:
            """There is none yet."""

    return GivenSqlDatasource


def _wanted(metric: Any) -> bool:
    form = (metric.metric_value_kwargs or {}).get("result_format") or {}
    return not isinstance(form, Mapping) or bool(form.get("partial_unexpected_count", 1))


@functools.lru_cache(maxsize=1)
def _engine_type() -> Any:
    from great_expectations.execution_engine.sqlalchemy_execution_engine import SqlAlchemyExecutionEngine

    class GivenSqlEngine(SqlAlchemyExecutionEngine):
        tables: Mapping[str, Rows]
        times_without_zone_are_utc: ClassVar[bool] = True

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._found: Dict[Any, Any] = {}

        def resolve_metrics(
            self,
            metrics_to_resolve: Any,
            metrics: Optional[Dict[Any, Any]] = None,
            runtime_configuration: Any = None,
        ) -> Dict[Any, Any]:
            """Great Expectations' own, but for what needs no statement: examples that nobody wants, which it would
            select with LIMIT 0, and what an earlier validation has found."""
            answered: Dict[Any, Any] = {}
            asked = []
            for metric in metrics_to_resolve:
                if metric.id in self._found:
                    answered[metric.id] = self._found[metric.id]
                elif metric.metric_name.endswith(_EXAMPLES) and not _wanted(metric):
                    answered[metric.id] = []
                else:
                    asked.append(metric)
            if asked:
                found = super().resolve_metrics(asked, metrics, runtime_configuration)
                self._found.update(found)
                answered.update(found)
            return answered

        def get_batch_data_and_markers(self, batch_spec: Any) -> Any:
            import sqlalchemy as sa

            rows = self.tables[batch_spec["table_name"]]
            schema, _, table = rows.table.partition(".")
            batch_spec.update(
                schema_name=schema, table_name=sa.quoted_name(table, quote=True), only=dict(rows.partition)
            )
            return super().get_batch_data_and_markers(batch_spec)

        def _build_selectable_from_batch_spec(self, batch_spec: Any) -> Any:
            import sqlalchemy as sa

            selected = super()._build_selectable_from_batch_spec(batch_spec)
            values = batch_spec["only"]
            return selected.where(*(sa.column(name) == value for name, value in values.items()))

    return GivenSqlEngine
