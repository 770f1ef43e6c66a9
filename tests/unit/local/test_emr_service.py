"""Local EMR by its API, on a clock and a runner that the tests hold in their hands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.api import ApiError, operation_method
from airflow_emr_etl.local.emr import EmrApi
from airflow_emr_etl.local.emr.records import StopSignal
from tests.unit.local.held_emr import BAD, MODEL, Emr, HeldRunner, bootstrap, group, step


@pytest.fixture
def emr(tmp_path: Path) -> Iterator[Emr]:
    emr = Emr(tmp_path)
    yield emr
    emr.api.stop()


def refused(code: str, match: str) -> Any:
    class Refused:
        def __enter__(self) -> None:
            self.context = pytest.raises(ApiError, match=match)
            self.info = self.context.__enter__()

        def __exit__(self, *exc: Any) -> bool:
            result = bool(self.context.__exit__(*exc))
            assert self.info.value.code == code
            return result

    return Refused()


# The life of a cluster


def test_a_cluster_starts_waits_and_is_terminated(emr: Emr) -> None:
    cluster = emr.cluster(ready=False)
    assert emr.state_of(cluster) == "STARTING"
    emr.wait()
    assert emr.state_of(cluster) == "BOOTSTRAPPING"
    emr.wait()
    assert emr.state_of(cluster) == "WAITING"
    emr("TerminateJobFlows", JobFlowIds=[cluster])
    assert emr.state_of(cluster) == "TERMINATING"
    emr.wait()
    status = emr("DescribeCluster", ClusterId=cluster)["Cluster"]["Status"]
    assert status["State"] == "TERMINATED"
    assert status["StateChangeReason"] == {"Code": "USER_REQUEST", "Message": "Terminated by user request"}
    timeline = status["Timeline"]
    assert timeline["CreationDateTime"] < timeline["ReadyDateTime"] < timeline["EndDateTime"]
    emr("TerminateJobFlows", JobFlowIds=[cluster])  # again: nothing happens
    assert emr.state_of(cluster) == "TERMINATED"


def test_what_was_asked_for_is_what_is_described(emr: Emr) -> None:
    asked = {
        "LogUri": "s3://logs/emr/",
        "Applications": [{"Name": "Spark"}],
        "Configurations": [{"Classification": "spark-defaults", "Properties": {"spark.a": "1"}}],
        "Tags": [{"Key": "team", "Value": "data"}],
        "StepConcurrencyLevel": 3,
        "ScaleDownBehavior": "TERMINATE_AT_TASK_COMPLETION",
        "EbsRootVolumeSize": 30,
        "AutoTerminationPolicy": {"IdleTimeout": 900},
        "ManagedScalingPolicy": {
            "ComputeLimits": {
                "UnitType": "Instances",
                "MinimumCapacityUnits": 1,
                "MaximumCapacityUnits": 5,
            }
        },
    }
    cluster = emr.cluster(**asked, Instances={"Ec2SubnetId": "subnet-1", "TerminationProtected": True})
    found = emr("DescribeCluster", ClusterId=cluster)["Cluster"]
    for key in ("LogUri", "Configurations", "Tags", "StepConcurrencyLevel", "EbsRootVolumeSize"):
        assert found[key] == asked[key]
    assert found["Applications"][0]["Name"] == "Spark"
    assert found["TerminationProtected"] is True
    assert found["AutoTerminate"] is False
    assert found["Ec2InstanceAttributes"]["Ec2SubnetId"] == "subnet-1"
    assert found["Ec2InstanceAttributes"]["IamInstanceProfile"] == "EMR_EC2_DefaultRole"
    policy = emr("GetManagedScalingPolicy", ClusterId=cluster)
    assert policy == {"ManagedScalingPolicy": asked["ManagedScalingPolicy"]}
    assert emr("GetAutoTerminationPolicy", ClusterId=cluster) == {
        "AutoTerminationPolicy": {"IdleTimeout": 900}
    }
    emr("RemoveManagedScalingPolicy", ClusterId=cluster)
    assert emr("GetManagedScalingPolicy", ClusterId=cluster) == {}


def test_steps_run_in_order_and_a_transient_cluster_ends_after_the_last(emr: Emr) -> None:
    cluster = emr.cluster(Steps=[step("a"), step("b")], Instances={"KeepJobFlowAliveWhenNoSteps": False})
    assert emr.state_of(cluster) == "RUNNING"
    assert emr.steps(cluster) == ["RUNNING", "PENDING"]
    emr.runner.finish(next(iter(emr.runner.running)))
    assert emr.steps(cluster) == ["COMPLETED", "RUNNING"]
    emr.runner.finish(next(iter(emr.runner.running)))
    assert emr.state_of(cluster) == "TERMINATING"
    emr.wait()
    assert emr.state_of(cluster) == "TERMINATED"
    assert emr.reason(cluster) == {"Code": "ALL_STEPS_COMPLETED", "Message": "Steps completed"}


def test_a_transient_cluster_without_steps_ends_at_once(emr: Emr) -> None:
    cluster = emr.cluster(Instances={"KeepJobFlowAliveWhenNoSteps": False})
    emr.wait()
    assert emr.state_of(cluster) == "TERMINATED"


def test_no_longer_keeping_an_idle_cluster_alive_ends_it(emr: Emr) -> None:
    cluster = emr.cluster()
    emr("SetKeepJobFlowAliveWhenNoSteps", JobFlowIds=[cluster], KeepJobFlowAliveWhenNoSteps=False)
    emr.wait()
    assert emr.state_of(cluster) == "TERMINATED"


def test_a_waiting_cluster_starts_a_step_without_a_tick(emr: Emr) -> None:
    cluster = emr.cluster()
    (added,) = emr.add(cluster, step())
    assert set(emr.runner.running) == {added}
    assert emr.state_of(cluster) == "RUNNING"
    emr.runner.finish(added)
    assert emr.state_of(cluster) == "WAITING"
    timeline = emr("DescribeStep", ClusterId=cluster, StepId=added)["Step"]["Status"]["Timeline"]
    assert timeline.keys() == {"CreationDateTime", "StartDateTime", "EndDateTime"}


def test_as_many_steps_run_at_a_time_as_the_concurrency_allows(emr: Emr) -> None:
    cluster = emr.cluster(StepConcurrencyLevel=2)
    ids = emr.add(cluster, *[step(str(n)) for n in range(4)])
    assert list(emr.runner.running) == ids[:2]
    emr("ModifyCluster", ClusterId=cluster, StepConcurrencyLevel=3)
    assert list(emr.runner.running) == ids[:3]
    emr.runner.finish(ids[1])
    assert emr.steps(cluster) == ["RUNNING", "COMPLETED", "RUNNING", "RUNNING"]


# Bootstrap actions


def test_bootstrap_actions_run_one_by_one_before_the_first_step(emr: Emr) -> None:
    cluster = emr.cluster(BootstrapActions=[bootstrap(), bootstrap()], Steps=[step()], ready=False)
    emr.wait()
    assert list(emr.runner.running) == [f"{cluster}/bootstrap-actions/1"]
    emr.wait(600)
    assert emr.state_of(cluster) == "BOOTSTRAPPING"
    emr.runner.finish(f"{cluster}/bootstrap-actions/1")
    assert emr.steps(cluster) == ["PENDING"]
    emr.runner.finish(f"{cluster}/bootstrap-actions/2")
    assert emr.steps(cluster) == ["RUNNING"]
    actions = emr("ListBootstrapActions", ClusterId=cluster)["BootstrapActions"]
    assert actions[0] == {"Name": "setup", "ScriptPath": "s3://code/setup.sh", "Args": ["a"]}


def test_a_failed_bootstrap_action_ends_the_cluster_with_errors(emr: Emr) -> None:
    cluster = emr.cluster(BootstrapActions=[bootstrap()], Steps=[step()], ready=False)
    emr.wait()
    emr.runner.finish(f"{cluster}/bootstrap-actions/1", BAD)
    emr.wait()
    assert emr.state_of(cluster) == "TERMINATED_WITH_ERRORS"
    assert emr.steps(cluster) == ["CANCELLED"]
    reason = emr.reason(cluster)
    assert reason["Code"] == "BOOTSTRAP_FAILURE"
    primary = emr("ListInstances", ClusterId=cluster, InstanceGroupTypes=["MASTER"])["Instances"][0]
    assert f"({primary['Ec2InstanceId']}), bootstrap action 1" in reason["Message"]


def test_terminating_while_a_bootstrap_action_runs_ends_it(emr: Emr) -> None:
    cluster = emr.cluster(BootstrapActions=[bootstrap()], ready=False)
    emr.wait()
    emr("TerminateJobFlows", JobFlowIds=[cluster])
    key = f"{cluster}/bootstrap-actions/1"
    assert emr.runner.asked_to_end == [(key, StopSignal.TERMINATE_PROCESS)]
    emr.runner.finish(key, BAD)
    emr.wait()
    assert emr.state_of(cluster) == "TERMINATED"


# Failures


@pytest.mark.parametrize(
    ("action", "steps", "state"),
    [
        ("CONTINUE", ["FAILED", "RUNNING"], "RUNNING"),
        (None, ["FAILED", "RUNNING"], "RUNNING"),
        ("CANCEL_AND_WAIT", ["FAILED", "CANCELLED"], "WAITING"),
        ("TERMINATE_CLUSTER", ["FAILED", "CANCELLED"], "TERMINATED_WITH_ERRORS"),
        ("TERMINATE_JOB_FLOW", ["FAILED", "CANCELLED"], "TERMINATED_WITH_ERRORS"),
    ],
)
def test_action_on_failure(emr: Emr, action: str | None, steps: list[str], state: str) -> None:
    cluster = emr.cluster()
    first, _ = emr.add(cluster, step("a", action), step("b"))
    emr.runner.finish(first, BAD)
    emr.wait()
    assert emr.steps(cluster) == steps
    assert emr.state_of(cluster) == state
    if state == "TERMINATED_WITH_ERRORS":
        assert emr.reason(cluster) == {"Code": "STEP_FAILURE", "Message": "Shut down as step failed"}
    status = emr("DescribeStep", ClusterId=cluster, StepId=first)["Step"]["Status"]
    assert status["FailureDetails"] == {
        "Reason": "Unknown Error.",
        "Message": "boom",
        "LogFile": "s3://logs/stderr.gz",
    }


def test_cancel_and_wait_on_a_transient_cluster_ends_it(emr: Emr) -> None:
    cluster = emr.cluster(
        Steps=[step("a", "CANCEL_AND_WAIT"), step("b")], Instances={"KeepJobFlowAliveWhenNoSteps": False}
    )
    emr.runner.finish(next(iter(emr.runner.running)), BAD)
    emr.wait()
    assert emr.steps(cluster) == ["FAILED", "CANCELLED"]
    assert emr.state_of(cluster) == "TERMINATED"


def test_a_protected_cluster_outlives_a_failed_step(emr: Emr) -> None:
    cluster = emr.cluster(Instances={"TerminationProtected": True})
    first, _ = emr.add(cluster, step("a", "TERMINATE_CLUSTER"), step("b"))
    emr.runner.finish(first, BAD)
    assert emr.steps(cluster) == ["FAILED", "CANCELLED"]
    assert emr.state_of(cluster) == "WAITING"


@pytest.mark.parametrize("action", ["CANCEL_AND_WAIT", "TERMINATE_CLUSTER"])
def test_with_several_steps_at_a_time_only_continue_is_valid(emr: Emr, action: str) -> None:
    cluster = emr.cluster(StepConcurrencyLevel=2)
    with refused("ValidationException", f"ActionOnFailure setting {action}"):
        emr.add(cluster, step("a", action))
    assert emr.steps(cluster) == []


# Cancelling and terminating


def test_a_pending_step_is_cancelled_at_once_and_a_running_one_when_it_has_ended(emr: Emr) -> None:
    cluster = emr.cluster()
    running, pending, last = emr.add(cluster, step("a", "TERMINATE_CLUSTER"), step("b"), step("c"))
    infos = emr("CancelSteps", ClusterId=cluster, StepIds=[running, pending])["CancelStepsInfoList"]
    assert [each["Status"] for each in infos] == ["SUBMITTED", "SUBMITTED"]
    assert emr.steps(cluster) == ["CANCEL_PENDING", "CANCELLED", "PENDING"]
    assert emr.runner.asked_to_end == [(running, StopSignal.SEND_INTERRUPT)]
    emr.runner.finish(running, BAD)
    assert emr.steps(cluster) == ["CANCELLED", "CANCELLED", "RUNNING"]  # its ActionOnFailure is not taken
    emr.runner.finish(last)
    (info,) = emr("CancelSteps", ClusterId=cluster, StepIds=[last])["CancelStepsInfoList"]
    assert info["Status"] == "FAILED"
    assert "COMPLETED" in info["Reason"]
    (info,) = emr("CancelSteps", ClusterId=cluster, StepIds=[pending])["CancelStepsInfoList"]
    assert info["Status"] == "SUBMITTED"  # idempotent


def test_the_way_to_cancel_reaches_the_runner(emr: Emr) -> None:
    cluster = emr.cluster()
    (running,) = emr.add(cluster, step())
    emr("CancelSteps", ClusterId=cluster, StepIds=[running], StepCancellationOption="TERMINATE_PROCESS")
    assert emr.runner.asked_to_end == [(running, StopSignal.TERMINATE_PROCESS)]


def test_terminating_waits_for_the_running_step_to_end(emr: Emr) -> None:
    cluster = emr.cluster()
    running, _ = emr.add(cluster, step("a"), step("b"))
    emr("TerminateJobFlows", JobFlowIds=[cluster])
    assert emr.runner.asked_to_end == [(running, StopSignal.TERMINATE_PROCESS)]
    emr.wait(60)
    assert emr.state_of(cluster) == "TERMINATING"
    emr.runner.finish(running, BAD)
    emr.wait()
    assert emr.state_of(cluster) == "TERMINATED"
    assert emr.steps(cluster) == ["CANCELLED", "CANCELLED"]
    instances = emr("ListInstances", ClusterId=cluster)["Instances"]
    assert {each["Status"]["State"] for each in instances} == {"TERMINATED"}


def test_a_protected_cluster_is_not_terminated_and_the_others_are(emr: Emr) -> None:
    protected, other = emr.cluster(Instances={"TerminationProtected": True}), emr.cluster()
    with refused("ValidationException", "termination protected"):
        emr("TerminateJobFlows", JobFlowIds=[protected, other])
    emr.wait()
    assert (emr.state_of(protected), emr.state_of(other)) == ("WAITING", "TERMINATED")
    emr("SetTerminationProtection", JobFlowIds=[protected], TerminationProtected=False)
    emr("TerminateJobFlows", JobFlowIds=[protected])
    emr.wait()
    assert emr.state_of(protected) == "TERMINATED"


def test_an_idle_cluster_ends_when_its_policy_says_so(emr: Emr) -> None:
    cluster = emr.cluster(AutoTerminationPolicy={"IdleTimeout": 300})
    emr.wait(200)
    (running,) = emr.add(cluster, step())
    emr.wait(1000)
    emr.runner.finish(running)
    emr.wait(299)
    assert emr.state_of(cluster) == "WAITING"
    emr.wait(1)
    emr.wait()
    assert emr.state_of(cluster) == "TERMINATED"
    assert "auto-termination" in emr.reason(cluster)["Message"]


def test_protection_and_a_removed_policy_keep_an_idle_cluster(emr: Emr) -> None:
    first = emr.cluster(AutoTerminationPolicy={"IdleTimeout": 60})
    second = emr.cluster(AutoTerminationPolicy={"IdleTimeout": 60}, Instances={"TerminationProtected": True})
    emr("RemoveAutoTerminationPolicy", ClusterId=first)
    emr.wait(1000)
    assert (emr.state_of(first), emr.state_of(second)) == ("WAITING", "WAITING")
    emr("SetTerminationProtection", JobFlowIds=[second], TerminationProtected=False)
    emr("PutAutoTerminationPolicy", ClusterId=first, AutoTerminationPolicy={"IdleTimeout": 60})
    emr.wait(1)
    assert (emr.state_of(first), emr.state_of(second)) == ("TERMINATED", "TERMINATED")


# Lists


def test_lists_are_paged_newest_first_and_new_entries_do_not_shift_them(emr: Emr) -> None:
    cluster = emr.cluster()
    ids = emr.add(cluster, *[step(str(n)) for n in range(120)])
    page = emr("ListSteps", ClusterId=cluster)
    seen = [each["Id"] for each in page["Steps"]]
    assert len(seen) == 50
    emr.add(cluster, step("new"))
    while "Marker" in page:
        page = emr("ListSteps", ClusterId=cluster, Marker=page["Marker"])
        seen += [each["Id"] for each in page["Steps"]]
    assert seen == ids[::-1]


def test_clusters_are_listed_by_state_and_time_newest_first(emr: Emr) -> None:
    first = emr.cluster()
    emr("TerminateJobFlows", JobFlowIds=[first])
    emr.wait(3600)
    middle = emr.clock.now
    emr.wait(1)
    others = [emr.cluster() for _ in range(51)]
    page = emr("ListClusters")
    assert [each["Id"] for each in page["Clusters"]] == others[:0:-1]
    rest = emr("ListClusters", Marker=page["Marker"])
    assert [each["Id"] for each in rest["Clusters"]] == [others[0], first]
    assert "Marker" not in rest
    assert [each["Id"] for each in emr("ListClusters", ClusterStates=["TERMINATED"])["Clusters"]] == [first]
    assert [each["Id"] for each in emr("ListClusters", CreatedBefore=middle)["Clusters"]] == [first]
    assert len(emr("ListClusters", CreatedAfter=middle, ClusterStates=["WAITING"])["Clusters"]) == 50
    flows = emr("DescribeJobFlows", JobFlowIds=[first])["JobFlows"]
    assert flows[0]["ExecutionStatusDetail"]["State"] == "TERMINATED"


def test_steps_are_found_by_id_and_by_state(emr: Emr) -> None:
    cluster = emr.cluster()
    ids = emr.add(cluster, *[step(str(n)) for n in range(12)])
    found = emr("ListSteps", ClusterId=cluster, StepIds=ids[:2])["Steps"]
    assert [each["Id"] for each in found] == [ids[1], ids[0]]
    found = emr("ListSteps", ClusterId=cluster, StepStates=["RUNNING"])["Steps"]
    assert [each["Id"] for each in found] == [ids[0]]
    with refused("InvalidRequestException", "10"):
        emr("ListSteps", ClusterId=cluster, StepIds=ids[:11])


def test_256_steps_may_be_active(emr: Emr) -> None:
    cluster = emr.cluster()
    emr.add(cluster, *[step(str(n)) for n in range(256)])
    with refused("ValidationException", "Maximum number of active steps"):
        emr.add(cluster, step())
    emr.runner.finish(next(iter(emr.runner.running)))
    emr.add(cluster, step())


# Instances


def test_groups_and_their_instances(emr: Emr) -> None:
    cluster = emr.cluster(Instances={"InstanceGroups": [group("MASTER", 1), group("CORE", 3, Market="SPOT")]})
    groups = emr("ListInstanceGroups", ClusterId=cluster)["InstanceGroups"]
    assert [(each["InstanceGroupType"], each["RunningInstanceCount"]) for each in groups] == [
        ("MASTER", 1),
        ("CORE", 3),
    ]
    core = emr("ListInstances", ClusterId=cluster, InstanceGroupTypes=["CORE"])["Instances"]
    assert {(each["Market"], each["Status"]["State"]) for each in core} == {("SPOT", "RUNNING")}
    emr(
        "ModifyInstanceGroups",
        ClusterId=cluster,
        InstanceGroups=[{"InstanceGroupId": groups[1]["Id"], "InstanceCount": 1}],
    )
    running = emr("ListInstances", ClusterId=cluster, InstanceStates=["RUNNING"])["Instances"]
    assert len(running) == 2
    added = emr("AddInstanceGroups", JobFlowId=cluster, InstanceGroups=[group("TASK", 2)])
    assert len(added["InstanceGroupIds"]) == 1
    assert len(emr("ListInstances", ClusterId=cluster, InstanceStates=["RUNNING"])["Instances"]) == 4
    with refused("InvalidRequestException", "mutually exclusive"):
        emr("ListInstanceFleets", ClusterId=cluster)


def test_fleets_and_their_instances(emr: Emr) -> None:
    fleets = [
        {
            "InstanceFleetType": "MASTER",
            "TargetOnDemandCapacity": 1,
            "InstanceTypeConfigs": [{"InstanceType": "m5.xlarge"}],
        },
        {
            "InstanceFleetType": "CORE",
            "TargetOnDemandCapacity": 4,
            "TargetSpotCapacity": 6,
            "InstanceTypeConfigs": [{"InstanceType": "m5.2xlarge", "WeightedCapacity": 4}],
        },
    ]
    cluster = emr.cluster(Instances={"InstanceGroups": None, "InstanceFleets": fleets})
    found = emr("ListInstanceFleets", ClusterId=cluster)["InstanceFleets"]
    assert (found[1]["ProvisionedOnDemandCapacity"], found[1]["ProvisionedSpotCapacity"]) == (4, 8)
    instances = emr("ListInstances", ClusterId=cluster, InstanceFleetType="CORE")["Instances"]
    assert [each["Market"] for each in instances] == ["ON_DEMAND", "SPOT", "SPOT"]
    change = {"InstanceFleetId": found[1]["Id"], "TargetOnDemandCapacity": 8, "TargetSpotCapacity": 0}
    emr("ModifyInstanceFleet", ClusterId=cluster, InstanceFleet=change)
    found = emr("ListInstanceFleets", ClusterId=cluster)["InstanceFleets"]
    assert (found[1]["ProvisionedOnDemandCapacity"], found[1]["ProvisionedSpotCapacity"]) == (8, 0)
    task = {**fleets[1], "InstanceFleetType": "TASK"}
    assert emr("AddInstanceFleet", ClusterId=cluster, InstanceFleet=task)["InstanceFleetId"].startswith("if-")
    with refused("InvalidRequestException", "ListInstanceFleets"):
        emr("ListInstanceGroups", ClusterId=cluster)


def test_the_short_form_of_instances(emr: Emr) -> None:
    instances = {"InstanceGroups": None, "MasterInstanceType": "m5.xlarge", "InstanceCount": 3}
    cluster = emr.cluster(Instances=instances)
    groups = emr("ListInstanceGroups", ClusterId=cluster)["InstanceGroups"]
    assert [each["RequestedInstanceCount"] for each in groups] == [1, 2]


# The account


def test_tags_security_configurations_and_labels(emr: Emr) -> None:
    cluster = emr.cluster(Tags=[{"Key": "a", "Value": "1"}])
    emr("AddTags", ResourceId=cluster, Tags=[{"Key": "b", "Value": "2"}, {"Key": "a", "Value": "3"}])
    emr("RemoveTags", ResourceId=cluster, TagKeys=["b", "c"])
    assert emr("DescribeCluster", ClusterId=cluster)["Cluster"]["Tags"] == [{"Key": "a", "Value": "3"}]
    emr("CreateSecurityConfiguration", Name="sse", SecurityConfiguration='{"a": 1}')
    assert emr("DescribeSecurityConfiguration", Name="sse")["SecurityConfiguration"] == '{"a": 1}'
    assert [each["Name"] for each in emr("ListSecurityConfigurations")["SecurityConfigurations"]] == ["sse"]
    emr("DeleteSecurityConfiguration", Name="sse")
    with refused("InvalidRequestException", "does not exist"):
        emr("DescribeSecurityConfiguration", Name="sse")
    labels = emr("ListReleaseLabels", MaxResults=10)
    assert len(labels["ReleaseLabels"]) == 10
    following = emr("ListReleaseLabels", MaxResults=10, NextToken=labels["NextToken"])["ReleaseLabels"]
    assert not set(labels["ReleaseLabels"]) & set(following)
    assert emr("DescribeReleaseLabel", ReleaseLabel="emr-7.9.0")["Applications"][0]["Name"] == "Spark"
    emr("GetBlockPublicAccessConfiguration")
    emr(
        "PutBlockPublicAccessConfiguration",
        BlockPublicAccessConfiguration={"BlockPublicSecurityGroupRules": False},
    )
    found = emr("GetBlockPublicAccessConfiguration")["BlockPublicAccessConfiguration"]
    assert found == {"BlockPublicSecurityGroupRules": False}
    emr("SetVisibleToAllUsers", JobFlowIds=[cluster], VisibleToAllUsers=False)
    emr("SetUnhealthyNodeReplacement", JobFlowIds=[cluster], UnhealthyNodeReplacement=True)
    described = emr("DescribeCluster", ClusterId=cluster)["Cluster"]
    assert (described["VisibleToAllUsers"], described["UnhealthyNodeReplacement"]) == (False, True)


# Refusals


@pytest.mark.parametrize(
    ("operation", "params", "code", "match"),
    [
        ("DescribeCluster", {"ClusterId": "j-X"}, "InvalidRequestException", "Cluster id 'j-X' is not valid"),
        ("ListSteps", {"ClusterId": "j-X"}, "InvalidRequestException", "Cluster id 'j-X' is not valid"),
        ("TerminateJobFlows", {"JobFlowIds": ["j-X"]}, "ValidationException", "job flow ID does not exist"),
        ("AddJobFlowSteps", {"JobFlowId": "j-X", "Steps": []}, "ValidationException", "does not exist"),
        ("DescribeSecurityConfiguration", {"Name": "x"}, "InvalidRequestException", "does not exist"),
        ("ListClusters", {"Marker": "bm9wZQ=="}, "InvalidRequestException", "marker"),
        ("CreateStudio", {}, "NotImplemented", "emr:CreateStudio"),
    ],
)
def test_refusals(emr: Emr, operation: str, params: dict[str, Any], code: str, match: str) -> None:
    with refused(code, match):
        emr(operation, **params)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ReleaseLabel": "emr-seven"}, "release label is invalid"),
        ({"ServiceRole": None}, "ServiceRole is required"),
        ({"JobFlowRole": None}, "InstanceProfile is required"),
        ({"Instances": {"InstanceGroups": None}}, "Specify InstanceGroups"),
        ({"Instances": {"InstanceGroups": [group("CORE", 1)]}}, "exactly one MASTER"),
        ({"StepConcurrencyLevel": 257}, "from 1 to 256"),
        ({"StepConcurrencyLevel": 2, "ReleaseLabel": "emr-5.20.0"}, "emr-5.28.0"),
        ({"AutoTerminationPolicy": {"IdleTimeout": 59}}, "from 60"),
        ({"BootstrapActions": [bootstrap()] * 17}, "at most 16"),
        ({"StepConcurrencyLevel": 2, "Steps": [step("a", "CANCEL_AND_WAIT")]}, "not valid"),
    ],
)
def test_a_wrong_cluster_is_refused_and_nothing_is_made(
    emr: Emr, changes: dict[str, Any], match: str
) -> None:
    with refused("ValidationException", match):
        emr.cluster(**changes)
    assert emr("ListClusters")["Clusters"] == []


def test_an_ended_cluster_takes_no_steps(emr: Emr) -> None:
    cluster = emr.cluster()
    emr("TerminateJobFlows", JobFlowIds=[cluster])
    with refused("ValidationException", "may not be modified"):
        emr.add(cluster, step())
    with refused("InvalidRequestException", "not valid"):
        emr("DescribeStep", ClusterId=cluster, StepId="s-X")


def test_every_operation_here_is_one_of_emr() -> None:
    methods = {operation_method(each) for each in MODEL.operation_names}
    public = {name for name in vars(EmrApi) if not name.startswith("_")}
    assert public - methods == {
        *("service", "start", "stop", "tick", "warm_up", "next_due", "after_log_delay"),
    }


# Stop and start


def test_state_survives_a_stop_and_a_start(emr: Emr) -> None:
    waiting = emr.cluster(Tags=[{"Key": "a", "Value": "1"}])
    busy = emr.cluster()
    done, lost, pending = emr.add(busy, step("done"), step("lost"), step("pending"))
    emr.runner.finish(done)
    broken = emr.cluster(Steps=[step("fatal", "TERMINATE_CLUSTER")])
    booting = emr.cluster(BootstrapActions=[bootstrap()], ready=False)
    emr.wait()
    before = emr("DescribeCluster", ClusterId=waiting)
    emr.api.stop()
    emr.begin()
    assert emr("DescribeCluster", ClusterId=waiting) == before
    assert emr.steps(busy) == ["COMPLETED", "FAILED", "RUNNING"]
    assert list(emr.runner.running) == [pending]
    details = emr("DescribeStep", ClusterId=busy, StepId=lost)["Step"]["Status"]["FailureDetails"]
    assert details["Reason"] == "Local AWS was stopped"
    emr.wait()
    assert emr.state_of(broken) == "TERMINATED_WITH_ERRORS"
    assert emr.state_of(booting) == "TERMINATED_WITH_ERRORS"
    assert emr.reason(booting)["Code"] == "INTERNAL_ERROR"


def test_two_servers_do_not_share_a_state_folder(emr: Emr) -> None:
    second = EmrApi(emr.state / "emr", emr.state / "s3", dict, clock=emr.clock, runner=HeldRunner())
    with pytest.raises(LocalAwsError, match="Another local AWS"):
        second.start()
