"""Which clusters the reaper ends, and why: a decision over what EMR and Airflow say, without a call.

A cluster is this package's when it has the mark in its name and the same lineage in its tags; any other is
never touched. One of this package's ends when

- its run has ended, or Airflow has no such run any more (not when it ends itself after its last step, or is
  tagged to outlive its run);
- its teardown closed it and it is still there;
- it is older than its limit, whatever runs on it (a pool's cluster: only when nothing does);
- it has been without work for longer than its limit.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from airflow_emr_etl.models.duration import told
from airflow_emr_etl.models.intent import (
    TAG_CLOSED,
    TAG_DAG,
    TAG_LINEAGE,
    TAG_MAX_AGE,
    TAG_MAX_IDLE,
    TAG_POOL,
    TAG_RUN,
    TAG_SITE,
    TAG_TASK,
    ClusterMark,
    from_tag_text,
    tags_in,
    without_mark,
)
from airflow_emr_etl.models.states import STEP_ACTIVE, ClusterState

#: A tag for a cluster's author to set: the end of its run is not its end. Its limits stay.
TAG_OUTLIVES_RUN: Final = "emr-etl:outlives-run"


class RunState(enum.StrEnum):
    """What Airflow says of a DAG run."""

    GOING = "going"
    SUCCEEDED = "success"
    FAILED = "failed"
    GONE = "gone"
    """It knows runs of the DAG, and not this one."""
    UNKNOWN = "unknown"
    """It could not be asked, or does not know the DAG: the cluster may be another Airflow's."""

    @classmethod
    def of(cls, state: str) -> RunState:
        """From the state of an Airflow ``DagRun``."""
        return cls(state) if state in ("success", "failed") else cls.GOING


RUN_OVER: Final = frozenset({RunState.SUCCEEDED, RunState.FAILED})


@dataclass(frozen=True)
class Limits:
    """What the reaper leaves to a cluster, beside what the cluster's own tags say; the shorter counts."""

    max_age: timedelta | None = None
    """Since its creation. None: only what its tag says."""
    max_idle: timedelta | None = None
    """Without work. None: only what its tag says."""
    grace: timedelta = timedelta(minutes=5)
    """Beyond the limit on idleness, since EMR's own auto-termination comes first."""
    gone_grace: timedelta = timedelta(hours=1)
    """Age of a cluster whose run Airflow does not know, before it is ended."""


class Why(enum.StrEnum):
    """The reason of an end."""

    RUN_OVER = "run over"
    RUN_GONE = "run gone"
    CLOSED = "closed"
    AGE = "age"
    IDLE = "idle"


#: Ends that are meant to be the last word: a step that still runs must not bring up a replacement.
FINAL: Final = frozenset({Why.RUN_OVER, Why.RUN_GONE, Why.CLOSED, Why.AGE})


@dataclass(frozen=True)
class Verdict:
    """``reason`` None: leave the cluster alone. ``told`` explains either."""

    reason: Why | None
    told: str


@dataclass(frozen=True)
class Candidate:
    """A live cluster with this package's mark, as EMR describes it."""

    id: str
    name: str
    """With the mark."""
    state: ClusterState
    created: datetime
    tags: Mapping[str, str]
    idle_since: datetime | None = None
    """None while it comes up or has work."""
    protected: bool = False
    ends_itself: bool = False
    """EMR ends it when it has no steps left (``AutoTerminate``)."""
    instance_hours: int | None = None
    """Normalized instance hours, EMR's own approximation: one hour of an m1.small is 1."""

    @classmethod
    def of(cls, cluster: Mapping[str, Any], steps: Iterable[Mapping[str, Any]]) -> Candidate:
        """From a ``Cluster`` of DescribeCluster, and for a WAITING one its latest steps."""
        timeline = cluster["Status"]["Timeline"]
        return cls(
            id=str(cluster["Id"]),
            name=str(cluster["Name"]),
            state=ClusterState(cluster["Status"]["State"]),
            created=timeline["CreationDateTime"],
            tags=tags_in(cluster),
            idle_since=_idle_since(cluster, steps),
            protected=bool(cluster.get("TerminationProtected")),
            ends_itself=bool(cluster.get("AutoTerminate")),
            instance_hours=cluster.get("NormalizedInstanceHours"),
        )

    @property
    def is_ours(self) -> bool:
        """Whether the mark in the name and the tags agree."""
        mark = ClusterMark.read(self.name)
        return mark is not None and self.tags.get(TAG_LINEAGE) == mark.lineage

    @property
    def plain_name(self) -> str:
        return without_mark(self.name)

    @property
    def site(self) -> str:
        return from_tag_text(self.tags.get(TAG_SITE, ""))

    @property
    def pool(self) -> str | None:
        return self.tags.get(TAG_POOL)

    @property
    def run(self) -> tuple[str, str] | None:
        """DAG and run that it was made for; None for a pool's, and for one that no run claims."""
        dag_id, run_id = (from_tag_text(self.tags.get(tag, "")) for tag in (TAG_DAG, TAG_RUN))
        return (dag_id, run_id) if dag_id and run_id and self.pool is None else None

    @property
    def outlives_run(self) -> bool:
        """Whether it may go on after its run, as one does that a task started and nobody waits for."""
        return self.ends_itself or self.tags.get(TAG_OUTLIVES_RUN, "false").lower() not in ("", "false")

    @property
    def task_id(self) -> str | None:
        return self.tags.get(TAG_TASK)


def judge(cluster: Candidate, run: RunState, *, site: str | None, limits: Limits, now: datetime) -> Verdict:
    """What is to be done about a cluster.

    ``run`` is of the cluster's own run, UNKNOWN where it has none. The cluster of another site is bound by its
    own tags alone: this Airflow knows nothing of its runs. With ``site=None`` all sites are one's own; nobody can
    be asked for runs then.
    """
    if not cluster.is_ours:
        return Verdict(None, "its name and its tags disagree: not ours")
    foreign = site is not None and cluster.site != site
    age = now - cluster.created
    if not foreign:
        if TAG_CLOSED in cluster.tags:
            return Verdict(Why.CLOSED, "its teardown closed it and it is still there")
        ends_with_run = cluster.run is not None and not cluster.outlives_run
        if ends_with_run and run in RUN_OVER:
            return Verdict(Why.RUN_OVER, f"its run has ended ({run})")
        if ends_with_run and run is RunState.GONE and age > limits.gone_grace:
            return Verdict(Why.RUN_GONE, "Airflow has no such run any more")
    most = _shorter(_tagged(cluster, TAG_MAX_AGE), None if foreign else limits.max_age)
    if most is not None and age > most and (cluster.pool is None or cluster.idle_since is not None):
        return Verdict(Why.AGE, f"{told(age)} old, and its limit is {told(most)}")
    least = _shorter(_tagged(cluster, TAG_MAX_IDLE), None if foreign else limits.max_idle)
    if cluster.idle_since is not None and least is not None:
        idle = now - cluster.idle_since
        if idle > least + limits.grace:
            return Verdict(Why.IDLE, f"without work for {told(idle)}, and its limit is {told(least)}")
    return Verdict(None, _why_kept(cluster, run, foreign=foreign))


def _why_kept(cluster: Candidate, run: RunState, *, foreign: bool) -> str:
    if foreign:
        return f"of site {cluster.site or '(unnamed)'}, within its own limits"
    if cluster.pool is not None:
        return "a pool's, within its limits"
    if cluster.run is None:
        return "of no run, within its limits"
    if run is not RunState.GOING and cluster.outlives_run:
        return "it may outlive its run, and is within its limits"
    if run is RunState.GONE:
        return "Airflow has no such run, but it is young"
    if run is RunState.UNKNOWN:
        return "its run could not be asked for; within its limits"
    return "its run goes on"


def _idle_since(cluster: Mapping[str, Any], steps: Iterable[Mapping[str, Any]]) -> datetime | None:
    if cluster["Status"]["State"] != ClusterState.WAITING:
        return None
    timeline = cluster["Status"]["Timeline"]
    moments = [timeline.get("ReadyDateTime") or timeline["CreationDateTime"]]
    for step in steps:
        if step["Status"]["State"] in STEP_ACTIVE:
            return None
        its = step["Status"].get("Timeline", {})
        moments += [its[key] for key in ("EndDateTime", "CreationDateTime") if its.get(key)]
    latest: datetime = max(moments)
    return latest


def _tagged(cluster: Candidate, key: str) -> timedelta | None:
    """The seconds in a tag; None where it has none, or something else."""
    try:
        seconds = float(cluster.tags.get(key, "nan"))
        return timedelta(seconds=seconds) if math.isfinite(seconds) and seconds >= 0 else None
    except (ValueError, OverflowError):
        return None


def _shorter(first: timedelta | None, second: timedelta | None) -> timedelta | None:
    given = [each for each in (first, second) if each is not None]
    return min(given) if given else None
