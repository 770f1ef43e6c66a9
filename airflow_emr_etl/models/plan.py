"""``ClusterPlan``: everything that is needed to make a run's cluster, again if it must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from airflow_emr_etl.models.cluster import ClusterSpec
from airflow_emr_etl.models.intent import (
    TAG_GENERATION,
    TAG_LINEAGE,
    TAG_MAX_AGE,
    TAG_MAX_IDLE,
    TAG_RUNG,
    TAG_SPEC,
    ClusterMark,
    digest_of,
)

#: How often a run's cluster is replaced before its loss counts as a failure.
MAX_GENERATIONS = 6


@dataclass(frozen=True)
class ClusterPlan:
    """A run's cluster: the RunJobFlow requests of its capacity ladder, and whose it is.

    Plain JSON by ``document()``, so that the task that brings the cluster up can hand it to the steps, which
    bring up a replacement when the cluster is lost.
    """

    lineage: str
    spec: str
    """Digest of what the cluster is made of; clusters of one plan share it, whatever their rung."""
    requests: Sequence[Mapping[str, Any]]
    """One RunJobFlow request a rung; the first is what the author asked for."""
    tags: Mapping[str, str] = field(default_factory=dict)
    max_generations: int = MAX_GENERATIONS

    @classmethod
    def of_spec(cls, spec: ClusterSpec, lineage: str, tags: Mapping[str, str]) -> ClusterPlan:
        """The plan for a spec, with the ladder that the spec describes."""
        limits = {TAG_MAX_IDLE: str(int(spec.idle_timeout.total_seconds()))}
        if spec.max_age is not None:
            limits[TAG_MAX_AGE] = str(int(spec.max_age.total_seconds()))
        return cls.of_requests([rung.to_api() for rung in spec.ladder()], lineage, {**tags, **limits})

    @classmethod
    def of_requests(
        cls, requests: Sequence[Mapping[str, Any]], lineage: str, tags: Mapping[str, str]
    ) -> ClusterPlan:
        """The plan for RunJobFlow requests as boto3 takes them."""
        return cls(lineage, digest_of(requests[0], 8), list(requests), dict(tags))

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ClusterPlan:
        """What ``document()`` wrote."""
        return cls(**document)

    def document(self) -> dict[str, Any]:
        """This plan as plain JSON."""
        return asdict(self)

    def mark(self, generation: int = 1) -> ClusterMark:
        """The mark in the name of the plan's cluster of this generation."""
        return ClusterMark(self.lineage, self.spec, generation)

    def request(self, rung: int, generation: int) -> dict[str, Any]:
        """RunJobFlow's arguments for a rung of the ladder, counted from 0, with the mark and all tags."""
        request = dict(self.requests[rung])
        mark = self.mark(generation)
        tags = {tag["Key"]: tag.get("Value", "") for tag in request.get("Tags") or []}
        tags |= self.tags
        tags |= {
            TAG_LINEAGE: self.lineage,
            TAG_SPEC: self.spec,
            TAG_GENERATION: str(generation),
            TAG_RUNG: str(rung),
        }
        request["Name"] = mark.on(str(request["Name"]))
        request["Tags"] = [{"Key": key, "Value": value} for key, value in sorted(tags.items())]
        return request

    @property
    def protected(self) -> bool:
        """Whether the cluster asks for termination protection."""
        return bool(self.requests[0].get("Instances", {}).get("TerminationProtected", False))
