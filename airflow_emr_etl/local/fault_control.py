"""Setting up faults in a local AWS: in this process, over HTTP, and as the endpoint that answers there."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.faults import (
    HOLD_SECONDS,
    FaultError,
    FaultInjector,
    FaultKind,
    FaultRule,
    FiredFault,
    When,
    fault_kind,
)
from airflow_emr_etl.local.state import HOST, Instance

if TYPE_CHECKING:
    from airflow_emr_etl.local.emr.faults import Capacity, EmrFaults, SpotLoss

FAULTS_PATH: Final = "/_local_aws/faults"


class LocalFaults:
    """All faults of one local AWS: errors and lost answers of any call, and what goes wrong inside EMR.

    They hold from now on for every client, until they are used up, removed or cleared, or local AWS stops.
    """

    def __init__(self, injector: FaultInjector | None = None, emr: EmrFaults | None = None) -> None:
        self.injector = injector or FaultInjector()
        self._emr = emr

    @property
    def emr(self) -> EmrFaults:
        """EMR's own faults. Raises LocalAwsError where no EMR runs."""
        if self._emr is None:
            raise LocalAwsError("This local AWS has no EMR that could go wrong.")
        return self._emr

    def add(
        self,
        operation: str,
        kind: FaultKind | str,
        *,
        when: When = "before",
        nth: int | None = None,
        times: int | None = None,
        probability: float | None = None,
        seed: int = 0,
        hold_seconds: float = HOLD_SECONDS,
    ) -> FaultRule:
        """Let calls of ``operation`` go wrong; see :class:`FaultRule`. Raises FaultError."""
        rule = FaultRule(operation, fault_kind(kind), when, nth, times, probability, seed, hold_seconds)
        return self.injector.add(rule)

    def capacity(
        self,
        instance_type: str | None = None,
        zone: str | None = None,
        market: str | None = None,
        times: int | None = None,
    ) -> Capacity:
        """Let EC2 have no such machines: clusters that need them do not come up. ``zone``: or a subnet."""
        return self.emr.capacity(instance_type, zone, market, times)

    def spot_loss(
        self,
        cluster_id: str | None = None,
        after: timedelta | float = 0,
        role: str | None = None,
        times: int | None = None,
    ) -> SpotLoss:
        """Let EC2 take the Spot instances of a cluster, or of every cluster, ``after`` so many seconds."""
        return self.emr.spot_loss(cluster_id, after, role, times)

    def listing_lag(self, lag: timedelta | float) -> None:
        """Keep new clusters and steps out of EMR's lists for so many seconds; 0 ends it."""
        self.emr.listing_lag(lag)

    def log_delay(self, delay: timedelta | float) -> None:
        """Let steps' logs reach S3 so many seconds after their end; 0 ends it."""
        self.emr.log_delay(delay)

    def remove(self, rule_id: str) -> None:
        """Raises FaultError when there is no such rule."""
        emr_rules = self._emr.to_json()["rules"] if self._emr is not None else []
        if self._emr is not None and any(each["id"] == rule_id for each in emr_rules):
            self._emr.remove(rule_id)
        else:
            self.injector.remove(rule_id)

    def clear(self) -> None:
        """End all faults and forget what fired."""
        self.injector.clear()
        if self._emr is not None:
            self._emr.clear()

    def count(self) -> int:
        """How many faults are set up."""
        emr = self._emr.to_json() if self._emr is not None else {"rules": []}
        waits = bool(emr.get("listing_lag_seconds")) + bool(emr.get("log_delay_seconds"))
        return len(self.rules()) + len(emr["rules"]) + waits

    def rules(self) -> list[FaultRule]:
        """The rules for calls."""
        return self.injector.rules()

    def fired(self) -> list[FiredFault]:
        """The calls that went wrong, oldest first."""
        return self.injector.fired()

    def to_json(self) -> dict[str, Any]:
        counts = self.injector.counts()
        rules = []
        for rule in self.rules():
            calls, fired = counts.get(rule.id, (0, 0))
            rules.append({**rule.to_json(), "calls": calls, "fired": fired})
        return {
            "rules": rules,
            "fired": [each.to_json() for each in self.fired()],
            "emr": self._emr.to_json() if self._emr is not None else None,
        }


def answer(faults: LocalFaults, method: str, query: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """What the endpoint says: (HTTP status, document). The caller has checked who asks.

    GET tells all; POST sets up ``{"rule": {…}}`` or ``{"emr": {"fault": …}}``; DELETE clears, or removes ``?id=``.
    """
    try:
        if method == "GET":
            return 200, faults.to_json()
        if method == "DELETE":
            chosen = parse_qs(query).get("id")
            if chosen:
                faults.remove(chosen[0])
            else:
                faults.clear()
            return 200, {}
        if method == "POST":
            return 201, _set_up(faults, body)
    except FaultError as error:
        return 400, {"message": str(error)}
    except LocalAwsError as error:
        return 409, {"message": str(error)}
    return 405, {"message": f"Faults know GET, POST and DELETE, not {method}."}


def _set_up(faults: LocalFaults, body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError as error:
        raise FaultError(f"This is no JSON: {error}") from None
    if isinstance(document, dict):
        if isinstance(rule := document.get("rule"), dict):
            return faults.injector.add(FaultRule.from_json(rule)).to_json()
        if isinstance(fault := document.get("emr"), dict):
            return faults.emr.set_up(fault)
    raise FaultError('Expected {"rule": {…}} or {"emr": {…}}.')


class RemoteFaults:
    """The faults of a local AWS that runs in another process, over its endpoint. Raises LocalAwsError."""

    def __init__(self, instance: Instance, timeout_seconds: float = 10.0) -> None:
        self._instance = instance
        self._timeout = timeout_seconds

    def add(self, rule: FaultRule) -> FaultRule:
        return FaultRule.from_json(self._call("POST", document={"rule": rule.to_json()}))

    def set_up_emr(self, fault: str, **arguments: Any) -> dict[str, Any]:
        """``capacity``, ``spot-loss``, ``listing-lag`` or ``log-delay`` with what its method takes."""
        return self._call("POST", document={"emr": {"fault": fault, **arguments}})

    def remove(self, rule_id: str) -> None:
        self._call("DELETE", query=f"?id={quote(rule_id, safe='')}")

    def clear(self) -> None:
        self._call("DELETE")

    def read(self) -> Mapping[str, Any]:
        """As :meth:`LocalFaults.to_json`."""
        return self._call("GET")

    def _call(self, method: str, query: str = "", document: object = None) -> dict[str, Any]:
        with self._connection() as connection:
            body = None if document is None else json.dumps(document)
            headers = {"Authorization": f"Credential={self._instance.access_key}/"}
            connection.request(method, FAULTS_PATH + query, body, headers)
            response = connection.getresponse()
            text = response.read()
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError:
            raise LocalAwsError(
                f"Something else answers at {self._instance.endpoint_url} (HTTP {response.status})."
            ) from None
        if response.status >= 400:
            raise LocalAwsError(str(found.get("message") or f"HTTP {response.status}"))
        return found

    @contextlib.contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(HOST, self._instance.port, timeout=self._timeout)
        try:
            yield connection
        except (OSError, http.client.HTTPException) as error:
            raise LocalAwsError(
                f"Local AWS does not answer at {self._instance.endpoint_url}: {error}"
            ) from error
        finally:
            connection.close()
