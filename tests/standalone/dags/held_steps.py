"""Runs whose steps go on until a file says that they may end, so that a test can choose the moment of what it does.

A run's folder is ``$EMR_ETL_TEST_FOLDER/<run id>``. The step of task ``x`` writes a line to ``x.began`` when it
begins, waits for ``x.go``, and writes a line to ``x.done``: the effect that must be there once.
"""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from airflow_emr_etl import BootstrapAction, ClusterSpec, CommandStep, EmrCluster, Fleet

FOLDER = os.environ["EMR_ETL_TEST_FOLDER"]
HELD = Path(__file__).with_name("held.sh")
RUN_FOLDER = f"{FOLDER}/{{{{ run_id }}}}"
SPEC = ClusterSpec(name="{{ run_id }}", step_concurrency=3, idle_timeout=timedelta(minutes=30))
ON_SPOT = ClusterSpec(
    name="{{ run_id }}",
    step_concurrency=3,
    primary=Fleet(types=["m7g.xlarge"], spot_units=1),
    core=Fleet(types=["m7g.xlarge", "m6g.xlarge"], spot_units=2),
)
HELD_UP = SPEC.model_copy(
    update={"bootstrap": (BootstrapAction(path=f"file://{HELD}", args=(RUN_FOLDER, "bootstrap")),)}
)


def held(name: str) -> CommandStep:
    return CommandStep(name=name, command=["bash", str(HELD), RUN_FOLDER, name])


def meddle(context: Any) -> None:
    """Do what ``conf["meddle"]`` says, once, right before or after the call of AWS that it names.

    ``die`` is a SIGKILL of this very process; ``hold`` waits for the file ``let-go``, as a slow answer would.
    Botocore's way out is replaced in the task's own process, so nothing of ours knows of it.
    """
    told = (context["dag_run"].conf or {}).get("meddle")
    if told is None:
        return
    from botocore.httpsession import URLLib3Session

    send = URLLib3Session.send
    folder = Path(FOLDER, context["run_id"])
    folder.mkdir(parents=True, exist_ok=True)

    def send_and_meddle(session: Any, request: Any) -> Any:
        target = request.headers.get("X-Amz-Target", b"")
        operation = (target.decode() if isinstance(target, bytes) else target).rpartition(".")[2]
        here = operation == told["operation"] and not (folder / "meddled").exists()
        if here and told["when"] == "before":
            act()
        answer = send(session, request)
        if here and told["when"] == "after":
            act()
        return answer

    def act() -> None:
        (folder / "meddled").write_text(str(os.getpid()))
        if told["how"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(600):
            if (folder / "let-go").exists():
                return
            time.sleep(0.1)

    URLLib3Session.send = send_and_meddle


def held_run(
    dag_id: str,
    *names: str,
    deferrable: bool,
    retries: int = 0,
    spec: ClusterSpec = SPEC,
    run_timeout: timedelta | None = None,
    **step: Any,
) -> None:
    """A DAG of one cluster with a held step for each name, all side by side."""
    defaults = {
        "retries": retries,
        "retry_delay": timedelta(seconds=1),
        "pre_execute": meddle,
    }
    with DAG(dag_id, schedule=None, dagrun_timeout=run_timeout):
        with EmrCluster(
            "cluster", spec=spec, poll_interval=2, deferrable=deferrable, task_defaults=defaults
        ) as cluster:
            for name in names:
                cluster.step(name, held(name), **step)


for mode, deferrable in (("deferred", True), ("worker", False)):
    held_run(f"pair_{mode}", "victim", "neighbour", deferrable=deferrable, retries=2)
    # The teardown waits for nobody else here, so it runs as soon as the step's task is over.
    held_run(f"alone_{mode}", "victim", deferrable=deferrable, retries=2)
    held_run(
        f"run_timeout_{mode}",
        "victim",
        "neighbour",
        deferrable=deferrable,
        run_timeout=timedelta(hours=1),
    )
    held_run(f"held_up_{mode}", "victim", deferrable=deferrable, retries=2, spec=HELD_UP)
    held_run(f"wait_timeout_{mode}", "victim", deferrable=deferrable, wait_timeout=timedelta(seconds=12))
    held_run(
        f"execution_timeout_{mode}",
        "victim",
        deferrable=deferrable,
        execution_timeout=timedelta(seconds=15),
    )
held_run("once_deferred", "victim", deferrable=True)
held_run("spot", "first", "second", "third", deferrable=True, retries=2, spec=ON_SPOT)

with DAG("late_trigger", schedule=None):
    with EmrCluster("cluster", spec=SPEC, poll_interval=2, deferrable=False) as cluster:
        first = cluster.step("first", held("first"))
        first >> cluster.step("victim", held("victim"), deferrable=True)
        cluster.step("neighbour", held("neighbour"))
