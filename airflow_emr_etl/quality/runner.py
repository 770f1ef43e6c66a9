"""Running a suite with Great Expectations on Spark, or on tables of a database.

How the work is kept small, since a gate stands between the data and everybody who waits for it:

- All expectations of a dataset go to Great Expectations at once, on an engine that computes what can share a scan
  in one aggregate (``spark_engine``). Only uniqueness and queries take a scan of their own.
- The first pass asks for counts only. Examples of offending values cost a scan each, so they are fetched in a
  second pass, for the expectations that failed.
- Frames are not cached: the scans read a few columns of columnar files each, which measured faster than
  materialising the columns first.

One expectation cannot drag down another: Great Expectations blames a failing aggregate on each expectation
that shared it, so those that raised are run again, each alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import html
import importlib
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from airflow_emr_etl.exceptions import ConfigurationError, CorruptInputError
from airflow_emr_etl.quality.expectations import register
from airflow_emr_etl.quality.page import render_page
from airflow_emr_etl.quality.quarantine import check_row_level, marked
from airflow_emr_etl.quality.result import DatasetResult, ExpectationResult, GateResult
from airflow_emr_etl.quality.spark_engine import datasource_type
from airflow_emr_etl.quality.suite import (
    CRITICAL,
    QUARANTINE,
    WARNING,
    Expectation,
    Suite,
    closest,
    view_name,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from airflow_emr_etl.quality.sql_engine import Rows

EXAMPLES = 5
"""How many distinct offending values a result carries at most."""
_SAMPLED = 20
_EXAMPLE_LENGTH = 200
_OBSERVED_LENGTH = 1000
_MESSAGE_LENGTH = 500
_NO_PROVIDER = "No provider found"  # how Great Expectations says that a metric is not there for an engine
_META_KEY = "airflow_emr_etl_id"
_ROWS = "*rows*"  # no id of a suite's entry looks like this

_MANAGED = frozenset(
    (
        *("batch_id", "catch_exceptions", "id", "library_metadata", "meta", "notes"),
        *("rendered_content", "result_format", "severity", "windows"),
    )
)
"""Fields of every Great Expectations type that the runner sets, or that mean nothing here."""


def import_great_expectations() -> Any:
    """Import Great Expectations with its usage statistics off; seconds of work the first time.

    Raises:
        ConfigurationError: it is not installed for this Python; the message says how to change that.
    """
    # Versions before 1.20 or so send usage statistics unless told not to, before any context exists.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    try:
        gx = importlib.import_module("great_expectations")
        importlib.import_module("great_expectations.expectations.registry")
    except ImportError as problem:
        raise ConfigurationError(
            f"Great Expectations cannot be imported ({problem}). On a cluster, install it with the bootstrap "
            "action install_great_expectations.sh of airflow_emr_etl.quality and point spark.pyspark.python "
            "at its Python; elsewhere, pip install 'airflow-emr-etl[quality]'."
        ) from problem
    return gx


def build_expectations(suite: Suite) -> Dict[str, Any]:
    """The suite as Great Expectations objects, by id. Needs no data and no Spark session.

    Raises:
        ConfigurationError: a type is unknown, or a parameter is unknown, missing or of a wrong kind; the
            message names file, line, dataset, entry and what is valid.
    """
    import_great_expectations()
    register(suite.modules, suite.source)
    _kinds.cache_clear()
    built = {}
    for entries in suite.datasets.values():
        for entry in entries:
            built[entry.id] = _built(entry)
            if entry.severity == QUARANTINE:
                check_row_level(built[entry.id], entry.where)
    return built


def run_suite(
    suite: Suite,
    frames: Mapping[str, DataFrame],
    docs: Optional[Path] = None,
    clock: Callable[[], float] = time.monotonic,
    put_aside: Optional[Callable[[str, Optional[DataFrame]], Tuple[int, str]]] = None,
) -> GateResult:
    """Run *suite* over *frames* and return what it found.

    Args:
        suite: its partition variables already filled in (:meth:`Suite.for_partitions`).
        frames: one Spark DataFrame for each dataset of the suite, by name.
        docs: an existing, empty local folder to build the data docs site in (``index.html`` and below);
            None builds none. The result's ``data_docs`` stays None: the caller knows where the site ends up.
        put_aside: called for each dataset that has expectations of severity quarantine, with its name and its
            rows, marked as :func:`airflow_emr_etl.quality.quarantine.marked` does, or None where all of them hold.
            Returns how many rows it put aside, and the manifest of the others. None leaves the rows alone.

    Raises:
        ConfigurationError: the suite does not fit Great Expectations, or a dataset has no frame.
        CorruptInputError: the rows of a frame cannot even be counted. What fails while an expectation is
            evaluated is no error: that expectation has failed.
    """
    _all_given(suite, frames)

    def open_frames(context: Any) -> Callable[[str], Any]:
        for name in suite.datasets:
            frames[name].createOrReplaceTempView(view_name(name))
        datasource_type()  # defining it is what gives the context a method to add one
        source = context.data_sources.add_few_scans_spark(name="spark", persist=False)

        def batch_of(name: str) -> Any:
            definition = source.add_dataframe_asset(name=name).add_batch_definition_whole_dataframe("all")
            return definition.get_batch(batch_parameters={"dataframe": frames[name]})

        return batch_of

    def split(name: str, batch: Any, broken: Mapping[str, Any]) -> Tuple[int, Optional[str]]:
        if put_aside is None:
            return 0, None
        return put_aside(name, marked(batch, frames[name], broken) if broken else None)

    return _run(suite, open_frames, docs, clock, split)


def run_suite_on_tables(
    suite: Suite,
    engine: Any,
    tables: Mapping[str, Rows],
    docs: Optional[Path] = None,
    clock: Callable[[], float] = time.monotonic,
) -> GateResult:
    """Run *suite* in a database and return what it found, like :func:`run_suite`.

    Args:
        suite: its variables already filled in (:meth:`Suite.for_partitions`).
        engine: a SQLAlchemy engine; everything is computed there, and only numbers and examples are fetched.
        tables: what each dataset of the suite is, by name.
        docs: as for :func:`run_suite`.

    Raises:
        ConfigurationError: as :func:`run_suite`, or an expectation has severity quarantine.
        CorruptInputError: the rows of a table cannot be counted.
    """
    _all_given(suite, tables)
    for entries in suite.datasets.values():
        for entry in entries:
            if entry.severity == QUARANTINE:
                raise ConfigurationError(
                    f"{entry.where}: severity quarantine puts rows aside before they are loaded, and this is a table, "
                    "where they are loaded already; use severity stop or warn"
                )

    def open_tables(context: Any) -> Callable[[str], Any]:
        from airflow_emr_etl.quality.sql_engine import open_source

        source = open_source(context, engine, tables)
        return lambda name: (
            source.add_table_asset(name=name).add_batch_definition_whole_table("all").get_batch()
        )

    return _run(suite, open_tables, docs, clock, lambda *_: (0, None))


def _all_given(suite: Suite, data: Mapping[str, Any]) -> None:
    missing = sorted(set(suite.datasets) - set(data))
    if missing:
        raise ConfigurationError(
            f"{suite.source}: there is no data for dataset {', '.join(missing)}; "
            f"given: {', '.join(sorted(data)) or 'none'}"
        )


def _run(
    suite: Suite,
    open_data: Callable[[Any], Callable[[str], Any]],
    docs: Optional[Path],
    clock: Callable[[], float],
    split: Callable[[str, Any, Mapping[str, Any]], Tuple[int, Optional[str]]],
) -> GateResult:
    """``open_data`` takes the context and returns what makes the batch of a dataset; ``split`` puts rows aside."""
    started = clock()
    built = build_expectations(suite)
    context = _context(docs)
    batch_of = open_data(context)
    datasets = {}
    for name, entries in suite.datasets.items():
        batch = batch_of(name)
        whole, rows = _validated(batch, name, [built[entry.id] for entry in entries])
        found = {_identity(evr): evr.to_json_dict() for evr in whole.results}
        findings = tuple(finding(entry, found[entry.id]) for entry in entries)
        quarantined, clean = 0, None
        apart = [one for one in findings if one.severity == QUARANTINE]
        if apart:
            broken = {one.id: built[one.id] for one in apart if one.unexpected_count}
            quarantined, clean = split(name, batch, broken)
        datasets[name] = DatasetResult(rows, findings, quarantined, clean)
        if docs is not None:
            _keep_for_docs(context, suite, name, whole)
    result = GateResult(suite=suite.name, datasets=datasets, seconds=clock() - started)
    if docs is not None:
        _build_docs(context, suite, result, docs)
    return dataclasses.replace(result, seconds=clock() - started)


def finding(entry: Expectation, found: Mapping[str, Any]) -> ExpectationResult:
    """One entry's result from the JSON form of Great Expectations' own."""
    outcome = found.get("result") or {}
    raised = _raised(found.get("exception_info") or {})
    success = bool(found.get("success")) and raised is None
    count = outcome.get("unexpected_count")
    percent = outcome.get("unexpected_percent")
    examples = _examples(outcome.get("partial_unexpected_list") or [])
    observed = _plain(outcome.get("observed_value"), _OBSERVED_LENGTH)
    message = ""
    if raised is not None and _NO_PROVIDER in raised:
        message = (
            "could not be evaluated: Great Expectations cannot compute this where the data is; write it as an "
            f"unexpected_rows_expectation with a query ({_shortened(' '.join(raised.split()), _MESSAGE_LENGTH)})"
        )
    elif raised is not None:
        message = f"could not be evaluated: {_shortened(' '.join(raised.split()), _MESSAGE_LENGTH)}"
    elif not success and count is not None:
        share = f" ({percent:.3g} %)" if percent is not None else ""
        message = f"{count:,} of {outcome.get('element_count') or 0:,} rows are unexpected{share}"
        if examples:
            message += f", such as {', '.join(str(example) for example in examples[:3])}"
    elif not success and "unexpected_rows_query" in entry.parameters and isinstance(observed, int):
        message = f"the query returned {observed:,} rows, expected none"
    elif not success:
        wanted = ", ".join(
            f"{key}={value}" for key, value in entry.parameters.items() if not key.startswith("column")
        )
        message = f"observed {observed if observed is not None else 'no value'}"
        message += f", expected {wanted}" if wanted else ""
    return ExpectationResult(
        id=entry.id,
        type=entry.type,
        column=entry.column,
        # What could not be evaluated says nothing about any row, so no row can be put aside.
        severity=CRITICAL if raised is not None and entry.severity == QUARANTINE else entry.severity,
        success=success,
        observed=observed,
        unexpected_count=None if count is None else int(count),
        unexpected_percent=None if percent is None else round(float(percent), 4),
        examples=examples,
        message=message,
    )


def _built(entry: Expectation) -> Any:
    from great_expectations.compatibility import pydantic

    kinds = _kinds()
    kind = kinds.get(entry.type)
    if kind is None:
        raise ConfigurationError(
            f"{entry.where}: Great Expectations has no expectation {entry.type!r}; "
            f"{closest(entry.type, sorted(kinds))}"
        )
    fields = kind.__fields__
    valid = sorted(set(fields) - _MANAGED)
    for name in entry.parameters:
        if name not in valid:
            raise ConfigurationError(
                f"{entry.where}: it has no parameter {name!r}; {closest(name, valid)} "
                f"(all: {', '.join(valid)})"
            )
    ours: Dict[str, Any] = {"meta": {_META_KEY: entry.id}}
    if entry.note:
        ours["notes"] = entry.note
    if "severity" in fields:  # since 1.6; before, it is known to us alone
        ours["severity"] = WARNING if entry.severity == QUARANTINE else entry.severity
    try:
        return kind(**entry.parameters, **ours)
    except (pydantic.ValidationError, TypeError, ValueError) as problem:
        raise ConfigurationError(f"{entry.where}: {_complaint(problem)}") from problem


def _complaint(problem: Exception) -> str:
    errors = getattr(problem, "errors", None)
    if not callable(errors):
        return str(problem)
    said = []
    for error in errors():
        place = ".".join(str(part) for part in error["loc"] if part != "__root__")
        said.append(f"{place}: {error['msg']}" if place else error["msg"])
    return "; ".join(said)


@functools.lru_cache(maxsize=1)
def _kinds() -> Dict[str, Any]:
    from great_expectations.expectations import registry

    return {
        name: registry.get_expectation_impl(name)
        for name in registry.list_registered_expectation_implementations()
    }


def _context(docs: Optional[Path]) -> Any:
    """A context that lives in memory, shows no progress bars, tells nobody and writes only into *docs*."""
    gx = import_great_expectations()
    from great_expectations.data_context.types import base

    config = base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        analytics_enabled=False,
        progress_bars=base.ProgressBarsConfig(globally=False),
    )
    # The context that get_context makes for itself would build a second site in a folder that stays behind.
    config.data_docs_sites = {} if docs is None else {"gate": _site(docs)}
    return gx.get_context(mode="ephemeral", project_config=config)


def _site(docs: Path) -> Dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


def _validated(batch: Any, name: str, expectations: Sequence[Any]) -> Tuple[Any, int]:
    """The result for the whole dataset, each failure with examples and each exception its own; and its rows."""
    # Rides along to tell the rows: the other expectations need the same metric, so it costs nothing.
    counter = _kinds()["expect_table_row_count_to_be_between"](min_value=0, meta={_META_KEY: _ROWS})
    by_id = {item.meta[_META_KEY]: item for item in [*expectations, counter]}
    whole = _pass(batch, name, list(by_id.values()), sampled=0)
    results = {_identity(evr): evr for evr in whole.results}
    raised = [identity for identity, evr in results.items() if _raised(evr.exception_info or {}) is not None]
    if len(raised) > 1:
        for identity in raised:
            results[identity] = _pass(batch, name, [by_id[identity]], sampled=_SAMPLED).results[0]
    unexplained = [
        by_id[identity]
        for identity, evr in results.items()
        if identity not in raised and not evr.success and (evr.result or {}).get("unexpected_count")
    ]
    if unexplained:
        results.update(
            (_identity(evr), evr) for evr in _pass(batch, name, unexplained, sampled=_SAMPLED).results
        )
    counted = results.pop(_ROWS)
    problem = _raised(counted.exception_info or {})
    if problem is not None:
        raise CorruptInputError(f"the rows of dataset {name} cannot be counted: {problem}")
    return _summed(whole, list(results.values())), int(counted.result["observed_value"])


def _identity(evr: Any) -> str:
    return str(evr.expectation_config.meta[_META_KEY])


def _pass(batch: Any, name: str, expectations: Sequence[Any], sampled: int) -> Any:
    from great_expectations import ExpectationSuite

    return batch.validate(
        # Copies, since a suite takes the ids of the expectations that it is given.
        ExpectationSuite(name=name, expectations=[item.copy(deep=True) for item in expectations]),
        result_format={"result_format": "BASIC", "partial_unexpected_count": sampled},
    )


def _summed(whole: Any, results: List[Any]) -> Any:
    good = sum(1 for evr in results if evr.success)
    whole.results = results
    whole.success = good == len(results)
    whole.statistics = {
        "evaluated_expectations": len(results),
        "successful_expectations": good,
        "unsuccessful_expectations": len(results) - good,
        "success_percent": good / len(results) * 100,
    }
    return whole


def _keep_for_docs(context: Any, suite: Suite, name: str, whole: Any) -> None:
    """Put a dataset's result where the site builder looks for it.

    Great Expectations writes values into its pages as they are, and these values are what strangers sent to a
    web server: they are escaped here, in place, so call this after the findings were taken.
    """
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )
    from great_expectations.util import convert_to_json_serializable

    now = datetime.datetime.now(datetime.timezone.utc)
    run = RunIdentifier(run_name=suite.name, run_time=now)
    whole.meta.update(run_id=run, validation_time=now, batch_parameters=None)
    whole.suite_name = name
    for evr in whole.results:
        # Expectations about quantiles leave NumPy's booleans.
        evr.success = bool(evr.success)
        evr.result = _escaped(convert_to_json_serializable(evr.result))
        evr.exception_info = _escaped(evr.exception_info)
    key = ValidationResultIdentifier(
        expectation_suite_identifier=ExpectationSuiteIdentifier(name=name),
        run_id=run,
        batch_identifier=name,
    )
    context.validation_results_store.set(key, whole)


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, Mapping):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(item) for item in value]
    return value


def _build_docs(context: Any, suite: Suite, result: GateResult, docs: Path) -> None:
    context.build_data_docs()
    pages = {
        name: page.relative_to(docs).as_posix()
        for name in result.datasets
        for page in docs.glob(f"validations/{name}/*/*/{name}.html")
    }
    notes = {
        entry.id: entry.note
        for entries in suite.datasets.values()
        for entry in entries
        if entry.note is not None
    }
    (docs / "index.html").write_text(render_page(result, pages, notes), encoding="utf-8")


def _raised(info: Mapping[str, Any]) -> Optional[str]:
    """The message of an exception; None when there was none.

    Great Expectations gives one record, or, when metrics failed, one record for each metric.
    """
    if "raised_exception" in info:
        records: List[Any] = [info]
    else:
        records = [record for record in info.values() if isinstance(record, Mapping)]
    for record in records:
        if record.get("raised_exception"):
            return str(record.get("exception_message") or "it raised an exception without a message")
    return None


def _examples(values: Sequence[Any]) -> Tuple[Any, ...]:
    distinct: Dict[str, Any] = {}
    for value in values:
        plain = _plain(value, _EXAMPLE_LENGTH)
        if plain is not None:
            distinct.setdefault(repr(plain), plain)
    return tuple(distinct.values())[:EXAMPLES]


def _plain(value: Any, length: int) -> Any:
    """*value* as strict JSON data of a bounded length: these are bytes of somebody's log."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _shortened(value, length)
    if isinstance(value, Mapping):
        kept: Any = {str(key): _plain(item, length) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        kept = [_plain(item, length) for item in value]
    else:
        kept = str(value)
    return kept if len(str(kept)) <= length else _shortened(str(kept), length)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
