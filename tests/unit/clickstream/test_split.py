from __future__ import annotations

import gzip
from datetime import date, timedelta
from pathlib import Path

import pytest

from airflow_emr_etl.clickstream.split import count_lines, split_logs
from airflow_emr_etl.exceptions import CorruptInputError, InputError, MissingInputError

FIFTH, SIXTH = date(2026, 1, 5), date(2026, 1, 6)


def hit(time: str, path: str = "/") -> bytes:
    return f'h - - [{time}] "GET {path} HTTP/1.1" 200 1'.encode()


def content(folder: Path, day: date, name: str) -> bytes:
    return gzip.decompress((folder / day.isoformat() / name).read_bytes())


def test_lines_go_to_their_utc_day_byte_for_byte(tmp_path: Path) -> None:
    lines = [
        b"\xff\xfe no time yet\r",
        b"",
        hit("05/Jan/2026:23:00:00 +0000"),
        b"belongs to the line before",
        hit("06/Jan/2026:04:00:00 +0530") + b"\r",  # 22:30 of the 5th
        hit("05/jan/2026:20:00:00 -0800"),  # 04:00 of the 6th
        hit("31/Feb/2026:10:00:00 +0000"),
        hit("05/Jan/2026:23:30:00 +0000", "/late"),
        hit("06/Jan/2026:00:00:00 +0000", "/end-without-newline"),
    ]
    source = tmp_path / "access.log"
    source.write_bytes(b"\n".join(lines))
    outcome = split_logs([source], tmp_path / "out")
    assert outcome.days == [FIFTH, SIXTH]
    assert content(tmp_path / "out", FIFTH, "access.log.gz") == b"".join(
        lines[n] + b"\n" for n in (0, 1, 2, 3, 4, 7)
    )
    assert content(tmp_path / "out", SIXTH, "access.log.gz") == b"\n".join(lines[n] for n in (5, 6, 8))
    (file,) = outcome.files
    assert (file.lines, dict(file.days)) == (9, {FIFTH: 6, SIXTH: 3})
    assert outcome.outputs[SIXTH] == {tmp_path / "out" / "2026-01-06" / "access.log.gz": 3}
    assert [count_lines(path) for files in outcome.outputs.values() for path in files] == [6, 3]
    assert not list((tmp_path / "out").rglob("*.part"))


def test_gzip_is_told_by_content_and_outputs_repeat(tmp_path: Path) -> None:
    raw = hit("05/Jan/2026:23:00:00 +0000") + b"\n"
    (tmp_path / "zipped.log").write_bytes(gzip.compress(raw) + gzip.compress(raw))  # two members
    (tmp_path / "plain.log.gz").write_bytes(raw)
    sources = [tmp_path / "zipped.log", tmp_path / "plain.log.gz"]
    for target in ("a", "b"):
        split_logs(sources, tmp_path / target)
    assert content(tmp_path / "a", FIFTH, "zipped.log.gz") == raw * 2
    assert content(tmp_path / "a", FIFTH, "plain.log.gz") == raw
    for name in ("zipped.log.gz", "plain.log.gz"):
        day = FIFTH.isoformat()
        assert (tmp_path / "a" / day / name).read_bytes() == (tmp_path / "b" / day / name).read_bytes()


def test_names_are_made_safe_and_distinct(tmp_path: Path) -> None:
    sources = []
    for name in ("x/access.log", "y/access.log", "z/access.log.gz", "_hidden [1]*.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(hit("05/Jan/2026:23:00:00 +0000"))
        sources.append(tmp_path / name)
    outcome = split_logs(sources, tmp_path / "out")
    names = [path.name for path in outcome.outputs[FIFTH]]
    assert names == ["access.log.gz", "access.log-2.gz", "access.log-3.gz", "hidden-1-.log.gz"]


def test_empty_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"")
    (tmp_path / "b.log.gz").write_bytes(gzip.compress(b""))
    outcome = split_logs([tmp_path / "a.log", tmp_path / "b.log.gz"], tmp_path / "out")
    assert (outcome.empty_files, outcome.lines, outcome.days) == (2, 0, [])


def test_many_days_out_of_order_and_long_lines(tmp_path: Path) -> None:
    days = [FIFTH + timedelta(days=n) for n in range(150)]
    times = [f"{day:%d/%b/%Y}:12:00:00 +0000" for day in days] * 2
    lines = [hit(time, "/" + "x" * 200_000 if n == 5 else f"/{n}") + b"\n" for n, time in enumerate(times)]
    (tmp_path / "a.log").write_bytes(b"".join(lines))
    outcome = split_logs([tmp_path / "a.log"], tmp_path / "out")
    assert len(outcome.days) == 150
    for n, day in enumerate(days):
        assert content(tmp_path / "out", day, "a.log.gz") == lines[n] + lines[n + 150]


def test_what_cannot_be_used_is_refused_with_file_and_line(tmp_path: Path) -> None:
    whole = gzip.compress(b"\n".join(hit("05/Jan/2026:23:00:00 +0000", f"/{n * n}") for n in range(5000)))
    (tmp_path / "cut.log.gz").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[-6] ^= 0xFF  # the checksum
    (tmp_path / "flipped.log.gz").write_bytes(damaged)
    (tmp_path / "junk.log.gz").write_bytes(whole + b"junk")
    for name in ("cut", "flipped", "junk"):
        with pytest.raises(CorruptInputError, match=rf"{name}\.log\.gz: the archive is damaged at line \d+"):
            split_logs([tmp_path / f"{name}.log.gz"], tmp_path / "out")
    (tmp_path / "prose.txt").write_bytes(b"Dear diary,\nnothing happened.\n")
    with pytest.raises(InputError, match=r"prose\.txt: none of its 2 lines .* Line 1 is b'Dear diary,"):
        split_logs([tmp_path / "prose.txt"], tmp_path / "out")
    with pytest.raises(MissingInputError, match="nowhere"):
        split_logs([tmp_path / "nowhere.log"], tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))
