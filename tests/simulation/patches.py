"""What is replaced while a simulation runs: time, the network, and what would make it another one each time."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import secrets
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from unittest import mock

import botocore.hooks
import botocore.httpsession
import botocore.loaders
import botocore.session
import structlog

from airflow_emr_etl.hooks.clock import Clock
from airflow_emr_etl.triggers.polling import PollingTrigger

from .network import Network
from .world import World

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIASIMULATED",
    "AWS_SECRET_ACCESS_KEY": "simulated",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AIRFLOW_CONN_AWS_DEFAULT": "aws://",
    "AIRFLOW_CONN_EMR_DEFAULT": "emr://",
}

_real_sleep = time.sleep
_real_create_loader = botocore.loaders.create_loader


@contextlib.contextmanager
def patched(world: World, network: Network, *, seed: int, first_poll: float) -> Iterator[None]:
    """Virtual time and the simulated network for everything in this process that is in a fiber.

    ``first_poll`` is after how many seconds our triggers look for the second time.
    """

    def sleep(seconds: float) -> None:
        if world.fiber() is None:
            _real_sleep(seconds)
        else:
            world.sleep(seconds)

    def now(*_: Any) -> datetime:
        return world.now

    tokens = random.Random(seed)
    endpoint = {name: value for name, value in os.environ.items() if name.startswith("AWS_ENDPOINT_URL")}
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, ENVIRONMENT))
        for name in endpoint:
            del os.environ[name]
        for owner, attribute, value in (
            (time, "sleep", sleep),
            (Clock, "now", now),
            (Clock, "sleep", lambda _self, seconds: sleep(seconds)),
            (
                botocore.httpsession.URLLib3Session,
                "send",
                lambda session, request: network.send(session, request),
            ),
            (secrets, "token_hex", lambda size=16: tokens.randbytes(size or 16).hex()),
        ):
            stack.enter_context(mock.patch.object(owner, attribute, value))
        for method in (PollingTrigger.wait, PollingTrigger.wait_here):
            stack.enter_context(_defaults(method, sleep=sleep, now=now))
        stack.enter_context(_defaults(PollingTrigger.__init__, first_poll=first_poll))
        stack.enter_context(_worked_out_once())
        state = random.getstate()
        random.seed(seed)  # botocore and the triggers draw their jitter from it
        stack.enter_context(_no_logs())
        disabled = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
            random.setstate(state)


@contextlib.contextmanager
def _defaults(method: Any, **values: Any) -> Iterator[None]:
    """Defaults that were bound when the method was defined. ``asyncio.sleep`` is virtual in a virtual loop."""
    before = dict(method.__kwdefaults__ or {})
    changed = {key: value for key, value in values.items() if key in before}
    if before.get("sleep") is not _real_sleep:
        changed.pop("sleep", None)
    method.__kwdefaults__ = {**before, **changed}
    try:
        yield
    finally:
        method.__kwdefaults__ = before


@contextlib.contextmanager
def _no_logs() -> Iterator[None]:
    """Task logs go nowhere: the simulation has a story of its own."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.configure(**before)


@contextlib.contextmanager
def _worked_out_once() -> Iterator[None]:
    """What every session of botocore works out anew, always with the same result, is worked out once.

    Each hook makes a session of its own: it reads the models, and looks at the signatures of its handlers.
    """
    alias, accepts = botocore.hooks.EventAliaser._alias_event_name, botocore.hooks.accepts_kwargs

    def alias_once(self: Any, name: str) -> str:
        found = _ALIASES.get(name)
        if found is None:
            found = _ALIASES[name] = alias(self, name)
        return found

    def accepts_once(handler: Any) -> bool:
        key = getattr(getattr(handler, "__func__", handler), "__code__", None)
        if key is None:
            return bool(accepts(handler))
        found = _ACCEPTS.get(key)
        if found is None:
            found = _ACCEPTS[key] = bool(accepts(handler))
        return found

    with (
        mock.patch.object(botocore.session, "create_loader", _one_loader),
        mock.patch.object(botocore.hooks.EventAliaser, "_alias_event_name", alias_once),
        mock.patch.object(botocore.hooks, "accepts_kwargs", accepts_once),
    ):
        yield


@functools.cache
def _loader() -> Any:
    return _real_create_loader()


def _one_loader(search_path_string: str | None = None) -> Any:
    return _loader()


_ALIASES: dict[str, str] = {}
_ACCEPTS: dict[Any, bool] = {}
