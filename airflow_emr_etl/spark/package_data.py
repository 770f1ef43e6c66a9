"""Data files of other packages, without running their code: from a folder, or from the zip a job is shipped in."""

from __future__ import annotations

import importlib.util
from typing import Any

from airflow_emr_etl.exceptions import ConfigurationError


def read_data(package: str, file: str, distribution: str) -> bytes:
    """The bytes of ``file``, a path within ``package``.

    Raise ConfigurationError, naming ``distribution``, where the package is missing, and OSError where only the file is.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None or spec.loader is None:
        raise ConfigurationError(
            f"The data of the package {distribution} are missing. Ship them with the job: `emr-etl jobs package` does "
            "so."
        )
    loader: Any = spec.loader
    data: bytes = loader.get_data(spec.origin[: -len("__init__.py")] + file)
    return data
