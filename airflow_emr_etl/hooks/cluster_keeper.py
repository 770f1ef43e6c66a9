"""One cluster for one intent, whatever dies on the way.

RunJobFlow has no idempotency token and takes effect even where its answer is lost. So every cluster carries the
mark of its intent in its name; before one is made the list is looked at, a live one with the mark is adopted,
and a request whose end is unknown is followed by a look before it is sent again. Two workers that made one each
at the same time settle it: the earliest wins, the others are ended, before a step is added to any.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_emr_etl.exceptions import (
    CapacityError,
    ClusterClosedError,
    ClusterError,
    ClusterLostError,
    ClusterNotEndedError,
    ClusterNotFoundError,
    ConfigurationError,
    EmrEtlError,
    LadderEndedError,
    ServiceUnavailableError,
)
from airflow_emr_etl.hooks.attempts import LIST_LAG_SECONDS, LOOK_EVERY_SECONDS, backoff, looks
from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK, Clock
from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook, cluster_failure, cluster_state
from airflow_emr_etl.models.intent import TAG_CLOSED, TAG_RUNG, ClusterMark, tags_in, without_mark
from airflow_emr_etl.models.plan import ClusterPlan
from airflow_emr_etl.models.states import CLUSTER_ENDING, CLUSTER_LIVE, CLUSTER_READY, ClusterState

log = logging.getLogger(__name__)

#: Between the turns of the steps that lost a cluster together: long enough to see a replacement in the list.
TURN_SECONDS = 20.0


@dataclass(frozen=True)
class FoundCluster:
    """A cluster with a mark."""

    id: str
    name: str
    mark: ClusterMark
    state: ClusterState
    created: datetime | None
    """None for one that was made just now."""
    adopted: bool = True

    @property
    def is_ready(self) -> bool:
        return self.state in CLUSTER_READY


class ClusterKeeper:
    """Adopts, makes, settles, replaces and ends the clusters of an intent."""

    def __init__(
        self, hook: EmrClusterHook, clock: Clock = SYSTEM_CLOCK, *, lag_seconds: float = LIST_LAG_SECONDS
    ) -> None:
        self.hook = hook
        self.clock = clock
        self._lag = lag_seconds

    def live(self, lineage: str) -> list[FoundCluster]:
        """The clusters of a lineage that are up or coming up, the earliest first."""
        return self._listed(lineage, None)

    def ever(self, lineage: str, since: datetime | None) -> list[FoundCluster]:
        """The clusters of a lineage in any state that were created after ``since``, the earliest first."""
        return self._listed(lineage, since, states=frozenset(ClusterState))

    def ensure(
        self,
        plan: ClusterPlan,
        *,
        rung: int = 0,
        generation: int = 1,
        again: bool = False,
        until: datetime | None = None,
    ) -> FoundCluster:
        """The live cluster that ``plan`` means: adopted where there is one, else made.

        ``again`` says that somebody may have made it within the last seconds (an earlier try, whose worker
        died): the list is then looked at until it cannot lag any more. After ``until`` nothing is made any
        more, only looked for.
        """
        failure: EmrEtlError | None = None
        patient = again
        for delay in backoff():
            self.clock.sleep(delay)
            found = self._look(plan, patient=patient)
            if found is not None:
                log.info("Cluster %s of this task is there already (%s)", found.id, found.state)
                return found
            if until is not None and self.clock.now() > until:
                late = f"It is too late to make a cluster that was to be asked for until {until:%H:%M:%S}."
                failure = failure or ServiceUnavailableError(late)
                break
            try:
                request = plan.request(rung, generation)
                cluster_id = self.hook.create(request)
            except ConfigurationError:
                raise  # EMR read the request and refused it: nothing was made
            except EmrEtlError as error:
                failure, patient = error, True
                log.warning("It is not known whether the cluster was made: %s", error)
                if not error.retryable:
                    break
            else:
                return FoundCluster(
                    cluster_id,
                    request["Name"],
                    plan.mark(generation),
                    ClusterState.STARTING,
                    None,
                    adopted=False,
                )
        assert failure is not None
        with contextlib.suppress(EmrEtlError):  # the first error says more
            found = self._look(plan, patient=True)
            if found is not None:
                return found
        raise failure

    def settle(self, plan: ClusterPlan, cluster_id: str) -> FoundCluster:
        """The one cluster of the plan that all of its workers agree on: the earliest that lives.

        ``cluster_id`` is the one that the caller would take; it wins where the list shows none. The others
        are ended: none of them has a step, since every worker settles before it adds one.
        """
        found = self._serving(plan)
        if not any(each.id == cluster_id for each in found):
            own = self._described(cluster_id)
            found = sorted([*found, own] if own else found, key=_age)
        if not found:
            raise ClusterLostError(f"Cluster {cluster_id} ended as soon as it was up.", cluster_id=cluster_id)
        winner, *others = found
        for other in others:
            log.warning("Cluster %s was made beside %s for the same task; it is ended", other.id, winner.id)
            self._end(other.id, lift_protection=plan.protected)
        return winner

    def end_superseded(self, plan: ClusterPlan) -> None:
        """End what an earlier form of the same task made, such as one with another spec, cleared since."""
        mark = plan.mark()
        for each in self.live(plan.lineage):
            if not each.mark.serves(mark):
                log.warning("Cluster %s is of an earlier spec of this task; it is ended", each.id)
                self._end(each.id, lift_protection=plan.protected)

    def replace(
        self,
        plan: ClusterPlan,
        lost: Mapping[str, Any],
        *,
        turn: int = 0,
        again: bool = False,
        since: datetime | None = None,
    ) -> FoundCluster:
        """The successor of ``lost``, a ``Cluster`` of EMR that has ended or is ending: adopted or made.

        Parallel steps that lost it wait for their ``turn``, which is 0 for the first of them, so that one
        makes the replacement and the others find it. ``since``, the beginning of the run, lets replacements
        count that were lost in their turn. Raises:

            ClusterClosedError: a teardown ended it; nothing replaces it.
            LadderEndedError: EC2 had no capacity for any rung of the plan.
            ClusterLostError: it was replaced too often; the message says why it ended this time.
        """
        lost = self._latest_lost(plan, lost, since)
        cluster_id, tags = str(lost["Id"]), tags_in(lost)
        mark = ClusterMark.read(str(lost.get("Name", "")))
        generation = (mark.generation if mark else 1) + 1
        rung = int(tags.get(TAG_RUNG, "0") or 0)
        failure = cluster_failure(lost, served=True)
        if TAG_CLOSED in tags:
            raise closed(cluster_id)
        if isinstance(failure, CapacityError):
            rung += 1
        elif not isinstance(failure, ClusterLostError):
            raise failure  # a bootstrap action that fails on one cluster fails on the next
        if rung >= len(plan.requests):
            raise LadderEndedError(
                f"{failure.message} All {len(plan.requests)} ways that the spec leaves were tried.",
                **failure.details,
            )
        if generation - rung > plan.max_generations:  # a rung that had no capacity was no loss
            raise _too_often(failure, plan.max_generations)
        found = self._wait_for_turn(plan, turn)
        if found is None:
            log.warning("Cluster %s is replaced by generation %d: %s", cluster_id, generation, failure)
            found = self.ensure(plan, rung=rung, generation=generation, again=again)
        return found

    def _latest_lost(
        self, plan: ClusterPlan, lost: Mapping[str, Any], since: datetime | None
    ) -> Mapping[str, Any]:
        """The last of the plan's clusters that ended: ``lost``, or one that had taken its place."""
        if since is None:
            return lost
        mark = plan.mark()
        ended = [
            each
            for each in self.ever(plan.lineage, since)
            if each.mark.serves(mark) and each.state in CLUSTER_ENDING
        ]
        return lost if not ended or ended[-1].id == lost["Id"] else self.hook.describe(ended[-1].id)

    def end_all(
        self, lineage: str | None, known: str | None, *, lift_protection: bool = False, for_good: bool = True
    ) -> list[str]:
        """End every cluster of a lineage, ``known`` before anything is asked; their ids.

        ``for_good`` marks them as closed, so that no step takes the end for a loss. All are tried before the
        first error is raised, which a retry can help whatever it was: a cluster that goes on costs.
        """
        ended: list[str] = []
        failures: list[EmrEtlError] = []
        sure = False
        if known:
            sure = self._close(known, lift_protection, for_good, ended, failures)
        if lineage is not None:
            try:
                # What was up until now has no successor; of what was lost one may just be in the making.
                sure = sure and known is not None and self._is_ending(known)
                for each in self._all_live(lineage, patient=not sure, but=ended):
                    if each.id not in ended:
                        self._close(each.id, lift_protection, for_good, ended, failures)
            except EmrEtlError as error:
                failures.append(error)
        if failures:
            raise ClusterNotEndedError(
                "Not every cluster could be ended, and what goes on costs: "
                + "; ".join(str(each) for each in failures)
            ) from failures[0]
        return ended

    def _all_live(self, lineage: str, *, patient: bool, but: Sequence[str]) -> list[FoundCluster]:
        """``live``, without those of ``but``; one that was made just now may not be in the list yet."""
        for delay in looks(self._lag, patient=patient):
            self.clock.sleep(delay)
            found = [each for each in self.live(lineage) if each.id not in but]
            if found:
                return found
        return []

    def _is_ending(self, cluster_id: str) -> bool:
        """Whether a cluster that was told to end was up until then; it takes a minute to be gone."""
        try:
            return cluster_state(self.hook.describe(cluster_id)) is ClusterState.TERMINATING
        except EmrEtlError:
            return False

    def _close(
        self,
        cluster_id: str,
        lift_protection: bool,
        for_good: bool,
        ended: list[str],
        failures: list[EmrEtlError],
    ) -> bool:
        """Whether nobody can take the end for a loss and replace it."""
        told = True
        if for_good:
            try:
                # Before the end, so that a step that sees the end knows that it was meant.
                self.hook.tag(cluster_id, {TAG_CLOSED: self.clock.now().isoformat(timespec="seconds")})
            except EmrEtlError as error:
                told = False
                log.warning("Cluster %s could not be marked as closed: %s", cluster_id, error)
        try:
            self._end(cluster_id, lift_protection=lift_protection)
        except ClusterNotFoundError as error:
            log.info("There is no cluster %s: %s", cluster_id, error)
        except EmrEtlError as error:
            failures.append(error)
        else:
            ended.append(cluster_id)
        return told

    def _end(self, cluster_id: str, *, lift_protection: bool) -> None:
        if lift_protection:
            self.hook.lift_protection(cluster_id)
        self.hook.terminate(cluster_id)

    def _look(self, plan: ClusterPlan, *, patient: bool) -> FoundCluster | None:
        for delay in looks(self._lag, patient=patient):
            self.clock.sleep(delay)
            found = self._serving(plan)
            if found:
                return found[0]
        return None

    def _wait_for_turn(self, plan: ClusterPlan, turn: int) -> FoundCluster | None:
        waited = 0.0
        while waited < turn * TURN_SECONDS:
            found = self._serving(plan)
            if found:
                return found[0]
            self.clock.sleep(LOOK_EVERY_SECONDS)
            waited += LOOK_EVERY_SECONDS
        return None

    def _serving(self, plan: ClusterPlan) -> list[FoundCluster]:
        mark = plan.mark()
        return [each for each in self.live(plan.lineage) if each.mark.serves(mark)]

    def _described(self, cluster_id: str) -> FoundCluster | None:
        cluster = self.hook.describe(cluster_id)
        found = _found(cluster)
        return found if found is not None and found.state in CLUSTER_LIVE else None

    def _listed(
        self, lineage: str, since: datetime | None, states: frozenset[ClusterState] = CLUSTER_LIVE
    ) -> list[FoundCluster]:
        listed = map(_found, self.hook.list_clusters(states, created_after=since))
        return sorted((each for each in listed if each and each.mark.lineage == lineage), key=_age)


def closed(cluster_id: str) -> ClusterClosedError:
    """The error for a cluster that its own teardown has ended."""
    return ClusterClosedError(
        f"Cluster {cluster_id} was ended for good by its run's teardown or the reaper, so it is not replaced. "
        "To run this task again, clear it together with the task that brings the cluster up.",
        cluster_id=cluster_id,
    )


def _too_often(failure: EmrEtlError, generations: int) -> ClusterError:
    return ClusterError(
        f"{failure.message} It was generation {generations} of this run's cluster, and no more are made. "
        "Use less spot, or look for what ends the clusters.",
        **failure.details,
    )


def _found(cluster: Mapping[str, Any]) -> FoundCluster | None:
    name = str(cluster.get("Name", ""))
    mark = ClusterMark.read(name)
    if mark is None:
        return None
    created = cluster["Status"].get("Timeline", {}).get("CreationDateTime")
    return FoundCluster(str(cluster["Id"]), without_mark(name), mark, cluster_state(cluster), created)


def _age(cluster: FoundCluster) -> tuple[float, str]:
    return (cluster.created.timestamp() if cluster.created else float("inf"), cluster.id)
