"""Values in SQL. Redshift reads backslash escapes in every string, so a backslash is doubled like a quote."""

from __future__ import annotations

import re

from airflow_emr_etl.exceptions import ConfigurationError

_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")


def text(value: str) -> str:
    """A string literal. ConfigurationError for NUL, which no text of Redshift can hold."""
    if "\0" in value:
        raise ConfigurationError("A text with a NUL character cannot go into Redshift.", value=value)
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def integer(value: int | None) -> str:
    """A whole number, or NULL."""
    if value is None:
        return "NULL"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigurationError(f"{value!r} is not a whole number.", value=value)
    return str(value)


def s3_url(value: str) -> str:
    """``s3://bucket/key`` as a literal; ``s3a://`` and ``s3n://`` are written so."""
    found = re.fullmatch(r"s3[an]?://([^/\s]+/\S.*)", value)
    if not found:
        raise ConfigurationError(
            f"{value!r} is not an address in S3. Write it as s3://bucket/key.", value=value
        )
    return text(f"s3://{found.group(1)}")


def iam_role(value: str) -> str:
    """What follows IAM_ROLE."""
    if value.lower() == "default":
        return "DEFAULT"
    if not _ROLE.fullmatch(value):
        raise ConfigurationError(f"{value!r} is not the ARN of an IAM role, nor 'default'.", value=value)
    return text(value)
