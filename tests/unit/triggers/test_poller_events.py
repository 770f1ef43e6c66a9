"""Waits that are woken by events, over a fake EMR and a fake queue, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fakes.emr import FakeCluster, FakeEmr, outage
from fakes.event_queue import FakeEventQueue
from fakes.triggerer import Ends, Triggerer, clusters, end, later, reads, waiting_for

from airflow_emr_etl.exceptions import AccessDeniedError, ConfigurationError, ServiceUnavailableError
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.triggers import event_listener
from airflow_emr_etl.triggers.emr import EmrJobFlowTrigger, EmrStepsTrigger
from airflow_emr_etl.triggers.emr_cluster import EmrClusterStateTrigger
from airflow_emr_etl.triggers.emr_room import EmrRoomTrigger
from airflow_emr_etl.triggers.emr_step import EmrStepTrigger
from airflow_emr_etl.triggers.event_listener import HOLD_SECONDS


@pytest.fixture
def queue(triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch) -> FakeEventQueue:
    made = FakeEventQueue(triggerer.world)
    monkeypatch.setattr(EmrClients, "events", made)
    return made


def ends(
    queue: FakeEventQueue, cluster: FakeCluster, step_id: str, state: str = "COMPLETED", after: float = 0.3
) -> Callable[[], None]:
    """The step ends, and its event comes."""

    def happens() -> None:
        end(cluster, step_id, state)()
        cluster.steps[step_id].ended = queue.world.now
        queue.step(cluster.id, step_id, state, after=after)

    return happens


def ends_unheard(queue: FakeEventQueue, cluster: FakeCluster, step_id: str) -> Callable[[], None]:
    def happens() -> None:
        end(cluster, step_id)()
        cluster.steps[step_id].ended = queue.world.now

    return happens


def calls_by_minute(emr: FakeEmr, triggerer: Triggerer, minutes: int) -> list[int]:
    """Filled while it runs."""
    found: list[int] = []
    before = [0]

    def count() -> None:
        found.append(reads(emr) - before[0])
        before[0] = reads(emr)

    for minute in range(1, minutes + 1):
        triggerer.at(minute * 60, count)
    return found


def payloads(found: Ends) -> set[str]:
    return {payload["status"] for _, payload in found}


@pytest.mark.parametrize(("number", "each"), [(1, 100), (10, 100), (100, 20), (10, 250)])
def test_events_end_waits_at_once_with_hardly_a_call(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue, number: int, each: int
) -> None:
    made = clusters(emr, number, each)
    triggers = waiting_for(*made)
    for place, trigger in enumerate(triggers):
        when = 60 + place * 540 / len(triggers)
        triggerer.at(when, ends(queue, emr.clusters[trigger.cluster_id], trigger.step_id))
    counts = calls_by_minute(emr, triggerer, 10)
    found = triggerer.run(triggers)
    assert payloads(found) == {"done"}
    delays = sorted(when - (60 + place * 540 / len(triggers)) for place, (when, _) in enumerate(found))
    assert delays[0] >= 0
    assert delays[-1] < 2
    assert max(counts) <= 10, counts
    step = found[0][1]["step"]
    assert (step["Id"], step["Status"]["State"]) == (triggers[0].step_id, "COMPLETED")


def test_a_failed_step_is_asked_why(emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue) -> None:
    [cluster] = clusters(emr, 1, 3)
    failing = next(iter(cluster.steps))
    cluster.steps[failing].details = {"Reason": "Unknown Error.", "LogFile": "s3://logs/stderr.gz"}
    triggers = waiting_for(cluster)
    triggerer.at(100, ends(queue, cluster, failing, "FAILED"))
    for step_id in list(cluster.steps)[1:]:
        triggerer.at(200, ends(queue, cluster, step_id))
    found = triggerer.run(triggers)
    assert 100 <= found[0][0] < 102
    assert found[0][1]["step"]["Status"]["FailureDetails"]["LogFile"] == "s3://logs/stderr.gz"


def test_an_event_that_comes_before_its_wait_is_remembered(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    """The worker adds a step, which ends while its trigger is still on its way to the triggerer."""
    [cluster] = clusters(emr, 1, 2)
    long, short = waiting_for(cluster)
    triggerer.at(10, ends(queue, cluster, short.step_id))
    triggerer.at(300, ends(queue, cluster, long.step_id))
    seen: list[int] = []
    triggerer.at(39, lambda: seen.append(reads(emr)))
    triggerer.start_later(short, 40)
    found = triggerer.run([long, short])
    triggerer.at(0, lambda: None)
    assert payloads(found) == {"done"}
    assert 40 <= found[1][0] < 40.5


def test_a_lost_event_is_made_up_for_and_events_are_doubted_then(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    made = clusters(emr, 3, 30)
    triggers = waiting_for(*made)
    for trigger in triggers:  # the rule was switched off
        triggerer.at(100, ends_unheard(queue, emr.clusters[trigger.cluster_id], trigger.step_id))
    found = triggerer.run(triggers)
    assert payloads(found) == {"done"}
    assert all(100 <= when < 500 for when, _ in found)


def test_after_a_lost_event_it_looks_as_often_as_without_events(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    [cluster] = clusters(emr, 1, 10)
    first, *rest = waiting_for(cluster)
    triggerer.at(100, ends_unheard(queue, cluster, first.step_id))
    for trigger in rest:
        triggerer.at(700, ends_unheard(queue, cluster, trigger.step_id))
    found = triggerer.run([first, *rest])
    assert payloads(found) == {"done"}
    assert all(when < 740 for when, _ in found[1:]), "within the usual interval, not the rare one"


def test_late_doubled_and_foreign_messages_do_no_harm(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    [cluster, other] = clusters(emr, 2, 3)
    triggers = waiting_for(cluster)
    for number, trigger in enumerate(triggers):
        when = 100.0 + 100 * number
        triggerer.at(when, ends(queue, cluster, trigger.step_id))
        triggerer.at(when, lambda t=trigger: queue.step(cluster.id, t.step_id, "COMPLETED", after=0.5))
        # These were true once.
        triggerer.at(when - 50, lambda t=trigger: queue.step(cluster.id, t.step_id, "RUNNING", after=49))
        triggerer.at(when - 50, lambda t=trigger: queue.step(cluster.id, t.step_id, "PENDING", after=51))
        triggerer.at(when - 20, lambda: queue.step(other.id, next(iter(other.steps)), "FAILED"))
        triggerer.at(when - 20, lambda: queue.step("j-NOBODYS", "s-NOBODYS", "COMPLETED"))
        triggerer.at(when - 20, lambda t=trigger: queue.step("j-NOBODYS", t.step_id, "COMPLETED"))
        triggerer.at(when - 20, lambda t=trigger: queue.step(cluster.id, t.step_id, "NO_SUCH_STATE"))
        triggerer.at(when - 20, lambda: queue.put(None))
        triggerer.at(when - 20, lambda: queue.cluster("j-NOBODYS", "TERMINATED"))
    found = triggerer.run(triggers)
    for number, (when, payload) in enumerate(found):
        assert payload["status"] == "done"
        assert 100 + 100 * number <= when < 102 + 100 * number


def test_a_message_is_deleted_only_when_its_wait_has_had_it_for_a_while(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    [cluster] = clusters(emr, 1, 2)
    short, long = waiting_for(cluster)
    triggerer.at(100, ends(queue, cluster, short.step_id))
    triggerer.at(200, ends(queue, cluster, long.step_id))
    found = triggerer.run([short, long])
    deleted = {event.step_id: when for when, event in queue.deleted if event is not None}
    assert deleted[short.step_id] >= found[0][0] + HOLD_SECONDS
    assert long.step_id not in deleted, "a triggerer that ends leaves what is fresh to the next"


def test_a_killed_triggerer_leaves_its_messages_to_the_next(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    """What had come, and was not on record in Airflow yet, comes again."""
    [cluster] = clusters(emr, 1, 2)
    short, long = waiting_for(cluster)
    triggerer.at(100, ends(queue, cluster, short.step_id))
    triggerer.at(101, lambda: triggerer.world.kill(triggerer.process))
    triggerer.start([short, long])
    triggerer.world.run(lambda: not triggerer.process.alive and not triggerer.process.fibers)
    second = Triggerer(emr, triggerer.world)
    second.at(30, ends(queue, cluster, long.step_id))
    found = second.run(waiting_for(cluster))
    assert payloads(found) == {"done"}
    second.loop.close()


def test_a_queue_that_is_lost_is_done_without(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    made = clusters(emr, 2, 20)
    triggers = waiting_for(*made)
    triggerer.at(60, lambda: setattr(queue, "error", AccessDeniedError("The queue is gone.")))
    for trigger in triggers:
        triggerer.at(200, ends(queue, emr.clusters[trigger.cluster_id], trigger.step_id))
    found = triggerer.run(triggers)
    assert payloads(found) == {"done"}
    assert all(200 <= when < 245 for when, _ in found)


def test_a_queue_that_comes_back_is_listened_to_again(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    [cluster] = clusters(emr, 1, 20)
    triggers = waiting_for(cluster)
    triggerer.at(60, lambda: setattr(queue, "error", ServiceUnavailableError("An outage.")))
    triggerer.at(600, lambda: setattr(queue, "error", None))
    for trigger in triggers:
        triggerer.at(900, ends(queue, cluster, trigger.step_id))
    found = triggerer.run(triggers)
    assert all(900 <= when < 902 for when, _ in found)


def test_a_queue_that_is_not_there_is_waited_for(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    queue.url_error = AccessDeniedError("There is no such queue.")
    [cluster] = clusters(emr, 1, 2)
    short, long = waiting_for(cluster)
    triggerer.at(100, ends(queue, cluster, short.step_id))
    triggerer.at(150, lambda: setattr(queue, "url_error", None))
    triggerer.at(900, ends(queue, cluster, long.step_id))
    found = triggerer.run([short, long])
    assert 100 <= found[0][0] < 140
    assert 900 <= found[1][0] < 902


def test_a_setting_that_is_no_queue_is_done_without(
    emr: FakeEmr, triggerer: Triggerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(clients: EmrClients) -> None:
        raise ConfigurationError("'a b' is not an SQS queue.")

    monkeypatch.setattr(EmrClients, "events", property(wrong))
    [cluster] = clusters(emr, 1, 1)
    [trigger] = waiting_for(cluster)
    triggerer.at(100, end(cluster, trigger.step_id))
    [(when, payload)] = triggerer.run([trigger])
    assert payload["status"] == "done"
    assert 100 <= when < 140


def test_clusters_are_heard_of_too(emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue) -> None:
    [coming, lost] = clusters(emr, 2, 2)
    coming.state = "STARTING"

    def becomes(cluster: FakeCluster, state: str) -> Callable[[], None]:
        def happens() -> None:
            cluster.state = state
            queue.cluster(cluster.id, state)

        return happens

    triggers = [
        EmrClusterStateTrigger(cluster_id=coming.id, target_states=["WAITING"]),
        EmrStepTrigger(cluster_id=lost.id, step_id=next(iter(lost.steps))),
    ]
    triggerer.at(200, becomes(coming, "BOOTSTRAPPING"))
    triggerer.at(300, becomes(coming, "WAITING"))
    triggerer.at(400, becomes(lost, "TERMINATED_WITH_ERRORS"))
    found = triggerer.run(triggers)
    assert 300 <= found[0][0] < 302
    assert found[0][1]["cluster"]["Status"]["State"] == "WAITING"
    assert found[1][1]["status"] == "cluster_ended"
    assert 400 <= found[1][0] < 403


def test_steps_that_are_waited_for_together_and_target_states(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    [cluster] = clusters(emr, 1, 3)
    ids = list(cluster.steps)
    cluster.steps[ids[0]].state = "PENDING"
    triggers = [
        EmrStepsTrigger(cluster_id=cluster.id, step_ids=ids[1:]),
        EmrStepsTrigger(cluster_id=cluster.id, step_ids=ids[:1], target_states=["RUNNING"]),
    ]
    triggerer.at(100, ends(queue, cluster, ids[1]))
    triggerer.at(200, ends(queue, cluster, ids[0], "RUNNING"))
    triggerer.at(300, ends(queue, cluster, ids[2], "FAILED"))
    found = triggerer.run(triggers)
    assert 200 <= found[1][0] < 202
    assert 300 <= found[0][0] < 302
    assert [step["Status"]["State"] for step in found[0][1]["steps"]] == ["COMPLETED", "FAILED"]


def test_the_last_look_before_a_deadline_is_taken_however_few_calls_are_wanted(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    made = clusters(emr, 9, 1)
    triggers = waiting_for(*made, deadline=later(triggerer, 200))
    for trigger in triggers[:4]:
        triggerer.at(190, ends_unheard(queue, emr.clusters[trigger.cluster_id], trigger.step_id))
    found = triggerer.run(triggers)
    assert [payload["status"] for _, payload in found][:4] == ["done"] * 4
    assert all(when <= 200.2 for when, _ in found)


def test_throttling_does_no_harm_to_events(emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue) -> None:
    [cluster] = clusters(emr, 1, 20)
    emr.errors["ListSteps"] = [outage("ListSteps")] * 5
    triggers = waiting_for(cluster)
    for trigger in triggers:
        triggerer.at(100, ends(queue, cluster, trigger.step_id))
    found = triggerer.run(triggers)
    assert all(100 <= when < 102 for when, _ in found)


def test_pollers_of_several_kinds_share_one_listener(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    """Two listeners on one queue would take each other's messages."""
    [cluster] = clusters(emr, 1, 2)
    ids = list(cluster.steps)
    triggers = [
        EmrStepTrigger(cluster_id=cluster.id, step_id=ids[0]),
        EmrStepsTrigger(cluster_id=cluster.id, step_ids=[ids[1]], verify=False),
        EmrJobFlowTrigger(cluster_id=cluster.id, target_states=["TERMINATED"], verify=False),
    ]
    triggerer.at(100, ends(queue, cluster, ids[0]))
    triggerer.at(100, ends(queue, cluster, ids[1]))

    def terminated() -> None:
        cluster.state = "TERMINATED"
        queue.cluster(cluster.id, "TERMINATED")

    triggerer.at(110, terminated)
    found = triggerer.run(triggers)
    assert 100 <= found[0][0] < 102
    assert 100 <= found[1][0] < 102
    assert 110 <= found[2][0] < 112
    assert queue.receives < 50, "one long poll at a time"


@pytest.mark.parametrize("doubted", [False, True], ids=["reliable", "doubted for a while"])
@pytest.mark.parametrize("number", [15, 60])
def test_others_are_not_kept_waiting_by_looks_that_only_make_sure(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue, number: int, doubted: bool
) -> None:
    made = clusters(emr, number, 30)
    triggers: list[Any] = waiting_for(*made)
    for trigger in triggers:
        triggerer.at(3000, ends(queue, emr.clusters[trigger.cluster_id], trigger.step_id))
    if doubted:
        triggerer.at(100, lambda: [each.doubt("A test.") for each in event_listener._listeners.values()])
    ready = EmrClusterStateTrigger(cluster_id=made[0].id, target_states=["RUNNING", "WAITING"])
    room = EmrRoomTrigger(cluster_ids=[made[1].id])
    for late in (ready, room):
        triggerer.start_later(late, 900)
    found = triggerer.run([*triggers, ready, room])
    assert found[-2][0] - 900 < 10
    assert found[-1][0] - 900 < 10


def test_a_lost_event_is_made_up_for_after_a_time_of_doubt(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    made = clusters(emr, 15, 30)
    triggers = waiting_for(*made)
    triggerer.at(100, lambda: [each.doubt("A test.") for each in event_listener._listeners.values()])
    triggerer.at(1000, ends_unheard(queue, made[0], triggers[0].step_id))
    for trigger in triggers[1:]:
        triggerer.at(6000, ends(queue, emr.clusters[trigger.cluster_id], trigger.step_id))
    found = triggerer.run(triggers)
    assert found[0][0] < 2500


def test_a_step_that_ended_long_ago_casts_no_doubt_on_events(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue, caplog: pytest.LogCaptureFixture
) -> None:
    [cluster] = clusters(emr, 1, 2)
    early, long = waiting_for(cluster)
    again = EmrStepTrigger(cluster_id=cluster.id, step_id=early.step_id)
    triggerer.at(100, ends(queue, cluster, early.step_id))
    triggerer.at(4000, ends(queue, cluster, long.step_id))
    triggerer.start_later(again, 1300)
    found = triggerer.run([early, long, again])
    assert found[2][0] - 1300 < 60
    assert "No event has come" not in caplog.text


def test_an_event_that_comes_during_a_look_is_not_forgotten(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cluster] = clusters(emr, 1, 2)
    failing, other = waiting_for(cluster)
    listed = emr.list_steps
    failed: list[float] = []

    def slow(**request: Any) -> dict[str, Any]:
        answer = listed(**request)
        if triggerer.world.seconds > 100 and not failed:
            failed.append(triggerer.world.seconds)
            ends(queue, cluster, failing.step_id, "FAILED", after=0.1)()
            triggerer.world.sleep(1.0)
        return answer

    monkeypatch.setattr(emr, "list_steps", slow)
    triggerer.at(3000, ends(queue, cluster, other.step_id))
    found = triggerer.run([failing, other])
    assert found[0][1]["step"]["Status"]["State"] == "FAILED"
    assert found[0][0] - failed[0] < 5


def test_emr_may_lag_behind_its_events(emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue) -> None:
    [cluster] = clusters(emr, 1, 30)
    failing, *others = waiting_for(cluster)
    triggerer.at(100, lambda: queue.step(cluster.id, failing.step_id, "FAILED"))
    triggerer.at(105, end(cluster, failing.step_id, "FAILED"))
    for trigger in others:
        triggerer.at(3000, ends(queue, cluster, trigger.step_id))
    found = triggerer.run([failing, *others])
    assert 105 <= found[0][0] < 115


def test_waits_whose_time_is_over_are_looked_at_once(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    """A triggerer that was away for long: what has ended meanwhile is no time-out."""
    made = clusters(emr, 5, 1)
    triggers = waiting_for(*made, deadline=later(triggerer, -60))
    for trigger in triggers:
        end(emr.clusters[trigger.cluster_id], trigger.step_id)()
    found = triggerer.run(triggers)
    assert payloads(found) == {"done"}


def test_a_queue_that_is_gone_is_told_now_and_then(
    emr: FakeEmr, triggerer: Triggerer, queue: FakeEventQueue
) -> None:
    [cluster] = clusters(emr, 1, 1)
    [trigger] = waiting_for(cluster)
    queue.error = ConfigurationError("There is no SQS queue.")
    triggerer.at(600, ends(queue, cluster, trigger.step_id))
    triggerer.run([trigger])
    assert queue.receives < 25


def test_a_backlog_of_messages_is_no_reason_for_doubt_and_is_read_by_several(
    emr: FakeEmr,
    triggerer: Triggerer,
    queue: FakeEventQueue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What came while there was no triggerer comes first."""
    [cluster] = clusters(emr, 1, 5)
    for number in range(3000):
        queue.step("j-NOBODYS", f"s-{number}", "RUNNING", after=0)
    triggers = waiting_for(cluster)
    for trigger in triggers:
        triggerer.at(2, ends(queue, cluster, trigger.step_id))
    found = triggerer.run(triggers)
    assert payloads(found) == {"done"}
    assert "No event has come" not in caplog.text
    queue.messages.clear()
