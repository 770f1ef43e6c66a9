"""The machines of a cluster: instance fleets, instance groups, disks, managed scaling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from airflow_emr_etl.models.base import Model, Names
from airflow_emr_etl.models.template import is_template

Role = Literal["MASTER", "CORE", "TASK"]

_INSTANCE_TYPE = re.compile(r"[a-z][a-z0-9-]*\.(?:\d*x?large|metal(?:-\w+)?|medium|small|micro|nano)")
_MONEY = re.compile(r"\d+(?:\.\d+)?")


def _instance_type(value: str) -> str:
    if not is_template(value) and not _INSTANCE_TYPE.fullmatch(value):
        raise ValueError(f"{value!r} is not an EC2 instance type; write one such as 'm6g.xlarge'")
    return value


InstanceType = Annotated[str, AfterValidator(_instance_type)]

#: Types for a cluster whose spec names none: Graviton first, for its price; x86 last, for its supply.
DEFAULT_TYPES = ("m7g.xlarge", "m6g.xlarge", "m5.xlarge")

#: With an allocation strategy, which is always set here, a fleet may name this many types.
MAX_FLEET_TYPES = 30


class Configuration(Model):
    """One classification of Hadoop or Spark settings, such as ``spark-defaults``."""

    classification: str
    properties: Mapping[str, str] = {}
    configurations: tuple[Configuration, ...] = ()
    """Nested classifications, such as ``export`` under ``spark-env``."""

    @model_validator(mode="before")
    @classmethod
    def _accept_api_names(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "Classification" in value:
            return {str(key).lower(): item for key, item in value.items()}
        return value

    def to_api(self) -> dict[str, Any]:
        api: dict[str, Any] = {"Classification": self.classification, "Properties": dict(self.properties)}
        if self.configurations:
            api["Configurations"] = [nested.to_api() for nested in self.configurations]
        return api


class EbsVolume(Model):
    """Disks attached to each machine."""

    size_gib: int = Field(ge=1, le=16384)
    type: Literal["gp2", "gp3", "io1", "io2", "st1", "sc1", "standard"] = "gp3"
    count: int = Field(default=1, ge=1, le=25)
    """Volumes a machine."""
    iops: int | None = Field(default=None, ge=100)
    throughput_mib: int | None = Field(default=None, ge=125, le=2000)
    """MiB a second; gp3 only."""

    @model_validator(mode="after")
    def _fits_type(self) -> Self:
        if self.throughput_mib is not None and self.type != "gp3":
            raise ValueError(f"throughput_mib is for gp3 only, not {self.type}; drop it or set type='gp3'")
        if self.type in ("io1", "io2") and self.iops is None:
            raise ValueError(f"{self.type} volumes need iops; set it, or use type='gp3'")
        return self

    def to_api(self) -> dict[str, Any]:
        specification: dict[str, Any] = {"VolumeType": self.type, "SizeInGB": self.size_gib}
        if self.iops is not None:
            specification["Iops"] = self.iops
        if self.throughput_mib is not None:
            specification["Throughput"] = self.throughput_mib
        return {"VolumeSpecification": specification, "VolumesPerInstance": self.count}


def _ebs_to_api(volumes: tuple[EbsVolume, ...]) -> dict[str, Any]:
    return {
        "EbsBlockDeviceConfigs": [volume.to_api() for volume in volumes],
        "EbsOptimized": True,
    }


class FleetType(Model):
    """One instance type that a fleet may use."""

    type: InstanceType
    weight: int = Field(default=1, ge=1, le=999)
    """How many of the fleet's units one machine of this type counts for."""
    bid_percent: float | None = Field(default=None, gt=0)
    """Highest spot price, as a percentage of on-demand. None: up to the on-demand price."""
    priority: float | None = Field(default=None, ge=0)
    """For the prioritized strategies; the lowest number is taken first."""
    custom_ami_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value


class Fleet(Model):
    """An instance fleet: EMR fills its units from any of its types and subnets.

    ``Fleet(types=["m7g.xlarge", "m5.xlarge"], on_demand_units=4)``; ``types`` may also map a type to its
    weight: ``{"m7g.xlarge": 1, "m7g.2xlarge": 2}``. Spot units that EC2 does not deliver within
    ``spot_timeout`` are bought on demand unless ``on_spot_timeout`` says otherwise.
    """

    types: tuple[FleetType, ...] = tuple(FleetType(type=name) for name in DEFAULT_TYPES)
    on_demand_units: int = Field(default=0, ge=0)
    spot_units: int = Field(default=0, ge=0)
    spot_timeout: timedelta = timedelta(minutes=10)
    """Between 5 minutes and 1 day; counted in whole minutes."""
    on_spot_timeout: Literal["SWITCH_TO_ON_DEMAND", "TERMINATE_CLUSTER"] = "SWITCH_TO_ON_DEMAND"
    spot_strategy: Literal[
        "price-capacity-optimized",
        "capacity-optimized",
        "capacity-optimized-prioritized",
        "lowest-price",
        "diversified",
    ] = "price-capacity-optimized"
    on_demand_strategy: Literal["lowest-price", "prioritized"] = "lowest-price"
    resize_timeout: timedelta | None = None
    """How long a later resize tries; None leaves it to EMR."""
    ebs: tuple[EbsVolume, ...] = ()
    configurations: tuple[Configuration, ...] = ()

    @field_validator("types", mode="before")
    @classmethod
    def _from_weights(cls, value: Any) -> Any:
        if isinstance(value, str):
            return (value,)
        if isinstance(value, Mapping):
            return [{"type": name, "weight": weight} for name, weight in value.items()]
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.types:
            raise ValueError("a fleet needs at least one type, such as types=['m6g.xlarge']")
        if len(self.types) > MAX_FLEET_TYPES:
            raise ValueError(f"{len(self.types)} types given; a fleet may name at most {MAX_FLEET_TYPES}")
        names = [item.type for item in self.types]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"types name {', '.join(doubled)} more than once; name each type once")
        for label, duration in (("spot_timeout", self.spot_timeout), ("resize_timeout", self.resize_timeout)):
            if duration is not None and not timedelta(minutes=5) <= duration <= timedelta(days=1):
                raise ValueError(f"{label} is {duration}; EMR takes between 5 minutes and 1 day")
        return self

    @property
    def units(self) -> int:
        return self.on_demand_units + self.spot_units

    def to_api(self, role: Role) -> dict[str, Any]:
        launch: dict[str, Any] = {}
        if self.spot_units:
            launch["SpotSpecification"] = {
                "TimeoutDurationMinutes": int(self.spot_timeout.total_seconds() // 60),
                "TimeoutAction": self.on_spot_timeout,
                "AllocationStrategy": self.spot_strategy,
            }
        if self.on_demand_units or self.on_spot_timeout == "SWITCH_TO_ON_DEMAND":
            launch["OnDemandSpecification"] = {"AllocationStrategy": self.on_demand_strategy}
        api: dict[str, Any] = {
            "Name": role.lower().replace("master", "primary"),
            "InstanceFleetType": role,
            "TargetOnDemandCapacity": self.on_demand_units,
            "TargetSpotCapacity": self.spot_units,
            "InstanceTypeConfigs": [self._type_to_api(item, role) for item in self.types],
            "LaunchSpecifications": launch,
        }
        if self.resize_timeout is not None and role != "MASTER":
            minutes = int(self.resize_timeout.total_seconds() // 60)
            api["ResizeSpecifications"] = {
                "SpotResizeSpecification": {"TimeoutDurationMinutes": minutes},
                "OnDemandResizeSpecification": {"TimeoutDurationMinutes": minutes},
            }
        return api

    def with_types(self, names: Iterable[str]) -> Fleet:
        """This fleet with more types to choose from, each counting for one unit; EMR's limit is kept."""
        more = [FleetType(type=name) for name in names if all(name != own.type for own in self.types)]
        return self.model_copy(update={"types": (*self.types, *more)[:MAX_FLEET_TYPES]})

    def on_demand(self) -> Fleet:
        """This fleet with its spot units bought on demand."""
        return self.model_copy(update={"on_demand_units": self.units, "spot_units": 0})

    def _type_to_api(self, item: FleetType, role: Role) -> dict[str, Any]:
        api: dict[str, Any] = {"InstanceType": item.type}
        # EMR wants no other weight than 1 for the primary node.
        api["WeightedCapacity"] = 1 if role == "MASTER" else item.weight
        if item.bid_percent is not None:
            api["BidPriceAsPercentageOfOnDemandPrice"] = item.bid_percent
        if item.priority is not None:
            api["Priority"] = item.priority
        if item.custom_ami_id is not None:
            api["CustomAmiId"] = item.custom_ami_id
        if self.ebs:
            api["EbsConfiguration"] = _ebs_to_api(self.ebs)
        if self.configurations:
            api["Configurations"] = [item.to_api() for item in self.configurations]
        return api


class InstanceGroup(Model):
    """An instance group: machines of one type in one market."""

    type: InstanceType = DEFAULT_TYPES[1]
    count: int = Field(default=1, ge=1)
    market: Literal["ON_DEMAND", "SPOT"] = "ON_DEMAND"
    bid_price: str | None = None
    """Highest spot price in US dollars an hour. None: up to the on-demand price."""
    ebs: tuple[EbsVolume, ...] = ()
    configurations: tuple[Configuration, ...] = ()
    custom_ami_id: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.bid_price is None:
            return self
        if self.market != "SPOT":
            raise ValueError("bid_price is for spot machines; set market='SPOT' or drop bid_price")
        if not is_template(self.bid_price) and not _MONEY.fullmatch(self.bid_price):
            raise ValueError(f"bid_price is {self.bid_price!r}; write dollars an hour such as '0.12'")
        return self

    def on_demand(self) -> InstanceGroup:
        """This group on demand."""
        return self.model_copy(update={"market": "ON_DEMAND", "bid_price": None})

    def to_api(self, role: Role) -> dict[str, Any]:
        api: dict[str, Any] = {
            "Name": role.lower().replace("master", "primary"),
            "InstanceRole": role,
            "InstanceType": self.type,
            "InstanceCount": self.count,
            "Market": self.market,
        }
        if self.bid_price is not None:
            api["BidPrice"] = self.bid_price
        if self.ebs:
            api["EbsConfiguration"] = _ebs_to_api(self.ebs)
        if self.configurations:
            api["Configurations"] = [item.to_api() for item in self.configurations]
        if self.custom_ami_id is not None:
            api["CustomAmiId"] = self.custom_ami_id
        return api


class ManagedScaling(Model):
    """EMR grows and shrinks the cluster between these bounds.

    https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-managed-scaling.html
    """

    minimum: int = Field(ge=1)
    maximum: int = Field(ge=1)
    maximum_on_demand: int | None = Field(default=None, ge=0)
    """Units above this come from spot. None: no bound of its own."""
    maximum_core: int | None = Field(default=None, ge=0)
    """Units above this are task nodes, which hold no HDFS and so leave quickly."""
    unit: Literal["InstanceFleetUnits", "Instances", "VCPU"] | None = None
    """None: fleet units for fleets, machines for groups."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError(
                f"minimum ({self.minimum}) is above maximum ({self.maximum}); swap or raise them"
            )
        for label in ("maximum_on_demand", "maximum_core"):
            bound = getattr(self, label)
            if bound is not None and bound > self.maximum:
                raise ValueError(f"{label} ({bound}) is above maximum ({self.maximum}); lower it")
        return self

    def to_api(self, default_unit: str) -> dict[str, Any]:
        limits: dict[str, Any] = {
            "UnitType": self.unit or default_unit,
            "MinimumCapacityUnits": self.minimum,
            "MaximumCapacityUnits": self.maximum,
        }
        if self.maximum_on_demand is not None:
            limits["MaximumOnDemandCapacityUnits"] = self.maximum_on_demand
        if self.maximum_core is not None:
            limits["MaximumCoreCapacityUnits"] = self.maximum_core
        return {"ComputeLimits": limits}


class BootstrapAction(Model):
    """A script that runs on every machine before the applications start."""

    name: str = ""
    """Defaults to the script's file name."""
    path: str
    """``s3://…`` or a path on the machine's image, such as ``file:/usr/share/…``."""
    args: Names = ()

    @field_validator("path")
    @classmethod
    def _reachable(cls, value: str) -> str:
        if not is_template(value) and not value.startswith(("s3://", "s3a://", "file:")):
            raise ValueError(
                f"{value!r} cannot be reached from a machine; write s3://bucket/script or file:/path"
            )
        return value

    def to_api(self) -> dict[str, Any]:
        return {
            "Name": self.name or self.path.rsplit("/", 1)[-1],
            "ScriptBootstrapAction": {"Path": self.path, "Args": list(self.args)},
        }
