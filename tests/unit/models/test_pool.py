"""The rules by which a step gets a cluster of a pool."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from airflow_emr_etl import ClusterSpec
from airflow_emr_etl.models.fingerprint import Fingerprint
from airflow_emr_etl.models.intent import ClusterMark
from airflow_emr_etl.models.pool import (
    CREATION_GRACE,
    MAX_ACTIVE_STEPS,
    RUNG_MEMORY,
    SEAT_GRACE,
    SEAT_MEMORY,
    ClusterPool,
    Create,
    Decision,
    End,
    Exhausted,
    LiveCluster,
    Register,
    Sit,
    Slot,
    SlotState,
    Wait,
    decide,
    load,
    reconcile,
    seat_after,
    seat_left,
)
from airflow_emr_etl.models.states import ClusterState

NOW = datetime(2026, 1, 6, tzinfo=UTC)
WANTED = Fingerprint.of(ClusterSpec(name="x"), {})
OTHER = Fingerprint.of(ClusterSpec(name="x", release="emr-7.1.0"), {})
PAIR = Fingerprint.of(ClusterSpec(name="x", step_concurrency=2), {})
POOL = ClusterPool(name="etl", spec=ClusterSpec(name="x"), lock="s3://lake/pools")


def taken(number: int, fingerprint: Fingerprint | None = WANTED) -> Slot:
    return Slot(
        number=number,
        state=SlotState.TAKEN,
        generation=1,
        cluster_id=f"j-{number}",
        since=NOW,
        fingerprint=fingerprint,
    )


def creating(number: int, since: datetime = NOW, fingerprint: Fingerprint = WANTED) -> Slot:
    return Slot(
        number=number,
        state=SlotState.CREATING,
        generation=4,
        since=since,
        maker="maker",
        fingerprint=fingerprint,
    )


def cluster(number: int, *, state: str = "WAITING", id: str | None = None, **fields: Any) -> LiveCluster:
    mark = ClusterMark(POOL.lineage(number), fields.pop("spec", WANTED.digest), fields.pop("generation", 1))
    fields.setdefault("ready", None if state in ("STARTING", "BOOTSTRAPPING") else NOW - timedelta(days=1))
    return LiveCluster(
        id=id or f"j-{number}",
        slot=number,
        mark=mark,
        state=ClusterState(state),
        created=fields.pop("created", NOW),
        **fields,
    )


def decided(
    register: Register,
    *live: LiveCluster,
    key: str = "key",
    wanted: Fingerprint = WANTED,
    most: int = 3,
    steps: int = MAX_ACTIVE_STEPS,
) -> Decision:
    return decide(register, live, key, wanted, NOW, max_clusters=most, max_active_steps=steps, rungs=2)


def test_the_first_step_makes_a_cluster() -> None:
    decision = decided(Register())
    assert decision == Create(
        Slot(
            number=1,
            state=SlotState.CREATING,
            generation=1,
            since=NOW,
            maker="key",
            rung=0,
            fingerprint=WANTED,
        )
    )


def test_a_warm_cluster_is_taken_before_one_that_comes_up() -> None:
    register = Register(slots=(taken(1), taken(2)))
    assert decided(register, cluster(1, state="STARTING"), cluster(2)) == Sit("j-2")


def test_one_that_comes_up_is_taken_before_another_is_made() -> None:
    assert decided(Register(slots=(taken(1),)), cluster(1, state="BOOTSTRAPPING")) == Sit("j-1")


def test_a_full_cluster_is_left_alone_while_another_may_be_made() -> None:
    busy = cluster(1, state="RUNNING", active=frozenset({"somebody"}))
    decision = decided(Register(slots=(taken(1),)), busy)
    assert isinstance(decision, Create)
    assert decision.slot.number == 2


def test_a_step_of_nobodys_takes_a_place() -> None:
    assert isinstance(decided(Register(slots=(taken(1),)), cluster(1, strangers=1)), Create)


def test_at_the_maximum_the_least_loaded_is_shared() -> None:
    register = Register(slots=(taken(1), taken(2)))
    live = (cluster(1, active=frozenset("ab")), cluster(2, active=frozenset("c")))
    assert decided(register, *live, most=2) == Sit("j-2")


def test_a_cluster_that_is_being_made_counts() -> None:
    register = Register(slots=(creating(1), creating(2)))
    assert isinstance(decided(register, most=2), Wait)
    decision = decided(register)
    assert isinstance(decision, Create)
    assert decision.slot.number == 3


def test_where_several_fit_on_one_it_is_waited_for_and_not_for_ever() -> None:
    assert isinstance(decided(Register(slots=(creating(1, fingerprint=PAIR),)), wanted=PAIR), Wait)
    old = creating(1, since=NOW - timedelta(minutes=2), fingerprint=PAIR)
    assert isinstance(decided(Register(slots=(old,)), wanted=PAIR), Create)


def test_the_maker_goes_on_where_it_was() -> None:
    slot = creating(2)
    assert decided(Register(slots=(slot,)), key="maker") == Create(slot, again=True)


def test_a_maker_whose_spec_has_changed_begins_anew_in_its_slot() -> None:
    decision = decided(Register(slots=(creating(2),)), key="maker", wanted=PAIR)
    assert isinstance(decision, Create)
    assert (decision.slot.number, decision.slot.generation) == (2, 5)
    assert decision.slot.fingerprint == PAIR


def test_the_same_key_gets_the_same_cluster() -> None:
    register = seat_after(Register(slots=(taken(1), taken(2))), "key", "j-2", NOW)
    assert decided(register, cluster(1), cluster(2, active=frozenset("abc"))) == Sit("j-2")


def test_a_running_step_keeps_its_cluster_whatever_has_changed() -> None:
    register = seat_left(seat_after(Register(slots=(taken(1, OTHER), taken(2))), "key", "j-1", NOW), "key")
    assert decided(register, cluster(1, active=frozenset({"key"})), cluster(2)) == Sit("j-1")


def test_a_seat_that_was_left_binds_nobody_but_is_remembered() -> None:
    register = seat_left(seat_after(Register(slots=(taken(1), taken(2))), "key", "j-2", NOW), "key")
    assert decided(register, cluster(1), cluster(2)) == Sit("j-1")
    assert seat_after(register, "key", "j-1", NOW).seats["key"].earlier == ("j-2",)


def test_clusters_of_which_nobody_knows_what_they_are_serve_nobody() -> None:
    decision = decided(Register(slots=(taken(1, None),)), cluster(1))
    assert isinstance(decision, Create)


def test_an_idle_misfit_makes_room_and_a_busy_one_does_not() -> None:
    register = Register(slots=(taken(1, OTHER), taken(2, OTHER)))
    busy = cluster(1, state="RUNNING", active=frozenset("a"))
    decision = decided(register, busy, cluster(2), most=2)
    assert isinstance(decision, End)
    assert decision.cluster_id == "j-2"
    assert "release emr-7.1.0" in decision.reason
    waits = decided(register, busy, cluster(2, active=frozenset("b")), most=2)
    assert isinstance(waits, Wait)
    assert "j-1: release emr-7.1.0" in waits.reason


def test_an_idle_misfit_with_a_seat_makes_no_room() -> None:
    register = seat_after(Register(slots=(taken(1, OTHER),)), "somebody", "j-1", NOW)
    assert isinstance(decided(register, cluster(1), most=1), Wait)


def test_a_lower_maximum_ends_nothing_and_makes_nothing() -> None:
    register = Register(slots=tuple(taken(number) for number in range(1, 5)))
    live = [cluster(number, active=frozenset("a")) for number in range(1, 5)]
    assert isinstance(decided(register, *live, most=2), Sit)


def test_emrs_limit_on_active_steps_is_kept() -> None:
    full = cluster(1, active=frozenset(str(n) for n in range(MAX_ACTIVE_STEPS)))
    decision = decided(Register(slots=(taken(1),)), full, most=1)
    assert isinstance(decision, Wait)
    assert "256" in decision.reason


def test_where_all_clusters_are_full_it_is_told_which() -> None:
    register = Register(slots=(taken(1), taken(2)))
    full = [cluster(number, active=frozenset("abc")) for number in (1, 2)]
    decision = decided(register, *full, most=2, steps=3)
    assert isinstance(decision, Wait)
    assert decision.full == ("j-1", "j-2")
    assert isinstance(decided(register, *full, most=2, steps=4), Sit)


def test_seats_whose_steps_are_not_there_yet_count_for_the_limit() -> None:
    register = Register(slots=(taken(1),))
    for key in "abc":
        register = seat_after(register, key, "j-1", NOW)
    assert isinstance(decided(register, cluster(1), most=1, steps=3), Wait)


def test_the_ladder_ends() -> None:
    register = Register(rung=2, rung_since=NOW)
    assert isinstance(decided(register), Exhausted)
    with_one = register.with_slot(taken(1))
    assert decided(with_one, cluster(1, active=frozenset("a"))) == Sit("j-1")


def test_places_are_counted_once_and_seats_without_a_step_only_for_a_while() -> None:
    register = seat_after(Register(), "a", "j-1", NOW)
    register = seat_after(register, "b", "j-1", NOW - SEAT_GRACE - timedelta(seconds=1))
    register = seat_left(seat_after(register, "c", "j-1", NOW), "c")
    assert load(register, cluster(1), NOW) == 1
    assert load(register, cluster(1, active=frozenset({"a", "b"}), strangers=3), NOW) == 5


def test_a_seat_waits_for_its_cluster_to_come_up() -> None:
    register = seat_after(Register(), "a", "j-1", NOW - timedelta(hours=1))
    assert load(register, cluster(1, state="STARTING"), NOW) == 1
    assert load(register, cluster(1, ready=NOW - SEAT_GRACE), NOW) == 1
    assert load(register, cluster(1, ready=NOW - SEAT_GRACE - timedelta(seconds=1)), NOW) == 0


def test_clusters_lost_in_a_row_are_counted() -> None:
    register = Register()
    for number in (1, 2, 2, 3):
        register = seat_after(register, "a", f"j-{number}", NOW)
    assert register.seats["a"].lost == 2
    assert seat_after(seat_left(register, "a"), "a", "j-4", NOW).seats["a"].lost == 0


def test_a_cluster_that_ended_frees_its_slot() -> None:
    register, strays = reconcile(Register(slots=(taken(1), taken(2))), [cluster(2)], WANTED, NOW)
    assert [slot.state for slot in register.slots] == [SlotState.FREE, SlotState.TAKEN]
    assert register.slot(1).generation == 1
    assert strays == ()


def test_a_crashed_makers_cluster_is_taken_in_by_its_mark() -> None:
    register, _ = reconcile(Register(slots=(creating(1),)), [cluster(1, generation=4)], OTHER, NOW)
    slot = register.slot(1)
    assert (slot.state, slot.cluster_id, slot.fingerprint) == (SlotState.TAKEN, "j-1", WANTED)


def test_a_makers_slot_waits_for_it_and_not_for_ever() -> None:
    patient, _ = reconcile(Register(slots=(creating(1),)), [], WANTED, NOW + CREATION_GRACE)
    assert patient.clusters == 1
    given_up, _ = reconcile(
        Register(slots=(creating(1),)), [], WANTED, NOW + CREATION_GRACE + timedelta(seconds=1)
    )
    assert given_up.clusters == 0
    assert given_up.slot(1).generation == 4


def test_a_maker_that_comes_back_too_late_has_made_one_too_many() -> None:
    late = cluster(1, id="j-late", generation=3)
    register, strays = reconcile(Register(slots=(creating(1),)), [late], WANTED, NOW)
    assert strays == ("j-late",)
    assert register.slot(1).state is SlotState.CREATING


def test_of_two_for_one_slot_the_recorded_one_stays_else_the_earliest() -> None:
    pair = [cluster(1, id="j-b", created=NOW - timedelta(seconds=1)), cluster(1)]
    assert reconcile(Register(slots=(taken(1),)), pair, WANTED, NOW)[1] == ("j-b",)
    assert reconcile(Register(), pair, WANTED, NOW)[1] == ("j-1",)


def test_a_lost_register_is_found_again_from_the_names() -> None:
    live = [cluster(1, generation=7), cluster(3, spec="00000000")]
    register, strays = reconcile(Register(), live, WANTED, NOW)
    assert strays == ()
    assert register.clusters == 2
    assert register.slot(1).fingerprint == WANTED
    assert register.slot(1).generation == 7
    assert register.slot(3).fingerprint is None


def test_without_capacity_the_next_cluster_asks_for_something_else_for_a_while() -> None:
    register, _ = reconcile(Register(slots=(taken(1),)), [], WANTED, NOW, without_capacity={"j-1"})
    assert register.rung == 1
    decision = decided(register)
    assert isinstance(decision, Create)
    assert decision.slot.rung == 1
    later, _ = reconcile(register, [], WANTED, NOW + RUNG_MEMORY + timedelta(seconds=1))
    assert later.rung == 0


def test_seats_are_forgotten_in_the_end() -> None:
    register = seat_after(Register(), "old", "j-1", NOW - SEAT_MEMORY - timedelta(seconds=1))
    register = seat_after(register, "new", "j-1", NOW)
    assert set(reconcile(register, [], WANTED, NOW)[0].seats) == {"new"}
    kept, _ = reconcile(register, [cluster(1, active=frozenset({"old"}))], WANTED, NOW)
    assert set(kept.seats) == {"old", "new"}


def test_the_register_survives_json() -> None:
    register = seat_after(Register(slots=(taken(1), creating(2))), "key", "j-1", NOW)
    document = register.model_dump(mode="json", exclude_defaults=True)
    assert Register.model_validate(document) == register


def test_a_pool_and_what_it_refuses() -> None:
    assert POOL.folder == "s3://lake/pools/etl/"
    assert len({POOL.lineage(number) for number in range(1, 101)}) == 100
    assert POOL.slots()[POOL.lineage(7)] == 7
    assert ClusterPool.model_validate(POOL.document()) == POOL
    for fields, said in (
        ({"name": "a/b"}, "cannot name a pool"),
        ({"max_clusters": 0}, "greater than or equal to 1"),
        ({"max_active_steps": 257}, "less than or equal to 256"),
        ({"spec": ClusterSpec(name="x", keep_alive=False)}, "keep_alive"),
        ({"spec": ClusterSpec(name="x", termination_protection=True)}, "termination_protection"),
        ({"lock": "lake/pools"}, "not an address in S3"),
    ):
        with pytest.raises(ValidationError, match=said):
            ClusterPool(**({"name": "etl", "spec": ClusterSpec(name="x"), "lock": "s3://lake/"} | fields))
