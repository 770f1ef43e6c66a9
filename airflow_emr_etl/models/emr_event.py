"""What EventBridge tells of a step or a cluster of EMR."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

SOURCE: Final = "aws.emr"
STEP_DETAIL_TYPE: Final = "EMR Step Status Change"
CLUSTER_DETAIL_TYPE: Final = "EMR Cluster State Change"
DETAIL_TYPES: Final = (STEP_DETAIL_TYPE, CLUSTER_DETAIL_TYPE)


@dataclass(frozen=True)
class EmrEvent:
    """A step or a cluster is in another state."""

    id: str
    """EventBridge's: an event that comes twice has it twice."""
    account: str
    region: str
    time: datetime
    """UTC; EventBridge tells whole seconds."""
    cluster_id: str
    step_id: str | None
    """None where the event is the cluster's."""
    name: str
    """Of the step, or of the cluster."""
    state: str
    message: str

    @classmethod
    def parse(cls, body: str) -> EmrEvent | None:
        """The event in a message's body, from EventBridge itself or by way of SNS; None for anything else."""
        try:
            document = _object(body)
            if document.get("Type") == "Notification" and "Message" in document:
                document = _object(document["Message"])
            detail_type, detail = document["detail-type"], document["detail"]
            if document["source"] != SOURCE or detail_type not in DETAIL_TYPES:
                return None
            is_step = detail_type == STEP_DETAIL_TYPE
            return cls(
                id=_text(document["id"]),
                account=_text(document["account"]),
                region=_text(document["region"]),
                time=_instant(document["time"]),
                cluster_id=_text(detail["clusterId"]),
                step_id=_text(detail["stepId"]) if is_step else None,
                name=_text(detail.get("name", "")),
                state=_text(detail["state"]),
                message=_text(detail.get("message", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError):
            return None

    def document(self) -> dict[str, Any]:
        """As EventBridge writes it."""
        bad = self.state in ("FAILED", "TERMINATED_WITH_ERRORS")
        detail = {
            "severity": "ERROR" if bad else "INFO",
            "name": self.name,
            "clusterId": self.cluster_id,
            "state": self.state,
            "message": self.message,
        }
        if self.step_id is None:
            detail["stateChangeReason"] = json.dumps({"code": ""})
        else:
            detail |= {"stepId": self.step_id, "actionOnFailure": "CONTINUE"}
        return {
            "version": "0",
            "id": self.id,
            "detail-type": CLUSTER_DETAIL_TYPE if self.step_id is None else STEP_DETAIL_TYPE,
            "source": SOURCE,
            "account": self.account,
            "time": self.time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": self.region,
            "resources": [],
            "detail": detail,
        }


def _object(text: Any) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise TypeError(text)
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _instant(value: Any) -> datetime:
    found = datetime.fromisoformat(_text(value))
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return found.astimezone(UTC)
