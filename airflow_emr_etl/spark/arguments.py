"""Command-line arguments that the jobs have in common."""

from __future__ import annotations

import argparse
from datetime import date
from typing import Callable, Optional, TypeVar

T = TypeVar("T")


def job_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with ``--day`` and ``--output``. Abbreviated options are refused: scripts would break later."""
    parser = argparse.ArgumentParser(prog=name, description=description, allow_abbrev=False)
    parser.add_argument("--day", required=True, type=iso_day, help="the UTC day of this batch, YYYY-MM-DD")
    parser.add_argument("--output", required=True, help="folder of this attempt alone")
    return parser


def iso_day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; write it as 2026-01-05")
    return day


def or_none(kind: Callable[[str], T]) -> Callable[[str], Optional[T]]:
    """``kind``, or None for ``none``: a template can then leave an option out without leaving out its name."""

    def read(text: str) -> Optional[T]:
        return None if text == "none" else kind(text)

    return read


def whole_number(text: str) -> int:
    """A count: a whole number from 0 on."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)
