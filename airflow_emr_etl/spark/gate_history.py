"""What earlier nights' gates counted, read from their results."""

from __future__ import annotations

import re
from typing import Dict, List

from pyspark.sql import SparkSession

from airflow_emr_etl.exceptions import CorruptInputError, MissingInputError
from airflow_emr_etl.quality.result import GateResult
from airflow_emr_etl.spark import storage

NIGHTS = 14
"""How many nights are looked back at most."""

_RESULT = re.compile(r"/dt=(\d{4}-\d\d-\d\d)/(?:.*/)?result\.json$")


def past_rows(spark: SparkSession, folder: str, before: str, nights: int = NIGHTS) -> Dict[str, List[int]]:
    """The rows of each dataset on the last *nights* days before the day *before*, oldest first.

    Reads ``<folder>/dt=<day>/…/result.json``. Of a day with several results the one that sorts last and passed
    counts; a day whose gate failed is no measure of a good night. No folder, no past.
    """
    try:
        files = storage.list_files(spark, folder)
    except MissingInputError:
        return {}
    days: Dict[str, List[str]] = {}
    for file in files:
        match = _RESULT.search(file.uri)
        if match and match.group(1) < before:
            days.setdefault(match.group(1), []).append(file.uri)
    rows: Dict[str, List[int]] = {}
    seen = 0
    for day in sorted(days, reverse=True):
        if seen == nights:
            break
        for uri in sorted(days[day], reverse=True):
            try:
                result = GateResult.from_json(storage.read_text(spark, uri))
            except CorruptInputError:  # of another program, or half a file: no measure of anything
                continue
            if result.passed:
                seen += 1
                for name, dataset in result.datasets.items():
                    rows.setdefault(name, []).insert(0, dataset.rows)
                break
    return rows
