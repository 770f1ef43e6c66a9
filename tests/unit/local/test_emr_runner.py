"""Steps as real processes, with programs that need no Spark."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_emr_etl.local.emr import EmrApi
from airflow_emr_etl.local.emr.processes import start_time

DEADLINE_SECONDS = 60


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {DEADLINE_SECONDS} seconds")


class Local:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects = root / "s3"
        for bucket in ("logs", "code"):
            (self.objects / bucket).mkdir(parents=True, exist_ok=True)
        self.api = EmrApi(root / "emr", self.objects, lambda: {"AWS_REGION": "us-east-1"})

    def cluster(self, **changes: Any) -> str:
        found: str = self.api.call("RunJobFlow", cluster_params(**changes))["JobFlowId"]
        return found

    def bash(self, cluster: str, command: str, jar: str = "command-runner.jar") -> str:
        args = ["bash", "-c", command] if jar == "command-runner.jar" else command.split()
        step = {"Name": "s", "HadoopJarStep": {"Jar": jar, "Args": args}}
        found: str = self.api.call("AddJobFlowSteps", {"JobFlowId": cluster, "Steps": [step]})["StepIds"][0]
        return found

    def status(self, cluster: str, step: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.call("DescribeStep", {"ClusterId": cluster, "StepId": step})["Step"]
        status: dict[str, Any] = found["Status"]
        return status

    def end_of(self, cluster: str, step: str) -> dict[str, Any]:
        ended = ("COMPLETED", "FAILED", "CANCELLED")
        found: dict[str, Any] = until(
            lambda: next((s for s in [self.status(cluster, step)] if s["State"] in ended), None)
        )
        return found

    def cluster_in(self, cluster: str, *states: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            status: dict[str, Any] = self.api.call("DescribeCluster", {"ClusterId": cluster})["Cluster"][
                "Status"
            ]
            return status if status["State"] in states else None

        found: dict[str, Any] = until(look)
        return found

    def log(self, cluster: str, step: str, name: str) -> str:
        path = self.objects / "logs" / "emr" / cluster / "steps" / step / f"{name}.gz"
        return gzip.decompress(path.read_bytes()).decode()


def cluster_params(**changes: Any) -> dict[str, Any]:
    return {
        "Name": "n",
        "LogUri": "s3://logs/emr/",
        "ServiceRole": "a",
        "JobFlowRole": "b",
        "Instances": {
            "MasterInstanceType": "m5.xlarge",
            "InstanceCount": 1,
            "KeepJobFlowAliveWhenNoSteps": True,
        },
        **changes,
    }


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    local = Local(tmp_path)
    local.api.start()
    yield local
    local.api.stop()


def test_a_step_runs_with_its_own_folder_and_environment(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/leak")
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "x")
    cluster = local.cluster()
    step = local.bash(
        cluster,
        'pwd; touch left-behind; echo "$AWS_REGION [$PYTHONPATH$SECRET_OF_THE_SERVER] $PYSPARK_PYTHON"; aws --version',
    )
    assert local.end_of(cluster, step)["State"] == "COMPLETED"
    folder, variables, aws = local.log(cluster, step, "stdout").splitlines()
    assert variables == f"us-east-1 [] {sys.executable}"
    assert aws.startswith("aws-cli/")
    assert not Path(folder).exists()
    assert list((local.root / "emr" / "work").iterdir()) == []
    assert "exited with code 0" in local.log(cluster, step, "controller")


def test_a_failing_step_tells_why_and_where(local: Local) -> None:
    cluster = local.cluster()
    step = local.bash(cluster, "echo out; echo first >&2; echo 'nothing to read' >&2; exit 7")
    details = local.end_of(cluster, step)["FailureDetails"]
    assert details == {
        "Reason": "Unknown Error.",
        "Message": "nothing to read",
        "LogFile": f"s3://logs/emr/{cluster}/steps/{step}/stderr.gz",
    }
    assert local.log(cluster, step, "stderr") == "first\nnothing to read\n"


def test_scripts_and_programs_that_are_not_there(local: Local) -> None:
    (local.objects / "code" / "run.sh").write_text('echo "ran $1 as $0"\n')
    cluster = local.cluster()
    good = local.bash(cluster, "s3://code/run.sh x", jar="script-runner.jar")
    gone = local.bash(cluster, "s3://code/none.sh", jar="script-runner.jar")
    hive = {"Name": "h", "HadoopJarStep": {"Jar": "command-runner.jar", "Args": ["hive-script", "x"]}}
    nope = {"Name": "n", "HadoopJarStep": {"Jar": "command-runner.jar", "Args": ["no-such-program"]}}
    ids = local.api.call("AddJobFlowSteps", {"JobFlowId": cluster, "Steps": [hive, nope]})["StepIds"]
    assert local.end_of(cluster, good)["State"] == "COMPLETED"
    assert local.log(cluster, good, "stdout").startswith("ran x as ")
    messages = [local.end_of(cluster, each)["FailureDetails"]["Message"] for each in (gone, *ids)]
    assert "s3://code/none.sh does not exist" in messages[0]
    assert "does not run Hive" in messages[1]
    assert 'Cannot run program "no-such-program"' in messages[2]


def test_cancelling_and_terminating_end_every_process(local: Local) -> None:
    cluster = local.cluster()
    # A child in a session of its own sort: it ignores the polite signals and sits in another group.
    stubborn = (
        'echo $$ > s.pid; python -c "import os,signal,time; os.setpgid(0,0); '
        "[signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; open('c.pid','w').write(str(os.getpid())); "
        'time.sleep(600)" & wait'
    )
    step = local.bash(cluster, stubborn)
    run = local.root / "emr" / "work" / step / "run"
    child = int(until(lambda: (run / "c.pid").exists() and (run / "c.pid").read_text()))
    local.api.call(
        "CancelSteps",
        {"ClusterId": cluster, "StepIds": [step], "StepCancellationOption": "TERMINATE_PROCESS"},
    )
    assert local.end_of(cluster, step)["State"] == "CANCELLED"
    assert start_time(child) is None
    second = local.bash(cluster, "sleep 600")
    until(lambda: local.status(cluster, second)["State"] == "RUNNING")
    local.api.call("TerminateJobFlows", {"JobFlowIds": [cluster]})
    local.cluster_in(cluster, "TERMINATED")
    assert local.status(cluster, second)["State"] == "CANCELLED"


def test_bootstrap_actions_are_scripts(local: Local) -> None:
    (local.objects / "code" / "good.sh").write_text("#!/bin/bash\necho good $1\n")
    (local.objects / "code" / "bad.sh").write_text("echo bad >&2; exit 4\n")

    def action(name: str) -> dict[str, Any]:
        return {"Name": name, "ScriptBootstrapAction": {"Path": f"s3://code/{name}.sh", "Args": ["x"]}}

    cluster = local.cluster(BootstrapActions=[action("good"), action("bad")])
    status = local.cluster_in(cluster, "TERMINATED_WITH_ERRORS", "WAITING")
    assert status["StateChangeReason"]["Code"] == "BOOTSTRAP_FAILURE"
    assert "bootstrap action 2 returned a non-zero return code" in status["StateChangeReason"]["Message"]
    (instance,) = local.api.call("ListInstances", {"ClusterId": cluster})["Instances"]
    logs = local.objects / "logs/emr" / cluster / "node" / instance["Ec2InstanceId"] / "bootstrap-actions"
    assert gzip.decompress((logs / "1" / "stdout.gz").read_bytes()) == b"good x\n"
    assert gzip.decompress((logs / "2" / "stderr.gz").read_bytes()) == b"bad\n"
    assert (logs / "2" / "controller.gz").exists()


def test_without_a_usable_log_uri_the_logs_stay_in_the_state_folder(local: Local) -> None:
    cluster = local.cluster(LogUri="s3://no-such-bucket/x/")
    step = local.bash(cluster, "echo here; exit 1")
    assert "LogFile" not in local.end_of(cluster, step)["FailureDetails"]
    logs = local.root / "emr" / "logs" / cluster / "steps" / step
    assert (logs / "stdout").read_text() == "here\n"
    assert "no bucket no-such-bucket" in (logs / "controller").read_text()
    assert not (local.objects / "no-such-bucket").exists()


def test_stopping_ends_the_processes_and_the_next_start_tells_of_it(local: Local) -> None:
    cluster = local.cluster()
    step = local.bash(cluster, "echo $$ > pid; exec sleep 600")
    path = local.root / "emr" / "work" / step / "run" / "pid"
    pid = int(until(lambda: path.exists() and path.read_text()))
    local.api.stop()
    assert start_time(pid) is None
    local.api = EmrApi(local.root / "emr", local.objects, dict)
    local.api.start()
    assert local.status(cluster, step)["FailureDetails"]["Reason"] == "Local AWS was stopped"
    local.cluster_in(cluster, "WAITING")


SERVER = """
import sys, time
from pathlib import Path
from airflow_emr_etl.local.emr import EmrApi
root = Path(sys.argv[1])
api = EmrApi(root / "emr", root / "s3", dict)
api.start()
jar = {"Jar": "command-runner.jar", "Args": ["bash", "-c", f"echo $$ > {root}/pid; sleep 600; true"]}
api.call("RunJobFlow", {
    "Name": "n", "ServiceRole": "a", "JobFlowRole": "b", "Steps": [{"Name": "s", "HadoopJarStep": jar}],
    "Instances": {"MasterInstanceType": "m", "KeepJobFlowAliveWhenNoSteps": True},
})
time.sleep(600)
"""


def test_what_a_killed_server_left_running_is_ended_at_the_next_start(tmp_path: Path) -> None:
    local = Local(tmp_path)
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)])
    try:
        path = tmp_path / "pid"
        pid = int(until(lambda: path.exists() and path.read_text()))
        server.send_signal(signal.SIGKILL)
        server.wait()
        assert start_time(pid) is not None
        local.api.start()
        assert start_time(pid) is None
        assert stranger.poll() is None
        (cluster,) = local.api.call("ListClusters", {})["Clusters"]
        (step,) = local.api.call("ListSteps", {"ClusterId": cluster["Id"]})["Steps"]
        assert step["Status"]["State"] == "FAILED"
    finally:
        server.kill()
        stranger.kill()
        stranger.wait()
        local.api.stop()


def test_losing_spot_instances_ends_the_processes_of_the_running_steps(local: Local) -> None:
    instances = {
        "InstanceGroups": [
            {"InstanceRole": role, "InstanceType": "m5.xlarge", "InstanceCount": 1, "Market": market}
            for role, market in (("MASTER", "ON_DEMAND"), ("CORE", "SPOT"))
        ],
        "KeepJobFlowAliveWhenNoSteps": True,
    }
    cluster = local.cluster(Instances=instances, StepConcurrencyLevel=2)
    steps = [local.bash(cluster, "echo $$ > pid; mv pid pid.ready; sleep 600") for _ in range(2)]
    files = [local.root / "emr" / "work" / step / "run" / "pid.ready" for step in steps]
    pids = [int(until(lambda file=file: file.exists() and file.read_text())) for file in files]
    local.api.faults.spot_loss(cluster)
    status = local.cluster_in(cluster, "TERMINATED_WITH_ERRORS")
    assert status["StateChangeReason"]["Code"] == "INSTANCE_FAILURE"
    assert [local.status(cluster, step)["State"] for step in steps] == ["CANCELLED"] * 2
    assert [start_time(pid) for pid in pids] == [None, None]


def test_logs_of_a_step_come_when_the_delay_is_over_and_at_a_stop(local: Local) -> None:
    cluster = local.cluster()
    folder = local.objects / "logs" / "emr" / cluster / "steps"
    local.api.faults.log_delay(3600)
    late = local.bash(cluster, "echo late; exit 3")
    status = local.end_of(cluster, late)
    assert status["State"] == "FAILED"
    assert status["FailureDetails"]["LogFile"] == f"s3://logs/emr/{cluster}/steps/{late}/stdout.gz"
    assert not (folder / late).exists()
    local.api.faults.log_delay(0.2)
    soon = local.bash(cluster, "echo soon")
    local.end_of(cluster, soon)
    until((folder / soon / "stdout.gz").exists)
    assert not (folder / late).exists()
    local.api.faults.clear()
    at_once = local.bash(cluster, "echo now")
    local.end_of(cluster, at_once)
    assert local.log(cluster, at_once, "stdout") == "now\n"
    local.api.stop()
    assert local.log(cluster, late, "stdout") == "late\n"
    assert list((local.root / "emr" / "logs").rglob("*.gz")) == []
