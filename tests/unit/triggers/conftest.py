from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from fakes.emr import FakeEmr, install
from fakes.triggerer import Triggerer

from airflow_emr_etl.hooks.clock import Clock


@pytest.fixture
def emr(monkeypatch: pytest.MonkeyPatch) -> FakeEmr:
    return install(monkeypatch)


@pytest.fixture
def triggerer(emr: FakeEmr, monkeypatch: pytest.MonkeyPatch) -> Iterator[Triggerer]:
    random.seed(7)  # of the pauses
    triggerer = Triggerer(emr)
    emr.frozen = True  # only the test moves things
    emr._budget = 20_000
    monkeypatch.setattr(Clock, "now", lambda clock: triggerer.world.now)
    yield triggerer
    triggerer.loop.close()
