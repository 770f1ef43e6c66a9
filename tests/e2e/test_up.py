"""``emr-etl up`` and ``down``: a whole Airflow with its scheduler, triggerer and web server, on local AWS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
RUN_SECONDS = 300


def emr_etl(*arguments: str | Path) -> str:
    done = subprocess.run(
        [BIN / "emr-etl", *arguments],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Api:
    """Airflow's own web API, signed in as the user that ``up`` printed."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url
        self._token = ""
        self._token = self.call("/auth/token", {"username": user, "password": password})["access_token"]

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self._url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@pytest.mark.slow
@pytest.mark.spark
def test_a_run_triggered_in_the_browsers_way_goes_green(tmp_path: Path) -> None:
    state = tmp_path / "state"
    printed = emr_etl("up", "--state", state, "--lines", "2000")
    try:
        url = next(line.split()[1] for line in printed.splitlines() if line.startswith("Airflow"))
        sign_in = next(line for line in printed.splitlines() if line.startswith("Sign in"))
        user, password = sign_in.split("user ")[1].split(", password ")
        api = Api(url, user, password)
        runs = "/api/v2/dags/clickstream_nightly/dagRuns"
        run = api.call(runs, {"logical_date": None})["dag_run_id"]
        deadline = time.monotonic() + RUN_SECONDS
        while (found := api.call(f"{runs}/{run}"))["state"] in ("queued", "running"):
            assert time.monotonic() < deadline, found
            time.sleep(2)
        tasks = api.call(f"{runs}/{run}/taskInstances")["task_instances"]
        assert {task["task_id"]: task["state"] for task in tasks} == dict.fromkeys(
            [task["task_id"] for task in tasks], "success"
        )
        assert found["state"] == "success"
    finally:
        emr_etl("down", "--state", state)
    left = [
        " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline"])
        if str(state) in " ".join(process.info["cmdline"] or [])
    ]
    assert left == []
