from __future__ import annotations

import pytest
from botocore.config import Config
from fakes.emr import FakeEmr, refusal

from airflow_emr_etl.exceptions import ClusterLostError, ClusterNotFoundError, ServiceUnavailableError
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook
from airflow_emr_etl.hooks.emr_step import EmrStepHook
from airflow_emr_etl.models.cluster import ClusterSpec
from airflow_emr_etl.models.states import CLUSTER_LIVE, ClusterState, StepState
from airflow_emr_etl.models.step import CommandStep

STEP = CommandStep(name="x", command=["true"]).to_api()
REQUEST = ClusterSpec(name="x").to_api()


def test_the_two_writes_are_sent_once_and_the_reads_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Config] = []

    class Hook:
        def get_client_type(self, region_name: str | None, config: Config) -> object:
            made.append(config)
            return object()

    monkeypatch.setattr(EmrClients, "_hook", Hook())
    clients = EmrClients()
    assert clients.writes is not clients.reads
    assert [config.retries["total_max_attempts"] for config in made] == [1, 5]


def test_a_real_client_sends_a_write_once() -> None:
    clients = EmrClients(aws_conn_id=None, region_name="eu-west-1")
    assert clients.writes.meta.config.retries["total_max_attempts"] == 1
    assert (clients.region, clients.partition) == ("eu-west-1", "aws")


def test_an_ambiguous_end_is_told_apart_and_not_tried_again(emr: FakeEmr) -> None:
    emr.errors["RunJobFlow"] = [refusal("RunJobFlow", "InternalServerError", "", 500)]
    with pytest.raises(ServiceUnavailableError):
        EmrClusterHook().create(REQUEST)
    assert emr.calls["RunJobFlow"] == 1
    cluster_id = EmrClusterHook().create(REQUEST)
    emr.errors["AddJobFlowSteps"] = [refusal("AddJobFlowSteps", "InternalServerError", "", 500)]
    with pytest.raises(ServiceUnavailableError):
        EmrStepHook().add(cluster_id, [STEP])
    assert emr.calls["AddJobFlowSteps"] == 1


def test_all_pages_of_clusters_in_some_states(emr: FakeEmr) -> None:
    ids = [EmrClusterHook().create(REQUEST) for _ in range(70)]
    EmrClusterHook().terminate(ids[0])
    listed = [each["Id"] for each in EmrClusterHook().list_clusters(CLUSTER_LIVE)]
    assert listed == ids[:0:-1], "the latest first"
    assert emr.calls["ListClusters"] == 2
    [ended] = EmrClusterHook().list_clusters([ClusterState.TERMINATED])
    assert ended["Id"] == ids[0]
    since = emr.clusters[ids[-2]].created
    [last] = EmrClusterHook().list_clusters(CLUSTER_LIVE, created_after=since)
    assert last["Id"] == ids[-1]


def test_tags_are_added_to_those_that_are_there(emr: FakeEmr) -> None:
    cluster_id = EmrClusterHook().create(ClusterSpec(name="x", tags={"team": "data"}).to_api())
    EmrClusterHook().tag(cluster_id, {"more": "yes"})
    tags = EmrClusterHook().describe(cluster_id)["Tags"]
    assert tags == [{"Key": "team", "Value": "data"}, {"Key": "more", "Value": "yes"}]


def test_no_such_cluster(emr: FakeEmr) -> None:
    with pytest.raises(ClusterNotFoundError, match="right account and region"):
        EmrClusterHook().describe("j-NONE")


def test_a_cluster_that_has_ended_takes_no_steps(emr: FakeEmr) -> None:
    cluster_id = EmrClusterHook().create(REQUEST)
    EmrClusterHook().terminate(cluster_id)
    with pytest.raises(ClusterLostError, match="may not be modified"):
        EmrStepHook().add(cluster_id, [STEP])


def test_any_number_of_ids_is_asked_for_ten_at_a_time(emr: FakeEmr) -> None:
    cluster_id = EmrClusterHook().create(REQUEST)
    ids = EmrStepHook().add(cluster_id, [STEP] * 25)
    found = list(EmrStepHook().list_steps(cluster_id, step_ids=ids))
    assert {step["Id"] for step in found} == set(ids)
    assert emr.calls["ListSteps"] == 3
    assert list(EmrStepHook().list_steps(cluster_id, states=[StepState.FAILED])) == []


def test_cancel_says_what_came_of_each(emr: FakeEmr) -> None:
    cluster_id = EmrClusterHook().create(REQUEST)
    first, second = EmrStepHook().add(cluster_id, [STEP, STEP])
    emr.clusters[cluster_id].steps[first].state = "COMPLETED"
    assert EmrStepHook().cancel(cluster_id, [first, second]) == {
        first: "The step has ended.",
        second: "SUBMITTED",
    }
