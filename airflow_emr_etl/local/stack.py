"""Local AWS in this process: S3, EMR, the Redshift Data API and the small services behind one endpoint."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from airflow_emr_etl.exceptions import LocalAwsError
from airflow_emr_etl.local.access import ACCESS_KEY_PATTERN
from airflow_emr_etl.local.state import (
    HOST,
    REGION,
    Instance,
    StateFolder,
    folder_error,
    new_instance,
    process_started,
)

if TYPE_CHECKING:
    from airflow_emr_etl.local.api import JsonApi
    from airflow_emr_etl.local.fault_control import LocalFaults

log = logging.getLogger(__name__)

ServicesFactory = Callable[["LocalAws"], Sequence["JsonApi"]]

_running_here = 0  # moto's state is one for the process: the last to stop clears it
_running_lock = threading.Lock()


class LocalAws:
    """One instance with its state in ``state``. A context manager: started on entry, stopped on exit.

    ``port`` 0 takes the port of the last start where it is free, else any. ``access_key`` replaces the key
    that the folder has; without it the first start makes a random one. ``services`` makes the JSON services,
    for tests; by default EMR and the Redshift Data API.
    """

    region = REGION

    def __init__(
        self,
        state: Path | str,
        port: int = 0,
        access_key: str | None = None,
        *,
        services: ServicesFactory | None = None,
    ) -> None:
        if access_key is not None and not ACCESS_KEY_PATTERN.fullmatch(access_key):
            raise LocalAwsError(
                "An access key has 1 to 128 letters, digits and _ . + = @ -; the one that was given has others."
            )
        self.folder = StateFolder(Path(state))
        self.notices: list[str] = []
        """What the user should know of the last start, such as that the port has changed."""
        self._wanted_port = port
        self._wanted_key = access_key
        self._services = services or _all_services
        self._apis: list[JsonApi] = []
        self._instance: Instance | None = None
        self._faults: LocalFaults | None = None
        self._resources: contextlib.ExitStack | None = None

    @property
    def state(self) -> Path:
        return self.folder.path

    @property
    def objects(self) -> Path:
        """The folder that holds a folder for each bucket."""
        return self.folder.objects

    @property
    def instance(self) -> Instance:
        if self._instance is None:
            raise LocalAwsError("Local AWS is not started yet.")
        return self._instance

    @property
    def endpoint_url(self) -> str:
        return self.instance.endpoint_url

    @property
    def access_key(self) -> str:
        return self.instance.access_key

    @property
    def secret_key(self) -> str:
        return self.instance.secret_key

    @property
    def faults(self) -> LocalFaults:
        """Lets calls and clusters go wrong on purpose. A start begins without any."""
        if self._faults is None:
            raise LocalAwsError("Local AWS is not started yet.")
        return self._faults

    def env(self) -> dict[str, str]:
        """Environment variables that point boto3, the AWS CLI and Airflow at this instance."""
        return self.instance.env()

    def start(self, *, detached: bool = False) -> None:
        """Serve. When it returns, requests are answered. Raises LocalAwsError; nothing is left running then."""
        if self._resources is not None:
            raise LocalAwsError("Local AWS is started already.")
        self.notices = []
        self.folder.create()
        with contextlib.ExitStack() as resources:
            resources.enter_context(self.folder.lock("server", self._busy()))
            try:
                self._start(resources, detached=detached)
            except OSError as error:
                raise folder_error(self.state, error) from error
            self._resources = resources.pop_all()
        log.info("Local AWS serves %s at %s", self.state, self.endpoint_url)

    def _busy(self) -> str:
        known = self.folder.read()
        where = f" at {known.endpoint_url} (pid {known.pid})" if known and known.is_running else ""
        return (
            f"Local AWS runs already with its state in {self.state}{where}. One folder serves one instance."
        )

    def _start(self, resources: contextlib.ExitStack, *, detached: bool) -> None:
        _import_server()
        from airflow_emr_etl.local.event_bus import EventBus
        from airflow_emr_etl.local.fault_control import LocalFaults
        from airflow_emr_etl.local.json_dispatch import JsonDispatch
        from airflow_emr_etl.local.moto_services import MotoServices
        from airflow_emr_etl.local.protocols import s3_operation
        from airflow_emr_etl.local.s3 import ObjectStore, S3Service
        from airflow_emr_etl.local.server import HttpServer, LocalAwsApp

        known = self.folder.read() or new_instance()
        if self._wanted_key:
            known = replace(known, access_key=self._wanted_key)
        listener = resources.enter_context(contextlib.closing(self._listen(known.port)))
        port: int = listener.getsockname()[1]
        self._instance = replace(
            known, port=port, pid=os.getpid(), process_started=process_started(os.getpid()), detached=detached
        )
        resources.callback(self._forget_process)
        store = ObjectStore(self.state)
        resources.callback(store.close)
        dispatches = []
        for api in self._services(self):
            resources.callback(_stop_quietly, api)
            api.start()
            self._apis.append(api)
            dispatches.append(JsonDispatch(api))
        emr = next((api for api in self._apis if api.service == "emr"), None)
        self._faults = LocalFaults(emr=getattr(emr, "faults", None))
        moto = MotoServices()
        _count(+1, moto)
        resources.callback(_count, -1, moto)
        bus = EventBus(moto.deliver)
        bus.start()
        resources.callback(bus.stop)
        if emr is not None and hasattr(emr, "on_events"):
            emr.on_events = bus.put
        app = LocalAwsApp(
            port=port,
            own_key=self._instance.access_key,
            s3=S3Service(store, s3_operation),
            services=dispatches,
            moto=moto,
            faults=self._faults,
        )
        server = HttpServer(listener, app)
        resources.callback(server.stop)
        server.start()
        self.folder.write(self._instance)

    def _listen(self, last_port: int) -> socket.socket:
        """A socket on the wanted port, else on the last one, else on any."""
        if self._wanted_port:
            try:
                return _bind(self._wanted_port)
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                raise LocalAwsError(
                    f"Port {self._wanted_port} on {HOST} is in use or not allowed ({error.strerror}). Choose another "
                    "with --port, or --port 0 for any free one."
                ) from error
        if last_port:
            try:
                return _bind(last_port)
            except OSError:
                self.notices.append(
                    f"Port {last_port}, used before, is taken: local AWS has another now. "
                    'Run eval "$(emr-etl local env)" again in your shells.'
                )
        return _bind(0)

    def _forget_process(self) -> None:
        if self._instance is not None:
            self._instance = self._instance.stopped()
            with contextlib.suppress(LocalAwsError):  # stopping goes on; a dead pid is seen as such anyway
                if self.folder.read() is not None:
                    self.folder.write(self._instance)

    def warm_up(self) -> None:
        """Prepare in the background what first calls would wait for; worth it for what runs for long."""
        for api in self._apis:
            api.warm_up()

    def stop(self) -> None:
        """End everything that ``start`` began. Idempotent."""
        resources, self._resources = self._resources, None
        if resources is not None:
            resources.close()
            self._apis.clear()
            log.info("Local AWS in %s has stopped", self.state)

    def __enter__(self) -> LocalAws:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _all_services(local: LocalAws) -> list[JsonApi]:
    try:
        from airflow_emr_etl.local.emr import EmrApi
        from airflow_emr_etl.local.redshift import RedshiftDataApi
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    return [
        EmrApi(state=local.state / "emr", objects=local.objects, environment=local.env),
        RedshiftDataApi(state=local.state / "redshift", objects=local.objects),
    ]


def _import_server() -> None:
    """So that a missing package is told before anything is begun."""
    try:
        import botocore  # noqa: F401
        import moto  # noqa: F401
        import werkzeug  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error


def missing_extra(error: ModuleNotFoundError) -> LocalAwsError:
    return LocalAwsError(
        f"Local AWS needs the package {error.name!r}, which is not installed. "
        "Install the extra: pip install 'airflow-emr-etl[local]'"
    )


def _bind(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def _stop_quietly(api: JsonApi) -> None:
    """One service that fails to stop must not keep the others from stopping."""
    try:
        api.stop()
    except Exception:
        log.exception("%s did not stop cleanly", api.service)


def _count(change: int, moto: object) -> None:
    from airflow_emr_etl.local.moto_services import MotoServices

    global _running_here
    with _running_lock:
        _running_here += change
        if not _running_here and isinstance(moto, MotoServices):
            moto.forget()
