"""A process's boto3 clients whose calls can be counted, cut off, slowed down or watched from a test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ReadTimeoutError

from airflow_emr_etl.hooks.clock import Clock
from airflow_emr_etl.hooks.s3_lake import S3LakeHook


class KilledError(BaseException):
    """What SIGKILL looks like from inside: nothing catches it, and nothing is sent any more."""


class VirtualClock(Clock):
    """Time that passes only by waiting. A budget catches a loop that never ends."""

    def __init__(self, start: datetime | None = None, *, budget: int = 2000) -> None:
        self.time = start or datetime.now(UTC)
        self.slept = 0.0
        self._budget = budget

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self._budget -= 1
        assert self._budget > 0, "waits without end"
        self.slept += seconds
        self.time += timedelta(seconds=seconds)


class Worker:
    """One process's clients of S3 and EMR."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.dead = False
        self._plans: dict[tuple[int, str], Callable[[], None]] = {}
        self._lock = threading.Lock()
        s3, reads, writes = (
            boto3.client(service, config=Config(retries={"total_max_attempts": 1}, max_pool_connections=20))
            for service in ("s3", "emr", "emr")
        )
        for client, service in ((s3, "s3"), (reads, "emr"), (writes, "emr")):
            client.meta.events.register("before-call", self._before(service))
            client.meta.events.register("after-call", self._after)
        self.s3 = s3
        self.lake = S3LakeHook(client=s3)
        self.emr: Any = SimpleNamespace(reads=reads, writes=writes, region="us-east-1", partition="aws")

    def at(self, call: int, when: str, do: Callable[[], None]) -> None:
        """Run ``do`` right before or after the call of this number, counted from 1."""
        self._plans[call, when] = do

    def kill(self) -> None:
        self.dead = True
        raise KilledError

    def time_out(self) -> None:
        raise ReadTimeoutError(endpoint_url="http://test/")

    def _before(self, service: str) -> Callable[..., None]:
        def handler(model: Any, **_: Any) -> None:
            if self.dead:
                raise KilledError
            with self._lock:
                self.calls.append(f"{service}:{model.name}")
                number = len(self.calls)
            self._run(number, "before")

        return handler

    def _after(self, **_: Any) -> None:
        if self.dead:
            raise KilledError
        self._run(len(self.calls), "after")

    def _run(self, number: int, when: str) -> None:
        plan = self._plans.pop((number, when), None)
        if plan is not None:
            plan()
