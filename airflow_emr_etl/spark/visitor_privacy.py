"""Who a visitor is, and how much of an address is kept.

======== ============================ ================================================================
mode     ``host``                     ``visitor_id`` and ``event_id``
======== ============================ ================================================================
keep     as logged                    plain digests
truncate IPv4 to /24, IPv6 to /48;    of the whole address, plain; keyed where a key is given
         a name becomes NULL
hash     HMAC-SHA256 of the host      HMAC-SHA256
======== ============================ ================================================================

A plain digest can be guessed: who knows the user agent tries the 256 addresses of a /24, or all of IPv4. A key is
what stops that. It is read from a file and reaches the rows as the one row of a table, so that it is in no argument,
plan or log.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Optional

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.spark import storage
from airflow_emr_etl.spark.binding import bind

MODES = ("keep", "truncate", "hash")
LEAST_KEY_BYTES = 16

_BLOCK = 64  # of SHA-256
_PADS = ("_inner_pad", "_outer_pad")


@dataclass(frozen=True)
class Privacy:
    """``mode`` is one of :data:`MODES`; ``key`` is needed for ``hash`` and useful for ``truncate``."""

    mode: str = "keep"
    key: Optional[bytes] = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigurationError(f"--ip is {self.mode!r}; valid: {', '.join(MODES)}.")
        if self.mode == "hash" and self.key is None:
            raise ConfigurationError("--ip hash needs a key: give the URI of its file with --hash-key-uri.")
        if self.mode == "keep" and self.key is not None:
            raise ConfigurationError(
                "--hash-key-uri is for --ip hash and --ip truncate; --ip keep uses no key."
            )


def read_key(spark: SparkSession, uri: str) -> bytes:
    """The key in the file at ``uri``: its bytes without line ends at the end. Raise ConfigurationError where it is
    too short to be one."""
    key = storage.read_bytes(spark, uri).rstrip(b"\r\n")
    if len(key) < LEAST_KEY_BYTES:
        raise ConfigurationError(
            f"The key in {uri} has {len(key)} bytes; valid is {LEAST_KEY_BYTES} and more, 32 from a random source "
            "are good: openssl rand -hex 32."
        )
    return key


def visitor_of(hits: DataFrame) -> Column:
    """A text that says who sent a hit: the same cookie (``visitor_cookie``, where ``hits`` has it and it is set),
    otherwise the same host and user agent."""
    nothing = F.lit("")
    visitor = F.concat(F.coalesce("host", nothing), F.lit("\n"), F.coalesce("user_agent", nothing))
    if "visitor_cookie" in hits.columns:
        # Two line ends: no host and user agent can say the same.
        visitor = F.coalesce(F.concat(F.lit("\n\n"), "visitor_cookie"), visitor)
    return visitor


def with_visitor(hits: DataFrame, privacy: Privacy) -> DataFrame:
    """Add ``visitor_id`` (64 hexadecimal digits) to ``hits``, put ``host`` into the form that is kept, and make
    ``key``, the identity of the line's bytes, such that nobody can guess the address by it.

    See :func:`visitor_of` for who a visitor is.
    """
    visitor = visitor_of(hits)
    if privacy.key is None:
        hits = hits.withColumn("visitor_id", F.sha2(visitor, 256))
        return (
            hits.withColumn("host", truncated_address(F.col("host"))) if privacy.mode == "truncate" else hits
        )
    hits = hits.crossJoin(F.broadcast(_pads(hits.sparkSession, privacy.key)))
    hits = hits.withColumn("visitor_id", _hmac(visitor)).withColumn("key", F.unhex(_hmac(F.col("key"))))
    kept = _hmac(F.col("host")) if privacy.mode == "hash" else truncated_address(F.col("host"))
    return hits.withColumn("host", kept).drop(*_PADS)


_NUMBER = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_V4 = rf"(?:{_NUMBER}\.){{3}}{_NUMBER}"


def truncated_address(host: Column) -> Column:
    """An IPv4 address with its last number 0, an IPv6 address with nothing behind its first 48 bits, in the form
    that RFC 5952 wants; NULL for everything else."""
    return bind(
        F.regexp_replace(host, r"(?i)^::ffff:(?=\d+\.)", ""),
        lambda text: F.when(text.rlike(rf"^{_V4}\z"), F.regexp_replace(text, r"\d+\z", "0")).when(
            # An IPv4 address at the end stands for the last two groups.
            text.contains(":"),
            bind(F.lower(F.regexp_replace(text, rf"(?<=:){_V4}\z", "0:0")), _network),
        ),
    )


def _network(address: Column) -> Column:
    """The first 48 bits of an IPv6 address in lower case; NULL where it is none."""

    def expanded(left: Column) -> Column:
        def filled(right: Column) -> Column:
            missing = F.lit(8) - F.size(left) - F.size(right)
            # Never so that the number is negative, which is an error.
            return F.when(
                missing > 0, F.concat(left, F.array_repeat(F.lit("0"), F.greatest(missing, F.lit(0))), right)
            )

        right = bind(_groups(F.substring_index(address, "::", -1)), filled)
        return F.when(address.contains("::"), right).otherwise(left)

    def cut(groups: Column) -> Column:
        first = F.transform(F.slice(groups, 1, 3), lambda group: F.regexp_replace(group, "^0+(?=.)", ""))
        network = F.regexp_replace(F.array_join(first, ":"), r"(?:(?:^|:)0)+\z", "")
        is_group = F.forall(groups, lambda group: group.rlike(r"^[0-9a-f]{1,4}\z"))
        return F.when((F.size(groups) == 8) & is_group, F.concat(network, F.lit("::")))

    strange = address.rlike(r"::.*::|:::|^:[^:]|[^:]:\z")
    return F.when(~strange, bind(bind(_groups(F.substring_index(address, "::", 1)), expanded), cut))


def _groups(text: Column) -> Column:
    return F.filter(F.split(text, ":", -1), lambda group: group != "")


def _pads(spark: SparkSession, key: bytes) -> DataFrame:
    """The two blocks that HMAC (RFC 2104) makes of the key, as a table of one row.

    From an RDD: a plan prints such a scan without its rows, and no rule of the optimizer looks into it.
    """
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    pads = tuple(bytearray(byte ^ pad for byte in block) for pad in (0x36, 0x5C))
    schema = ", ".join(f"{name} binary" for name in _PADS)
    return spark.createDataFrame(spark.sparkContext.parallelize([pads], 1), schema)


def _hmac(message: Column) -> Column:
    inner, outer = _PADS
    digest = F.unhex(F.sha2(F.concat(F.col(inner), message.cast("binary")), 256))
    return F.sha2(F.concat(F.col(outer), digest), 256)
