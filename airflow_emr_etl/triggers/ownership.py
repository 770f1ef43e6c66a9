"""What a trigger does when it is told that it was cancelled: ask whether its work is still wanted, then end it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine
from typing import Any, Final

log = logging.getLogger(__name__)

#: A task in one of these has been decided by its user: nobody will take over what it had running. In any
#: other state a try of it is under way, or about to begin, and has the say.
_DECIDED: Final = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


#: The event loop itself keeps no reference to a task.
_ending: set[asyncio.Task[None]] = set()


async def whatever_comes(work: Coroutine[Any, Any, None]) -> None:
    """Do ``work`` to its end, even where whoever waits for it is cancelled meanwhile.

    The triggerer cancels a trigger again about every second until it is gone, and so cuts off an
    ``on_kill`` that takes longer.
    """
    task = asyncio.get_running_loop().create_task(work)
    _ending.add(task)
    task.add_done_callback(_ended)
    await asyncio.shield(task)


def _ended(task: asyncio.Task[None]) -> None:
    _ending.discard(task)
    if not task.cancelled() and task.exception() is not None:
        log.warning("What a cancelled trigger had running could not be ended: %s", task.exception())


async def is_over(trigger: Any, *, unless: Collection[str] = ()) -> bool:
    """Whether the trigger's task has ended for good, so that its work may be ended too.

    ``unless`` names end states that leave the work alone: a cluster that is up serves on.

    Airflow calls ``on_kill`` also in a triggerer that stalled, and whose triggers another has taken over
    since, and after a clear when the next try may have started: the task's state, asked now, tells.
    Where it cannot be asked, the answer is no: work that goes on by mistake ends with its cluster, work that is
    ended by mistake is lost.
    """
    ti = trigger.task_instance
    if ti is None:
        return False
    from asgiref.sync import sync_to_async

    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        states: dict[str, Any] = await sync_to_async(RuntimeTaskInstance.get_task_states)(
            dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
        )
    except Exception as error:
        log.warning("The state of task %s is not known, so its work goes on: %s", ti.task_id, error)
        return False
    # A mapped task instance is told as task_0, another as task.
    found = states.get(ti.run_id, {})
    state = found.get(ti.task_id) or found.get(f"{ti.task_id}_{ti.map_index}")
    over = str(getattr(state, "value", state)) in _DECIDED.difference(unless)
    log.info("Task %s is %s: its work %s", ti.task_id, state, "is ended" if over else "goes on")
    return over
