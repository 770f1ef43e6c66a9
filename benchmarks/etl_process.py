"""A contender in a process of its own: its options, how it is run, how long it takes and how much memory."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

_EVERY_SECONDS = 0.1
_MARK = "BENCH-ETL "


class Failed(Exception):
    """A contender ended with an error. The message is one line; ``said`` is the end of what it printed."""

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said


@dataclass(frozen=True)
class Measured:
    seconds: float
    """From the start of the process to its end."""
    peak_mib: float
    """The most that the process and all below it were seen to have resident; pages they share count for each."""
    told: dict[str, Any]
    """What it printed by :func:`report`."""


def arguments(*commands: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options that all contenders have."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("command", choices=commands)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True, help="a folder that is not there yet")
    parser.add_argument("--source", choices=["json_events", "combined"], help="of a pipeline's input")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--event-log", help="the folder into which Spark writes what its tasks did")
    parser.add_argument("--runs", type=int, default=3, help="of the quality suite")
    return parser.parse_args(argv)


def report(told: Mapping[str, Any]) -> None:
    """Hand ``told`` to who measures."""
    print(_MARK + json.dumps(told), flush=True)


def run(command: Sequence[str], environment: Mapping[str, str], timeout: float = 3600) -> Measured:
    """Run ``python -m`` with ``command``. Raise :class:`Failed`; nothing that it started is left either way."""
    # Without the options, which have folders of this machine in them.
    name = " ".join(command[:2])
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watch = _Watch(process.pid)
        try:
            code = process.wait(timeout)
            seconds = time.perf_counter() - began
        except subprocess.TimeoutExpired:
            raise Failed(f"{name} had not ended after {timeout:.0f} s") from None
        finally:
            watch.stop()
            # Python workers and the JVM are of the same session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    if code:
        last = text.strip().rpartition("\n")[2]
        raise Failed(f"{name} ended with {code}: {last}", text[-5000:])
    told: dict[str, Any] = {}
    for line in text.splitlines():
        if line.startswith(_MARK):
            told |= json.loads(line[len(_MARK) :])
    return Measured(seconds, watch.peak / 2**20, told)


class Laps:
    """The seconds that the parts of a program take, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """``name`` has ended, and the next part begins."""
        now = time.perf_counter()
        self.seconds[name] = round(now - self._since, 3)
        self._since = now

    def report(self) -> None:
        report({"laps": self.seconds})


class _Watch(threading.Thread):
    """Looks at the memory of a process and all below it until it is stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.root = psutil.Process(pid)
        self.peak = 0
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(_EVERY_SECONDS):
            self.peak = max(self.peak, self.resident())

    def resident(self) -> int:
        """Bytes, now; 0 once the process has ended."""
        total = 0
        try:
            family = [self.root, *self.root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        for process in family:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def stop(self) -> None:
        self.ended.set()
        self.join()
