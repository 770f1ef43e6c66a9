"""States of a Data API statement.

https://docs.aws.amazon.com/redshift-data/latest/APIReference/API_DescribeStatement.html
"""

from __future__ import annotations

import enum
from typing import Final


class StatementState(enum.StrEnum):
    """Where a statement is in its life."""

    SUBMITTED = "SUBMITTED"
    PICKED = "PICKED"
    STARTED = "STARTED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    ABORTED = "ABORTED"
    """Stopped by a user."""


STATEMENT_ENDED: Final = frozenset({StatementState.FINISHED, StatementState.FAILED, StatementState.ABORTED})
