"""``EmrCluster``: a cluster for as long as its steps need it."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, Self

from airflow.sdk import BaseOperator, TaskGroup

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.cluster import ClusterSpec
from airflow_emr_etl.models.step import Step, documents
from airflow_emr_etl.operators.emr_cluster import EmrCreateClusterOperator, EmrTerminateClusterOperator
from airflow_emr_etl.operators.emr_step import EmrSparkOperator, EmrStepOperator
from airflow_emr_etl.operators.quality_gate import EmrQualityGateOperator

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import MappedOperator


class EmrCluster(TaskGroup):
    """A group of tasks around one cluster: ``<task_id>_up``, the steps, ``<task_id>_down``.

    ::

        with EmrCluster("cluster", spec=spec, artifacts="s3://lake/artifacts/") as cluster:
            normalized = cluster.spark("normalize", job="clickstream_normalize", args={…}, output="s3://lake/n/")
            sessions = cluster.spark("sessionize", job="clickstream_sessionize", args={…}, output="s3://lake/s/")
            normalized >> sessions
        ingested >> cluster
        sessions >> load

    The cluster goes up before the first step and down when every step has ended, however it ended; it does
    not wait for what comes after the steps, such as loads. The run fails when a step fails, although
    the teardown succeeds; a teardown that fails does not fail the run, for the cluster's idle timeout ends it
    too. Task ids are not prefixed.

    :param task_id: name of the group, and of its two own tasks
    :param spec: the cluster
    :param artifacts: ``s3://…`` folder that code and suites are uploaded to; needed for jobs and gates
    :param aws_conn_id: connection of all its tasks
    :param region_name: overrides the connection's region
    :param deferrable: of all its tasks
    :param poll_interval: of all its tasks, in seconds
    :param wait_timeout: how long the cluster may take to come up
    :param task_defaults: more arguments of every task, such as ``{"retries": 2}``
    """

    def __init__(
        self,
        task_id: str,
        *,
        spec: ClusterSpec | Mapping[str, Any],
        artifacts: str | None = None,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        deferrable: bool | None = None,
        poll_interval: float = 30.0,
        wait_timeout: timedelta | float = timedelta(hours=1),
        task_defaults: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(group_id=task_id, prefix_group_id=False, tooltip="An EMR cluster and its steps")
        self.spec = spec
        self.artifacts = artifacts
        self.wait_timeout = wait_timeout
        self._common: dict[str, Any] = {
            "aws_conn_id": aws_conn_id,
            "region_name": region_name,
            "deferrable": deferrable,
            "poll_interval": poll_interval,
            **(task_defaults or {}),
        }
        self._up: EmrCreateClusterOperator | None = None
        self._down: EmrTerminateClusterOperator | None = None
        self._steps: list[BaseOperator | MappedOperator] = []

    def __enter__(self) -> Self:
        if any(True for _ in self.iter_mapped_task_groups()):
            raise ConfigurationError(
                f"EmrCluster {self._group_id!r} is in a mapped task group, where its tasks cannot find each other's "
                "cluster. Map the steps inside of the cluster, or write one EmrCluster for each."
            )
        super().__enter__()
        self._up = EmrCreateClusterOperator(
            task_id=f"{self._group_id}_up", spec=self.spec, wait_timeout=self.wait_timeout, **self._common
        )
        self._down = EmrTerminateClusterOperator(
            task_id=f"{self._group_id}_down",
            cluster_id=self.cluster_id,
            cluster_task_id=self.up.task_id,
            lift_protection=self._is_protected,
            **self._common,
        )
        # on_failure_fail_dagrun stays False: a teardown that counts for the run's state would be its only
        # leaf, and its success would then hide a step's failure.
        self._down.as_teardown(setups=self._up)
        return self

    def __exit__(self, *error: Any) -> None:
        for step in self._steps:
            if not {other.task_id for other in self._steps} & step.upstream_task_ids:
                self.up >> step
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    @property
    def up(self) -> EmrCreateClusterOperator:
        """The task that brings the cluster up."""
        return self._up or self._not_entered()

    @property
    def down(self) -> EmrTerminateClusterOperator:
        """The task that ends the cluster."""
        return self._down or self._not_entered()

    @property
    def cluster_id(self) -> str:
        """A template for the cluster's id."""
        return f"{{{{ ti.xcom_pull(task_ids={self.up.task_id!r}) }}}}"

    def spark(
        self,
        task_id: str,
        *,
        job: str | None = None,
        script: str | None = None,
        args: Sequence[str] | Mapping[str, Any] = (),
        output: str | None = None,
        conf: Mapping[str, Any] | None = None,
        py_files: Sequence[str] = (),
        **kwargs: Any,
    ) -> EmrSparkOperator:
        """A Spark step; see ``EmrSparkOperator`` for the arguments."""
        operator = EmrSparkOperator(
            task_id=task_id,
            job=job,
            script=script,
            args=args,
            output=output,
            conf=conf,
            py_files=py_files,
            **self._step_arguments(artifacts=self.artifacts, **kwargs),
        )
        self._add_step(operator)
        return operator

    def step(self, task_id: str, step: Step | Mapping[str, Any], **kwargs: Any) -> EmrStepOperator:
        """Any step: a ``CommandStep``, or a ``SparkStep`` spelled out."""
        operator = EmrStepOperator(task_id=task_id, step=step, **self._step_arguments(**kwargs))
        self._add_step(operator)
        return operator

    def spark_each(self, task_id: str, *, args_each: Any, **kwargs: Any) -> MappedOperator:
        """A mapped task: a Spark step for each of ``args_each``, a list or the output of a task.

        The other arguments are those of ``spark``. With ``max_active_steps`` no more than so many of them wait or
        run on the cluster, and the others wait for their turn in the triggerer.
        """
        common = self._step_arguments(artifacts=self.artifacts, **kwargs)
        mapped = EmrSparkOperator.partial(task_id=task_id, **common).expand(args=args_each)
        self._add_step(mapped)
        return mapped

    def step_each(self, task_id: str, *, steps: Any, **kwargs: Any) -> MappedOperator:
        """A mapped task: each of ``steps``, a list of steps or the output of a task that gives their fields."""
        partial = EmrStepOperator.partial(task_id=task_id, **self._step_arguments(**kwargs))
        mapped = partial.expand(step=documents(steps))
        self._add_step(mapped)
        return mapped

    def quality_gate(
        self, task_id: str, *, suite: str, data: str | Mapping[str, str], output: str, **kwargs: Any
    ) -> EmrQualityGateOperator:
        """A check that stops the run where a critical expectation fails; see ``EmrQualityGateOperator``."""
        operator = EmrQualityGateOperator(
            task_id=task_id,
            suite=suite,
            data=data,
            output=output,
            **self._step_arguments(artifacts=self.artifacts, **kwargs),
        )
        self._add_step(operator)
        return operator

    def get_roots(self) -> Generator[BaseOperator, None, None]:
        """What ``before >> cluster`` puts behind ``before``: nothing of the cluster is paid for until then."""
        if self._up is None:
            yield from super().get_roots()
        else:
            yield self._up

    def _step_arguments(self, **kwargs: Any) -> dict[str, Any]:
        return {
            "cluster_id": self.cluster_id,
            "cluster_task_id": self.up.task_id,
            **self._common,
            **kwargs,
        }

    def _add_step(self, step: BaseOperator | MappedOperator) -> None:
        self._steps.append(step)
        # Every step, not the last ones alone: a step's failure ends what is behind it early, while its
        # neighbours may still run.
        step >> self.down

    @property
    def _is_protected(self) -> bool:
        if isinstance(self.spec, ClusterSpec):
            return self.spec.termination_protection
        return bool(self.spec.get("termination_protection", False))

    def _not_entered(self) -> NoReturn:
        raise ConfigurationError(
            f"The tasks of {self._group_id} are made by entering it. "
            f"Write: with EmrCluster({self._group_id!r}, spec=…) as cluster: …"
        )
