"""What ``make bench-waiting`` runs, and what it makes of what it counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import figures, waiting
from benchmarks.waiting import LOST, SCENARIOS, Report, Run, Scenario, judged, reason_to_leave_out, runs
from benchmarks.waiting_page import section

PEER = "the peer"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SCENARIOS", "MODES", "PEER", "PEER_TEN_THOUSAND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(figures, "FOLDER", tmp_path)


def found(**more: Any) -> dict[str, Any]:
    counts = dict.fromkeys(
        ("peak_calls_per_second", "calls_throttled", "sqs_calls_per_minute", "connections", "twice"), 2
    )
    measured = dict.fromkeys(("bytes_per_trigger", "cpu_seconds", "loop_lag_p99_ms", "loop_lag_max_ms"), 3.0)
    judgement = {"steps_resumed": 100, "early": 0, "failed": 0, "unseen": 0}
    return {
        **counts,
        **measured,
        **judgement,
        "connections_open_peak": 2,
        "calls_per_minute": 12.0,
        "delays": {"p50": 1.0, "p95": 2.0, "p99": 3.0},
        **more,
    }


def test_the_grid_has_every_scenario_in_each_way_of_waiting() -> None:
    ours = {(run.scenario, run.mode) for run in runs() if run.whose == "ours"}
    lost = {(scenario, "events_lost") for scenario in SCENARIOS if scenario.name in LOST}
    assert len(SCENARIOS) == 18
    assert ours == {(scenario, mode) for scenario in SCENARIOS for mode in ("poll", "events")} | lost
    assert {run.mode for run in runs() if run.whose == "peer"} == {"poll"}


def test_ten_thousand_of_the_peer_s_triggers_only_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    big = [run for run in runs() if run.whose == "peer" and run.scenario.steps == 10_000]
    assert all(reason_to_leave_out(run) for run in big)
    monkeypatch.setenv("PEER_TEN_THOUSAND", "1")
    monkeypatch.setattr(waiting, "free_mib", lambda: 64_000.0)
    assert [run.scenario.name for run in big if reason_to_leave_out(run) is None] == ["n10000.c100.healthy"]
    monkeypatch.setattr(waiting, "free_mib", lambda: 4000.0)
    assert all(reason_to_leave_out(run) for run in big)


def test_scenarios_and_modes_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENARIOS", "n100.c1.healthy")
    monkeypatch.setenv("MODES", "events")
    chosen = {(run.whose, run.mode) for run in runs() if reason_to_leave_out(run) is None}
    assert chosen == {("ours", "events"), ("ours", "events_lost"), ("peer", "poll")}


def test_emr_s_limit_of_active_steps_is_told() -> None:
    beyond = {(each.steps, each.clusters) for each in SCENARIOS if each.beyond_emr_limit}
    assert beyond == {(1000, 1), (10_000, 1), (10_000, 10)}


def test_waits_are_judged_by_the_ends_of_their_steps() -> None:
    told = judged(
        {"resumed": {"s-0": 1012.0, "s-1": 1009.0}, "failed": {"s-2": "no"}, "ended": 1100.0},
        {"begun": 1000.0, "ends": {"s-0": 10.0, "s-1": 10.0, "s-2": 10.0, "s-3": 10.0}},
    )
    assert (told["steps_resumed"], told["early"], told["failed"], told["unseen"]) == (2, 1, 1, 1)
    assert told["delays"] == {"p50": 2.0, "p95": 90.0, "p99": 90.0}, (
        "who still waits counts with the time so far"
    )


def test_events_are_compared_with_the_peer_s_polling_and_a_partial_run_says_so(tmp_path: Path) -> None:
    scenario = Scenario(100, 1, "healthy")
    ours, peer = Run(scenario, "ours", "events"), Run(scenario, "peer", "poll")
    report = Report(PEER, [ours, peer], {"ours n100.c1.healthy.poll": "not chosen"})
    report.add(peer, found(calls_per_minute=200.0))
    report.add(ours, found())
    document = json.loads((tmp_path / "waiting.json").read_text())
    row = next(
        each for each in document["figures"] if each["figure"] == "calls_per_minute.n100.c1.healthy.events"
    )
    assert (row["ours"], row["peer"], row["peer_name"]) == (12.0, 200.0, "the peer, polling")
    assert document["complete"] is False
    assert document["still_to_come"] == 0
    assert document["left_out"] == {"ours n100.c1.healthy.poll": "not chosen"}


def test_the_page_shows_a_line_for_each_scenario(tmp_path: Path) -> None:
    scenario = Scenario(1000, 1, "throttled")
    report = Report(PEER, [], {})
    report.add(Run(scenario, "ours", "poll"), found(steps_resumed=1000))
    report.add(Run(scenario, "peer", "poll"), found(steps_resumed=990, calls_per_minute=2000.0))
    page = section(json.loads((tmp_path / "waiting.json").read_text()), tmp_path)
    [line] = [each for each in page.splitlines() if each.startswith("| 1,000")]
    assert line.startswith(r"| 1,000 \* | 1 | throttled | 12 / – / 2,000 |")
    assert line.endswith("| 0 / – / 10 |")
    assert "This run was partial." in page
    assert "<svg" in (tmp_path / "waiting.svg").read_text()
