"""The policy on a queue or a topic: a statement of ours in it, by its ``Sid``, and everybody else's kept."""

from __future__ import annotations

import json
from typing import Any

Statement = dict[str, Any]


def has_statement(policy: str, sid: str) -> bool:
    return any(each.get("Sid") == sid for each in _statements(_document(policy)))


def with_statement(policy: str, statement: Statement) -> str:
    """The policy (empty where there is none) with ``statement`` in place of the one that has its ``Sid``."""
    document = _document(policy)
    kept = [each for each in _statements(document) if each.get("Sid") != statement["Sid"]]
    return json.dumps({**document, "Statement": [*kept, statement]})


def without_statement(policy: str, sid: str) -> str:
    """The policy without the statement; empty where that was the only one."""
    document = _document(policy)
    kept = [each for each in _statements(document) if each.get("Sid") != sid]
    return json.dumps({**document, "Statement": kept}) if kept else ""


def _document(policy: str) -> dict[str, Any]:
    return dict(json.loads(policy)) if policy else {"Version": "2012-10-17"}


def _statements(document: dict[str, Any]) -> list[Statement]:
    found = document.get("Statement", [])
    # One statement may stand there without a list around it.
    return [found] if isinstance(found, dict) else list(found)
