"""Files as chunks of whole lines: nothing is lost at the border of a chunk, however small that is."""

from __future__ import annotations

import bz2
import gzip
import io

import pytest

pytest.importorskip("pyarrow", reason="pyarrow comes with the extra spark")
from airflow_emr_etl.spark import log_chunks
from airflow_emr_etl.spark.log_chunks import Chunk, chunks_of

BOM = b"\xef\xbb\xbf"


def lines_of(chunks: list[Chunk]) -> list[bytes]:
    lines: list[bytes] = []
    for chunk in chunks:
        assert chunk.first == len(lines)
        assert [text.as_buffer().to_pybytes() for text in chunk.texts()] == [
            chunk.line(row) + b"\n" for row in range(len(chunk))
        ]
        lines += [chunk.line(row) for row in range(len(chunk))]
    return lines


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"\n\n", [b"", b""]),
        (b"ab\ncdefghijk\n\nl", [b"ab", b"cdefghijk", b"", b"l"]),
        (b"a\r\n\xff\x00\n", [b"a\r", b"\xff\x00"]),
        (BOM, []),
        (BOM + b"a\n" + BOM + b"b", [b"a", BOM + b"b"]),
        (b"\xef\xbb\n", [b"\xef\xbb"]),
    ],
)
def test_lines_are_those_that_hadoop_reads(content: bytes, lines: list[bytes], chunk_bytes: int) -> None:
    for name, packed in (
        ("a.log", content),
        ("a.log.gz", gzip.compress(content)),
        ("a.bz2", bz2.compress(content)),
    ):
        assert lines_of(list(chunks_of(name, io.BytesIO(packed), chunk_bytes))) == lines


def test_a_file_that_is_cut_is_no_shorter_file() -> None:
    whole = gzip.compress(bytes(range(256)) * 1000)
    with pytest.raises(EOFError):
        list(chunks_of("a.gz", io.BytesIO(whole[:-100])))


def test_what_is_one_line_without_end_is_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_chunks, "_MOST_LINE_BYTES", 10)
    with pytest.raises(OSError, match=r"a\.log: line 2 has more than 10 bytes"):
        list(chunks_of("a.log", io.BytesIO(b"short\n" + b"x" * 20), 4))
