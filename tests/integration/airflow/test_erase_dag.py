"""The sample DAGs by Airflow's ``dag.test`` on local AWS: a night, and then the erasure of one of its users."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest

from airflow_emr_etl.hooks.redshift_data import RedshiftDataHook
from airflow_emr_etl.models.table import RedshiftTarget

pytestmark = [pytest.mark.spark, pytest.mark.slow]

DAGS = Path(__file__).resolve().parents[3] / "dags"
NIGHT = "2026-01-05"
AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
WAREHOUSE = RedshiftTarget(
    workgroup_name="analytics", database="erasing", iam_role="arn:aws:iam::123456789012:role/r"
)


def line(host: str, minute: int, path: str, user: str | None = None) -> str:
    seen = {"ts": f"{NIGHT}T10:{minute:02}:00Z", "host": host, "path": path, "method": "GET", "status": 200}
    return json.dumps(
        {**seen, "user_agent": AGENT, "bytes": 5, **({} if user is None else {"user_id": user})}
    )


LINES = [
    # Each user's visitor has hits without a sign-in, too.
    line("192.0.2.1", 0, "/"),
    line("192.0.2.1", 1, "/account", "zelda-zebra"),
    line("192.0.2.2", 2, "/"),
    line("192.0.2.2", 3, "/account", "otto"),
]


@pytest.fixture
def dags(aws_environment: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    initdb()
    bundle = {
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(DAGS)},
    }
    bundles = json.dumps([{"name": "samples", **bundle}])
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", bundles)
    bag = DagBag(str(DAGS), bundle_path=DAGS, bundle_name="samples")
    assert bag.import_errors == {}
    return dict(bag.dags)


def kept_by_airflow(run: Any) -> str:
    """Every rendered field and XCom of the run, as text."""
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        fields = session.scalars(
            select(RenderedTaskInstanceFields).where(RenderedTaskInstanceFields.run_id == run.run_id)
        )
        xcoms = session.scalars(select(XComModel).where(XComModel.run_id == run.run_id))
        found = [*(field.rendered_fields for field in fields), *(xcom.value for xcom in xcoms)]
    assert len(found) > 5
    return json.dumps(found, default=str)


def logged(bucket: str) -> set[str]:
    """What EMR's logs in the bucket say, a text for each."""
    s3 = boto3.client("s3")
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    found = {gzip.decompress(s3.get_object(Bucket=bucket, Key=key)["Body"].read()).decode() for key in keys}
    assert any(found)
    return found


def test_a_user_is_gone_from_the_lake_the_warehouse_and_the_marts(dags: dict[str, Any]) -> None:
    s3 = boto3.client("s3")
    name = f"erase-{datetime.now(UTC):%H%M%S%f}"
    for part in ("source", "lake", "artifacts", "logs"):
        s3.create_bucket(Bucket=f"{name}-{part}")
    s3.put_object(Bucket=f"{name}-source", Key=f"dt={NIGHT}/a.log", Body="\n".join(LINES).encode())
    s3.put_object(Bucket=f"{name}-source", Key="requests/users.txt", Body=b"zelda-zebra\r\n")
    settings = {
        **{part: f"s3://{name}-{part}/" for part in ("lake", "artifacts", "logs")},
        "redshift_database": WAREHOUSE.database,
    }
    night = dags["clickstream_nightly"].test(
        logical_date=datetime(2026, 1, 6, tzinfo=UTC),
        run_conf={**settings, "source": f"s3://{name}-source/", "log_source": "json_events", "day": NIGHT},
    )
    assert str(night.state) == "success"
    hook = RedshiftDataHook(WAREHOUSE)
    [zelda] = {
        row["visitor_id"]
        for row in hook.query("SELECT visitor_id FROM marts.identities WHERE user_id = 'zelda-zebra'")
    }
    of_the_night = logged(f"{name}-logs")

    erasure = dags["clickstream_erase"].test(
        logical_date=datetime(2026, 1, 7, tzinfo=UTC),
        run_conf={**settings, "users": f"s3://{name}-source/requests/users.txt"},
    )

    assert str(erasure.state) == "success"
    for table in (
        "analytics.events",
        "analytics.sessions",
        "marts.page_views",
        "marts.users",
        "marts.identities",
    ):
        [other] = {row["visitor_id"] for row in hook.query(f"SELECT visitor_id FROM {table}")}
        assert other != zelda
    assert hook.query("SELECT visitors FROM marts.daily_traffic") == [{"visitors": 1}]
    objects = s3.list_objects_v2(Bucket=f"{name}-lake")["Contents"]
    datasets = 0
    for key in (item["Key"] for item in objects if item["Key"].endswith(".parquet")):
        if not key.startswith("erasures/"):
            table = pq.read_table(BytesIO(s3.get_object(Bucket=f"{name}-lake", Key=key)["Body"].read()))
            if "visitor_id" in table.column_names:
                datasets += 1
                assert zelda not in table["visitor_id"].to_pylist()
    assert datasets >= 3
    told = kept_by_airflow(erasure) + "".join(logged(f"{name}-logs") - of_the_night)
    assert "zelda" not in told
    assert zelda not in told
