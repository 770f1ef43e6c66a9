"""The list of who is to be erased: a dataset of visitor ids and nothing else, with a manifest.

clickstream_erasure_list writes it; the other jobs and Redshift read it. Runs on the cluster: no dependency, valid on
Python 3.9.
"""

from __future__ import annotations

from airflow_emr_etl.exceptions import ManifestError
from airflow_emr_etl.models.manifest import FILE_NAME, Column, Manifest

DATASET = "visitors"
VISITOR = "visitor_id"
COLUMNS = (Column(VISITOR, "VARCHAR(64)"),)


def is_list(manifest: Manifest) -> bool:
    return manifest.columns == COLUMNS


def check(manifest: Manifest, uri: str) -> None:
    """Raise ManifestError where ``manifest``, read from ``uri``, is no list, or one of nobody."""
    if not is_list(manifest) or not manifest.entries:
        raise ManifestError(
            f"{uri} is the manifest of {manifest.dataset}, which is no list of visitors. Give "
            f"{DATASET}/{FILE_NAME} of what clickstream_erasure_list wrote.",
            uri=uri,
        )
