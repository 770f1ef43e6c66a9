"""Tasks that fail with this package's errors: inside one of its operators, and in a plain Python task."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, BaseOperator, task

from airflow_emr_etl import emr_retry_policy
from airflow_emr_etl.exceptions import ClusterLostError, EmrEtlError, StepFailedError
from airflow_emr_etl.operators.failures import retry_only_what_can_pass

SOON = timedelta(milliseconds=10)


class Raises(BaseOperator):
    """Raises as the operators of this package do."""

    def __init__(self, *, error: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.error = error

    def execute(self, context: Any) -> None:
        kinds: dict[str, type[EmrEtlError]] = {"lost": ClusterLostError, "failed": StepFailedError}
        with retry_only_what_can_pass():
            raise kinds[self.error](f"try {context['ti'].try_number}")


with DAG(
    "failing_tasks",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    default_args={
        "retries": 2,
        # An hour, so that a retry which comes at all comes by the policy's delay.
        "retry_delay": timedelta(hours=1),
        "retry_policy": emr_retry_policy(delays={ClusterLostError: SOON}),
    },
) as dag:
    Raises(task_id="operator_lost", error="lost")
    Raises(task_id="operator_failed", error="failed")

    @task
    def python_lost() -> None:
        raise ClusterLostError("spot")

    @task
    def python_failed() -> None:
        raise StepFailedError("a bug")

    python_lost()
    python_failed()
