"""Runs whenever a step named "sessionize" has completed on EMR, whoever added it: no schedule, no sensor.

EMR tells EventBridge, a rule sends it to a queue, and a watcher in the triggerer makes it an event of the asset:

    emr-etl events setup --rule emr-etl-assets --queue emr-etl-assets

Where there is no such queue yet, the triggerer's log says so now and then.
"""

from __future__ import annotations

import logging

from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_emr_etl.triggers.emr_asset import EmrEventTrigger

log = logging.getLogger(__name__)

SESSIONIZED = Asset(
    "emr-sessionized",
    watchers=[
        AssetWatcher(
            name="sessionize", trigger=EmrEventTrigger(queue="emr-etl-assets", on="step", name="sessionize")
        )
    ],
)

with DAG(
    "emr_step_events",
    description="After each sessionize step on EMR",
    schedule=SESSIONIZED,
    tags=["emr", "events"],
    doc_md=__doc__,
):

    @task
    def tell(triggering_asset_events: dict[Asset, list[object]] | None = None) -> list[str]:
        """The steps that have completed since the last run."""
        found = []
        for events in (triggering_asset_events or {}).values():
            for event in events:
                step = event.extra["payload"]
                log.info("%s %s on %s: %s", step["name"], step["step_id"], step["cluster_id"], step["state"])
                found.append(step["step_id"])
        return found

    tell()
