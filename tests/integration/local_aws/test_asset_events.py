"""A watcher of EMR's events on a queue of local AWS, over HTTP."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import boto3

from airflow_emr_etl.local.stack import LocalAws
from airflow_emr_etl.models.emr_event import EmrEvent
from airflow_emr_etl.triggers.emr_asset import EmrEventTrigger


def event(step_id: str, state: str) -> EmrEvent:
    return EmrEvent(
        id=f"{step_id}-{state}",
        account="123456789012",
        region="us-east-1",
        time=datetime(2026, 1, 6, tzinfo=UTC),
        cluster_id="j-1",
        step_id=step_id,
        name="sessionize",
        state=state,
        message="",
    )


async def first(trigger: EmrEventTrigger) -> dict[str, Any]:
    async with asyncio.timeout(60), aclosing(trigger.run()) as events:
        async for found in events:
            return dict(found.payload)
    raise AssertionError("a watcher never ends by itself")


def test_what_was_given_but_not_stored_comes_again(aws_environment: LocalAws) -> None:
    sqs = boto3.client("sqs")
    url = sqs.create_queue(QueueName="watched", Attributes={"VisibilityTimeout": "1"})["QueueUrl"]
    for each in (event("s-1", "RUNNING"), event("s-1", "COMPLETED")):
        sqs.send_message(QueueUrl=url, MessageBody=json.dumps(each.document()))
    for queue in ("watched", url):
        payload = asyncio.run(first(EmrEventTrigger(queue=queue, aws_conn_id=None)))
        assert (payload["step_id"], payload["state"]) == ("s-1", "COMPLETED")
    sqs.delete_queue(QueueUrl=url)
