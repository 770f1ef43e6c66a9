"""Records as EMR's responses show them: pure functions, checked against botocore's model in the tests."""

from __future__ import annotations

from typing import Any

from airflow_emr_etl.local.emr.provisioning import places, wanted_instances
from airflow_emr_etl.local.emr.records import Cluster, Instance, Params, Pool, Step
from airflow_emr_etl.models.states import CLUSTER_ENDING, CLUSTER_READY, ClusterState

REGION = "us-east-1"
ACCOUNT = "123456789012"


def present(**members: Any) -> Params:
    """A structure without the members that have no value."""
    return {key: value for key, value in members.items() if value is not None}


def arn(cluster_id: str) -> str:
    return f"arn:aws:elasticmapreduce:{REGION}:{ACCOUNT}:cluster/{cluster_id}"


def cluster_status(cluster: Cluster) -> Params:
    return present(
        State=str(cluster.state),
        StateChangeReason=present(Code=cluster.reason_code, Message=cluster.reason),
        Timeline=present(
            CreationDateTime=cluster.created, ReadyDateTime=cluster.ready, EndDateTime=cluster.ended
        ),
        ErrorDetails=cluster.errors or None,
    )


def cluster_summary(cluster: Cluster) -> Params:
    return present(
        Id=cluster.id,
        Name=cluster.name,
        Status=cluster_status(cluster),
        NormalizedInstanceHours=0,
        ClusterArn=arn(cluster.id),
    )


def cluster_detail(cluster: Cluster, spark_version: str) -> Params:
    request = cluster.request
    instances = request["Instances"]
    subnets = instances.get("Ec2SubnetIds") or [
        each for each in [instances.get("Ec2SubnetId")] if each is not None
    ]
    placement = instances.get("Placement") or {}
    zones = placement.get("AvailabilityZones") or [
        each for each in [placement.get("AvailabilityZone")] if each is not None
    ]
    applications = [
        {"Version": spark_version, **each} if each.get("Name", "").lower() == "spark" else each
        for each in request.get("Applications") or []
    ]
    return present(
        **cluster_summary(cluster),
        Ec2InstanceAttributes=present(
            Ec2KeyName=instances.get("Ec2KeyName"),
            Ec2SubnetId=cluster.subnet or (subnets[0] if subnets else None),
            RequestedEc2SubnetIds=subnets,
            Ec2AvailabilityZone=cluster.zone or places(request)[0].zone,
            RequestedEc2AvailabilityZones=zones,
            IamInstanceProfile=request.get("JobFlowRole"),
            EmrManagedMasterSecurityGroup=instances.get("EmrManagedMasterSecurityGroup"),
            EmrManagedSlaveSecurityGroup=instances.get("EmrManagedSlaveSecurityGroup"),
            ServiceAccessSecurityGroup=instances.get("ServiceAccessSecurityGroup"),
            AdditionalMasterSecurityGroups=instances.get("AdditionalMasterSecurityGroups"),
            AdditionalSlaveSecurityGroups=instances.get("AdditionalSlaveSecurityGroups"),
        ),
        InstanceCollectionType="INSTANCE_FLEET" if cluster.uses_fleets else "INSTANCE_GROUP",
        LogUri=cluster.log_uri,
        RequestedAmiVersion=request.get("AmiVersion"),
        RunningAmiVersion=request.get("AmiVersion"),
        AutoTerminate=not cluster.keep_alive,
        TerminationProtected=cluster.protected,
        UnhealthyNodeReplacement=cluster.unhealthy_node_replacement,
        VisibleToAllUsers=cluster.visible,
        Applications=applications,
        Tags=[{"Key": key, "Value": value} for key, value in cluster.tags.items()],
        MasterPublicDnsName="localhost" if cluster.state is not ClusterState.STARTING else None,
        Configurations=request.get("Configurations") or [],
        StepConcurrencyLevel=cluster.concurrency,
        PlacementGroups=request.get("PlacementGroupConfigs") or [],
        ScaleDownBehavior=request.get("ScaleDownBehavior") or "TERMINATE_AT_TASK_COMPLETION",
        **{
            name: request.get(name)
            for name in (
                "LogEncryptionKmsKeyId",
                "ReleaseLabel",
                "ServiceRole",
                "SecurityConfiguration",
                "AutoScalingRole",
                "CustomAmiId",
                "EbsRootVolumeSize",
                "EbsRootVolumeIops",
                "EbsRootVolumeThroughput",
                "RepoUpgradeOnBoot",
                "KerberosAttributes",
                "OSReleaseLabel",
                "ExtendedSupport",
                "MonitoringConfiguration",
                "SessionEnabled",
            )
        },
    )


def step_summary(step: Step) -> Params:
    jar: Params = step.config["HadoopJarStep"]
    monitoring = (step.config.get("StepMonitoringConfiguration") or {}).get("S3MonitoringConfiguration") or {}
    return present(
        Id=step.id,
        Name=step.config["Name"],
        Config=present(
            Jar=jar["Jar"],
            Properties={each["Key"]: each.get("Value", "") for each in jar.get("Properties") or []},
            MainClass=jar.get("MainClass"),
            Args=list(jar.get("Args") or []),
        ),
        ActionOnFailure=step.config.get("ActionOnFailure") or "CONTINUE",
        Status=present(
            State=str(step.state),
            StateChangeReason=present(Message=step.reason),
            FailureDetails=step.failure,
            Timeline=present(
                CreationDateTime=step.created, StartDateTime=step.started, EndDateTime=step.ended
            ),
        ),
        LogUri=monitoring.get("LogUri"),
        EncryptionKeyArn=monitoring.get("EncryptionKeyArn"),
    )


def step_detail(step: Step) -> Params:
    return present(**step_summary(step), ExecutionRoleArn=step.execution_role)


def instance_state(cluster: Cluster, instance: Instance) -> str:
    if instance.ended is not None:
        return "TERMINATED"
    if instance.ready is not None:
        return "RUNNING"
    return "BOOTSTRAPPING" if cluster.state is ClusterState.BOOTSTRAPPING else "PROVISIONING"


def instance_detail(cluster: Cluster, instance: Instance) -> Params:
    ended = instance.ended is not None
    return present(
        Id=instance.id,
        Ec2InstanceId=instance.ec2_id,
        # Every node of every cluster is this machine.
        PublicDnsName="localhost",
        PrivateDnsName="localhost",
        PrivateIpAddress="127.0.0.1",
        Status=present(
            State=instance_state(cluster, instance),
            StateChangeReason=(
                {"Code": "INSTANCE_FAILURE", "Message": instance.lost}
                if instance.lost
                else {"Code": "CLUSTER_TERMINATED", "Message": "Instance was terminated."}
                if ended
                else {}
            ),
            Timeline=_timeline(instance),
        ),
        InstanceGroupId=None if cluster.uses_fleets else instance.pool,
        InstanceFleetId=instance.pool if cluster.uses_fleets else None,
        Market=instance.market,
        InstanceType=instance.type,
        EbsVolumes=[],
    )


def group_detail(cluster: Cluster, pool: Pool) -> Params:
    config = pool.config
    policy = config.get("AutoScalingPolicy")
    return present(
        Id=pool.id,
        Name=config.get("Name"),
        Market=wanted_market(cluster, pool),
        InstanceGroupType=pool.role,
        BidPrice=config.get("BidPrice"),
        InstanceType=config["InstanceType"],
        RequestedInstanceCount=config["InstanceCount"],
        RunningInstanceCount=len(_running(cluster, pool)),
        Status=_pool_status(cluster, pool),
        Configurations=config.get("Configurations") or [],
        EbsBlockDevices=_ebs_devices(config),
        EbsOptimized=(config.get("EbsConfiguration") or {}).get("EbsOptimized"),
        ShrinkPolicy=pool.shrink_policy or {},
        AutoScalingPolicy=policy and {"Status": {"State": "ATTACHED"}, **policy},
        CustomAmiId=config.get("CustomAmiId"),
    )


def fleet_detail(cluster: Cluster, pool: Pool) -> Params:
    config = pool.config
    running = _running(cluster, pool)
    return present(
        Id=pool.id,
        Name=config.get("Name"),
        Status=_pool_status(cluster, pool),
        InstanceFleetType=pool.role,
        TargetOnDemandCapacity=config.get("TargetOnDemandCapacity") or 0,
        TargetSpotCapacity=config.get("TargetSpotCapacity") or 0,
        ProvisionedOnDemandCapacity=sum(each.weight for each in running if each.market == "ON_DEMAND"),
        ProvisionedSpotCapacity=sum(each.weight for each in running if each.market == "SPOT"),
        InstanceTypeSpecifications=[
            present(
                InstanceType=each["InstanceType"],
                WeightedCapacity=each.get("WeightedCapacity") or 1,
                BidPrice=each.get("BidPrice"),
                BidPriceAsPercentageOfOnDemandPrice=each.get("BidPriceAsPercentageOfOnDemandPrice"),
                Configurations=each.get("Configurations") or [],
                EbsBlockDevices=_ebs_devices(each),
                EbsOptimized=(each.get("EbsConfiguration") or {}).get("EbsOptimized"),
                CustomAmiId=each.get("CustomAmiId"),
                Priority=each.get("Priority"),
            )
            for each in config.get("InstanceTypeConfigs") or []
        ],
        LaunchSpecifications=config.get("LaunchSpecifications"),
        ResizeSpecifications=config.get("ResizeSpecifications"),
        Context=config.get("Context"),
    )


def wanted_market(cluster: Cluster, pool: Pool) -> str:
    wanted, _ = wanted_instances(cluster.uses_fleets, pool.config)
    return wanted[0].market if wanted else str(pool.config.get("Market") or "ON_DEMAND")


_JOB_FLOW_STATES = {
    ClusterState.TERMINATING: "SHUTTING_DOWN",
    ClusterState.TERMINATED: "COMPLETED",
    ClusterState.TERMINATED_WITH_ERRORS: "FAILED",
}


def job_flow_state(cluster: Cluster) -> str:
    """The state's name in DescribeJobFlows, which knows TERMINATED as an end by a user's hand."""
    if cluster.state is ClusterState.TERMINATED and cluster.reason_code == "USER_REQUEST":
        return "TERMINATED"
    return _JOB_FLOW_STATES.get(cluster.state, str(cluster.state))


def job_flow_detail(cluster: Cluster) -> Params:
    """``JobFlowDetail`` of the deprecated DescribeJobFlows."""
    instances = cluster.request["Instances"]
    primary = cluster.primary
    core = next((each for each in cluster.instances if each.role == "CORE"), primary)
    return present(
        JobFlowId=cluster.id,
        Name=cluster.name,
        LogUri=cluster.log_uri,
        ExecutionStatusDetail=present(
            State=job_flow_state(cluster),
            CreationDateTime=cluster.created,
            StartDateTime=cluster.ready,
            ReadyDateTime=cluster.ready,
            EndDateTime=cluster.ended,
            LastStateChangeReason=cluster.reason,
        ),
        Instances=present(
            MasterInstanceType=primary.type if primary else "",
            MasterInstanceId=primary.ec2_id if primary else None,
            MasterPublicDnsName="localhost",
            SlaveInstanceType=core.type if core else "",
            InstanceCount=len([each for each in cluster.instances if each.ended is None]),
            InstanceGroups=[]
            if cluster.uses_fleets
            else [
                present(
                    InstanceGroupId=pool.id,
                    Name=pool.config.get("Name"),
                    Market=wanted_market(cluster, pool),
                    InstanceRole=pool.role,
                    BidPrice=pool.config.get("BidPrice"),
                    InstanceType=pool.config["InstanceType"],
                    InstanceRequestCount=pool.config["InstanceCount"],
                    InstanceRunningCount=len(_running(cluster, pool)),
                    State=_pool_state(cluster, pool),
                    CreationDateTime=pool.created,
                    ReadyDateTime=pool.ready,
                    EndDateTime=pool.ended,
                )
                for pool in cluster.pools
            ],
            NormalizedInstanceHours=0,
            Ec2KeyName=instances.get("Ec2KeyName"),
            Ec2SubnetId=instances.get("Ec2SubnetId"),
            KeepJobFlowAliveWhenNoSteps=cluster.keep_alive,
            TerminationProtected=cluster.protected,
            UnhealthyNodeReplacement=cluster.unhealthy_node_replacement,
        ),
        Steps=[
            {
                "StepConfig": step.config,
                "ExecutionStatusDetail": present(
                    State="RUNNING" if step.state == "CANCEL_PENDING" else str(step.state),
                    CreationDateTime=step.created,
                    StartDateTime=step.started,
                    EndDateTime=step.ended,
                    LastStateChangeReason=step.reason,
                ),
            }
            for step in cluster.steps
        ],
        BootstrapActions=[{"BootstrapActionConfig": each} for each in cluster.bootstrap_actions],
        SupportedProducts=cluster.request.get("SupportedProducts") or [],
        VisibleToAllUsers=cluster.visible,
        JobFlowRole=cluster.request.get("JobFlowRole"),
        ServiceRole=cluster.request.get("ServiceRole"),
    )


def _running(cluster: Cluster, pool: Pool) -> list[Instance]:
    return [
        each
        for each in cluster.instances
        if each.pool == pool.id and each.ready is not None and each.ended is None
    ]


def _pool_state(cluster: Cluster, pool: Pool) -> str:
    if pool.ended is not None:
        return "TERMINATED"
    if cluster.state in CLUSTER_READY:
        return "RUNNING"
    if cluster.state in CLUSTER_ENDING:
        return "TERMINATING"
    return "BOOTSTRAPPING" if cluster.state is ClusterState.BOOTSTRAPPING else "PROVISIONING"


def _pool_status(cluster: Cluster, pool: Pool) -> Params:
    reason = (
        {"Code": "CLUSTER_TERMINATED", "Message": "Job flow terminated"}
        if cluster.state in CLUSTER_ENDING
        else {}
    )
    return present(State=_pool_state(cluster, pool), StateChangeReason=reason, Timeline=_timeline(pool))


def _timeline(each: Instance | Pool) -> Params:
    return present(CreationDateTime=each.created, ReadyDateTime=each.ready, EndDateTime=each.ended)


def _ebs_devices(config: Params) -> list[Params]:
    devices: list[Params] = []
    for block in (config.get("EbsConfiguration") or {}).get("EbsBlockDeviceConfigs") or []:
        for _ in range(int(block.get("VolumesPerInstance") or 1)):
            device = f"/dev/sd{chr(ord('b') + len(devices))}"
            devices.append({"VolumeSpecification": block["VolumeSpecification"], "Device": device})
    return devices
