"""``emr-etl up`` and ``emr-etl down``: local AWS and a whole Airflow, for looking around in the browser."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from airflow_emr_etl.cli.airflow_home import AirflowHome
from airflow_emr_etl.exceptions import EmrEtlError, LocalAwsError

_HEALTHY_SECONDS = 180
_STOP_SECONDS = 10


@dataclass(frozen=True)
class Standalone:
    """A running ``airflow standalone``; ``started`` tells its process from a later one with the same id."""

    pid: int
    started: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @staticmethod
    def record(home: Path) -> Path:
        return home / "standalone.json"

    @classmethod
    def find(cls, home: Path) -> Standalone | None:
        """The one that runs in this Airflow home, or None."""
        from airflow_emr_etl.local.state import process_started

        try:
            found = cls(**json.loads(cls.record(home).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return found if process_started(found.pid) == found.started else None

    def save(self, home: Path) -> None:
        self.record(home).write_text(json.dumps(asdict(self)))

    def healthy(self) -> bool:
        """Whether the web server, the scheduler, the triggerer and the DAG processor all say so."""
        try:
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(f"{self.url}/api/v2/monitor/health", timeout=5) as answer:
                health = json.load(answer)
        except (OSError, urllib.error.URLError, ValueError):
            return False
        parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return all((health.get(part) or {}).get("status") == "healthy" for part in parts)

    def stop(self) -> None:
        """End Airflow and every process it started."""
        import psutil

        try:
            leader = psutil.Process(self.pid)
            family = [leader, *leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        # All of them: the leader alone would wait for its children longer than anybody wants to.
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(family, timeout=_STOP_SECONDS)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5)


def start_airflow(home: AirflowHome) -> Standalone:
    """Start ``airflow standalone`` on free loopback ports, in a session of its own; wait until healthy."""
    from airflow_emr_etl.local.state import process_started

    running = Standalone.find(home.path)
    if running is not None:
        return running
    port, worker_logs, trigger_logs = _free_ports(3)
    environment = home.environment(
        AIRFLOW__API__HOST="127.0.0.1",
        AIRFLOW__API__PORT=str(port),
        AIRFLOW__API__BASE_URL=f"http://127.0.0.1:{port}",
        AIRFLOW__API__WORKERS="1",
        AIRFLOW__CORE__EXECUTION_API_SERVER_URL=f"http://127.0.0.1:{port}/execution/",
        AIRFLOW__CORE__PARALLELISM="4",
        AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION="False",
        AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT=str(worker_logs),
        AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT=str(trigger_logs),
    )
    log_path = home.path / "standalone.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", "standalone"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    standalone = Standalone(process.pid, str(process_started(process.pid)), port)
    standalone.save(home.path)
    deadline = time.monotonic() + _HEALTHY_SECONDS
    while not standalone.healthy():
        if process.poll() is not None or time.monotonic() > deadline:
            standalone.stop()
            tail = log_path.read_text(errors="replace")[-2000:]
            raise LocalAwsError(f"Airflow did not become healthy; the end of {log_path}:\n{tail}")
        time.sleep(0.5)
    return standalone


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def passwords(home: Path) -> dict[str, str]:
    """User names and passwords that Airflow's simple auth manager made up for this home."""
    path = home / "simple_auth_manager_passwords.json.generated"
    found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return found


def up(
    state: Annotated[Path, typer.Option(help="State folder of local AWS.")] = Path(".local"),
    dags: Annotated[Path, typer.Option(help="Folder of the DAG files.")] = Path("dags"),
    lines: Annotated[int, typer.Option(min=200, help="Generated lines for each of the last days.")] = 20_000,
) -> None:
    """Start local AWS and Airflow with the sample DAGs, and say where they are and how to sign in."""
    from airflow_emr_etl.cli.demo.command import BUCKETS, SOURCE, LocalSession, end_on_signals
    from airflow_emr_etl.cli.demo.inputs import generated, stage

    console = Console()
    end_on_signals()
    aws: LocalSession | None = None
    try:
        with console.status("Starting local AWS"):
            aws = LocalSession(state)
        home = AirflowHome(state, dags, aws.env)
        with console.status("Putting the logs of the last three days into the source bucket"):
            # A run that is triggered by hand works on the day before it, so those logs must be there.
            first = (datetime.now(UTC) - timedelta(days=3)).date()
            folder, days = generated(state.resolve() / "demo" / "generated", first, 3, lines, seed=7)
            s3 = aws.client("s3")
            for bucket in BUCKETS:
                s3.create_bucket(Bucket=bucket)
            stage(s3, folder, days, SOURCE, state.resolve() / "demo" / "staged-up.json")
        with console.status("Starting Airflow (half a minute)"):
            home.prepare()
            airflow = start_airflow(home)
    except (EmrEtlError, OSError) as error:
        if aws is not None:
            aws.close()
        console.print(f"[red]emr-etl up:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    console.print(f"[bold]Airflow[/]    {airflow.url}", highlight=False)
    for user, password in passwords(home.path).items():
        console.print(f"[bold]Sign in[/]    user {user}, password {password}", highlight=False)
    where = "" if state == Path(".local") else f" --state {state}"
    console.print(
        f'[bold]Local AWS[/]  {aws.endpoint_url}  eval "$(emr-etl local env{where})"',
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"[bold]Logs of[/]    {', '.join(days)} are in {SOURCE}", highlight=False, soft_wrap=True)
    console.print(
        "Trigger clickstream_nightly there: it runs for the day before. Stop all: make down", soft_wrap=True
    )


def down(
    state: Annotated[Path, typer.Option(help="State folder of local AWS.")] = Path(".local"),
) -> None:
    """Stop what ``up`` started: Airflow, then local AWS."""
    from airflow_emr_etl.local import daemon

    console = Console()
    home = state.resolve() / "airflow"
    airflow = Standalone.find(home)
    if airflow is not None:
        with console.status("Stopping Airflow"):
            airflow.stop()
        Standalone.record(home).unlink(missing_ok=True)
    with console.status("Stopping local AWS"):
        daemon.stop(state)
    console.print("Airflow and local AWS are stopped.")
