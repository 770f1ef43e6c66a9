"""One world for all tests of this folder; those marked ``beside`` run side by side in it.

A run takes most of its time waiting for Airflow, so the functions of all selected tests with the mark are
started together, a few at a time, when the first of them is due; each test then reports its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from standalone.world import World, a_world

AT_ONCE = 4
HERE = Path(__file__).parent
_FUTURES: pytest.StashKey[dict[str, Future[None]]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "beside: runs at the same time as the others with this mark")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Starts within a minute or so."""
    with a_world(tmp_path_factory.mktemp("standalone")) as made:
        yield made


@pytest.fixture(scope="session")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(AT_ONCE) as executor:
        yield executor
        executor.shutdown(cancel_futures=True)


@pytest.fixture
def beside(request: pytest.FixtureRequest, world: World, pool: ThreadPoolExecutor) -> dict[str, Future[None]]:
    """The functions of the tests with that mark, started."""
    session = request.session
    if _FUTURES not in session.stash:
        session.stash[_FUTURES] = {
            item.nodeid: pool.submit(item.obj, **_arguments(item, world))
            for item in session.items
            if isinstance(item, pytest.Function) and item.get_closest_marker("beside")
        }
    return session.stash[_FUTURES]


def _arguments(item: pytest.Function, world: World) -> dict[str, Any]:
    given = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    return {"world": world, **given}


@pytest.fixture(autouse=True)
def _started_together(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("beside"):
        request.getfixturevalue("beside")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if pyfuncitem.get_closest_marker("beside") is None:
        return None
    pyfuncitem.session.stash[_FUTURES][pyfuncitem.nodeid].result()
    return True


@pytest.fixture
def alone(request: pytest.FixtureRequest, world: World) -> World:
    """The world when nothing runs beside this test."""
    for future in request.session.stash.get(_FUTURES, {}).values():
        future.exception()
    return world
