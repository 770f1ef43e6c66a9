"""What LOGS may say, and what is put into the source bucket."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_emr_etl.cli.demo.inputs import log_files, stage
from airflow_emr_etl.exceptions import MissingInputError


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    for name in ("a.log", "b.log", "c.gz"):
        (folder / name).write_text(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


def test_paths_folders_patterns_and_home(logs: Path) -> None:
    assert log_files(f"{logs}/a.log, {logs}/c.gz") == [logs / "a.log", logs / "c.gz"]
    assert log_files(str(logs)) == [logs / "a.log", logs / "b.log", logs / "c.gz"]
    assert log_files(f"{logs}/*.log") == [logs / "a.log", logs / "b.log"]
    assert log_files("~/logs/b.log") == [logs / "b.log"]


@pytest.mark.parametrize("names", ["", " , ", "nowhere/*.log"])
def test_nothing_named_is_said(names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingInputError, match="LOGS"):
        log_files(names)


class Bucket:
    """As much of an S3 client as staging needs: objects with their digests, and a count of uploads."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads = 0

    def get_paginator(self, _: str) -> Bucket:
        return self

    def paginate(self, Bucket: str, Prefix: str) -> Iterator[dict[str, Any]]:
        yield {
            "Contents": [
                {"Key": key, "ETag": f'"{hashlib.md5(body).hexdigest()}"'}
                for key, body in self.objects.items()
                if key.startswith(Prefix)
            ]
        }

    def put_object(self, Bucket: str, Key: str, Body: Any) -> None:
        self.objects[Key] = Body.read()
        self.uploads += 1

    def delete_object(self, Bucket: str, Key: str) -> None:
        del self.objects[Key]


def test_staging_again_moves_nothing_and_takes_away_only_its_own(tmp_path: Path) -> None:
    bucket, record = Bucket(), tmp_path / "staged.json"
    bucket.objects["access/dt=2026-01-05/mine.log"] = b"the user's"
    for day in ("2026-01-05", "2026-01-06"):
        (tmp_path / day).mkdir()
        (tmp_path / day / "a.log").write_text(day)

    stage(bucket, tmp_path, ["2026-01-05", "2026-01-06"], "s3://b/access/", record)
    stage(bucket, tmp_path, ["2026-01-05", "2026-01-06"], "s3://b/access/", record)
    assert bucket.uploads == 2

    stage(bucket, tmp_path, ["2026-01-06"], "s3://b/access/", record)
    assert sorted(bucket.objects) == ["access/dt=2026-01-05/mine.log", "access/dt=2026-01-06/a.log"]
