"""The columns of the datasets that the clickstream jobs write, in file order, with Redshift's types."""

from __future__ import annotations

from typing import List, Tuple

from airflow_emr_etl.models.manifest import Column


def _columns(*specs: Tuple[str, str]) -> List[Column]:
    return [Column(name, kind) for name, kind in specs]


EVENTS = _columns(
    ("event_id", "VARCHAR(64)"),
    ("ts", "TIMESTAMP"),
    ("host", "VARCHAR(255)"),
    ("method", "VARCHAR(32)"),
    ("path", "VARCHAR(65535)"),
    ("page", "VARCHAR(65535)"),
    ("query", "VARCHAR(65535)"),
    ("protocol", "VARCHAR(32)"),
    ("status", "SMALLINT"),
    ("bytes", "BIGINT"),
    ("referrer", "VARCHAR(65535)"),
    ("user_agent", "VARCHAR(65535)"),
    ("referrer_host", "VARCHAR(65535)"),
    ("referrer_medium", "VARCHAR(16)"),
    ("referrer_source", "VARCHAR(255)"),
    ("referrer_term", "VARCHAR(65535)"),
    ("campaign_source", "VARCHAR(65535)"),
    ("campaign_medium", "VARCHAR(65535)"),
    ("campaign_name", "VARCHAR(65535)"),
    ("campaign_term", "VARCHAR(65535)"),
    ("campaign_content", "VARCHAR(65535)"),
    ("campaign_id", "VARCHAR(65535)"),
    ("campaign_click_id", "VARCHAR(65535)"),
    ("campaign_network", "VARCHAR(16)"),
    ("agent_family", "VARCHAR(65535)"),
    ("agent_version", "VARCHAR(65535)"),
    ("os_family", "VARCHAR(65535)"),
    ("os_version", "VARCHAR(65535)"),
    ("device_family", "VARCHAR(65535)"),
    ("device_brand", "VARCHAR(65535)"),
    ("device_class", "VARCHAR(16)"),
    ("is_internal", "BOOLEAN"),
    ("is_bot", "BOOLEAN"),
    ("bot_reason", "VARCHAR(16)"),
    ("is_page_view", "BOOLEAN"),
    ("visitor_id", "VARCHAR(64)"),
    ("user_id", "VARCHAR(65535)"),
    ("session_id", "VARCHAR(64)"),
    ("dt", "DATE"),
)

NORMALIZED = [column for column in EVENTS if column.name != "session_id"] + _columns(
    ("dropped_copies", "BIGINT"),
    ("dropped_repeats", "BIGINT"),
    ("is_named_page", "BOOLEAN"),
)
"""Events before sessions. ``dropped_copies``: further deliveries of this line (and of its repeats), which were
dropped. ``dropped_repeats``: equal requests that followed this one too closely to count. ``is_named_page``: whether the
source calls it a page view by its name; NULL where the source names none."""

EVENT_BYTES = 100
"""What an event takes in a file, about (made-up logs: 90): before the first file is written nothing better is known."""

CAMPAIGN = tuple(column.name for column in EVENTS if column.name.startswith("campaign_"))
"""What says of an event which campaign it came by."""

QUARANTINE = _columns(
    ("dt", "DATE"),
    ("reason", "VARCHAR(64)"),
    ("file", "VARCHAR(65535)"),
    ("line_number", "BIGINT"),
    ("line", "VARBYTE(65535)"),
    ("line_bytes", "BIGINT"),
    ("dropped_copies", "BIGINT"),
)
"""``line`` holds the first bytes of the line, ``line_bytes`` is the length of the whole."""

QUARANTINE_COUNTS = _columns(("dt", "DATE"), ("reason", "VARCHAR(64)"), ("lines", "BIGINT"))

SESSIONS = _columns(
    ("session_id", "VARCHAR(64)"),
    ("visitor_id", "VARCHAR(64)"),
    ("started_at", "TIMESTAMP"),
    ("ended_at", "TIMESTAMP"),
    ("hits", "BIGINT"),
    ("page_views", "BIGINT"),
    ("entry_path", "VARCHAR(65535)"),
    ("exit_path", "VARCHAR(65535)"),
    ("referrer_host", "VARCHAR(65535)"),
    ("dt", "DATE"),
)

RESTATES = _columns(("restates_from", "TIMESTAMP"), ("restates_to", "TIMESTAMP"), ("retracted", "BOOLEAN"))
"""After the sessions' own columns, for the load alone: whose sessions of which time a row takes the place of."""

DAILY_TRAFFIC = _columns(
    ("dt", "DATE"),
    ("hits", "BIGINT"),
    ("page_views", "BIGINT"),
    ("bot_hits", "BIGINT"),
    ("visitors", "BIGINT"),
    ("sessions", "BIGINT"),
    ("bytes", "BIGINT"),
    ("client_errors", "BIGINT"),
    ("server_errors", "BIGINT"),
)
