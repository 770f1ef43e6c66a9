"""Files that tasks write themselves: how many rows each has, what is in them, and what a failed attempt leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow", reason="pyarrow comes with the extra spark")
import pyarrow.parquet as pq  # noqa: E402

from airflow_emr_etl.spark import parquet_parts  # noqa: E402
from airflow_emr_etl.spark.parquet_parts import PartFiles, show, without_dictionaries  # noqa: E402


def table(*texts: str | None, dictionary: bool = True) -> Any:
    column = pa.array(texts, pa.string())
    return pa.table(
        {"id": pa.array(texts, pa.string()), "text": column.dictionary_encode() if dictionary else column}
    )


def test_rows_keep_their_order_and_files_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_parts, "ROW_GROUP_ROWS", 3)
    tables = [
        table("a", "b"),
        table(),
        table("c", None, dictionary=False),
        table("a"),
        table("d", "e", "f", "g"),
    ]
    names = list(PartFiles(str(tmp_path / "new" / "folder"), 4, ["id"]).write(tables))
    show(str(tmp_path / "new" / "folder"), names)
    files = [pq.ParquetFile(tmp_path / "new" / "folder" / name) for name in names]
    assert [file.metadata.num_rows for file in files] == [4, 4, 1]
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(names)
    rows = [text for file in files for text in file.read().column("text").to_pylist()]
    assert rows == ["a", "b", "c", None, "a", "d", "e", "f", "g"]
    assert files[0].schema_arrow.field("text").type == pa.string()
    encodings = {
        column["path_in_schema"]: column["encodings"]
        for column in files[0].metadata.row_group(0).to_dict()["columns"]
    }
    assert any("DICTIONARY" in encoding for encoding in encodings["text"])
    assert not any("DICTIONARY" in encoding for encoding in encodings["id"])


def test_nothing_is_no_file(tmp_path: Path) -> None:
    assert list(PartFiles(str(tmp_path), 4, []).write([table()])) == []
    assert list(tmp_path.iterdir()) == []


def test_what_an_attempt_that_failed_leaves_is_never_listed_and_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tables() -> Iterator[Any]:
        yield table("a")
        raise OSError("the input is gone")

    monkeypatch.setattr(parquet_parts, "ROW_GROUP_ROWS", 1)
    parts = PartFiles(str(tmp_path), 5, [])
    with pytest.raises(OSError, match="gone"):
        list(parts.write(tables()))
    assert [path.name[0] for path in tmp_path.iterdir()] == ["."]
    names = list(parts.write([table("b")]))
    show(str(tmp_path), names)
    assert [path.name for path in tmp_path.iterdir()] == names


def test_texts_without_dictionaries() -> None:
    plain = without_dictionaries(table("a", None))
    assert plain.schema.types == [pa.string(), pa.string()]
    assert plain.column("text").to_pylist() == ["a", None]
