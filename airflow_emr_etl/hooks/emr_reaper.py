"""Ends the clusters that this package made and that nobody needs any more.

The second line behind teardowns: it catches what a killed teardown, a run-level timeout or a deleted run leaves
behind.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from airflow_emr_etl.exceptions import (
    ClusterLostError,
    ClusterNotEndedError,
    ClusterNotFoundError,
    EmrEtlError,
)
from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK, Clock
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook, cluster_state
from airflow_emr_etl.hooks.emr_step import EmrStepHook
from airflow_emr_etl.models.intent import TAG_CLOSED, ClusterMark, without_mark
from airflow_emr_etl.models.reaping import FINAL, Candidate, Limits, RunState, Verdict, judge
from airflow_emr_etl.models.states import CLUSTER_LIVE, ClusterState

log = logging.getLogger(__name__)

#: Asks an Airflow for the state of ``(dag_id, run_id)``. Does not raise: what cannot be asked is UNKNOWN.
AskRun = Callable[[str, str], RunState]

#: A page of ListSteps, the latest first. A WAITING cluster has none that runs, so these tell when it last worked.
_STEPS_READ = 50


class Action(enum.StrEnum):
    """What the reaper did about a cluster."""

    KEPT = "kept"
    WOULD_END = "would end"
    ENDED = "ended"
    PROTECTED = "protected"
    """It should end, and has termination protection."""
    FAILED = "failed"
    """It could not be looked at or ended; ``error`` says why."""


@dataclass(frozen=True)
class Reaping:
    """One cluster and what was done about it."""

    cluster_id: str
    name: str
    """Without the mark."""
    action: Action
    why: str
    candidate: Candidate | None = None
    """None where the cluster could not be described."""
    age: timedelta | None = None
    idle: timedelta | None = None
    """None while it comes up or has work."""
    error: EmrEtlError | None = None

    @property
    def cost_usd(self) -> float | None:
        """What it has cost, where that is known; nothing here knows prices yet."""
        return None

    def document(self) -> dict[str, Any]:
        """As plain JSON; durations in seconds."""
        seen = self.candidate
        dag_id, run_id = (seen.run if seen else None) or (None, None)
        return {
            "cluster_id": self.cluster_id,
            "name": self.name,
            "dag_id": dag_id,
            "run_id": run_id,
            "task_id": seen.task_id if seen else None,
            "pool": seen.pool if seen else None,
            "site": seen.site if seen else None,
            "state": seen.state.value if seen else None,
            "age_seconds": _seconds(self.age),
            "idle_seconds": _seconds(self.idle),
            "action": self.action.value,
            "why": self.why,
            "normalized_instance_hours": seen.instance_hours if seen else None,
            "cost_usd": self.cost_usd,
        }


class EmrReaper:
    """Looks at every live cluster of the account and region that has this package's mark.

    :param clients: the account and region
    :param ask_run: the Airflow that the clusters of ``site`` belong to
    :param site: the Airflow's name; a cluster of another one is judged by its own tags alone. None: all are
        one's own, and no run is asked for
    :param limits: what is left to a cluster beside what its tags say
    :param lift_protection: end clusters with termination protection too
    """

    def __init__(
        self,
        clients: EmrClients,
        ask_run: AskRun,
        *,
        site: str | None = "",
        limits: Limits | None = None,
        lift_protection: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._hook = EmrClusterHook(clients=clients)
        self._steps = EmrStepHook(clients=clients)
        self._ask_run = ask_run
        self._site = site
        self._limits = limits or Limits()
        self._lift_protection = lift_protection
        self._clock = clock

    def reap(self, *, dry_run: bool = False) -> list[Reaping]:
        """End what has to end; every cluster of ours, the oldest first, with what was done about it.

        Clusters are looked at and ended one by one, so that little time lies between the two; an error with
        one does not stop the others. Raises only where the clusters cannot be listed.
        """
        listed = self._hook.list_clusters(CLUSTER_LIVE)
        marked = [each for each in listed if ClusterMark.read(str(each.get("Name", ""))) is not None]
        marked.sort(key=lambda each: each["Status"]["Timeline"]["CreationDateTime"])
        found = (self._reap_one(str(each["Id"]), str(each["Name"]), dry_run=dry_run) for each in marked)
        return [each for each in found if each is not None]

    def _reap_one(self, cluster_id: str, name: str, *, dry_run: bool) -> Reaping | None:
        """None for a cluster that is not ours, or that ended meanwhile."""
        seen: Candidate | None = None
        try:
            seen = self._look(cluster_id)
            if seen is None or not seen.is_ours:
                return None
            run = self._ask_run(*seen.run) if seen.run and seen.site == self._site else RunState.UNKNOWN
            now = self._clock.now()
            verdict = judge(seen, run, site=self._site, limits=self._limits, now=now)
            return _row(seen, self._act(seen, verdict, dry_run=dry_run), verdict.told, now)
        except (ClusterNotFoundError, ClusterLostError) as error:
            log.info("Cluster %s is gone: %s", cluster_id, error)
            return None
        except EmrEtlError as error:
            log.warning("Cluster %s could not be dealt with: %s", cluster_id, error)
            if seen is None:
                return Reaping(cluster_id, without_mark(name), Action.FAILED, str(error), error=error)
            return _row(seen, Action.FAILED, str(error), self._clock.now(), error)

    def _look(self, cluster_id: str) -> Candidate | None:
        cluster = self._hook.describe(cluster_id)
        state = cluster_state(cluster)
        if state not in CLUSTER_LIVE:
            return None
        waiting = state is ClusterState.WAITING
        steps: Iterable[Any] = islice(self._steps.list_steps(cluster_id), _STEPS_READ) if waiting else ()
        return Candidate.of(cluster, steps)

    def _act(self, cluster: Candidate, verdict: Verdict, *, dry_run: bool) -> Action:
        if verdict.reason is None:
            return Action.KEPT
        if cluster.protected and not self._lift_protection:
            return Action.PROTECTED
        if dry_run:
            return Action.WOULD_END
        if verdict.reason in FINAL and cluster.pool is None:
            try:
                self._hook.tag(cluster.id, {TAG_CLOSED: self._clock.now().isoformat(timespec="seconds")})
            except EmrEtlError as error:
                log.info("Cluster %s could not be marked as closed: %s", cluster.id, error)
        if cluster.protected:
            self._hook.lift_protection(cluster.id)
        self._hook.terminate(cluster.id)
        log.info("Ended cluster %s (%s): %s", cluster.id, cluster.plain_name, verdict.told)
        return Action.ENDED


def raise_failures(reapings: Sequence[Reaping]) -> None:
    """ClusterNotEndedError where a cluster could not be looked at or ended."""
    failed = [each for each in reapings if each.error is not None]
    if failed:
        named = "; ".join(f"{each.cluster_id}: {each.error}" for each in failed)
        raise ClusterNotEndedError(
            f"{len(failed)} of {len(reapings)} clusters could not be dealt with. {named}",
            cluster_ids=[each.cluster_id for each in failed],
        ) from failed[0].error


def _row(
    seen: Candidate, action: Action, why: str, now: datetime, error: EmrEtlError | None = None
) -> Reaping:
    return Reaping(
        seen.id,
        seen.plain_name,
        action,
        why,
        candidate=seen,
        age=now - seen.created,
        idle=None if seen.idle_since is None else now - seen.idle_since,
        error=error,
    )


def _seconds(value: timedelta | None) -> int | None:
    return None if value is None else int(value.total_seconds())
