"""Brings EMR's events to the rules of local EventBridge."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable

from airflow_emr_etl.models.emr_event import EmrEvent

log = logging.getLogger(__name__)


class EventBus:
    """Delivers in a thread of its own and in order, so that nobody who puts an event waits for its delivery.

    ``deliver`` may fail: that event is lost then, and the log says so.
    """

    def __init__(self, deliver: Callable[[EmrEvent], None]) -> None:
        self._deliver = deliver
        self._events: queue.SimpleQueue[EmrEvent | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="event-bus", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, events: Iterable[EmrEvent]) -> None:
        for event in events:
            self._events.put(event)

    def stop(self) -> None:
        """What was put is delivered first."""
        self._events.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self._deliver(event)
            except Exception:
                log.exception(
                    "The event %s of %s was not delivered", event.state, event.step_id or event.cluster_id
                )
