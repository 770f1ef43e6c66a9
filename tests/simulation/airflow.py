"""What Airflow does with a DAG: its scheduler, a worker process for each try, and the triggerer."""

from __future__ import annotations

import asyncio
import enum
import functools
import importlib
import json
import random
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from airflow.sdk import DAG, BaseOperator
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTerminated,
    TaskDeferred,
)
from airflow.triggers.base import TriggerEvent

from .world import Fiber, Handle, KilledError, Process, VirtualLoop, World


class State(enum.StrEnum):
    """Of a task instance; the names are Airflow's."""

    NONE = "none"
    QUEUED = "queued"
    RUNNING = "running"
    DEFERRED = "deferred"
    UP_FOR_RETRY = "up_for_retry"
    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"
    UPSTREAM_FAILED = "upstream_failed"


ENDED = frozenset({State.SUCCESS, State.FAILED, State.SKIPPED, State.UPSTREAM_FAILED})


@dataclass
class Deferral:
    """A deferred task as Airflow's database has it."""

    classpath: str
    fields: str
    method: str
    kwargs: dict[str, Any]
    timeout: Handle | None = None


@dataclass
class Instance:
    """A task instance as Airflow's database has it."""

    task: BaseOperator
    max_tries: int
    state: State = State.NONE
    try_number: int = 0
    process: Process | None = None
    deferral: Deferral | None = None
    resume: tuple[str, dict[str, Any]] | None = None
    xcoms: dict[str, str] = field(default_factory=dict)
    """By key, as JSON."""
    error: str = ""

    @property
    def task_id(self) -> str:
        return str(self.task.task_id)


class TaskHandle:
    """The ``ti`` of a context: what one process knows of its task instance, and its way to Airflow."""

    def __init__(self, airflow: Airflow, instance: Instance, process: Process) -> None:
        self._airflow = airflow
        self._instance = instance
        self._process = process
        self.id = f"{airflow.run_id}/{instance.task_id}"
        self.dag_id, self.run_id = airflow.dag.dag_id, airflow.run_id
        self.task_id, self.map_index = instance.task_id, -1
        self.try_number, self.max_tries = instance.try_number, instance.max_tries
        self.is_mapped = False
        self.hostname = "worker"
        self.start_date = airflow.world.now
        self.task: Any = None

    def xcom_push(self, key: str, value: Any) -> None:
        self._reach()
        self._instance.xcoms[key] = json.dumps(value)

    def xcom_pull(
        self,
        task_ids: str | None = None,
        dag_id: str | None = None,
        key: str = "return_value",
        include_prior_dates: bool = False,
        *,
        map_indexes: Any = None,
        default: Any = None,
        run_id: str | None = None,
    ) -> Any:
        self._reach()
        assert task_ids is None or isinstance(task_ids, str), task_ids
        found = self._airflow.instances[task_ids or self.task_id].xcoms.get(key)
        return default if found is None else json.loads(found)

    def _reach(self) -> None:
        self._process.check()
        if self._process.detached:
            # Everything that a task says to Airflow goes through its supervisor.
            raise BrokenPipeError("the supervisor is gone")


class Airflow:
    """One run of one DAG. Times between things that happen are drawn from the world's seed."""

    def __init__(self, world: World, dag: DAG, *, seed: int) -> None:
        self.world = world
        self.dag = dag
        self.run_id = "scheduled__2026-01-05T00:00:00+00:00"
        self._random = random.Random(seed)
        self._jinja = dag.get_template_env()
        self.instances = {
            task.task_id: Instance(task, int(task.retries or 0)) for task in dag.topological_sort()
        }
        self.dag_run = SimpleNamespace(
            dag_id=dag.dag_id,
            run_id=self.run_id,
            start_date=world.now,
            logical_date=world.now,
            run_after=world.now,
            data_interval_start=world.now,
            data_interval_end=world.now,
            end_date=None,
            conf={},
            clear_number=0,
            run_type="scheduled",
            state="running",
            partition_key=None,
        )
        self._triggerer: Triggerer | None = None
        self._triggerers = 0
        self._processes: list[Process] = []

    # The scheduler

    def begin(self) -> None:
        self._triggerer = self._new_triggerer()
        self._schedule()

    @property
    def over(self) -> bool:
        """Whether every task has an end state."""
        return all(each.state in ENDED for each in self.instances.values())

    def processes(self) -> list[Process]:
        """Every one that there has been."""
        return list(self._processes)

    def states(self) -> dict[str, State]:
        return {name: each.state for name, each in self.instances.items()}

    def _schedule(self) -> None:
        for instance in self.instances.values():
            if instance.state is State.NONE:
                self._consider(instance)

    def _consider(self, instance: Instance) -> None:
        task = instance.task
        upstream = {name: self.instances[name].state for name in task.upstream_task_ids}
        done = all(state in ENDED for state in upstream.values())
        match getattr(task.trigger_rule, "value", task.trigger_rule):
            case "all_success":
                if any(state in (State.FAILED, State.UPSTREAM_FAILED) for state in upstream.values()):
                    self._set(instance, State.UPSTREAM_FAILED)
                elif all(state is State.SUCCESS for state in upstream.values()):
                    self._queue(instance)
            case "all_done_setup_success":
                setups = [upstream[name] for name in upstream if self.instances[name].task.is_setup]
                if done and setups and State.SUCCESS not in setups:
                    self._set(instance, State.UPSTREAM_FAILED)
                elif done:
                    self._queue(instance)
            case rule:
                raise NotImplementedError(rule)

    def _set(self, instance: Instance, state: State) -> None:
        self.world.tell("airflow", f"{instance.task_id}: {state}")
        instance.state = state
        if state in ENDED:
            self._schedule()

    def _queue(self, instance: Instance) -> None:
        instance.state = State.QUEUED
        self.world.call_later(self._random.uniform(0.5, 4.0), lambda: self._start(instance))

    # Workers

    def _start(self, instance: Instance) -> None:
        if instance.state is not State.QUEUED:
            return
        resume, instance.resume = instance.resume, None
        if resume is None:
            instance.try_number += 1
            instance.xcoms.clear()
        process = Process(f"{instance.task_id}#{instance.try_number}" + ("*" if resume else ""))
        self._processes.append(process)
        instance.process = process
        instance.state = State.RUNNING
        self.world.tell("airflow", f"{process.name} {'resumes' if resume else 'starts'}")
        self.world.spawn(process, lambda: self._work(instance, process, resume))

    def _work(self, instance: Instance, process: Process, resume: tuple[str, dict[str, Any]] | None) -> None:
        handle = TaskHandle(self, instance, process)
        task = instance.task.prepare_for_execution()
        handle.task = task
        context: Any = self._context(handle, task)
        ExecutorSafeguard.tracker.set(task)
        try:
            task.render_template_fields(context, self._jinja)
            result = task.resume_execution(*resume, context) if resume else task.execute(context)
            if result is not None and task.do_xcom_push:
                handle.xcom_push("return_value", result)
        except KilledError:
            raise
        except TaskDeferred as deferred:
            self._report(instance, process, functools.partial(self._defer, instance, deferred))
        except AirflowSkipException:
            self._report(instance, process, lambda: self._set(instance, State.SKIPPED))
        except Exception as error:
            final = isinstance(error, AirflowFailException | AirflowTaskTerminated)
            self._report(instance, process, functools.partial(self._fail, instance, error, retry=not final))
        else:
            self._report(instance, process, lambda: self._set(instance, State.SUCCESS))

    def _report(self, instance: Instance, process: Process, what: Any) -> None:
        """What a process tells of its end counts as long as Airflow thinks that it runs the task."""
        process.check()
        if process.detached or instance.process is not process:
            self.world.tell(process.name, "ends, and nobody hears of it")
            return
        instance.process = None
        self.world.call_later(0, what)

    def _context(self, handle: TaskHandle, task: BaseOperator) -> dict[str, Any]:
        return {
            "ti": handle,
            "task_instance": handle,
            "task": task,
            "dag": self.dag,
            "dag_run": self.dag_run,
            "run_id": self.run_id,
            "logical_date": self.dag_run.logical_date,
            "ds": "2026-01-05",
            "ts": self.dag_run.logical_date.isoformat(),
            "params": {},
            "map_index_template": None,
        }

    def _fail(self, instance: Instance, error: BaseException | str, *, retry: bool) -> None:
        instance.error = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self.world.tell("airflow", f"{instance.task_id} failed: {instance.error.splitlines()[0][:200]}")
        if not retry or instance.try_number > instance.max_tries:
            self._set(instance, State.FAILED)
            return
        self._set(instance, State.UP_FOR_RETRY)
        delay: timedelta = instance.task.retry_delay
        self.world.call_later(delay.total_seconds(), lambda: self._queue(instance))

    def lost(self, process: Process) -> None:
        """A worker's process, or its supervisor, has died: its heartbeats stay out."""
        if self._triggerer is not None and process is self._triggerer.process:
            self.world.call_later(self._random.uniform(30, 60), self._replace_triggerer)
            return
        owner = next((each for each in self.instances.values() if each.process is process), None)
        if owner is not None:
            self.world.call_later(self._random.uniform(1, 300), lambda: self._no_heartbeat(owner, process))

    def detach(self, process: Process) -> None:
        """The supervisor of a worker dies by SIGKILL: the task's own process runs on."""
        if (self._triggerer is not None and process is self._triggerer.process) or process.detached:
            return
        self.world.tell(process.name, "its supervisor dies, it runs on")
        process.detached = True
        self.lost(process)

    def _no_heartbeat(self, instance: Instance, process: Process) -> None:
        if instance.process is process and instance.state is State.RUNNING:
            instance.process = None
            self._fail(instance, "no heartbeat", retry=True)

    # Deferral

    def _defer(self, instance: Instance, deferred: TaskDeferred) -> None:
        classpath, fields = deferred.trigger.serialize()
        deferral = Deferral(classpath, json.dumps(fields), deferred.method_name, deferred.kwargs or {})
        instance.deferral = deferral
        self._set(instance, State.DEFERRED)
        if deferred.timeout is not None:
            deferral.timeout = self.world.call_later(
                deferred.timeout.total_seconds(), lambda: self._trigger_timeout(instance, deferral)
            )
        assert self._triggerer is not None
        triggerer = self._triggerer
        self.world.call_later(self._random.uniform(0.2, 2.0), lambda: triggerer.watch(instance, deferral))

    def _trigger_timeout(self, instance: Instance, deferral: Deferral) -> None:
        if instance.deferral is deferral:
            self.world.tell("airflow", f"the trigger of {instance.task_id} has no time left")
            self._resume(instance, deferral, "__fail__", {"error": "Trigger timeout"})

    def fired(self, instance: Instance, deferral: Deferral, event: TriggerEvent) -> None:
        kwargs = {**deferral.kwargs, "event": json.loads(json.dumps(event.payload))}
        self._resume(instance, deferral, deferral.method, kwargs)

    def broke(self, instance: Instance, deferral: Deferral, error: Exception) -> None:
        self.world.tell("triggerer", f"the trigger of {instance.task_id} raised {error!r}")
        self._resume(instance, deferral, "__fail__", {"error": "Trigger failure", "traceback": [repr(error)]})

    def _resume(self, instance: Instance, deferral: Deferral, method: str, kwargs: dict[str, Any]) -> None:
        if instance.deferral is not deferral:
            return
        if deferral.timeout is not None:
            deferral.timeout.cancel()
        instance.deferral = None
        instance.resume = (method, kwargs)
        if self._triggerer is not None:
            self._triggerer.forget(deferral)
        self._queue(instance)

    def _new_triggerer(self) -> Triggerer:
        self._triggerers += 1
        triggerer = Triggerer(self, f"triggerer{self._triggerers}")
        self._processes.append(triggerer.process)
        return triggerer

    def _replace_triggerer(self) -> None:
        self._triggerer = self._new_triggerer()
        self.world.tell("airflow", f"{self._triggerer.process.name} takes over")
        for instance in self.instances.values():
            if instance.deferral is not None:
                self._triggerer.watch(instance, instance.deferral)


class Triggerer:
    """One process with one event loop for all triggers."""

    def __init__(self, airflow: Airflow, name: str) -> None:
        self._airflow = airflow
        self.process = Process(name)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._loop = VirtualLoop(airflow.world, lambda: self._fiber)
        self._fiber: Fiber = airflow.world.spawn(self.process, self._main)

    def watch(self, instance: Instance, deferral: Deferral) -> None:
        """Make the trigger again from what was kept of it, and run it."""
        if not self.process.alive:
            return  # whoever takes over finds it
        if instance.deferral is not deferral or id(deferral) in self._tasks:
            return

        def begin() -> None:
            self._tasks[id(deferral)] = self._loop.create_task(self._run(instance, deferral))

        self._loop.call_soon_threadsafe(begin)

    def forget(self, deferral: Deferral) -> None:
        task = self._tasks.pop(id(deferral), None)
        if task is not None and self.process.alive:
            self._loop.call_soon_threadsafe(task.cancel)

    async def _run(self, instance: Instance, deferral: Deferral) -> None:
        airflow = self._airflow
        try:
            module, _, name = deferral.classpath.rpartition(".")
            trigger = getattr(importlib.import_module(module), name)(**json.loads(deferral.fields))
            async for event in trigger.run():
                airflow.world.call_later(0.3, functools.partial(airflow.fired, instance, deferral, event))
                return
            raise RuntimeError("the trigger ended without an event")
        except Exception as error:
            failure = error
            airflow.world.call_later(0.3, lambda: airflow.broke(instance, deferral, failure))

    def _main(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self._loop):
                task._log_destroy_pending = False  # they died with their process, as they should
            self._loop.close()
