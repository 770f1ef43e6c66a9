"""Days that go wrong: broken and late lines, a schema that drifts, and a step that breaks an invariant."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from integration.spark.nights import Nights

from airflow_emr_etl.models.manifest import Manifest
from airflow_emr_etl.spark import columns
from airflow_emr_etl.spark.dataset import Dataset
from airflow_emr_etl.spark.enrichment import Enrichment
from airflow_emr_etl.spark.internal_traffic import parse_networks
from airflow_emr_etl.spark.jobs import quality_gate
from airflow_emr_etl.spark.sources import parse_source

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from airflow_emr_etl.quality.result import GateResult

pytestmark = pytest.mark.spark
pytest.importorskip("great_expectations", reason="the quality extra is not installed")

SUITE = Path(__file__).resolve().parents[3] / "dags" / "suites" / "clickstream.yaml"
FIRST, SECOND = date(2026, 1, 5), date(2026, 1, 6)
SOURCE = """
kind: json_lines
columns:
  {ts: ts, host: ip, path: path, method: method, status: status, bytes: bytes, user_agent: agent, referrer: referrer}
"""
STRICT = parse_source(SOURCE, "strict")
MENDED = parse_source(SOURCE.replace("bytes: bytes", "bytes: {from: bytes, values: {none: '0'}}"), "mended")
RULES = Enrichment(
    internal_networks=parse_networks(["10.0.0.0/8"]), drop_internal=True, repeat_window_seconds=2
)

Visit = tuple[datetime, str]
"""Time and address of a hit that must count."""


def record(ts: datetime, ip: str, path: str, **changes: Any) -> bytes:
    given = {
        "ts": f"{ts:%Y-%m-%dT%H:%M:%SZ}", "ip": ip, "path": path, "method": "GET", "status": 200, "bytes": 10,
        "agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", **changes,
    }  # fmt: skip
    return json.dumps({name: value for name, value in given.items() if value != "missing"}).encode()


@dataclass
class Traffic:
    """The lines of two days by the night that brings them, and what is known of them."""

    lines: dict[date, list[bytes]] = field(default_factory=lambda: {FIRST: [], SECOND: []})
    again: dict[date, list[bytes]] = field(default_factory=lambda: {FIRST: [], SECOND: []})
    visits: list[Visit] = field(default_factory=list)
    count: dict[date, Counter[str]] = field(default_factory=lambda: {FIRST: Counter(), SECOND: Counter()})
    late: int = 0

    def files(self, day: date) -> dict[str, bytes]:
        return {"a.json": b"\n".join(self.lines[day]), "again.json": b"\n".join(self.again[day])}


def people(random: Random) -> Iterable[Visit]:
    """Hits of both days, of visitors who come back, stay past midnight, and never ask twice within 3 seconds."""
    for number in range(90):
        ip = f"198.51.{number // 250}.{number % 250}"
        at = datetime.combine(FIRST, datetime.min.time()) + timedelta(minutes=random.randrange(60, 2600))
        for _ in range(random.randrange(10, 25)):
            at += timedelta(seconds=random.choice([5, 60, 600, 1799, 1800, 1801, 7200]))
            if at.date() <= SECOND:
                yield at, ip


def hard_traffic(random: Random) -> Traffic:
    """The second night: one line in twenty is broken, one in thirty late, and its tracker has a new release."""
    traffic = Traffic()
    for number, (ts, ip) in enumerate(people(random)):
        day = ts.date()
        traffic.visits.append((ts, ip))
        late = day == FIRST and number % 30 == 0
        traffic.late += late
        batch = SECOND if late else day
        changes: dict[str, Any] = {}
        if batch == SECOND:
            changes = random.choice([{}, {"variant": "b"}, {"referrer": "missing"}, {"status": 999}])
        line = record(ts, ip, f"/{number}", **changes)
        count = traffic.count[batch]
        traffic.lines[batch].append(line)
        count["valid"] += 1
        count["drift"] += "variant" in changes
        count["odd status"] += changes.get("status") == 999
        if number % 13 == 0:
            traffic.again[batch].append(line)
            count["delivered twice"] += 1
        if number % 17 == 0:
            traffic.lines[batch].append(record(ts + timedelta(seconds=1), ip, f"/{number}", **changes))
            count["repeated"] += 1
        if number % 19 == 0:
            traffic.lines[batch].append(record(ts, "10.1.2.3", f"/{number}"))
            count["internal"] += 1
    lines, count = traffic.lines[SECOND], traffic.count[SECOND]
    noon, ip = datetime.combine(SECOND, time(12)), "203.0.113.1"
    whole = record(noon, ip, "/broken")
    broken: list[tuple[str, Callable[[int], bytes]]] = [
        ("truncated", lambda n: whole[: 20 + n]),
        ("malformed", lambda n: b"-- restarted %d --" % n),
        ("not_utf8", lambda n: whole[:-2] + b"\xff%d" % n + whole[-2:]),
        ("retyped_field", lambda n: record(noon, ip, f"/{n}", agent={"ua": "x"})),
        ("bad_bytes", lambda n: record(noon, ip, f"/{n}", bytes=f"{n}kB")),
        ("missing_field", lambda n: record(noon, ip, f"/{n}").replace(b"ts", b"at")),
        ("bad_timestamp", lambda n: record(noon, ip, f"/{n}").replace(b"-01-06T", b"-31-06T")),
    ]
    for number in range(len(lines) // 19):
        reason, make = broken[number % len(broken)]
        lines.append(make(number))
        count[reason] += 1
    random.shuffle(lines)
    return traffic


def sessions_of(visits: Iterable[Visit]) -> list[tuple[datetime, datetime, int]]:
    """Start, end and hits of each session, by the rule as a reader would write it down."""
    found: list[list[Visit]] = []
    for ts, ip in sorted(visits, key=lambda visit: (visit[1], visit[0])):
        if not found or found[-1][-1][1] != ip or ts - found[-1][-1][0] > timedelta(minutes=30):
            found.append([])
        found[-1].append((ts, ip))
    return sorted((hits[0][0], hits[-1][0], len(hits)) for hits in found)


def gate(nights: Nights, output: Path) -> GateResult:
    data = {name: str(output / name / "manifest.json") for name in ("events", "sessions", "daily_traffic")}
    return quality_gate.gate(str(SUITE), data, str(nights.step("gate")))


@pytest.mark.slow
def test_a_day_of_broken_drifted_and_late_lines(spark: SparkSession, tmp_path: Path) -> None:
    traffic = hard_traffic(Random(4))
    lines = len(traffic.lines[SECOND])
    broken = {
        reason: traffic.count[SECOND][reason]
        for reason in (
            "truncated", "malformed", "not_utf8", "retyped_field", "bad_bytes", "missing_field", "bad_timestamp",
        )
    }  # fmt: skip
    assert 0.045 < sum(broken.values()) / lines < 0.055
    assert 0.03 <= traffic.late / traffic.count[FIRST]["valid"] < 0.06

    nights = Nights(spark, tmp_path)
    for day in (FIRST, SECOND):
        nights.write(day, traffic.files(day))
        normalized, accounting = nights.normalize(day, source=STRICT, rules=RULES)
        count = traffic.count[day]
        assert accounting.valid == count["valid"]
        assert accounting.quarantined == ({} if day == FIRST else broken)
        assert accounting.delivered_twice == count["delivered twice"]
        assert accounting.repeated == count["repeated"]
        assert accounting.filtered == ({"internal": count["internal"]} if count["internal"] else {})
        assert accounting.headers == 0
        assert accounting.lines_in == len(traffic.lines[day]) + len(traffic.again[day])
        # A line that came again is told about as often as it came.
        assert accounting.drift.get("new field variant", 0) >= count["drift"]
        output, accounting = nights.sessionize(day, normalized)
        result = gate(nights, output)
        assert result.passed
        warned = {entry.id for entry in result.failed("warning")}
        assert ("events.status.column_values_to_be_between" in warned) == (count["odd status"] > 0)
        nights.load(day, output)

    assert traffic.count[SECOND]["odd status"] > 0
    assert accounting.outside_day == traffic.late
    found = sorted((row.started_at, row.ended_at, row.hits) for row in nights.sessions.values())
    assert found == sessions_of(traffic.visits)
    assert len(nights.events) == len(traffic.visits)
    assert any(start.date() < end.date() for start, end, _ in found)


def with_a_fault(nights: Nights, day: date, normalized: Path) -> Path:
    """What a release of the parser that reads sizes wrongly would have written, its accounting in good order."""
    given = Manifest.from_json((normalized / "events" / "manifest.json").read_text())
    output = nights.step("faulty")
    dataset = Dataset(nights.spark, str(output), "events", day, columns.NORMALIZED)
    rows = dataset.read(given.urls)
    dataset.write(rows.withColumn("bytes", -rows["bytes"]))
    files, _ = dataset.measure()
    dataset.finish(files, "clickstream_normalize", given.accounting)
    return output


@pytest.mark.slow
def test_a_broken_invariant_stops_at_the_gate_and_is_mended(spark: SparkSession, tmp_path: Path) -> None:
    visits = list(people(Random(9)))
    files: dict[date, dict[str, bytes]] = {}
    for day in (FIRST, SECOND):
        kept = [(n, *visit) for n, visit in enumerate(visits) if visit[0].date() == day]
        lines = [record(ts, ip, f"/{n}", bytes="none" if n % 10 == 3 else n) for n, ts, ip in kept]
        files[day] = {"a.json": b"\n".join([*lines, b"never a line"])}
    never_failed = Nights(spark, tmp_path / "never failed")
    for day in (FIRST, SECOND):
        never_failed.run(day, files[day], source=MENDED)

    nights = Nights(spark, tmp_path / "failed")
    # The first night loads, though its source cannot read some of the sizes.
    nights.write(FIRST, files[FIRST])
    first, accounting = nights.normalize(FIRST, source=STRICT)
    assert accounting.quarantined["bad_bytes"] > 0
    output, _ = nights.sessionize(FIRST, first)
    assert gate(nights, output).passed
    nights.load(FIRST, output)
    before = nights.stated()

    # The second one breaks an invariant, and nothing of it gets past the gate.
    nights.write(SECOND, files[SECOND])
    second, _ = nights.normalize(SECOND, source=STRICT)
    output, _ = nights.sessionize(SECOND, with_a_fault(nights, SECOND, second))
    result = gate(nights, output)
    assert not result.passed
    assert {entry.id for entry in result.failed("critical")} == {"events.bytes.column_values_to_be_between"}
    assert nights.stated() == before

    # After the mend it runs again from its files; the first night is replayed from its quarantine alone.
    for day, options in ((SECOND, {}), (FIRST, {"replay": str(first)})):
        normalized, accounting = nights.normalize(day, source=MENDED, **options)
        assert dict(accounting.quarantined) == {"malformed": 1}
        assert accounting.lines_in == len(files[day]["a.json"].split(b"\n"))
        output, _ = nights.sessionize(day, normalized)
        assert gate(nights, output).passed
        nights.load(day, output)

    assert nights.stated() == never_failed.stated()
    assert {key: row.asDict() for key, row in nights.events.items()} == {
        key: row.asDict() for key, row in never_failed.events.items()
    }
    found = sorted((row.started_at, row.ended_at, row.hits) for row in nights.sessions.values())
    assert found == sessions_of(visits)
