from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk.api.datamodels._generated import DagRunState
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from airflow_emr_etl import EmrReaperOperator
from airflow_emr_etl.exceptions import ClusterNotEndedError, ConfigurationError
from airflow_emr_etl.hooks.emr_reaper import Action, Reaping
from airflow_emr_etl.models.reaping import Limits, RunState
from airflow_emr_etl.operators.emr_reaper import asking


class Airflow:
    """The part of a running task instance that is asked for runs."""

    def __init__(self, runs: dict[tuple[str, str], str], *, down: bool = False) -> None:
        self.runs = runs
        self.down = down

    def get_dr_count(self, dag_id: str, run_ids: list[str] | None = None) -> int:
        if self.down:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={}))
        return sum(dag == dag_id and (run_ids is None or run in run_ids) for dag, run in self.runs)

    def get_dagrun_state(self, dag_id: str, run_id: str) -> Any:
        return DagRunState(self.runs[dag_id, run_id])


@pytest.mark.parametrize(
    ("run_id", "expected"),
    [
        ("done", RunState.SUCCEEDED),
        ("bad", RunState.FAILED),
        ("busy", RunState.GOING),
        ("waits", RunState.GOING),
        ("deleted", RunState.GONE),
    ],
)
def test_what_airflow_says_of_a_run(run_id: str, expected: RunState) -> None:
    states = {"done": "success", "bad": "failed", "busy": "running", "waits": "queued"}
    ask = asking(Airflow({("d", run): state for run, state in states.items()}))
    assert ask("d", run_id) is expected
    assert ask("another dag", run_id) is RunState.UNKNOWN


def test_an_airflow_that_does_not_answer_knows_nothing() -> None:
    assert asking(Airflow({}, down=True))("d", "r") is RunState.UNKNOWN


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the operator made its reaper from; ``rows`` is what that finds."""
    seen: dict[str, Any] = {"rows": [Reaping("j-1", "n", Action.ENDED, "w")]}

    class Recorder:
        def __init__(self, clients: Any, ask_run: Any, **options: Any) -> None:
            seen.update(options, region=clients.region_name)

        def reap(self, *, dry_run: bool) -> list[Reaping]:
            seen["dry_run"] = dry_run
            rows: list[Reaping] = seen["rows"]
            return rows

    monkeypatch.setattr("airflow_emr_etl.operators.emr_reaper.EmrReaper", Recorder)
    return seen


def run(**arguments: Any) -> Any:
    return EmrReaperOperator(task_id="t", **arguments).execute({"ti": Airflow({})})  # type: ignore[typeddict-item]


def test_its_result_is_plain_json(made: dict[str, Any]) -> None:
    [document] = run()
    assert (document["cluster_id"], document["action"]) == ("j-1", "ended")
    assert made["limits"] == Limits()
    assert (made["dry_run"], made["lift_protection"]) == (False, False)


def test_arguments_may_have_been_templates(made: dict[str, Any]) -> None:
    run(
        max_age="24h", max_idle="None", report_only="True", lift_protection="False", site="s", region_name="r"
    )
    assert made["limits"] == Limits(max_age=timedelta(days=1))
    assert (made["dry_run"], made["lift_protection"], made["site"], made["region"]) == (True, False, "s", "r")
    run(max_age=timedelta(hours=1), max_idle=600)
    assert made["limits"] == Limits(timedelta(hours=1), timedelta(minutes=10))


def test_a_limit_that_is_none_fails_for_good(made: dict[str, Any]) -> None:
    with pytest.raises(AirflowFailException, match="soon"):
        run(max_age="soon")


def test_it_fails_in_the_end_when_one_could_not_be_ended(made: dict[str, Any]) -> None:
    made["rows"] += [Reaping("j-2", "n", Action.FAILED, "w", error=ConfigurationError("no"))]
    with pytest.raises(ClusterNotEndedError, match=r"1 of 2 clusters .* j-2: no"):
        run()
