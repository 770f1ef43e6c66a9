from __future__ import annotations

import pytest
from fakes.task_instance import FakeTaskInstance

from airflow_emr_etl.links.emr import EmrClusterLink, EmrLogsLink, cluster_url, logs_url


def test_addresses() -> None:
    assert cluster_url("j-1", region="eu-west-1").endswith(
        "aws.amazon.com/emr/home?region=eu-west-1#/clusterDetails/j-1"
    )
    assert "amazonaws.cn" in cluster_url("j-1", region="cn-north-1", partition="aws-cn")
    assert logs_url("s3n://b/emr", "j-1", "s-1", region="r").endswith(
        "/s3/buckets/b?region=r&prefix=emr/j-1/steps/s-1/"
    )
    assert logs_url(None, "j-1", region="r") == ""


@pytest.mark.parametrize("link", [EmrClusterLink, EmrLogsLink])
def test_pushed_where_airflow_looks(link: type[EmrClusterLink] | type[EmrLogsLink]) -> None:
    ti = FakeTaskInstance()
    link.push(ti, "https://x")
    assert ti.xcoms == {link().xcom_key: "https://x"}
    link.push(ti, "")
    assert ti.xcoms == {link().xcom_key: "https://x"}
