from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.spark.package_data import read_data


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_is_read_from_a_folder_and_from_a_zip(tmp_path: Path, zipped: bool) -> None:
    folder = tmp_path / "fruit"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('the code ran')\n")
    (folder / "data" / "apples.txt").write_bytes(b"\xff\x00red")
    place = tmp_path
    if zipped:
        place = tmp_path / "fruit.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for file in ("__init__.py", "data/apples.txt"):
                archive.write(folder / file, f"fruit/{file}")
    program = (
        f"import sys; sys.path.insert(0, {str(place)!r})\n"
        "from airflow_emr_etl.spark.package_data import read_data\n"
        "print(read_data('fruit', 'data/apples.txt', 'fruit-data'))\n"
        "try: read_data('fruit', 'data/pears.txt', 'fruit-data')\n"
        "except OSError: print('no pears')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [repr(b"\xff\x00red"), "no pears"]


def test_a_missing_package_says_what_to_ship() -> None:
    with pytest.raises(ConfigurationError, match=r"fruit-data are missing. Ship them .*emr-etl jobs package"):
        read_data("no_such_fruit", "apples.txt", "fruit-data")
