from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.duration import duration, told


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("0.5h", 1800),
        (" 24H ", 86_400),
        ("60", 60),
    ],
)
def test_what_people_write(text: str, seconds: float) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "h", "1 hour", "-5m", "1h of", "nan", "99999999d", "1e3"])
def test_what_is_none_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ConfigurationError, match="1h30m"):
        duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (5400, "1h 30m"), (86_400, "1d"), (90_061, "1d 1h"), (-3, "0s")],
)
def test_how_it_is_told(seconds: int, text: str) -> None:
    assert told(timedelta(seconds=seconds)) == text
