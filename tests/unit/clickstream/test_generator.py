from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from datetime import date

import pytest

from airflow_emr_etl.clickstream.generator import GeneratedDay, generate, generate_day
from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.access_log import find_time, read_time

DAY = date(2026, 1, 5)


def lines_of(day: GeneratedDay) -> dict[str, list[bytes]]:
    plain = {name: gzip.decompress(raw) if name.endswith(".gz") else raw for name, raw in day.files.items()}
    return {name: raw.split(b"\n")[:-1] for name, raw in plain.items()}


def test_the_same_seed_gives_the_same_lines_on_every_python() -> None:
    digest = hashlib.sha256()
    for name, lines in lines_of(generate_day(DAY, lines=20_000, seed=7)).items():
        digest.update(name.encode() + b"\n" + b"\n".join(lines))
    assert digest.hexdigest() == "cd40611f39b4fc9129e793e7699377da10ebb0fdbf7e50afc701e91f0f251ffd"


def test_a_day_is_the_same_alone_and_among_others() -> None:
    days = list(generate(DAY, 2, lines=1_000, seed=1))
    assert days[1] == generate_day(date(2026, 1, 6), lines=1_000, seed=1)
    assert days[0].files != days[1].files
    assert days[0].files != generate_day(DAY, lines=1_000, seed=2).files


@pytest.mark.parametrize("lines", [200, 1_000, 20_000])
def test_what_is_said_of_a_day_is_true(lines: int) -> None:
    day = generate_day(DAY, lines=lines, seed=5)
    texts = lines_of(day)
    assert sum(map(len, texts.values())) == lines
    assert sum(not text for text in texts.values()) == day.empty_files
    kept: Counter[bytes] = Counter()
    for text in texts.values():
        kept |= Counter(text)
    assert kept.total() == lines - day.delivered_twice
    assert kept[b""] == day.quarantined["empty_line"]
    assert sum(count for line, count in kept.items() if b"\0" in line) == day.quarantined["nul_byte"]
    assert (
        sum(count for line, count in kept.items() if len(line) > 65_535) == day.quarantined["too_long"] == 1
    )
    moments = [read_time(find_time(line) or "") for line in kept.elements()]
    assert sum(moment is not None and moment.date() != DAY for moment in moments) == day.outside_day > 0


def test_the_days_are_like_real_ones() -> None:
    texts = lines_of(generate_day(DAY, lines=20_000, seed=7))
    everything = b"\n".join(b"\n".join(text) for text in texts.values())
    for part in (
        b'" 304 ',
        b'" 404 ',
        b"/robots.txt",
        b"Googlebot",
        b"Mobile",
        b"2001:db8:",
        b'\\"Kiosk\\"',
        b".css",
    ):
        assert part in everything, part
    hours = Counter(
        everything[at + 13 : at + 15] for at in range(len(everything)) if everything[at : at + 1] == b"["
    )
    assert hours[b"20"] > 3 * hours[b"04"]


def test_a_visitor_of_the_night_is_in_both_days() -> None:
    first, second = (lines_of(day) for day in generate(DAY, 2, lines=5_000, seed=7))

    def visitors(texts: dict[str, list[bytes]], clock: bytes) -> set[bytes]:
        return {line.split(b" ")[0] for text in texts.values() for line in text if clock in line}

    assert visitors(first, b"05/Jan/2026:23:5") & visitors(second, b"06/Jan/2026:00:0")


def test_too_small_a_day_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="200 and more"):
        generate_day(DAY, lines=199)
