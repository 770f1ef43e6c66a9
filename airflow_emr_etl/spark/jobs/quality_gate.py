"""The quality gate as a Spark step.

::

    quality_gate --suite s3://.../suite.yaml --data events=s3://.../events/manifest.json [--data ...]
                 --output s3://.../attempt=.../

Reads exactly the files that each manifest lists, checks their rows against it, runs the suite and writes
``<output>/data_docs/`` and then, last, ``<output>/result.json`` (its form: ``quality/result.py``). Of a dataset
with expectations of severity ``quarantine`` it also writes ``<output>/quarantine/<dataset>/`` and
``<output>/clean/<dataset>/manifest.json`` (see ``spark/quarantine.py``).

Exit code 0 says that the gate ran, whatever its verdict: the verdict is in ``result.json``. 2 says that the
arguments or the suite are wrong, 1 that the data could not be checked; then there is no ``result.json``, and
the reason is on stdout and stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, TextIO, Tuple

from airflow_emr_etl.exceptions import ConfigurationError, EmrEtlError, ManifestError
from airflow_emr_etl.models.manifest import Manifest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from airflow_emr_etl.quality.result import GateResult

_BYTES_A_PARTITION = 32 * 1024 * 1024
_MOST_PARTITIONS = 200

_SPARK_TYPES = {
    "BIGINT": "bigint",
    "BOOLEAN": "boolean",
    "CHAR": "string",
    "DATE": "date",
    "DOUBLE PRECISION": "double",
    "INTEGER": "int",
    "REAL": "float",
    "SMALLINT": "smallint",
    "SUPER": "string",
    "TIMESTAMP": "timestamp",
    "TIMESTAMPTZ": "timestamp",
    "VARBYTE": "binary",
    "VARCHAR": "string",
}
"""Redshift's types as Spark's; DECIMAL and NUMERIC keep their precision."""


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the gate; raise SystemExit with the code (see the module) when it could not."""
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    try:
        result = gate(arguments.suite, _data(arguments.data), arguments.output, arguments.history)
    except EmrEtlError as problem:
        # EMR keeps stdout and stderr in two files, and people open either.
        for stream in (sys.stdout, sys.stderr):
            _say(f"quality_gate: {type(problem).__name__}: {problem}", stream)
        raise SystemExit(2 if isinstance(problem, ConfigurationError) else 1) from problem
    _say(result.render(), sys.stdout)


def gate(suite_uri: str, data: Mapping[str, str], output: str, history: Optional[str] = None) -> GateResult:
    """Check *data* by the suite and write what was found under *output*.

    *data* maps the name of a dataset to the URI of its manifest, or of a folder of Parquet without one. *history* is
    the folder that holds earlier nights' results under ``dt=<day>/``.

    Raises:
        ConfigurationError: the suite is wrong, or its datasets are not those of *data*.
        MissingInputError: there is no suite or no manifest at its URI.
        ManifestError: a manifest is broken, is that of another dataset, or its files do not hold its rows.
        CorruptInputError: the files are there, but damaged.
    """
    from airflow_emr_etl.quality.runner import build_expectations, import_great_expectations, run_suite
    from airflow_emr_etl.quality.suite import load_suite
    from airflow_emr_etl.spark import storage
    from airflow_emr_etl.spark.gate_history import past_of
    from airflow_emr_etl.spark.quarantine import split
    from airflow_emr_etl.spark.session import job_session

    laps = _Laps()
    # Importing takes Python seconds in which starting a Spark context keeps only the JVM busy. An import that
    # fails here fails again, and is told, where the module is first used.
    ahead = threading.Thread(target=_quietly, args=(import_great_expectations,), daemon=True)
    ahead.start()
    spark = job_session("quality_gate")
    laps.done("Spark session")
    suite = load_suite(storage.read_text(spark, suite_uri), suite_uri)
    _same_datasets(suite_uri, suite.datasets, data)
    manifests = {name: _manifest(spark, name, data[name]) for name in suite.datasets}
    suite = suite.for_partitions({name: manifest.partition for name, manifest in manifests.items()})
    if history is not None:
        days = sorted({manifest.partition.get("dt", "") for manifest in manifests.values()} - {""})
        if not days:
            raise ConfigurationError(
                f"--history {history}: none of the data has a day (dt), so no night is past"
            )
        suite = past_of(spark, history, before=days[0]).given_to(suite)
    laps.done("suite and manifests")
    ahead.join()
    build_expectations(suite)
    laps.done("rest of importing Great Expectations")
    _size_shuffles(spark, sum(manifest.content_length for manifest in manifests.values()))
    frames = {name: _frame(spark, data[name], manifest) for name, manifest in manifests.items()}
    laps.done("opening the data")
    with tempfile.TemporaryDirectory(prefix="quality-gate-") as folder:
        docs = Path(folder) / "data_docs"
        docs.mkdir()
        result = run_suite(
            suite,
            frames,
            docs,
            put_aside=lambda name, rows: split(spark, manifests[name], rows, data[name], output),
        )
        for name, manifest in manifests.items():
            if result.datasets[name].rows != manifest.record_count:
                raise ManifestError(
                    f"{data[name]} promises {manifest.record_count} rows in {len(manifest.entries)} files, but "
                    f"they hold {result.datasets[name].rows}; run the step that wrote them again"
                )
        laps.done("checks and rendering of the data docs")
        _copy_tree(spark, docs, storage.join(output, "data_docs"))
        laps.done("upload of the data docs")
    result = dataclasses.replace(
        result, data_docs=storage.join(output, "data_docs", "index.html"), seconds=laps.total()
    )
    storage.write_text(spark, storage.join(output, "result.json"), result.to_json())
    _say(laps.render(), sys.stdout)
    return result


def _say(text: str, stream: TextIO) -> None:
    stream.write(f"{text}\n")
    stream.flush()


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="quality_gate", description="Check datasets by a suite.")
    parser.add_argument("--suite", required=True, metavar="URI", help="the suite, a YAML file")
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        metavar="NAME=URI",
        help="a dataset of the suite and the URI of its manifest (….json), or of a folder of Parquet; "
        "once for each dataset",
    )
    parser.add_argument(
        "--history", metavar="URI", help="the folder of earlier nights' results, by dt=<day>/"
    )
    parser.add_argument("--output", required=True, metavar="URI", help="the folder for result and data docs")
    return parser.parse_args(argv)


def _data(given: Sequence[str]) -> Dict[str, str]:
    data: Dict[str, str] = {}
    for item in given:
        name, _, uri = item.partition("=")
        if not name or not uri:
            raise ConfigurationError(
                f"--data {item!r}: give NAME=URI, such as events=s3://lake/events/manifest.json"
            )
        if name in data:
            raise ConfigurationError(f"--data names dataset {name} twice: {data[name]} and {uri}")
        data[name] = uri
    return data


def _same_datasets(suite_uri: str, wanted: Mapping[str, Any], data: Mapping[str, str]) -> None:
    missing, extra = sorted(set(wanted) - set(data)), sorted(set(data) - set(wanted))
    if missing:
        raise ConfigurationError(
            f"{suite_uri} checks {', '.join(missing)}, but no data was given for it; "
            f"add {' '.join(f'--data {name}=<manifest>' for name in missing)}, or take it out of the suite"
        )
    if extra:
        raise ConfigurationError(
            f"data was given for {', '.join(extra)}, but {suite_uri} has no such dataset, so nothing would be "
            f"checked; it has: {', '.join(wanted)}"
        )


def _size_shuffles(spark: SparkSession, size: int) -> None:
    """A few partitions for a small dataset, unless whoever submitted the step has set a number."""
    if not spark.sparkContext.getConf().contains("spark.sql.shuffle.partitions"):
        partitions = min(_MOST_PARTITIONS, max(2, -(-size // _BYTES_A_PARTITION)))
        spark.conf.set("spark.sql.shuffle.partitions", str(partitions))


def _manifest(spark: SparkSession, name: str, uri: str) -> Manifest:
    from airflow_emr_etl.spark import storage
    from airflow_emr_etl.spark.bare_parquet import describe

    if not uri.endswith(".json"):
        return describe(spark, name, uri)
    text = storage.read_text(spark, uri)
    try:
        manifest = Manifest.from_json(text)
    except ManifestError as problem:
        raise ManifestError(f"{uri}: {problem}") from problem
    if manifest.dataset != name:
        raise ManifestError(
            f"--data {name}={uri}: this is the manifest of dataset {manifest.dataset}, not of {name}"
        )
    return manifest


def _frame(spark: SparkSession, uri: str, manifest: Manifest) -> DataFrame:
    from pyspark.errors import AnalysisException

    if not manifest.entries:
        fields = ", ".join(f"`{column.name}` {_spark_type(column.type, uri)}" for column in manifest.columns)
        return spark.createDataFrame([], schema=fields)
    try:
        return spark.read.parquet(*manifest.urls)
    except AnalysisException as problem:
        raise ManifestError(f"a file that {uri} lists cannot be read: {_first_lines(problem)}") from problem


def _spark_type(redshift: str, uri: str) -> str:
    match = re.fullmatch(r"([A-Z ]+?)\s*(\(.*\))?", redshift.strip().upper())
    name, precision = (match.group(1), match.group(2) or "") if match else ("", "")
    if name in ("DECIMAL", "NUMERIC"):
        return f"decimal{precision}"
    if name not in _SPARK_TYPES:
        raise ManifestError(f"{uri}: type {redshift!r} is unknown; valid: {', '.join(sorted(_SPARK_TYPES))}")
    return _SPARK_TYPES[name]


def _copy_tree(spark: SparkSession, source: Path, target: str) -> None:
    """Copy a local folder, bytes as they are, to wherever Hadoop's file systems reach, in place of an old one."""
    jvm: Any = spark.sparkContext._jvm
    configuration = spark.sparkContext._jsc.hadoopConfiguration()
    path = jvm.org.apache.hadoop.fs.Path(target)
    system = path.getFileSystem(configuration)
    # Copying onto a folder that is there would put the new one inside it.
    system.delete(path, True)
    system.mkdirs(path.getParent())
    system.copyFromLocalFile(False, True, jvm.org.apache.hadoop.fs.Path(f"file://{source}"), path)


def _first_lines(problem: Exception) -> str:
    return " ".join(str(problem).split("JVM stacktrace")[0].split())[:500]


def _quietly(action: Any) -> None:
    with contextlib.suppress(Exception):
        action()


class _Laps:
    """Where the seconds of a run went."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._laps: List[Tuple[str, float]] = []

    def done(self, what: str) -> None:
        now = time.monotonic()
        self._laps.append((what, now - self._last))
        self._last = now

    def total(self) -> float:
        return time.monotonic() - self._start

    def render(self) -> str:
        return "seconds: " + ", ".join(f"{what} {seconds:.1f}" for what, seconds in self._laps)


if __name__ == "__main__":
    main(sys.argv[1:])
