"""The fixtures, as a project of somebody else's has them."""

from __future__ import annotations

import configparser
import importlib
import os
import subprocess
import sys
from pathlib import Path

PLUGIN = "airflow_emr_etl.local.pytest_plugin"
TESTS = """
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

ONCE = Config(retries={"total_max_attempts": 1})


def test_a_fault(local_aws_environment, local_aws_faults):
    s3 = boto3.client("s3", config=ONCE)
    s3.create_bucket(Bucket="lake")
    local_aws_faults.add("s3:PutObject", "throttle", nth=1, when="after")
    local_aws_faults.capacity(instance_type="m5.xlarge")
    with pytest.raises(ClientError, match="SlowDown"):
        s3.put_object(Bucket="lake", Key="a", Body=b"x")
    assert (local_aws_environment.objects / "lake" / "a").read_bytes() == b"x"
    assert [each.operation for each in local_aws_faults.fired()] == ["PutObject"]


def test_all_is_well_again(local_aws, local_aws_environment, local_aws_faults):
    assert local_aws_environment is local_aws
    assert local_aws_faults.count() == 0
    assert local_aws_faults.fired() == []
    boto3.client("s3", config=ONCE).put_object(Bucket="lake", Key="b", Body=b"x")
"""


def test_a_project_uses_the_fixtures(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(TESTS)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # so that it does not matter whether the entry point is installed
        "AWS_PROFILE": "somebody-elses",
    }
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", PLUGIN, "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=150,
        cwd=tmp_path,
        env=environment,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "2 passed" in found.stdout


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    settings = configparser.ConfigParser()
    settings.read(Path(__file__).parents[3] / "setup.cfg")
    [line] = settings["options.entry_points"]["pytest11"].strip().splitlines()
    name, _, module = line.partition(" = ")
    assert (name, module) == ("emr_etl_local", PLUGIN)
    assert importlib.import_module(module)
