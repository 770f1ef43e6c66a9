from __future__ import annotations

import ast
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.spark.package import ARCHIVE, JOBS, JobPackage, PackageLocation, build_package


@pytest.fixture(scope="module")
def package() -> JobPackage:
    return build_package()


class Bucket:
    """An S3 client with one bucket, which remembers what was put."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.puts: list[str] = []

    def list_objects_v2(self, *, Bucket: str, Prefix: str) -> dict[str, Any]:
        assert Bucket == "artifacts"
        found = [{"Key": k, "Size": len(v)} for k, v in self.objects.items() if k.startswith(Prefix)]
        return {"Contents": found} if found else {}

    def put_object(self, *, Bucket: str, Key: str, Body: bytes) -> None:
        self.puts.append(Key)
        self.objects[Key] = Body


def test_the_same_code_gives_the_same_bytes(package: JobPackage) -> None:
    assert build_package() == package
    assert set(package.entry_points) == set(JOBS)


def test_what_ships_is_valid_on_python_3_9(package: JobPackage) -> None:
    with zipfile.ZipFile(io.BytesIO(package.archive)) as archive:
        sources = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}
    sources |= {name: script.decode() for name, script in package.entry_points.items()}
    assert "airflow_emr_etl/spark/jobs/clickstream_normalize.py" in sources
    for name, source in sources.items():
        ast.parse(source, name, feature_version=(3, 9))


def test_the_zip_alone_runs_the_jobs(package: JobPackage, tmp_path: Path) -> None:
    """Isolated from this installation: only the zip, PySpark and py4j are on the path."""
    folder = package.write(tmp_path)
    import py4j
    import pyspark

    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for module in (pyspark, py4j):
        source = Path(module.__file__).parent
        (libraries / source.name).symlink_to(source)
    program = f"""
import runpy, sys
sys.path[:0] = [{str(folder / ARCHIVE)!r}, {str(libraries)!r}]
for job in {list(JOBS)!r}:
    runpy.run_path({str(folder)!r} + "/" + job + ".py", run_name="imported")
from airflow_emr_etl.spark import robots
assert len(robots.load_patterns()) > 1000
from airflow_emr_etl.spark import referrer_database
sources = referrer_database.sources_by_domain(referrer_database.load_database())
assert referrer_database.find_source("https://www.google.com/search?q=lamp", sources) == ("search", "Google", "lamp")
import ua_parser
assert ua_parser.RegexResolver is None
assert ua_parser.parse("Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Firefox/145.0").user_agent.major == "145"
print(sys.modules["airflow_emr_etl"].__file__)
print(sorted(set(sys.modules) & {{"airflow", "pydantic", "boto3", "pandas", "great_expectations"}}))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    file, loaded = done.stdout.splitlines()
    assert file.startswith(str(folder / ARCHIVE))
    assert loaded == "[]"


def test_upload_puts_each_file_once(package: JobPackage) -> None:
    bucket = Bucket()
    location = package.upload(bucket, "s3://artifacts/emr/")
    assert location == PackageLocation(f"s3://artifacts/emr/jobs/{package.digest}/")
    assert location.archive_uri == f"s3://artifacts/emr/jobs/{package.digest}/{ARCHIVE}"
    assert bucket.puts[0] == f"emr/jobs/{package.digest}/{ARCHIVE}"
    assert {f"s3://artifacts/{key}" for key in bucket.puts} == {
        location.archive_uri,
        *(location.entry_uri(job) for job in JOBS),
    }
    assert package.upload(bucket, "s3://artifacts/emr") == location
    assert len(bucket.puts) == 1 + len(JOBS)


@pytest.mark.parametrize("prefix", ["artifacts/emr", "s3:///emr", "https://artifacts/emr"])
def test_a_place_that_is_not_in_s3_is_refused(package: JobPackage, prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="s3://bucket/prefix/"):
        package.upload(Bucket(), prefix)


def test_a_job_that_does_not_exist_is_refused(package: JobPackage) -> None:
    with pytest.raises(ConfigurationError, match="Jobs: clickstream_normalize, "):
        package.location("s3://artifacts/").entry_uri("nonsense")
