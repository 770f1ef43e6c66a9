"""Asset events when a step or a cluster of EMR comes to an end, for DAGs that are scheduled on them."""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_emr_etl.exceptions import ConfigurationError, EmrEtlError
from airflow_emr_etl.hooks.aws_errors import translate
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_events import EmrEventQueue
from airflow_emr_etl.models.emr_event import EmrEvent
from airflow_emr_etl.models.intent import without_mark
from airflow_emr_etl.models.states import ClusterState, StepState
from airflow_emr_etl.triggers.event_listener import shared_listener
from airflow_emr_etl.triggers.polling import in_task_thread

_STATES: Final[dict[str, frozenset[str]]] = {
    "step": frozenset(state.value for state in StepState),
    "cluster": frozenset(state.value for state in ClusterState),
}
_SUCCESSES: Final = {"step": ("COMPLETED",), "cluster": ("TERMINATED",)}
_MOST_SEEN: Final = 10_000
_PAUSE_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 60.0


class EmrEventTrigger(BaseEventTrigger):
    """For an ``AssetWatcher``: an event of its asset for each step, or cluster, that comes into one of ``states``.

    ::

        done = Asset("sessions", watchers=[AssetWatcher(
            name="sessionize", trigger=EmrEventTrigger(queue="emr-etl-assets", name="sessionize"))])

    The payload, which the DAG's ``triggering_asset_events`` have as ``extra["payload"]``: ``event_id``, ``cluster_id``,
    ``step_id`` (None for a cluster), ``name`` without this package's mark, ``state``, ``time`` (UTC, ISO) and
    ``message``.

    A message is deleted some seconds after its event was given to Airflow, so one that dies meanwhile gets it
    again: an event comes at least once. What ends the trigger is Airflow alone; errors are ridden out.

    :param queue: name, URL or ARN of an SQS queue that `emr-etl events setup` feeds, for asset events alone. Watchers
        of one queue all see its events
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
        self._heard: asyncio.Queue[EmrEvent | EmrEtlError] | None = None
        self._seen: OrderedDict[str, None] = OrderedDict()

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

    async def run(self) -> AsyncIterator[TriggerEvent]:
        failures = 0
        heard = self._heard = asyncio.Queue()
        while True:
            try:
                queue = await in_task_thread(self.connect)
                listener = shared_listener(queue.url, queue)
                listener.subscribe(self)
                try:
                    while not isinstance(found := await heard.get(), EmrEtlError):
                        failures = 0
                        yield TriggerEvent(_payload(found))  # type: ignore[no-untyped-call]
                finally:
                    listener.unsubscribe(self)
                failure = found
            except Exception as error:
                failure = translate(error)
            failures += 1
            if failures & (failures - 1) == 0:
                self.log.warning(
                    "EMR's events cannot be read from %s, will try again: %s", self.queue, failure
                )
            longest = min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS * 2.0 ** min(failures - 1, 16))
            await asyncio.sleep(longest * (0.5 + random.random() / 2))

    # What the listener tells

    def heard(self, event: EmrEvent) -> None:
        assert self._heard is not None
        if self._wants(event) and event.id not in self._seen:
            self._seen[event.id] = None
            if len(self._seen) > _MOST_SEEN:
                self._seen.popitem(last=False)
            self._heard.put_nowait(event)

    def events_changed(self) -> None:
        """It waits for events, reliable or not: there is nothing else to do."""

    def events_ended(self, failure: EmrEtlError) -> None:
        assert self._heard is not None
        self._heard.put_nowait(failure)

    def _wants(self, event: EmrEvent) -> bool:
        return (
            (event.step_id is not None) == (self.on == "step")
            and event.state in self.states
            and fnmatchcase(without_mark(event.name), self.name)
            and fnmatchcase(event.cluster_id, self.cluster_id)
        )


def _payload(event: EmrEvent) -> dict[str, Any]:
    return {
        "event_id": event.id,
        "cluster_id": event.cluster_id,
        "step_id": event.step_id,
        "name": without_mark(event.name),
        "state": event.state,
        "time": event.time.isoformat(),
        "message": event.message,
    }
