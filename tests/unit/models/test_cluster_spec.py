from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from airflow_emr_etl.models.cluster import (
    BootstrapAction,
    ClusterSpec,
    EbsVolume,
    Fleet,
    InstanceGroup,
    ManagedScaling,
)


def test_a_name_is_enough_and_idle_termination_is_always_set() -> None:
    api = ClusterSpec(name="x").to_api()
    assert api["AutoTerminationPolicy"] == {"IdleTimeout": 1800}
    assert api["Applications"] == [{"Name": "Spark"}]
    fleets = {fleet["InstanceFleetType"]: fleet for fleet in api["Instances"]["InstanceFleets"]}
    assert fleets["MASTER"]["TargetOnDemandCapacity"] == 1
    assert fleets["CORE"]["TargetOnDemandCapacity"] == 2
    assert fleets["CORE"]["InstanceTypeConfigs"][0]["InstanceType"].startswith("m7g.")


def test_spot_falls_back_to_on_demand() -> None:
    spec = ClusterSpec(
        name="x", task=Fleet(types=["m6g.xlarge"], spot_units=8, spot_timeout=timedelta(minutes=7))
    )
    task = spec.to_api()["Instances"]["InstanceFleets"][2]
    assert task["TargetSpotCapacity"] == 8
    assert task["LaunchSpecifications"]["SpotSpecification"] == {
        "TimeoutDurationMinutes": 7,
        "TimeoutAction": "SWITCH_TO_ON_DEMAND",
        "AllocationStrategy": "price-capacity-optimized",
    }


def test_weights_of_a_mapping() -> None:
    fleet = Fleet(types={"m5.xlarge": 4, "m5.2xlarge": 8}, on_demand_units=8)
    assert [(item.type, item.weight) for item in fleet.types] == [("m5.xlarge", 4), ("m5.2xlarge", 8)]


def test_the_primary_is_of_the_same_kind_as_the_core() -> None:
    spec = ClusterSpec(name="x", core=InstanceGroup(type="m5.xlarge", count=3), subnets="subnet-1")
    instances = spec.to_api()["Instances"]
    assert [group["InstanceRole"] for group in instances["InstanceGroups"]] == ["MASTER", "CORE"]
    assert instances["Ec2SubnetId"] == "subnet-1"
    assert "InstanceFleets" not in instances


def test_groups_start_in_the_first_subnet() -> None:
    spec = ClusterSpec(name="x", core=InstanceGroup(), subnets=["subnet-1", "subnet-2"])
    assert spec.to_api()["Instances"]["Ec2SubnetId"] == "subnet-1"


def test_scaling_counts_in_what_the_cluster_has() -> None:
    scaling = ManagedScaling(minimum=2, maximum=10, maximum_core=4)
    fleets = ClusterSpec(name="x", managed_scaling=scaling).to_api()
    groups = ClusterSpec(name="x", core=InstanceGroup(), managed_scaling=scaling).to_api()
    assert fleets["ManagedScalingPolicy"]["ComputeLimits"]["UnitType"] == "InstanceFleetUnits"
    assert groups["ManagedScalingPolicy"]["ComputeLimits"]["UnitType"] == "Instances"


def test_short_forms() -> None:
    spec = ClusterSpec(
        name="x",
        bootstrap=["s3://b/install.sh"],
        configurations={"spark-defaults": {"spark.sql.shuffle.partitions": "64"}},
    )
    assert spec.bootstrap == (BootstrapAction(path="s3://b/install.sh"),)
    api = spec.to_api()
    assert api["BootstrapActions"][0]["Name"] == "install.sh"
    assert api["Configurations"][0]["Classification"] == "spark-defaults"


def test_templates_pass_wherever_content_is_checked() -> None:
    spec = ClusterSpec(
        name="clickstream-{{ ds }}",
        release="{{ var.value.release }}",
        log_uri="{{ var.value.logs }}",
        core=Fleet(types=["{{ params.type }}"], on_demand_units=1),
        bootstrap=["{{ var.value.script }}"],
    )
    assert spec.release == "{{ var.value.release }}"


def test_the_document_makes_the_same_spec() -> None:
    spec = ClusterSpec(
        name="x",
        core=Fleet(types={"m5.xlarge": 4}, on_demand_units=2, spot_units=2),
        idle_timeout=timedelta(minutes=5),
        tags={"team": "data"},
        managed_scaling=ManagedScaling(minimum=1, maximum=2),
        fallback_types="r5.xlarge",
        on_demand_fallback=False,
        max_age=timedelta(hours=3),
    )
    assert ClusterSpec.model_validate(spec.document()) == spec


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        ClusterSpec(name="x").name = "y"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": " "}, "at least one character"),
        ({"nmae": "x"}, "Extra inputs"),
        ({"release": "7.9"}, "write one such as 'emr-7.9.0'"),
        ({"release": "emr-5.20.0"}, "use emr-5.30.0 or later"),
        ({"idle_timeout": timedelta(seconds=30)}, "between 1 minute and 7 days"),
        ({"idle_timeout": timedelta(days=8)}, "between 1 minute and 7 days"),
        ({"step_concurrency": 257}, "less than or equal to 256"),
        ({"log_uri": "/var/log"}, "write it as s3://bucket/key"),
        ({"log_kms_key": "k"}, "set log_uri as well"),
        ({"core": Fleet()}, "the core fleet asks for nothing"),
        ({"core": None, "task": Fleet(spot_units=1)}, "task machines need core machines"),
        ({"primary": InstanceGroup()}, "primary is a InstanceGroup, core is a Fleet"),
        ({"primary": Fleet(on_demand_units=2)}, "the primary fleet asks for 2 units"),
        ({"primary": InstanceGroup(count=2), "core": InstanceGroup()}, "takes 1, or 3"),
        ({"fallback_types": ["m5"]}, "is not an EC2 instance type"),
        (
            {
                "core": InstanceGroup(),
                "managed_scaling": {"minimum": 1, "maximum": 2, "unit": "InstanceFleetUnits"},
            },
            "here it is 'Instances' or 'VCPU'",
        ),
        ({"managed_scaling": {"minimum": 3, "maximum": 2}}, "minimum (3) is above maximum (2)"),
        ({"tags": {"aws:x": "y"}}, "does not begin with 'aws:'"),
        # The rest of EMR's 50 says whose the cluster is.
        ({"tags": {str(n): "" for n in range(36)}}, "at most 35"),
        ({"bootstrap": [{"path": "/tmp/x.sh"}]}, "cannot be reached from a machine"),
    ],
)
def test_what_cannot_be_says_how_to_mend_it(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        ClusterSpec.model_validate({"name": "x", **fields})
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Fleet(types=["m5"]), "is not an EC2 instance type"),
        (lambda: Fleet(types=[]), "at least one type"),
        (lambda: Fleet(types=["m5.xlarge", "m5.xlarge"]), "more than once"),
        (lambda: Fleet(types=[f"m{n}.xlarge" for n in range(31)]), "at most 30"),
        (lambda: Fleet(spot_timeout=timedelta(minutes=1)), "between 5 minutes and 1 day"),
        (lambda: InstanceGroup(bid_price="0.1"), "set market='SPOT'"),
        (lambda: InstanceGroup(market="SPOT", bid_price="cheap"), "dollars an hour"),
        (lambda: EbsVolume(size_gib=10, type="io2"), "need iops"),
        (lambda: EbsVolume(size_gib=10, type="gp2", throughput_mib=200), "gp3 only"),
        (lambda: ManagedScaling(minimum=1, maximum=2, maximum_core=3), "maximum_core (3) is above"),
    ],
)
def test_machines_that_cannot_be(make: Any, said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        make()
    assert said in str(raised.value)
