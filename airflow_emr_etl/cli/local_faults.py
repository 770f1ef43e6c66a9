"""``emr-etl local faults``: let local AWS fail as AWS fails, to see what a pipeline makes of it."""

from __future__ import annotations

import enum
import json
from typing import Annotated, Any

import typer

from airflow_emr_etl.cli.local import State, plain_errors
from airflow_emr_etl.local.fault_control import RemoteFaults
from airflow_emr_etl.local.faults import HOLD_SECONDS, FaultKind, FaultRule
from airflow_emr_etl.local.state import DEFAULT_STATE, StateFolder

faults = typer.Typer(
    no_args_is_help=True,
    help="Let calls, clusters and logs go wrong on purpose. Faults live in the server's memory and end with it.",
)

Times = Annotated[int | None, typer.Option(min=1, help="How often at most; else without end.")]


class Market(enum.StrEnum):
    SPOT = "SPOT"
    ON_DEMAND = "ON_DEMAND"


class Role(enum.StrEnum):
    MASTER = "MASTER"
    CORE = "CORE"
    TASK = "TASK"


def _remote(state: State) -> RemoteFaults:
    return RemoteFaults(StateFolder(state).running())


@faults.command()
def add(
    operation: Annotated[
        str, typer.Argument(help="emr:RunJobFlow, 's3:Put*', 'emr:*' or '*': the names that boto3 has.")
    ],
    kind: Annotated[FaultKind, typer.Argument(help="What goes wrong.")],
    after: Annotated[
        bool, typer.Option("--after/--before", help="After: it takes effect and only the answer is lost.")
    ] = False,
    nth: Annotated[int | None, typer.Option(min=1, help="Only the n-th call from now on.")] = None,
    times: Times = None,
    probability: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Each call goes wrong with this probability.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the probability: the same seed, the same calls.")] = 0,
    hold: Annotated[float, typer.Option(min=0.0, help="Seconds that a timeout keeps the connection.")] = (
        HOLD_SECONDS
    ),
    state: State = DEFAULT_STATE,
) -> None:
    """Let calls of an operation fail: throttle, 500, 503, timeout, reset, access-denied, expired-token."""
    with plain_errors():
        rule = FaultRule(operation, kind, "after" if after else "before", nth, times, probability, seed, hold)
        added = _remote(state).add(rule)
    typer.echo(f"{added.id}: {_describe_rule(added.to_json())}")


@faults.command()
def capacity(
    type: Annotated[str | None, typer.Option(help="An instance type; else all.")] = None,
    zone: Annotated[str | None, typer.Option(help="An availability zone or a subnet; else all.")] = None,
    market: Annotated[Market | None, typer.Option(help="Else both.")] = None,
    times: Times = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Let EC2 have no such machines: EMR clusters that need them do not come up."""
    _emr(state, "capacity", instance_type=type, zone=zone, market=market, times=times)


@faults.command()
def spot_loss(
    cluster_id: Annotated[str | None, typer.Argument(help="A cluster; else every one that has Spot.")] = None,
    after: Annotated[
        float, typer.Option(min=0.0, help="Seconds from now; for all clusters, from when each is ready.")
    ] = 0.0,
    role: Annotated[Role | None, typer.Option(help="Only the nodes of this role.")] = None,
    times: Times = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Let EC2 take Spot instances away. Without its primary or all its core nodes a cluster ends."""
    _emr(state, "spot-loss", cluster_id=cluster_id, after=after, role=role, times=times)


@faults.command()
def lag(
    seconds: Annotated[float, typer.Argument(min=0.0, help="0 ends it.")],
    state: State = DEFAULT_STATE,
) -> None:
    """Keep new clusters and steps out of EMR's lists for so many seconds. Describing them works at once."""
    _emr(state, "listing-lag", lag=seconds)


@faults.command()
def delay_logs(
    seconds: Annotated[float, typer.Argument(min=0.0, help="0 ends it.")],
    state: State = DEFAULT_STATE,
) -> None:
    """Let the logs of steps that end from now on reach S3 so many seconds later."""
    _emr(state, "log-delay", delay=seconds)


def _emr(state: State, fault: str, **arguments: Any) -> None:
    with plain_errors():
        given = {
            key: str(value) if isinstance(value, enum.Enum) else value for key, value in arguments.items()
        }
        found = _remote(state).set_up_emr(
            fault, **{key: value for key, value in given.items() if value is not None}
        )
    typer.echo(f"{found['id']}: {_describe_emr(found)}" if "id" in found else _describe_emr(found))


@faults.command(name="list")
def list_faults(
    as_json: Annotated[bool, typer.Option("--json", help="All of it, for programs.")] = False,
    state: State = DEFAULT_STATE,
) -> None:
    """Show the faults that are set up, and how often they came about."""
    with plain_errors():
        found = _remote(state).read()
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    emr = found["emr"] or {"rules": [], "listing_lag_seconds": 0, "log_delay_seconds": 0}
    lines = [
        f"{each['id']}: {_describe_rule(each)} - {each['calls']} calls, {each['fired']} went wrong"
        for each in found["rules"]
    ]
    lines += [
        f"{each['id']}: {_describe_emr(each)} - hit: {', '.join(each['hit']) or 'none'}"
        for each in emr["rules"]
    ]
    if emr["listing_lag_seconds"]:
        lines.append(_describe_emr({"fault": "listing-lag", "lag": emr["listing_lag_seconds"]}))
    if emr["log_delay_seconds"]:
        lines.append(_describe_emr({"fault": "log-delay", "delay": emr["log_delay_seconds"]}))
    typer.echo("\n".join(lines) if lines else "No faults are set up.")


@faults.command()
def clear(
    rule_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Only this one, by the id that list shows.")
    ] = None,
    state: State = DEFAULT_STATE,
) -> None:
    """End one fault, or all of them."""
    with plain_errors():
        remote = _remote(state)
        if rule_id is None:
            remote.clear()
        else:
            remote.remove(rule_id)
    typer.echo("All faults are cleared." if rule_id is None else f"{rule_id} is cleared.")


def _describe_rule(rule: dict[str, Any]) -> str:
    parts = [f"{rule['kind']} {rule['when']} {rule['operation']}"]
    if rule["nth"] is not None:
        parts.append(f"from call {rule['nth']} on" if rule["times"] else f"at call {rule['nth']}")
    if rule["times"] is not None:
        parts.append(f"at most {rule['times']} times")
    if rule["probability"] is not None:
        parts.append(f"with probability {rule['probability']:g} (seed {rule['seed']})")
    return ", ".join(parts)


def _describe_emr(found: dict[str, Any]) -> str:
    times = f", at most {found['times']} clusters" if found.get("times") else ""
    match found["fault"]:
        case "capacity":
            parts = [found["market"], found["instance_type"] or "machines"]
            where = f" in {found['zone']}" if found["zone"] else ""
            return f"no {' '.join(each for each in parts if each)}{where}{times}"
        case "spot-loss":
            who = found["cluster_id"] or "every cluster"
            which = f"{found['role']} " if found["role"] else ""
            return f"{who} loses its {which}Spot instances after {found['after_seconds']:g} s{times}"
        case "listing-lag":
            return f"new clusters and steps are listed after {found['lag']:g} s"
        case _:
            return f"logs of steps come {found['delay']:g} s late"
