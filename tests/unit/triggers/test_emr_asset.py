"""Asset events over a fake queue, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from airflow.sdk import Asset, AssetWatcher
from fakes.emr import FakeEmr
from fakes.event_queue import FakeEventQueue
from fakes.triggerer import Triggerer

from airflow_emr_etl.exceptions import AccessDeniedError, ConfigurationError, ServiceUnavailableError
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.triggers.emr_asset import EmrEventTrigger

Seen = list[tuple[float, dict[str, Any]]]


@pytest.fixture
def queue(triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch) -> FakeEventQueue:
    made = FakeEventQueue(triggerer.world)
    monkeypatch.setattr(EmrClients, "event_queue", lambda self, name: made)
    return made


def watch(triggerer: Triggerer, *triggers: EmrEventTrigger, seconds: float = 300) -> list[Seen]:
    """What each trigger gave until then, when Airflow ends them."""
    found: list[Seen] = [[] for _ in triggers]
    ended: list[bool] = []

    async def one(trigger: EmrEventTrigger, seen: Seen) -> None:
        async for event in trigger.run():
            seen.append((triggerer.world.seconds, event.payload))

    async def main() -> None:
        tasks = [asyncio.ensure_future(one(*each)) for each in zip(triggers, found, strict=True)]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.sleep(6)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        ended.append(True)

    triggerer._fiber = triggerer.world.spawn(
        triggerer.process, lambda: triggerer.loop.run_until_complete(main())
    )
    triggerer.world.run(lambda: bool(ended), seconds=seconds + 60)
    assert ended
    return found


def test_each_step_that_completes_is_an_event(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    triggerer.at(10, lambda: queue.step("j-1", "s-1", "RUNNING"))
    triggerer.at(20, lambda: queue.step("j-1", "s-1", "COMPLETED"))
    triggerer.at(30, lambda: queue.step("j-1", "s-2", "FAILED"))
    triggerer.at(40, lambda: queue.cluster("j-1", "TERMINATED"))
    [seen] = watch(triggerer, EmrEventTrigger(queue="q"))
    [(when, payload)] = seen
    assert 20 <= when < 21
    assert payload == {
        "event_id": "j-1-s-1-COMPLETED",
        "cluster_id": "j-1",
        "step_id": "s-1",
        "name": "x",
        "state": "COMPLETED",
        "time": "2026-01-05T00:00:20+00:00",
        "message": "",
    }


def test_what_is_watched_is_chosen(
    emr: FakeEmr, triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[tuple[dict[str, Any], list[str]]] = [
        ({"name": "sessionize"}, ["s-1"]),
        ({"name": "*ize", "states": ["COMPLETED", "FAILED"]}, ["s-1", "s-2", "s-3"]),
        ({"cluster_id": "j-2"}, ["s-2"]),
        ({"on": "cluster", "states": ["TERMINATED", "TERMINATED_WITH_ERRORS"]}, ["j-2"]),
        ({"on": "cluster"}, []),
    ]
    queues = {str(number): FakeEventQueue(triggerer.world) for number, _ in enumerate(watched)}
    monkeypatch.setattr(EmrClients, "event_queue", lambda self, name: queues[name])
    marked = "sessionize [emr-etl 3fa9c1d2e4b50718.77ab01f3.c0.n1.9c1e]"

    def happen() -> None:
        for queue in queues.values():
            queue.step("j-1", "s-1", "COMPLETED", name=marked, after=1)
            queue.step("j-2", "s-2", "COMPLETED", name="normalize", after=2)
            queue.step("j-2", "s-3", "FAILED", name="normalize", after=3)
            queue.cluster("j-2", "TERMINATED_WITH_ERRORS", after=4)

    triggerer.at(10, happen)
    triggers = [
        EmrEventTrigger(queue=name, **chosen) for name, (chosen, _) in zip(queues, watched, strict=True)
    ]
    found = watch(triggerer, *triggers)
    ids = [[payload["step_id"] or payload["cluster_id"] for _, payload in seen] for seen in found]
    assert ids == [expected for _, expected in watched]
    assert found[0][0][1]["name"] == "sessionize"
    assert [queue.messages for queue in queues.values()] == [[]] * 5, "what is not wanted is deleted too"


def test_what_comes_twice_is_one_event(emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue) -> None:
    for when in (10, 11, 100):
        triggerer.at(when, lambda: queue.step("j-1", "s-1", "RUNNING"))
        triggerer.at(when, lambda: queue.step("j-1", "s-1", "COMPLETED"))
    [seen] = watch(triggerer, EmrEventTrigger(queue="q", states=["RUNNING", "COMPLETED"]))
    assert [payload["state"] for _, payload in seen] == ["RUNNING", "COMPLETED"]


def test_a_message_is_kept_until_airflow_has_had_the_time_to_store_its_event(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    triggerer.at(10, lambda: queue.step("j-1", "s-1", "COMPLETED"))
    triggerer.at(290, lambda: queue.step("j-1", "s-2", "COMPLETED"))
    [seen] = watch(triggerer, EmrEventTrigger(queue="q"), seconds=295)
    assert len(seen) == 2
    [(when, event)] = queue.deleted
    assert event is not None
    assert (event.step_id, when >= 20) == ("s-1", True)
    second = Triggerer(emr, triggerer.world)
    [again] = watch(second, EmrEventTrigger(queue="q"))
    assert [payload["step_id"] for _, payload in again] == ["s-2"], "who died before that gets it again"
    second.loop.close()


@pytest.mark.parametrize("error", [ServiceUnavailableError("An outage."), AccessDeniedError("Not allowed.")])
def test_errors_are_ridden_out(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue, error: Exception
) -> None:
    triggerer.at(10, lambda: setattr(queue, "error", error))
    triggerer.at(20, lambda: queue.step("j-1", "s-1", "COMPLETED"))
    triggerer.at(100, lambda: setattr(queue, "error", None))
    [seen] = watch(triggerer, EmrEventTrigger(queue="q"))
    assert len(seen) == 1


def test_a_queue_that_is_not_there_is_waited_for(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    queue.url_error = ConfigurationError("There is no such queue.")
    triggerer.at(50, lambda: setattr(queue, "url_error", None))
    triggerer.at(60, lambda: queue.step("j-1", "s-1", "COMPLETED"))
    [seen] = watch(triggerer, EmrEventTrigger(queue="q"))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on": "fleet"}, "'step' or 'cluster'"),
        ({"states": ["DONE"]}, "never DONE"),
        ({"on": "cluster", "states": ["COMPLETED"]}, "never COMPLETED"),
    ],
)
def test_what_is_never_seen_is_told_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EmrEventTrigger(queue="q", **arguments)


def test_it_is_a_watchers_trigger_that_can_be_made_again() -> None:
    trigger = EmrEventTrigger(queue="q", on="cluster", name="nightly*", region_name="eu-west-1")
    watcher = AssetWatcher(name="nightly", trigger=trigger)
    assert Asset("done", watchers=[watcher]).watchers == [watcher]
    classpath, fields = trigger.serialize()
    assert classpath == "airflow_emr_etl.triggers.emr_asset.EmrEventTrigger"
    assert EmrEventTrigger(**fields).serialize() == (classpath, fields)
