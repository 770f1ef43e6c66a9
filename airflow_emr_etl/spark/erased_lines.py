"""Lines of visitors that were erased. Where raw lines are read again, they are left out again."""

from __future__ import annotations

from functools import reduce
from typing import Sequence, Tuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from airflow_emr_etl.models.visitor_list import VISITOR
from airflow_emr_etl.spark.visitor_datasets import read_visitors
from airflow_emr_etl.spark.visitor_privacy import Privacy, with_visitor


def without_erased(good: DataFrame, lists: Sequence[str], privacy: Privacy) -> Tuple[DataFrame, int]:
    """The readable lines ``good`` without those of the visitors on ``lists``, and how many lines these were.

    ``lists`` are the manifests that clickstream_erasure_list wrote; ``privacy`` is that of the events, or nobody is
    recognized. Raise MissingInputError or ManifestError for a list that is none.
    """
    visitors = reduce(DataFrame.unionByName, [read_visitors(good.sparkSession, uri) for uri in lists])
    listed = F.broadcast(visitors.distinct())
    # As the lines will be, beside as they are: who they are of is made of the whole address.
    asis = {f"given_{name}": F.col(name) for name in ("host", "key")}
    lines = with_visitor(good.withColumns(asis), privacy)
    lines = lines.withColumns({name.split("_", 1)[1]: F.col(name) for name in asis}).drop(*asis)
    erased = lines.join(listed, VISITOR, "left_semi").count()
    return lines.join(listed, VISITOR, "left_anti").select(*good.columns), erased
