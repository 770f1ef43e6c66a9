"""A first suite for data that has none: its columns are profiled, and rules proposed that hold on it.

A proposal is where to start, not what is right: each rule says in its note what was seen, and is there to be read,
loosened or dropped. Everything is computed in one aggregate and, for columns that may be keys or have few values, one
group-by each.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

FEW_VALUES = 12
"""Up to how many different values of a text column are proposed as the valid ones."""

_NUMBERS = ("bigint", "double", "float", "int", "smallint", "tinyint")


@dataclasses.dataclass(frozen=True)
class ColumnProfile:
    """What was seen of a column. ``values`` are all its values where they are few, else None."""

    name: str
    kind: str
    nulls: int
    least: Any = None
    greatest: Any = None
    unique: bool = False
    values: Optional[Tuple[str, ...]] = None


@dataclasses.dataclass(frozen=True)
class Profile:
    rows: int
    columns: Tuple[ColumnProfile, ...]


def profile(frame: DataFrame) -> Profile:
    """Look at every row of *frame*. Columns of nested types are only counted for nulls."""
    from pyspark.sql import functions as F

    numbers = [F.count(F.lit(1))]
    ordered = [name for name, kind in frame.dtypes if _is_ordered(kind)]
    for name in frame.columns:
        column = F.col(f"`{name}`")
        numbers.append(F.count(F.when(column.isNull(), 1)))
        numbers.append(F.approx_count_distinct(column) if name in ordered else F.lit(None))
        numbers += [F.min(column), F.max(column)] if name in ordered else [F.lit(None), F.lit(None)]
    found = list(frame.agg(*(number.alias(f"_{place}") for place, number in enumerate(numbers))).collect()[0])
    rows = int(found[0])
    columns = []
    for place, (name, kind) in enumerate(frame.dtypes):
        nulls, distinct, least, greatest = found[1 + 4 * place : 5 + 4 * place]
        unique = kind in ("string", "bigint") and not nulls and rows > 1 and distinct > 0.8 * rows
        few = (
            kind == "string"
            and distinct is not None
            and 0 < distinct <= 2 * FEW_VALUES
            and rows > 10 * distinct
        )
        columns.append(
            ColumnProfile(
                name=name,
                kind=kind,
                nulls=int(nulls),
                least=least,
                greatest=greatest,
                unique=unique and _is_unique(frame, name),
                values=_values(frame, name) if few else None,
            )
        )
    return Profile(rows, tuple(columns))


def suggest(dataset: str, seen: Profile) -> str:
    """The suite as YAML, each rule with a comment on what was seen. It holds on the data that was profiled."""
    import yaml

    lines = [
        f"# Proposed from {seen.rows:,} rows. Read each rule, and loosen or drop what is chance.",
        f"suite: {dataset}",
        "",
        "datasets:",
        f"  {dataset}:",
    ]
    for comment, kind, parameters in _rules(seen):
        shown = yaml.safe_dump(parameters, default_flow_style=True, width=10**6, allow_unicode=True).strip()
        lines += [f"    # {comment}", f"    - {kind}: {shown}"]
    return "\n".join(lines) + "\n"


def _rules(seen: Profile) -> List[Tuple[str, str, Dict[str, Any]]]:
    rules: List[Tuple[str, str, Dict[str, Any]]] = [
        (
            "A guess of the range: half to twice of what was seen.",
            "expect_table_row_count_to_be_between",
            {"min_value": seen.rows // 2, "max_value": max(1, seen.rows * 2), "severity": "warn"},
        )
    ]
    for column in seen.columns:
        named = {"column": column.name}
        if seen.rows and not column.nulls:
            rules.append(("Never null.", "expect_column_values_to_not_be_null", named))
        elif seen.rows > column.nulls:
            share = column.nulls / seen.rows
            most = max(0.0, round(1 - min(1.0, 1.5 * share + 0.01), 3))
            rules.append(
                (
                    f"{share:.1%} were null.",
                    "expect_column_values_to_not_be_null",
                    {**named, "mostly": most, "severity": "warn"},
                )
            )
        if column.unique:
            rules.append(("Every value was there once: a key?", "expect_column_values_to_be_unique", named))
        if column.values is not None:
            rules.append(
                (
                    f"These {len(column.values)} values and no others.",
                    "expect_column_values_to_be_in_set",
                    {**named, "value_set": list(column.values), "severity": "warn"},
                )
            )
        if column.kind in _NUMBERS and _is_plain(column.least):
            if column.least >= 0:
                rules.append(
                    ("Never negative.", "expect_column_values_to_be_between", {**named, "min_value": 0})
                )
            else:
                bounds = {"min_value": column.least, "max_value": column.greatest, "severity": "warn"}
                rules.append(("What was seen.", "expect_column_values_to_be_between", {**named, **bounds}))
    return rules


def _is_ordered(kind: str) -> bool:
    return kind in (*_NUMBERS, "string", "date", "timestamp", "boolean") or kind.startswith("decimal")


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value


def _is_unique(frame: DataFrame, name: str) -> bool:
    from airflow_emr_etl.quality.spark_engine import counted_groups

    return counted_groups(frame.select(f"`{name}`"))[0] == 0


def _values(frame: DataFrame, name: str) -> Optional[Tuple[str, ...]]:
    rows: Sequence[Any] = frame.select(f"`{name}`").dropna().distinct().limit(FEW_VALUES + 1).collect()
    return tuple(sorted(row[0] for row in rows)) if len(rows) <= FEW_VALUES else None
