"""What a spec asks EC2 for, one after the other."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_emr_etl.models.cluster import ClusterSpec, Fleet, InstanceGroup


def types_of(spec: ClusterSpec, role: str = "CORE") -> list[str]:
    instances = spec.to_api()["Instances"]
    for fleet in instances.get("InstanceFleets", []):
        if fleet["InstanceFleetType"] == role:
            return [each["InstanceType"] for each in fleet["InstanceTypeConfigs"]]
    return [each["InstanceType"] for each in instances["InstanceGroups"] if each["InstanceRole"] == role]


def subnets_of(spec: ClusterSpec) -> Any:
    instances = spec.to_api()["Instances"]
    return instances.get("Ec2SubnetIds") or instances.get("Ec2SubnetId")


def units_of(spec: ClusterSpec, role: str = "CORE") -> tuple[int, int]:
    [fleet] = [
        each for each in spec.to_api()["Instances"]["InstanceFleets"] if each["InstanceFleetType"] == role
    ]
    return fleet["TargetOnDemandCapacity"], fleet["TargetSpotCapacity"]


def test_the_first_rung_is_the_spec() -> None:
    spec = ClusterSpec(name="x", core=Fleet(spot_units=2), fallback_types=["r5.xlarge"], subnets=["a", "b"])
    assert spec.ladder()[0] == spec


def test_where_nothing_else_is_allowed_there_is_one_rung() -> None:
    assert len(ClusterSpec(name="x").ladder()) == 1
    assert len(ClusterSpec(name="x", core=Fleet(spot_units=2), on_demand_fallback=False).ladder()) == 1


def test_fleets_get_more_types_then_single_subnets_then_on_demand() -> None:
    spec = ClusterSpec(
        name="x",
        core=Fleet(types=["m5.xlarge"], on_demand_units=1, spot_units=2),
        task=Fleet(types=["m5.2xlarge"], spot_units=8),
        fallback_types=["r5.xlarge", "m5.xlarge"],
        subnets=["subnet-1", "subnet-2"],
    )
    rungs = spec.ladder()
    assert [subnets_of(rung) for rung in rungs] == [
        ["subnet-1", "subnet-2"],
        ["subnet-1", "subnet-2"],
        ["subnet-1"],
        ["subnet-2"],
        ["subnet-1", "subnet-2"],
    ]
    assert types_of(rungs[0]) == ["m5.xlarge"]
    assert types_of(rungs[1]) == ["m5.xlarge", "r5.xlarge"]
    assert types_of(rungs[1], "TASK") == ["m5.2xlarge", "r5.xlarge", "m5.xlarge"]
    assert [units_of(rung) for rung in rungs] == [(1, 2)] * 4 + [(3, 0)]
    assert units_of(rungs[-1], "TASK") == (8, 0)
    assert types_of(rungs[-1]) == ["m5.xlarge", "r5.xlarge"]


def test_groups_try_type_by_type_and_subnet_by_subnet() -> None:
    spec = ClusterSpec(
        name="x",
        primary=InstanceGroup(type="m5.xlarge"),
        core=InstanceGroup(type="m5.xlarge", count=3, market="SPOT", bid_price="0.1"),
        fallback_types=["r5.xlarge", "c5.xlarge"],
        subnets=["subnet-1", "subnet-2"],
    )
    rungs = spec.ladder()
    assert [(types_of(rung), subnets_of(rung)) for rung in rungs] == [
        (["m5.xlarge"], "subnet-1"),
        (["r5.xlarge"], "subnet-1"),
        (["c5.xlarge"], "subnet-1"),
        (["m5.xlarge"], "subnet-2"),
        (["m5.xlarge"], "subnet-1"),
    ]
    core = rungs[-1].to_api()["Instances"]["InstanceGroups"][1]
    assert core["Market"] == "ON_DEMAND"
    assert "BidPrice" not in core


def test_no_two_rungs_ask_for_the_same() -> None:
    spec = ClusterSpec(
        name="x",
        core=Fleet(types=["m5.xlarge"], on_demand_units=2),
        fallback_types=["m5.xlarge"],
        subnets="a",
    )
    assert len(spec.ladder()) == 1


def test_the_primary_is_bought_on_demand_last_of_all() -> None:
    spec = ClusterSpec(name="x", primary=Fleet(spot_units=1), core=None)
    assert [units_of(rung, "MASTER") for rung in spec.ladder()] == [(0, 1), (1, 0)]


def test_a_fleet_takes_no_more_types_than_emr_does() -> None:
    many = [f"m{n}.xlarge" for n in range(29)]
    spec = ClusterSpec(
        name="x", core=Fleet(types=many, spot_units=1), fallback_types=["r5.xlarge", "c5.xlarge"]
    )
    assert types_of(spec.ladder()[1]) == [*many, "r5.xlarge"]


@pytest.mark.parametrize("core", [Fleet(spot_units=2), InstanceGroup(market="SPOT")])
def test_everything_else_stays_as_it_is(core: Any) -> None:
    spec = ClusterSpec(
        name="x",
        core=core,
        fallback_types="r5.xlarge",
        subnets=["a", "b"],
        idle_timeout=timedelta(minutes=5),
        tags={"team": "data"},
        step_concurrency=4,
    )
    rest = [
        {key: item for key, item in rung.to_api().items() if key != "Instances"} for rung in spec.ladder()
    ]
    assert len(rest) > 3
    assert all(each == rest[0] for each in rest)


def test_every_rung_is_a_spec_of_its_own() -> None:
    spec = ClusterSpec(name="x", core=Fleet(spot_units=2), fallback_types="r5.xlarge", subnets=["a", "b"])
    for rung in spec.ladder():
        assert ClusterSpec.model_validate(rung.document()) == rung
