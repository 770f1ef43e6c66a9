"""Datasets of clickstream_sessionize into Iceberg tables that follow what they state anew, each by one MERGE.

What was merged last is in the table's properties, since a MERGE has no way to write into its own snapshot.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from typing import Dict, List, Mapping, Optional, Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import (
    LoadError,
    ManifestError,
    RowCountMismatchError,
    SchemaMismatchError,
    StaleLoadError,
)
from airflow_emr_etl.models.batch import KEY_MOVES_DAYS
from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.spark.dataset import read_files
from airflow_emr_etl.spark.iceberg_catalog import TableName, quote
from airflow_emr_etl.spark.iceberg_statements import (
    RESTATES_FROM,
    RESTATES_TO,
    RETRACTED,
    STAGED,
    Kind,
    Reach,
    create_table,
    iceberg_type,
    merge_into,
    set_properties,
)

RESTATEMENT, MANIFEST, DIGEST, SNAPSHOT = (
    f"airflow-emr-etl.{name}" for name in ("restatement", "manifest", "manifest-sha256", "snapshot-id")
)
"""Properties of a table: the greatest restatement that was begun, the manifest that was merged last, the digest of its
text, and the snapshot that was current after that."""


@dataclass(frozen=True)
class Merge:
    """A dataset that is brought into a table."""

    table: TableName
    kind: Kind
    uri: str
    manifest: Manifest

    def __post_init__(self) -> None:
        """Raise ManifestError where the manifest is of something else, or not numbered."""
        if self.manifest.dataset != self.kind.dataset:
            raise ManifestError(
                f"{self.uri} is the manifest of {self.manifest.dataset}, not of {self.kind.dataset}.",
                uri=self.uri,
            )
        found = [(column.name, column.type) for column in self.manifest.columns]
        expected = [(column.name, column.type) for column in self.kind.staged]
        if found != expected:
            differing = sorted({name for name, _ in set(found) ^ set(expected)}) or ["their order"]
            raise ManifestError(
                f"{self.uri} has other columns than this release merges; it differs in {', '.join(differing)}. "
                "Take the manifests of clickstream_sessionize, and run it again with this release if they are older.",
                uri=self.uri,
            )
        if self.manifest.restatement is None:
            raise ManifestError(
                f"{self.uri} has no restatement number, which says which of two states is the later one. Take the "
                "manifests of clickstream_sessionize.",
                uri=self.uri,
            )

    @property
    def restatement(self) -> int:
        assert self.manifest.restatement is not None
        return self.manifest.restatement

    @property
    def replaced(self) -> Optional[date]:
        """The day whose events go, whatever their keys; None for sessions, and for a batch that is not its day's."""
        day = self.manifest.partition.get("dt")
        if self.kind.restates or day is None:
            return None
        try:
            return date.fromisoformat(day)
        except ValueError as error:
            raise ManifestError(f"{self.uri} is of dt={day}, which is no day.", uri=self.uri) from error

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.manifest.to_json().encode()).hexdigest()

    def prepare(self, spark: SparkSession) -> bool:
        """Create the table where it is missing, and say whether there is anything to be merged.

        Raise StaleLoadError where a later state was merged, SchemaMismatchError where the table is another one.
        """
        spark.sql(create_table(self.table, self.kind))
        self._check_columns(spark)
        known = properties(spark, self.table)
        if known.get(DIGEST) == self.digest and _is_current(spark, self.table, known.get(SNAPSHOT)):
            return False
        if int(known.get(RESTATEMENT, "0")) > self.restatement:
            batch = ", ".join(f"{name}={value}" for name, value in self.manifest.partition.items())
            raise StaleLoadError(
                f"A state later than {self.restatement} was merged into {self.table} already (restatement "
                f"{known[RESTATEMENT]}), and {self.uri} would undo it. Run sessionize for "
                f"{batch} again: it states the rows anew on top of that, with a greater number. What a stream wrote "
                "is made anew by the stream, into another --output and from another --checkpoint.",
                restatement=self.restatement,
            )
        return True

    def run(self, spark: SparkSession) -> None:
        """Check the files' rows as a load into Redshift does, and merge them. :meth:`prepare` comes first.

        Raise RowCountMismatchError or LoadError; the table's rows are then as they were.
        """
        staged = read_files(spark, self.manifest.urls, self.kind.staged)
        self.check_rows(staged)
        reach = self.reach(staged)
        # First, so that an older state that begins from now on is refused, whatever becomes of this one.
        _set(spark, self.table, {RESTATEMENT: str(self.restatement)})
        staged.createOrReplaceTempView(STAGED)
        try:
            spark.sql(merge_into(self.table, self.kind, reach, self.replaced))
        finally:
            spark.catalog.dropTempView(STAGED)
        snapshot = properties(spark, self.table).get("current-snapshot-id", "none")
        _set(spark, self.table, {MANIFEST: self.uri, DIGEST: self.digest, SNAPSHOT: snapshot})

    def _check_columns(self, spark: SparkSession) -> None:
        found = dict(spark.table(self.table.sql).dtypes)
        expected = {column.name: iceberg_type(column.type) for column in self.kind.columns}
        if missing := [name for name in expected if name not in found]:
            added = ", ".join(f"{quote(name)} {expected[name].upper()}" for name in missing)
            raise SchemaMismatchError(
                f"{self.table} has no column {', '.join(missing)}. If it is a table of an older release, run "
                f"ALTER TABLE {self.table.sql} ADD COLUMNS ({added}).",
                missing=missing,
            )
        if other := [
            f"{name} {found[name]}, not {kind}" for name, kind in expected.items() if found[name] != kind
        ]:
            raise SchemaMismatchError(
                f"{self.table} has columns of other types: {'; '.join(other)}. Name another table, or drop this one."
            )

    def check_rows(self, staged: DataFrame) -> None:
        """Raise RowCountMismatchError or LoadError where the rows are not what a table could take and find again."""
        bad = F.lit(False)
        if self.kind.restates:
            begin, end, at = F.col(RESTATES_FROM), F.col(RESTATES_TO), F.col(self.kind.at)
            within = begin.isNotNull() & end.isNotNull() & (begin <= end) & F.col(RETRACTED).isNotNull()
            bad = ~(
                F.col("visitor_id").isNotNull()
                & within
                & F.coalesce(F.col(RETRACTED) | ((at >= begin) & (at <= end)), F.lit(False))
            )
        counted = (
            staged.groupBy(self.kind.key)
            .agg(F.count(F.lit(1)).alias("n"), F.count(F.when(bad, 1)).alias("bad"))
            .agg(
                F.coalesce(F.sum("n"), F.lit(0)).alias("rows"),
                F.count(F.when((F.col("n") > 1) | F.col(self.kind.key).isNull(), 1)).alias("repeated"),
                F.coalesce(F.sum("bad"), F.lit(0)).alias("bad"),
            )
            .collect()[0]
        )
        if counted["rows"] != self.manifest.record_count:
            raise RowCountMismatchError(
                f"{self.uri} lists {self.manifest.record_count} rows, but its files have {counted['rows']}; "
                f"{self.table} stays as it was. Were they changed after it was written? Run the Spark step again."
            )
        if counted["repeated"]:
            raise LoadError(
                f"{self.kind.key} is not distinct, or absent, among the rows of {self.uri}; {self.table} stays "
                "as it was."
            )
        if counted["bad"]:
            raise LoadError(
                f"{self.uri} has rows without visitor_id, span or {RETRACTED}, or whose {self.kind.at} is not within "
                f"their {RESTATES_FROM} to {RESTATES_TO}; {self.table} stays as it was."
            )

    def reach(self, staged: DataFrame) -> Reach:
        """Where the rows are that those of the files may take the place of."""

        def days(first: str, last: str, moves: int) -> List[date]:
            span = F.sequence(
                F.date_sub(F.to_date(first), moves),
                F.date_add(F.to_date(last), moves),
                F.expr("INTERVAL 1 DAY"),
            )
            known = staged.where(F.col(first).isNotNull() & F.col(last).isNotNull())
            return _days(known.select(F.explode(span).alias("day")))

        if self.kind.restates:
            return Reach.of(days(RESTATES_FROM, RESTATES_TO, KEY_MOVES_DAYS))
        batches = _days(staged.select(F.col("dt").alias("day")))
        if self.replaced is not None:
            # The events of a batch are found by that, wherever they were.
            return Reach.of(days(self.kind.at, self.kind.at, 0), [*batches, self.replaced])
        return Reach.of(days(self.kind.at, self.kind.at, KEY_MOVES_DAYS), batches)


def properties(spark: SparkSession, table: TableName) -> Dict[str, str]:
    return {row["key"]: row["value"] for row in spark.sql(f"SHOW TBLPROPERTIES {table.sql}").collect()}


def _set(spark: SparkSession, table: TableName, values: Mapping[str, str]) -> None:
    spark.sql(set_properties(table, values))


def _is_current(spark: SparkSession, table: TableName, snapshot: Optional[str]) -> bool:
    """Whether the table's state comes from ``snapshot``: it was not rolled back behind it."""
    history = spark.table(f"{table.sql}.`history`").where("is_current_ancestor")
    return any(str(row["snapshot_id"]) == snapshot for row in history.select("snapshot_id").collect())


def _days(frame: DataFrame) -> List[date]:
    return [row["day"] for row in frame.where("day IS NOT NULL").distinct().collect()]


def merge_all(spark: SparkSession, merges: Sequence[Merge]) -> Dict[str, Optional[int]]:
    """Run ``merges``, and say by table how many rows each brought, or None where it was there already.

    All are prepared before the first one runs: where one is refused, no table has changed.
    """
    wanted = [merge.prepare(spark) for merge in merges]
    done: Dict[str, Optional[int]] = {}
    for merge, is_wanted in zip(merges, wanted):
        if is_wanted:
            merge.run(spark)
        done[str(merge.table)] = merge.manifest.record_count if is_wanted else None
    return done
