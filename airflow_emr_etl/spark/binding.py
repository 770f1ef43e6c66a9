"""A name for a value inside of an expression."""

from __future__ import annotations

from typing import Callable

from pyspark.sql import Column
from pyspark.sql import functions as F


def bind(value: Column, use: Callable[[Column], Column]) -> Column:
    """``use(value)`` with ``value`` computed once, however often ``use`` mentions it.

    Without, a chain of expressions that each mention the one before twice doubles with every link.
    """
    return F.transform(F.array(value), use)[0]
