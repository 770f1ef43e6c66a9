"""Every error this package raises, in one tree.

::

    EmrEtlError
    ├── ConfigurationError            a setting, spec or argument is wrong
    ├── AwsError                      an AWS call was refused or failed
    │   ├── AccessDeniedError
    │   ├── ThrottledError            *retryable*
    │   └── ServiceUnavailableError   *retryable*: 5xx, time-outs, connection errors
    ├── ClusterError
    │   ├── ClusterNotFoundError
    │   ├── ClusterFailedError
    │   │   └── BootstrapFailedError
    │   ├── ClusterLostError          *retryable*: ended under a running step
    │   └── CapacityError             *retryable*: EC2 had none of what the spec asks for
    ├── StepError
    │   ├── StepFailedError           the user's code failed
    │   └── StepCancelledError
    ├── WaitTimeoutError              *retryable*: a deadline passed
    ├── InputError                    what came in cannot be used
    │   ├── MissingInputError
    │   └── CorruptInputError
    ├── ManifestError                 a manifest is missing, broken or disagrees with its files
    ├── AccountingError               lines in and lines out do not add up
    ├── GateFailedError               a critical data-quality expectation failed
    ├── LoadError                     a load into the warehouse was refused
    │   ├── RowCountMismatchError
    │   ├── SchemaMismatchError
    │   └── StatementFailedError
    └── LocalAwsError                 local AWS cannot start or cannot go on

``retryable`` says whether the same call can succeed later without a change by a human. This module runs
on the cluster too, so it imports nothing and stays valid on Python 3.9.
"""

from __future__ import annotations

from typing import Any, ClassVar


class EmrEtlError(Exception):
    """Root of the tree. Keyword arguments become attributes and survive pickling."""

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __getattr__(self, name: str) -> Any:
        details = self.__dict__.get("details", {})
        if name in details:
            return details[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.details)


def _rebuild(cls: type[EmrEtlError], message: str, details: dict[str, Any]) -> EmrEtlError:
    return cls(message, **details)


class ConfigurationError(EmrEtlError):
    """A setting, a spec or an argument is wrong; the message names it and says what is valid."""


class AwsError(EmrEtlError):
    """An AWS call failed. ``operation``, ``code`` and ``request_id`` where AWS gave them."""


class AccessDeniedError(AwsError):
    """The caller's role may not do this."""


class ThrottledError(AwsError):
    """AWS asked the caller to slow down."""

    retryable = True


class ServiceUnavailableError(AwsError):
    """AWS answered 5xx, or the connection failed; for a write it may have taken effect."""

    retryable = True


class ClusterError(EmrEtlError):
    """Something is wrong with a cluster; ``cluster_id`` says which."""


class ClusterNotFoundError(ClusterError):
    """No cluster has this id in this account and region."""


class ClusterFailedError(ClusterError):
    """The cluster ended with errors before it could serve; ``code`` and ``reason`` as EMR gave them."""


class BootstrapFailedError(ClusterFailedError):
    """A bootstrap action exited with an error."""


class ClusterLostError(ClusterError):
    """The cluster ended while work was on it: spot, capacity, idle time-out or somebody's hand."""

    retryable = True


class CapacityError(ClusterError):
    """EC2 had no capacity for any type and zone that the spec allows."""

    retryable = True


class StepError(EmrEtlError):
    """Something is wrong with a step; ``cluster_id`` and ``step_id`` say which."""


class StepFailedError(StepError):
    """The step's own program failed; ``reason``, ``message`` and ``log_file`` as EMR gave them."""


class StepCancelledError(StepError):
    """The step was cancelled before it ended."""


class WaitTimeoutError(EmrEtlError):
    """A wait reached its deadline; what was waited for may still be going on."""

    retryable = True


class InputError(EmrEtlError):
    """What came in cannot be used; the message names the file."""


class MissingInputError(InputError):
    """There is nothing to read where there should be."""


class CorruptInputError(InputError):
    """A file is damaged, such as a gzip that ends too early."""


class ManifestError(EmrEtlError):
    """A manifest is missing, malformed, or disagrees with the files it lists."""


class AccountingError(EmrEtlError):
    """Records were lost or invented: what went in does not equal what came out."""


class GateFailedError(EmrEtlError):
    """A data-quality gate said no; ``failed`` names the expectations."""


class LoadError(EmrEtlError):
    """A load into the warehouse was refused; nothing of it is visible."""


class RowCountMismatchError(LoadError):
    """The rows that COPY staged are not the rows that the manifest promises."""


class SchemaMismatchError(LoadError):
    """The columns of the manifest do not fit the table."""


class StatementFailedError(LoadError):
    """A SQL statement failed; ``statement_id`` and ``error`` as Redshift gave them."""


class LocalAwsError(EmrEtlError):
    """Local AWS cannot start or cannot go on; the message says what to do."""
