"""What goes wrong on EMR's own side: no machines to be had, Spot instances taken away, lists and logs that lag.

Rules only, as the state machine is: they are asked with every provisioning and told the time. They live in
memory and end with the server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from airflow_emr_etl.local.emr.records import Cluster
from airflow_emr_etl.local.faults import FaultError
from airflow_emr_etl.models.states import CLUSTER_ENDING

MARKETS: Final = ("SPOT", "ON_DEMAND")
ROLES: Final = ("MASTER", "CORE", "TASK")


@dataclass(frozen=True)
class Capacity:
    """EC2 has no machines of a kind. What is None matches all."""

    id: str
    instance_type: str | None = None
    zone: str | None = None
    """An availability zone, or the id of a subnet."""
    market: str | None = None
    times: int | None = None
    """How many clusters it hits. None: all of them."""

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "fault": "capacity",
            "instance_type": self.instance_type,
            "zone": self.zone,
            "market": self.market,
            "times": self.times,
        }


@dataclass(frozen=True)
class SpotLoss:
    """EC2 takes the Spot instances of a cluster back."""

    id: str
    added: datetime
    cluster_id: str | None = None
    """None: of every cluster that has some, once."""
    after: timedelta = timedelta(0)
    """From when it was asked for; without a ``cluster_id`` from when a cluster is ready, if that is later."""
    role: str | None = None
    """Only of the nodes of this role."""
    times: int | None = None
    """Without a ``cluster_id``: how many clusters it hits. None: all of them."""

    def due(self, cluster: Cluster) -> datetime | None:
        """When ``cluster`` loses its instances; None when it does not."""
        if cluster.state in CLUSTER_ENDING or self.cluster_id not in (None, cluster.id):
            return None
        if self.cluster_id is not None:
            return self.added + self.after
        return None if cluster.ready is None else max(self.added, cluster.ready) + self.after

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "fault": "spot-loss",
            "cluster_id": self.cluster_id,
            "after_seconds": self.after.total_seconds(),
            "role": self.role,
            "times": self.times,
        }


@dataclass
class EmrFaults:
    """The faults of one EMR. Thread-safe through ``lock``, which is EMR's own."""

    clock: Callable[[], datetime]
    lock: AbstractContextManager[Any] = field(default_factory=threading.RLock)
    changed: Callable[[], None] = lambda: None
    """Wakes EMR's clock."""
    is_cluster: Callable[[str], bool] = lambda _: True
    _capacity: dict[str, Capacity] = field(default_factory=dict)
    _spot: dict[str, SpotLoss] = field(default_factory=dict)
    _hit: dict[str, set[str]] = field(default_factory=dict)
    _listing_lag: timedelta = timedelta(0)
    _log_delay: timedelta = timedelta(0)
    _added: int = 0

    # Setting up

    def capacity(
        self,
        instance_type: str | None = None,
        zone: str | None = None,
        market: str | None = None,
        times: int | None = None,
    ) -> Capacity:
        """Let clusters that need such machines not come up. ``zone`` is a zone or a subnet."""
        _check_choice("market", market, MARKETS)
        _check_times(times)
        with self.lock:
            rule = Capacity(self._new_id("capacity"), instance_type, zone, market, times)
            self._capacity[rule.id] = rule
        return rule

    def spot_loss(
        self,
        cluster_id: str | None = None,
        after: timedelta | float = 0,
        role: str | None = None,
        times: int | None = None,
    ) -> SpotLoss:
        """Take the Spot instances of one cluster, or of every one, ``after`` so long (seconds or a timedelta)."""
        _check_choice("role", role, ROLES)
        _check_times(times)
        wait = _duration("after", after)
        with self.lock:
            if cluster_id is not None and not self.is_cluster(cluster_id):
                raise FaultError(f"There is no cluster {cluster_id!r} that could lose its Spot instances.")
            rule = SpotLoss(self._new_id("spot-loss"), self.clock(), cluster_id, wait, role, times)
            self._spot[rule.id] = rule
            self.changed()
        return rule

    def listing_lag(self, lag: timedelta | float) -> None:
        """Keep new clusters and steps out of lists for so long after their creation; 0 ends it."""
        wait = _duration("lag", lag)
        with self.lock:
            self._listing_lag = wait

    def log_delay(self, delay: timedelta | float) -> None:
        """Let logs of steps that end from now on appear so much later; 0 ends it."""
        wait = _duration("delay", delay)
        with self.lock:
            self._log_delay = wait

    def remove(self, rule_id: str) -> None:
        """Raises FaultError when there is no such rule."""
        with self.lock:
            found = self._capacity.pop(rule_id, None) or self._spot.pop(rule_id, None)
            if found is None:
                known = ", ".join([*self._capacity, *self._spot]) or "none"
                raise FaultError(f"EMR has no fault {rule_id!r}; there are: {known}.")
            self._hit.pop(rule_id, None)

    def clear(self) -> None:
        with self.lock:
            self._capacity.clear()
            self._spot.clear()
            self._hit.clear()
            self._listing_lag = self._log_delay = timedelta(0)

    def to_json(self) -> dict[str, Any]:
        with self.lock:
            rules: list[Capacity | SpotLoss] = [*self._capacity.values(), *self._spot.values()]
            return {
                "rules": [{**each.to_json(), "hit": sorted(self._hit.get(each.id, ()))} for each in rules],
                "listing_lag_seconds": self._listing_lag.total_seconds(),
                "log_delay_seconds": self._log_delay.total_seconds(),
            }

    def set_up(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """One fault from JSON: ``fault`` and the arguments of the method that it names."""
        arguments = dict(document)
        fault = arguments.pop("fault", None)
        methods: dict[str, Callable[..., Capacity | SpotLoss | None]] = {
            "capacity": self.capacity,
            "spot-loss": self.spot_loss,
            "listing-lag": self.listing_lag,
            "log-delay": self.log_delay,
        }
        if fault not in methods:
            raise FaultError(f"EMR has no fault {fault!r}; there are: {', '.join(methods)}.")
        try:
            rule = methods[fault](**arguments)
        except TypeError as error:
            raise FaultError(f"{fault}: {error}") from None
        return rule.to_json() if rule is not None else {"fault": fault, **arguments}

    # Asked by the state machine and the service, with the lock held

    def lacks(self, cluster_id: str, instance_type: str, market: str, subnet: str | None, zone: str) -> bool:
        """Whether the cluster cannot have such a machine there. Counts the cluster as hit."""
        for rule in self._capacity.values():
            if (
                rule.instance_type in (None, instance_type)
                and rule.market in (None, market)
                and rule.zone in (None, zone, subnet)
                and self._hits(rule.id, rule.times, cluster_id)
            ):
                return True
        return False

    def next_loss(self, clusters: Mapping[str, Cluster]) -> datetime | None:
        """When the next Spot instances go."""
        return min((due for due, _, _ in self._losses(clusters)), default=None)

    def losses(self, clusters: Mapping[str, Cluster], now: datetime) -> list[tuple[Cluster, str | None]]:
        """The clusters that lose Spot instances by ``now``, and of which role only. Each is told once."""
        found = sorted(
            (each for each in self._losses(clusters) if each[0] <= now),
            key=lambda each: (each[0], each[2].sequence),
        )
        return [
            (cluster, rule.role)
            for _, rule, cluster in found
            if self._hits(rule.id, rule.times if rule.cluster_id is None else None, cluster.id)
        ]

    def is_listed(self, created: datetime, now: datetime) -> bool:
        return created + self._listing_lag <= now

    @property
    def lack_capacity(self) -> bool:
        return bool(self._capacity)

    @property
    def lags(self) -> bool:
        return bool(self._listing_lag)

    @property
    def logs_wait(self) -> timedelta:
        return self._log_delay

    def _losses(self, clusters: Mapping[str, Cluster]) -> list[tuple[datetime, SpotLoss, Cluster]]:
        if not self._spot:
            return []
        found = []
        for rule in self._spot.values():
            hit = self._hit.get(rule.id, set())
            if rule.cluster_id is None:
                full = rule.times is not None and len(hit) >= rule.times
                affected = [] if full else list(clusters.values())
            else:
                affected = [clusters[rule.cluster_id]] if rule.cluster_id in clusters else []
            for cluster in affected:
                if cluster.id in hit or not has_spot(cluster, rule.role):
                    continue
                if (due := rule.due(cluster)) is not None:
                    found.append((due, rule, cluster))
        return found

    def _hits(self, rule_id: str, times: int | None, cluster_id: str) -> bool:
        hit = self._hit.setdefault(rule_id, set())
        if cluster_id not in hit:
            if times is not None and len(hit) >= times:
                return False
            hit.add(cluster_id)
        return True

    def _new_id(self, name: str) -> str:
        self._added += 1
        return f"{name}-{self._added}"


def has_spot(cluster: Cluster, role: str | None) -> bool:
    """Whether it has Spot instances (of that role) that could go."""
    return any(
        each.market == "SPOT" and each.ended is None and role in (None, each.role)
        for each in cluster.instances
    )


def _duration(name: str, given: timedelta | float) -> timedelta:
    if isinstance(given, bool) or not isinstance(given, timedelta | int | float):
        raise FaultError(f"{name} is a number of seconds, not {given!r}.")
    wait = given if isinstance(given, timedelta) else timedelta(seconds=given)
    if wait < timedelta(0):
        raise FaultError(f"{name} is 0 or more, not {given}.")
    return wait


def _check_choice(name: str, given: str | None, known: tuple[str, ...]) -> None:
    if given is not None and given not in known:
        raise FaultError(f"{name} is {' or '.join(known)}, not {given!r}.")


def _check_times(times: int | None) -> None:
    if times is not None and (isinstance(times, bool) or not isinstance(times, int) or times < 1):
        raise FaultError(f"times is 1 or more, not {times!r}.")
