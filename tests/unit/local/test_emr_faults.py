"""What goes wrong on EMR's side, in virtual time: no machines, Spot loss, lists that lag, late logs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_emr_etl.local.emr import EmrApi
from airflow_emr_etl.local.emr.machine import Pace
from airflow_emr_etl.local.emr.provisioning import zone_of_subnet
from airflow_emr_etl.local.emr.records import StopSignal
from airflow_emr_etl.local.faults import FaultError
from airflow_emr_etl.models.states import is_capacity_failure
from tests.unit.local.held_emr import BAD, OK, Emr, group, step

PACE = Pace(
    starting=timedelta(minutes=2),
    bootstrapping=timedelta(minutes=1),
    terminating=timedelta(minutes=1),
    spot_minute=timedelta(minutes=1),
)


@pytest.fixture
def emr() -> Iterator[Emr]:
    """Kept in memory, at EMR's own pace."""
    emr = Emr(pace=PACE)
    yield emr
    emr.api.stop()


def run(emr: Emr, minutes: float = 10) -> None:
    """Let time pass, stopping wherever something is due."""
    end = emr.clock.now + timedelta(minutes=minutes)
    while (due := emr.api.next_due()) is not None and due <= end:
        emr.clock.now = max(due, emr.clock.now)
        emr.api.tick()
    emr.clock.now = end


def groups(*, core: str = "ON_DEMAND", primary: str = "ON_DEMAND", **more: Any) -> dict[str, Any]:
    return {
        "InstanceGroups": [group("MASTER", 1, Market=primary), group("CORE", 2, Market=core)],
        "KeepJobFlowAliveWhenNoSteps": True,
        **more,
    }


def fleet(role: str, *types: str, spot: int = 0, on_demand: int = 0, **specification: Any) -> dict[str, Any]:
    launch = {"LaunchSpecifications": {"SpotSpecification": specification}} if specification else {}
    return {
        "InstanceFleetType": role,
        "TargetSpotCapacity": spot,
        "TargetOnDemandCapacity": on_demand,
        "InstanceTypeConfigs": [{"InstanceType": each} for each in types],
        **launch,
    }


def fleets(*them: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "InstanceGroups": None,
        "InstanceFleets": list(them),
        "KeepJobFlowAliveWhenNoSteps": True,
        **more,
    }


def place(emr: Emr, cluster: str) -> tuple[str | None, str]:
    found = emr("DescribeCluster", ClusterId=cluster)["Cluster"]["Ec2InstanceAttributes"]
    return found.get("Ec2SubnetId"), found["Ec2AvailabilityZone"]


def machines(emr: Emr, cluster: str, state: str = "RUNNING") -> list[tuple[str, str]]:
    found = emr("ListInstances", ClusterId=cluster, InstanceStates=[state])["Instances"]
    return sorted((each["InstanceType"], each["Market"]) for each in found)


# No machines


def test_a_cluster_whose_type_is_not_to_be_had_does_not_come_up(emr: Emr) -> None:
    emr.api.faults.capacity(instance_type="m5.xlarge")
    cluster = emr.cluster(ready=False, Instances=groups(), Steps=[step()])
    assert emr.state_of(cluster) == "STARTING"
    run(emr)
    assert emr.state_of(cluster) == "TERMINATED_WITH_ERRORS"
    assert is_capacity_failure(**{key.lower(): text for key, text in emr.reason(cluster).items()})
    assert emr.steps(cluster) == ["CANCELLED"]
    assert emr.runner.running == {}
    [error] = emr("DescribeCluster", ClusterId=cluster)["Cluster"]["Status"]["ErrorDetails"]
    assert error["ErrorCode"] == "INTERNAL_ERROR_EC2_INSUFFICIENT_CAPACITY_AZ"
    assert error["ErrorData"][0]["instance-type"] == "m5.xlarge"
    assert error["ErrorData"][0]["availability-zone"] == "us-east-1a"


def test_a_rule_hits_what_matches_all_that_it_names(emr: Emr) -> None:
    emr.api.faults.capacity(instance_type="m5.xlarge", market="SPOT", zone="subnet-2")
    spot_there = emr.cluster(ready=False, Instances=groups(core="SPOT", Ec2SubnetId="subnet-2"))
    spot_here = emr.cluster(ready=False, Instances=groups(core="SPOT", Ec2SubnetId="subnet-1"))
    on_demand_there = emr.cluster(ready=False, Instances=groups(Ec2SubnetId="subnet-2"))
    run(emr)
    assert emr.state_of(spot_there) == "TERMINATED_WITH_ERRORS"
    assert emr.state_of(spot_here) == emr.state_of(on_demand_there) == "WAITING"
    assert place(emr, spot_here) == ("subnet-1", zone_of_subnet("subnet-1"))


def test_a_rule_can_name_a_zone(emr: Emr) -> None:
    emr.api.faults.capacity(zone="us-east-1c")
    there = emr.cluster(ready=False, Instances=groups(Placement={"AvailabilityZone": "us-east-1c"}))
    elsewhere = emr.cluster(ready=False, Instances=groups(Placement={"AvailabilityZone": "us-east-1d"}))
    run(emr)
    assert emr.state_of(there) == "TERMINATED_WITH_ERRORS"
    assert place(emr, elsewhere) == (None, "us-east-1d")


def test_times_is_how_many_clusters_are_hit(emr: Emr) -> None:
    rule = emr.api.faults.capacity(instance_type="m5.xlarge", times=2)
    clusters = []
    for _ in range(3):
        clusters.append(emr.cluster(ready=False, Instances=groups()))
        run(emr)
    assert [emr.state_of(each) for each in clusters] == ["TERMINATED_WITH_ERRORS"] * 2 + ["WAITING"]
    assert emr.api.faults.to_json()["rules"][0]["hit"] == sorted(clusters[:2])
    emr.api.faults.remove(rule.id)
    assert emr.api.faults.to_json()["rules"] == []


def test_a_fleet_takes_its_next_type(emr: Emr) -> None:
    emr.api.faults.capacity(instance_type="m5.xlarge")
    both = fleets(fleet("MASTER", "m5.xlarge", "m6g.xlarge", on_demand=1))
    cluster = emr.cluster(ready=False, Instances=both)
    run(emr)
    assert emr.state_of(cluster) == "WAITING"
    assert machines(emr, cluster) == [("m6g.xlarge", "ON_DEMAND")]


def test_a_fleet_goes_to_the_next_subnet_with_all_its_machines(emr: Emr) -> None:
    emr.api.faults.capacity(instance_type="r5.xlarge", zone="subnet-1")
    both = fleets(
        fleet("MASTER", "m5.xlarge", on_demand=1),
        fleet("CORE", "r5.xlarge", on_demand=2),
        Ec2SubnetIds=["subnet-1", "subnet-2"],
    )
    cluster = emr.cluster(ready=False, Instances=both)
    run(emr)
    assert place(emr, cluster) == ("subnet-2", zone_of_subnet("subnet-2"))
    attributes = emr("DescribeCluster", ClusterId=cluster)["Cluster"]["Ec2InstanceAttributes"]
    assert attributes["RequestedEc2SubnetIds"] == ["subnet-1", "subnet-2"]


def test_a_fleet_without_spot_waits_and_then_buys_on_demand(emr: Emr) -> None:
    emr.api.faults.capacity(market="SPOT")
    cluster = emr.cluster(
        ready=False,
        Instances=fleets(
            fleet("MASTER", "m5.xlarge", on_demand=1),
            fleet(
                *("CORE", "m5.xlarge", "r5.xlarge"),
                spot=2,
                TimeoutAction="SWITCH_TO_ON_DEMAND",
                TimeoutDurationMinutes=20,
            ),
        ),
    )
    run(emr, 19)
    assert emr.state_of(cluster) == "STARTING"
    run(emr, 5)
    assert emr.state_of(cluster) == "WAITING"
    assert machines(emr, cluster) == [("m5.xlarge", "ON_DEMAND")] * 3


def test_a_fleet_that_insists_on_spot_ends_its_cluster_when_the_time_is_over(emr: Emr) -> None:
    emr.api.faults.capacity(market="SPOT")
    core = fleet("CORE", "m5.xlarge", spot=2, TimeoutAction="TERMINATE_CLUSTER", TimeoutDurationMinutes=10)
    cluster = emr.cluster(ready=False, Instances=fleets(fleet("MASTER", "m5.xlarge", on_demand=1), core))
    run(emr, 9)
    assert emr.state_of(cluster) == "STARTING"
    run(emr, 3)
    assert emr.state_of(cluster) == "TERMINATED_WITH_ERRORS"
    assert emr.reason(cluster)["Code"] == "INSTANCE_FLEET_TIMEOUT"


def test_spot_that_comes_back_in_time_is_taken(emr: Emr) -> None:
    emr.api.faults.capacity(market="SPOT")
    core = fleet("CORE", "m5.xlarge", spot=2, TimeoutAction="TERMINATE_CLUSTER", TimeoutDurationMinutes=10)
    cluster = emr.cluster(ready=False, Instances=fleets(fleet("MASTER", "m5.xlarge", on_demand=1), core))
    run(emr, 5)
    emr.api.faults.clear()
    run(emr, 10)
    assert emr.state_of(cluster) == "WAITING"
    assert machines(emr, cluster) == [("m5.xlarge", "ON_DEMAND"), *[("m5.xlarge", "SPOT")] * 2]


def test_missing_task_nodes_do_not_keep_a_cluster_of_groups_from_starting(emr: Emr) -> None:
    emr.api.faults.capacity(instance_type="c5.xlarge")
    instances = groups()
    instances["InstanceGroups"].append({**group("TASK", 2), "InstanceType": "c5.xlarge"})
    cluster = emr.cluster(ready=False, Instances=instances)
    run(emr)
    assert emr.state_of(cluster) == "WAITING"
    found = emr("ListInstanceGroups", ClusterId=cluster)["InstanceGroups"]
    counts = {each["InstanceGroupType"]: each["RunningInstanceCount"] for each in found}
    assert counts == {"MASTER": 1, "CORE": 2, "TASK": 0}


def test_a_cluster_that_grows_keeps_what_it_has(emr: Emr) -> None:
    cluster = emr.cluster(ready=False, Instances=groups())
    run(emr)
    emr.api.faults.capacity(instance_type="m5.xlarge")
    core = emr("ListInstanceGroups", ClusterId=cluster)["InstanceGroups"][1]["Id"]
    emr("ModifyInstanceGroups", InstanceGroups=[{"InstanceGroupId": core, "InstanceCount": 5}])
    found = emr("ListInstanceGroups", ClusterId=cluster)["InstanceGroups"][1]
    assert (found["RequestedInstanceCount"], found["RunningInstanceCount"]) == (5, 2)


# Spot loss


def test_losing_all_core_nodes_ends_the_cluster_and_its_steps(emr: Emr) -> None:
    cluster = emr.cluster(ready=False, Instances=groups(core="SPOT"), StepConcurrencyLevel=2)
    run(emr)
    steps = emr.add(cluster, step("a"), step("b"), step("c"))
    emr.runner.finish(steps[0], OK)
    emr.api.faults.spot_loss(cluster, after=90)
    run(emr, 1)
    assert emr.steps(cluster) == ["COMPLETED", "RUNNING", "RUNNING"]
    run(emr, 1)
    assert emr.state_of(cluster) == "TERMINATING"
    assert emr.runner.asked_to_end == [(each, StopSignal.TERMINATE_PROCESS) for each in steps[1:]]
    for each in steps[1:]:
        emr.runner.finish(each, BAD)
    run(emr)
    assert emr.state_of(cluster) == "TERMINATED_WITH_ERRORS"
    assert emr.reason(cluster) == {
        "Code": "INSTANCE_FAILURE",
        "Message": "All slaves in the job flow were terminated due to Spot",
    }
    assert emr.steps(cluster) == ["COMPLETED", "CANCELLED", "CANCELLED"]


def test_losing_the_primary_ends_the_cluster_even_a_protected_one(emr: Emr) -> None:
    cluster = emr.cluster(ready=False, Instances=groups(primary="SPOT", TerminationProtected=True))
    run(emr)
    emr.api.faults.spot_loss(cluster)
    run(emr)
    assert emr.state_of(cluster) == "TERMINATED_WITH_ERRORS"
    assert emr.reason(cluster)["Code"] == "INSTANCE_FAILURE"
    [error] = emr("DescribeCluster", ClusterId=cluster)["Cluster"]["Status"]["ErrorDetails"]
    assert error["ErrorCode"] == "INTERNAL_ERROR_SPOT_NO_CAPACITY_PRIMARY"


def test_losing_task_nodes_or_some_core_nodes_leaves_the_steps_alone(emr: Emr) -> None:
    instances = fleets(
        fleet("MASTER", "m5.xlarge", on_demand=1),
        fleet("CORE", "m5.xlarge", on_demand=1, spot=2),
        fleet("TASK", "m5.xlarge", spot=3),
    )
    cluster = emr.cluster(ready=False, Instances=instances)
    run(emr)
    [running] = emr.add(cluster, step())
    emr.api.faults.spot_loss(cluster)
    run(emr)
    assert emr.state_of(cluster) == "RUNNING"
    assert machines(emr, cluster) == [("m5.xlarge", "ON_DEMAND")] * 2
    assert machines(emr, cluster, "TERMINATED") == [("m5.xlarge", "SPOT")] * 5
    emr.runner.finish(running, OK)
    assert emr.steps(cluster) == ["COMPLETED"]


def test_only_the_nodes_of_a_role_can_go(emr: Emr) -> None:
    cluster = emr.cluster(ready=False, Instances=groups(core="SPOT", primary="SPOT"))
    run(emr)
    emr.api.faults.spot_loss(cluster, role="TASK")
    run(emr)
    assert emr.state_of(cluster) == "WAITING"
    emr.api.faults.spot_loss(cluster, role="CORE")
    run(emr)
    assert emr.reason(cluster)["Message"].startswith("All slaves")


def test_every_cluster_with_spot_loses_it_so_long_after_it_is_ready(emr: Emr) -> None:
    emr.api.faults.spot_loss(after=timedelta(minutes=30), times=2)
    on_demand = emr.cluster(ready=False, Instances=groups())
    first = emr.cluster(ready=False, Instances=groups(core="SPOT"))
    run(emr, 20)
    second = emr.cluster(ready=False, Instances=groups(core="SPOT"))
    third = emr.cluster(ready=False, Instances=groups(core="SPOT"))
    run(emr, 12)
    assert emr.state_of(first) == "WAITING"
    run(emr, 3)
    assert [emr.state_of(each) for each in (first, second)] == ["TERMINATED_WITH_ERRORS", "WAITING"]
    run(emr, 60)
    assert emr.state_of(second) == "TERMINATED_WITH_ERRORS"
    assert emr.state_of(third) == emr.state_of(on_demand) == "WAITING"


def test_a_cluster_without_spot_instances_loses_nothing(emr: Emr) -> None:
    cluster = emr.cluster(ready=False, Instances=groups())
    run(emr)
    emr.api.faults.spot_loss(cluster)
    assert emr.api.next_due() is None
    run(emr)
    assert emr.state_of(cluster) == "WAITING"


# Lists that lag


def test_what_is_new_is_described_at_once_and_listed_later(emr: Emr) -> None:
    emr.api.faults.listing_lag(120)
    cluster = emr.cluster(ready=False, Instances=groups())
    [added] = emr.add(cluster, step())
    emr.clock.now += timedelta(seconds=119)
    assert emr("ListClusters")["Clusters"] == []
    assert emr("ListSteps", ClusterId=cluster)["Steps"] == []
    assert emr("ListSteps", ClusterId=cluster, StepIds=[added])["Steps"] == []
    assert emr("DescribeJobFlows")["JobFlows"] == []
    assert emr("DescribeCluster", ClusterId=cluster)["Cluster"]["Id"] == cluster
    assert emr("DescribeStep", ClusterId=cluster, StepId=added)["Step"]["Id"] == added
    emr.clock.now += timedelta(seconds=1)
    assert [each["Id"] for each in emr("ListClusters")["Clusters"]] == [cluster]
    assert [each["Id"] for each in emr("ListSteps", ClusterId=cluster)["Steps"]] == [added]


def test_without_a_lag_lists_are_current(emr: Emr) -> None:
    emr.api.faults.listing_lag(60)
    emr.cluster(ready=False)
    emr.api.faults.listing_lag(0)
    assert len(emr("ListClusters")["Clusters"]) == 1


# Late logs


def test_logs_come_later_in_their_order_and_none_is_lost(emr: Emr) -> None:
    seen: list[str] = []
    emr.api.after_log_delay(lambda: seen.append("at once"))
    emr.api.faults.log_delay(60)
    emr.api.after_log_delay(lambda: seen.append("a"))
    emr.clock.now += timedelta(seconds=30)
    emr.api.after_log_delay(lambda: seen.append("b"))
    assert seen == ["at once"]
    run(emr, 0.5)
    assert seen == ["at once", "a"]
    emr.api.stop()
    assert seen == ["at once", "a", "b"]


# Setting up


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ({"fault": "earthquake"}, "there are: capacity, spot-loss"),
        ({"fault": "capacity", "market": "spot"}, "SPOT or ON_DEMAND"),
        ({"fault": "capacity", "times": 0}, "times is 1 or more"),
        ({"fault": "capacity", "colour": "red"}, "colour"),
        ({"fault": "spot-loss", "cluster_id": "j-1"}, "no cluster 'j-1'"),
        ({"fault": "spot-loss", "role": "DRIVER"}, "MASTER or CORE or TASK"),
        ({"fault": "spot-loss", "after": "soon"}, "number of seconds"),
        ({"fault": "listing-lag", "lag": -1}, "0 or more"),
        ({"fault": "listing-lag"}, "missing"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(emr: Emr, document: dict[str, Any], match: str) -> None:
    with pytest.raises(FaultError, match=match):
        emr.api.faults.set_up(document)


def test_faults_are_set_up_from_json_and_cleared(emr: Emr) -> None:
    emr.api.faults.set_up({"fault": "capacity", "instance_type": "m5.xlarge", "times": 1})
    cluster = emr.cluster(ready=False)
    emr.api.faults.set_up({"fault": "spot-loss", "cluster_id": cluster, "after": 5})
    emr.api.faults.set_up({"fault": "listing-lag", "lag": 10})
    emr.api.faults.set_up({"fault": "log-delay", "delay": 1.5})
    found = emr.api.faults.to_json()
    assert [each["fault"] for each in found["rules"]] == ["capacity", "spot-loss"]
    assert (found["listing_lag_seconds"], found["log_delay_seconds"]) == (10, 1.5)
    emr.api.faults.clear()
    assert emr.api.faults.to_json() == {"rules": [], "listing_lag_seconds": 0, "log_delay_seconds": 0}


def test_where_a_cluster_was_survives_a_stop(tmp_path: Path) -> None:
    emr = Emr(tmp_path)
    emr.api.faults.capacity(instance_type="r5.xlarge", zone="subnet-1")
    core = fleet("CORE", "r5.xlarge", on_demand=2)
    both = fleets(fleet("MASTER", "m5.xlarge", on_demand=1), core, Ec2SubnetIds=["subnet-1", "subnet-2"])
    cluster = emr.cluster(Instances=both)
    failed = emr.cluster(Instances=groups(Ec2SubnetId="subnet-1"), ready=False)
    emr.api.stop()
    emr.begin()
    assert place(emr, cluster)[0] == "subnet-2"
    assert emr.api.faults.to_json()["rules"] == []
    emr.wait()
    emr.wait()
    assert emr.state_of(failed) == "WAITING"
    emr.api.stop()


def test_an_emr_in_memory_needs_a_clock_and_a_runner() -> None:
    with pytest.raises(ValueError, match="a clock and a runner"):
        EmrApi(None)
    with pytest.raises(ValueError, match="folder of the objects"):
        EmrApi(Path("state"))


def test_ids_can_be_ones_own() -> None:
    emr = Emr()
    emr.api.stop()
    numbers = itertools.count(1)
    emr.api = EmrApi(
        None, clock=emr.clock, runner=emr.runner, new_id=lambda prefix: f"{prefix}{next(numbers)}"
    )
    emr.api.start()
    assert emr.cluster(ready=False) == "j-1"
    emr.api.stop()
