"""Reap: end the clusters that nobody needs any more."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK, Clock
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_reaper import Action, AskRun, EmrReaper, raise_failures
from airflow_emr_etl.models.duration import duration
from airflow_emr_etl.models.reaping import Limits, RunState
from airflow_emr_etl.operators.base import site as this_site
from airflow_emr_etl.operators.failures import retry_only_what_can_pass

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)


class EmrReaperOperator(BaseOperator):
    """End clusters of this package whose run is over, or whose age or idleness is past its limit; never others.

    Returns one document a cluster, kept ones too: ``cluster_id``, ``name``, ``action`` (``kept``, ``would end``,
    ``ended``, ``protected``, ``failed``), ``why``, and whose it is. Fails, after it has been at all of them, when a
    cluster could not be dealt with.

    :param max_age: end clusters older than this, whatever their tags say (templated; a timedelta, seconds, or
        text such as ``24h``); None, or what renders to nothing, leaves it to the tags
    :param max_idle: the same for clusters without work
    :param report_only: end nothing (templated)
    :param lift_protection: end clusters with termination protection too
    :param site: the name of this Airflow; the default is ``[emr_etl] site``, else its address
    :param aws_conn_id: Airflow connection
    :param region_name: overrides the connection's region
    """

    template_fields: Sequence[str] = (
        "max_age",
        "max_idle",
        "report_only",
        "lift_protection",
        "aws_conn_id",
        "region_name",
    )
    ui_color = "#f9c915"

    #: Whose time counts; a simulation brings its own.
    clock: ClassVar[Clock] = SYSTEM_CLOCK

    def __init__(
        self,
        *,
        max_age: timedelta | float | str | None = None,
        max_idle: timedelta | float | str | None = None,
        report_only: bool | str = False,
        lift_protection: bool | str = False,
        site: str | None = None,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_age = max_age
        self.max_idle = max_idle
        self.report_only = report_only
        self.lift_protection = lift_protection
        self.site = site
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name

    def execute(self, context: Context) -> list[dict[str, Any]]:
        with retry_only_what_can_pass():
            reaper = EmrReaper(
                EmrClients(self.aws_conn_id, self.region_name),
                asking(context["ti"]),
                site=this_site() if self.site is None else self.site,
                limits=Limits(_limit(self.max_age), _limit(self.max_idle)),
                lift_protection=_true(self.lift_protection),
                clock=self.clock,
            )
            done = reaper.reap(dry_run=_true(self.report_only))
            for each in done:
                self.log.info("%s (%s): %s: %s", each.cluster_id, each.name, each.action, each.why)
            ended = sum(each.action is Action.ENDED for each in done)
            self.log.info("Ended %d of %d clusters", ended, len(done))
            raise_failures(done)
            return [each.document() for each in done]


def asking(ti: Any) -> AskRun:
    """The state of runs, asked for by a running task.

    A count comes before the state: the state of a run that does not exist is an error like any other, and so
    is that of a run whose id does not fit into an address.
    """
    from airflow.sdk.exceptions import AirflowRuntimeError

    def ask(dag_id: str, run_id: str) -> RunState:
        try:
            if ti.get_dr_count(dag_id=dag_id, run_ids=[run_id]):
                state: Any = ti.get_dagrun_state(dag_id, run_id)  # an enumeration or, in older versions, text
                return RunState.of(str(getattr(state, "value", state)))
            return RunState.GONE if ti.get_dr_count(dag_id=dag_id) else RunState.UNKNOWN
        except AirflowRuntimeError as error:
            log.warning("Airflow did not tell the state of run %s of %s: %s", run_id, dag_id, error)
            return RunState.UNKNOWN

    return ask


def _limit(given: timedelta | float | str | None) -> timedelta | None:
    if given is None or isinstance(given, timedelta):
        return given
    text = str(given).strip()
    return None if text in ("", "None") else duration(text)


def _true(given: bool | str) -> bool:
    return given if isinstance(given, bool) else given.strip().lower() in ("true", "1", "yes")
