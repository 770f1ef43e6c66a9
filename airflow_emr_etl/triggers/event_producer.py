"""The inbox of an asset's events as Airflow 3.3 reads it: a message ends when its asset event is in the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

from airflow_emr_etl.models.emr_event import EmrEvent
from airflow_emr_etl.triggers.event_inbox import EventInbox


class EventProducer(SharedStreamProducer):
    """Gives events with their ids, by which Airflow tells when each is stored."""

    def __init__(self, inbox: EventInbox) -> None:
        self._inbox = inbox

    async def open_stream(self) -> AsyncIterator[tuple[EmrEvent, str]]:
        while True:
            for event in await self._inbox.receive():
                yield event, event.id

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        self._inbox.again(item.broker_payload for item in batch if not item.outcome.is_clean)
        await self._inbox.done([item.broker_payload for item in batch if item.outcome.is_clean])

    async def aclose(self) -> None:
        self._inbox.close()
