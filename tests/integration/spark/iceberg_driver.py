"""Runs steps in a Spark that has Iceberg, with the package that ships. Needs PySpark, and nothing of the tests.

Reads ``{"conf": …, "steps": [{"merge": {…}} or {"sql": "…"}, …]}`` from stdin, and writes to the file that its argument
names, for each step, the answer or the error and what the two tables hold then.
"""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from airflow_emr_etl.exceptions import EmrEtlError
from airflow_emr_etl.spark.iceberg_catalog import TableName
from airflow_emr_etl.spark.jobs.clickstream_iceberg import merge
from airflow_emr_etl.spark.session import configure

TABLES = {name: TableName.parse(f"lake.analytics.{name}") for name in ("events", "sessions")}


def held(spark: SparkSession, table: TableName) -> dict[str, Any]:
    if not spark.catalog.tableExists(table.sql):
        return {"rows": [], "snapshots": [], "properties": {}}
    frame = spark.table(table.sql)
    key = frame.columns[0]
    rows = frame.select(*(frame[name].cast("string").alias(name) for name in frame.columns)).orderBy(key)
    return {
        "rows": [row.asDict() for row in rows.collect()],
        "snapshots": [
            str(row["snapshot_id"])
            for row in spark.sql(f"SELECT * FROM {table.sql}.snapshots ORDER BY committed_at").collect()
        ],
        "properties": {
            row["key"]: row["value"] for row in spark.sql(f"SHOW TBLPROPERTIES {table.sql}").collect()
        },
    }


def run(spark: SparkSession, step: dict[str, Any]) -> dict[str, Any]:
    try:
        if "sql" in step:
            spark.sql(step["sql"])
            return {}
        arguments = dict(step["merge"])
        day = arguments.pop("day", None)
        for name, table in TABLES.items():
            given = arguments.get(f"{name}_table")
            arguments[f"{name}_table"] = TableName.parse(given) if given else table
        return {"done": merge(spark, day=day and date.fromisoformat(day), **arguments)}
    except EmrEtlError as error:
        return {"error": type(error).__name__, "message": str(error)}


def main() -> None:
    given = json.load(sys.stdin)
    builder = SparkSession.builder.master("local[2]")
    for key, value in given["conf"].items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    configure(spark)
    try:
        answers = [
            {**run(spark, step), **{name: held(spark, table) for name, table in TABLES.items()}}
            for step in given["steps"]
        ]
        Path(sys.argv[1]).write_text(json.dumps(answers))
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
