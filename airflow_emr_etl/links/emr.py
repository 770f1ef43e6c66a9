"""Links from a task to the consoles of EMR and S3.

``push`` stores a link's address at once, so that the button works while the task still runs; Airflow itself
asks for it only at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

from airflow_emr_etl.models.s3 import S3Uri

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

_DOMAINS = {"aws": "aws.amazon.com", "aws-cn": "amazonaws.cn", "aws-us-gov": "amazonaws-us-gov.com"}


class _StoredLink(BaseOperatorLink):
    """A link whose address lies in the task's XCom under ``xcom_key``."""

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return XCom.get_value(key=self.xcom_key, ti_key=ti_key) or ""

    @classmethod
    def push(cls, ti: Any, url: str) -> None:
        """Show ``url`` from now on. Without an address there is no button."""
        if url:
            ti.xcom_push(key=f"_link_{cls.__name__}", value=url)


class EmrClusterLink(_StoredLink):
    """The cluster in the console of EMR."""

    name = "EMR cluster"


class EmrLogsLink(_StoredLink):
    """The logs of the cluster or step in the console of S3."""

    name = "EMR logs"


def cluster_url(cluster_id: str, *, region: str, partition: str = "aws") -> str:
    """The cluster's page in the console."""
    domain = _DOMAINS.get(partition, _DOMAINS["aws"])
    return f"https://console.{domain}/emr/home?region={region}#/clusterDetails/{cluster_id}"


def logs_url(
    log_uri: str | None, cluster_id: str, step_id: str | None = None, *, region: str, partition: str = "aws"
) -> str:
    """The folder of logs in the console; empty where the cluster keeps none."""
    if not log_uri:
        return ""
    where = logs_folder(log_uri, cluster_id, step_id)
    domain = _DOMAINS.get(partition, _DOMAINS["aws"])
    return f"https://console.{domain}/s3/buckets/{where.bucket}?region={region}&prefix={quote(where.key)}"


def logs_folder(log_uri: str, cluster_id: str, step_id: str | None = None) -> S3Uri:
    """Where EMR puts the logs of a cluster, or of one of its steps."""
    folder = S3Uri.parse(log_uri.rstrip("/") + "/").child(f"{cluster_id}/")
    return folder.child(f"steps/{step_id}/") if step_id else folder
