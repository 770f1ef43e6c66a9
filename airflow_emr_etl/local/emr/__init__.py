"""Local EMR: clusters that live by EMR's rules, whose steps are real processes on this machine."""

from __future__ import annotations

from airflow_emr_etl.local.emr.service import EmrApi

__all__ = ["EmrApi"]
