"""How hits get into the engine: by rows or by whole files, it must not matter; and hashes that must be Spark's own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_emr_etl.models.manifest import ManifestEntry
from airflow_emr_etl.models.session_rules import SessionRules

pa = pytest.importorskip("pyarrow", reason="pyarrow comes with the extra spark")

from pyspark.sql import functions as F  # noqa: E402

from airflow_emr_etl.spark import session_engine  # noqa: E402
from airflow_emr_etl.spark.partition_keys import partition_keys, spark_hash  # noqa: E402
from airflow_emr_etl.spark.session_engine import HitFiles, HitRows  # noqa: E402
from airflow_emr_etl.spark.xxhash64 import xxhash64  # noqa: E402

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

RULES = SessionRules(inactivity_minutes=30)


@pytest.fixture(scope="module")
def texts() -> list[str | None]:
    chance = random.Random(5)
    return [None, ""] + ["".join(chance.choice("aé€😀b0") for _ in range(n % 150)) for n in range(1500)]


@pytest.mark.parametrize("part", [slice(None), slice(1, 2), slice(7, 100), slice(0, 1), slice(0, 0)])
def test_the_hash_of_texts_is_sparks(spark: SparkSession, texts: list[str | None], part: slice) -> None:
    rows = spark.createDataFrame([(text,) for text in texts[part]], "text string")
    expected = [row[0] for row in rows.select(F.xxhash64("text")).collect()]
    whole = pa.array(texts, pa.string())
    assert xxhash64(whole[part]).tolist() == expected
    assert xxhash64(pa.array(texts[part], pa.string())).tolist() == expected


def test_the_hash_of_texts_of_one_length_is_sparks(spark: SparkSession) -> None:
    ids = [f"{number:064x}" for number in range(300)]
    rows = spark.createDataFrame([(text,) for text in ids], "text string")
    assert xxhash64(pa.array(ids)).tolist() == [row[0] for row in rows.select(F.xxhash64("text")).collect()]


def test_a_key_for_each_partition(spark: SparkSession) -> None:
    numbers = spark.range(-50, 500).select("id", F.hash(F.col("id").cast("int")).alias("hash")).collect()
    assert {row["id"]: row["hash"] for row in numbers} == {
        row["id"]: spark_hash(row["id"]) for row in numbers
    }
    keys = spark.createDataFrame([(key,) for key in partition_keys(7)], "key int")
    placed = keys.repartition(7, "key").select("key", F.spark_partition_id().alias("place")).collect()
    assert {row["key"]: row["place"] for row in placed} == {
        key: place for place, key in enumerate(partition_keys(7))
    }


def visits(seed: int, count: int) -> list[tuple[Any, ...]]:
    chance = random.Random(seed)
    return [
        (
            f"v{chance.randrange(30)}",
            chance.randrange(600) * 60_000_000 + 1_767_571_200_000_000,
            f"e{chance.randrange(count * 2)}",
            chance.random() < 0.5,
            chance.choice([None, "/a", "/b", "/c"]),
            chance.choice([None, "https://a.example/", "https://b.example/x"]),
        )
        for _ in range(count)
    ]


def events(spark: SparkSession, seed: int, count: int = 700) -> DataFrame:
    rows = spark.createDataFrame(
        visits(seed, count),
        "visitor_id string, ts bigint, event_id string, is_page_view boolean, path string, referrer string",
    )
    return rows.withColumn("ts", F.timestamp_micros("ts")).repartition(3)


def found(hits: list[Any], rules: SessionRules = RULES, rows: int | None = None) -> list[Any]:
    return sorted(session_engine.sessions_of(hits, rules, rows).collect())


@pytest.mark.parametrize("times", ["TIMESTAMP_MICROS", "INT96"])
@pytest.mark.parametrize("rules", [RULES, SessionRules(inactivity_minutes=30, max_minutes=45)])
def test_files_and_rows_give_the_same_sessions(
    spark: SparkSession, tmp_path: Path, rules: SessionRules, times: str
) -> None:
    folder = tmp_path / "day=[1]"  # a name that would be a pattern
    spark.conf.set("spark.sql.parquet.outputTimestampType", times)
    try:
        events(spark, 1).write.option("parquet.block.size", 4096).parquet(str(folder))
    finally:
        spark.conf.unset("spark.sql.parquet.outputTimestampType")
    own = spark.read.option("__globPaths__", "false").parquet(str(folder))
    files = [f"file://{file}" for file in sorted(folder.glob("*.parquet"))]
    by_rows = found([HitRows(own)], rules)
    assert by_rows
    assert found([HitFiles(spark, files)], rules) == by_rows
    # Without file: they are Spark's to read.
    assert found([HitFiles(spark, [file.removeprefix("file://") for file in files])], rules) == by_rows
    near = events(spark, 2).withColumns({"owner": F.lit(1), "kind": F.lit(0).cast("tinyint")})
    gone = events(spark, 3, 40)
    more = [HitRows(near), HitRows(gone, owner=9, kind=2)]
    assert found([HitFiles(spark, files), *more], rules, rows=5_000_000) == found(
        [HitRows(own), *more], rules
    )


def test_without_referrer_nothing_else_changes(spark: SparkSession, tmp_path: Path) -> None:
    events(spark, 4).write.parquet(str(tmp_path / "events"))
    files = [f"file://{file}" for file in (tmp_path / "events").glob("*.parquet")]
    rows = session_engine.sessions_of([HitFiles(spark, files)], RULES).drop("referrer")
    without = session_engine.sessions_of([HitFiles(spark, files, referrer=False)], RULES)
    assert without.select("referrer").distinct().collect() == [(None,)]
    assert sorted(rows.collect()) == sorted(without.drop("referrer").collect())


def test_files_that_are_too_large_or_rules_that_cut_go_by_rows() -> None:
    small, large = (ManifestEntry("s3://b/f", size, 1) for size in (1000, HitFiles.MOST_BYTES + 1))
    assert HitFiles.fit([small], RULES)
    assert not HitFiles.fit([small, large], RULES)
    assert not HitFiles.fit([], RULES)
    assert not HitFiles.fit([small], SessionRules(inactivity_minutes=30, cut_on=("campaign",)))
    assert not HitFiles.fit([small], SessionRules(inactivity_minutes=30, midnight_zone="UTC"))
