"""Addresses in S3."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_emr_etl.exceptions import ConfigurationError

_SCHEMES = ("s3", "s3a", "s3n")


@dataclass(frozen=True)
class S3Uri:
    """``s3://bucket/key``; the key may be empty (the whole bucket) or a prefix."""

    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> S3Uri:
        """Read ``s3://bucket/key``; ``s3a://`` and ``s3n://`` mean the same place. ConfigurationError otherwise."""
        scheme, separator, rest = text.partition("://")
        bucket, _, key = rest.partition("/")
        if not separator or scheme not in _SCHEMES or not bucket:
            raise ConfigurationError(
                f"{text!r} is not an address in S3. Write it as s3://bucket/key.", value=text
            )
        return cls(bucket, key)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def child(self, name: str) -> S3Uri:
        """The address of ``name`` below this one, which is taken as a folder."""
        folder = self.key if not self.key or self.key.endswith("/") else f"{self.key}/"
        return S3Uri(self.bucket, folder + name)


def as_folder(uri: str) -> str:
    """``uri`` with exactly one slash at its end."""
    return uri.rstrip("/") + "/"
