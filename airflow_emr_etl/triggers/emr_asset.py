"""Asset events when a step or a cluster of EMR comes to an end, for DAGs that are scheduled on them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_events import EmrEventQueue
from airflow_emr_etl.models.emr_event import EmrEvent
from airflow_emr_etl.models.intent import without_mark
from airflow_emr_etl.models.states import ClusterState, StepState
from airflow_emr_etl.triggers.event_inbox import EventInbox

HOLD_SECONDS: Final = 30.0
"""Before Airflow 3.3, which tells when an event is stored: from an event to the end of its message."""
_STATES: Final[dict[str, frozenset[str]]] = {
    "step": frozenset(state.value for state in StepState),
    "cluster": frozenset(state.value for state in ClusterState),
}
_SUCCESSES: Final = {"step": ("COMPLETED",), "cluster": ("TERMINATED",)}


class EmrEventTrigger(BaseEventTrigger):
    """For an ``AssetWatcher``: an event of its asset for each step, or cluster, that comes into one of ``states``.

    ::

        done = Asset("sessions", watchers=[AssetWatcher(
            name="sessionize", trigger=EmrEventTrigger(queue="emr-etl-sessions", name="sessionize"))])

    The payload, which the DAG's ``triggering_asset_events`` have as ``extra["payload"]``: ``event_id``, ``cluster_id``,
    ``step_id`` (None for a cluster), ``name`` without this package's mark, ``state``, ``time`` (UTC, ISO) and
    ``message``.

    A message is deleted when its event is in Airflow's database; before Airflow 3.3, some time after it was given
    to Airflow. Whoever dies before that gets it again, so an event comes at least once. Errors are ridden out:
    Airflow would start a watcher that fails anew every second.

    :param queue: name, URL or ARN of an SQS queue that ``emr-etl events setup`` feeds, for this watcher alone: what
        it does not want, it deletes
    :param on: whether steps or clusters are watched
    :param states: EMR's names; by default COMPLETED for steps and TERMINATED for clusters
    :param name: pattern with ``*`` and ``?`` for the step's or cluster's name
    :param cluster_id: pattern for the cluster's id
    """

    def __init__(
        self,
        *,
        queue: str,
        on: Literal["step", "cluster"] = "step",
        states: Sequence[str] = (),
        name: str = "*",
        cluster_id: str = "*",
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if on not in _STATES:
            raise ConfigurationError(f"on={on!r} is not to be watched. It is 'step' or 'cluster'.")
        self.queue = queue
        self.on = on
        self.states = sorted(states or _SUCCESSES[on])
        self.name = name
        self.cluster_id = cluster_id
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        strange = set(self.states) - _STATES[on]
        if strange:
            raise ConfigurationError(
                f"A {on} is never {' or '.join(sorted(strange))}. Its states are {', '.join(sorted(_STATES[on]))}."
            )

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "queue": self.queue,
            "on": self.on,
            "states": self.states,
            "name": self.name,
            "cluster_id": self.cluster_id,
            "aws_conn_id": self.aws_conn_id,
            "region_name": self.region_name,
        }

    def connect(self) -> EmrEventQueue:
        """The queue, with its address known. Runs in a thread."""
        queue = EmrClients(self.aws_conn_id, self.region_name).event_queue(self.queue)
        _ = queue.url
        return queue

    def inbox(self) -> EventInbox:
        return EventInbox(self.connect, self._wants)

    # Before Airflow 3.3

    async def run(self) -> AsyncIterator[TriggerEvent]:
        inbox, now = self.inbox(), asyncio.get_running_loop().time
        held: deque[tuple[float, str]] = deque()
        try:
            while True:
                for event in await inbox.receive():
                    yield _told(event)
                    held.append((now(), event.id))
                due = []
                while held and held[0][0] <= now() - HOLD_SECONDS:
                    due.append(held.popleft()[1])
                await inbox.done(due)
        finally:
            inbox.close()

    # Since Airflow 3.3, which tells the producer of each event that is stored

    def shared_stream_key(self) -> Hashable | None:
        """Its own alone: a watcher that joined others later would miss what they have read."""
        if not hasattr(BaseEventTrigger, "create_shared_stream_producer"):
            return None
        return repr(self.serialize())

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> Any:
        from airflow_emr_etl.triggers.event_producer import EventProducer

        return EventProducer(cls(**kwargs).inbox())

    async def filter_shared_stream(
        self, shared_stream: AsyncIterator[EmrEvent]
    ) -> AsyncIterator[TriggerEvent]:
        async for event in shared_stream:
            yield _told(event)

    def _wants(self, event: EmrEvent) -> bool:
        return (
            (event.step_id is not None) == (self.on == "step")
            and event.state in self.states
            and fnmatchcase(without_mark(event.name), self.name)
            and fnmatchcase(event.cluster_id, self.cluster_id)
        )


def _told(event: EmrEvent) -> TriggerEvent:
    return TriggerEvent(  # type: ignore[no-untyped-call]
        {
            "event_id": event.id,
            "cluster_id": event.cluster_id,
            "step_id": event.step_id,
            "name": without_mark(event.name),
            "state": event.state,
            "time": event.time.isoformat(),
            "message": event.message,
        }
    )
