"""Local AWS as a background process: what ``emr-etl local start`` starts and ``stop`` ends.

``python -m airflow_emr_etl.local.daemon`` is that process. It tells the one who started it, as one line of
JSON through a pipe, that it serves, or why it cannot.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.state import HOST, Instance, StateFolder, folder_error

START_SECONDS = 120.0
STOP_SECONDS = 60.0
_POLL_SECONDS = 0.05
_MAX_LOG_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True)
class Started:
    instance: Instance
    was_running: bool
    notices: tuple[str, ...] = ()


def start(state: Path, port: int = 0, access_key: str | None = None) -> Started:
    """Start a detached process and wait until it serves; nothing to do when one does already.

    Raises LocalAwsError, also when the one that runs has another port or key than what is asked for.
    """
    folder = StateFolder(state)
    folder.create()
    with folder.lock("start", "", wait=True):  # of two starts at once, the second finds the first's
        running = folder.read()
        if running is not None and running.is_running:
            _check_same(running, port, access_key)
            return Started(running, was_running=True)
        return _spawn(folder, port, access_key)


def _check_same(running: Instance, port: int, access_key: str | None) -> None:
    if port not in (0, running.port):
        raise LocalAwsError(
            f"Local AWS runs already at {running.endpoint_url}. Stop it first to change the port."
        )
    if access_key not in (None, running.access_key):
        raise LocalAwsError(
            f"Local AWS runs already at {running.endpoint_url} with another access key. Stop it first to change it."
        )


def _spawn(folder: StateFolder, port: int, access_key: str | None) -> Started:
    command = [sys.executable, "-m", "airflow_emr_etl.local.daemon", "--state", str(folder.path)]
    command += ["--port", str(port)]
    environment = dict(os.environ)
    # Not as an argument: those are for everybody to read.
    environment.pop("EMR_ETL_LOCAL_ACCESS_KEY", None)
    if access_key:
        environment["EMR_ETL_LOCAL_ACCESS_KEY"] = access_key
    # The server's own AWS calls, if any, must not go through what an earlier `local env` set in this shell.
    environment.pop("AWS_ENDPOINT_URL", None)
    reading, writing = os.pipe()
    try:
        try:
            _rotate(folder.log_file)
            with folder.log_file.open("ab") as output:
                process = subprocess.Popen(
                    [*command, "--ready", str(writing)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[writing],
                    start_new_session=True,
                    env=environment,
                )
        except OSError as error:
            raise folder_error(folder.path, error) from error
        finally:
            os.close(writing)
        answer = _await_ready(reading, process, folder)
    finally:
        os.close(reading)
    if "error" in answer:
        process.wait(timeout=STOP_SECONDS)
        raise LocalAwsError(answer["error"])
    instance = folder.running()
    _check_health(instance)
    return Started(instance, was_running=False, notices=tuple(answer["notices"]))


def _await_ready(reading: int, process: subprocess.Popen[bytes], folder: StateFolder) -> dict[str, Any]:
    deadline = time.monotonic() + START_SECONDS
    received = b""
    while not received.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reading], [], [], left)[0]:
            process.terminate()
            raise LocalAwsError(
                f"Local AWS did not start within {START_SECONDS:.0f} seconds. Its log: {folder.log_file}"
            )
        data = os.read(reading, 65536)
        if not data:
            code = process.wait(timeout=STOP_SECONDS)
            raise LocalAwsError(
                f"Local AWS ended while starting (exit code {code}). Its log: {folder.log_file}"
            )
        received += data
    answer: dict[str, Any] = json.loads(received)
    return answer


def _rotate(log_file: Path) -> None:
    if log_file.exists() and log_file.stat().st_size > _MAX_LOG_BYTES:
        log_file.replace(log_file.with_suffix(".log.1"))


def health(instance: Instance, timeout_seconds: float = 5.0) -> dict[str, Any]:
    """What the server says of itself. Raises LocalAwsError when it does not answer."""
    connection = http.client.HTTPConnection(HOST, instance.port, timeout=timeout_seconds)
    try:
        headers = {"Authorization": f"Credential={instance.access_key}/"}
        connection.request("GET", "/_local_aws/health", headers=headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise LocalAwsError(
            f"Local AWS (pid {instance.pid}) does not answer at {instance.endpoint_url}: {error}"
        ) from error
    finally:
        connection.close()
    if response.status != 200:
        raise LocalAwsError(f"Something else answers at {instance.endpoint_url} (HTTP {response.status}).")
    answer: dict[str, Any] = json.loads(body)
    return answer


def _check_health(instance: Instance) -> None:
    if health(instance)["pid"] != instance.pid:
        raise LocalAwsError(f"Another process answers at {instance.endpoint_url}.")


def stop(state: Path, timeout_seconds: float = STOP_SECONDS) -> Instance | None:
    """End the process that serves the folder and wait for its end; what it was, or None when nothing ran.

    Raises LocalAwsError when it serves from within another program (a test, a demo), which must end it.
    """
    folder = StateFolder(state)
    if not folder.path.is_dir():
        return None
    with folder.lock("start", "", wait=True):
        instance = folder.read()
        if instance is None or not instance.is_running or instance.pid is None:
            return None
        if not instance.detached:
            raise LocalAwsError(
                f"The local AWS of {folder.path} is part of another program (pid {instance.pid}); end that one."
            )
        _signal(instance, signal.SIGTERM)
        if not _ended(instance, timeout_seconds):
            _signal(instance, signal.SIGKILL)
            if not _ended(instance, 10.0):
                raise LocalAwsError(f"Process {instance.pid} cannot be ended.")
            folder.write(instance.stopped())
        return instance


def _signal(instance: Instance, number: signal.Signals) -> None:
    if instance.pid is not None and instance.is_running:
        try:
            os.kill(instance.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            raise LocalAwsError(f"Process {instance.pid} belongs to another user.") from error


def _ended(instance: Instance, timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while instance.is_running:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="airflow_emr_etl.local.daemon", description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ready", type=int, help="file descriptor that is told when it serves")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("botocore").setLevel(logging.WARNING)
    if arguments.ready is not None:
        os.set_inheritable(arguments.ready, False)  # a child that held it would keep the starter waiting
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    from airflow_emr_etl.local.stack import LocalAws

    try:
        local = LocalAws(arguments.state, arguments.port, os.environ.pop("EMR_ETL_LOCAL_ACCESS_KEY", None))
        local.start(detached=True)
    except LocalAwsError as error:
        logging.error("%s", error)
        _tell(arguments.ready, {"error": str(error)})
        return 1
    except Exception as error:
        logging.exception("Local AWS cannot start")
        _tell(arguments.ready, {"error": f"Local AWS cannot start: {type(error).__name__}: {error}"})
        return 1
    _tell(arguments.ready, {"notices": local.notices})
    local.warm_up()
    ended.wait()
    local.stop()
    return 0


def _tell(descriptor: int | None, answer: dict[str, Any]) -> None:
    if descriptor is None:
        return
    try:
        os.write(descriptor, json.dumps(answer).encode() + b"\n")
    except BrokenPipeError:
        pass  # the starter gave up; stop ends us
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
