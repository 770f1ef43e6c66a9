"""A Spark with Iceberg, where ``make test-iceberg`` has put one: a Python of its own, with PySpark 3.5.

The package that has the jar leaves out the Jackson that Iceberg carries under another name; it is made of PySpark's.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow_emr_etl.spark.package import ARCHIVE, build_package

_ENVIRONMENT = Path(__file__).resolve().parents[3] / ".venv-iceberg"
INSTALLED = _ENVIRONMENT / ".installed"
"""There when the installation is complete."""
PYTHON = _ENVIRONMENT / "bin" / "python"
JAVAS = (17, 21)
"""Those that Spark 3.5 runs on and that local AWS looks for."""
_JACKSON = "com/fasterxml/jackson"
_SHADED = "org/apache/iceberg/shaded/"
_CONSTANT_SIZES = {
    3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2,
}  # fmt: skip
"""Bytes of each kind of constant in a class file, after its tag; 5 and 6 count twice."""


class IcebergSpark:
    """Runs the jobs as they ship. Its catalog ``lake`` is in ``folder``."""

    def __init__(self, folder: Path, java_home: Path) -> None:
        self.folder, self.java_home = folder, java_home
        self.package = build_package().write(folder)

    @cached_property
    def libraries(self) -> Path:
        [pyspark] = _ENVIRONMENT.glob("lib/python3*/site-packages/pyspark")
        return pyspark.parent

    @cached_property
    def jars(self) -> str:
        [iceberg] = self.libraries.glob("*/jars/iceberg-spark-runtime-3.5_2.12-*.jar")
        jackson = self.folder / "jackson.jar"
        with zipfile.ZipFile(jackson, "w") as target:
            for name in ("core", "databind", "annotations"):
                [source] = self.libraries.glob(f"pyspark/jars/jackson-{name}-2*.jar")
                with zipfile.ZipFile(source) as archive:
                    for each in archive.namelist():
                        if each.startswith(_JACKSON) and each.endswith(".class"):
                            target.writestr(_SHADED + each, _under_another_name(archive.read(each)))
        return f"{iceberg},{jackson}"

    @property
    def conf(self) -> dict[str, str]:
        return {
            "spark.jars": self.jars,
            "spark.sql.catalog.lake": "org.apache.iceberg.spark.SparkCatalog",
            "spark.sql.catalog.lake.type": "hadoop",
            "spark.sql.catalog.lake.warehouse": str(self.folder / "lake"),
            "spark.sql.warehouse.dir": str(self.folder / "warehouse"),
            "spark.sql.shuffle.partitions": "2",
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
        }

    def run(self, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers of ``iceberg_driver.py`` to ``steps``."""
        answers = self.folder / "answers.json"
        self._start(
            [str(PYTHON), str(Path(__file__).with_name("iceberg_driver.py")), str(answers)],
            given=json.dumps({"conf": self.conf, "steps": steps}),
        )
        found: list[dict[str, Any]] = json.loads(answers.read_text())
        return found

    def submit(self, *arguments: str) -> str:
        """The output of ``clickstream_iceberg``, started as on a cluster, with the extensions that AWS sets."""
        extensions = "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"
        conf = {**self.conf, "spark.sql.extensions": extensions}
        settings = [word for key, value in conf.items() for word in ("--conf", f"{key}={value}")]
        submit = [str(PYTHON.with_name("spark-submit")), "--master", "local[2]", *settings]
        script = str(self.package / "clickstream_iceberg.py")
        return self._start([*submit, "--py-files", str(self.package / ARCHIVE), script, *arguments])

    def _start(self, command: list[str], given: str | None = None) -> str:
        environ = {
            **os.environ,
            "JAVA_HOME": str(self.java_home),
            "PYSPARK_PYTHON": str(PYTHON),
            "PYTHONPATH": str(self.package / ARCHIVE),
        }
        environ.pop("SPARK_HOME", None)
        done = subprocess.run(
            command, input=given, env=environ, cwd=self.folder, capture_output=True, text=True, timeout=400, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-8000:]
        return done.stdout


def _under_another_name(class_file: bytes) -> bytes:
    """``class_file`` with every mention of Jackson's packages as Iceberg has them."""
    pairs = [
        (name.encode(), (prefix + name).encode())
        for name, prefix in ((_JACKSON, _SHADED), (_JACKSON.replace("/", "."), _SHADED.replace("/", ".")))
    ]
    out = bytearray(class_file[:10])
    (count,) = struct.unpack_from(">H", class_file, 8)
    at, number = 10, 1
    while number < count:
        tag = class_file[at]
        if tag == 1:
            (size,) = struct.unpack_from(">H", class_file, at + 1)
            text = class_file[at + 3 : at + 3 + size]
            for old, new in pairs:
                text = text.replace(old, new)
            out += struct.pack(">BH", 1, len(text)) + text
            at += 3 + size
        else:
            size = 1 + _CONSTANT_SIZES[tag]
            out += class_file[at : at + size]
            at += size
            number += tag in (5, 6)
        number += 1
    return bytes(out + class_file[at:])
