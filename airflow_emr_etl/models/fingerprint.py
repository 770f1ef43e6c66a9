"""What a cluster is made of, in terms in which another spec can ask for as much or less of it.

A step of a pool may run on any cluster whose fingerprint *covers* that of the step's spec: the same software and
security, and machines that are as good or better.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from airflow_emr_etl.models.base import Model
from airflow_emr_etl.models.cluster import ClusterSpec
from airflow_emr_etl.models.instances import Configuration, EbsVolume, Fleet, InstanceGroup, ManagedScaling
from airflow_emr_etl.models.intent import digest_of

_SIZE = re.compile(r"(?P<count>\d*)(?P<name>xlarge|large|medium|small|micro|nano)")
#: EC2's own normalization factors: an xlarge is worth eight smalls.
#: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/apply_ri.html
_FACTORS: Final = {"nano": 0.25, "micro": 0.5, "small": 1.0, "medium": 2.0, "large": 4.0, "xlarge": 8.0}


class MachineType(Model):
    """One instance type, and how many of its role's units a machine of it counts for."""

    type: str
    weight: int = 1
    custom_ami_id: str | None = None

    @property
    def family(self) -> str:
        """``m7g`` of ``m7g.2xlarge``: processor, architecture and memory for each core."""
        return self.type.partition(".")[0]

    @property
    def size(self) -> float | None:
        """EC2's normalization factor; None for bare metal, which no other size compares with."""
        found = _SIZE.fullmatch(self.type.partition(".")[2])
        return int(found["count"] or 1) * _FACTORS[found["name"]] if found else None

    def capacity(self, units: int) -> float:
        """What ``units`` of this type are worth. EMR buys whole machines, the last one beyond the units."""
        return math.ceil(units / self.weight) * (self.size or 0.0)


class Machines(Model):
    """The machines of one role. A group is a fleet of one type whose machines count for one unit each."""

    types: tuple[MachineType, ...]
    on_demand_units: int = 0
    spot_units: int = 0
    storage_gib: Mapping[str, int] = {}
    """Attached disks of each machine in GiB, by their kind."""
    configurations: Mapping[str, str] = {}
    """Digest of each classification that is set for this role alone."""

    @classmethod
    def of(cls, machines: Fleet | InstanceGroup) -> Machines:
        """The machines that a fleet or a group asks for."""
        shared: dict[str, Any] = {
            "storage_gib": _storage(machines.ebs),
            "configurations": _canonical(machines.configurations),
        }
        if isinstance(machines, InstanceGroup):
            bought = "spot_units" if machines.market == "SPOT" else "on_demand_units"
            one = MachineType(type=machines.type, custom_ami_id=machines.custom_ami_id)
            return cls(types=(one,), **{bought: machines.count}, **shared)
        types = (
            MachineType(type=item.type, weight=item.weight, custom_ami_id=item.custom_ami_id)
            for item in machines.types
        )
        return cls(
            types=tuple(sorted(types, key=lambda item: item.type)),
            on_demand_units=machines.on_demand_units,
            spot_units=machines.spot_units,
            **shared,
        )

    def why_not(self, wanted: Machines) -> list[str]:
        """Why these machines cannot stand in for ``wanted``; nothing where they can."""
        told = _compare_types(self, wanted)
        for kind, gib in sorted(wanted.storage_gib.items()):
            have = self.storage_gib.get(kind, 0)
            if have < gib:
                told.append(f"{have} GiB of {kind} disk on each machine, where {gib} are wanted")
        told += _different("the classification", self.configurations, wanted.configurations)
        return told

    def capacity(self, units: int) -> float:
        """What ``units`` are worth in smalls, if EMR takes the type that gives the least."""
        return min(item.capacity(units) for item in self.types)


class Fingerprint(Model):
    """What matters about a cluster to a step. Names, tags, and times until it ends do not."""

    release: str
    applications: tuple[str, ...]
    configurations: Mapping[str, str] = {}
    """Digest of each classification."""
    bootstrap: tuple[str, ...] = ()
    """Digest of each action in its order: the bytes of its script, and its arguments."""
    machines: Mapping[str, Machines]
    """By role: primary, core, task."""
    scaling: ManagedScaling | None = None
    settings: Mapping[str, str] = {}
    """What must be the very same: roles, security, images, where logs go."""
    security_groups: Mapping[str, tuple[str, ...]] = {}
    """Additional groups by role; their order does not matter."""
    subnets: tuple[str, ...] = ()
    root_volume_gib: int | None = None
    step_concurrency: int = 1

    @classmethod
    def of(cls, spec: ClusterSpec, scripts: Mapping[str, str]) -> Fingerprint:
        """The fingerprint of a rendered spec.

        ``scripts`` gives ``digest_of_script`` for each ``s3://`` path among the bootstrap actions; a path
        that is missing there is a KeyError. A ``file:`` path is part of the machine's image, which the
        release and the AMI name.
        """
        api = spec.to_api()["Instances"]
        primary = (api.get("InstanceFleets") or api["InstanceGroups"])[0]
        roles = {"primary": _primary(primary, spec), "core": spec.core, "task": spec.task}
        settings = {
            name: value
            for name in _SETTINGS
            if (value := getattr(spec, name)) is not None  # unset and set are different settings
        }
        return cls(
            release=spec.release,
            applications=tuple(sorted({name.lower() for name in spec.applications})),
            configurations=_canonical(spec.configurations),
            bootstrap=tuple(
                digest_of([_script(action.path, scripts), list(action.args)]) for action in spec.bootstrap
            ),
            machines={role: Machines.of(each) for role, each in roles.items() if each is not None},
            scaling=spec.managed_scaling,
            settings={name: str(value) for name, value in settings.items()},
            security_groups={
                role: tuple(sorted(groups))
                for role, groups in (
                    ("primary", spec.additional_primary_security_groups),
                    ("core", spec.additional_core_security_groups),
                )
                if groups
            },
            subnets=tuple(sorted(spec.subnets)),
            root_volume_gib=spec.root_volume_gib,
            step_concurrency=spec.step_concurrency,
        )

    @property
    def digest(self) -> str:
        """8 hexadecimal digits: the same for clusters of the same make."""
        return digest_of(self.model_dump(mode="json"), 8)

    def covers(self, wanted: Fingerprint) -> bool:
        """Whether a step that asks for ``wanted`` may run on a cluster with this fingerprint."""
        return not self.why_not(wanted)

    def why_not(self, wanted: Fingerprint) -> tuple[str, ...]:
        """Every reason against it, for people; empty where this covers ``wanted``."""
        told: list[str] = []
        if self.release != wanted.release:
            told.append(f"release {self.release}, where {wanted.release} is wanted")
        if missing := sorted(set(wanted.applications) - set(self.applications)):
            told.append(f"no {', '.join(missing)}")
        told += _different("the classification", self.configurations, wanted.configurations)
        if self.bootstrap != wanted.bootstrap:
            told.append("other bootstrap actions, or other contents or arguments of them")
        for role, machines in wanted.machines.items():
            have = self.machines.get(role)
            reasons = ["no such machines"] if have is None else have.why_not(machines)
            told += [f"{role}: {reason}" for reason in reasons]
        told += _compare_scaling(self.scaling, wanted.scaling)
        told += _different("the setting", self.settings, wanted.settings)
        if self.security_groups != wanted.security_groups:
            told.append("other additional security groups")
        told += _compare_subnets(self.subnets, wanted.subnets)
        if wanted.root_volume_gib is not None and (self.root_volume_gib or 0) < wanted.root_volume_gib:
            told.append(
                f"a root volume of {self.root_volume_gib or 'the default'} GiB, "
                f"where {wanted.root_volume_gib} are wanted"
            )
        if self.step_concurrency != wanted.step_concurrency:
            # More is no better: a step that asked to be alone would share its machines.
            told.append(
                f"{self.step_concurrency} steps side by side, where {wanted.step_concurrency} is wanted"
            )
        return tuple(told)


_SETTINGS: Final = (
    "service_role",
    "job_flow_role",
    "autoscaling_role",
    "security_configuration",
    "primary_security_group",
    "core_security_group",
    "service_access_security_group",
    "key_pair",
    "custom_ami_id",
    "log_uri",
    "log_kms_key",
    "unhealthy_node_replacement",
)


def digest_of_script(content: bytes) -> str:
    """The digest of a bootstrap script's bytes, as ``Fingerprint.of`` wants it."""
    return hashlib.sha256(content).hexdigest()


def scripts_in_s3(spec: ClusterSpec) -> tuple[str, ...]:
    """The addresses whose contents are part of the spec's fingerprint."""
    return tuple(dict.fromkeys(action.path for action in spec.bootstrap if _in_s3(action.path)))


def _in_s3(path: str) -> bool:
    return path.startswith(("s3://", "s3a://"))


def _script(path: str, scripts: Mapping[str, str]) -> str:
    return scripts[path] if _in_s3(path) else path


def _primary(api: Mapping[str, Any], spec: ClusterSpec) -> Fleet | InstanceGroup:
    """The primary machine, which a spec may leave to be chosen."""
    if spec.primary is not None:
        return spec.primary
    if "InstanceType" in api:
        return InstanceGroup(type=api["InstanceType"], count=api["InstanceCount"])
    return Fleet(types=[item["InstanceType"] for item in api["InstanceTypeConfigs"]], on_demand_units=1)


def _canonical(configurations: Iterable[Configuration]) -> dict[str, str]:
    """Each classification with the digest of its contents; neither the order of keys nor of entries matters."""
    found: dict[str, list[str]] = {}
    for item in configurations:
        contents = json.dumps([dict(item.properties), _canonical(item.configurations)], sort_keys=True)
        found.setdefault(item.classification, []).append(contents)
    return {name: digest_of(sorted(contents)) for name, contents in sorted(found.items())}


def _storage(volumes: Iterable[EbsVolume]) -> dict[str, int]:
    found: dict[str, int] = {}
    for volume in volumes:
        speed = "/".join(str(each) for each in (volume.iops, volume.throughput_mib) if each is not None)
        kind = f"{volume.type} ({speed})" if speed else volume.type
        found[kind] = found.get(kind, 0) + volume.size_gib * volume.count
    return found


def _compare_types(have: Machines, wanted: Machines) -> list[str]:
    told: list[str] = []
    if {item.custom_ami_id for item in have.types} != {item.custom_ami_id for item in wanted.types}:
        told.append("another machine image")
    sizes = [item.size for item in (*have.types, *wanted.types)]
    if None in sizes:
        return told + _compare_exactly(have, wanted)
    families = {item.family for item in wanted.types}
    if other := sorted({item.family for item in have.types} - families):
        told.append(f"may be of {', '.join(other)}, where {', '.join(sorted(families))} is wanted")
    smallest = min(item.size or 0.0 for item in have.types), min(item.size or 0.0 for item in wanted.types)
    if smallest[0] < smallest[1]:
        told.append("its smallest machine is smaller than the smallest that is wanted")
    bought = have.capacity(have.on_demand_units), wanted.capacity(wanted.on_demand_units)
    if bought[0] < bought[1]:
        told.append(f"on-demand capacity of {bought[0]:g}, where {bought[1]:g} is wanted")
    total = (
        bought[0] + have.capacity(have.spot_units),
        bought[1] + wanted.capacity(wanted.spot_units),
    )
    if total[0] < total[1]:
        told.append(f"capacity of {total[0]:g}, where {total[1]:g} is wanted")
    return told


def _compare_exactly(have: Machines, wanted: Machines) -> list[str]:
    """For sizes that do not compare: the same types, and no fewer units of them."""
    if have.types != wanted.types:
        return ["other instance types, of which some do not compare by size"]
    if (
        have.on_demand_units < wanted.on_demand_units
        or have.on_demand_units + have.spot_units < wanted.on_demand_units + wanted.spot_units
    ):
        return ["fewer machines"]
    return []


def _compare_scaling(have: ManagedScaling | None, wanted: ManagedScaling | None) -> list[str]:
    if (have is None) != (wanted is None):
        return [f"managed scaling is {'off' if have is None else 'on'}, and wanted the other way"]
    if have is None or wanted is None:
        return []
    if have.unit != wanted.unit:
        return [f"managed scaling counts in {have.unit}, where {wanted.unit} is wanted"]
    unbounded = math.inf
    pairs = {
        "minimum": (have.minimum, wanted.minimum),
        "maximum": (have.maximum, wanted.maximum),
        "maximum_core": (
            unbounded if have.maximum_core is None else have.maximum_core,
            unbounded if wanted.maximum_core is None else wanted.maximum_core,
        ),
        "maximum_on_demand": (
            unbounded if have.maximum_on_demand is None else have.maximum_on_demand,
            unbounded if wanted.maximum_on_demand is None else wanted.maximum_on_demand,
        ),
    }
    return [
        f"managed scaling with a {name} of {there}, where {asked} is wanted"
        for name, (there, asked) in pairs.items()
        if there < asked
    ]


def _compare_subnets(have: tuple[str, ...], wanted: tuple[str, ...]) -> list[str]:
    """A cluster sits in one of its subnets, so each of them must be welcome; none means EMR's default."""
    if not wanted and not have:
        return []
    if have and set(have) <= set(wanted):
        return []
    return [
        f"in {', '.join(have) or 'the default subnet'}, "
        f"where {', '.join(wanted) or 'the default subnet'} is wanted"
    ]


def _different(what: str, have: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    return [
        f"{what} {name} differs" for name in sorted({*have, *wanted}) if have.get(name) != wanted.get(name)
    ]
