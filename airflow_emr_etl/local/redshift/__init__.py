"""Local Redshift: the Data API over an embedded Postgres."""

from __future__ import annotations

from airflow_emr_etl.local.redshift.data_api import RedshiftDataApi

__all__ = ["RedshiftDataApi"]
