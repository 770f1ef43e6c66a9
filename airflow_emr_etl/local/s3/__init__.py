"""S3 of local AWS: objects are plain files, so that Spark reads and writes them in place.

``store`` keeps objects and knows nothing of HTTP; ``service`` speaks S3's REST protocol over it.
"""

from __future__ import annotations

from airflow_emr_etl.local.s3.service import S3Service
from airflow_emr_etl.local.s3.store import ObjectStore, StoredObject

__all__ = ["ObjectStore", "S3Service", "StoredObject"]
