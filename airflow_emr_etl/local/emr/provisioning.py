"""Which machines a cluster gets, and where: pure decisions over its request and what EC2 lacks.

Groups take one type in one subnet. Fleets try their types and the subnets of the request, all fleets of a
cluster in one subnet, as EMR does:
https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-instance-fleet.html
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from airflow_emr_etl.local.emr.records import Cluster, Params, Pool

REGION: Final = "us-east-1"
DEFAULT_SPOT_MINUTES: Final = 60
_DOCS = (
    "https://docs.aws.amazon.com/emr/latest/ManagementGuide/INTERNAL_ERROR_EC2_INSUFFICIENT_CAPACITY_AZ.html"
)


@dataclass(frozen=True)
class Place:
    subnet: str | None
    zone: str


@dataclass(frozen=True)
class WantedInstance:
    type: str
    market: str
    weight: int


@dataclass(frozen=True)
class Missing:
    """Machines that could not be had."""

    pool: Pool
    type: str
    market: str
    place: Place


@dataclass
class Plan:
    """What a cluster gets in one place."""

    place: Place
    instances: dict[str, list[WantedInstance]] = field(default_factory=dict)
    """By the id of the pool."""
    missing: list[Missing] = field(default_factory=list)


Lacks = Callable[[str, str, Place], bool]
"""(instance type, market, place) → whether EC2 has none."""


def zone_of_subnet(subnet: str) -> str:
    """Local AWS has no network: a subnet is in one of six zones, always the same one."""
    return REGION + "abcdef"[zlib.crc32(subnet.encode()) % 6]


def places(request: Params) -> list[Place]:
    """Where the request lets the cluster be, in order of preference."""
    instances: Params = request["Instances"]
    subnets = instances.get("Ec2SubnetIds") or [each for each in [instances.get("Ec2SubnetId")] if each]
    if subnets:
        return [Place(each, zone_of_subnet(each)) for each in subnets]
    placement: Params = instances.get("Placement") or {}
    zones = placement.get("AvailabilityZones") or [
        each for each in [placement.get("AvailabilityZone")] if each
    ]
    return [Place(None, each) for each in zones or [f"{REGION}a"]]


def wanted_instances(
    uses_fleets: bool,
    config: Params,
    lacks: Callable[[str, str], bool] | None = None,
    *,
    switched: bool = False,
) -> tuple[list[WantedInstance], list[tuple[str, str]]]:
    """What a pool's configuration asks for and can have, and the (type, market) that it cannot.

    A fleet is filled from the first of its types, by priority, of which there are machines. ``switched`` takes
    on-demand machines for what Spot did not give.
    """
    missing: list[tuple[str, str]] = []
    if not uses_fleets:
        market = config.get("Market") or ("SPOT" if config.get("BidPrice") else "ON_DEMAND")
        wanted = [WantedInstance(config["InstanceType"], market, 1)] * int(config["InstanceCount"])
        if wanted and lacks is not None and lacks(config["InstanceType"], market):
            return [], [(config["InstanceType"], market)]
        return wanted, []
    types = sorted(
        config.get("InstanceTypeConfigs") or [{"InstanceType": "m5.xlarge"}],
        key=lambda each: each.get("Priority", 0.0),
    )
    found: list[WantedInstance] = []
    for market, member in (("ON_DEMAND", "TargetOnDemandCapacity"), ("SPOT", "TargetSpotCapacity")):
        target = int(config.get(member) or 0)
        if not target:
            continue
        markets = ("SPOT", "ON_DEMAND") if switched and market == "SPOT" else (market,)
        offers = ((each, buy) for buy in markets for each in types)
        chosen, bought = next(
            (offer for offer in offers if lacks is None or not lacks(offer[0]["InstanceType"], offer[1])),
            (None, markets[-1]),
        )
        if chosen is None:
            missing.append((types[0]["InstanceType"], bought))
            continue
        weight = int(chosen.get("WeightedCapacity") or 1)
        found += [WantedInstance(chosen["InstanceType"], bought, weight)] * math.ceil(target / weight)
    return found, missing


def plan(cluster: Cluster, lacks: Lacks, *, switched: bool = False) -> Plan:
    """The first place that has all machines; else the first of all places, with what it lacks."""
    plans: list[Plan] = []
    choices = places(cluster.request)
    for place in choices if cluster.uses_fleets else choices[:1]:
        here = Plan(place)
        for pool in cluster.pools:
            instances, missing = wanted_instances(
                cluster.uses_fleets,
                pool.config,
                lambda type_, market, place=place: lacks(type_, market, place),  # type: ignore[misc]
                switched=switched and _switches(pool),
            )
            here.instances[pool.id] = instances
            if not cluster.uses_fleets and pool.role == "TASK":
                continue  # the cluster starts, and EMR goes on asking for them
            here.missing += [Missing(pool, type_, market, place) for type_, market in missing]
        if not here.missing:
            return here
        plans.append(here)
    return plans[0]


def spot_specification(pool: Pool) -> Params:
    specification: Params = (pool.config.get("LaunchSpecifications") or {}).get("SpotSpecification") or {}
    return specification


def _switches(pool: Pool) -> bool:
    return spot_specification(pool).get("TimeoutAction") == "SWITCH_TO_ON_DEMAND"


def spot_timeout(cluster: Cluster, missing: list[Missing], minute: timedelta) -> timedelta | None:
    """How long EMR tries for Spot machines before it does what the fleets say; None when it is not about that.

    A group without machines waits for them on EMR until somebody ends the cluster; here it fails at once.
    """
    if not cluster.uses_fleets:
        return None
    spot = [each for each in missing if each.market == "SPOT"]
    if len(spot) < len(missing) or not spot:
        return None
    minutes = [
        int(spot_specification(each.pool).get("TimeoutDurationMinutes") or DEFAULT_SPOT_MINUTES)
        for each in spot
    ]
    return min(minutes) * minute


def explain(missing: Missing) -> tuple[str, Params]:
    """The message, in EC2's own words, and EMR's ErrorDetail of a cluster that gets no machines."""
    place = missing.place
    if missing.market == "SPOT":
        why = "There is no Spot capacity available that matches your request."
    else:
        why = (
            f"We currently do not have sufficient {missing.type} capacity in the Availability Zone you "
            f"requested ({place.zone}). Our system will be working on provisioning additional capacity."
        )
    where = f"{place.zone} ({place.subnet})" if place.subnet else place.zone
    names = {"MASTER": "master", "CORE": "core", "TASK": "task"}
    message = (
        f"EC2 has insufficient capacity for {missing.type} ({missing.market}) of the {names[missing.pool.role]} "
        f"instances in {where}. {why} (InsufficientInstanceCapacity)"
    )
    detail: Params = {
        "ErrorCode": "INTERNAL_ERROR_EC2_INSUFFICIENT_CAPACITY_AZ",
        "ErrorData": [{"instance-type": missing.type, "availability-zone": place.zone, "public-doc": _DOCS}],
        "ErrorMessage": message,
    }
    return message, detail
