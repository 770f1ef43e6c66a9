from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from airflow_emr_etl.local.emr.logs import LogUriError, folder_of, publish, root_cause

TRACEBACK = """\
starting
Traceback (most recent call last):
  File "/tmp/job.py", line 3, in <module>
    int("x")
ValueError: invalid literal for int() with base 10: 'x'
"""
JAVA = """\
26/01/05 10:00:00 INFO SparkContext: Running Spark
Exception in thread "main" org.apache.spark.SparkException: no such file
\tat org.apache.spark.deploy.SparkSubmit.main(SparkSubmit.scala)
26/01/05 10:00:01 INFO ShutdownHookManager: Shutdown hook called
"""


@pytest.mark.parametrize(
    ("stdout", "stderr", "found"),
    [
        # spark-submit sends the driver's traceback to stdout; Spark's own exception follows it in stderr.
        (TRACEBACK, JAVA, ("stdout", "ValueError: invalid literal for int() with base 10: 'x'")),
        ("", TRACEBACK, ("stderr", "ValueError: invalid literal for int() with base 10: 'x'")),
        ("", JAVA, ("stderr", 'Exception in thread "main" org.apache.spark.SparkException: no such file')),
        ("", "bash: nope: command not found\n", ("stderr", "bash: nope: command not found")),
        ("last words\n", "26/01/05 10:00:01 INFO X: bye\n", ("stdout", "last words")),
        ("Traceback (most recent call last):\n  x\nacme.Boom\nmore\n", "", ("stdout", "acme.Boom")),
        ("", "", None),
    ],
)
def test_the_root_cause(stdout: str, stderr: str, found: tuple[str, str] | None) -> None:
    assert root_cause(stdout, stderr) == found


def test_the_last_of_several_tracebacks_counts() -> None:
    again = TRACEBACK.replace("ValueError: invalid", "KeyError: other")
    found = root_cause(TRACEBACK + again, "")
    assert found is not None
    assert found[1].startswith("KeyError: other")


def test_log_uris(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for uri in ("s3://logs", "s3://logs/", "s3n://logs/", "s3a://logs"):
        assert folder_of(uri, tmp_path) == tmp_path / "logs"
    assert folder_of("s3://logs/a/b/", tmp_path) == tmp_path / "logs" / "a" / "b"
    for uri in ("s3://none/a/", "/var/log", "s3://../x", "s3://logs/../../x"):
        with pytest.raises(LogUriError):
            folder_of(uri, tmp_path)


def test_a_published_log_is_gzip(tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    log.write_bytes(b"line\n" * 100_000)
    publish(log, tmp_path / "bucket" / "steps" / "stderr.gz")
    assert gzip.decompress((tmp_path / "bucket/steps/stderr.gz").read_bytes()) == log.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bucket", "stderr"]
