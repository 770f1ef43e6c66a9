"""What a task means to create: who it is for, and the marks by which it is found again.

EMR has no idempotency token for RunJobFlow and AddJobFlowSteps, so the intent travels where EMR keeps it: in
the name of what is made, and for a cluster in tags that are part of the request. A later try, or another
worker, that lists the names knows what exists already.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

#: EMR takes this many characters in the name of a cluster or a step, and in the value of a tag.
_MAX_NAME = 256
_MAX_TAG = 256
_CLUSTER_MARK = re.compile(r" \[emr-etl ([0-9a-f]{16})\.([0-9a-f]{8})\.g([0-9]+)\]$")
_STEP_MARK = re.compile(
    r" \[emr-etl ([0-9a-f]{16})\.([0-9a-f]{8})\.c([0-9]+)\.n([0-9]+)\.([0-9a-f]{4})(h?)\]$"
)

_NOT_IN_TAGS = re.compile(r"[^\w +\-.:/@]")
_CODE_IN_TAG = re.compile(r"=([0-9a-f]{6})")

TAG_LINEAGE: Final = "emr-etl:lineage"
TAG_SPEC: Final = "emr-etl:spec"
TAG_GENERATION: Final = "emr-etl:generation"
#: How many rungs of the spec's capacity ladder lie behind this cluster.
TAG_RUNG: Final = "emr-etl:rung"
#: The Airflow that the cluster belongs to: two of them may share an account and the names of their DAGs.
TAG_SITE: Final = "emr-etl:site"
TAG_DAG: Final = "emr-etl:dag"
TAG_RUN: Final = "emr-etl:run"
TAG_TASK: Final = "emr-etl:task"
TAG_POOL: Final = "emr-etl:pool"
#: Seconds after its creation, and without work, that the reaper leaves to the cluster.
TAG_MAX_AGE: Final = "emr-etl:max-age"
TAG_MAX_IDLE: Final = "emr-etl:max-idle"
#: Set before a teardown ends the cluster: whoever finds it ended must not replace it.
TAG_CLOSED: Final = "emr-etl:closed"


def digest_of(document: Any, length: int = 16) -> str:
    """A short digest of plain JSON, the same for the same content."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True)
class Scope:
    """The task instance, of whichever try, that something is created for."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    site: str = ""

    @property
    def lineage(self) -> str:
        """16 hexadecimal digits: everything created for this task instance has them in its name."""
        return digest_of([self.site, self.dag_id, self.run_id, self.task_id, self.map_index])


@dataclass(frozen=True)
class ClusterMark:
    """The mark in a cluster's name."""

    lineage: str
    spec: str
    """8 digits of the spec's digest: a cluster of another spec is not the one that is meant."""
    generation: int = 1
    """Counts the replacements of a lost cluster."""

    def on(self, name: str) -> str:
        """``name`` with this mark behind it, within EMR's length."""
        return _marked(name, f" [emr-etl {self.lineage}.{self.spec}.g{self.generation}]")

    @classmethod
    def read(cls, name: str) -> ClusterMark | None:
        """The mark in a name; None where there is none."""
        found = _CLUSTER_MARK.search(name)
        return cls(found[1], found[2], int(found[3])) if found else None

    def serves(self, other: ClusterMark) -> bool:
        """Whether a cluster with this mark is what ``other`` means, of whichever generation."""
        return (self.lineage, self.spec) == (other.lineage, other.spec)


@dataclass(frozen=True)
class StepMark:
    """The mark in a step's name."""

    lineage: str
    content: str
    """8 digits of the digest of what the step runs."""
    clears: int = 0
    """Grows when the task is cleared: what an earlier one completed does not count any more."""
    number: int = 1
    """Counts the times that the step was added, since a failed step runs again."""
    nonce: str = "0000"
    """Tells two steps apart that two workers added under the same number."""
    on_hdfs: bool = False
    """What it wrote went with its cluster."""

    @property
    def attempt(self) -> str:
        """Names the path that this step alone writes to."""
        return f"{self.lineage}-{self.number}-{self.nonce}"

    def on(self, name: str) -> str:
        """``name`` with this mark behind it, within EMR's length."""
        hdfs = "h" if self.on_hdfs else ""
        return _marked(
            name,
            f" [emr-etl {self.lineage}.{self.content}.c{self.clears}.n{self.number}.{self.nonce}{hdfs}]",
        )

    @classmethod
    def read(cls, name: str) -> StepMark | None:
        """The mark in a name; None where there is none."""
        found = _STEP_MARK.search(name)
        if found is None:
            return None
        return cls(found[1], found[2], int(found[3]), int(found[4]), found[5], on_hdfs=bool(found[6]))


@dataclass(frozen=True)
class StepIntent:
    """What a task means to run, before it is known under which number."""

    lineage: str
    clears: int = 0
    on_hdfs: bool = False
    not_before: datetime | None = None
    """A step completed earlier belongs to a run of the same name that was deleted; it does not count."""


def without_mark(name: str) -> str:
    """A name as its author wrote it."""
    return _STEP_MARK.sub("", _CLUSTER_MARK.sub("", name))


def tags_for_run(scope: Scope) -> dict[str, str]:
    """The tags that say whose a cluster is."""
    tags = {TAG_DAG: scope.dag_id, TAG_RUN: scope.run_id, TAG_TASK: scope.task_id, TAG_SITE: scope.site}
    told = {key: tag_text(value) for key, value in tags.items() if value}
    # A name that was cut would be taken for another's.
    return {key: value for key, value in told.items() if len(value) <= _MAX_TAG}


def tag_text(value: str) -> str:
    """``value`` in the characters that AWS takes in a tag: any other, and ``=``, is written as ``=`` and its code."""
    return _NOT_IN_TAGS.sub(lambda found: f"={ord(found[0]):06x}", value)


def from_tag_text(value: str) -> str:
    """What ``tag_text`` was made of."""
    return _CODE_IN_TAG.sub(lambda found: chr(int(found[1], 16)), value)


def tags_in(cluster: Mapping[str, Any]) -> dict[str, str]:
    """The tags in a ``Cluster`` of DescribeCluster."""
    return {tag["Key"]: tag.get("Value", "") for tag in cluster.get("Tags") or []}


def _marked(name: str, mark: str) -> str:
    return name[: _MAX_NAME - len(mark)] + mark
