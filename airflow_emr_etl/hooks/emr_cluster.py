"""Clusters: create, look at, end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from airflow_emr_etl.exceptions import (
    BootstrapFailedError,
    CapacityError,
    ClusterError,
    ClusterFailedError,
    ClusterLostError,
)
from airflow_emr_etl.hooks.aws_errors import aws_call
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.models.states import ClusterEndCode, ClusterState, is_capacity_failure


class EmrClusterHook:
    """Calls of EMR that concern a cluster. Raises this package's errors, never botocore's."""

    def __init__(
        self,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        *,
        clients: EmrClients | None = None,
    ) -> None:
        self.clients = clients or EmrClients(aws_conn_id, region_name)

    def create(self, request: Mapping[str, Any]) -> str:
        """RunJobFlow with this request, sent once; the new cluster's id.

        Any error but a refusal is ambiguous: the cluster may exist. ``ClusterKeeper.ensure`` is what knows
        how to go on from there.
        """
        with aws_call("emr:RunJobFlow"):
            answer = self.clients.writes.run_job_flow(**request)
        return str(answer["JobFlowId"])

    def list_clusters(
        self, states: Iterable[ClusterState], *, created_after: datetime | None = None
    ) -> Iterator[dict[str, Any]]:
        """What ListClusters says of the clusters in these states, all pages, the latest first."""
        request: dict[str, Any] = {"ClusterStates": sorted(state.value for state in states)}
        if created_after is not None:
            request["CreatedAfter"] = created_after
        with aws_call("emr:ListClusters"):
            for page in self.clients.reads.get_paginator("list_clusters").paginate(**request):
                yield from page["Clusters"]

    def tag(self, cluster_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a cluster that is up."""
        with aws_call("emr:AddTags"):
            self.clients.reads.add_tags(
                ResourceId=cluster_id, Tags=[{"Key": key, "Value": value} for key, value in tags.items()]
            )

    def describe(self, cluster_id: str) -> dict[str, Any]:
        """The ``Cluster`` part of DescribeCluster. ClusterNotFoundError where there is none."""
        with aws_call("emr:DescribeCluster"):
            cluster: dict[str, Any] = self.clients.reads.describe_cluster(ClusterId=cluster_id)["Cluster"]
        return cluster

    def terminate(self, cluster_id: str) -> None:
        """End the cluster. One call, without a look at its state first; ending an ended cluster is no error."""
        with aws_call("emr:TerminateJobFlows"):
            self.clients.reads.terminate_job_flows(JobFlowIds=[cluster_id])

    def lift_protection(self, cluster_id: str) -> None:
        """Turn termination protection off, so that ``terminate`` has an effect."""
        with aws_call("emr:SetTerminationProtection"):
            self.clients.reads.set_termination_protection(JobFlowIds=[cluster_id], TerminationProtected=False)


def cluster_state(cluster: Mapping[str, Any]) -> ClusterState:
    """The state in a ``Cluster`` of EMR."""
    return ClusterState(cluster["Status"]["State"])


def why_cluster_ended(cluster: Mapping[str, Any]) -> str:
    """Code and message of a ``Cluster``'s end, for people."""
    reason = cluster.get("Status", {}).get("StateChangeReason", {})
    return (
        ": ".join(text for text in (reason.get("Code"), reason.get("Message")) if text)
        or "EMR gave no reason"
    )


def cluster_failure(cluster: Mapping[str, Any], *, served: bool = False) -> ClusterError:
    """The error for a ``Cluster`` that has ended.

    ``served`` says that work was on it: an end that nobody's program caused is then a lost cluster, which
    another cluster can replace.
    """
    cluster_id = cluster.get("Id")
    reason = cluster["Status"].get("StateChangeReason", {})
    code, message = reason.get("Code"), reason.get("Message")
    told = why_cluster_ended(cluster)
    logs = f" Logs: {cluster['LogUri'].rstrip('/')}/{cluster_id}/" if cluster.get("LogUri") else ""
    details = {"cluster_id": cluster_id, "code": code, "reason": message}
    if code == ClusterEndCode.BOOTSTRAP_FAILURE:
        return BootstrapFailedError(
            f"A bootstrap action of cluster {cluster_id} failed. {told}.{logs and logs + 'node/'}", **details
        )
    error_codes = [str(each.get("ErrorCode")) for each in cluster["Status"].get("ErrorDetails") or []]
    if is_capacity_failure(code, message, error_codes):
        return CapacityError(
            f"EC2 had no machines for cluster {cluster_id}. {told}. Name more instance types or subnets in the spec, "
            "or more on-demand units.",
            **details,
        )
    if served:
        return ClusterLostError(f"Cluster {cluster_id} ended while work was on it. {told}.{logs}", **details)
    if code == ClusterEndCode.INTERNAL_ERROR or code == ClusterEndCode.INSTANCE_FAILURE:
        # Amazon's side failed, not the spec: another cluster can do better.
        return ClusterLostError(f"Cluster {cluster_id} failed on EMR's side. {told}.{logs}", **details)
    return ClusterFailedError(f"Cluster {cluster_id} ended before it could serve. {told}.{logs}", **details)
