"""What must hold after a run, whatever went wrong in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .airflow import State
from .contenders import Plan
from .run import Outcome, Trouble

#: After which two creators must have agreed, once a cluster is up: a lost heartbeat, and the next try.
SETTLING_SECONDS = 600.0


@dataclass(frozen=True)
class Verdict:
    """What is wrong with an outcome, and the figures of it."""

    wrong: tuple[str, ...]
    orphans: int
    duplicates: int
    wrong_states: int

    @property
    def passed(self) -> bool:
        return not self.wrong


def judge(plan: Plan, trouble: Trouble, outcome: Outcome) -> Verdict:
    """Hold an outcome against the promise: one cluster, one run of each step, none left, states right."""
    wrong: list[str] = []
    if not outcome.ended:
        wrong.append("the run did not end")
    if outcome.orphans:
        wrong.append(f"clusters that nothing ends by itself: {outcome.orphans}")
    effects = Counter(each.task for each in outcome.effects)
    duplicates = sum(count - 1 for count in effects.values())
    wrong += [f"step {task} ran to its end {count} times" for task, count in effects.items() if count > 1]
    if outcome.most_at_work > 1:
        wrong.append(f"{outcome.most_at_work} clusters had steps at the same time")
    if outcome.most_live > 1 and not trouble.races:
        wrong.append(f"{outcome.most_live} clusters were live at the same time")
    if outcome.beside_seconds > plan.cluster_minutes * 60 + SETTLING_SECONDS:
        wrong.append(f"two clusters were live side by side for {outcome.beside_seconds:.0f} seconds")
    states = 0
    for task, state in outcome.states.items():
        told = outcome.errors.get(task, "").splitlines()[:1]
        ran = task not in plan.steps or bool(effects[task])
        if state is State.SUCCESS and not ran:
            states += 1
            wrong.append(f"{task} is a success without its effect")
        elif state is State.FAILED and trouble.curable:
            states += 1
            wrong.append(f"{task} failed, although a retry could help: {told}")
        elif state not in (State.SUCCESS, State.FAILED, State.UPSTREAM_FAILED):
            states += 1
            wrong.append(f"{task} is {state} in the end")
    if not trouble.curable and State.FAILED not in outcome.states.values() and not _all_well(outcome):
        states += 1
        wrong.append(f"nothing failed, and yet not all went well: {outcome.states}")
    return Verdict(tuple(wrong), len(outcome.orphans), duplicates, states)


def _all_well(outcome: Outcome) -> bool:
    return all(state is State.SUCCESS for state in outcome.states.values())


def report(title: str, verdict: Verdict, outcome: Outcome) -> str:
    """What a failed check prints: what is wrong, and the story of the run."""
    return "\n".join([title, *(f"  wrong: {each}" for each in verdict.wrong), *outcome.story])
