"""The query of the docs about what is recognised, in Redshift's SQL."""

from __future__ import annotations

from typing import Any

from integration.documented_sql import recognised

from airflow_emr_etl.warehouse import schema
from airflow_emr_etl.warehouse.clickstream import EVENTS


def test_redshift_takes_the_query(warehouse: Any) -> None:
    columns = "event_id, user_agent, agent_family, bot_reason, referrer, referrer_medium, referrer_source"
    warehouse.ok("CREATE SCHEMA analytics")
    warehouse.ok(schema.create_table(EVENTS))
    warehouse.ok(
        f"INSERT INTO analytics.events ({columns}) VALUES "
        "('1', 'Firefox', 'Firefox', NULL, 'https://google.com/', 'search', 'Google'), "
        "('2', 'Firefox', 'Firefox', 'rate', 'https://a.example/', 'unknown', NULL), "
        "('3', 'bot', NULL, 'name', 'https://own.example/', 'internal', NULL), "
        "('4', NULL, NULL, NULL, NULL, 'direct', NULL)"
    )
    assert warehouse.rows(recognised()) == [
        ("referrers", 2, 1, 2, 1),
        ("robots", 2, 1, 4, 2),
        ("robots: name", 1, 1, 1, 1),
        ("robots: rate", 1, 1, 1, 1),
        ("user agents", 2, 1, 3, 2),
    ]
