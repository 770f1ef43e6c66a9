"""The lock over local S3's conditional writes: one holder at a time, whatever dies or is lost on the way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import boto3
import pytest
from fakes.meddling import KilledError, VirtualClock, Worker

from airflow_emr_etl.exceptions import LeaseLostError, PoolError, WaitTimeoutError
from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK, Clock
from airflow_emr_etl.hooks.s3_lock import LEASE, S3Lock


@pytest.fixture
def uri(bucket: str) -> str:
    return f"s3://{bucket}/pools/etl/lock.json"


def lock(uri: str, clock: Clock | None = None, worker: Worker | None = None, **given: Any) -> S3Lock:
    return S3Lock((worker or Worker()).lake, uri, clock or VirtualClock(), **given)


def stored(uri: str) -> dict[str, Any]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    document: dict[str, Any] = json.loads(
        boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    )
    return document


def test_many_threads_hold_it_one_at_a_time(uri: str) -> None:
    shared = lock(uri, SYSTEM_CLOCK)
    inside: list[str] = []
    tokens: list[int] = []
    wrong: list[str] = []

    def work(name: str) -> None:
        for _ in range(3):
            with shared.held(timedelta(seconds=60)) as lease:
                inside.append(name)
                time.sleep(0.002)
                if inside != [name]:
                    wrong.append(name)
                tokens.append(lease.token)
                inside.clear()

    threads = [threading.Thread(target=work, args=[f"t{n}"]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 24


def test_it_is_given_back(uri: str) -> None:
    clock = VirtualClock()
    with lock(uri, clock).held() as first:
        assert first.token == 1
        assert stored(uri)["holder"] == first.holder
    with lock(uri, clock).held() as second:
        assert second.token == 2
    assert clock.slept == 0
    assert stored(uri)["released"] is True


def test_a_dead_holders_lease_ends_and_its_token_is_worth_nothing(uri: str) -> None:
    dead = lock(uri).acquire()
    clock = VirtualClock()
    lease = lock(uri, clock).acquire()
    assert lease.token == dead.token + 1
    assert LEASE.total_seconds() <= clock.slept < LEASE.total_seconds() + 6

    revenant = lock(uri)
    with pytest.raises(LeaseLostError, match="ended at"):
        revenant.renew(dead)
    revenant.release(dead)
    assert stored(uri)["holder"] == lease.holder
    assert stored(uri)["released"] is False


def test_a_holder_that_oversleeps_finds_out_by_its_own_clock(uri: str) -> None:
    clock = VirtualClock()
    own = lock(uri, clock)
    lease = own.acquire()
    own.check(lease)
    clock.sleep(LEASE.total_seconds())
    with pytest.raises(LeaseLostError):
        own.check(lease)


def test_by_s3s_own_clock_a_late_comer_need_not_wait(uri: str) -> None:
    lock(uri).acquire()
    worker = Worker()

    def later(parsed: dict[str, Any], **_: Any) -> None:
        parsed["ResponseMetadata"]["HTTPHeaders"]["date"] = "Fri, 01 Jan 2100 00:00:00 GMT"

    worker.s3.meta.events.register("after-call.s3.GetObject", later)
    clock = VirtualClock()
    assert lock(uri, clock, worker).acquire().token == 2
    assert clock.slept == 0


@pytest.mark.parametrize("ahead", [timedelta(days=1), timedelta(days=-1)])
def test_a_wrong_clock_takes_nothing_early_and_is_told_who_holds_it(uri: str, ahead: timedelta) -> None:
    holder = lock(uri).acquire()
    wrong = VirtualClock(VirtualClock().now() + ahead)
    with pytest.raises(WaitTimeoutError, match=r"token 1") as caught:
        lock(uri, wrong).acquire(LEASE / 2)
    assert caught.value.holder == holder.holder
    assert stored(uri)["holder"] == holder.holder


def calls_of(uri: str, work: Callable[[S3Lock], object]) -> int:
    worker = Worker()
    work(lock(uri + ".recorded", worker=worker))
    return len(worker.calls)


def take_and_give_back(own: S3Lock) -> int:
    with own.held() as lease:
        return lease.token


def test_lost_answers_are_resolved_by_reading_back(uri: str) -> None:
    last = 0
    for number in range(1, calls_of(uri, take_and_give_back) + 1):
        for when in ("before", "after"):
            worker, clock = Worker(), VirtualClock()
            worker.at(number, when, worker.time_out)
            if number == 1:  # a read: there is nothing to resolve, the task's own retry is next
                continue
            token = take_and_give_back(lock(uri, clock, worker))
            assert token == last + 1
            assert clock.slept < 5, (number, when)
            assert stored(uri)["released"] is True
            last = token


def test_an_answer_that_is_lost_while_s3_is_not_there_either_is_resolved_later(uri: str) -> None:
    worker, clock = Worker(), VirtualClock()
    worker.at(2, "after", worker.time_out)
    for number in range(3, 20):
        worker.at(number, "before", worker.time_out)
    with pytest.raises(Exception, match="ReadTimeoutError"):
        lock(uri, clock, worker).acquire()
    worker, clock = Worker(), VirtualClock()
    worker.at(2, "after", worker.time_out)
    for number in range(3, 13):
        worker.at(number, "before", worker.time_out)
    boto3.client("s3").delete_object(
        Bucket=uri.split("/")[2], Key=uri.removeprefix("s3://").partition("/")[2]
    )
    lease = lock(uri, clock, worker).acquire()
    assert (lease.token, stored(uri)["holder"]) == (1, lease.holder)
    assert lease.until > clock.now(), "the lease counts from when it was confirmed"
    assert clock.slept < LEASE.total_seconds()


def test_a_holder_killed_at_any_call_blocks_nobody_for_longer_than_its_lease(uri: str) -> None:
    last = 0
    for number in range(1, calls_of(uri, take_and_give_back) + 1):
        for when in ("before", "after"):
            worker = Worker()
            worker.at(number, when, worker.kill)
            with pytest.raises(KilledError):
                take_and_give_back(lock(uri, worker=worker))
            clock = VirtualClock()
            token = take_and_give_back(lock(uri, clock))
            assert token > last
            assert clock.slept < LEASE.total_seconds() + 6
            last = token


def test_it_is_renewed_and_can_be_lifted_above_a_guard(uri: str) -> None:
    clock = VirtualClock()
    own = lock(uri, clock)
    lease = own.acquire()
    clock.sleep(50)
    renewed = own.renew(lease)
    assert renewed.token == lease.token
    assert renewed.until > lease.until
    assert own.renew(renewed, above=41).token == 42


def test_what_is_no_lock_is_left_as_it_is(uri: str) -> None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=b"dear diary")
    with pytest.raises(PoolError, match="not what this package wrote"):
        lock(uri).acquire()
