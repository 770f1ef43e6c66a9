"""The bootstrap action, where it has nothing to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import airflow_emr_etl.quality

SCRIPT = Path(airflow_emr_etl.quality.__file__).parent / "bootstrap" / "install_great_expectations.sh"


def test_does_nothing_where_great_expectations_is() -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT), sys.executable], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
