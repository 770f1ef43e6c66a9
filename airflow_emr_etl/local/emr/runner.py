"""Who runs the steps: a protocol, and the runner that makes a real process group of each."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.emr.commands import (
    ProgramRun,
    SparkRun,
    UnsupportedStepError,
    memory_mib,
    translate,
    write_properties,
)
from airflow_emr_etl.local.emr.logs import LogUriError, folder_of, publish, root_cause, tail
from airflow_emr_etl.local.emr.processes import (
    MARKER,
    clean_environment,
    end_session,
    is_alive,
    signal_session,
    start_time,
)
from airflow_emr_etl.local.emr.records import Job, Outcome, StopSignal
from airflow_emr_etl.local.spark_env import DEFAULT_DRIVER_MEMORY_MIB, SparkEnvironment

GRACE_SECONDS = 5.0
"""How long a program may take to end by itself, from the polite signal to the one that cannot be refused."""

Ended = Callable[[Outcome], None]


class StepRunner(Protocol):
    """Runs jobs. No method waits for a job; ``ended`` is called exactly once for each started job, from any thread."""

    def start(self, job: Job, ended: Ended) -> None: ...

    def end(self, key: str, how: StopSignal) -> None:
        """Make the job of that key end soon; ``ended`` tells when it has. An unknown key is ignored."""

    def close(self) -> None:
        """End all jobs and return when nothing of them runs."""


class ProcessLedger(Protocol):
    """Told of each process group before and after it runs, so that a later server can end what was left over."""

    def began(self, key: str, pid: int, started: str) -> None: ...

    def gone(self, key: str) -> None: ...


class FailedStartError(Exception):
    """The job could not be started; ``reason`` is EMR's kind of word for it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class _Running:
    thread: threading.Thread
    pid: int | None = None
    stop: StopSignal | None = None


class ProcessRunner:
    """Each job in a session of its own, with a folder of its own that is removed at its end.

    ``state`` holds the working folders and the logs of jobs without a usable LogUri; it should be on the same
    disk as ``objects``, so that an object that a job wrote can be moved into its bucket in one piece.
    """

    def __init__(
        self,
        *,
        state: Path,
        objects: Path,
        environment: Callable[[], dict[str, str]],
        spark: SparkEnvironment,
        ledger: ProcessLedger,
        state_id: str,
        grace_seconds: float = GRACE_SECONDS,
        after_log_delay: Callable[[Callable[[], None]], None] = lambda publish: publish(),
    ) -> None:
        self._state = state.absolute()
        self._objects = objects.absolute()
        self._environment = environment
        self._spark = spark
        self._ledger = ledger
        self._state_id = state_id
        self._grace = grace_seconds
        self.after_log_delay = after_log_delay
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}
        self._closed = False

    def start(self, job: Job, ended: Ended) -> None:
        thread = threading.Thread(target=self._run, args=(job, ended), name=f"emr-{job.key}", daemon=True)
        with self._lock:
            if not self._closed:
                self._running[job.key] = _Running(thread)
                thread.start()
                return
        ended(Outcome(False, reason="Local AWS was stopped"))

    def end(self, key: str, how: StopSignal) -> None:
        with self._lock:
            running = self._running.get(key)
            if running is None or running.stop is not None:
                return
            running.stop = how
            pid = running.pid
        if pid is not None:
            # The grace is waited out in a thread: callers hold the lock of all of EMR.
            threading.Thread(target=self._end_process, args=(pid, how), daemon=True).start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            keys = list(self._running)
            threads = [each.thread for each in self._running.values()]
        for key in keys:
            self.end(key, StopSignal.TERMINATE_PROCESS)
        for thread in threads:
            thread.join(self._grace + 10)

    def _end_process(self, pid: int, how: StopSignal) -> None:
        if how is StopSignal.SEND_INTERRUPT:
            signal_session(pid, signal.SIGINT)
            deadline = time.monotonic() + self._grace
            while time.monotonic() < deadline and is_alive(pid):
                time.sleep(0.02)
        end_session(pid, self._grace)

    def _run(self, job: Job, ended: Ended) -> None:
        work = self._state / "work" / job.key.replace("/", "-")
        logs = self._state / "logs" / _log_path(job)
        outcome = Outcome(False, reason="Internal error of local AWS")
        try:
            shutil.rmtree(work, ignore_errors=True)
            for folder in (work / "run", work / "scratch", work / "conf", logs):
                folder.mkdir(parents=True, exist_ok=True)
            outcome = _JobRun(self, job, work, logs).run()
        except Exception as error:
            outcome = Outcome(
                False, reason="Internal error of local AWS", message=f"{type(error).__name__}: {error}"
            )
        finally:
            with self._lock:
                self._running.pop(job.key, None)
            shutil.rmtree(work, ignore_errors=True)
            ended(outcome)

    # What one job asks of its runner

    def spawn(
        self, job: Job, command: list[str], environment: dict[str, str], folder: Path, out: Path, err: Path
    ) -> int:
        """Run a process group to its end and return its exit code, negative for a signal."""
        with out.open("ab") as stdout, err.open("ab") as stderr:
            with self._lock:
                running = self._running[job.key]
                if running.stop is not None or self._closed:
                    return -signal.SIGTERM
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env={**environment, MARKER: self._state_id},
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
                running.pid = process.pid
            self._ledger.began(job.key, process.pid, start_time(process.pid) or "")
            if hasattr(os, "waitid"):
                # Not reaped yet, so that nobody else can have its number while the rest is ended.
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            else:
                process.wait()
            # Whatever a step left in the background ends with it, as the step's folder does.
            end_session(process.pid, 0.5)
            code = process.wait()
            with self._lock:
                running.pid = None
            self._ledger.gone(job.key)
        return code

    @property
    def spark(self) -> SparkEnvironment:
        return self._spark

    @property
    def objects(self) -> Path:
        return self._objects

    def environment(self) -> dict[str, str]:
        return self._environment()


class _JobRun:
    """One job from its preparation to its logs."""

    def __init__(self, runner: ProcessRunner, job: Job, work: Path, logs: Path) -> None:
        self._runner = runner
        self._job = job
        self._work = work
        self._logs = logs
        self._application = ""

    def run(self) -> Outcome:
        job = self._job
        began = time.monotonic()
        what = f"{job.jar} {shlex.join(job.args)}".strip()
        self._note(f"INFO Runs on local AWS, on this machine: {what}")
        for name in ("stdout", "stderr"):
            (self._logs / name).touch()
        reason, message, code = "Unknown Error.", None, None
        try:
            run = translate(job.jar, job.args, job.main_class, job.configurations, read_text=self._read_text)
            for note in run.notes:
                self._note(f"INFO {note}")
            code = self._spark(run) if isinstance(run, SparkRun) else self._program(run)
        except UnsupportedStepError as error:
            reason, message = "Not supported by local AWS", str(error)
        except FailedStartError as error:
            reason, message = error.reason, str(error)
        except (LocalAwsError, OSError) as error:
            reason, message = "Could not be started", str(error)
        seconds = time.monotonic() - began
        if message is not None:
            self._note(f"ERROR {message}")
            with (self._logs / "stderr").open("a") as stderr:
                stderr.write(f"{message}\n")
        elif code is not None and code < 0:
            self._note(f"INFO Ended by signal {-code} after {seconds:.1f} seconds")
        else:
            self._note(f"INFO Process exited with code {code} after {seconds:.1f} seconds")
        log_name, container = "stderr", self._container_logs()
        if message is None and code != 0:
            found = root_cause(
                tail((container or self._logs) / "stdout"), tail((container or self._logs) / "stderr")
            )
            if found:
                log_name, message = found
            message = message or f"The program ended with exit code {code} and wrote nothing."
        uri = self._publish()
        return Outcome(
            succeeded=code == 0,
            exit_code=code,
            reason=reason,
            message=message,
            log_file=uri and f"{uri}{log_name}.gz",
        )

    def _note(self, text: str) -> None:
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        with (self._logs / "controller").open("a") as controller:
            controller.write(f"{moment} {text}\n")

    # What is run

    def _base_environment(self, variables: dict[str, str]) -> dict[str, str]:
        return {
            **clean_environment(),
            **variables,
            **self._runner.spark.variables(),
            **self._runner.environment(),
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
            "SPARK_CONF_DIR": str(self._work / "conf"),
            "TMPDIR": str(self._work / "scratch"),
            "EMR_CLUSTER_ID": self._job.cluster_id,
            **({"EMR_STEP_ID": self._job.step_id} if self._job.step_id else {}),
        }

    def _spark(self, run: SparkRun) -> int:
        spark = self._runner.spark
        if run.is_example:
            run.application[0] = str(spark.example(run.application[0]))
        limit = spark.memory_limit_mib
        memory = memory_mib(run.memory, DEFAULT_DRIVER_MEMORY_MIB, limit)
        if run.memory is not None and memory_mib(run.memory, 0, 1 << 40) > limit:
            self._note(f"INFO The driver gets {memory} MiB, not {run.memory}: half of this machine's memory.")
        settings = spark.settings(self._runner.objects, self._work / "scratch")
        properties = {**spark.defaults(), **run.properties, **settings}
        file = self._work / "conf" / "spark-defaults.conf"
        file.write_text(write_properties(properties))
        command = spark.submit_command(
            ["--properties-file", str(file), *run.options, *run.application],
            memory,
            [f"-Djava.io.tmpdir={self._work / 'scratch'}", *run.java_options],
            [each for each in run.class_path if Path(each.rstrip("*")).exists()],
        )
        out, err = self._logs / "stdout", self._logs / "stderr"
        if run.cluster_mode:
            self._application = _application_id(self._job.key)
            container = self._container_logs()
            assert container is not None
            container.mkdir(parents=True, exist_ok=True)
            out, err = container / "stdout", container / "stderr"
            self._client_log(f"INFO Client: Submitted application {self._application}")
        self._note(f"INFO Spark {spark.spark_version} on Java {spark.java.version}, {memory} MiB")
        spark.make_archive()  # this step goes without; the next ones gain
        code = self._runner.spawn(
            self._job, command, self._base_environment(run.variables), self._work / "run", out, err
        )
        if run.cluster_mode:
            status = "SUCCEEDED" if code == 0 else "KILLED" if code < 0 else "FAILED"
            self._client_log(f"INFO Client: Application report for {self._application} (state: FINISHED)")
            self._client_log(f"INFO Client: final status: {status}")
            if code != 0:
                self._client_log(
                    f"ERROR Client: Application {self._application} finished with status {status}; its own logs "
                    f"are under containers/{self._application}/"
                )
        return code

    def _client_log(self, text: str) -> None:
        """What the client of YARN tells of a job in cluster mode, whose own output is in its container's logs."""
        moment = datetime.now(UTC).strftime("%y/%m/%d %H:%M:%S")
        with (self._logs / "stderr").open("a") as stderr:
            stderr.write(f"{moment} {text}\n")

    def _program(self, run: ProgramRun) -> int:
        environment = self._base_environment(run.variables)
        environment["SPARK_LOCAL_DIRS"] = str(self._work / "scratch")
        spark = self._runner.spark
        settings = spark.settings(self._runner.objects, self._work / "scratch")
        (self._work / "conf" / "spark-defaults.conf").write_text(
            write_properties(
                {
                    **spark.defaults(),
                    **settings,
                    "spark.driver.extraClassPath": str(spark.file_system_jar),
                }
            )
        )
        core_site = spark.core_site(self._runner.objects, self._work / "scratch")
        (self._work / "conf" / "core-site.xml").write_text(core_site)
        programs = self._work / "bin"
        self._write_programs(programs)
        environment["PATH"] = os.pathsep.join([str(programs), environment["PATH"]])
        command = run.command
        if run.script is not None:
            command = [*self._fetch(run.script), *command]
        found = shutil.which(command[0], path=environment["PATH"])
        if found is None:
            raise FailedStartError(
                "Unknown Error.",
                f'Cannot run program "{command[0]}" (in directory "."): error=2, No such file or directory. '
                "There is no such program on this machine.",
            )
        return self._runner.spawn(
            self._job,
            [found, *command[1:]],
            environment,
            self._work / "run",
            self._logs / "stdout",
            self._logs / "stderr",
        )

    def _write_programs(self, folder: Path) -> None:
        """Programs that a node of EMR has: ``hadoop fs`` is here, the rest of Hadoop says that it is not."""
        folder.mkdir(parents=True, exist_ok=True)
        shell = shlex.join(self._runner.spark.file_system_command(self._work / "conf"))
        refuse = 'echo "Local AWS does not run $(basename "$0") $1." >&2; exit 1\n'
        for name, commands in (("hadoop", "fs|dfs"), ("hdfs", "dfs")):
            text = f'#!/bin/sh\ncase "$1" in {commands}) shift; exec {shell} "$@";; esac\n{refuse}'
            _write_program(folder / name, text)
        for name in ("s3-dist-cp", "hive", "pig", "yarn", "mapred"):
            _write_program(folder / name, f"#!/bin/sh\n{refuse}")

    def _fetch(self, script: str) -> list[str]:
        """Bring a script into the job's folder; returns how to run it."""
        source = self._local_path(script)
        if not source.is_file():
            raise FailedStartError("Illegal Argument", f"The script {script} does not exist.")
        copy = self._work / source.name
        shutil.copyfile(source, copy)
        copy.chmod(0o755)
        with copy.open("rb") as opened:
            has_interpreter = opened.read(2) == b"#!"
        return [str(copy)] if has_interpreter else ["bash", str(copy)]

    def _local_path(self, uri: str) -> Path:
        if "://" not in uri:
            return Path(uri)
        if uri.startswith("file://"):
            return Path(uri.removeprefix("file://"))
        try:
            return folder_of(uri, self._runner.objects)
        except LogUriError as error:
            raise FailedStartError("Illegal Argument", f"{uri} cannot be read: {error}.") from error

    def _read_text(self, uri: str) -> str:
        path = self._local_path(uri)
        if not path.is_file():
            raise FailedStartError("Illegal Argument", f"The file {uri} does not exist.")
        return path.read_text()

    # Logs

    def _container_logs(self) -> Path | None:
        """The local folder of the logs of a job in cluster mode."""
        if not self._application:
            return None
        return (
            self._logs
            / self._application
            / f"{self._application.replace('application', 'container')}_01_000001"
        )

    def _publish(self) -> str | None:
        """Put the logs into the LogUri and return where they are; without one they stay in the state folder."""
        uri = self._job.log_uri
        if not uri:
            return None
        base = f"{uri.rstrip('/')}/{self._job.cluster_id}/"
        try:
            folder = folder_of(uri, self._runner.objects) / self._job.cluster_id
        except LogUriError as error:
            self._failed_to_publish(uri, error)
            return None
        relative = Path(*_log_path(self._job).parts[1:])
        container = self._container_logs()
        within = Path("containers") / container.relative_to(self._logs) if container else None
        failures: list[OSError] = []

        def write() -> None:
            try:
                self._write_logs(folder, relative, within)
            except OSError as error:
                failures.append(error)
                self._failed_to_publish(uri, error)
            else:
                shutil.rmtree(self._logs, ignore_errors=True)

        self._runner.after_log_delay(write)
        return None if failures else f"{base}{(within or relative).as_posix()}/"

    def _write_logs(self, folder: Path, relative: Path, within: Path | None) -> None:
        (self._logs / "syslog").touch()
        for name in ("stdout", "stderr", "syslog", "controller"):
            publish(self._logs / name, folder / relative / f"{name}.gz")
        container = self._container_logs()
        if within is None or container is None:
            return
        # On EMR the step's own stdout stays empty here. Whoever looks there first, as people do,
        # shall find the output on a laptop too.
        if (container / "stdout").exists():
            publish(container / "stdout", folder / relative / "stdout.gz")
        for name in ("stdout", "stderr"):
            publish(container / name, folder / within / f"{name}.gz")

    def _failed_to_publish(self, uri: str, error: Exception) -> None:
        self._note(f"ERROR The logs could not be written to {uri}: {error}. They are in {self._logs}.")


def _log_path(job: Job) -> Path:
    """EMR's layout, from the cluster's id on."""
    if job.step_id is not None:
        return Path(job.cluster_id, "steps", job.step_id)
    number = str(job.bootstrap_number)
    return Path(job.cluster_id, "node", job.instance_id, "bootstrap-actions", number)


def _application_id(key: str) -> str:
    number = int.from_bytes(re.sub(r"\W", "", key).encode()[-4:], "big") % 10_000
    return f"application_{int(time.time() * 1000)}_{number:04d}"


def _write_program(path: Path, text: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.write_text(text)
    path.chmod(0o755)
