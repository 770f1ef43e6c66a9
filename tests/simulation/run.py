"""One simulated DAG run, from its start until nothing of it moves any more."""

from __future__ import annotations

import contextlib
import gc
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from airflow.sdk import DAG

from airflow_emr_etl.local.emr.records import Job
from airflow_emr_etl.local.faults import FaultInjector, FaultRule
from airflow_emr_etl.models.states import STEP_ACTIVE

from .airflow import Airflow, State
from .backend import Effect, VirtualEmr, pace_of, task_of
from .contenders import Contender, Plan
from .network import ApiCall, Blows, Network
from .patches import patched
from .world import World

#: Virtual time after which a run that has not ended never will.
LONGEST_SECONDS = 14 * 24 * 3600.0


@dataclass
class Trouble:
    """Everything that goes wrong in one run."""

    rules: Sequence[FaultRule] = ()
    blows: Callable[[], Blows] = Blows
    lag_seconds: float = 0.0
    """How long a new cluster or step is not listed."""
    losses: Sequence[float] = ()
    """Seconds after the start at which a live cluster with a running step is lost."""
    no_capacity: int = 0
    """So many clusters do not come up."""
    races: bool = False
    """Whether two clusters may be live for the moment that it takes to see that there are two."""
    curable: bool = True
    """Whether every fault passes by itself."""


@dataclass
class Outcome:
    """What is left of a run."""

    states: dict[str, State]
    errors: dict[str, str]
    effects: list[Effect]
    most_live: int
    most_at_work: int
    """Most live clusters with active steps at once."""
    beside_seconds: float
    """Longest time with more than one live cluster."""
    orphans: list[str]
    calls: list[ApiCall]
    story: list[str]
    minutes: float
    ended: bool
    clusters: int
    lost: int = 0


def simulate(contender: Contender, plan: Plan, trouble: Trouble | None = None, *, seed: int = 0) -> Outcome:
    """Run the plan's DAG by these operators under this trouble; the same seed gives the same run."""
    return simulate_dag(contender.build(plan), plan, trouble, seed=seed)


def simulate_dag(dag: DAG, plan: Plan, trouble: Trouble | None = None, *, seed: int = 0) -> Outcome:
    """As ``simulate``, of a DAG that is built already; nothing of it is changed."""
    trouble = trouble or Trouble()
    world = World(seed)

    def step_seconds(job: Job) -> float:
        task = task_of(job.args)
        given = plan.step_minutes.get(task)
        if given is not None:
            return given * 60
        return 60 * random.Random(zlib.crc32(f"{seed}/{task}".encode())).uniform(1, 30)

    emr = VirtualEmr(world, seed, pace=pace_of(plan.cluster_minutes), step_seconds=step_seconds)
    emr.start()
    emr.faults.listing_lag(trouble.lag_seconds)
    if trouble.no_capacity:
        emr.faults.capacity(times=trouble.no_capacity)
    injector = FaultInjector()
    for rule in trouble.rules:
        injector.add(rule)
    network = Network(world, emr, injector, trouble.blows(), seed=seed)
    airflow = Airflow(world, dag, seed=seed)
    network.on_kill = airflow.lost
    network.on_detach = airflow.detach
    watch = _Watch(world, emr)
    world.watchers.append(watch)
    losses = _Losses(world, emr, trouble.losses)
    with _no_collection(), patched(world, network, seed=seed, first_poll=plan.first_poll_seconds):
        airflow.begin()
        ended = world.run(lambda: airflow.over or emr.broken is not None, seconds=LONGEST_SECONDS)
        # What was told to EMR in the last moment has an effect a little later, and so have orphaned processes.
        world.run(lambda: False, seconds=300)
        minutes = world.seconds / 60
        orphans = [each.id for each in emr.live()]
        world.tell("end", f"live: {orphans}")
        for process in airflow.processes():
            process.alive = False
            for fiber in list(process.fibers):
                fiber.kill()
    world.end()
    emr.stop()
    if emr.broken is not None:
        raise emr.broken
    return Outcome(
        states=airflow.states(),
        errors={name: each.error for name, each in airflow.instances.items() if each.error},
        effects=emr.runner.effects,
        most_live=watch.most_live,
        most_at_work=watch.most_at_work,
        beside_seconds=watch.beside_seconds,
        orphans=orphans,
        calls=network.calls,
        story=world.story,
        minutes=minutes,
        ended=ended,
        clusters=len(emr.clusters()),
        lost=losses.count,
    )


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """A fifth of the time goes into garbage collection otherwise."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Watch:
    """Looks at EMR after everything that happens."""

    def __init__(self, world: World, emr: VirtualEmr) -> None:
        self._world = world
        self._emr = emr
        self._beside_since: float | None = None
        self.beside_seconds = 0.0
        self.most_live = 0
        self.most_at_work = 0

    def __call__(self) -> None:
        live = self._emr.live()
        self.most_live = max(self.most_live, len(live))
        if len(live) < 2:
            self._beside_since = None
        else:
            if self._beside_since is None:
                self._beside_since = self._world.seconds
            self.beside_seconds = max(self.beside_seconds, self._world.seconds - self._beside_since)
        if len(live) > 1:
            at_work = sum(any(step.state in STEP_ACTIVE for step in each.steps) for each in live)
            self.most_at_work = max(self.most_at_work, at_work)
        elif live:
            self.most_at_work = max(self.most_at_work, 1)


class _Losses:
    """Takes a cluster away in the middle of a step, or, where none runs just then, when the next one does."""

    def __init__(self, world: World, emr: VirtualEmr, moments: Sequence[float]) -> None:
        self._world = world
        self._emr = emr
        self.count = 0
        for moment in moments:
            world.call_later(moment, self._try)

    def _try(self) -> None:
        victim = next(
            (each for each in self._emr.live() if any(s.started and not s.ended for s in each.steps)), None
        )
        if victim is None:
            if self._world.seconds < LONGEST_SECONDS / 10:
                self._world.call_later(61.0, self._try)
            return
        self.count += 1
        self._emr.lose(victim.id)
