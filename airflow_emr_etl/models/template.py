"""Jinja in a model's strings: what is only known when the task runs."""

from __future__ import annotations

import re

_TEMPLATE = re.compile(r"\{\{|\{%")


def is_template(value: str) -> bool:
    """Whether a string still has to be rendered, so that its content says nothing yet."""
    return _TEMPLATE.search(value) is not None
