from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from airflow_emr_etl.exceptions import AccountingError, ManifestError, MissingInputError
from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.models.session_rules import SessionRules
from airflow_emr_etl.spark.jobs.clickstream_sessionize import sessionize

pytestmark = pytest.mark.spark

DAY = date(2026, 1, 5)


def hit(
    clock: str, path: str, host: str = "h1", agent: str = "UA", referrer: str = "-", status: int = 200
) -> bytes:
    return f'{host} - - [05/Jan/2026:{clock} +0000] "GET {path} HTTP/1.1" {status} 10 "{referrer}" "{agent}"'.encode()


def read(spark: Any, folder: Any, dataset: str) -> list[Any]:
    manifest = Manifest.from_json((folder / dataset / "manifest.json").read_text())
    frame = spark.read.parquet(*manifest.urls)
    times = [name for name, kind in frame.dtypes if kind == "timestamp"]
    return frame.withColumns({name: frame[name].cast("timestamp_ntz") for name in times}).collect()


def test_sessions(spark: Any, normalize_files: Any, tmp_path: Any) -> None:
    lines = [
        hit("10:00:00", "/style.css", referrer="https://Search.Example:8080/?q=x"),
        hit("10:00:00", "/entry"),
        hit("10:30:00", "/exit"),  # exactly the limit: the same session
        hit("10:30:01", "/late.css"),
        hit("11:00:02", "/next"),  # one second more: another session
        hit("10:10:00", "/other", agent="UB"),  # the same host, another visitor
        hit("10:10:00", "/only.css", host="h2", referrer="not a uri", status=404),
        hit("10:10:00", "/crash", host="h3", status=503),
    ]
    run = normalize_files({"a.log": b"\n".join(reversed(lines))})
    target = tmp_path / "out"
    account = sessionize(spark, str(run.output), DAY, str(target))
    sessions = {row.entry_path: row for row in read(spark, target, "sessions")}
    assert account.sessions == len(sessions) == 5
    first = sessions["/entry"]
    assert (first.exit_path, first.hits, first.page_views) == ("/exit", 4, 2)
    assert (f"{first.started_at:%T}", f"{first.ended_at:%T}") == ("10:00:00", "10:30:01")
    assert first.referrer_host in ("search.example", None)  # two hits in the first second: event_id decides
    assert sessions["/next"].visitor_id == first.visitor_id != sessions["/other"].visitor_id
    assert (sessions["/only.css"].page_views, sessions["/only.css"].exit_path) == (0, "/only.css")
    assert sessions["/only.css"].referrer_host is None

    events = read(spark, target, "events")
    assert len(events) == len(lines)
    assert {row.session_id for row in events} == {row.session_id for row in sessions.values()}
    (totals,) = read(spark, target, "daily_traffic")
    assert totals.asDict() == {
        "dt": DAY, "hits": 8, "page_views": 4, "bot_hits": 0, "visitors": 4, "sessions": 5, "bytes": 80,
        "client_errors": 1, "server_errors": 1,
    }  # fmt: skip

    # The same lines in another order and other files: the same ids, session by session.
    again = normalize_files({"a.log": b"\n".join(lines[:4]), "b.log": b"\n".join(lines[4:])})
    sessionize(spark, str(again.output), DAY, str(target))
    assert sorted(read(spark, target, "sessions")) == sorted(sessions.values())


def test_the_inactivity_can_be_set(spark: Any, normalize_files: Any, tmp_path: Any) -> None:
    run = normalize_files({"a.log": b"\n".join([hit("10:00:00", "/a"), hit("10:05:01", "/b")])})
    assert (
        sessionize(
            spark, str(run.output), DAY, str(tmp_path / "o"), SessionRules(inactivity_minutes=5)
        ).sessions
        == 2
    )


def test_only_files_that_the_manifest_lists_are_read(spark: Any, normalize_files: Any, tmp_path: Any) -> None:
    run = normalize_files({"a.log": hit("10:00:00", "/a")})
    data = run.output / "events" / f"dt={DAY}"
    (part,) = data.glob("*.parquet")
    (data / "part-99999-stray.parquet").write_bytes(part.read_bytes())
    assert sessionize(spark, str(run.output), DAY, str(tmp_path / "o")).valid == 1

    with pytest.raises(ManifestError, match="not of the day 2026-01-06"):
        sessionize(spark, str(run.output), date(2026, 1, 6), str(tmp_path / "o"))
    manifest = run.output / "events" / "manifest.json"
    manifest.with_name(".manifest.json.crc").unlink()  # Hadoop's checksum of local files would notice
    manifest.write_text(manifest.read_text().replace('"record_count": 1', '"record_count": 2'))
    with pytest.raises(AccountingError, match="1 valid events were announced"):
        sessionize(spark, str(run.output), DAY, str(tmp_path / "o"))
    with pytest.raises(MissingInputError, match=r"events/manifest\.json"):
        sessionize(spark, str(tmp_path / "nowhere"), DAY, str(tmp_path / "o"))
