"""The tables of the clickstream pipeline. Columns are in the order of the files that the Spark jobs write."""

from __future__ import annotations

from airflow_emr_etl.models.table import RedshiftTable, Restatement

EVENTS = RedshiftTable(
    "analytics.events",
    mode="restate",
    partition="dt",
    keys=["event_id"],
    dist_key="visitor_id",
    sort_keys=["dt", "ts"],
    days="ts",
    key_time="ts",  # an event is a line, and the line says when
    columns=[
        "event_id VARCHAR(64)",
        "ts TIMESTAMP",
        "host VARCHAR(255)",
        "method VARCHAR(32)",
        "path VARCHAR(65535)",
        "page VARCHAR(65535)",
        "query VARCHAR(65535)",
        "protocol VARCHAR(32)",
        "status SMALLINT",
        "bytes BIGINT",
        "referrer VARCHAR(65535)",
        "user_agent VARCHAR(65535)",
        "referrer_host VARCHAR(65535)",
        "referrer_medium VARCHAR(16)",
        "referrer_source VARCHAR(255)",
        "referrer_term VARCHAR(65535)",
        "campaign_source VARCHAR(65535)",
        "campaign_medium VARCHAR(65535)",
        "campaign_name VARCHAR(65535)",
        "campaign_term VARCHAR(65535)",
        "campaign_content VARCHAR(65535)",
        "campaign_id VARCHAR(65535)",
        "campaign_click_id VARCHAR(65535)",
        "campaign_network VARCHAR(16)",
        "agent_family VARCHAR(65535)",
        "agent_version VARCHAR(65535)",
        "os_family VARCHAR(65535)",
        "os_version VARCHAR(65535)",
        "device_family VARCHAR(65535)",
        "device_brand VARCHAR(65535)",
        "device_class VARCHAR(16)",
        "is_internal BOOLEAN",
        "is_bot BOOLEAN",
        "bot_reason VARCHAR(16)",
        "is_page_view BOOLEAN",
        "visitor_id VARCHAR(64)",
        "user_id VARCHAR(65535)",
        "session_id VARCHAR(64)",
        "dt DATE",
    ],
)
"""One row for each valid request."""

SESSIONS = RedshiftTable(
    "analytics.sessions",
    mode="restate",
    partition="dt",
    keys=["session_id"],
    dist_key="visitor_id",
    sort_keys=["dt", "started_at"],
    days=("started_at", "ended_at"),
    columns=[
        "session_id VARCHAR(64)",
        "visitor_id VARCHAR(64)",
        "started_at TIMESTAMP",
        "ended_at TIMESTAMP",
        "hits BIGINT",
        "page_views BIGINT",
        "entry_path VARCHAR(65535)",
        "exit_path VARCHAR(65535)",
        "referrer_host VARCHAR(65535)",
        "dt DATE",
    ],
    staging_columns=["restates_from TIMESTAMP", "restates_to TIMESTAMP", "retracted BOOLEAN"],
    restates=Restatement(
        by="visitor_id", at="started_at", begin="restates_from", end="restates_to", retracted="retracted"
    ),
)
"""One row for each session; ``dt`` is the UTC day on which it started."""

DAILY_TRAFFIC = RedshiftTable(
    "analytics.daily_traffic",
    partition="dt",
    keys=["dt"],
    dist_style="ALL",
    sort_keys=["dt"],
    columns=[
        "dt DATE",
        "hits BIGINT",
        "page_views BIGINT",
        "bot_hits BIGINT",
        "visitors BIGINT",
        "sessions BIGINT",
        "bytes BIGINT",
        "client_errors BIGINT",
        "server_errors BIGINT",
    ],
)
"""One row a day."""

QUARANTINE_COUNTS = RedshiftTable(
    "etl.quarantine_counts",
    partition="dt",
    keys=["dt", "reason"],
    dist_style="ALL",
    sort_keys=["dt"],
    columns=["dt DATE", "reason VARCHAR(64)", "lines BIGINT"],
)
"""How many lines were set aside, for each day and reason."""

TABLES = (EVENTS, SESSIONS, DAILY_TRAFFIC, QUARANTINE_COUNTS)
