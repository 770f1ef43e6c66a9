"""The jobs over a real web server's log, against SQL that was written without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from integration.spark.nights import Nights, late_and_twice

from airflow_emr_etl.clickstream.split import split_logs
from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.spark.enrichment import Enrichment
from airflow_emr_etl.spark.jobs.clickstream_normalize import normalize
from airflow_emr_etl.spark.jobs.clickstream_sessionize import sessionize
from airflow_emr_etl.spark.robots import BehaviourRules

pytestmark = pytest.mark.spark

DOCS = Path(__file__).resolve().parents[3] / "docs" / "real-log.md"
HITS = r"""
CREATE VIEW raw AS SELECT column0 AS line FROM read_csv(
    '{log}', columns={{'column0': 'VARCHAR'}}, sep='\t', header=false, quote='', escape='', auto_detect=false);
CREATE TABLE hits AS
SELECT line,
    split_part(line, ' ', 1) AS host,
    strptime(line[strpos(line, '[') + 1:strpos(line, ']') - 1], '%d/%b/%Y:%H:%M:%S %z') AT TIME ZONE 'UTC' AS ts,
    CAST(split_part(trim(split_part(line, '"', 3)), ' ', 1) AS INT) AS status,
    TRY_CAST(split_part(trim(split_part(line, '"', 3)), ' ', 2) AS BIGINT) AS bytes,
    split_part(line, '"', 6) AS agent
FROM raw WHERE line LIKE '%"' AND len(line) - len(replace(line, '"', '')) = 6;
"""
# In this log no quote is inside a field; a line that has other than six has been cut.


@pytest.fixture(scope="module")
def outcome(spark: Any, real_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("real")
    split = split_logs([real_log], folder / "days")
    accounts = {}
    for day in split.days:
        normalized = str(folder / "normalized" / str(day))
        normalize(spark, [str(folder / "days" / str(day))], day, normalized)
        accounts[day] = sessionize(spark, normalized, day, str(folder / "out" / str(day)))
    return folder / "out", accounts


@pytest.fixture(scope="module")
def database(real_log: Path) -> Any:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(HITS.format(log=real_log))
    return connection


def ours(folder: Path, dataset: str, sql: str) -> list[Any]:
    urls = [
        url
        for manifest in sorted(folder.glob(f"*/{dataset}/manifest.json"))
        for url in Manifest.from_json(manifest.read_text()).urls
    ]
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    frame = connection.read_parquet(urls)  # noqa: F841 - the SQL names it
    return connection.execute(sql.format("frame")).fetchall()


def test_lines(outcome: Any, database: Any) -> None:
    _, accounts = outcome
    (lines,) = database.execute("SELECT count(*) FROM raw").fetchone()
    (valid,) = database.execute("SELECT count(*) FROM hits").fetchone()
    assert lines == 10_000
    assert sum(a.lines_in for a in accounts.values()) == lines
    assert sum(a.valid for a in accounts.values()) == valid
    assert sum(a.quarantined.get("truncated", 0) for a in accounts.values()) == lines - valid
    assert all(a.outside_day == 0 and a.delivered_twice == 0 for a in accounts.values())


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ts::DATE, count(*), count(DISTINCT host), sum(bytes), count(bytes) FROM {} GROUP BY 1 ORDER BY 1",
        "SELECT status, count(*) FROM {} GROUP BY 1 ORDER BY 1",
        "SELECT host, count(*) FROM {} GROUP BY 1 ORDER BY 1",
        "SELECT min(ts::TIMESTAMP), max(ts::TIMESTAMP), sum(epoch(ts)) FROM {}",
    ],
)
def test_events(outcome: Any, database: Any, sql: str) -> None:
    assert ours(outcome[0], "events", sql) == database.execute(sql.format("hits")).fetchall()


def test_sessions(outcome: Any, database: Any) -> None:
    """Start, end and hits of each session. A session ends with its UTC day, as each day is a batch of its own."""
    expected = database.execute("""
        WITH gaps AS (
            SELECT *, ts - lag(ts) OVER w > INTERVAL 30 MINUTE OR lag(ts) OVER w IS NULL AS starts
            FROM hits WINDOW w AS (PARTITION BY host, agent, ts::DATE ORDER BY ts)),
        numbered AS (
            SELECT *, sum(starts::INT) OVER (PARTITION BY host, agent, ts::DATE ORDER BY ts) AS n FROM gaps)
        SELECT min(ts)::TIMESTAMP, max(ts)::TIMESTAMP, count(*) FROM numbered
        GROUP BY host, agent, ts::DATE, n ORDER BY 1, 2, 3
    """).fetchall()
    sql = "SELECT started_at::TIMESTAMP, ended_at::TIMESTAMP, hits FROM {} ORDER BY 1, 2, 3"
    assert ours(outcome[0], "sessions", sql) == expected
    assert sum(a.sessions for a in outcome[1].values()) == len(expected)


def test_the_docs_say_what_came_out(outcome: Any) -> None:
    documented = DOCS.read_text()
    accounts = [account for _, account in sorted(outcome[1].items())]
    for name, counts in {
        "lines in": [account.lines_in for account in accounts],
        "valid": [account.valid for account in accounts],
        "from bots": [account.bots for account in accounts],
        "page views": [account.page_views for account in accounts],
        "sessions": [account.sessions for account in accounts],
    }.items():
        row = " | ".join(f"{count:,}" for count in [*counts, sum(counts)])
        assert f"| {name} | {row} |" in documented


@pytest.mark.slow
def test_night_by_night_is_one_run(spark: Any, real_log: Path, tmp_path: Path) -> None:
    """Four nights with late lines and lines that come twice, and a fifth with what is left."""
    # Robots by behaviour are those of a batch; their page views would follow the batches.
    rules = Enrichment(robot_rules=BehaviourRules(behaviours=()))
    split = split_logs([real_log], tmp_path / "days")
    days = {day: {path.name: path.read_bytes() for path in files} for day, files in split.outputs.items()}
    whole = Nights(spark, tmp_path / "whole")
    whole.run(
        min(days),
        {f"{day}-{name}": data for day, files in days.items() for name, data in files.items()},
        rules=rules,
    )

    nights = Nights(spark, tmp_path / "nights")
    accounts = [nights.run(day, files, rules=rules) for day, files in late_and_twice(days).items()]

    assert len(accounts) == 5
    # Every line was in a batch, and those that were in two count in one.
    again = sum(account.lines_in for account in accounts) - 10_000
    assert again > 400
    assert sum(account.delivered_twice for account in accounts) == again
    assert sum(account.valid for account in accounts) == 9_999
    assert all(account.outside_day > 20 for account in accounts[1:]), "nothing was late"
    assert nights.stated() == whole.stated()
