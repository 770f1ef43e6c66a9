"""``emr-etl demo``: the clickstream pipeline, whole, on this machine."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from airflow_emr_etl.exceptions import EmrEtlError

DAG_ID = "clickstream_nightly"
SOURCE = "s3://clickstream-source/access/"
BUCKETS = ("clickstream-source", "clickstream-lake", "clickstream-artifacts", "clickstream-logs")
WORKGROUP, DATABASE = "analytics", "dev"
FIRST_DAY = date(2026, 1, 5)


class Phases:
    """Wall-clock seconds by name, in the order in which the phases ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - began


def demo(
    logs: Annotated[
        str | None,
        typer.Option(
            help="Your own access logs, comma-separated: Common or Combined Log Format; gzip is fine."
        ),
    ] = None,
    lines: Annotated[int, typer.Option(min=200, help="Generated lines a day, without --logs.")] = 200_000,
    days: Annotated[int, typer.Option(min=1, help="Generated days, without --logs.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the generator.")] = 7,
    state: Annotated[Path, typer.Option(help="State folder of local AWS.")] = Path(".local"),
    dags: Annotated[Path, typer.Option(help="Folder of the DAG files.")] = Path("dags"),
    record: Annotated[Path | None, typer.Option(help="Also draw the end of it into this SVG file.")] = None,
) -> None:
    """Run the clickstream pipeline on local AWS, once for each day, and say what came of it."""
    console = Console()
    if not console.is_terminal:
        console.width = 110  # a file or a pipe has no width of its own
    end_on_signals()
    try:
        succeeded = _demo(console, logs, lines, days, seed, state, dags, record)
    except (EmrEtlError, OSError) as error:
        console.print(f"[red]emr-etl demo:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    if not succeeded:
        raise typer.Exit(1)


def _demo(
    console: Console,
    logs: str | None,
    lines: int,
    days: int,
    seed: int,
    state: Path,
    dags: Path,
    record: Path | None,
) -> bool:
    from airflow_emr_etl.cli.airflow_home import AirflowHome
    from airflow_emr_etl.cli.demo.inputs import generated, log_files, split_by_day, stage
    from airflow_emr_etl.cli.demo.outcome import collect
    from airflow_emr_etl.cli.demo.report import write_report
    from airflow_emr_etl.cli.demo.runs import run_days
    from airflow_emr_etl.cli.demo.summary import draw, print_summary

    phases = Phases()
    files = log_files(logs) if logs is not None else []
    folder = state.resolve() / "demo"

    def make_input() -> tuple[Path, list[str], str]:
        if files:
            home, found = split_by_day(folder / "split", files)
            return home, found, ", ".join(path.name for path in files)
        home, found = generated(folder / "generated", FIRST_DAY, days, lines, seed)
        return home, found, f"generated logs, {lines:,} lines a day, seed {seed}"

    with phases.phase("local AWS"), console.status("Starting local AWS"):
        running = LocalSession(state)
    console.print(f"Local AWS is at {running.endpoint_url}, its state in {state}", highlight=False)
    try:
        home = AirflowHome(state, dags, running.env)
        with (
            phases.phase("logs and Airflow database"),
            console.status("Preparing the logs and Airflow's database"),
            ThreadPoolExecutor(1) as pool,
        ):
            prepared = pool.submit(home.prepare)
            source, found, description = make_input()
            prepared.result()
        with phases.phase("upload"), console.status(f"Putting the logs into {SOURCE}"):
            s3 = running.client("s3")
            for bucket in BUCKETS:
                s3.create_bucket(Bucket=bucket)
            staged = stage(s3, source, found, SOURCE, folder / "staged.json")
        console.print(
            f"{SOURCE} holds {staged.files} files, {staged.bytes / 1e6:.1f} MB, of {len(found)} UTC days: "
            + ", ".join(found[:5])
            + (" …" if len(found) > 5 else ""),
            highlight=False,
        )
        runs_folder = folder / "runs" / datetime.now().astimezone().strftime("%Y%m%dT%H%M%S")
        with phases.phase("DAG runs"):
            runs = run_days(home, found, dag_id=DAG_ID, folder=runs_folder, console=console)
        with phases.phase("summary"):
            outcome = collect(
                runs,
                description,
                s3,
                running.client("redshift-data"),
                workgroup=WORKGROUP,
                database=DATABASE,
            )
        data_docs = [day.data_docs for day in outcome.days if day.data_docs]
        outcome.places = {
            "Report": str(runs_folder / "report.html"),
            "Numbers": str(runs_folder / "summary.json"),
            "Airflow's logs": str(runs_folder),
            "EMR's logs": f"{running.objects / 'clickstream-logs' / 'emr'} (s3://clickstream-logs/emr/)",
        }
        if data_docs:
            outcome.places["Data docs"] = str(running.objects / data_docs[-1].removeprefix("s3://"))
    finally:
        with phases.phase("stop"):
            running.close()
    outcome.phases = phases.seconds
    (runs_folder / "summary.json").write_text(outcome.to_json())
    write_report(outcome, runs_folder / "report.html")
    print_summary(outcome, console)
    if record is not None:
        draw(outcome, runs, record)
    return outcome.succeeded


def end_on_signals() -> None:
    """Let SIGTERM and a closed terminal end the command as Ctrl-C does, so that nothing is left running."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


class LocalSession:
    """Local AWS for as long as the demo needs it; one that ran before is used and left running."""

    def __init__(self, state: Path) -> None:
        from airflow_emr_etl.local import daemon

        self._state = state
        started = daemon.start(state)
        self._stop: Callable[[], Any] | None = None if started.was_running else lambda: daemon.stop(state)
        self.endpoint_url = started.instance.endpoint_url
        self.env = started.instance.env()
        self.objects = state.resolve() / "s3"

    def client(self, service: str) -> Any:
        import boto3
        from botocore.config import Config

        session: Any = boto3.session.Session(
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            region_name=self.env["AWS_DEFAULT_REGION"],
        )
        # No proxies, not None, which would take the caller's.
        return session.client(service, endpoint_url=self.endpoint_url, config=Config(proxies={}))

    def close(self) -> None:
        """Stop local AWS, unless it ran before or an Airflow of ``emr-etl up`` has come to need it."""
        from airflow_emr_etl.cli.standalone import Standalone

        if self._stop is not None and Standalone.find(self._state.resolve() / "airflow") is None:
            self._stop()
            self._stop = None
