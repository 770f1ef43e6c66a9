"""Triggers that wait together with the others of their triggerer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from typing import Any

from airflow.triggers.base import TriggerEvent

from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.triggers.poller import Found, Wait, shared_poller
from airflow_emr_etl.triggers.polling import PollingTrigger, error_document
from airflow_emr_etl.triggers.polling_schedule import Pace


class SharedPollingTrigger(PollingTrigger):
    """In the triggerer, waits by the poller of its connection and region; elsewhere, as every ``PollingTrigger``.

    The event is the same either way.
    """

    def clients(self) -> EmrClients:
        """What this trigger calls EMR with; no connection is read yet."""
        return EmrClients(self.aws_conn_id, self.region_name)

    def sharing(self) -> tuple[Hashable, ...]:
        """Triggers for which this is equal call EMR with the same clients."""
        return self.aws_conn_id, self.region_name

    def new_wait(self, pace: Pace) -> Wait:
        """What the poller is to look for."""
        raise NotImplementedError

    def payload(self, found: Found) -> dict[str, Any]:
        """The event's payload for what the poller has found; it is ``done``, or the cluster has ended."""
        raise NotImplementedError

    async def run(self) -> AsyncIterator[TriggerEvent]:
        wait = self.new_wait(Pace(self.first_poll, self.poll_interval))
        found = await shared_poller(self.sharing()).wait(wait, self._connected_clients)
        yield TriggerEvent({**self.fields(), "carry": self.carry, **self._payload(found)})  # type: ignore[no-untyped-call]

    def _payload(self, found: Found) -> dict[str, Any]:
        if found.error is not None:
            return {"status": "error", "error": error_document(found.error)}
        if not found.done and found.cluster is None:
            return {"status": "timeout"}
        return self.payload(found)

    def _connected_clients(self) -> EmrClients:
        clients = self.clients()
        _ = clients.polls, clients.events_or_failure
        return clients
