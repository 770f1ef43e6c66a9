"""``emr-etl local``: the whole of local AWS as a background process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_emr_etl.local.state import StateFolder, process_started

COMMAND = [sys.executable, "-c", "from airflow_emr_etl.cli.local import app; app(prog_name='emr-etl local')"]


def emr_etl(*arguments, state, env=None):
    return subprocess.run(
        [*COMMAND, *arguments, "--state", str(state)],
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, "COLUMNS": "200", **(env or {})},
    )


def wait_until(condition, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def state(tmp_path):
    folder = tmp_path / "st ate"
    yield folder
    instance = StateFolder(folder).read() if folder.is_dir() else None
    emr_etl("stop", state=folder)
    if instance and instance.pid:
        assert process_started(instance.pid) != instance.process_started


def instance_of(state):
    return StateFolder(state).running()


def test_start_status_env_logs_stop(state, tmp_path):
    before = emr_etl("status", state=state)
    assert (before.returncode, "not running" in before.stdout) == (3, True)
    for command in ("env", "logs"):
        early = emr_etl(command, state=state)
        assert early.returncode == 1
        assert early.stderr.startswith("Error: ")

    started = emr_etl("start", state=state)
    assert started.returncode == 0, started.stderr
    instance = instance_of(state)
    assert instance.endpoint_url in started.stdout
    assert "local env --state" in started.stdout

    again = emr_etl("start", state=state)
    assert (again.returncode, "runs already" in again.stdout) == (0, True)
    assert instance_of(state) == instance

    status = emr_etl("status", state=state)
    assert status.returncode == 0
    for shown in ("running", instance.endpoint_url, str(instance.pid), "emr", "redshift-data", "s3"):
        assert shown in status.stdout

    shell = emr_etl("env", state=state).stdout
    as_json = json.loads(emr_etl("env", "--format", "json", state=state).stdout)
    script = shell + "env"
    seen = subprocess.run(["sh", "-c", script], capture_output=True, text=True).stdout.splitlines()
    assert as_json["AWS_ENDPOINT_URL"] == instance.endpoint_url
    for name, value in as_json.items():
        assert f"{name}={value}" in seen

    aws = Path(sys.executable).with_name("aws")
    if aws.exists():
        done = subprocess.run(
            ["sh", "-c", f'{shell}"{aws}" emr list-clusters && "{aws}" s3 mb s3://lake'],
            capture_output=True,
            text=True,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr

    logs = emr_etl("logs", "-n", "50", state=state)
    assert "Local AWS serves" in logs.stdout
    assert instance.access_key not in logs.stdout

    stopped = emr_etl("stop", state=state)
    assert (stopped.returncode, instance.endpoint_url in stopped.stdout) == (0, True)
    assert process_started(instance.pid) is None
    assert emr_etl("status", state=state).returncode == 3
    assert "was not running" in emr_etl("stop", state=state).stdout


def test_after_sigkill_the_next_start_serves_again(state):
    emr_etl("start", state=state)
    killed = instance_of(state)
    os.kill(killed.pid, signal.SIGKILL)
    wait_until(lambda: process_started(killed.pid) is None, "it is still there")
    assert emr_etl("status", state=state).returncode == 3
    started = emr_etl("start", state=state)
    assert started.returncode == 0, started.stderr
    assert instance_of(state).access_key == killed.access_key


def test_two_starts_at_once_make_one_and_a_restart_keeps_key_and_port(state):
    starts = [
        subprocess.Popen([*COMMAND, "start", "--state", str(state)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = sorted(start.communicate(timeout=150)[0] for start in starts)
    assert [start.returncode for start in starts] == [0, 0]
    assert "is up" in outputs[0]
    assert "runs already" in outputs[1]
    first = instance_of(state)
    emr_etl("stop", state=state)
    emr_etl("start", state=state)
    second = instance_of(state)
    assert (second.access_key, second.port) == (first.access_key, first.port)
    assert second.pid != first.pid


def test_a_key_of_one_s_own_is_in_no_argument_list(state):
    emr_etl("start", "--access-key", "my-own-key", state=state)
    instance = instance_of(state)
    assert instance.access_key == "my-own-key"
    arguments = Path(f"/proc/{instance.pid}/cmdline")
    if arguments.exists():
        assert b"my-own-key" not in arguments.read_bytes()
    other = emr_etl("start", "--access-key", "another", state=state)
    assert (other.returncode, "another access key" in other.stderr) == (1, True)

    following = subprocess.Popen(
        [*COMMAND, "logs", "-f", "--state", str(state)], stdout=subprocess.PIPE, text=True
    )
    assert following.stdout.readline()
    emr_etl("stop", state=state)
    assert "has stopped" in following.communicate(timeout=30)[0], "followed until the server ends"


def test_a_port_in_use_is_told_plainly(state):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        started = emr_etl("start", "--port", str(port), state=state)
    assert started.returncode == 1
    assert started.stderr.startswith(f"Error: Port {port} on 127.0.0.1 is in use")
    assert "Traceback" not in started.stderr


def test_a_state_folder_that_cannot_be_is_told_plainly(tmp_path):
    (tmp_path / "file").write_text("")
    started = emr_etl("start", state=tmp_path / "file" / "state")
    assert started.returncode == 1
    assert "a file is in the way" in started.stderr
    assert "Traceback" not in started.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_told_plainly(tmp_path):
    tmp_path.chmod(0o500)
    started = emr_etl("start", state=tmp_path / "state")
    tmp_path.chmod(0o700)
    assert started.returncode == 1
    assert "cannot be written" in started.stderr


def test_a_missing_extra_is_told_plainly(state, tmp_path):
    """A package of the extra that cannot be imported, in the background process too."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "moto.py").write_text("raise ModuleNotFoundError('gone', name='moto')")
    started = emr_etl("start", state=state, env={"PYTHONPATH": str(tmp_path / "shadow")})
    assert started.returncode == 1
    assert "pip install 'airflow-emr-etl[local]'" in started.stderr
    assert "Traceback" not in started.stderr


def test_stop_leaves_an_instance_of_another_program_alone(tmp_path):
    from airflow_emr_etl.local.stack import LocalAws

    with LocalAws(tmp_path, services=lambda _: []) as local:
        stopped = emr_etl("stop", state=tmp_path)
        assert stopped.returncode == 1
        assert f"pid {os.getpid()}" in stopped.stderr
        assert local.instance.is_running


def test_stop_never_signals_a_recycled_pid(tmp_path):
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        document = {"access_key": "k", "secret_key": "s", "port": 1, "pid": bystander.pid}
        (tmp_path / "local.json").write_text(
            json.dumps({**document, "process_started": "1", "detached": True})
        )
        stopped = emr_etl("stop", state=tmp_path)
        assert (stopped.returncode, "was not running" in stopped.stdout) == (0, True)
        assert bystander.poll() is None
    finally:
        bystander.communicate(b"\n")


def test_the_command_loads_quickly():
    """Neither boto3 nor moto is loaded to print help or the environment."""
    heavy = "[name for name in ('boto3', 'moto', 'airflow') if name in sys.modules]"
    script = f"import sys, airflow_emr_etl.cli.local; print({heavy})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_it_is_a_command_of_emr_etl(tmp_path):
    script = shutil.which("emr-etl", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("the package is not installed beside this Python")
    done = subprocess.run(
        [script, "local", "status", "--state", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr


def test_faults_are_set_up_shown_and_cleared(state):
    early = emr_etl("faults", "list", state=state)
    assert (early.returncode, early.stderr.startswith("Error: ")) == (1, True)
    emr_etl("start", state=state)

    def faults(*arguments):
        found = emr_etl("faults", *arguments, state=state)
        assert found.returncode == 0, found.stderr
        return found.stdout.strip()

    assert faults("list") == "No faults are set up."
    added = faults("add", "emr:RunJobFlow", "timeout", "--after", "--nth", "1")
    assert added == "fault-1: timeout after emr:RunJobFlow, at call 1"
    assert faults("add", "s3:*", "500", "--probability", "0.5", "--times", "3").startswith(
        "fault-2: 500 before"
    )
    assert faults("capacity", "--type", "m5.xlarge", "--market", "SPOT", "--times", "2").endswith(
        "no SPOT m5.xlarge, at most 2 clusters"
    )
    spot_loss = faults("spot-loss", "--after", "30", "--role", "TASK")
    assert spot_loss == "spot-loss-2: every cluster loses its TASK Spot instances after 30 s"
    faults("lag", "10")
    faults("delay-logs", "60")
    listed = faults("list").splitlines()
    assert listed[0] == f"{added} - 0 calls, 0 went wrong"
    assert listed[1].startswith("fault-2: 500 before s3:*, at most 3 times, with probability 0.5 (seed 0)")
    assert listed[2:] == [
        "capacity-1: no SPOT m5.xlarge, at most 2 clusters - hit: none",
        f"{spot_loss} - hit: none",
        "new clusters and steps are listed after 10 s",
        "logs of steps come 60 s late",
    ]
    assert "6 set up on purpose" in emr_etl("status", state=state).stdout
    assert faults("clear", "capacity-1") == "capacity-1 is cleared."
    assert len(json.loads(faults("list", "--json"))["emr"]["rules"]) == 1
    for arguments, said in [
        (("add", "emr:runjobflow", "timeout"), "Did you mean emr:RunJobFlow?"),
        (("spot-loss", "j-1"), "There is no cluster 'j-1'"),
        (("clear", "capacity-1"), "There is no fault rule 'capacity-1'"),
    ]:
        refused = emr_etl("faults", *arguments, state=state)
        assert (refused.returncode, said in refused.stderr) == (1, True)
    assert faults("clear") == "All faults are cleared."
    assert faults("list") == "No faults are set up."
