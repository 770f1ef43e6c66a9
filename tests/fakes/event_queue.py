"""An SQS queue of EMR's events in virtual time: at least once, in no order, visible again when not deleted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from simulation.world import World

from airflow_emr_etl.hooks.emr_events import ReceivedEvent
from airflow_emr_etl.models.emr_event import EmrEvent

_LOOK_SECONDS = 0.05


@dataclass
class _Message:
    event: EmrEvent | None
    visible_at: float
    receipt: str = ""


class FakeEventQueue:
    """``EmrEventQueue`` for a listener under test."""

    def __init__(self, world: World, *, url: str = "https://sqs/123456789012/events") -> None:
        self.world = world
        self._url = url
        self.visibility_seconds = 30.0
        self.messages: list[_Message] = []
        self.deleted: list[tuple[float, EmrEvent | None]] = []
        self.receives = 0
        #: What receiving raises for as long as it is set, and what asking for the URL does.
        self.error: Exception | None = None
        self.url_error: Exception | None = None
        self._receipts = itertools.count(1)

    @property
    def url(self) -> str:
        if self.url_error is not None:
            raise self.url_error
        return self._url

    def put(self, event: EmrEvent | None, *, after: float = 0.3) -> None:
        self.messages.append(_Message(event, self.world.seconds + after))

    def step(self, cluster_id: str, step_id: str, state: str, *, after: float = 0.3, name: str = "x") -> None:
        """The event of a step that is in ``state`` from now on."""
        self.put(_event(self.world.now, cluster_id, step_id, name, state), after=after)

    def cluster(self, cluster_id: str, state: str, *, after: float = 0.3) -> None:
        self.put(_event(self.world.now, cluster_id, None, "x", state), after=after)

    def receive(self, wait_seconds: float, most: int = 10) -> list[ReceivedEvent]:
        self.receives += 1
        last = self.world.seconds + wait_seconds
        while True:
            if self.error is not None:
                self.world.sleep(0.02)
                raise self.error
            now = self.world.seconds
            visible = [message for message in self.messages if message.visible_at <= now][:most]
            if visible or now >= last:
                break
            self.world.sleep(_LOOK_SECONDS)
        for message in visible:
            message.visible_at = now + self.visibility_seconds
            message.receipt = str(next(self._receipts))
        self.world.sleep(0.02)
        return [ReceivedEvent(message.receipt, message.event) for message in visible]

    def delete(self, receipts: Sequence[str]) -> None:
        assert 1 <= len(receipts) <= 10
        gone = [message for message in self.messages if message.receipt in receipts]
        self.deleted += [(self.world.seconds, message.event) for message in gone]
        self.messages = [message for message in self.messages if message not in gone]


def _event(now: datetime, cluster_id: str, step_id: str | None, name: str, state: str) -> EmrEvent:
    return EmrEvent(
        id=f"{cluster_id}-{step_id}-{state}",
        account="123456789012",
        region="eu-west-1",
        time=now.astimezone(UTC),
        cluster_id=cluster_id,
        step_id=step_id,
        name=name,
        state=state,
        message="",
    )
