from __future__ import annotations

import pytest
from fakes.emr import FakeEmr, install


@pytest.fixture
def emr(monkeypatch: pytest.MonkeyPatch) -> FakeEmr:
    return install(monkeypatch)
