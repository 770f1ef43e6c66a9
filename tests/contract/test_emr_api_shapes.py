"""What the models send is what botocore's own model of EMR takes, enumerations included."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from airflow_emr_etl.models import states
from airflow_emr_etl.models.cluster import (
    BootstrapAction,
    ClusterSpec,
    Configuration,
    EbsVolume,
    Fleet,
    FleetType,
    InstanceGroup,
    ManagedScaling,
)
from airflow_emr_etl.models.step import CommandStep, SparkStep

EMR = botocore.session.get_session().get_service_model("emr")

DISKS = (EbsVolume(size_gib=100, count=2, iops=3000, throughput_mib=250),)
SETTINGS = (
    Configuration(
        classification="spark-env",
        configurations=(Configuration(classification="export", properties={"A": "b"}),),
    ),
)
SPECS = {
    "smallest": ClusterSpec(name="x"),
    "alone": ClusterSpec(name="x", core=None),
    "fleets": ClusterSpec(
        name="x",
        primary=Fleet(types=["m5.xlarge"], spot_units=1, on_spot_timeout="TERMINATE_CLUSTER"),
        core=Fleet(
            types=[FleetType(type="m5.xlarge", weight=4, bid_percent=60, priority=1, custom_ami_id="ami-1")],
            on_demand_units=4,
            on_demand_strategy="prioritized",
            resize_timeout=timedelta(minutes=20),
            ebs=DISKS,
            configurations=SETTINGS,
        ),
        task=Fleet(
            types={"m6g.xlarge": 1, "m6g.2xlarge": 2}, spot_units=32, resize_timeout=timedelta(hours=1)
        ),
        managed_scaling=ManagedScaling(minimum=4, maximum=64, maximum_on_demand=8, maximum_core=8),
        subnets=["subnet-1", "subnet-2"],
    ),
    "groups": ClusterSpec(
        name="x",
        primary=InstanceGroup(count=3),
        core=InstanceGroup(
            type="r6g.2xlarge", count=4, ebs=DISKS, configurations=SETTINGS, custom_ami_id="ami-1"
        ),
        task=InstanceGroup(market="SPOT", bid_price="0.12", count=10),
        managed_scaling=ManagedScaling(minimum=2, maximum=20, unit="VCPU"),
        subnets=["subnet-1"],
    ),
    "everything else": ClusterSpec(
        name="x",
        applications=["Spark", "Hadoop", "Hive"],
        service_role="r",
        job_flow_role="p",
        autoscaling_role="a",
        security_configuration="s",
        primary_security_group="sg-1",
        core_security_group="sg-2",
        service_access_security_group="sg-3",
        additional_primary_security_groups=["sg-4"],
        additional_core_security_groups=["sg-5"],
        key_pair="k",
        log_uri="s3://logs/emr/",
        log_kms_key="arn:aws:kms:us-east-1:1:key/1",
        bootstrap=[BootstrapAction(name="n", path="s3://b/x.sh", args=["a"]), "file:/bin/true"],
        configurations=SETTINGS,
        tags={"a": "b"},
        idle_timeout=timedelta(days=7),
        keep_alive=False,
        termination_protection=True,
        step_concurrency=256,
        root_volume_gib=100,
        custom_ami_id="ami-1",
        unhealthy_node_replacement=True,
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_cluster(name: str) -> None:
    check("RunJobFlow", SPECS[name].to_api())


@pytest.mark.parametrize(
    "step",
    [
        SparkStep(name="n", entry="s3://b/x.jar", main_class="M", files=["s3://b/f"], packages=["a:b:1"]),
        CommandStep(name="n", jar="s3://b/x.jar", main_class="M", properties={"k": "v"}),
        CommandStep(name="n", command=["ls"], action_on_failure="TERMINATE_CLUSTER"),
    ],
)
def test_a_step(step: SparkStep | CommandStep) -> None:
    check("AddJobFlowSteps", {"JobFlowId": "j-1", "Steps": [step.to_api()]})


@pytest.mark.parametrize(
    ("shape", "ours"),
    [
        ("ClusterState", states.ClusterState),
        ("StepState", states.StepState),
        ("ClusterStateChangeReasonCode", states.ClusterEndCode),
    ],
)
def test_states_are_those_of_emr(shape: str, ours: Any) -> None:
    assert {str(item) for item in ours} == set(EMR.shape_for(shape).enum)


def test_every_state_is_live_or_ending_and_every_step_active_or_ended() -> None:
    assert set(states.ClusterState) == states.CLUSTER_LIVE | states.CLUSTER_ENDING
    assert set(states.StepState) == states.STEP_ACTIVE | states.STEP_ENDED


def check(operation: str, request: dict[str, Any]) -> None:
    shape = EMR.operation_model(operation).input_shape
    report = ParamValidator().validate(request, shape)
    assert not report.has_errors(), report.generate_report()
    assert list(strangers(request, shape)) == []


def strangers(value: Any, shape: Any, path: str = "") -> Any:
    """Values that are none of their enumeration's; botocore does not look at those."""
    if shape.type_name == "structure":
        for key, item in value.items():
            yield from strangers(item, shape.members[key], f"{path}.{key}")
    elif shape.type_name == "list":
        for item in value:
            yield from strangers(item, shape.member, path)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{path}={value!r}"
