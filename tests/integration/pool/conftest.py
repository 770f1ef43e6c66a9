"""Local AWS of these tests' own, whose EMR runs no process and is watched."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from airflow_emr_etl.local.emr import EmrApi
from airflow_emr_etl.local.emr.machine import Pace
from airflow_emr_etl.local.emr.records import Job, Outcome, StopSignal
from airflow_emr_etl.local.stack import LocalAws
from airflow_emr_etl.models.states import CLUSTER_LIVE

_buckets = itertools.count(1)


class TimedRunner:
    """Runs nothing: a step takes as long as its last argument says, in seconds."""

    def __init__(self) -> None:
        self._timers: dict[str, threading.Timer] = {}

    def start(self, job: Job, ended: Callable[[Outcome], None]) -> None:
        seconds = 0.01 if job.step_id is None else float(job.args[-1])
        timer = threading.Timer(seconds, ended, [Outcome(True, exit_code=0)])
        timer.daemon = True
        self._timers[job.key] = timer
        timer.start()

    def end(self, key: str, how: StopSignal) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
            threading.Thread(target=timer.function, args=[Outcome(False)], daemon=True).start()

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()


class WatchedEmr(EmrApi):
    """Knows the most clusters that were ever up or coming up together."""

    most = 0

    def _settle(self) -> None:
        self.most = max(self.most, len(self.live()))
        super()._settle()

    def live(self) -> list[str]:
        with self._changed:
            return [each.id for each in self._machine.clusters.values() if each.state in CLUSTER_LIVE]

    def end_for(self, cluster_id: str, code: str, reason: str) -> None:
        """End a cluster as EC2 or EMR would."""
        with self._changed:
            self._machine._close(self._machine.clusters[cluster_id], code, reason, self._clock())
            self._settle()

    def forget_all(self) -> None:
        with self._changed:
            for each in self.live():
                self._machine.terminate(self._machine.clusters[each], self._clock())
            self._settle()
            self._machine.clusters.clear()
            self.most = 0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalAws, WatchedEmr]]:
    apis: list[WatchedEmr] = []

    def services(local: LocalAws) -> list[Any]:
        apis.append(
            WatchedEmr(
                state=local.state / "emr",
                objects=local.objects,
                environment=local.env,
                runner=TimedRunner(),
                pace=Pace(),
            )
        )
        return list(apis)

    with LocalAws(tmp_path_factory.mktemp("pool"), services=services) as local:
        yield local, apis[0]


@pytest.fixture
def emr(stack: tuple[LocalAws, WatchedEmr], monkeypatch: pytest.MonkeyPatch) -> WatchedEmr:
    """The EMR behind this process's clients, without a cluster."""
    local, api = stack
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it would keep another instance's key
    for name, value in local.env().items():
        monkeypatch.setenv(name, value)
    api.forget_all()
    return api


@pytest.fixture
def bucket(emr: WatchedEmr) -> str:
    name = f"pool-{next(_buckets)}"
    boto3.client("s3").create_bucket(Bucket=name)
    return name
