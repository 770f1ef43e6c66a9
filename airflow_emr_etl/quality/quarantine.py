"""Which rows break the expectations whose severity is ``quarantine``.

The conditions are Great Expectations' own: it is asked for the condition of each expectation, and every row is told
all that it breaks. ``mostly`` plays no part: a row is judged alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Mapping, Sequence

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.quality.spark_engine import looked_at

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

BROKEN = "failed_expectations"
"""The column that :func:`marked` adds."""


def check_row_level(built: Any, where: str) -> None:
    """Raise ConfigurationError unless the expectation looks at each row, so that rows can be put aside."""
    from great_expectations.expectations.expectation import (
        ColumnMapExpectation,
        ColumnPairMapExpectation,
        MulticolumnMapExpectation,
    )

    if not isinstance(built, (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation)):
        raise ConfigurationError(
            f"{where}: severity quarantine puts rows aside, and this expectation is about the whole dataset; "
            "use one about rows (expect_column_values_…, expect_column_pair_values_…), or severity stop or warn"
        )
    if getattr(built, "row_condition", None):
        raise ConfigurationError(
            f"{where}: severity quarantine cannot be joined with row_condition; take out row_condition, or use "
            "severity stop or warn"
        )


def marked(batch: Any, frame: DataFrame, expectations: Mapping[str, Any]) -> DataFrame:
    """*frame* with the column :data:`BROKEN`: an array of the ids whose expectation the row breaks.

    Args:
        batch: Great Expectations' batch over *frame*, already validated.
        expectations: the built expectations with severity quarantine, by id.
    """
    from pyspark.sql import functions as F

    names = [
        F.when(_breaks(batch, expectation), F.lit(identity)) for identity, expectation in expectations.items()
    ]
    return frame.withColumn(BROKEN, F.array_compact(F.array(*names)))


def _breaks(batch: Any, expectation: Any) -> Any:
    from great_expectations.expectations.registry import get_metric_provider
    from great_expectations.validator.metric_configuration import MetricConfiguration
    from great_expectations.validator.metrics_calculator import MetricsCalculator
    from pyspark.sql import functions as F

    engine = batch.datasource.get_execution_engine()
    kind = type(expectation)
    settings: Dict[str, Any] = expectation.configuration.kwargs

    def chosen(keys: Sequence[str]) -> Dict[str, Any]:
        return {key: settings.get(key, getattr(expectation, key, None)) for key in keys}

    name = f"{kind.map_metric}.condition"
    provider, _ = get_metric_provider(name, engine)
    domain = {**chosen(kind.domain_keys), "batch_id": batch.id}
    values = chosen(getattr(provider, "condition_value_keys", ()))
    condition, compute, accessor = MetricsCalculator(engine, show_progress_bars=False).get_metric(
        MetricConfiguration(name, domain, values)
    )
    span = {**compute, **accessor}
    if "column" not in span:
        return looked_at(span) & condition
    if "filter_conditions" in compute:  # a window, which counts the nulls as values too
        return F.col(span["column"]).isNotNull() & condition
    return condition
