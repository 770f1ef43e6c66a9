"""EMR's events in an SQS queue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from airflow_emr_etl.exceptions import AwsError, ConfigurationError
from airflow_emr_etl.hooks.aws_errors import aws_call
from airflow_emr_etl.models.emr_event import EmrEvent

MOST_MESSAGES: Final = 10
"""SQS gives, and deletes, no more in one call."""
_ARN: Final = re.compile(r"arn:[\w-]+:sqs:[\w-]+:(\d{12}):([\w-]{1,80}(?:\.fifo)?)", re.ASCII)
_URL: Final = re.compile(r"https?://[^/\s]+/(\d{12})/[\w-]{1,80}(?:\.fifo)?/?", re.ASCII)
_NAME: Final = re.compile(r"[\w-]{1,80}(?:\.fifo)?", re.ASCII)
_NO_QUEUE: Final = ("NonExistentQueue", "QueueDoesNotExist")
_GONE: Final = ("ReceiptHandleIsInvalid", "InvalidParameterValue")


@dataclass(frozen=True)
class ReceivedEvent:
    """A message of the queue."""

    receipt: str
    """By which it is deleted."""
    event: EmrEvent | None
    """None where the message is something else."""


class EmrEventQueue:
    """A queue that EventBridge's events of EMR come to. Its methods block.

    :param client: boto3's for SQS
    :param queue: name, URL or ARN

    Raises this package's errors; a queue that does not exist is a ``ConfigurationError``.
    """

    def __init__(self, client: Any, queue: str) -> None:
        self._client = client
        self.queue = queue
        if not any(form.fullmatch(queue) for form in (_ARN, _URL, _NAME)):
            raise ConfigurationError(
                f"{queue!r} is not an SQS queue. Give its name, such as emr-etl-events, its URL or its ARN."
            )

    @cached_property
    def url(self) -> str:
        if _URL.fullmatch(self.queue):
            return self.queue
        arn = _ARN.fullmatch(self.queue)
        owner = {"QueueOwnerAWSAccountId": arn[1]} if arn else {}
        answer = self._call("GetQueueUrl", QueueName=arn[2] if arn else self.queue, **owner)
        return str(answer["QueueUrl"])

    @property
    def account(self) -> str | None:
        """The account that the queue is in; None where only its name is known yet."""
        found = _ARN.fullmatch(self.queue) or _URL.fullmatch(self.__dict__.get("url", self.queue))
        return found[1] if found else None

    def receive(self, wait_seconds: float, most: int = MOST_MESSAGES) -> list[ReceivedEvent]:
        """Messages that are there, or the first to come within ``wait_seconds`` (at most 20)."""
        answer = self._call(
            "ReceiveMessage",
            QueueUrl=self.url,
            MaxNumberOfMessages=min(most, MOST_MESSAGES),
            WaitTimeSeconds=round(wait_seconds),
        )
        return [
            ReceivedEvent(message["ReceiptHandle"], EmrEvent.parse(message.get("Body", "")))
            for message in answer.get("Messages", ())
        ]

    def delete(self, receipts: Sequence[str]) -> None:
        """Delete messages; those that are gone already do not matter."""
        for start in range(0, len(receipts), MOST_MESSAGES):
            entries = [
                {"Id": str(number), "ReceiptHandle": receipt}
                for number, receipt in enumerate(receipts[start : start + MOST_MESSAGES])
            ]
            answer = self._call("DeleteMessageBatch", QueueUrl=self.url, Entries=entries)
            failed = [each for each in answer.get("Failed", ()) if each.get("Code") not in _GONE]
            if failed:
                raise AwsError(
                    f"sqs:DeleteMessageBatch left {len(failed)} of {len(entries)} messages: "
                    f"{failed[0].get('Code')}: {failed[0].get('Message', '')}",
                    operation="sqs:DeleteMessageBatch",
                    code=failed[0].get("Code"),
                )

    def _call(self, operation: str, **request: Any) -> dict[str, Any]:
        method = re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
        try:
            with aws_call(f"sqs:{operation}"):
                answer: dict[str, Any] = getattr(self._client, method)(**request)
                return answer
        except AwsError as error:
            if str(error.details.get("code", "")).endswith(_NO_QUEUE):
                raise ConfigurationError(
                    f"There is no SQS queue {self.queue} in this account and region. `emr-etl events setup` makes it, "
                    "with the rule that feeds it.",
                    operation=f"sqs:{operation}",
                ) from error
            raise
