#!/bin/bash
# EMR bootstrap action: Great Expectations, pandas and pyarrow for the Python that Spark steps run with.
#
# Give the cluster this script as a bootstrap action and, so that PySpark uses the Python that it makes,
#   {"Classification": "spark-defaults", "Properties": {
#      "spark.pyspark.python": "/opt/airflow-emr-etl/bin/python3"}}
# Arguments: none, or the path of another Python to look at first (default: python3).
# Does nothing, in a second, where that Python already has what the gate needs.
set -euo pipefail

readonly TARGET=/opt/airflow-emr-etl
# One place for the pins; the pandas bound is PySpark's.
readonly PACKAGES=(
    "great-expectations==1.24.1"
    "numpy>=1.26,<3"
    "pandas==2.3.3"
    "pyarrow>=18,<27"
    "pyyaml>=6.0,<7"
)

# Whether the parts are there; importing them would take seconds of each cluster's start.
ready() {
    "$1" -c '
import sys
from importlib.util import find_spec
sys.exit(not all(map(find_spec, ("great_expectations", "numpy", "pandas", "pyarrow", "yaml"))))' 2>/dev/null
}

step_python="${1:-${PYSPARK_PYTHON:-python3}}"
if ready "$step_python"; then
    echo "great_expectations is there for $step_python; nothing to do"
    exit 0
fi
if [[ -x "$TARGET/bin/python3" ]] && ready "$TARGET/bin/python3"; then
    echo "great_expectations is there in $TARGET; nothing to do"
    exit 0
fi

as_root() {
    if [[ "$(id -u)" -eq 0 ]]; then "$@"; else sudo "$@"; fi
}

# Amazon Linux 2023 (EMR 7) has Python 3.9; Great Expectations wants 3.10 or later.
if ! command -v python3.11 >/dev/null; then
    if command -v dnf >/dev/null; then
        as_root dnf install -y -q python3.11 python3.11-pip
    elif command -v yum >/dev/null; then
        as_root yum install -y -q python3.11 python3.11-pip
    else
        echo "there is neither python3.11 nor dnf or yum to install it with" >&2
        exit 1
    fi
fi

as_root python3.11 -m venv "$TARGET"
as_root "$TARGET/bin/python3" -m pip install --quiet --disable-pip-version-check "${PACKAGES[@]}"
"$TARGET/bin/python3" -c 'import great_expectations, yaml'
echo "great_expectations is installed in $TARGET"
