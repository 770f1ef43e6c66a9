"""``ClusterPool``: clusters that runs share, and the rules by which a step gets one.

A pool has numbered *slots*, as many as it may have clusters. Whatever is made for a slot carries the slot's
lineage in its name, so that a cluster whose maker died is found again and counts, and two that were made for one
slot are one too many for everybody to see. A *seat* is a step's place in a slot. Slots and seats stand in the
pool's register, which ``hooks/cluster_pool.py`` keeps in S3; the rules over it are here, and touch nothing.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import Field, field_validator, model_validator

from airflow_emr_etl.models.base import Model, S3Address
from airflow_emr_etl.models.cluster import ClusterSpec
from airflow_emr_etl.models.fingerprint import Fingerprint
from airflow_emr_etl.models.intent import ClusterMark, Scope
from airflow_emr_etl.models.s3 import as_folder
from airflow_emr_etl.models.states import CLUSTER_READY, ClusterState
from airflow_emr_etl.models.step import MAX_ACTIVE_STEPS, Step, documents
from airflow_emr_etl.models.template import is_template

if TYPE_CHECKING:
    from airflow_emr_etl.operators.emr_step import EmrSparkOperator, EmrStepOperator
    from airflow_emr_etl.operators.quality_gate import EmrQualityGateOperator

MAX_SLOTS: Final = 100
#: A cluster that was about to be made may appear this long after; until then it counts.
CREATION_GRACE: Final = timedelta(minutes=5)
#: A seat whose step is not to be seen counts for this long: between taking it and adding the step.
SEAT_GRACE: Final = timedelta(minutes=10)
#: A seat that was left, or lost, is remembered for this long: a retry may ask where its step was.
SEAT_MEMORY: Final = timedelta(days=7)
#: A cluster that is being made is waited for, where it will have a place free, for this long.
JOIN_WITHIN: Final = timedelta(seconds=30)
#: After this long without a failure for capacity, EC2 is asked for the spec's first choice again.
RUNG_MEMORY: Final = timedelta(minutes=15)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ClusterPool(Model):
    """Clusters that the steps of many runs share: at most ``max_clusters`` of them, each of them ``spec``.

    ::

        POOL = ClusterPool(name="etl", spec=SPEC, lock="s3://lake/pools/", max_clusters=3, artifacts="s3://lake/code/")

        with DAG(…):
            normalized = POOL.spark("normalize", job="clickstream_normalize", args={…}, output="s3://lake/n/")
            sessions = POOL.spark("sessionize", job="clickstream_sessionize", args={…}, output="s3://lake/s/")
            normalized >> sessions

    No task brings a cluster up or takes it down: a step takes the cluster that is there, or makes one, and EMR
    ends it after ``spec.idle_timeout`` without work. All DAGs, and all Airflows, that name the same pool at the
    same lock share it.
    """

    name: str
    """Letters, digits, ``.``, ``_`` and ``-``; at most 100."""
    spec: ClusterSpec
    """What a step needs. A cluster of the pool that is as good or better serves it too."""
    lock: S3Address
    """``s3://bucket/prefix/``: the pool's lock and register are kept there."""
    max_clusters: int = Field(default=3, ge=1, le=MAX_SLOTS)
    """Clusters that may be up or coming up at one time."""
    max_active_steps: int = Field(default=MAX_ACTIVE_STEPS, ge=1, le=MAX_ACTIVE_STEPS)
    """Steps that wait or run on one cluster; further ones wait in the triggerer."""
    artifacts: S3Address | None = None
    """``s3://…`` folder that ``spark`` and ``quality_gate`` upload code and suites to."""

    @field_validator("name")
    @classmethod
    def _part_of_a_key(cls, value: str) -> str:
        if not is_template(value) and not _NAME.fullmatch(value):
            raise ValueError(
                f"{value!r} cannot name a pool; use at most 100 letters, digits, '.', '_' and '-', "
                "beginning with a letter or digit"
            )
        return value

    @model_validator(mode="after")
    def _can_be_shared(self) -> Self:
        if not self.spec.keep_alive:
            raise ValueError(
                "the spec of a pool has keep_alive=False; a shared cluster waits for steps, drop it"
            )
        if self.spec.termination_protection:
            raise ValueError(
                "the spec of a pool has termination_protection=True, which keeps EMR from ending idle "
                "clusters; drop it"
            )
        return self

    @property
    def folder(self) -> str:
        """The folder of the pool's own below ``lock``."""
        return f"{as_folder(self.lock)}{self.name}/"

    def lineage(self, slot: int) -> str:
        """The lineage of whatever is made for a slot. Not the site's own: Airflows may share a pool."""
        return Scope("pool", self.folder.partition("://")[2], f"slot-{slot}").lineage

    def slots(self) -> Mapping[str, int]:
        """The slot of each lineage; beyond ``max_clusters`` too, which may have been higher yesterday."""
        return {self.lineage(number): number for number in range(1, MAX_SLOTS + 1)}

    def spark(self, task_id: str, **kwargs: Any) -> EmrSparkOperator:
        """A task that runs a Spark step on the pool; see ``EmrSparkOperator`` for the arguments."""
        from airflow_emr_etl.operators.emr_step import EmrSparkOperator

        return EmrSparkOperator(task_id=task_id, **self._arguments(kwargs, artifacts=self.artifacts))

    def step(self, task_id: str, step: Step | Mapping[str, Any], **kwargs: Any) -> EmrStepOperator:
        """A task that runs any step on the pool: a ``CommandStep``, or a ``SparkStep`` spelled out."""
        from airflow_emr_etl.operators.emr_step import EmrStepOperator

        return EmrStepOperator(task_id=task_id, step=step, **self._arguments(kwargs))

    def spark_each(self, task_id: str, *, args_each: Any, **kwargs: Any) -> Any:
        """A mapped task that runs a Spark step for each of ``args_each``, a list or the output of a task."""
        from airflow_emr_etl.operators.emr_step import EmrSparkOperator

        common = self._arguments(kwargs, artifacts=self.artifacts)
        return EmrSparkOperator.partial(task_id=task_id, **common).expand(args=args_each)

    def step_each(self, task_id: str, *, steps: Any, **kwargs: Any) -> Any:
        """A mapped task that runs each of ``steps``, a list of steps or the output of a task that tells them."""
        from airflow_emr_etl.operators.emr_step import EmrStepOperator

        mapped = EmrStepOperator.partial(task_id=task_id, **self._arguments(kwargs))
        return mapped.expand(step=documents(steps))

    def quality_gate(self, task_id: str, **kwargs: Any) -> EmrQualityGateOperator:
        """A task that checks data on the pool; see ``EmrQualityGateOperator`` for the arguments."""
        from airflow_emr_etl.operators.quality_gate import EmrQualityGateOperator

        return EmrQualityGateOperator(task_id=task_id, **self._arguments(kwargs, artifacts=self.artifacts))

    def _arguments(self, given: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
        return {"cluster_pool": self.document(), **defaults, **given}


class SlotState(enum.StrEnum):
    """What a slot holds."""

    FREE = "FREE"
    CREATING = "CREATING"
    """Somebody is about to ask for a cluster, or has asked, or died on the way: it counts as one."""
    TAKEN = "TAKEN"


class Slot(Model):
    """One of the clusters that the pool may have."""

    number: int
    state: SlotState = SlotState.FREE
    generation: int = 0
    """Counts the clusters that were made for the slot."""
    cluster_id: str | None = None
    since: datetime | None = None
    """When it came into this state."""
    maker: str | None = None
    """The key that the cluster is made for, while it is made."""
    rung: int = 0
    """The rung of the spec's ladder that EC2 was asked for."""
    fingerprint: Fingerprint | None = None
    """None for a cluster that the register did not know: nobody can tell what is on it."""


class SeatRecord(Model):
    """A step's place."""

    cluster_id: str
    since: datetime
    left: bool = False
    lost: int = 0
    """Clusters that ended under it, one after the other, since it was taken."""
    earlier: tuple[str, ...] = ()
    """Clusters that the step had its place on before; it may have run there."""


class Register(Model):
    """Everything that the pool must remember between two looks."""

    slots: tuple[Slot, ...] = ()
    seats: Mapping[str, SeatRecord] = {}
    rung: int = 0
    """Where the capacity ladder stands for the next cluster."""
    rung_since: datetime | None = None

    def slot(self, number: int) -> Slot:
        """The slot of this number; a free one where none is on record."""
        return next((each for each in self.slots if each.number == number), Slot(number=number))

    def with_slot(self, slot: Slot) -> Register:
        """This register with ``slot`` in place of the one of its number."""
        others = [each for each in self.slots if each.number != slot.number]
        return self.model_copy(update={"slots": tuple(sorted([*others, slot], key=lambda each: each.number))})

    def with_seat(self, key: str, seat: SeatRecord) -> Register:
        """This register with the seat of ``key``."""
        return self.model_copy(update={"seats": {**self.seats, key: seat}})

    @property
    def clusters(self) -> int:
        """Slots that count against the maximum."""
        return sum(each.state is not SlotState.FREE for each in self.slots)


@dataclass(frozen=True)
class LiveCluster:
    """A cluster of the pool that is up or coming up, as EMR shows it."""

    id: str
    slot: int
    mark: ClusterMark
    state: ClusterState
    created: datetime
    active: frozenset[str] = frozenset()
    """Lineages of the steps that wait or run on it."""
    strangers: int = 0
    """Steps that wait or run on it and that nobody took a seat for."""
    ready: datetime | None = None
    """None while it comes up."""


@dataclass(frozen=True)
class Sit:
    """Use this cluster."""

    cluster_id: str


@dataclass(frozen=True)
class Create:
    """Make a cluster for this slot, which is on record as CREATING."""

    slot: Slot
    again: bool = False
    """An earlier try may have made it."""


@dataclass(frozen=True)
class End:
    """End this cluster: nothing is on it, nobody can use it, and there is no other room."""

    cluster_id: str
    reason: str


@dataclass(frozen=True)
class Wait:
    """Look again later."""

    reason: str
    full: tuple[str, ...] = ()
    """Clusters that would serve, and have as many steps as they may: there is room when one of those ends."""


@dataclass(frozen=True)
class Exhausted:
    """EC2 had no capacity for anything that the spec allows."""

    reason: str


Decision = Sit | Create | End | Wait | Exhausted


def reconcile(
    register: Register,
    live: Sequence[LiveCluster],
    wanted: Fingerprint,
    now: datetime,
    *,
    without_capacity: Collection[str] = (),
) -> tuple[Register, tuple[str, ...]]:
    """The register after what EMR shows, and the clusters that are one too many for their slot.

    ``without_capacity`` are clusters of the register that ended because EC2 had no machines for them. A
    cluster that the register does not know but whose name carries a slot's mark is taken in; what it is made
    of is known only where its mark says the same as ``wanted``.
    """
    strays: list[str] = []
    numbers = sorted({each.number for each in register.slots} | {each.slot for each in live})
    for number in numbers:
        slot = register.slot(number)
        here = sorted(
            (each for each in live if each.slot == number), key=lambda each: (each.created, each.id)
        )
        kept = _cluster_of(slot, here)
        strays += [each.id for each in here if each is not kept]
        if slot.cluster_id in without_capacity:
            register = register.model_copy(
                update={"rung": max(register.rung, slot.rung + 1), "rung_since": now}
            )
        register = register.with_slot(_slot_after(slot, kept, wanted, now))
    if register.rung_since is not None and now - register.rung_since > RUNG_MEMORY:
        register = register.model_copy(update={"rung": 0, "rung_since": None})
    seats = {
        key: seat
        for key, seat in register.seats.items()
        if now - seat.since <= SEAT_MEMORY or any(key in each.active for each in live)
    }
    return register.model_copy(update={"seats": seats}), tuple(strays)


def _cluster_of(slot: Slot, here: Sequence[LiveCluster]) -> LiveCluster | None:
    """Which of the clusters that were made for a slot is the slot's."""
    if slot.cluster_id is not None:
        for each in here:
            if each.id == slot.cluster_id:
                return each
    if slot.state is SlotState.CREATING:
        # One of another generation is from a maker that came back after its slot was given away.
        return next((each for each in here if each.mark.generation == slot.generation), None)
    return here[0] if here else None


def _slot_after(slot: Slot, kept: LiveCluster | None, wanted: Fingerprint, now: datetime) -> Slot:
    if kept is None:
        waiting = slot.state is SlotState.CREATING and now - (slot.since or now) <= CREATION_GRACE
        return slot if waiting else Slot(number=slot.number, generation=slot.generation)
    if kept.id == slot.cluster_id:
        return slot
    known = slot.fingerprint if slot.state is SlotState.CREATING else None
    if known is None and kept.mark.spec == wanted.digest:
        known = wanted
    return Slot(
        number=slot.number,
        state=SlotState.TAKEN,
        generation=max(slot.generation, kept.mark.generation),
        cluster_id=kept.id,
        since=now,
        rung=slot.rung,
        fingerprint=known,
    )


def decide(
    register: Register,
    live: Sequence[LiveCluster],
    key: str,
    wanted: Fingerprint,
    now: datetime,
    *,
    max_clusters: int,
    max_active_steps: int = MAX_ACTIVE_STEPS,
    rungs: int,
) -> Decision:
    """What a step gets, of a register that ``reconcile`` has brought up to date.

    In this order: the cluster that it has a seat on; one that is up with a place free; one that comes up with a
    place free; a new one; the least loaded, where EMR lets the step wait; the place of an idle cluster that
    nobody can use any more; nothing yet.
    """
    clusters = {each.id: each for each in live}
    seat = register.seats.get(key)
    own = clusters.get(seat.cluster_id) if seat else None
    fitting, misfits = _sorted_by_fit(register, live, wanted)
    if seat and own and (key in own.active or (not seat.left and own in fitting)):
        return Sit(own.id)
    mine = next((each for each in register.slots if _is_made_for(each, key)), None)
    if mine is not None and mine.fingerprint == wanted:
        return Create(mine, again=True)
    if mine is not None:
        return Create(_begun(mine, key, wanted, now, register.rung), again=True)

    loads = {each.id: load(register, each, now) for each in live}
    concurrency = wanted.step_concurrency
    free = [each for each in fitting if loads[each.id] < concurrency]
    if free:
        # The lowest slot first, so that the others fall idle and end.
        return Sit(min(free, key=lambda each: (each.state not in CLUSTER_READY, each.slot)).id)
    coming = [each for each in register.slots if each.state is SlotState.CREATING]
    if concurrency > 1 and any(_may_be_joined(each, wanted, now) for each in coming):
        return Wait("a cluster is being made that more than one step fits on")
    exhausted = register.rung >= rungs
    if register.clusters < max_clusters and not exhausted:
        number = next(
            number for number in range(1, MAX_SLOTS + 1) if register.slot(number).state is SlotState.FREE
        )
        return Create(_begun(register.slot(number), key, wanted, now, register.rung))
    if fitting:
        least = min(fitting, key=lambda each: (loads[each.id], each.slot))
        if loads[least.id] < max_active_steps:
            return Sit(least.id)
        return Wait(
            f"each of its clusters has {max_active_steps} steps, and may have no more",
            tuple(each.id for each in fitting),
        )
    if coming:
        return Wait("a cluster is being made")
    idle = [each for each in misfits if each.state is ClusterState.WAITING and not loads[each.id]]
    if idle and not exhausted:
        return End(idle[0].id, _why_not(register, idle[0], wanted))
    if exhausted:
        return Exhausted(f"all {rungs} ways that the spec leaves were tried")
    told = "; ".join(f"{each.id}: {_why_not(register, each, wanted)}" for each in misfits)
    return Wait(f"its clusters are busy and do not fit: {told}")


def load(register: Register, cluster: LiveCluster, now: datetime) -> int:
    """Places taken on a cluster: steps that wait or run there, and seats whose step is not there yet.

    A step may wait to be added until its cluster is up, however long that takes.
    """
    seated = {
        key
        for key, seat in register.seats.items()
        if seat.cluster_id == cluster.id and not seat.left and now - _usable(seat, cluster, now) <= SEAT_GRACE
    }
    return len(seated | cluster.active) + cluster.strangers


def _usable(seat: SeatRecord, cluster: LiveCluster, now: datetime) -> datetime:
    return max(seat.since, now if cluster.ready is None else cluster.ready)


def seat_after(register: Register, key: str, cluster_id: str, now: datetime) -> Register:
    """The register with ``key`` on a cluster; where it was before is kept."""
    before = register.seats.get(key)
    earlier: Iterable[str] = ()
    lost = 0
    if before is not None:
        earlier = [each for each in (*before.earlier, before.cluster_id) if each != cluster_id]
        lost = 0 if before.left else before.lost + (before.cluster_id != cluster_id)
    seat = SeatRecord(cluster_id=cluster_id, since=now, lost=lost, earlier=tuple(dict.fromkeys(earlier)))
    return register.with_seat(key, seat)


def seat_left(register: Register, key: str) -> Register:
    """The register with the place of ``key`` free; where it was is kept for a retry that asks."""
    seat = register.seats.get(key)
    if seat is None or seat.left:
        return register
    return register.with_seat(key, seat.model_copy(update={"left": True}))


def _sorted_by_fit(
    register: Register, live: Sequence[LiveCluster], wanted: Fingerprint
) -> tuple[list[LiveCluster], list[LiveCluster]]:
    fitting: list[LiveCluster] = []
    misfits: list[LiveCluster] = []
    for each in sorted(live, key=lambda each: each.slot):
        slot = register.slot(each.slot)
        if slot.cluster_id != each.id:
            continue  # one too many for its slot, which is ended
        (misfits if _why_not(register, each, wanted) else fitting).append(each)
    return fitting, misfits


def _why_not(register: Register, cluster: LiveCluster, wanted: Fingerprint) -> str:
    known = register.slot(cluster.slot).fingerprint
    if known is None:
        return "it is not known what it is made of"
    return ", ".join(known.why_not(wanted))


def _begun(slot: Slot, key: str, wanted: Fingerprint, now: datetime, rung: int) -> Slot:
    """The slot while a cluster is made for it."""
    return Slot(
        number=slot.number,
        state=SlotState.CREATING,
        generation=slot.generation + 1,
        since=now,
        maker=key,
        rung=rung,
        fingerprint=wanted,
    )


def _may_be_joined(slot: Slot, wanted: Fingerprint, now: datetime) -> bool:
    if slot.fingerprint is None or slot.since is None or now - slot.since > JOIN_WITHIN:
        return False
    return slot.fingerprint.covers(wanted)


def _is_made_for(slot: Slot, key: str) -> bool:
    return slot.state is SlotState.CREATING and slot.maker == key
