"""Asset events as Airflow 3.3 takes them, by its own manager of shared streams, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from airflow.triggers.shared_stream import SharedStreamManager
from fakes.emr import FakeEmr
from fakes.event_queue import FakeEventQueue
from fakes.triggerer import Triggerer

from airflow_emr_etl.exceptions import ServiceUnavailableError
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.triggers.emr_asset import EmrEventTrigger


@pytest.fixture
def queue(triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch) -> FakeEventQueue:
    made = FakeEventQueue(triggerer.world)
    monkeypatch.setattr(EmrClients, "event_queue", lambda self, name: made)
    return made


class Airflow:
    """What the triggerer does with a watcher: events go to its supervisor, who stores them and tells."""

    def __init__(self, triggerer: Triggerer) -> None:
        self.triggerer = triggerer
        self.stored: list[tuple[float, dict[str, Any]]] = []
        #: The database does not answer.
        self.stalls = False
        self._sent: list[tuple[dict[str, Any], int | None]] = []

    def run(self, trigger: EmrEventTrigger, *, seconds: float) -> list[str | None]:
        ended: list[bool] = []
        world = self.triggerer.world

        async def watch(manager: SharedStreamManager) -> None:
            key = trigger.shared_stream_key()
            stream = manager.subscribe(trigger_id=1, trigger=trigger, key=key)
            try:
                async for event in trigger.filter_shared_stream(stream):
                    seq = manager.bind_pending_event(trigger_id=1, key=key)
                    self._sent.append((event.payload, seq))
            finally:
                await manager.unsubscribe(1, key)

        async def supervise(manager: SharedStreamManager) -> None:
            while True:
                await asyncio.sleep(1)
                if not self.stalls:
                    sent, self._sent = self._sent, []
                    self.stored += [(world.seconds, payload) for payload, _ in sent]
                    manager.confirm_persisted([seq for _, seq in sent if seq is not None])

        async def main() -> None:
            manager = SharedStreamManager(_now=lambda: world.seconds)
            tasks = [asyncio.ensure_future(watch(manager)), asyncio.ensure_future(supervise(manager))]
            await asyncio.sleep(seconds)
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await manager.stop_all()
            ended.append(True)

        loop = self.triggerer.loop
        self.triggerer._fiber = world.spawn(self.triggerer.process, lambda: loop.run_until_complete(main()))
        world.run(lambda: bool(ended), seconds=seconds + 60)
        assert ended
        return [payload["step_id"] for _, payload in self.stored]


def test_a_message_ends_when_its_event_is_stored(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    triggerer.at(10, lambda: queue.step("j-1", "s-1", "COMPLETED"))
    triggerer.at(20, lambda: queue.step("j-1", "s-2", "FAILED"))
    airflow = Airflow(triggerer)
    assert airflow.run(EmrEventTrigger(queue="q"), seconds=100) == ["s-1"]
    [(first, _), (_, other)] = queue.deleted
    assert airflow.stored[0][0] <= first < airflow.stored[0][0] + 3
    assert other is not None
    assert other.state == "FAILED"
    assert queue.messages == []


def test_nothing_is_lost_while_the_database_does_not_answer(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    """The triggerer dies after minutes in which it stored nothing; its messages come again to the next."""
    triggerer.at(10, lambda: queue.step("j-1", "s-1", "COMPLETED"))
    airflow = Airflow(triggerer)
    airflow.stalls = True
    assert airflow.run(EmrEventTrigger(queue="q"), seconds=200) == []
    assert queue.deleted == []
    second = Triggerer(emr, triggerer.world)
    assert Airflow(second).run(EmrEventTrigger(queue="q"), seconds=100) == ["s-1"]
    second.loop.close()


def test_what_is_visible_again_before_it_is_stored_is_one_event(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    triggerer.at(10, lambda: queue.step("j-1", "s-1", "COMPLETED"))
    airflow = Airflow(triggerer)
    airflow.stalls = True
    triggerer.at(150, lambda: setattr(airflow, "stalls", False))
    assert airflow.run(EmrEventTrigger(queue="q"), seconds=300) == ["s-1"]
    assert queue.messages == []


def test_an_outage_is_ridden_out(emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue) -> None:
    triggerer.at(10, lambda: setattr(queue, "error", ServiceUnavailableError("An outage.")))
    triggerer.at(20, lambda: queue.step("j-1", "s-1", "COMPLETED"))
    triggerer.at(100, lambda: setattr(queue, "error", None))
    assert Airflow(triggerer).run(EmrEventTrigger(queue="q"), seconds=300) == ["s-1"]
