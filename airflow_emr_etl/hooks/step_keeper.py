"""One run of a step for one intent, whatever dies on the way.

AddJobFlowSteps has no idempotency token and takes effect even where its answer is lost. So every step carries
the mark of its intent in its name; before a retry adds it the list is looked at, and a step that goes on or has
completed is adopted. One that failed runs again under the next number.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from airflow_emr_etl.exceptions import (
    ClusterFullError,
    ClusterLostError,
    ConfigurationError,
    EmrEtlError,
    StepError,
)
from airflow_emr_etl.hooks.attempts import LIST_LAG_SECONDS, LOOK_EVERY_SECONDS, backoff, looks
from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK, Clock
from airflow_emr_etl.hooks.emr_step import EmrStepHook, step_state
from airflow_emr_etl.models.intent import StepIntent, StepMark, digest_of, without_mark
from airflow_emr_etl.models.states import STEP_ACTIVE, STEP_ENDED, STEP_SUCCEEDED, StepState

log = logging.getLogger(__name__)

#: EMR's clock and Airflow's may differ by this much.
_SKEW = timedelta(minutes=5)
#: How long a step that was told to stop may take until it is killed, and then until it must be gone.
INTERRUPT_SECONDS = 10.0
_GONE_SECONDS = 600.0


@dataclass(frozen=True)
class FoundStep:
    """A step with a mark."""

    id: str
    mark: StepMark
    state: StepState
    created: datetime | None
    """None for one that was added just now."""
    config: Mapping[str, Any]
    """``StepConfig``, with the name as its author wrote it."""
    adopted: bool = True


@dataclass(frozen=True)
class WantedStep:
    """A step to have on a cluster once."""

    intent: StepIntent
    make: Callable[[StepMark], Mapping[str, Any]]
    """The ``StepConfig`` for a mark, without the mark in its name; paths of the step's own come from
    ``mark.attempt``."""
    content: str | None = None
    """Digest of what it runs, where it is not the digest of ``make``'s result."""

    def digest(self) -> str:
        return self.content or digest_of(self.make(StepMark(self.intent.lineage, "")), 8)


class StepKeeper:
    """Adopts, adds and cancels the steps of intents."""

    def __init__(
        self, hook: EmrStepHook, clock: Clock = SYSTEM_CLOCK, *, lag_seconds: float = LIST_LAG_SECONDS
    ) -> None:
        self.hook = hook
        self.clock = clock
        self._lag = lag_seconds

    def found(
        self, cluster_id: str, lineages: Iterable[str] | None = None, *, not_before: datetime | None = None
    ) -> list[FoundStep]:
        """The cluster's steps with a mark, the earliest first; of some lineages only, where they are given.

        Steps from before ``not_before`` are not read: a cluster that serves for weeks has thousands.
        """
        wanted = None if lineages is None else set(lineages)
        result = []
        for step in self.hook.list_steps(cluster_id):
            created = step["Status"].get("Timeline", {}).get("CreationDateTime")
            if not_before and created and created < not_before - _SKEW:
                break
            mark = StepMark.read(str(step.get("Name", "")))
            if mark is not None and (wanted is None or mark.lineage in wanted):
                result.append(_found(step, mark))
        return result[::-1]

    def has_completed(self, cluster_id: str, wanted: WantedStep) -> bool:
        """Whether the step has completed there, as it is meant now."""
        meant = (wanted.digest(), wanted.intent.clears)
        return any(
            (step.mark.content, step.mark.clears) == meant
            and step.state in STEP_SUCCEEDED
            and _counts(step, wanted.intent)
            for step in self.found(cluster_id, [wanted.intent.lineage], not_before=wanted.intent.not_before)
        )

    def ensure(
        self,
        cluster_id: str,
        wanted: Sequence[WantedStep],
        *,
        look_first: bool,
        patient: bool | None = None,
        execution_role: str | None = None,
    ) -> list[FoundStep]:
        """Each wanted step, adopted or added; all that are missing in one call. In the order of ``wanted``.

        ``look_first`` is for every try but a task's first: an earlier one may have added them. ``patient``,
        the same unless given, says that this may have been within the last seconds: the list is then
        looked at until it cannot lag any more. Raises:

            ClusterFullError: EMR's limit of 256 active steps; nothing was added.
            ClusterLostError: the cluster takes no more steps, and has none of them.
        """
        digests = [each.digest() for each in wanted]
        failure: EmrEtlError | None = None
        look, patient = look_first, look_first if patient is None else patient
        for delay in backoff():
            self.clock.sleep(delay)
            have: list[FoundStep | None] = [None] * len(wanted)
            numbers = [1] * len(wanted)
            if look:
                have, numbers = self._look(cluster_id, wanted, digests, patient=patient)
            missing = [n for n, found in enumerate(have) if found is None]
            marks = {
                n: StepMark(
                    wanted[n].intent.lineage,
                    digests[n],
                    wanted[n].intent.clears,
                    numbers[n],
                    secrets.token_hex(2),
                    wanted[n].intent.on_hdfs,
                )
                for n in missing
            }
            if not missing:
                return [each for each in have if each is not None]
            configs = [wanted[n].make(marks[n]) for n in missing]
            named = [
                {**config, "Name": marks[n].on(str(config["Name"]))}
                for n, config in zip(missing, configs, strict=True)
            ]
            try:
                ids = self.hook.add(cluster_id, named, execution_role=execution_role)
            except (ClusterFullError, ConfigurationError):
                raise  # refused: nothing was added
            except EmrEtlError as error:
                failure, look, patient = error, True, True
                log.warning("It is not known whether the steps were added: %s", error)
                if not error.retryable or isinstance(error, ClusterLostError):
                    break
                continue
            for n, step_id, config in zip(missing, ids, configs, strict=True):
                have[n] = FoundStep(step_id, marks[n], StepState.PENDING, None, config, adopted=False)
            complete = [each for each in have if each is not None]
            return self._settled(cluster_id, wanted, complete)
        assert failure is not None
        with contextlib.suppress(EmrEtlError):  # the first error says more
            patient = not isinstance(failure, ClusterLostError)
            have, _ = self._look(cluster_id, wanted, digests, patient=patient)
            if all(have):
                return [each for each in have if each is not None]
        raise failure

    def stop(self, cluster_id: str, step_id: str, *, grace_seconds: float = INTERRUPT_SECONDS) -> None:
        """Tell a step to stop, and kill it when it has not stopped by itself; returns when it is told or gone."""
        self.hook.cancel(cluster_id, [step_id], force=False)
        if not self._wait_gone(cluster_id, step_id, grace_seconds):
            self.hook.cancel(cluster_id, [step_id], force=True)

    def stop_and_wait(self, cluster_id: str, step_id: str) -> None:
        """The same, and wait until it is gone, so that nothing runs beside what comes next."""
        self.stop(cluster_id, step_id)
        if not self._wait_gone(cluster_id, step_id, _GONE_SECONDS):
            raise StepError(
                f"Step {step_id} on {cluster_id} was cancelled and goes on after {_GONE_SECONDS:.0f} seconds. "
                "End it on the cluster, or end the cluster.",
                cluster_id=cluster_id,
                step_id=step_id,
            )

    def _wait_gone(self, cluster_id: str, step_id: str, seconds: float) -> bool:
        waited = 0.0
        while not self._is_gone(cluster_id, step_id):
            if waited >= seconds:
                return False
            pause = min(LOOK_EVERY_SECONDS, seconds - waited)
            self.clock.sleep(pause)
            waited += pause
        return True

    def _is_gone(self, cluster_id: str, step_id: str) -> bool:
        try:
            return step_state(self.hook.describe(cluster_id, step_id)) in STEP_ENDED
        except EmrEtlError as error:
            log.warning("Cannot see whether step %s has ended: %s", step_id, error)
            return False

    def _look(
        self, cluster_id: str, wanted: Sequence[WantedStep], digests: Sequence[str], *, patient: bool
    ) -> tuple[list[FoundStep | None], list[int]]:
        """What is there of each wanted step to adopt, and the number for the next one."""
        have: list[FoundStep | None] = []
        numbers: list[int] = []
        for delay in looks(self._lag, patient=patient):
            self.clock.sleep(delay)
            listed = self.found(
                cluster_id, [each.intent.lineage for each in wanted], not_before=_earliest(wanted)
            )
            have, numbers = [], []
            for each, digest in zip(wanted, digests, strict=True):
                own = [step for step in listed if step.mark.lineage == each.intent.lineage]
                have.append(self._choose(cluster_id, each.intent, digest, own))
                numbers.append(1 + max((step.mark.number for step in own), default=0))
            if all(have):
                break
        return have, numbers

    def _choose(
        self, cluster_id: str, intent: StepIntent, digest: str, own: Sequence[FoundStep]
    ) -> FoundStep | None:
        kept: FoundStep | None = None
        for step in own:
            meant = step.mark.content == digest and step.mark.clears == intent.clears
            if step.state in STEP_SUCCEEDED:
                if meant and _counts(step, intent) and kept is None:
                    kept = step
            elif step.state in STEP_ACTIVE:
                if meant and kept is None and step.state is not StepState.CANCEL_PENDING:
                    kept = step
                else:
                    log.warning(
                        "Step %s is of an earlier form of this task, or its second; it is cancelled", step.id
                    )
                    self.stop_and_wait(cluster_id, step.id)
        if kept is not None:
            log.info("Step %s of this task is there already (%s)", kept.id, kept.state)
        return kept

    def _settled(
        self, cluster_id: str, wanted: Sequence[WantedStep], added: Sequence[FoundStep]
    ) -> list[FoundStep]:
        """Each step, or the earlier one that another worker of the same task has added meanwhile."""
        mine = {step.id for step in added if not step.adopted}
        try:
            listed = self._listed_with(cluster_id, wanted, mine)
        except EmrEtlError as error:
            # They are added; that nobody else has done so too is all that is not known.
            log.warning("The steps of cluster %s could not be listed: %s", cluster_id, error)
            return list(added)
        result = []
        for each, step in zip(wanted, added, strict=True):
            rivals = [
                other
                for other in listed
                if other.id not in mine
                and other.mark.lineage == step.mark.lineage
                and (other.mark.content, other.mark.clears) == (step.mark.content, step.mark.clears)
                and other.state in STEP_ACTIVE | STEP_SUCCEEDED
                and other.state is not StepState.CANCEL_PENDING
                and _counts(other, each.intent)
            ]
            own = next((other for other in listed if other.id == step.id), None)
            earlier = [other for other in rivals if own is None or _age(other) < _age(own)]
            if step.adopted or not earlier:
                result.append(step)
                continue
            log.warning("Step %s was added before by another worker; %s is cancelled", earlier[0].id, step.id)
            try:
                self.hook.cancel(cluster_id, [step.id], force=True)
            except EmrEtlError as error:
                log.warning("Step %s could not be cancelled: %s", step.id, error)
            result.append(earlier[0])
        return result

    def _listed_with(self, cluster_id: str, wanted: Sequence[WantedStep], mine: set[str]) -> list[FoundStep]:
        """The list, once it shows ``mine``: it shows what was added in its order, so then every earlier one too."""
        listed: list[FoundStep] = []
        for delay in looks(self._lag, patient=True):
            self.clock.sleep(delay)
            listed = self.found(
                cluster_id, [each.intent.lineage for each in wanted], not_before=_earliest(wanted)
            )
            if mine <= {step.id for step in listed}:
                break
        return listed


def _counts(step: FoundStep, intent: StepIntent) -> bool:
    return not (intent.not_before and step.created and step.created < intent.not_before - _SKEW)


def _earliest(wanted: Sequence[WantedStep]) -> datetime | None:
    times = [each.intent.not_before for each in wanted]
    return None if None in times else min((time for time in times if time), default=None)


def _found(step: Mapping[str, Any], mark: StepMark) -> FoundStep:
    jar = step.get("Config") or {}
    hadoop: dict[str, Any] = {"Jar": jar.get("Jar", ""), "Args": list(jar.get("Args") or [])}
    if jar.get("MainClass"):
        hadoop["MainClass"] = jar["MainClass"]
    if jar.get("Properties"):
        hadoop["Properties"] = [{"Key": key, "Value": value} for key, value in jar["Properties"].items()]
    config = {
        "Name": without_mark(str(step["Name"])),
        "ActionOnFailure": step.get("ActionOnFailure") or "CONTINUE",
        "HadoopJarStep": hadoop,
    }
    created = step["Status"].get("Timeline", {}).get("CreationDateTime")
    return FoundStep(str(step["Id"]), mark, step_state(step), created, config)


def _age(step: FoundStep) -> tuple[float, str]:
    return (step.created.timestamp() if step.created else float("inf"), step.id)


def again(step: FoundStep) -> WantedStep:
    """``step``, to be run once more on another cluster, since what it wrote is gone with its own."""
    intent = StepIntent(step.mark.lineage, step.mark.clears, on_hdfs=True)
    return WantedStep(intent, lambda mark: step.config, content=replace(step.mark).content)
