"""Write spark-classes.txt.gz anew: ``python -m airflow_emr_etl.local.spark.class_list``, after a new PySpark.

Only who maintains the package runs this. A list that is somewhat old does no harm: what it does not name is
loaded the slow way, and what is gone is skipped.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from airflow_emr_etl.local.emr.commands import write_properties
from airflow_emr_etl.local.spark import CLASS_LIST, FOLDER
from airflow_emr_etl.local.spark_env import SparkEnvironment


def main() -> None:
    spark = SparkEnvironment()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "s3" / "bucket").mkdir(parents=True)
        properties = work / "spark.properties"
        properties.write_text(write_properties(spark.settings(work / "s3", work / "scratch")))
        command = spark.submit_command(
            ["--properties-file", str(properties), str(FOLDER / "class_list_job.py"), "s3://bucket/list"],
            2048,
            [f"-XX:DumpLoadedClassList={work / 'classes'}"],
            [],
            with_archive=False,
        )
        variables = {**os.environ, **spark.variables(), "PYSPARK_PYTHON": sys.executable}
        subprocess.run(command, env=variables, check=True)
        # Proxies and generated classes have other names in each run.
        lines = [
            line
            for line in (work / "classes").read_text().splitlines(keepends=True)
            if not line.startswith(("jdk/proxy", "jdk/internal/reflect/Generated", "#"))
        ]
        CLASS_LIST.write_bytes(gzip.compress("".join(lines).encode(), 9, mtime=0))
        sys.stdout.write(f"{len(lines)} lines in {CLASS_LIST}\n")


if __name__ == "__main__":
    main()
