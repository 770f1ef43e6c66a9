"""Waits for the first object under a prefix."""

from __future__ import annotations

from typing import Any

from airflow_emr_etl.hooks.s3_lake import S3LakeHook
from airflow_emr_etl.triggers.polling import PollingTrigger


class S3PrefixTrigger(PollingTrigger):
    """Fires when there is an object under ``prefix`` and, where given, the object ``marker``.

    Payload: ``{"status": "done"}``.
    """

    def __init__(self, *, prefix: str, marker: str | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.prefix = prefix
        self.marker = marker

    def fields(self) -> dict[str, Any]:
        return {"prefix": self.prefix, "marker": self.marker}

    def connect(self) -> S3LakeHook:
        hook = S3LakeHook(self.aws_conn_id, self.region_name)
        _ = hook.client
        return hook

    def look(self, hook: S3LakeHook) -> dict[str, Any] | None:
        return {"status": "done"} if arrived(hook, self.prefix, self.marker) else None


def arrived(hook: S3LakeHook, prefix: str, marker: str | None) -> bool:
    """Whether the prefix has an object and, where a marker is asked for, the marker is there."""
    if marker is not None and not hook.exists(marker):
        return False
    return any(str(item.uri) != marker for item in hook.list_objects(prefix, max_keys=10))
