"""A bit of everything that steps do, run once to see which classes Spark loads for it: see class_list.py."""

from __future__ import annotations

import sys
from typing import Any

from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.types import StringType


def main(folder: str) -> None:
    spark = SparkSession.builder.appName("class list").getOrCreate()
    lines = spark.createDataFrame([(f"{n} GET /page/{n % 7}?q={n}",) for n in range(200)], ["value"])
    lines.write.mode("overwrite").text(f"{folder}/lines")
    text = spark.read.text(f"{folder}/lines").withColumn("file", F.input_file_name())
    parsed = text.select(
        F.regexp_extract("value", r"^(\d+)", 1).cast("long").alias("n"),
        F.regexp_extract("value", r"GET (\S+)", 1).alias("path"),
        F.sha2("value", 256).alias("id"),
        F.to_timestamp(F.lit("2026-01-05 10:00:00")).alias("ts"),
        F.to_date(F.lit("2026-01-05")).alias("dt"),
        F.udf(lambda value: value.upper(), StringType())("value").alias("upper"),
    )
    window = Window.partitionBy("path").orderBy("n")
    ranked = parsed.withColumn("before", F.lag("n").over(window)).withColumn(
        "row", F.row_number().over(window)
    )
    ranked = ranked.withColumn("total", F.sum("n").over(window)).cache()
    ranked.write.mode("overwrite").partitionBy("dt").parquet(f"{folder}/events")
    events = spark.read.parquet(f"{folder}/events")
    counts = events.groupBy("path").agg(
        F.count("*").alias("hits"), F.countDistinct("id").alias("ids"), F.max("ts")
    )
    counts.join(events.select("path", "n"), "path").orderBy("n").write.mode("overwrite").json(
        f"{folder}/json"
    )
    counts.write.mode("append").option("header", True).csv(f"{folder}/csv")
    spark.read.json(f"{folder}/json").createOrReplaceTempView("found")
    spark.sql(
        "select path, count(*) c, approx_count_distinct(n) d from found group by path having c > 1"
    ).show()
    spark.read.option("header", True).csv(f"{folder}/csv").toPandas()
    lengths = spark.sparkContext.textFile(f"{folder}/lines").map(len)
    lengths.sum()
    jvm: Any = spark._jvm
    path = jvm.org.apache.hadoop.fs.Path(f"{folder}/manifest.json")
    files = path.getFileSystem(spark._jsc.hadoopConfiguration())
    out = files.create(path)
    out.write(bytearray(b"{}"))
    out.close()
    files.listStatus(path.getParent())
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1])
