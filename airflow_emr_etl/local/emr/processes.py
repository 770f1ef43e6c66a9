"""Process groups: start one, tell it from a stranger with the same number, end all of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# Every process of a step carries this variable, with the id of the state folder that it belongs to.
MARKER = "EMR_ETL_LOCAL_STATE_ID"

_PROC = Path("/proc")


def start_time(pid: int) -> str | None:
    """When the process began, as the system tells it; None when there is no such process.

    With the pid this names one process for as long as the machine is up: numbers are used again, pairs are not.
    """
    if _PROC.is_dir():
        fields = _stat(pid)
        return fields[19] if fields and fields[0] != "Z" else None
    found = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the state on: [0] state, [2] group, [3] session, [19] start time."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name before it is in brackets and may hold anything.
    return text.rpartition(")")[2].split()


def _pids() -> Iterator[int]:
    if _PROC.is_dir():
        for each in _PROC.iterdir():
            if each.name.isdigit():
                yield int(each.name)


def session_members(session: int) -> list[int]:
    """Living processes of a session, in whatever group: Spark's Python workers leave the group of their JVM."""
    found = []
    for pid in _pids():
        fields = _stat(pid)
        if fields and int(fields[3]) == session and fields[0] != "Z":
            found.append(pid)
    return found


def signal_session(leader: int, number: signal.Signals) -> bool:
    """Send a signal to everything that a step started; False when nothing of it is alive.

    ``leader`` began the session and its group. While a member lives, the system gives its number to nobody else.
    """
    sent = False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)
        sent = True
    for pid in session_members(leader):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            sent = True
    return sent


def end_session(leader: int, grace_seconds: float) -> None:
    """SIGTERM, then SIGKILL for what is still there after the grace. Returns when nothing is left."""
    if not signal_session(leader, signal.SIGTERM):
        return
    deadline = time.monotonic() + grace_seconds
    while time.monotonic() < deadline:
        if not is_alive(leader):
            return
        time.sleep(0.02)
    while signal_session(leader, signal.SIGKILL) and time.monotonic() < deadline + 5:
        if not is_alive(leader):
            return
        time.sleep(0.02)


def is_alive(leader: int) -> bool:
    """Is anything of the session or the group alive, zombies aside?"""
    if _PROC.is_dir():
        return bool(session_members(leader))
    try:
        os.killpg(leader, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def marked_sessions(state_id: str) -> set[int]:
    """Sessions whose processes carry this state folder's id: what a server left that was killed outright.

    Only where /proc shows the environment of one's own processes, so on Linux.
    """
    wanted = f"{MARKER}={state_id}".encode()
    own = os.getsid(0)
    found: set[int] = set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            if wanted in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                fields = _stat(pid)
                if fields and int(fields[3]) not in (0, own):
                    found.add(int(fields[3]))
    return found


def clean_environment() -> dict[str, str]:
    """What a step gets of the server's environment: where programs are and how to reach the network, no more."""
    kept = ("HOME", "USER", "LOGNAME", "SHELL", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY")
    found = {
        key: value
        for key, value in os.environ.items()
        if key in kept or key.upper() in ("NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY")
    }
    binaries = str(Path(sys.executable).parent)
    found["PATH"] = os.pathsep.join([binaries, os.environ.get("PATH", os.defpath)])
    # Nodes of EMR count in UTC and speak UTF-8; Java 17 reads file names by the locale.
    found["TZ"] = "UTC"
    found["LANG"] = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
    found["LC_ALL"] = found["LANG"]
    return found
