"""A pool on local EMR and S3: steps share clusters, and never are there more of them than there may be."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import boto3
import pytest
from fakes.meddling import KilledError, VirtualClock, Worker

from airflow_emr_etl import ClusterPool, ClusterSpec, CommandStep, InstanceGroup
from airflow_emr_etl.exceptions import (
    BootstrapFailedError,
    ClusterError,
    ConfigurationError,
    EmrEtlError,
    LadderEndedError,
    MissingInputError,
    PoolError,
    PoolFullError,
    ServiceUnavailableError,
)
from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK, Clock
from airflow_emr_etl.hooks.cluster_pool import PoolKeeper, Seat
from airflow_emr_etl.hooks.emr_step import EmrStepHook
from airflow_emr_etl.models.intent import TAG_LINEAGE, TAG_MAX_IDLE, TAG_POOL, TAG_SITE, StepMark, digest_of
from airflow_emr_etl.models.plan import MAX_GENERATIONS
from airflow_emr_etl.models.pool import CREATION_GRACE
from airflow_emr_etl.models.states import STEP_ACTIVE

KeeperMaker = Callable[..., PoolKeeper]
LONG = "60"


@pytest.fixture
def keeper(bucket: str) -> KeeperMaker:
    """Makes keepers of one pool; ``worker`` is the process that one of them is in."""
    shared = Worker()

    def make(
        *,
        clock: Clock | None = None,
        worker: Worker | None = None,
        most: int = 3,
        site: str = "",
        name: str = "etl",
        steps: int = 256,
        **spec: Any,
    ) -> PoolKeeper:
        own = worker or shared
        pool = ClusterPool(
            name=name,
            spec=ClusterSpec(**({"name": "shared"} | spec)),
            lock=f"s3://{bucket}/pools/",
            max_clusters=most,
            max_active_steps=steps,
        )
        return PoolKeeper(pool, own.emr, own.lake, clock or VirtualClock(), site)

    return make


def key(name: str) -> str:
    return digest_of(name)


def add_step(seat: Seat, name: str, seconds: str = LONG) -> str:
    """A step as the step operator adds it: with its key in its name."""
    step = CommandStep(name=StepMark(key(name), "0" * 8).on(name), command=["sleep", seconds])
    answer = boto3.client("emr").add_job_flow_steps(JobFlowId=seat.cluster_id, Steps=[step.to_api()])
    return str(answer["StepIds"][0])


def wait_for_step(seat: Seat, step: str) -> str:
    """The state that it ends in; a poll of a real, if small, amount of time."""
    client = boto3.client("emr")
    for _ in range(600):
        state = str(client.describe_step(ClusterId=seat.cluster_id, StepId=step)["Step"]["Status"]["State"])
        if state not in STEP_ACTIVE:
            return state
        SYSTEM_CLOCK.sleep(0.1)
    raise AssertionError(f"{step} goes on and on")


def register(bucket: str) -> dict[str, Any]:
    answer = boto3.client("s3").get_object(Bucket=bucket, Key="pools/etl/register.json")
    document: dict[str, Any] = json.loads(answer["Body"].read())
    return document


def test_two_runs_share_one_cluster(emr: Any, keeper: KeeperMaker) -> None:
    first = keeper(site="night").take(key("a"))
    assert first.created
    wait_for_step(first, add_step(first, "a", "0.01"))
    keeper().leave(key("a"))
    second = keeper().take(key("b"))
    assert (second.cluster_id, second.created) == (first.cluster_id, False)
    assert emr.most == 1
    cluster = boto3.client("emr").describe_cluster(ClusterId=first.cluster_id)["Cluster"]
    tags = {tag["Key"]: tag["Value"] for tag in cluster["Tags"]}
    assert tags[TAG_POOL] == "etl"
    assert tags[TAG_SITE] == "night"
    assert tags[TAG_MAX_IDLE] == "1800"
    assert f"[emr-etl {tags[TAG_LINEAGE]}." in cluster["Name"]


def test_the_same_key_gets_the_same_cluster_until_it_ends(emr: Any, keeper: KeeperMaker) -> None:
    first = keeper().take(key("a"))
    other = keeper().take(key("b"))
    assert other.cluster_id != first.cluster_id
    assert keeper().take(key("a")) == Seat(first.cluster_id, created=False)
    boto3.client("emr").terminate_job_flows(JobFlowIds=[first.cluster_id])
    again = keeper().take(key("a"))
    assert again.cluster_id not in (first.cluster_id, other.cluster_id)
    assert again.earlier == (first.cluster_id,)
    assert emr.most == 2


def test_step_concurrency_is_respected_before_another_cluster_is_made(emr: Any, keeper: KeeperMaker) -> None:
    seats = [keeper(step_concurrency=2).take(key(name)) for name in "abc"]
    assert seats[0].cluster_id == seats[1].cluster_id != seats[2].cluster_id
    add_step(seats[0], "a")
    keeper(step_concurrency=2).leave(key("b"))
    assert keeper(step_concurrency=2).take(key("d")).cluster_id == seats[0].cluster_id
    assert len(emr.live()) == 2


def test_at_the_maximum_steps_queue_on_the_least_loaded(emr: Any, keeper: KeeperMaker) -> None:
    seats = [keeper(most=2).take(key(name)) for name in "abcd"]
    assert {seat.cluster_id for seat in seats[:2]} == {seat.cluster_id for seat in seats[2:]}
    assert len({seat.cluster_id for seat in seats}) == emr.most == 2


def test_where_each_cluster_has_as_many_steps_as_it_may_it_is_told_which(
    emr: Any, keeper: KeeperMaker
) -> None:
    seats = [keeper(most=2, steps=2).take(key(name)) for name in "abcd"]
    with pytest.raises(PoolFullError, match="has 2 steps, and may have no more") as caught:
        keeper(most=2, steps=2).take(key("e"))
    told = caught.value.details
    assert set(str(told["clusters"]).split()) == {seat.cluster_id for seat in seats}
    assert told["max_active_steps"] == 2
    keeper(most=2, steps=2).leave(key("c"))
    assert keeper(most=2, steps=2).take(key("e")).cluster_id == seats[2].cluster_id


def test_leaving_frees_the_place_at_once_and_is_idempotent(emr: Any, keeper: KeeperMaker) -> None:
    seat = keeper().take(key("a"))
    for _ in range(3):
        keeper().leave(key("a"))
        keeper().leave(key("nobody"))
    assert keeper().take(key("b")).cluster_id == seat.cluster_id
    assert emr.most == 1


def test_ten_at_once_never_exceed_three_clusters_and_all_finish(emr: Any, keeper: KeeperMaker) -> None:
    failures: list[BaseException] = []
    done: list[str] = []

    def run(name: str) -> None:
        try:
            own = keeper(clock=SYSTEM_CLOCK)
            seat = own.take(key(name))
            ended = wait_for_step(seat, add_step(seat, name, "0.3"))
            own.leave(key(name))
            done.append(ended)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=[f"run-{n}"]) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert failures == []
    assert done == ["COMPLETED"] * 10
    assert 1 <= emr.most <= 3


def test_the_maximum_holds_for_two_that_start_together(emr: Any, keeper: KeeperMaker) -> None:
    """The second looks while the first has not asked for its cluster yet."""
    worker, clock = Worker(), VirtualClock()
    first = keeper(worker=worker, most=1)
    waited: list[str] = []

    def meanwhile() -> None:
        with pytest.raises(PoolFullError, match="being made") as caught:
            keeper(most=1).take(key("b"), timeout=timedelta(seconds=20))
        waited.append(caught.value.pool)

    worker.at(1 + count_calls(keeper, "emr:RunJobFlow", clock), "before", meanwhile)
    seat = first.take(key("a"))
    assert waited == ["etl"]
    assert keeper(most=1).take(key("b")).cluster_id == seat.cluster_id
    assert emr.most == 1


def count_calls(keeper: KeeperMaker, until: str, clock: Clock) -> int:
    """Calls of a first take, in another pool, before ``until`` is called."""
    worker = Worker()
    own = keeper(worker=worker, name="counted", clock=clock)
    seat = own.take(key("a"))
    boto3.client("emr").terminate_job_flows(JobFlowIds=[seat.cluster_id])
    return worker.calls.index(until)


def whole_visit(own: PoolKeeper, name: str = "a") -> Seat:
    """Everything that a task does with its seat."""
    seat = own.take(key(name))
    add_step(seat, name)
    own.leave(key(name))
    return seat


def recorded(keeper: KeeperMaker) -> list[str]:
    worker = Worker()
    seat = whole_visit(keeper(worker=worker, name="recorded"))
    boto3.client("emr").terminate_job_flows(JobFlowIds=[seat.cluster_id])
    return worker.calls


def test_a_worker_killed_at_any_call_leaves_one_cluster_that_its_retry_uses(
    emr: Any, keeper: KeeperMaker
) -> None:
    calls = recorded(keeper)
    assert "emr:RunJobFlow" in calls
    for number in range(1, len(calls) + 1):
        for when in ("before", "after"):
            emr.forget_all()
            worker, name = Worker(), f"kill-{number}-{when}"
            worker.at(number, when, worker.kill)
            with pytest.raises(KilledError):
                whole_visit(keeper(worker=worker, name=name, most=1))
            seat = keeper(name=name, most=1).take(key("a"), timeout=timedelta(minutes=5))
            other = keeper(name=name, most=1).take(key("b"))
            assert emr.live() == [seat.cluster_id] == [other.cluster_id], (number, when, calls[number - 1])
            assert emr.most == 1, (number, when, calls[number - 1])


def test_a_worker_killed_at_any_call_blocks_another_step_for_minutes_at_most(
    emr: Any, keeper: KeeperMaker
) -> None:
    calls = recorded(keeper)
    for number in range(1, len(calls) + 1):
        for when in ("before", "after"):
            emr.forget_all()
            worker, name = Worker(), f"block-{number}-{when}"
            worker.at(number, when, worker.kill)
            with pytest.raises(KilledError):
                whole_visit(keeper(worker=worker, name=name, most=1))
            clock = VirtualClock()
            seat = keeper(name=name, most=1, clock=clock).take(key("b"), timeout=timedelta(minutes=20))
            assert emr.live() == [seat.cluster_id]
            assert emr.most == 1, (number, when, calls[number - 1])
            assert clock.slept < CREATION_GRACE.total_seconds() + 120


def test_an_answer_lost_at_any_call_costs_no_cluster(emr: Any, keeper: KeeperMaker) -> None:
    calls = recorded(keeper)
    for number, call in enumerate(calls, 1):
        for when in ("before", "after"):
            emr.forget_all()
            worker, name = Worker(), f"lost-{number}-{when}"
            worker.at(number, when, worker.time_out)
            try:
                seat = whole_visit(keeper(worker=worker, name=name, most=1))
            except ServiceUnavailableError:
                assert call not in ("s3:PutObject", "emr:RunJobFlow"), (
                    "writes are resolved, reads are retried"
                )
                seat = keeper(name=name, most=1).take(key("a"))
            assert emr.live() == [seat.cluster_id]
            assert emr.most == 1, (number, when, call)


@pytest.mark.parametrize("seed", range(6))
def test_random_lives_of_a_pool(emr: Any, keeper: KeeperMaker, bucket: str, seed: int) -> None:
    """Workers die, lose answers and stand still for minutes, clusters end, the register is lost: in any order."""
    chance = random.Random(seed)
    clock = VirtualClock(budget=20_000)
    most, names = chance.randint(1, 3), "abcde"
    spec = {"step_concurrency": chance.randint(1, 2)}

    def visit(name: str, worker: Worker | None = None) -> None:
        with contextlib.suppress(KilledError, PoolFullError, ServiceUnavailableError, ClusterError):
            own = keeper(worker=worker, clock=clock, most=most, **spec)
            seat = own.take(key(name))
            if chance.random() < 0.5:
                add_step(seat, name, chance.choice(["0.01", LONG]))
            if chance.random() < 0.5:
                own.leave(key(name))

    for _ in range(12):
        worker, deed = Worker(), chance.randrange(8)
        at = chance.randint(1, 14), chance.choice(["before", "after"])
        if deed < 2:
            worker.at(*at, worker.kill)
        elif deed == 2:
            worker.at(*at, worker.time_out)
        elif deed == 3:
            worker.at(*at, lambda: visit(chance.choice(names)))
        elif deed == 4 and emr.live():
            emr.end_for(chance.choice(emr.live()), "INSTANCE_FAILURE", "spot")
        elif deed == 5:
            boto3.client("s3").delete_object(
                Bucket=bucket, Key=f"pools/etl/{chance.choice(['register', 'lock'])}.json"
            )
        visit(chance.choice(names), worker)
        assert emr.most <= most
    places = {
        keeper(clock=clock, most=most, **spec).take(key(name), timeout=timedelta(minutes=20)).cluster_id
        for name in names
    }
    assert places <= set(emr.live())
    assert emr.most <= most


def test_a_refused_request_frees_its_slot(emr: Any, keeper: KeeperMaker) -> None:
    worker = Worker()

    def refuse() -> None:
        raise ConfigurationError("emr:RunJobFlow: ValidationException: no such subnet")

    worker.at(1 + count_calls(keeper, "emr:RunJobFlow", VirtualClock()), "before", refuse)
    with pytest.raises(ConfigurationError, match="subnet"):
        keeper(worker=worker, most=1).take(key("a"))
    assert keeper(most=1).take(key("b"), timeout=timedelta(seconds=30)).created


def test_a_holder_that_oversleeps_changes_nothing_and_starts_over(
    emr: Any, keeper: KeeperMaker, bucket: str
) -> None:
    """It reads the register, sleeps through its lease, and another takes the only cluster's place meanwhile."""
    calls = recorded(keeper)
    decided = calls.index("emr:ListClusters") + 1
    worker, clock = Worker(), VirtualClock()
    others: list[Seat] = []

    def oversleep() -> None:
        others.append(keeper(most=1, clock=VirtualClock()).take(key("b")))
        # Its own clock stood still: only the token can stop it.

    worker.at(decided, "before", oversleep)
    seat = keeper(most=1, worker=worker, clock=clock).take(key("a"))
    assert [other.created for other in others] == [True]
    assert (seat.cluster_id, seat.created) == (others[0].cluster_id, False)
    assert emr.most == 1
    assert set(register(bucket)["seats"]) == {key("a"), key("b")}


def test_a_maker_that_oversleeps_has_its_cluster_ended_again(emr: Any, keeper: KeeperMaker) -> None:
    """It sleeps right before RunJobFlow, for so long that its slot was given away: nothing can stop the call."""
    worker = Worker()
    made: list[Seat] = []

    def oversleep() -> None:
        made.append(keeper(most=1).take(key("b"), timeout=timedelta(minutes=20)))
        add_step(made[0], "b")

    worker.at(1 + count_calls(keeper, "emr:RunJobFlow", VirtualClock()), "before", oversleep)
    seat = keeper(most=1, worker=worker).take(key("a"), timeout=timedelta(minutes=20))
    assert seat.cluster_id == made[0].cluster_id
    assert emr.live() == [seat.cluster_id]


def test_a_lagging_list_hides_nothing_that_is_on_record(emr: Any, keeper: KeeperMaker) -> None:
    seat = keeper(most=1).take(key("a"))
    worker = Worker()
    worker.emr.reads.meta.events.register(
        "after-call.emr.ListClusters", lambda parsed, **_: parsed.update(Clusters=[])
    )
    assert keeper(most=1, worker=worker).take(key("b")).cluster_id == seat.cluster_id
    assert emr.most == 1


def test_a_lost_register_and_a_lost_lock_are_found_again_by_the_names(
    emr: Any, keeper: KeeperMaker, bucket: str
) -> None:
    seats = [keeper(most=2).take(key(name)) for name in "ab"]
    s3 = boto3.client("s3")
    for lost in ("register.json", "lock.json"):
        s3.delete_object(Bucket=bucket, Key=f"pools/etl/{lost}")
        found = keeper(most=2).take(key("c"))
        assert found.cluster_id in {seat.cluster_id for seat in seats}
        token = register(bucket)["token"]
        assert (
            token
            == json.loads(s3.get_object(Bucket=bucket, Key="pools/etl/lock.json")["Body"].read())["token"]
        )
    assert emr.most == 2


def test_an_idle_cluster_that_does_not_fit_makes_room_and_a_busy_one_is_waited_for(
    emr: Any, keeper: KeeperMaker
) -> None:
    old = keeper(most=1).take(key("a"))
    add_step(old, "a", "0.4")
    with pytest.raises(PoolFullError, match=r"release emr-7\.9\.0, where emr-7\.8\.0 is wanted"):
        keeper(most=1, release="emr-7.8.0").take(key("b"), timeout=timedelta(seconds=5))
    keeper(most=1).leave(key("a"))
    own = keeper(most=1, release="emr-7.8.0", clock=SYSTEM_CLOCK)
    seat = own.take(key("b"), timeout=timedelta(seconds=60))
    assert seat.created
    assert emr.live() == [seat.cluster_id]
    assert emr.most == 1


def test_bootstrap_scripts_count_by_their_bytes(emr: Any, keeper: KeeperMaker, bucket: str) -> None:
    script = f"s3://{bucket}/install.sh"
    with pytest.raises(MissingInputError, match=r"install\.sh"):
        keeper(bootstrap=[script]).take(key("a"))
    s3 = boto3.client("s3")
    s3.put_object(Bucket=bucket, Key="install.sh", Body=b"exit 0")
    first = keeper(bootstrap=[script]).take(key("a"))
    keeper(bootstrap=[script]).leave(key("a"))
    assert keeper(bootstrap=[script]).take(key("b")).cluster_id == first.cluster_id
    s3.put_object(Bucket=bucket, Key="install.sh", Body=b"exit 0 # but otherwise")
    assert keeper(bootstrap=[script]).take(key("c")).cluster_id != first.cluster_id


def test_without_capacity_the_ladder_is_walked_to_its_end(emr: Any, keeper: KeeperMaker) -> None:
    spec = {"core": InstanceGroup(type="m6g.xlarge", count=2), "fallback_types": ["m5.xlarge"]}
    types = []
    for _ in range(2):
        seat = keeper(most=1, **spec).take(key("a"))
        groups = boto3.client("emr").list_instance_groups(ClusterId=seat.cluster_id)["InstanceGroups"]
        types.append(next(group["InstanceType"] for group in groups if group["InstanceGroupType"] == "CORE"))
        emr.end_for(seat.cluster_id, "VALIDATION_ERROR", "insufficient capacity in us-east-1a")
    with pytest.raises(LadderEndedError, match="EC2 had no machines for pool etl"):
        keeper(most=1, **spec).take(key("a"))
    assert types == ["m6g.xlarge", "m5.xlarge"]
    assert emr.most == 1


def test_a_cluster_that_cannot_come_up_is_not_made_again_and_again(emr: Any, keeper: KeeperMaker) -> None:
    seat = keeper(most=1).take(key("a"))
    emr.end_for(seat.cluster_id, "BOOTSTRAP_FAILURE", "bootstrap action 1 returned a non-zero return code")
    with pytest.raises(BootstrapFailedError, match="bootstrap action 1"):
        keeper(most=1).take(key("a"))
    again = keeper(most=1).take(key("a"))
    assert again.created, "a task that is cleared, or retried all the same, gets its try"
    assert again.earlier == (seat.cluster_id,)


def test_a_step_does_not_lose_clusters_for_ever(emr: Any, keeper: KeeperMaker) -> None:
    for _ in range(MAX_GENERATIONS + 1):
        seat = keeper(most=1).take(key("a"))
        emr.end_for(seat.cluster_id, "INSTANCE_FAILURE", "spot")
    with pytest.raises(ClusterError, match=f"{MAX_GENERATIONS}th cluster of pool etl that this step lost"):
        keeper(most=1).take(key("a"))


def test_what_is_no_register_is_left_as_it_is(emr: Any, keeper: KeeperMaker, bucket: str) -> None:
    boto3.client("s3").put_object(Bucket=bucket, Key="pools/etl/register.json", Body=b'{"version": 2}')
    with pytest.raises(PoolError, match="its version is 2, and this release reads 1"):
        keeper().take(key("a"))


def test_a_pool_without_a_bucket_says_so(emr: Any, keeper: KeeperMaker) -> None:
    own = keeper()
    pool = own.pool.model_copy(update={"lock": "s3://no-such-bucket-here/"})
    worker = Worker()
    with pytest.raises(EmrEtlError, match="NoSuchBucket"):
        PoolKeeper(pool, worker.emr, worker.lake, VirtualClock()).take(key("a"))


def test_steps_of_the_pool_are_seen_by_their_keys(emr: Any, keeper: KeeperMaker) -> None:
    """A step whose seat has become old still takes its place."""
    clock = VirtualClock()
    seat = keeper(most=2, clock=clock).take(key("a"))
    add_step(seat, "a")
    clock.sleep(3600)
    assert keeper(most=2, clock=clock).take(key("b")).cluster_id != seat.cluster_id
    worker = Worker()
    assert len(list(EmrStepHook(clients=worker.emr).list_steps(seat.cluster_id, states=STEP_ACTIVE))) == 1
