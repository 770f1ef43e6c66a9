"""Every error this package raises, in one tree.

::

    EmrEtlError
    ├── ConfigurationError            a setting, spec or argument is wrong
    ├── AwsError                      an AWS call was refused or failed
    │   ├── AccessDeniedError
    │   ├── ExpiredTokenError         *retryable*: the next try gets fresh credentials
    │   ├── ThrottledError            *retryable*
    │   └── ServiceUnavailableError   *retryable*: 5xx, time-outs, connection errors
    ├── ClusterError
    │   ├── ClusterNotFoundError
    │   ├── ClusterFailedError
    │   │   └── BootstrapFailedError
    │   ├── ClusterLostError          *retryable*: ended under a running step
    │   ├── ClusterClosedError        torn down on purpose; nothing replaces it
    │   ├── ClusterNotEndedError      *retryable*: it should be gone, and still costs
    │   └── CapacityError             *retryable*: EC2 had none of what the spec asks for
    │       └── LadderEndedError      nor of anything else that the spec allows
    ├── StepError
    │   ├── StepFailedError           the user's code failed
    │   ├── StepCancelledError
    │   └── ClusterFullError          *retryable*: EMR's 256 active steps are reached
    ├── PoolError                     clusters shared between runs cannot be used
    │   ├── LeaseLostError            *retryable*: another worker has the pool's lock
    │   └── PoolFullError             *retryable*: no room in as many clusters as the pool may have
    ├── TaskKilledError               *retryable*: the worker was told to stop
    ├── WaitTimeoutError              *retryable*: a deadline passed
    ├── InputError                    what came in cannot be used
    │   ├── MissingInputError
    │   └── CorruptInputError
    ├── ManifestError                 a manifest is missing, broken or disagrees with its files
    ├── AccountingError               lines in and lines out do not add up
    ├── GateFailedError               a critical data-quality expectation failed
    ├── LoadError                     a load into the warehouse was refused
    │   ├── RowCountMismatchError
    │   ├── StaleLoadError            the warehouse has a later state already
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


class ExpiredTokenError(AwsError):
    """The caller's temporary credentials ran out; a new process gets new ones. The call had no effect."""

    retryable = True


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


class ClusterClosedError(ClusterError):
    """The cluster was torn down on purpose; a step must not bring up another in its place."""


class ClusterNotEndedError(ClusterError):
    """Clusters that should be gone could not be ended; what goes on costs."""

    retryable = True


class CapacityError(ClusterError):
    """EC2 had no capacity for what one cluster asked for."""

    retryable = True


class LadderEndedError(CapacityError):
    """EC2 had no capacity for any type, zone and market that the spec allows; each was tried."""

    retryable = False


class StepError(EmrEtlError):
    """Something is wrong with a step; ``cluster_id`` and ``step_id`` say which."""


class StepFailedError(StepError):
    """The step's own program failed; ``reason``, ``message`` and ``log_file`` as EMR gave them."""


class StepCancelledError(StepError):
    """The step was cancelled before it ended."""


class ClusterFullError(StepError):
    """The cluster has as many active steps as EMR allows (256); there is room when one of them ends."""

    retryable = True


class PoolError(EmrEtlError):
    """A pool of clusters cannot be used; ``pool`` names it."""


class LeaseLostError(PoolError):
    """The lease ran out and another holder has the lock, or may have it by now."""

    retryable = True


class PoolFullError(PoolError):
    """Every cluster of the pool is full, and it has as many as it may have."""

    retryable = True


class TaskKilledError(EmrEtlError):
    """The worker was told to stop the task while it waited, and what it had running was cancelled."""

    retryable = True


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


class StaleLoadError(LoadError):
    """A later re-statement of the table is loaded already, and this one would undo it."""


class SchemaMismatchError(LoadError):
    """The columns of the manifest do not fit the table."""


class StatementFailedError(LoadError):
    """A SQL statement failed; ``statement_id`` and ``error`` as Redshift gave them."""


class LocalAwsError(EmrEtlError):
    """Local AWS cannot start or cannot go on; the message says what to do."""
