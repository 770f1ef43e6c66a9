"""The SQL that makes and changes an Iceberg table of the clickstream, and what is in one.

The rows that a merge takes away and puts in are those of the loads into Redshift (``mode="restate"``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Iterable, List, Mapping, Optional, Tuple

from airflow_emr_etl.models.manifest import Column
from airflow_emr_etl.spark import columns
from airflow_emr_etl.spark.dataset import spark_type
from airflow_emr_etl.spark.iceberg_catalog import TableName, quote

STAGED = "_staged"
"""The view that has the rows of the files."""
RESTATES_FROM, RESTATES_TO, RETRACTED = (column.name for column in columns.RESTATES)
_GOES, _KEY = "_goes", "_key"
_MAX_SPANS = 64

Span = Tuple[date, date]
"""First and last day, both included."""


@dataclass(frozen=True)
class Kind:
    """What a table holds. ``at`` is the time by whose day it is partitioned."""

    dataset: str
    key: str
    at: str
    columns: Tuple[Column, ...]
    staged: Tuple[Column, ...]
    """The columns of the files."""

    @property
    def restates(self) -> bool:
        """Whether its rows name the span of time whose rows they take the place of."""
        return len(self.staged) > len(self.columns)


EVENTS = Kind("events", "event_id", "ts", tuple(columns.EVENTS), tuple(columns.EVENTS))
SESSIONS = Kind(
    "sessions",
    "session_id",
    "started_at",
    tuple(columns.SESSIONS),
    (*columns.SESSIONS, *columns.RESTATES),
)


def text_literal(value: str) -> str:
    """``it's`` → ``'it\\'s'``, as Spark's parser reads it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def iceberg_type(redshift_type: str) -> str:
    """The type that Spark says of an Iceberg column; Iceberg has no whole number shorter than INT."""
    return {"smallint": "int"}.get(spark_type(redshift_type), spark_type(redshift_type))


def create_table(table: TableName, kind: Kind) -> str:
    definitions = ", ".join(
        f"{quote(column.name)} {iceberg_type(column.type).upper()}" for column in kind.columns
    )
    return (
        f"CREATE TABLE IF NOT EXISTS {table.sql} ({definitions}) USING iceberg "
        f"PARTITIONED BY (days({quote(kind.at)}))"
    )


@dataclass(frozen=True)
class Reach:
    """Where in the table the rows lie that a merge may touch, so that no other files are read.

    Rows are found by the days of their time, or by the batch (``dt``) that they are of: a key keeps one of the two.
    """

    days: Tuple[Span, ...] = ()
    batches: Tuple[date, ...] = ()

    @classmethod
    def of(cls, days: Iterable[date], batches: Iterable[date] = ()) -> Reach:
        """Days that follow one another are one span; more than 64 spans become one, from the first to the last."""
        spans: List[Span] = []
        for day in sorted(set(days)):
            if spans and day - spans[-1][1] == timedelta(days=1):
                spans[-1] = (spans[-1][0], day)
            else:
                spans.append((day, day))
        if len(spans) > _MAX_SPANS:
            spans = [(spans[0][0], spans[-1][1])]
        return cls(tuple(spans), tuple(sorted(set(batches))))

    def condition(self, alias: str, at: str) -> str:
        """Plain comparisons with literals, which Iceberg takes for its own choice of files."""
        time = f"{alias}.{quote(at)}"
        parts = [
            f"({time} >= TIMESTAMP '{first}T00:00:00Z' AND {time} < TIMESTAMP '{last + timedelta(days=1)}T00:00:00Z')"
            for first, last in self.days
        ]
        if self.batches:
            listed = ", ".join(f"DATE '{day}'" for day in self.batches)
            parts.append(f"{alias}.`dt` IN ({listed})")
        return f"({' OR '.join(parts)})" if parts else "false"


def keys_that_go(kind: Kind, target: str, reach: Reach, replaced: Optional[date] = None) -> str:
    """A SELECT of the keys whose rows make room: those that come, and those that are stated anew.

    Of sessions, all that a visitor began within a span that a row names; of events, those of the day ``replaced``.
    ``target`` is the table, quoted.
    """
    key = quote(kind.key)
    select = f"SELECT {key} AS {_KEY} FROM {STAGED}"
    if kind.restates:
        spans = f"SELECT DISTINCT `visitor_id`, `{RESTATES_FROM}`, `{RESTATES_TO}` FROM {STAGED}"
        select += (
            f" UNION SELECT o.{key} FROM {target} AS o JOIN ({spans}) AS r ON o.`visitor_id` = r.`visitor_id` "
            f"AND o.{quote(kind.at)} >= r.`{RESTATES_FROM}` AND o.{quote(kind.at)} <= r.`{RESTATES_TO}` "
            f"WHERE {reach.condition('o', kind.at)}"
        )
    elif replaced is not None:
        select += f" UNION SELECT o.{key} FROM {target} AS o WHERE o.`dt` = DATE '{replaced}'"
    else:
        select = select.replace("SELECT", "SELECT DISTINCT", 1)
    return select


def rows_that_come(kind: Kind) -> str:
    """A SELECT of the rows that are put in, with the table's columns."""
    names = ", ".join(quote(column.name) for column in kind.columns)
    return f"SELECT {names} FROM {STAGED}" + (f" WHERE NOT `{RETRACTED}`" if kind.restates else "")


def merge_into(table: TableName, kind: Kind, reach: Reach, replaced: Optional[date] = None) -> str:
    """The one statement: what goes is matched and deleted, and what comes is never matched and so inserted.

    Not by WHEN NOT MATCHED BY SOURCE, which would read the whole table.
    """
    others = [column for column in kind.columns if column.name != kind.key]
    nothing = ", ".join(f"CAST(NULL AS {spark_type(c.type)}) AS {quote(c.name)}" for c in others)
    comes = ", ".join(quote(column.name) for column in others)
    names = [quote(kind.key), *(quote(column.name) for column in others)]
    values = [f"s.{_KEY}", *(f"s.{quote(column.name)}" for column in others)]
    return (
        f"MERGE INTO {table.sql} AS t USING ("
        f"SELECT true AS {_GOES}, {_KEY}, {nothing} FROM ({keys_that_go(kind, table.sql, reach, replaced)}) "
        f"UNION ALL SELECT false, {quote(kind.key)}, {comes} FROM ({rows_that_come(kind)})"
        f") AS s ON s.{_GOES} AND t.{quote(kind.key)} = s.{_KEY} AND {reach.condition('t', kind.at)} "
        f"WHEN MATCHED THEN DELETE "
        f"WHEN NOT MATCHED AND NOT s.{_GOES} THEN INSERT ({', '.join(names)}) VALUES ({', '.join(values)})"
    )


def set_properties(table: TableName, values: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{text_literal(key)} = {text_literal(value)}" for key, value in values.items())
    return f"ALTER TABLE {table.sql} SET TBLPROPERTIES ({pairs})"
