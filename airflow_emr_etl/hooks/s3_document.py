"""A small JSON object in S3 that several processes change, none of them over another's change.

S3's conditional writes make it so: ``If-None-Match: *`` creates, ``If-Match`` replaces exactly the version that was
read (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html). An answer that never came, or
a refusal that a repeated request of botocore's own brought about, leaves open whether the write took effect; each
write carries an id of its own, so that reading back tells.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

from airflow_emr_etl.exceptions import (
    AwsError,
    MissingInputError,
    PoolError,
    ServiceUnavailableError,
    ThrottledError,
)
from airflow_emr_etl.hooks.attempts import backoff
from airflow_emr_etl.hooks.aws_errors import aws_call
from airflow_emr_etl.hooks.clock import SYSTEM_CLOCK, Clock
from airflow_emr_etl.hooks.s3_lake import S3LakeHook
from airflow_emr_etl.models.s3 import S3Uri

#: A precondition did not hold, or S3 could not tell while another write was under way.
_REFUSALS: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_WRITE_ID: Final = "write_id"


@dataclass(frozen=True)
class Version:
    """A document as it was read."""

    data: Mapping[str, Any]
    etag: str
    age: timedelta | None
    """By S3's own clock, within a second more or less; None where S3 did not tell."""


class S3Document:
    """The JSON object at ``uri``. Raises this package's errors, never botocore's."""

    def __init__(self, lake: S3LakeHook, uri: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self.uri = uri
        self._where = S3Uri.parse(uri)
        self._lake = lake
        self._clock = clock

    def read(self) -> Version | None:
        """The document; None where there is none. PoolError where something else lies there."""
        try:
            with aws_call(f"s3:GetObject of {self.uri}"):
                answer = self._lake.client.get_object(Bucket=self._where.bucket, Key=self._where.key)
                with answer["Body"] as body:
                    text = body.read()
        except MissingInputError as error:
            if error.details.get("code") == "NoSuchBucket":
                raise
            return None
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise PoolError(
                f"{self.uri} is not what this package wrote. Give the pool a prefix of its own, or delete the "
                "object: clusters are found again by their names.",
                uri=self.uri,
            )
        return Version(data, str(answer["ETag"]), _age(answer))

    def write(self, data: Mapping[str, Any], *, over: str | None) -> str | None:
        """Put ``data`` in place of the version with the ETag ``over``, or where there is none; its ETag.

        None where another version is there: nothing was changed. An error says that it is not known whether
        the write took effect, or will.
        """
        own = secrets.token_hex(8)
        body = json.dumps({**data, _WRITE_ID: own}, sort_keys=True, separators=(",", ":")).encode()
        failure: AwsError | None = None
        for delay in backoff(first=0.25):
            self._clock.sleep(delay)
            try:
                return self._put(body, over)
            except (ServiceUnavailableError, ThrottledError) as error:
                failure = error
            except (MissingInputError, AwsError) as error:
                if not _is_refusal(error):
                    raise
                failure = None if isinstance(error, MissingInputError) else error
            try:
                current = self.read()
            except (ServiceUnavailableError, ThrottledError) as error:
                failure = error
                continue
            if current is not None and current.data.get(_WRITE_ID) == own:
                return current.etag
            if (current.etag if current else None) != over:
                return None
            # The version that was to be replaced is still there: the same bytes under the same condition again.
        if failure is None:
            return None
        raise failure

    def _put(self, body: bytes, over: str | None) -> str:
        condition = {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}
        with aws_call(f"s3:PutObject to {self.uri}"):
            answer = self._lake.client.put_object(
                Bucket=self._where.bucket,
                Key=self._where.key,
                Body=body,
                ContentType="application/json",
                **condition,
            )
        return str(answer["ETag"])


def _is_refusal(error: MissingInputError | AwsError) -> bool:
    code = error.details.get("code")
    # If-Match of an object that is gone is NoSuchKey.
    return code in _REFUSALS or (isinstance(error, MissingInputError) and code != "NoSuchBucket")


def _age(answer: Mapping[str, Any]) -> timedelta | None:
    told = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    modified = answer.get("LastModified")
    if not told or modified is None:
        return None
    try:
        age: timedelta = parsedate_to_datetime(told) - modified
    except (TypeError, ValueError):
        return None
    return age
