"""Mutual exclusion over S3: a lease that a conditional write takes, with a fencing token.

Who holds the lock, a token that only grows, and how long the lease lasts stand in one object. Whoever finds it
released, or its lease over, replaces exactly that version with the next token; of several, S3 lets one through.

A lease is over by S3's own clock (the answer's ``Date`` against the object's ``Last-Modified``), or when the waiting
process has seen the same version for as long as the lease lasts, by its own clock. So the clocks of two machines
are never compared. The holder counts from before it asked, and stops trusting its lease a little early.

What the lock cannot do: stop a holder that sleeps through its lease's end. Everything that is done under the lock
must be guarded by the token, as ``PoolKeeper`` guards the pool's register.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from airflow_emr_etl.exceptions import AwsError, EmrEtlError, LeaseLostError, WaitTimeoutError
from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK, Clock
from airflow_emr_etl.hooks.s3_document import S3Document, Version
from airflow_emr_etl.hooks.s3_lake import S3LakeHook

LEASE: Final = timedelta(seconds=60)
#: S3 tells times in whole seconds, so an age may be told almost one too long.
_COARSE: Final = timedelta(seconds=2)
_FIRST_PAUSE_SECONDS: Final = 0.4
_LONGEST_PAUSE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Lease:
    """The lock, held."""

    holder: str
    token: int
    """Grows with each time that the lock is taken or renewed past a guard."""
    etag: str
    until: datetime
    """By the clock of the process that holds it; from then on it must not act on it."""


class S3Lock:
    """A lock at ``uri``. One object serves any number of threads; each ``acquire`` is a holder of its own."""

    def __init__(
        self,
        lake: S3LakeHook,
        uri: str,
        clock: Clock = SYSTEM_CLOCK,
        *,
        lease: timedelta = LEASE,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """``lease`` bounds how long the work under the lock may take, and how long a dead holder blocks the rest."""
        self.document = S3Document(lake, uri, clock)
        self._clock = clock
        self._lease = lease
        self._draw = draw

    @contextmanager
    def held(self, timeout: timedelta = timedelta(minutes=10)) -> Iterator[Lease]:
        """Hold the lock inside; WaitTimeoutError where it is not to be had within ``timeout``."""
        lease = self.acquire(timeout)
        try:
            yield lease
        finally:
            self.release(lease)

    def acquire(self, timeout: timedelta = timedelta(minutes=10)) -> Lease:
        """Take the lock. WaitTimeoutError, which says who holds it, where that takes longer than ``timeout``."""
        holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        deadline = self._clock.now() + timeout
        seen: tuple[str, datetime] | None = None
        pause = _FIRST_PAUSE_SECONDS
        while True:
            current = self.document.read()
            now = self._clock.now()
            if current is not None and (seen is None or seen[0] != current.etag):
                seen, pause = (current.etag, now), _FIRST_PAUSE_SECONDS
            lease = None
            if current is not None and _is_held_by(current, holder):
                # A write of this call whose answer was lost, and that could not be looked up then.
                lease = self._write(holder, current.etag, _token(current))
            elif current is None or self._is_free(current, seen, now):
                lease = self._take(holder, current)
                current = None  # another was faster, where it is not taken
            if lease is not None:
                return lease
            # All of the pause by chance: those who wait for the same holder must not come back together.
            wait = pause * (0.1 + 0.9 * self._draw())
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            if self._clock.now() + timedelta(seconds=wait) > deadline:
                raise self._not_to_be_had(current, timeout)
            self._clock.sleep(wait)

    def renew(self, lease: Lease, *, above: int = 0) -> Lease:
        """The lease, as long again from now, and with a token above ``above``. LeaseLostError where it is lost."""
        renewed = self._write(lease.holder, lease.etag, max(lease.token, above + 1))
        if renewed is None:
            raise self._lost(lease)
        return renewed

    def check(self, lease: Lease) -> None:
        """LeaseLostError where the lease is over by this process's clock."""
        if self._clock.now() >= lease.until:
            raise self._lost(lease)

    def release(self, lease: Lease) -> None:
        """Give the lock back. Where that fails the lease ends by itself; a lock that is lost stays its new holder's."""
        try:
            self.document.write(
                self._contents(lease.holder, lease.token, self._clock.now(), released=True), over=lease.etag
            )
        except EmrEtlError:
            return

    def _is_free(self, current: Version, seen: tuple[str, datetime] | None, now: datetime) -> bool:
        if current.data.get("released"):
            return True
        lasts = timedelta(seconds=float(current.data.get("lease_seconds", self._lease.total_seconds())))
        if current.age is not None and current.age >= lasts + _COARSE:
            return True
        return seen is not None and now - seen[1] >= lasts

    def _take(self, holder: str, current: Version | None) -> Lease | None:
        try:
            return self._write(holder, current.etag if current else None, _token(current) + 1)
        except AwsError as error:
            if error.retryable:
                return None  # whether it took effect shows at the next look, by the holder's name
            raise

    def _write(self, holder: str, over: str | None, token: int) -> Lease | None:
        asked = self._clock.now()
        etag = self.document.write(self._contents(holder, token, asked, released=False), over=over)
        # A twelfth early: the work that was begun just before must not end after it.
        return None if etag is None else Lease(holder, token, etag, asked + self._lease * (11 / 12))

    def _contents(self, holder: str, token: int, now: datetime, *, released: bool) -> dict[str, Any]:
        return {
            "version": 1,
            "holder": holder,
            "token": token,
            "lease_seconds": self._lease.total_seconds(),
            # For people alone: another machine's clock may be wrong.
            "until": (now + self._lease).astimezone(UTC).isoformat(timespec="seconds"),
            "released": released,
        }

    def _lost(self, lease: Lease) -> LeaseLostError:
        return LeaseLostError(
            f"The lease on {self.document.uri} (token {lease.token}) ended at {lease.until:%H:%M:%S} UTC before the "
            "work under it was done. Nothing was written after that; try again.",
            uri=self.document.uri,
            token=lease.token,
        )

    def _not_to_be_had(self, current: Version | None, timeout: timedelta) -> WaitTimeoutError:
        data = current.data if current else {}
        holder = data.get("holder", "another process, each time another one")
        return WaitTimeoutError(
            f"The lock {self.document.uri} was not to be had within {timeout}: {holder} holds it"
            + (f" until {data['until']} (token {data['token']})" if "until" in data else "")
            + ". A holder that died loses it when its lease ends; try again then.",
            uri=self.document.uri,
            holder=holder,
            token=data.get("token"),
        )


def _is_held_by(current: Version, holder: str) -> bool:
    return current.data.get("holder") == holder and not current.data.get("released")


def _token(current: Version | None) -> int:
    return int(current.data.get("token", 0)) if current else 0
