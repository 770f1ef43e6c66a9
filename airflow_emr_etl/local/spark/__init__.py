"""What Spark needs to see ``s3://`` at the folder of local AWS's objects: one small jar, with its source beside it."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parent
FILE_SYSTEM_JAR = FOLDER / "object-folder-filesystem.jar"
FILE_SYSTEM_SOURCE = FOLDER / "ObjectFolderFileSystem.java"
FILE_SYSTEM_CLASS = "airflow_emr_etl.local.ObjectFolderFileSystem"
# The classes that a typical step loads; see class_list.py.
CLASS_LIST = FOLDER / "spark-classes.txt.gz"


def jar_is_current() -> bool:
    """Was the jar built from the source that lies beside it? ``build.sh`` records the source's digest in it."""
    with zipfile.ZipFile(FILE_SYSTEM_JAR) as jar:
        recorded = jar.read("META-INF/source.sha256").decode().strip()
    return recorded == hashlib.sha256(FILE_SYSTEM_SOURCE.read_bytes()).hexdigest()
