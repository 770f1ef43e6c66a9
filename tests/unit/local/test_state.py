from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.state import StateFolder, folder_error, new_instance, process_started


def test_local_json_is_for_the_owner_only(tmp_path):
    folder = StateFolder(tmp_path / "deep" / "state")
    folder.create()
    instance = new_instance()
    folder.write(instance)
    assert folder.read() == instance
    assert (folder.path / "local.json").stat().st_mode & 0o777 == 0o600
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.path.iterdir() if "json" in path.name] == ["local.json"]


def test_keys_are_random():
    keys = {new_instance().access_key for _ in range(20)}
    assert len(keys) == 20
    assert all(len(key) == 36 for key in keys)
    assert new_instance("MINE").access_key == "MINE"


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / "local.json").write_text("{")
    with pytest.raises(LocalAwsError, match="is damaged"):
        StateFolder(tmp_path).read()


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalAwsError, match="file is in the way"):
        StateFolder(tmp_path / "file" / "state").create()
    with pytest.raises(LocalAwsError, match="file is in the way"):
        StateFolder(tmp_path / "file").create()


def test_a_process_is_known_by_its_start(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_started(process.pid)
    assert started is not None
    assert started == process_started(process.pid)
    assert process_started(os.getpid()) != started
    process.communicate(b"\n")
    assert process_started(process.pid) is None


def test_a_recycled_pid_is_not_our_server(tmp_path):
    folder = StateFolder(tmp_path)
    instance = new_instance()
    folder.write(type(instance)(**{**vars(instance), "pid": os.getpid(), "process_started": "12"}))
    with pytest.raises(LocalAwsError, match="not running"):
        folder.running()


def test_locks_exclude_each_other(tmp_path):
    folder = StateFolder(tmp_path)
    with folder.lock("server", "busy"):
        with pytest.raises(LocalAwsError, match="busy"), folder.lock("server", "busy"):
            pass
        with folder.lock("start", "busy"):
            pass
    with folder.lock("server", "busy"):
        pass


def test_env_survives_a_posix_shell(tmp_path):
    variables = new_instance("a key; with 'quotes'").env()
    script = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    shown = subprocess.run(
        ["sh", "-c", script + 'printf %s "$AWS_ACCESS_KEY_ID"'], capture_output=True, text=True
    )
    assert shown.stdout == "a key; with 'quotes'"


@pytest.mark.parametrize(("number", "says"), [(errno.ENOSPC, "is full"), (errno.EROFS, "cannot be written")])
def test_errors_of_the_disk_are_told_plainly(tmp_path, number, says):
    error = folder_error(tmp_path, OSError(number, os.strerror(number)))
    assert says in str(error)
    assert "--state" in str(error)


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    tmp_path.chmod(0o755)
    with pytest.raises(LocalAwsError, match=r"holds thesis\.tex"):
        StateFolder(tmp_path).create()
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_the_environment_keeps_requests_away_from_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "corp.example")
    monkeypatch.delenv("no_proxy", raising=False)
    assert new_instance().env()["NO_PROXY"] == "corp.example,127.0.0.1,localhost"
