"""What local EMR says has become of the clusters and steps of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3

from airflow_emr_etl.models.intent import without_mark
from airflow_emr_etl.models.states import CLUSTER_LIVE, STEP_ACTIVE, ClusterState, StepState

#: A cluster counts until it has ended; how long TERMINATING lasts is EMR's own affair.
_ENDING = timedelta(seconds=3)


@dataclass(frozen=True)
class SeenStep:
    id: str
    cluster_id: str
    name: str
    """Without the mark."""
    state: StepState
    created: datetime
    ended: datetime | None


@dataclass(frozen=True)
class SeenCluster:
    id: str
    name: str
    state: ClusterState
    created: datetime
    ended: datetime | None

    @property
    def live(self) -> bool:
        return self.state in CLUSTER_LIVE


class EmrSeen:
    """Looks at EMR with a client of its own, past everything that is tested here."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.client: Any = boto3.client(
            "emr",
            endpoint_url=env["AWS_ENDPOINT_URL"],
            region_name=env["AWS_DEFAULT_REGION"],
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        )

    def clusters(self, name: str) -> list[SeenCluster]:
        """The clusters of that name, whatever mark is behind it; the earliest first."""
        found = []
        for page in self.client.get_paginator("list_clusters").paginate():
            for cluster in page["Clusters"]:
                if without_mark(cluster["Name"]) == name:
                    times = cluster["Status"]["Timeline"]
                    found.append(
                        SeenCluster(
                            cluster["Id"],
                            name,
                            ClusterState(cluster["Status"]["State"]),
                            times["CreationDateTime"],
                            times.get("EndDateTime"),
                        )
                    )
        return sorted(found, key=lambda each: each.created)

    def live(self, name: str) -> list[SeenCluster]:
        return [cluster for cluster in self.clusters(name) if cluster.live]

    def steps(self, name: str) -> list[SeenStep]:
        """The steps on all clusters of that name; the earliest first."""
        found = []
        for cluster in self.clusters(name):
            for page in self.client.get_paginator("list_steps").paginate(ClusterId=cluster.id):
                for step in page["Steps"]:
                    times = step["Status"]["Timeline"]
                    found.append(
                        SeenStep(
                            step["Id"],
                            cluster.id,
                            without_mark(step["Name"]),
                            StepState(step["Status"]["State"]),
                            times["CreationDateTime"],
                            times.get("EndDateTime"),
                        )
                    )
        return sorted(found, key=lambda each: each.created)

    def states(self, name: str, step: str) -> list[str]:
        """The states of the steps of that name on all clusters of the run; the earliest first."""
        return [each.state.value for each in self.steps(name) if each.name == step]

    def active(self, name: str) -> list[SeenStep]:
        return [step for step in self.steps(name) if step.state in STEP_ACTIVE]


def most_at_once(spans: list[tuple[datetime, datetime | None]]) -> int:
    """How many of the spans of time covered one moment at the most; None is still going on."""
    now = datetime.now(UTC)
    return max((sum(a <= start < (b or now) for a, b in spans) for start, _ in spans), default=0)


def most_clusters_at_once(clusters: list[SeenCluster]) -> int:
    spans = [(each.created, each.ended and max(each.created, each.ended - _ENDING)) for each in clusters]
    return most_at_once(spans)


def most_steps_at_once(steps: list[SeenStep]) -> int:
    return most_at_once([(each.created, each.ended) for each in steps])
