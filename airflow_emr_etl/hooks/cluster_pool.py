"""Gives each step a cluster of its pool, and never lets the pool have more than it may.

Under the pool's lock the register is read, brought up to date with what EMR shows, and written with the decision.
The two things that a crash must not lose come before the deed: a cluster is on record, and counts, before EMR is
asked for it; a seat is on record before the step is added. What a stale holder of the lock still writes is refused:
the next holder has changed the register, with a higher token, before it does anything else.

RunJobFlow is called without the lock, so that nobody waits for it; its slot is on record as being made.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final

from airflow_emr_etl.exceptions import (
    CapacityError,
    ClusterError,
    ClusterFailedError,
    ClusterNotFoundError,
    ConfigurationError,
    EmrEtlError,
    LadderEndedError,
    LeaseLostError,
    PoolError,
    PoolFullError,
    WaitTimeoutError,
)
from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK, Clock
from airflow_emr_etl.hooks.cluster_keeper import ClusterKeeper, FoundCluster
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook, cluster_failure, cluster_state
from airflow_emr_etl.hooks.emr_step import EmrStepHook
from airflow_emr_etl.hooks.s3_document import S3Document, Version
from airflow_emr_etl.hooks.s3_lake import S3LakeHook
from airflow_emr_etl.hooks.s3_lock import LEASE, Lease, S3Lock
from airflow_emr_etl.models.fingerprint import Fingerprint, digest_of_script, scripts_in_s3
from airflow_emr_etl.models.intent import TAG_POOL, TAG_SITE, ClusterMark, StepMark
from airflow_emr_etl.models.plan import MAX_GENERATIONS, ClusterPlan
from airflow_emr_etl.models.pool import (
    CREATION_GRACE,
    ClusterPool,
    Create,
    End,
    Exhausted,
    LiveCluster,
    Register,
    SeatRecord,
    Sit,
    Slot,
    SlotState,
    Wait,
    decide,
    reconcile,
    seat_after,
    seat_left,
)
from airflow_emr_etl.models.states import CLUSTER_LIVE, STEP_ACTIVE, ClusterEndCode

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 15.0
#: How long a maker tries to put the cluster on record that it has made.
_RECORDING: Final = timedelta(minutes=2)
#: Changes of the register that nobody under the lock has made: somebody's hand, or a holder that overslept.
_MOST_CLAIMS: Final = 5


@dataclass(frozen=True)
class Seat:
    """A step's cluster."""

    cluster_id: str
    created: bool
    """Made for this step just now."""
    earlier: tuple[str, ...] = ()
    """Clusters that the step had a seat on before, which may have ended: it may have completed there."""


class PoolKeeper:
    """Takes and leaves seats of a pool."""

    def __init__(
        self,
        pool: ClusterPool,
        emr: EmrClients,
        lake: S3LakeHook,
        clock: Clock = SYSTEM_CLOCK,
        site: str = "",
        *,
        lease: timedelta = LEASE,
    ) -> None:
        """``pool`` is rendered. ``site`` names the Airflow, for the tags of clusters that are made here."""
        self.pool = pool
        self._slots = pool.slots()
        self._clock = clock
        self._site = site
        self._lake = lake
        self._clusters = EmrClusterHook(clients=emr)
        self._steps = EmrStepHook(clients=emr)
        self._keeper = ClusterKeeper(self._clusters, clock)
        self._lock = S3Lock(lake, f"{pool.folder}lock.json", clock, lease=lease)
        self._document = S3Document(lake, f"{pool.folder}register.json", clock)

    def take(self, key: str, *, timeout: timedelta = timedelta(minutes=2)) -> Seat:
        """A cluster for the step with the lineage ``key``: up, or coming up. It takes steps at once.

        The same key gets the same cluster for as long as it lives. A cluster may end before the step is added:
        then take again. Before the step is added, look for it on the ``earlier`` clusters too. Raises:

            PoolFullError: retryable; no cluster has room for a step, or others held the pool's lock, for
                ``timeout``. Wait without a worker, and take again; where its ``clusters`` are named, divided by
                spaces, they are full, and there is room when a step on one of them ends.
            LadderEndedError: EC2 has no capacity for anything that the spec allows.
            ClusterFailedError: the cluster that this step was given could not come up, and another of the same
                spec could not either: a bootstrap action failed, or EMR refused the request.
            ClusterError: as many clusters as may be were lost one after the other while this step had its seat.
        """
        deadline = self._clock.now() + timeout
        pause = _FIRST_PAUSE_SECONDS
        while True:
            reason = "its lock was lost each time that it was held"
            try:
                decision = self._decide(key, deadline)
                if isinstance(decision, Wait) and decision.full:
                    raise self._full(decision.reason, timeout, decision.full)
                outcome = self._carry_out(key, decision)
            except LeaseLostError as error:
                log.warning("%s", error)
            except WaitTimeoutError as error:
                raise self._full(str(error), timeout) from error
            else:
                if isinstance(outcome, Seat):
                    return outcome
                reason = outcome
            if self._clock.now() + timedelta(seconds=pause) > deadline:
                raise self._full(reason, timeout)
            self._clock.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)

    def leave(self, key: str, *, timeout: timedelta = timedelta(minutes=2)) -> None:
        """Give the place of ``key`` to others: its step has ended. Idempotent; nothing happens without a seat.

        Needed for nothing but that the place is free at once: a seat without a step to be seen on the cluster
        stops counting after some minutes.
        """
        known = self._document.read()
        seat = _register_in(known, self._document.uri).seats.get(key) if known else None
        if seat is None or seat.left:
            return
        deadline = self._clock.now() + timeout
        while True:
            try:
                with self._opened(deadline) as register:
                    register.save(seat_left(register.content, key))
                return
            except LeaseLostError:
                if self._clock.now() >= deadline:
                    raise

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What the pool's spec asks for; reads the bootstrap scripts from S3."""
        scripts = {path: digest_of_script(self._lake.read(path)) for path in scripts_in_s3(self.pool.spec)}
        return Fingerprint.of(self.pool.spec, scripts)

    def _decide(self, key: str, deadline: datetime) -> Seat | Create | End | Exhausted | Wait:
        """The seat, or what must be done to have one; whichever it is, it is on record."""
        wanted = self.fingerprint
        with self._opened(deadline) as register:
            now = self._clock.now()
            content, live = self._look(register.content, now)
            failure = self._why_no_other(content.seats.get(key), live)
            if failure is not None:
                register.save(seat_left(content, key))
                raise failure
            decision = decide(
                content,
                live,
                key,
                wanted,
                now,
                max_clusters=self.pool.max_clusters,
                max_active_steps=self.pool.max_active_steps,
                rungs=len(self._plan(1).requests),
            )
            if isinstance(decision, Create):
                content = content.with_slot(decision.slot)
            elif isinstance(decision, Sit):
                content = seat_after(content, key, decision.cluster_id, now)
            register.save(content)
            if isinstance(decision, Sit):
                return Seat(decision.cluster_id, False, content.seats[key].earlier)
            if isinstance(decision, End):
                # Under the lock, so that nobody takes it in between: a step would have a seat on it first.
                name, ended = self.pool.name, decision.cluster_id
                log.info("Cluster %s of pool %s makes room: %s", ended, name, decision.reason)
                register.check()
                self._clusters.terminate(decision.cluster_id)
            return decision

    def _carry_out(self, key: str, decision: Seat | Create | End | Exhausted | Wait) -> Seat | str:
        """The seat, or why there is none yet."""
        if isinstance(decision, Seat):
            return decision
        if isinstance(decision, Create):
            return self._create(key, decision)
        if isinstance(decision, Exhausted):
            raise LadderEndedError(
                f"EC2 had no machines for pool {self.pool.name}: {decision.reason}. Name more instance types or "
                "subnets in the spec, or more on-demand units.",
                pool=self.pool.name,
            )
        return decision.reason

    def _create(self, key: str, decision: Create) -> Seat | str:
        slot = decision.slot
        plan = self._plan(slot.number)
        try:
            found = self._keeper.ensure(
                plan,
                rung=slot.rung,
                generation=slot.generation,
                again=decision.again,
                until=self._clock.now() + CREATION_GRACE / 2,
            )
        except ConfigurationError:  # EMR refused it, so there is nothing to be found again
            self._give_up(slot)
            raise
        log.info("Pool %s has cluster %s in slot %d", self.pool.name, found.id, slot.number)
        with self._opened(self._clock.now() + _RECORDING) as register:
            now = self._clock.now()
            content, live = self._look(_with_found(register.content, slot, found, now), now)
            kept = content.slot(slot.number).cluster_id
            if kept == found.id:
                content = seat_after(content, key, found.id, now)
            register.save(content)
            if kept == found.id:
                return Seat(found.id, not found.adopted, content.seats[key].earlier)
            if any(each.id == found.id for each in live):
                log.warning("Cluster %s came too late for its slot, which has %s", found.id, kept)
                self._clusters.terminate(found.id)
        return "the cluster that was made for this step ended, or came too late"

    def _give_up(self, slot: Slot) -> None:
        """Free a slot that nothing was made for. Where that fails it frees itself after some minutes."""
        try:
            with self._opened(self._clock.now() + _RECORDING) as register:
                if register.content.slot(slot.number) == slot:
                    freed = Slot(number=slot.number, generation=slot.generation)
                    register.save(register.content.with_slot(freed))
        except EmrEtlError as error:
            log.warning("Slot %d of pool %s stays taken for now: %s", slot.number, self.pool.name, error)

    def _look(self, register: Register, now: datetime) -> tuple[Register, list[LiveCluster]]:
        """The register after what EMR shows, and the pool's clusters. Ends those that are one too many."""
        listed: dict[str, tuple[int, Mapping[str, Any]]] = {}
        for cluster in self._clusters.list_clusters(CLUSTER_LIVE):
            number = self._slot_of(cluster)
            if number is not None:
                listed[str(cluster["Id"])] = (number, cluster)
        without_capacity = set()
        for slot in register.slots:
            if slot.cluster_id is None or slot.cluster_id in listed:
                continue
            described = self._described(slot.cluster_id)
            if described is None:
                continue
            if cluster_state(described) in CLUSTER_LIVE:
                listed[slot.cluster_id] = (slot.number, described)  # the list lags behind
            elif isinstance(cluster_failure(described), CapacityError):
                without_capacity.add(slot.cluster_id)
        live = [self._live(number, cluster) for number, cluster in listed.values()]
        register, strays = reconcile(register, live, self.fingerprint, now, without_capacity=without_capacity)
        for stray in strays:
            log.warning("Cluster %s of pool %s is one too many; it is ended", stray, self.pool.name)
            self._clusters.terminate(stray)
        return register, [each for each in live if each.id not in strays]

    def _slot_of(self, cluster: Mapping[str, Any]) -> int | None:
        mark = ClusterMark.read(str(cluster.get("Name", "")))
        return None if mark is None else self._slots.get(mark.lineage)

    def _live(self, slot: int, cluster: Mapping[str, Any]) -> LiveCluster:
        cluster_id, mark = str(cluster["Id"]), ClusterMark.read(str(cluster["Name"]))
        assert mark is not None
        marks = [
            StepMark.read(str(step.get("Name", "")))
            for step in self._steps.list_steps(cluster_id, states=STEP_ACTIVE)
        ]
        return LiveCluster(
            id=cluster_id,
            slot=slot,
            mark=mark,
            state=cluster_state(cluster),
            created=cluster["Status"]["Timeline"]["CreationDateTime"],
            active=frozenset(each.lineage for each in marks if each),
            strangers=sum(each is None for each in marks),
            ready=cluster["Status"]["Timeline"].get("ReadyDateTime"),
        )

    def _why_no_other(self, seat: SeatRecord | None, live: Sequence[LiveCluster]) -> ClusterError | None:
        """Why a step whose cluster has ended must not be given another one."""
        if seat is None or seat.left or any(each.id == seat.cluster_id for each in live):
            return None
        cluster = self._described(seat.cluster_id)
        if cluster is None:
            return None
        status = cluster["Status"]
        # Somebody's hand may end a cluster before it is up; that says nothing about the next.
        by_hand = status.get("StateChangeReason", {}).get("Code") == ClusterEndCode.USER_REQUEST
        failure = cluster_failure(cluster, served=by_hand or "ReadyDateTime" in status.get("Timeline", {}))
        if isinstance(failure, ClusterFailedError):
            return failure
        if seat.lost >= MAX_GENERATIONS:
            return ClusterError(
                f"{failure.message} It was the {seat.lost}th cluster of pool {self.pool.name} that this step lost, "
                "and it gets no more. Use less spot, or look for what ends the clusters.",
                **failure.details,
            )
        return None

    def _described(self, cluster_id: str) -> Mapping[str, Any] | None:
        try:
            return self._clusters.describe(cluster_id)
        except ClusterNotFoundError:
            return None

    def _plan(self, slot: int) -> ClusterPlan:
        tags = {TAG_POOL: self.pool.name}
        if self._site:
            tags[TAG_SITE] = self._site
        plan = ClusterPlan.of_spec(self.pool.spec, self.pool.lineage(slot), tags)
        # The fingerprint knows the contents of the bootstrap scripts too.
        return replace(plan, spec=self.fingerprint.digest)

    def _full(self, reason: str, timeout: timedelta, clusters: Sequence[str] = ()) -> PoolFullError:
        within = "" if clusters else f" within {timeout}"
        return PoolFullError(
            f"Pool {self.pool.name}, which may have {self.pool.max_clusters} clusters, had no place for this step"
            f"{within}: {reason.rstrip('.')}. Raise max_clusters, or the spec's step_concurrency.",
            pool=self.pool.name,
            reason=reason,
            clusters=" ".join(clusters) or None,
            max_active_steps=self.pool.max_active_steps,
        )

    @contextmanager
    def _opened(self, deadline: datetime) -> Iterator[_OpenRegister]:
        left = max(deadline - self._clock.now(), timedelta(seconds=1))
        register = _OpenRegister(self._document, self._lock, self._lock.acquire(left))
        try:
            register.claim()
            yield register
        finally:
            register.close()


class _OpenRegister:
    """The register while the lock is held."""

    def __init__(self, document: S3Document, lock: S3Lock, lease: Lease) -> None:
        self.content = Register()
        self._document = document
        self._lock = lock
        self._lease = lease
        self._etag: str | None = None

    def claim(self) -> None:
        """Write this holder's token into it, so that whoever held the lock before cannot change it any more."""
        for _ in range(_MOST_CLAIMS):
            current = self._document.read()
            token = int(current.data.get("token", 0)) if current else 0
            if token >= self._lease.token:
                # The lock's object was deleted, and its tokens began anew; or this lease is lost, which shows.
                self._lease = self._lock.renew(self._lease, above=token)
            self.content = _register_in(current, self._document.uri)
            self._etag = self._write(over=current.etag if current else None)
            if self._etag is not None:
                return
        raise PoolError(
            f"{self._document.uri} changes although its lock is held. Does something else write there?",
            uri=self._document.uri,
        )

    def close(self) -> None:
        """Give the lock back."""
        self._lock.release(self._lease)

    def check(self) -> None:
        """LeaseLostError where the lock may not be held any more."""
        self._lock.check(self._lease)

    def save(self, content: Register) -> None:
        """Write it, as the lock's holder; LeaseLostError where another holder has claimed it since."""
        if content == self.content:
            return
        self.check()
        before, self.content = self.content, content
        self._etag = self._write(over=self._etag)
        if self._etag is None:
            self.content = before
            raise LeaseLostError(
                f"{self._document.uri} was claimed by another holder of the lock while this one worked. Nothing was "
                "changed; try again.",
                uri=self._document.uri,
                token=self._lease.token,
            )

    def _write(self, *, over: str | None) -> str | None:
        document = self.content.model_dump(mode="json", exclude_defaults=True)
        return self._document.write({"version": 1, "token": self._lease.token, **document}, over=over)


def _register_in(current: Version | None, uri: str) -> Register:
    if current is None:
        return Register()
    document = {
        key: value for key, value in current.data.items() if key not in ("version", "token", "write_id")
    }
    try:
        if current.data.get("version") != 1:
            raise ValueError(f"its version is {current.data.get('version')!r}, and this release reads 1")
        return Register.model_validate(document)
    except ValueError as error:
        raise PoolError(
            f"{uri} cannot be read as a pool's register: {error}. Use the same release everywhere, or delete the "
            "object: clusters are found again by their names.",
            uri=uri,
        ) from error


def _with_found(register: Register, slot: Slot, found: FoundCluster, now: datetime) -> Register:
    """The register with the cluster that was made for a slot, where the slot still waits for it."""
    there = register.slot(slot.number)
    if (there.state, there.generation) != (SlotState.CREATING, slot.generation):
        return register
    return register.with_slot(
        there.model_copy(
            update={
                "state": SlotState.TAKEN,
                "cluster_id": found.id,
                "since": now,
                "maker": None,
                "fingerprint": slot.fingerprint,
            }
        )
    )
