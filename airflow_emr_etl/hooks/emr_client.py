"""The boto3 clients of EMR: one that retries, one for the writes that must not be sent twice, one for polling."""

from __future__ import annotations

import socket
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from airflow_emr_etl.exceptions import EmrEtlError
from airflow_emr_etl.hooks.aws_errors import translate

if TYPE_CHECKING:
    from airflow_emr_etl.hooks.emr_events import EmrEventQueue

POLLING_THREADS: Final = 4
"""Calls that a poller makes at the same time, at most."""
EVENTS_EXTRA: Final = "emr_events_queue"
"""Of a connection: the queue of its EMR events, in place of ``[emr_etl] events_queue``; empty for none."""


class EmrClients:
    """Clients for one connection and region, made on first use.

    ``aws_conn_id`` and ``region_name`` mean what they mean to every hook of the Amazon provider.
    """

    def __init__(self, aws_conn_id: str | None = "aws_default", region_name: str | None = None) -> None:
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name

    @cached_property
    def _hook(self) -> Any:
        return self._hook_of("emr")

    def _hook_of(self, service: str) -> Any:
        """Makes clients of ``service`` by ``get_client_type``."""
        # Half a second of imports, so only where a call is about to be made.
        from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

        return AwsBaseHook(aws_conn_id=self.aws_conn_id, region_name=self.region_name, client_type=service)

    @cached_property
    def reads(self) -> Any:
        """For what may be repeated: every read, and TerminateJobFlows and CancelSteps, which are idempotent."""
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "total_max_attempts": 5}, connect_timeout=10, read_timeout=60
        )
        return self._hook.get_client_type(region_name=self.region_name, config=config)

    @cached_property
    def polls(self) -> Any:
        """For who asks again anyhow, and paces itself: repeats nothing, so that throttling makes no more calls."""
        from botocore.config import Config

        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=10,
            read_timeout=30,
            max_pool_connections=POLLING_THREADS,
        )
        return self._hook.get_client_type(region_name=self.region_name, config=config)

    @cached_property
    def writes(self) -> Any:
        """For RunJobFlow and AddJobFlowSteps alone.

        EMR has no idempotency token for them, so a client that repeats a request whose answer was lost makes
        a second cluster, or runs the step twice. This one sends once; what to do about an answer that never
        came is decided by the caller, who knows what it meant to create.
        """
        from botocore.config import Config

        config = Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=120)
        return self._hook.get_client_type(region_name=self.region_name, config=config)

    @cached_property
    def events(self) -> EmrEventQueue | None:
        """The queue that EMR's events come to; None where neither connection nor configuration names one.

        ``{hostname}`` in the name is this machine's, up to the first dot, for a queue to each triggerer.
        """
        from airflow.providers.common.compat.sdk import conf

        hostname = socket.gethostname().partition(".")[0]  # a queue's name has no dots
        named = self._extra.get(EVENTS_EXTRA)
        if named is None:
            named = conf.get("emr_etl", "events_queue", fallback="")
        return self.event_queue(str(named).replace("{hostname}", hostname)) if named else None

    @cached_property
    def events_or_failure(self) -> EmrEventQueue | EmrEtlError | None:
        """``events``, or why the queue cannot be had."""
        try:
            return self.events
        except Exception as error:
            return translate(error)

    def event_queue(self, queue: str) -> EmrEventQueue:
        """A queue of EMR's events, by name, URL or ARN."""
        from botocore.config import Config

        from airflow_emr_etl.hooks.emr_events import EmrEventQueue

        config = Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=30)
        client = self._hook_of("sqs").get_client_type(region_name=self.region_name, config=config)
        return EmrEventQueue(client, queue)

    @property
    def _extra(self) -> dict[str, Any]:
        return dict(self._hook.conn_config.extra_config)

    @cached_property
    def region(self) -> str:
        """The region that calls go to, wherever it was set."""
        return str(self.reads.meta.region_name)

    @cached_property
    def partition(self) -> str:
        """``aws``, ``aws-cn`` or ``aws-us-gov``."""
        return str(self.reads.meta.partition)
