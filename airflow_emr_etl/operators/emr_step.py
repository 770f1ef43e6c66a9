"""Run a step on a cluster that is up."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk import BaseOperator

from airflow_emr_etl.exceptions import ConfigurationError, EmrEtlError
from airflow_emr_etl.hooks.aws_errors import aws_call
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook, cluster_failure
from airflow_emr_etl.hooks.emr_step import EmrStepHook, step_failure, step_state
from airflow_emr_etl.hooks.s3_lake import S3LakeHook
from airflow_emr_etl.links.emr import EmrClusterLink, EmrLogsLink, cluster_url, logs_folder, logs_url
from airflow_emr_etl.models.s3 import S3Uri, as_folder
from airflow_emr_etl.models.states import STEP_SUCCEEDED
from airflow_emr_etl.models.step import ActionOnFailure, SparkStep, Step, step_from
from airflow_emr_etl.operators.failures import checked, retry_only_what_can_pass
from airflow_emr_etl.operators.waiting import (
    RESUMED_TO_FAIL,
    as_timedelta,
    defers_by_default,
    raise_if_not_waited,
    wait_for,
)
from airflow_emr_etl.triggers.emr_step import EmrStepTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

#: XCom key of ``{"cluster_id", "step_id"}``, there as soon as EMR has given the id.
STEP_KEY = "emr_step"
#: Lines of each of a failed step's own logs that go into the task's log.
LOG_LINES = 40
_APPLICATION = re.compile(r"\bapplication_\d+_\d{4,}")
_DRIVER_CONTAINER = "_000001/"


class EmrStepOperator(BaseOperator):
    """Add a step to a cluster and wait for its end.

    Returns ``{"cluster_id", "step_id", "state"}``. A step that fails fails the task, with EMR's reason and the
    end of the step's own output in the task's log. A killed task, or one whose time is over, cancels its step.

    :param cluster_id: (templated)
    :param step: a ``SparkStep`` or ``CommandStep``, or its fields (templated, checked again after rendering)
    :param aws_conn_id: Airflow connection
    :param region_name: overrides the connection's region
    :param wait_timeout: how long the step may take, waiting for its turn included; a timedelta or seconds
    :param poll_interval: longest time between two looks, in seconds
    :param deferrable: wait in the triggerer; the default is ``[emr_etl] deferrable``, which is True
    """

    template_fields: Sequence[str] = ("cluster_id", "step", "aws_conn_id", "region_name")
    template_fields_renderers: ClassVar[dict[str, str]] = {"step": "json"}
    operator_extra_links = (EmrClusterLink(), EmrLogsLink())
    ui_color = "#f9c915"

    def __init__(
        self,
        *,
        cluster_id: str,
        step: Step | Mapping[str, Any] | None = None,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        wait_timeout: timedelta | float = timedelta(hours=24),
        poll_interval: float = 30.0,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.step = step if step is None or isinstance(step, Mapping) else step.document()
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.wait_timeout = as_timedelta(wait_timeout)
        self.poll_interval = poll_interval
        self.deferrable = defers_by_default() if deferrable is None else deferrable
        self._step_id: str | None = None

    @cached_property
    def clients(self) -> EmrClients:
        return EmrClients(self.aws_conn_id, self.region_name)

    @cached_property
    def hook(self) -> EmrStepHook:
        return EmrStepHook(clients=self.clients)

    @cached_property
    def lake(self) -> S3LakeHook:
        return S3LakeHook(self.aws_conn_id, self.region_name)

    def build_step(self, context: Context) -> Step:
        """The step to add, from the rendered fields. May upload what the step needs."""
        if self.step is None:
            raise ConfigurationError(
                f"Task {self.task_id} has no step. Set step=SparkStep(…) or step=CommandStep(…)."
            )
        try:
            return step_from(self.step)
        except ValueError as error:
            raise ConfigurationError(f"The step of task {self.task_id} is not valid. {error}") from error

    def result(self, context: Context, step: dict[str, Any]) -> dict[str, Any]:
        """What the task returns once ``step``, EMR's ``Step``, has completed."""
        return {"cluster_id": self.cluster_id, "step_id": step["Id"], "state": step["Status"]["State"]}

    def execute(self, context: Context) -> dict[str, Any]:
        with retry_only_what_can_pass():
            step = self.build_step(context)
            [self._step_id] = self.hook.add(self.cluster_id, [step])
            self.log.info("Added step %s (%s) to cluster %s", self._step_id, step.name, self.cluster_id)
            try:
                self._show(context, self._step_id)
                payload = wait_for(self, self._trigger, timeout=self.wait_timeout, deferrable=self.deferrable)
            except Exception:
                self._cancel()
                raise
            return self._settle(context, payload)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        self._step_id = event["step_id"]
        with retry_only_what_can_pass():
            return self._settle(context, event)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        if next_method == RESUMED_TO_FAIL:
            # What defer() carried is gone on this path, so the id comes from the XCom pushed before it.
            ti: Any = context["ti"]
            pushed = ti.xcom_pull(task_ids=self.task_id, key=STEP_KEY, map_indexes=ti.map_index)
            if pushed:
                self._step_id = pushed["step_id"]
                self._cancel()
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        self._cancel()

    def _trigger(self, deadline: str) -> EmrStepTrigger:
        assert self._step_id is not None
        return EmrStepTrigger(
            cluster_id=self.cluster_id,
            step_id=self._step_id,
            cancel_on_kill=True,
            aws_conn_id=self.aws_conn_id,
            region_name=self.region_name,
            poll_interval=self.poll_interval,
            deadline=deadline,
        )

    def _settle(self, context: Context, payload: dict[str, Any]) -> dict[str, Any]:
        if payload["status"] in ("error", "timeout"):
            self._cancel()
        raise_if_not_waited(payload, f"step {payload['step_id']} to end")
        if payload["status"] == "cluster_ended":
            # Where a lost cluster's successor would be brought up and the step run again.
            raise cluster_failure(payload["cluster"], served=True)
        step = payload["step"]
        if step_state(step) in STEP_SUCCEEDED:
            return self.result(context, step)
        failure = step_failure(step, self.cluster_id)
        told = self._tell_logs(step["Id"])
        raise type(failure)(f"{failure.message}{told}", **failure.details)

    def _tell_logs(self, step_id: str) -> str:
        """Write the end of the step's own logs into the task's log; the last lines again, for the error."""
        try:
            log_uri = EmrClusterHook(clients=self.clients).describe(self.cluster_id).get("LogUri")
            if not log_uri:
                return "\nThe cluster keeps no logs; set log_uri in its spec to see the step's output here."
            folder = logs_folder(log_uri, self.cluster_id, step_id)
            found = self._tails(folder)
            # In cluster mode the driver runs in a container of YARN's; the step only tells which.
            for application in sorted(set(_APPLICATION.findall(str(found.values())))):
                containers = logs_folder(log_uri, self.cluster_id).child(f"containers/{application}/")
                found |= self._tails(containers, within=_DRIVER_CONTAINER)
        except EmrEtlError as error:
            return f"\nThe step's logs could not be read: {error}"
        told = ""
        for uri, lines in found.items():
            if lines:
                self.log.error("The end of %s:\n%s", uri, "\n".join(lines))
                told += f"\n--- the end of {uri}\n" + "\n".join(lines[-10:])
        return told or f"\nIts logs are not in {folder} yet; EMR brings them there within about five minutes."

    def _tails(self, folder: S3Uri, within: str = "") -> dict[str, list[str]]:
        return {
            str(item.uri): self.lake.tail(item.uri, max_lines=LOG_LINES)
            for item in self.lake.list_objects(folder)
            if within in item.uri.key
            and item.uri.key.rpartition("/")[2].split(".")[0] in ("stderr", "stdout")
        }

    def _show(self, context: Context, step_id: str) -> None:
        ti: Any = context["ti"]
        ti.xcom_push(key=STEP_KEY, value={"cluster_id": self.cluster_id, "step_id": step_id})
        where = {"region": self.clients.region, "partition": self.clients.partition}
        EmrClusterLink.push(ti, cluster_url(self.cluster_id, **where))
        try:
            log_uri = EmrClusterHook(clients=self.clients).describe(self.cluster_id).get("LogUri")
        except EmrEtlError as error:
            self.log.warning("No link to the logs: %s", error)
        else:
            EmrLogsLink.push(ti, logs_url(log_uri, self.cluster_id, step_id, **where))

    def _cancel(self) -> None:
        """Cancel the step as well as can be; what failed before this must stay the error that is seen."""
        if self._step_id is None:
            return
        try:
            said = self.hook.cancel(self.cluster_id, [self._step_id])
        except EmrEtlError as error:
            self.log.warning("Step %s could not be cancelled: %s", self._step_id, error)
        else:
            self.log.info(
                "Asked EMR to cancel step %s: %s", self._step_id, said.get(self._step_id, "no answer")
            )


class EmrSparkOperator(EmrStepOperator):
    """Run a Spark program on a cluster: a job that ships with this package, or a script or jar of yours.

    Returns ``{"cluster_id", "step_id", "state", "output"}``. With ``output``, the program is given
    ``--output <output>attempt=<token>/``, a path that no other try writes to, and the same path is returned;
    ``output_path`` refers to it downstream.

    :param job: name of a job of this package, such as ``clickstream_normalize`` (templated)
    :param script: instead of ``job``: ``s3://…``, or a file beside the DAG, which is uploaded under
        ``artifacts`` by its content (templated)
    :param args: the program's arguments, a list or a mapping of options (templated)
    :param output: ``s3://…`` folder to write into (templated)
    :param conf: Spark settings (templated)
    :param py_files: more Python code, ``s3://…`` (templated)
    :param artifacts: ``s3://…`` folder that code is uploaded to; needed for ``job`` and a local ``script``
    :param step_name: the step's name in EMR; the task's id by default
    """

    template_fields: Sequence[str] = (
        "cluster_id",
        "job",
        "script",
        "args",
        "output_folder",
        "conf",
        "py_files",
        "files",
        "artifacts",
        "step_name",
        "aws_conn_id",
        "region_name",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"args": "json", "conf": "json"}

    def __init__(
        self,
        *,
        job: str | None = None,
        script: str | None = None,
        args: Sequence[str] | Mapping[str, Any] = (),
        output: str | None = None,
        conf: Mapping[str, Any] | None = None,
        py_files: Sequence[str] = (),
        files: Sequence[str] = (),
        main_class: str | None = None,
        deploy_mode: Literal["cluster", "client"] = "cluster",
        action_on_failure: ActionOnFailure | str = ActionOnFailure.CONTINUE,
        artifacts: str | None = None,
        step_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.script = script
        self.args = args
        self.output_folder = output  # BaseOperator has an ``output`` of its own
        self.conf = conf
        self.py_files = py_files
        self.files = files
        self.main_class = main_class
        self.deploy_mode = deploy_mode
        self.action_on_failure = action_on_failure
        self.artifacts = artifacts
        self.step_name = step_name
        if (job is None) == (script is None):
            raise ConfigurationError(
                f"Task {self.task_id} has {'both' if job else 'neither'} job and script. Set one: job='…' for a job of "
                "this package, script='…' for a program of yours."
            )
        if artifacts is None and (job is not None or not _in_s3(script or "")):
            raise ConfigurationError(
                f"Task {self.task_id} uploads code and has nowhere to put it. Set artifacts='s3://bucket/artifacts/'."
            )

    def output_path(self, name: str = "") -> str:
        """A template for ``name`` below the path that this task's last try wrote, for tasks downstream."""
        return f"{{{{ ti.xcom_pull(task_ids={self.task_id!r})['output'] }}}}{name}"

    def build_step(self, context: Context) -> Step:
        entry, packed = self._locate(context)
        args = self.arguments(context)
        step: SparkStep = checked(
            SparkStep,
            {
                "name": self.step_name or self.task_id,
                "entry": entry,
                "args": args if isinstance(args, Mapping) else list(args),
                "conf": self.conf or {},
                "py_files": [*packed, *self.py_files],
                "files": list(self.files),
                "main_class": self.main_class,
                "deploy_mode": self.deploy_mode,
                "action_on_failure": self.action_on_failure,
            },
            of=f"The Spark step of task {self.task_id}",
        )
        output = self.attempt_output(context)
        return step if output is None else step.model_copy(update={"args": (*step.args, "--output", output)})

    def arguments(self, context: Context) -> Sequence[str] | Mapping[str, Any]:
        """The program's arguments, without ``--output``."""
        return self.args

    def attempt_output(self, context: Context) -> str | None:
        """The folder that this try alone writes to."""
        if self.output_folder is None:
            return None
        return f"{as_folder(self.output_folder)}attempt={attempt_token(context)}/"

    def result(self, context: Context, step: dict[str, Any]) -> dict[str, Any]:
        return {**super().result(context, step), "output": self.attempt_output(context)}

    def _locate(self, context: Context) -> tuple[str, list[str]]:
        """The program's address in S3 and those of the Python code it needs; uploads what is not there."""
        if self.script is not None:
            if _in_s3(self.script):
                return self.script, []
            path = beside_dag(self, self.script)
            return self.lake.write_once(self._folder("scripts"), path.name, read_local(path)), []
        # Packing reads the whole package; only where a job is about to be added.
        from airflow_emr_etl.spark.package import build_package, job_named

        assert self.job is not None
        assert self.artifacts is not None
        job = job_named(self.job).name
        with aws_call("s3:PutObject of the packed jobs"):
            location = build_package().upload(self.lake.client, as_folder(self.artifacts))
        return location.entry_uri(job), [location.archive_uri]

    def _folder(self, kind: str) -> str:
        assert self.artifacts is not None
        return f"{as_folder(self.artifacts)}{kind}/"


def attempt_token(context: Context) -> str:
    """A short name for this try of this task: the same after a deferral, another on a retry or a clear."""
    ti: Any = context["ti"]
    identity = f"{ti.dag_id}/{ti.run_id}/{ti.task_id}/{ti.map_index}/{ti.try_number}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def beside_dag(operator: BaseOperator, path: str) -> Path:
    """A path given in a DAG: absolute, or relative to the DAG's own file."""
    given = Path(path)
    if given.is_absolute() or not operator.has_dag():  # type: ignore[no-untyped-call]
        return given
    return Path(operator.dag.fileloc).parent / given


def read_local(path: Path) -> bytes:
    """A file of the worker's; ConfigurationError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}. Paths are relative to the DAG's file; ship the file beside it."
        ) from error


def _in_s3(address: str) -> bool:
    return address.startswith(("s3://", "s3a://", "s3n://"))
