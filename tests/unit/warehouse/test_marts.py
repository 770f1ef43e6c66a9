"""The build of marts as text."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.clickstream_marts import MARTS, USER_DAYS, USERS
from airflow_emr_etl.warehouse import load_plan, marts

DAY = date(2026, 1, 5)


def test_the_transaction_of_a_build() -> None:
    lock, fence, delete, insert, delete_all, insert_all = marts.build_transaction([USER_DAYS, USERS], [DAY])
    assert lock == 'LOCK TABLE "etl"."lock_marts"'
    assert fence == 'UPDATE "etl"."load_fence" SET epoch = epoch + 1 WHERE target = \'marts\''
    assert delete == (
        'DELETE FROM "marts"."user_days" WHERE ("dt" BETWEEN DATE \'2026-01-05\' AND DATE \'2026-01-05\')'
    )
    assert insert.startswith('INSERT INTO "marts"."user_days" ("dt", "visitor_id", "first_seen", ')
    assert 'FROM "analytics"."sessions" AS s\n' in insert
    assert delete_all == 'DELETE FROM "marts"."users"'
    assert 'FROM "marts"."user_days" AS u' in insert_all
    assert marts.insert_positions([USER_DAYS, USERS]) == {"user_days": 3, "users": 5}


def test_all_marts_of_many_days_stay_within_the_limits() -> None:
    year = [DAY + timedelta(days=n) for n in range(366)]
    moment = datetime.fromisoformat("2026-01-05 10:00")
    statements = marts.build_transaction(MARTS, year, since=moment, until=moment)
    assert len(statements) <= load_plan.MAX_STATEMENTS
    assert sum(map(len, statements)) < load_plan.MAX_BYTES / 4
    assert len(marts.create_all(MARTS)) <= load_plan.MAX_STATEMENTS
    every_other = [DAY + timedelta(days=2 * n) for n in range(300)]
    with pytest.raises(ConfigurationError, match="Build fewer marts or days in one task"):
        marts.build_transaction(MARTS, every_other)


def test_the_reach_of_days() -> None:
    assert marts.select_reach([DAY]) == (
        'SELECT MIN(started_at) AS since, MAX(ended_at) AS until FROM "analytics"."sessions" WHERE '
        "((started_at < TIMESTAMP '2026-01-06 00:00:00' AND ended_at >= TIMESTAMP '2026-01-05 00:00:00'))"
    )
