from __future__ import annotations

import json
from datetime import timedelta

import botocore.session
import pytest
from botocore.validate import ParamValidator

from airflow_emr_etl.models.cluster import ClusterSpec, Fleet, InstanceGroup
from airflow_emr_etl.models.intent import ClusterMark, Scope, tags_for_run, tags_in
from airflow_emr_etl.models.plan import ClusterPlan

SCOPE = Scope("dag", "run", "up", site="here")
SPEC = ClusterSpec(
    name="clickstream",
    core=Fleet(spot_units=4),
    fallback_types=["r5.xlarge"],
    subnets=["subnet-1", "subnet-2"],
    tags={"team": "data"},
    max_age=timedelta(hours=6),
    idle_timeout=timedelta(minutes=15),
)


def plan_of(spec: ClusterSpec) -> ClusterPlan:
    return ClusterPlan.of_spec(spec, SCOPE.lineage, tags_for_run(SCOPE))


def test_its_document_is_plain_json() -> None:
    plan = plan_of(SPEC)
    back = ClusterPlan.from_document(json.loads(json.dumps(plan.document())))
    assert back.document() == plan.document()
    assert [back.request(n, n + 1) for n in range(5)] == [plan.request(n, n + 1) for n in range(5)]


def test_a_request_says_whose_the_cluster_is() -> None:
    request = plan_of(SPEC).request(1, 3)
    assert tags_in(request) == {
        "team": "data",
        "emr-etl:dag": "dag",
        "emr-etl:run": "run",
        "emr-etl:task": "up",
        "emr-etl:site": "here",
        "emr-etl:lineage": SCOPE.lineage,
        "emr-etl:spec": plan_of(SPEC).spec,
        "emr-etl:generation": "3",
        "emr-etl:rung": "1",
        "emr-etl:max-age": "21600",
        "emr-etl:max-idle": "900",
    }
    assert ClusterMark.read(request["Name"]) == ClusterMark(SCOPE.lineage, plan_of(SPEC).spec, 3)
    assert request["Name"].startswith("clickstream [emr-etl ")


def test_every_rung_has_the_mark_of_the_first() -> None:
    plan = plan_of(SPEC)
    marks = {ClusterMark.read(plan.request(n, 1)["Name"]) for n in range(len(plan.requests))}
    assert marks == {plan.mark()}


def test_another_spec_has_another_mark_and_the_same_one_the_same() -> None:
    assert plan_of(SPEC).mark() == plan_of(ClusterSpec.model_validate(SPEC.document())).mark()
    assert plan_of(SPEC).mark() != plan_of(SPEC.model_copy(update={"release": "emr-6.15.0"})).mark()


@pytest.mark.parametrize("spec", [SPEC, ClusterSpec(name="x"), ClusterSpec(name="x", core=InstanceGroup())])
def test_botocore_takes_every_rung(spec: ClusterSpec) -> None:
    shape = botocore.session.get_session().get_service_model("emr").operation_model("RunJobFlow").input_shape
    plan = plan_of(spec)
    for rung in range(len(plan.requests)):
        report = ParamValidator().validate(plan.request(rung, 1), shape)
        assert not report.has_errors(), report.generate_report()


def test_there_are_never_more_tags_than_emr_takes() -> None:
    spec = SPEC.model_copy(update={"tags": {f"tag-{n}": "x" for n in range(35)}})
    # One more is set when the cluster is closed.
    assert len(plan_of(ClusterSpec.model_validate(spec.document())).request(0, 1)["Tags"]) <= 49


def test_ours_win_over_tags_of_the_same_name() -> None:
    request = plan_of(ClusterSpec(name="x", tags={"emr-etl:run": "another"})).request(0, 1)
    assert tags_in(request)["emr-etl:run"] == "run"
    assert len(request["Tags"]) == len(tags_in(request))


def test_a_request_does_not_change_the_plan() -> None:
    plan = plan_of(SPEC)
    before = json.dumps(plan.document())
    plan.request(0, 1)["Instances"] = {}
    assert json.dumps(plan.document()) == before


def test_protection_is_known() -> None:
    assert plan_of(ClusterSpec(name="x", termination_protection=True)).protected
    assert not plan_of(SPEC).protected
    assert not ClusterPlan.of_requests([{"Name": "x"}], "l", {}).protected
