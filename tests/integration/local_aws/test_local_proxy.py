"""A proxy in the environment never sees a request to local AWS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
NOWHERE = "http://127.0.0.1:9"


def test_the_cli_and_what_its_environment_leads_to_go_past_a_proxy(tmp_path: Path) -> None:
    state = tmp_path / "state"
    kept = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    environment = {**kept, "HTTP_PROXY": NOWHERE, "http_proxy": NOWHERE}

    def shell(text: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", text],
            env={**environment, "PATH": f"{BIN}:{environment['PATH']}", "STATE": str(state)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    shell('emr-etl local start --state "$STATE"')
    try:
        assert "3" in shell('emr-etl local sql "select 1 + 2 as n" --format csv --state "$STATE"')
        shell('eval "$(emr-etl local env --state "$STATE")"; aws s3 mb s3://past-the-proxy')
        assert "past-the-proxy" in shell('eval "$(emr-etl local env --state "$STATE")"; aws s3 ls')
    finally:
        shell('emr-etl local stop --state "$STATE"')
