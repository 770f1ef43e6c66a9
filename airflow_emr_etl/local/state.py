"""The state folder of local AWS: who serves it, at which port and with which key."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from airflow_emr_etl.exceptions import LocalAwsError

DEFAULT_STATE = Path(".local")
HOST = "127.0.0.1"
REGION = "us-east-1"

# What the first start makes before ``local.json`` is there.
_OWN_NAMES = frozenset({"logs", "start.lock", "server.lock", "s3", "emr", "redshift", "local.json"})


@dataclass(frozen=True)
class Instance:
    """What ``local.json`` says. ``pid`` is None while nothing serves the folder; the rest outlives a stop."""

    access_key: str
    secret_key: str
    port: int = 0
    """The port that was used last; 0 before the first start."""
    pid: int | None = None
    process_started: str | None = None
    """Tells the process from a later one with the same pid; opaque."""
    detached: bool = False
    """Whether it is a background process of ``emr-etl local start``."""

    @property
    def endpoint_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def is_running(self) -> bool:
        return self.pid is not None and process_started(self.pid) == self.process_started

    def stopped(self) -> Instance:
        return replace(self, pid=None, process_started=None, detached=False)

    def env(self) -> dict[str, str]:
        """What a shell or process needs so that boto3, the AWS CLI and Airflow talk to this instance.

        A proxy of the caller's must never see these requests, let alone their key: loopback is taken out of it.
        """
        bypass = [each for each in (os.environ.get("no_proxy"), os.environ.get("NO_PROXY")) if each]
        no_proxy = ",".join(dict.fromkeys(",".join([*bypass, HOST, "localhost"]).split(",")))
        return {
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AIRFLOW_CONN_AWS_DEFAULT": "aws://",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class StateFolder:
    """Paths below the folder, and ``local.json``."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.objects = self.path / "s3"
        self.log_file = self.path / "logs" / "server.log"
        self._instance_file = self.path / "local.json"

    def create(self) -> None:
        """Raises LocalAwsError when the folder cannot be made or written, or holds somebody else's files."""
        try:
            if self.path.is_dir() and (strangers := self._strangers()):
                if not self._instance_file.is_file():
                    raise LocalAwsError(
                        f"{self.path} is no state folder of local AWS: it holds {sorted(strangers)[0]}. Name a new "
                        "or an empty folder with --state."
                    )
            else:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.path.chmod(0o700)
            self.log_file.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise folder_error(self.path, error) from error

    def _strangers(self) -> set[str]:
        found = {item.name for item in self.path.iterdir()} - _OWN_NAMES
        return {name for name in found if not name.startswith(("s3-", ".local.json."))}

    def read(self) -> Instance | None:
        """None for a folder in which local AWS never ran. Raises LocalAwsError when ``local.json`` is damaged."""
        try:
            text = self._instance_file.read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise folder_error(self.path, error) from error
        try:
            return Instance(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise LocalAwsError(
                f"{self._instance_file} is damaged ({error}). Delete it; the next start makes a new access key."
            ) from error

    def write(self, instance: Instance) -> None:
        """Readers see the old or the new one, whole; only the owner may read it."""
        temporary = self._instance_file.with_name(f".local.json.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(asdict(instance), file, indent=1)
            temporary.replace(self._instance_file)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise folder_error(self.path, error) from error

    def running(self) -> Instance:
        """Raises LocalAwsError when nothing serves the folder."""
        instance = self.read()
        if instance is None or not instance.is_running:
            raise LocalAwsError(
                f"Local AWS is not running with its state in {self.path}. Start it: emr-etl local start "
                f"--state {self.path}"
            )
        return instance

    @contextlib.contextmanager
    def lock(self, name: str, busy: str, *, wait: bool = False) -> Iterator[None]:
        """Hold ``<name>.lock`` against other processes and threads. Raises LocalAwsError(busy)."""
        file = self._open_lock(name)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise folder_error(self.path, error) from error
                raise LocalAwsError(busy) from None
            yield
        finally:
            file.close()

    def _open_lock(self, name: str) -> IO[bytes]:
        try:
            return (self.path / f"{name}.lock").open("ab")
        except OSError as error:
            raise folder_error(self.path, error) from error


def new_instance(access_key: str | None = None) -> Instance:
    """A fresh random key of 128 bits, in the alphabet of AWS's own."""
    return Instance(
        access_key=access_key or "LKIA" + secrets.token_hex(16).upper(), secret_key=secrets.token_urlsafe(30)
    )


def process_started(pid: int) -> str | None:
    """When the process began, as text to compare only; None when there is none (or only its zombie).

    A pid alone can be another process's by now; with the start time it cannot.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None if Path("/proc/self").exists() else _started_by_ps(pid)
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _started_by_ps(pid: int) -> str | None:
    """Where there is no /proc, as on macOS."""
    found = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    status, _, started = found.stdout.strip().partition(" ")
    return started.strip() if started and "Z" not in status else None


def folder_error(path: Path, error: OSError) -> LocalAwsError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LocalAwsError(
            f"The disk that holds {path} is full. Free some space, or choose another folder: --state."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return LocalAwsError(
            f"The state folder {path} cannot be written ({error.strerror}). Choose another: --state."
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return LocalAwsError(
            f"The state folder {path} cannot be a folder: a file is in the way. Choose another: --state."
        )
    return LocalAwsError(f"The state folder {path} cannot be used: {error}")
