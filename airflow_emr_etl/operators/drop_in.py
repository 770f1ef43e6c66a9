"""What the drop-in operators and sensors share: arguments and failures as the Amazon provider has them."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, conf

from airflow_emr_etl.exceptions import ConfigurationError, EmrEtlError
from airflow_emr_etl.hooks.emr_client import EmrClients
from airflow_emr_etl.hooks.emr_cluster import EmrClusterHook
from airflow_emr_etl.links.emr import EmrClusterLink, EmrLogsLink, cluster_url, logs_url

if TYPE_CHECKING:
    from airflow.sdk import Context

#: The default of ``deferrable``, read once where Airflow loads the file, as the Amazon provider does.
DEFAULT_DEFERRABLE: bool = bool(conf.getboolean("operators", "default_deferrable", fallback=False))


@contextmanager
def as_airflow_exceptions() -> Iterator[None]:
    """Raise this package's errors as ones that are ``AirflowException`` too, and keep their own type.

    The official operators fail with ``AirflowException``, callbacks look for it, and Airflow retries it as often
    as ``retries`` says; so do these, whether or not the failure can pass by itself.
    """
    try:
        yield
    except EmrEtlError as error:
        if isinstance(error, AirflowException):
            raise
        raise _in_airflow(type(error), error.message, error.details) from error


def parsed(value: Any, kind: type, *, of: str) -> Any:
    """``value`` where it is a ``kind``; where it is text, the JSON or the Python literal that it holds.

    Text comes from a ``.json`` file, from an XCom or from a template.
    """
    if isinstance(value, str):
        given, value = value, None
        readers: tuple[Callable[[str], Any], ...] = (json.loads, ast.literal_eval)
        for read in readers:
            try:
                value = read(given)
                break
            except (ValueError, SyntaxError):
                continue
    if not isinstance(value, kind):
        raise ConfigurationError(
            f"{of} must be {'a list' if kind is list else 'a mapping'}, or text that holds one as JSON or as a "
            f"Python literal; it is {type(value).__name__ if value is not None else 'text that holds neither'}."
        )
    return value


def with_connection(emr_conn_id: str | None, overrides: Mapping[str, Any], log: Any) -> dict[str, Any]:
    """RunJobFlow's arguments: the extra of the connection ``emr_conn_id``, and ``overrides`` over it.

    Top-level keys replace each other whole. No id, or no such connection, is an empty beginning.
    """
    request: dict[str, Any] = {}
    if emr_conn_id:
        from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

        try:
            connection = BaseHook.get_connection(emr_conn_id)
        except AirflowNotFoundException:
            log.info("There is no connection %r; the request has what job_flow_overrides says", emr_conn_id)
        else:
            if connection.conn_type and connection.conn_type != "emr":
                log.warning(
                    "Connection %r is of type %r instead of 'emr'; its extra is taken as RunJobFlow's arguments",
                    emr_conn_id,
                    connection.conn_type,
                )
            request = dict(connection.extra_dejson)
    return request | dict(overrides)


def show_links(
    context: Context, clients: EmrClients, cluster_id: str, *, log: Any, log_uri: str | None = None
) -> None:
    """Push the links to the cluster and its logs. Without ``log_uri`` EMR is asked; a failure is only told."""
    where = {"region": clients.region, "partition": clients.partition}
    EmrClusterLink.push(context["ti"], cluster_url(cluster_id, **where))
    if log_uri is None:
        try:
            log_uri = EmrClusterHook(clients=clients).describe(cluster_id).get("LogUri")
        except EmrEtlError as error:
            log.warning("No link to the logs: %s", error)
    EmrLogsLink.push(context["ti"], logs_url(log_uri, cluster_id, **where))


def warn_of_region(region: str | None) -> None:
    """Tell that ``region``, which the Amazon provider takes and drops, is dropped here too."""
    if region is not None:
        warnings.warn(
            f"region={region!r} has no effect, as with the Amazon provider. Write region_name={region!r}.",
            UserWarning,
            stacklevel=4,
        )


def official_name(module: str, name: str, here: str) -> Any:
    """``name`` of the Amazon provider's ``module``, for the module ``here`` that stands in its place."""
    if not name.startswith("_"):
        try:
            return getattr(import_module(module), name)
        except AttributeError:
            pass
    raise AttributeError(f"module {here!r} has no attribute {name!r}, and neither has {module!r}")


#: For each kind of this package's errors, the one that is ``AirflowException`` too.
_IN_AIRFLOW: dict[type[EmrEtlError], type[EmrEtlError]] = {}


def _in_airflow(kind: type[EmrEtlError], message: str, details: dict[str, Any]) -> EmrEtlError:
    if kind not in _IN_AIRFLOW:

        def reduce(self: EmrEtlError) -> tuple[Any, ...]:
            return _in_airflow, (kind, self.message, self.details)

        body = {"__module__": __name__, "__doc__": kind.__doc__, "__reduce__": reduce}
        _IN_AIRFLOW[kind] = type(kind.__name__, (kind, AirflowException), body)
    return _IN_AIRFLOW[kind](message, **details)
