"""Answers of a Python library about distinct values, as a small table to join.

A log of twenty million lines has some thousands of user agents and referrers. So the wide rows never go through
Python: each distinct value is asked about once, in Arrow batches, and the answers are joined back. They are
broadcast, which leaves the wide rows where they are, unless there are very many of them.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator, List, Optional, Sequence, Tuple

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

MOST_BROADCAST_ROWS = 1_000_000
"""Of more answers than that, a broadcast would burden the driver and each executor; Spark chooses the join then."""

LEAST_TASKS = 16
"""Enough to spread the asking, and few enough that tasks which ask nothing cost nothing."""

Answer = Callable[[str], Optional[Sequence[Optional[str]]]]
"""One value to the texts of the answer's columns, in their order; None leaves the value out of the table."""


def ask(values: DataFrame, make_answer: Callable[[], Answer], names: Sequence[str]) -> DataFrame:
    """The first column of ``values`` (text, not NULL, distinct) and its answers in the columns ``names``.

    ``make_answer`` runs in the Python worker, once for each partition: what it imports and compiles stays there.
    """
    [value] = values.columns
    all_names = [value, *names]
    schema = ", ".join(f"{name} string" for name in all_names)
    # What finds distinct values has a fixed number of tasks, and each would start the library.
    values = values.coalesce(max(LEAST_TASKS, values.sparkSession.sparkContext.defaultParallelism))

    def rows(texts: Iterable[str], answer: Answer) -> Iterator[Tuple[Optional[str], ...]]:
        for text in texts:
            found = answer(text)
            if found is not None:
                yield (text, *found)

    if not _has_arrow():
        # EMR's own Python has no pyarrow unless a bootstrap action installs it.
        without_arrow = values.rdd.mapPartitions(lambda part: rows((row[0] for row in part), make_answer()))
        return values.sparkSession.createDataFrame(without_arrow, schema)

    def batches(parts: Iterator[Any]) -> Iterator[Any]:
        import pyarrow

        types = pyarrow.schema([(name, pyarrow.string()) for name in all_names])
        answer = make_answer()
        for part in parts:
            table = list(rows(part.column(0).to_pylist(), answer))
            columns = zip(*table) if table else ([] for _ in all_names)
            arrays = [pyarrow.array(list(column), pyarrow.string()) for column in columns]
            yield pyarrow.RecordBatch.from_arrays(arrays, schema=types)

    return values.mapInArrow(batches, schema)


class Lookups:
    """The tables of one run. They are computed once and kept until :meth:`release`."""

    def __init__(self) -> None:
        self._kept: List[DataFrame] = []

    def keep(self, table: DataFrame) -> DataFrame:
        """``table``, computed now, to be joined without moving the other side where it is not too large."""
        table = table.persist(StorageLevel.MEMORY_AND_DISK)
        self._kept.append(table)
        return F.broadcast(table) if table.count() <= MOST_BROADCAST_ROWS else table

    def release(self) -> None:
        for table in self._kept:
            table.unpersist()
        self._kept.clear()


def _has_arrow() -> bool:
    try:
        import pyarrow  # noqa: F401 - whether it is there is the question
    except ImportError:
        return False
    return True
