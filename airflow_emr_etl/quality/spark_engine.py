"""Great Expectations' Spark engine, told to read the data as few times as it can.

Great Expectations stays what decides: its metrics, its conditions and its results are used as they are. What
this engine changes is when and together with what the numbers are computed. On its own, Great Expectations

- computes aggregates as soon as some are ready, so that one suite takes several aggregates over the same rows;
- counts each comparison of two columns, and the rows it looked at, with a job of its own, and takes a job of its
  own for an aggregate whose nulls it filters out, though aggregates pass over nulls anyway;
- counts duplicates by a window, which sorts every value;
- fetches the rows of a query even where nobody wants to see them;
- forgets everything between two validations of the same batch.

Here all numbers that one pass can compute are computed in one aggregate; duplicates and distinct values of a column
are counted together by a group-by, over 64-bit digests where the values are text; and what was found is kept
for the next validation. Counts stay exact: different digests are different values, and where two are equal
the values themselves are counted.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any, ClassVar, Dict, List, Literal, Mapping, Optional, Sequence, Tuple

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

QUERY_ROWS = 20
"""How many rows of a query are fetched at most, as examples."""

_NO_SCAN = frozenset(("table.columns", "table.column_types"))
_UNEXPECTED_COUNT = ".unexpected_count"
_FILTERED_ROW_COUNT = ".filtered_row_count"
_UNIQUE = frozenset(("column_values.unique.unexpected_count", "compound_columns.unique.unexpected_count"))
_DISTINCT = "column.distinct_values.count"
_QUERY_ROWS = "unexpected_rows_query.table"
_QUERY_COUNT = "unexpected_rows_query.row_count"
_PASS_OVER_NULLS = frozenset(
    f"column.{name}" for name in ("max", "mean", "min", "standard_deviation", "sum", "non_null_count")
)
"""Aggregates over one column that are the same whether or not its nulls were filtered out before."""

_SPAN = ("column", "column_A", "column_B", "column_list", "ignore_row_if")
_DIGESTED = ("bigint", "binary", "boolean", "date", "int", "smallint", "string", "timestamp", "tinyint")
"""Types whose equal values always have equal digests. Not floats (0.0 is -0.0), not text with a collation."""


@functools.lru_cache(maxsize=1)
def datasource_type() -> Any:
    """A Great Expectations datasource for Spark frames that uses this engine; imported when first asked for."""
    from great_expectations.datasource.fluent.spark_datasource import SparkDatasource

    class FewScansSparkDatasource(SparkDatasource):
        type: Literal["few_scans_spark"] = "few_scans_spark"  # type: ignore[assignment]
        execution_engine_override: ClassVar[Any] = _engine_type()

    return FewScansSparkDatasource


@functools.lru_cache(maxsize=1)
def _engine_type() -> Any:
    from great_expectations.exceptions.exceptions import MetricResolutionError
    from great_expectations.execution_engine.sparkdf_execution_engine import SparkDFExecutionEngine
    from great_expectations.expectations.registry import get_metric_provider

    class FewScansSparkEngine(SparkDFExecutionEngine):
        """See the module. One engine serves one run: results are kept for each batch, for the engine's life."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._found: Dict[Any, Any] = {}
            self._failed: Dict[Any, Exception] = {}

        def resolve_metrics(
            self,
            metrics_to_resolve: Any,
            metrics: Optional[Dict[Any, Any]] = None,
            runtime_configuration: Any = None,
        ) -> Dict[Any, Any]:
            """Answer some of the metrics; Great Expectations asks again for the others.

            What needs no scan is answered first, until nothing but scans is left. Only then is it known
            what they have in common.
            """
            wanted = list(metrics_to_resolve)
            found = {metric.id: self._found[metric.id] for metric in wanted if metric.id in self._found}
            if found or not wanted:
                return found
            free = [metric for metric in wanted if self._needs_no_scan(metric)]
            if free:
                return dict(super().resolve_metrics(free, metrics, runtime_configuration))
            pending = [metric for metric in wanted if metric.id not in self._failed]
            if pending:
                self._scan(pending, metrics or {}, runtime_configuration)
                found = {metric.id: self._found[metric.id] for metric in pending if metric.id in self._found}
                if found:
                    return found
            # One at a time, so that each expectation is told what happened to its own metric.
            problem = self._failed[wanted[0].id]
            raise MetricResolutionError(message=str(problem), failed_metrics=(wanted[0],)) from problem

        def _needs_no_scan(self, metric: Any) -> bool:
            from great_expectations.core.metric_function_types import MetricPartialFunctionTypes

            _, provider = get_metric_provider(metric.metric_name, self)
            kind = getattr(provider, "metric_fn_type", None)
            return isinstance(kind, MetricPartialFunctionTypes) or metric.metric_name in _NO_SCAN

        def _scan(self, wanted: Sequence[Any], metrics: Dict[Any, Any], runtime: Any) -> None:
            together: List[Tuple[Any, Any, Dict[str, Any]]] = []
            groups: Dict[Any, List[Any]] = {}
            queries: Dict[Any, List[Any]] = {}
            alone: List[Any] = []
            for metric in wanted:
                if metric.metric_name in _UNIQUE or metric.metric_name == _DISTINCT:
                    groups.setdefault(metric.metric_domain_kwargs_id, []).append(metric)
                elif metric.metric_name in (_QUERY_COUNT, _QUERY_ROWS):
                    key = (metric.metric_domain_kwargs_id, metric.metric_value_kwargs_id)
                    queries.setdefault(key, []).append(metric)
                else:
                    aggregate = self._aggregate(metric, metrics)
                    if aggregate is None:
                        alone.append(metric)
                    else:
                        together.append((metric, *aggregate))
            self._scan_together(together, metrics, runtime)
            for members in groups.values():
                self._answer(members, self._counted_groups)
            for members in queries.values():
                self._answer(members, self._queried)
            for metric in alone:
                self._answer_alone(metric, metrics, runtime)

        def _aggregate(self, metric: Any, metrics: Dict[Any, Any]) -> Optional[Tuple[Any, Dict[str, Any]]]:
            """The metric as an aggregate, and the domain it is over; None where it is none."""
            from pyspark.sql import functions as F

            known = {
                name: metrics[needed.id]
                for name, needed in metric.metric_dependencies.items()
                if needed.id in metrics
            }
            name = metric.metric_name
            _, provider = get_metric_provider(name, self)
            if provider is None:
                aggregate, domain, _ = known["metric_partial_fn"]
                domain = dict(domain)
                if name in _PASS_OVER_NULLS:
                    domain.pop("filter_conditions", None)
                return aggregate, domain
            if "unexpected_condition" not in known or not name.endswith(
                (_UNEXPECTED_COUNT, _FILTERED_ROW_COUNT)
            ):
                return None
            condition, compute, accessor = known["unexpected_condition"]
            if "filter_conditions" in compute:  # a window over filtered rows
                return None
            span = {**compute, **accessor}
            domain = {key: value for key, value in span.items() if key not in _SPAN}
            rows = looked_at(span)
            counted = rows & condition if name.endswith(_UNEXPECTED_COUNT) else rows
            return F.count(F.when(counted, 1)), domain

        def _scan_together(
            self,
            aggregates: Sequence[Tuple[Any, Any, Dict[str, Any]]],
            metrics: Dict[Any, Any],
            runtime: Any,
        ) -> None:
            from great_expectations.core.id_dict import IDDict
            from great_expectations.util import convert_to_json_serializable

            domains: Dict[Any, Tuple[Any, List[Tuple[Any, Any]]]] = {}
            for metric, aggregate, domain in aggregates:
                # Great Expectations writes "no condition" in several ways.
                domain = {key: value for key, value in domain.items() if value not in (None, [])}
                members = domains.setdefault(IDDict(domain).to_id(), (domain, []))[1]
                members.append((metric, aggregate))
            for domain, members in domains.values():
                try:
                    row = self.get_domain_records(domain).agg(*(one for _, one in members)).collect()[0]
                except Exception:
                    # One of them is at fault, and Spark does not say which.
                    for metric, _ in members:
                        self._answer_alone(metric, metrics, runtime)
                else:
                    for (metric, _), value in zip(members, row):
                        self._found[metric.id] = convert_to_json_serializable(value)

        def _answer_alone(self, metric: Any, metrics: Dict[Any, Any], runtime: Any) -> None:
            try:
                self._found.update(super().resolve_metrics([metric], metrics, runtime))
            except Exception as problem:
                self._failed[metric.id] = problem

        def _answer(self, members: Sequence[Any], compute: Any) -> None:
            try:
                compute(members)
            except Exception as problem:
                for metric in members:
                    self._failed[metric.id] = problem

        def _counted_groups(self, members: Sequence[Any]) -> None:
            from pyspark.sql import functions as F

            domain = dict(members[0].metric_domain_kwargs)
            span = {key: domain.pop(key) for key in _SPAN if key in domain}
            names = [span["column"]] if "column" in span else list(span["column_list"])
            rows = self.get_domain_records(domain)
            rows = rows.filter(F.col(names[0]).isNotNull() if "column" in span else looked_at(span))
            repeated, values = counted_groups(
                rows.select(*(F.col(name).alias(f"_{i}") for i, name in enumerate(names)))
            )
            for metric in members:
                self._found[metric.id] = values if metric.metric_name == _DISTINCT else repeated

        def _queried(self, members: Sequence[Any]) -> None:
            rows = self.get_domain_records(dict(members[0].metric_domain_kwargs))
            text = str(members[0].metric_value_kwargs["unexpected_rows_query"])
            view = f"few_scans_{hashlib.sha256(str(members[0].id).encode()).hexdigest()[:16]}"
            rows.createOrReplaceTempView(view)
            try:
                answer = self.spark.sql(_query_over(text, view))
                count = answer.count()
                sample = [row.asDict() for row in answer.limit(QUERY_ROWS).collect()] if count else []
            finally:
                self.spark.catalog.dropTempView(view)
            for metric in members:
                self._found[metric.id] = count if metric.metric_name == _QUERY_COUNT else sample

    return FewScansSparkEngine


def _query_over(text: str, view: str) -> str:
    try:
        return text.format(batch=view)
    except (IndexError, KeyError, ValueError) as problem:
        raise ValueError(
            f"the query has braces around something else than batch ({problem}); "
            "write a brace of its own twice, such as x{{3}}"
        ) from problem


def looked_at(span: Mapping[str, Any]) -> Any:
    """The rows that an expectation over several columns looks at: its ``ignore_row_if`` as a condition."""
    from pyspark.sql import functions as F

    names = span["column_list"] if "column_list" in span else [span["column_A"], span["column_B"]]
    nulls = [F.col(name).isNull() for name in names]
    ignored = span.get("ignore_row_if")
    if ignored in ("both_values_are_missing", "all_values_are_missing"):
        return ~functools.reduce(lambda one, other: one & other, nulls)
    if ignored in ("either_value_is_missing", "any_value_is_missing"):
        return ~functools.reduce(lambda one, other: one | other, nulls)
    return F.lit(True)


def counted_groups(rows: DataFrame) -> Tuple[int, int]:
    """How many rows share their values with another row, and how many different values there are."""
    from pyspark.sql import functions as F

    kinds = [kind for _, kind in rows.dtypes]
    if all(kind in _DIGESTED for kind in kinds) and any(kind in ("string", "binary") for kind in kinds):
        repeated, values = _grouped(rows.select(F.xxhash64(*rows.columns).alias("digest")))
        if not repeated:
            return repeated, values
    return _grouped(rows)


def _grouped(rows: DataFrame) -> Tuple[int, int]:
    from pyspark.sql import functions as F

    sizes = rows.groupBy(*rows.columns).agg(F.count(F.lit(1)).alias("size"))
    counted = sizes.agg(F.sum(F.when(F.col("size") > 1, F.col("size"))), F.count(F.lit(1))).collect()[0]
    return int(counted[0] or 0), int(counted[1])
