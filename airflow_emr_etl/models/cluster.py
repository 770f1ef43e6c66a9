"""``ClusterSpec``: a whole EMR cluster, checked before it costs anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from airflow_emr_etl.models.base import Model, Name, Names, S3Address, one_or_more
from airflow_emr_etl.models.instances import (
    BootstrapAction,
    Configuration,
    EbsVolume,
    Fleet,
    FleetType,
    InstanceGroup,
    InstanceType,
    ManagedScaling,
)
from airflow_emr_etl.models.template import is_template

__all__ = [
    "BootstrapAction",
    "ClusterSpec",
    "Configuration",
    "EbsVolume",
    "Fleet",
    "FleetType",
    "InstanceGroup",
    "ManagedScaling",
]

_RELEASE = re.compile(r"emr-(\d+)\.(\d+)\.(\d+)(?:-\w+)?")
_MIN_IDLE = timedelta(seconds=60)
_MAX_IDLE = timedelta(days=7)
#: EMR takes 50 tags for a cluster; the rest say whose it is.
_MAX_TAGS = 35


class ClusterSpec(Model):
    """What a cluster is made of. ``ClusterSpec(name="x")`` is valid: one primary and two core machines.

    ``primary``, ``core`` and ``task`` are all fleets or all instance groups. Any text may hold Jinja; the
    spec is checked when it is made and again when the task has rendered it. Raises pydantic's
    ``ValidationError``, a ``ValueError`` whose lines say what came, what is valid and how to mend it.
    """

    name: Name
    release: str = "emr-7.9.0"
    """Release label, ``emr-x.y.z``."""
    applications: Names = ("Spark",)
    primary: Fleet | InstanceGroup | None = None
    """None: one on-demand machine, of the kind (fleet or group) that ``core`` is."""
    core: Fleet | InstanceGroup | None = Fleet(on_demand_units=2)
    """None: a cluster of the primary machine alone."""
    task: Fleet | InstanceGroup | None = None
    managed_scaling: ManagedScaling | None = None

    subnets: Names = ()
    """Subnet ids. Fleets choose among several; groups take the first, and the others when it has no capacity."""
    fallback_types: Annotated[tuple[InstanceType, ...], BeforeValidator(one_or_more)] = ()
    """Instance types to try where EC2 has none of what core and task ask for: fleets add them to their
    own, groups take one after the other."""
    on_demand_fallback: bool = True
    """Whether the last try for capacity buys on demand what was asked for as spot."""
    service_role: Name = "EMR_DefaultRole"
    job_flow_role: Name = "EMR_EC2_DefaultRole"
    """The instance profile: what the machines, and so the jobs, may do."""
    autoscaling_role: str | None = None
    security_configuration: str | None = None
    primary_security_group: str | None = None
    core_security_group: str | None = None
    service_access_security_group: str | None = None
    additional_primary_security_groups: Names = ()
    additional_core_security_groups: Names = ()
    key_pair: str | None = None
    """Name of an EC2 key pair for SSH."""

    log_uri: S3Address | None = None
    """Where EMR copies logs: ``s3://bucket/prefix/``. Without it a failed step cannot be explained."""
    log_kms_key: str | None = None
    """Id or ARN of the KMS key that encrypts the logs."""
    bootstrap: tuple[BootstrapAction, ...] = ()
    configurations: tuple[Configuration, ...] = ()
    tags: Mapping[str, str] = {}

    idle_timeout: timedelta = timedelta(minutes=30)
    """EMR ends the cluster after this long without work: always set, so that nothing runs for ever.
    1 minute to 7 days."""
    max_age: timedelta | None = None
    """The reaper ends the cluster this long after its creation. None: when its run is over."""
    keep_alive: bool = True
    """False: the cluster ends when it has no steps left, so it cannot wait for a DAG's next step."""
    termination_protection: bool = False
    step_concurrency: int = Field(default=1, ge=1, le=256)
    """Steps that run side by side."""
    root_volume_gib: int | None = Field(default=None, ge=10, le=1024)
    custom_ami_id: str | None = None
    unhealthy_node_replacement: bool | None = None
    """None leaves it to EMR."""

    @field_validator("release")
    @classmethod
    def _known_release(cls, value: str) -> str:
        if is_template(value):
            return value
        match = _RELEASE.fullmatch(value)
        if match is None:
            raise ValueError(f"{value!r} is not a release label; write one such as 'emr-7.9.0'")
        if (int(match[1]), int(match[2])) < (5, 30) or (int(match[1]), int(match[2])) == (6, 0):
            raise ValueError(
                f"{value!r} has no auto-termination when idle, which is always set here; use emr-5.30.0 or later, "
                "or emr-6.1.0 or later"
            )
        return value

    @field_validator("configurations", mode="before")
    @classmethod
    def _from_settings(cls, value: Any) -> Any:
        """``{"spark-defaults": {"spark.x": "y"}}`` is the short form."""
        if isinstance(value, Mapping):
            return [{"classification": name, "properties": settings} for name, settings in value.items()]
        return value

    @field_validator("bootstrap", mode="before")
    @classmethod
    def _from_paths(cls, value: Any) -> Any:
        items = (value,) if isinstance(value, str) else value
        if isinstance(items, list | tuple):
            return [{"path": item} if isinstance(item, str) else item for item in items]
        return items

    @field_validator("idle_timeout")
    @classmethod
    def _within_bounds(cls, value: timedelta) -> timedelta:
        if not _MIN_IDLE <= value <= _MAX_IDLE:
            raise ValueError(f"idle_timeout is {value}; EMR takes between 1 minute and 7 days")
        return value

    @field_validator("tags")
    @classmethod
    def _taggable(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        if len(value) > _MAX_TAGS:
            raise ValueError(f"{len(value)} tags given; a cluster takes at most {_MAX_TAGS}")
        for key, text in value.items():
            if not key or len(key) > 128 or len(text) > 256 or key.lower().startswith("aws:"):
                raise ValueError(
                    f"tag {key!r} is not possible: a key has 1 to 128 characters and does not begin with 'aws:', "
                    "a value has at most 256"
                )
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        kinds = {
            role: type(machines).__name__
            for role, machines in (("primary", self.primary), ("core", self.core), ("task", self.task))
            if machines is not None
        }
        if len(set(kinds.values())) > 1:
            told = ", ".join(f"{role} is a {kind}" for role, kind in kinds.items())
            raise ValueError(
                f"{told}; a cluster has either fleets or instance groups: make them all the same"
            )
        if self.task is not None and self.core is None:
            raise ValueError("task machines need core machines beside them; set core as well")
        self._check_primary()
        for role, machines in (("core", self.core), ("task", self.task)):
            if isinstance(machines, Fleet) and machines.units == 0:
                raise ValueError(f"the {role} fleet asks for nothing; set on_demand_units or spot_units")
        if self.managed_scaling is not None:
            if self.core is None:
                raise ValueError("managed_scaling needs core machines to scale; set core")
            unit = self.managed_scaling.unit
            if unit is not None and (unit == "InstanceFleetUnits") != self._uses_fleets:
                valid = "'InstanceFleetUnits'" if self._uses_fleets else "'Instances' or 'VCPU'"
                raise ValueError(f"managed_scaling.unit is {unit!r}; here it is {valid}, or leave it out")
        if self.log_kms_key is not None and self.log_uri is None:
            raise ValueError("log_kms_key encrypts the logs at log_uri; set log_uri as well")
        return self

    def _check_primary(self) -> None:
        primary = self.primary
        if isinstance(primary, Fleet) and primary.units != 1:
            raise ValueError(
                f"the primary fleet asks for {primary.units} units; set on_demand_units=1 (or spot_units=1)"
            )
        if isinstance(primary, InstanceGroup) and primary.count not in (1, 3):
            raise ValueError(
                f"the primary group has {primary.count} machines; EMR takes 1, or 3 for high availability"
            )

    def ladder(self) -> tuple[ClusterSpec, ...]:
        """What to ask EC2 for, one after the other, while it has no capacity; this spec is the first.

        Then come the fallback types, each subnet by itself, and last of all on-demand in place of spot.
        """
        rungs = [self]
        rungs += [self.model_copy(update=update) for update in self._other_types()]
        for subnet in self.subnets if self._uses_fleets else self.subnets[1:]:
            rungs.append(rungs[0].model_copy(update={"subnets": (subnet,)}))
        if self.on_demand_fallback:
            rungs.append(self.model_copy(update=self._on_demand()))
        different: list[ClusterSpec] = []
        for rung in rungs:
            if all(rung.to_api() != other.to_api() for other in different):
                different.append(rung)
        return tuple(different)

    def _other_types(self) -> list[dict[str, Any]]:
        machines = {"core": self.core, "task": self.task}
        if not self.fallback_types:
            return []
        if self._uses_fleets:
            return [
                {
                    role: fleet.with_types(self.fallback_types)
                    for role, fleet in machines.items()
                    if isinstance(fleet, Fleet)
                }
            ]
        return [
            {
                role: group.model_copy(update={"type": name})
                for role, group in machines.items()
                if isinstance(group, InstanceGroup)
            }
            for name in self.fallback_types
        ]

    def _on_demand(self) -> dict[str, Any]:
        machines = {"primary": self.primary, "core": self.core, "task": self.task}
        changed = {role: each.on_demand() for role, each in machines.items() if each is not None}
        if self._uses_fleets and changed:
            for role, fleet in self._other_types()[0].items() if self.fallback_types else ():
                changed[role] = fleet.on_demand()
        return changed

    @property
    def _uses_fleets(self) -> bool:
        machines = self.core or self.primary
        return machines is None or isinstance(machines, Fleet)

    @property
    def _primary(self) -> Fleet | InstanceGroup:
        if self.primary is not None:
            return self.primary
        if isinstance(self.core, InstanceGroup):
            return InstanceGroup(type=self.core.type)
        return Fleet(types=self.core.types, on_demand_units=1) if self.core else Fleet(on_demand_units=1)

    def to_api(self) -> dict[str, Any]:
        """Keyword arguments of boto3's ``run_job_flow``."""
        api: dict[str, Any] = {
            "Name": self.name,
            "ReleaseLabel": self.release,
            "Applications": [{"Name": name} for name in self.applications],
            "Instances": self._instances_to_api(),
            "ServiceRole": self.service_role,
            "JobFlowRole": self.job_flow_role,
            "VisibleToAllUsers": True,
            "StepConcurrencyLevel": self.step_concurrency,
            "ScaleDownBehavior": "TERMINATE_AT_TASK_COMPLETION",
            "AutoTerminationPolicy": {"IdleTimeout": int(self.idle_timeout.total_seconds())},
        }
        optional: dict[str, Any] = {
            "LogUri": self.log_uri,
            "LogEncryptionKmsKeyId": self.log_kms_key,
            "BootstrapActions": [action.to_api() for action in self.bootstrap],
            "Configurations": [item.to_api() for item in self.configurations],
            "Tags": [{"Key": key, "Value": text} for key, text in sorted(self.tags.items())],
            "SecurityConfiguration": self.security_configuration,
            "AutoScalingRole": self.autoscaling_role,
            "CustomAmiId": self.custom_ami_id,
            "EbsRootVolumeSize": self.root_volume_gib,
        }
        if self.managed_scaling is not None:
            default_unit = "InstanceFleetUnits" if self._uses_fleets else "Instances"
            optional["ManagedScalingPolicy"] = self.managed_scaling.to_api(default_unit)
        return api | {key: value for key, value in optional.items() if value not in (None, [])}

    def _instances_to_api(self) -> dict[str, Any]:
        machines = [self._primary.to_api("MASTER")]
        if self.core is not None:
            machines.append(self.core.to_api("CORE"))
        if self.task is not None:
            machines.append(self.task.to_api("TASK"))
        api: dict[str, Any] = {
            "InstanceFleets" if self._uses_fleets else "InstanceGroups": machines,
            "KeepJobFlowAliveWhenNoSteps": self.keep_alive,
            "TerminationProtected": self.termination_protection,
        }
        optional: dict[str, Any] = {
            "Ec2SubnetIds": list(self.subnets) if self._uses_fleets else [],
            "Ec2SubnetId": self.subnets[0] if self.subnets and not self._uses_fleets else None,
            "Ec2KeyName": self.key_pair,
            "EmrManagedMasterSecurityGroup": self.primary_security_group,
            "EmrManagedSlaveSecurityGroup": self.core_security_group,
            "ServiceAccessSecurityGroup": self.service_access_security_group,
            "AdditionalMasterSecurityGroups": list(self.additional_primary_security_groups),
            "AdditionalSlaveSecurityGroups": list(self.additional_core_security_groups),
            "UnhealthyNodeReplacement": self.unhealthy_node_replacement,
        }
        return api | {key: value for key, value in optional.items() if value not in (None, [])}
