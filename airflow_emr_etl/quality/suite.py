"""Expectation suites as YAML: what a suite file may say, and its reading.

::

    suite: clickstream
    datasets:
      events:
        - expect_column_values_to_be_unique: {column: event_id}
        - expect_column_values_to_be_between:
            column: status
            min_value: 100
            max_value: 599
            severity: warning
            note: Servers invent codes such as 999.
      daily_traffic:
        - expect_table_row_count_to_equal: {value: 1}

Each entry is one Great Expectations type with its own parameters. Three keys are ours: ``severity``
(``critical`` or ``stop``, the default; ``warning`` or ``warn``; ``info``; ``quarantine``), ``note`` (why the rule is
there; the data docs show it) and ``id`` (default: made of dataset, column and type). A text value may hold
``${partition.NAME}``, which is filled from the partition that the dataset's manifest names, such as
``${partition.dt}``.

This module knows the shape only; that a type and its parameters exist is checked by
:func:`airflow_emr_etl.quality.runner.build_expectations`, where Great Expectations is installed.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Optional, Sequence, Tuple

from airflow_emr_etl.exceptions import ConfigurationError

CRITICAL = "critical"
WARNING = "warning"
INFO = "info"
QUARANTINE = "quarantine"
SEVERITIES = (CRITICAL, WARNING, INFO, QUARANTINE)
"""``quarantine`` takes the rows that break a rule out of the data, and lets the others pass."""
SYNONYMS: Mapping[str, str] = {"stop": CRITICAL, "warn": WARNING}

OWN_KEYS = ("severity", "note", "id")
"""Keys of an entry that are ours; all others go to Great Expectations."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}\Z")
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_TYPE_SUFFIX = "expect_"


@dataclasses.dataclass(frozen=True)
class Expectation:
    """One entry of a suite."""

    id: str
    """Unique in the suite, and the same from run to run."""
    type: str
    """A Great Expectations type in snake case, such as ``expect_column_values_to_be_unique``."""
    parameters: Mapping[str, Any]
    severity: str
    note: Optional[str]
    dataset: str
    where: str
    """Where the entry stands, for messages: file, line, dataset, number."""

    @property
    def column(self) -> Optional[str]:
        """The column or columns it looks at, for people; None when it looks at the table."""
        return _columns(self.parameters)


@dataclasses.dataclass(frozen=True)
class Suite:
    """A whole suite file. ``datasets`` keeps the order of the file."""

    name: str
    datasets: Mapping[str, Tuple[Expectation, ...]]
    source: str
    modules: Tuple[str, ...] = ()
    """Python modules that define expectations of a team's own."""

    def with_past(self, kind: str, past_of: Callable[[Expectation], Sequence[float]]) -> Suite:
        """The same suite with what *past_of* finds for an entry, if anything, as ``past`` of entries of type *kind*
        that name none themselves."""

        def filled(entry: Expectation) -> Expectation:
            past = list(past_of(entry)) if entry.type == kind else []
            if not past:
                return entry
            return dataclasses.replace(entry, parameters={"past": past, **entry.parameters})

        return dataclasses.replace(
            self,
            datasets={name: tuple(map(filled, entries)) for name, entries in self.datasets.items()},
        )

    def for_partitions(
        self, partitions: Mapping[str, Mapping[str, str]], views: Optional[Mapping[str, str]] = None
    ) -> Suite:
        """The same suite with ``${partition.NAME}`` filled in from *partitions* (by dataset), and
        ``${dataset.NAME}`` with what a query finds that dataset under: *views* by dataset, by default the view
        that :func:`view_name` names.

        Raises:
            ConfigurationError: a value asks for a partition key that its dataset does not have.
        """
        return dataclasses.replace(
            self,
            datasets={
                dataset: tuple(
                    dataclasses.replace(
                        entry,
                        parameters=_filled(
                            entry.parameters,
                            {
                                **{
                                    f"partition.{key}": value
                                    for key, value in partitions.get(dataset, {}).items()
                                },
                                **{
                                    f"dataset.{name}": views[name] if views else view_name(name)
                                    for name in self.datasets
                                },
                            },
                            entry.where,
                        ),
                    )
                    for entry in entries
                )
                for dataset, entries in self.datasets.items()
            },
        )


def load_suite(text: str, source: str) -> Suite:
    """Read a suite.

    Args:
        text: the YAML; plain data only, no tags that make objects.
        source: what to call the file in messages.

    Raises:
        ConfigurationError: the file is not such a suite; the message names file, line, dataset and entry,
            what came and what is valid.
    """
    document, lines = _parse(text, source)
    if not isinstance(document, dict):
        _refuse(source, f"a suite is a mapping with the keys suite and datasets, not {_shown(document)}")
    _known_keys(document, ("suite", "datasets", "modules"), source)
    modules = document.get("modules") or []
    if not isinstance(modules, list) or not all(isinstance(one, str) for one in modules):
        _refuse(
            source, f"modules is {_shown(modules)}; give a list of Python modules, such as [my_team.checks]"
        )
    name = document.get("suite")
    if not isinstance(name, str) or not _NAME.match(name):
        _refuse(
            source,
            f"suite is {_shown(name)}; give the suite a name of letters, digits, '_', '-' and '.', "
            "starting with a letter",
        )
    datasets = document.get("datasets")
    if not isinstance(datasets, dict) or not datasets:
        _refuse(
            source,
            f"datasets is {_shown(datasets)}; give a mapping of dataset names to lists of expectations",
        )
    entries: Dict[str, Tuple[Expectation, ...]] = {}
    seen: Dict[str, str] = {}
    for dataset, raw in datasets.items():
        if not isinstance(dataset, str) or not _NAME.match(dataset):
            _refuse(source, f"dataset {_shown(dataset)}: a dataset's name is a word such as events")
        if not isinstance(raw, list) or not raw:
            _refuse(source, f"dataset {dataset}: {_shown(raw)} came; give a list of expectations")
        loaded: List[Expectation] = []
        for number, item in enumerate(raw, start=1):
            where = f"{source}, line {lines[dataset][number - 1]}: dataset {dataset}, entry {number}"
            loaded.append(_entry(item, dataset, where, seen))
        entries[dataset] = tuple(loaded)
    return Suite(name=name, datasets=entries, source=source, modules=tuple(modules))


def view_name(dataset: str) -> str:
    """The name under which queries of a suite find a dataset."""
    return f"gate_{re.sub('[^A-Za-z0-9]', '_', dataset)}"


def closest(word: str, valid: Sequence[str]) -> str:
    """A piece of a message: the valid words, or the ones near *word* when there are many."""
    near = difflib.get_close_matches(word, valid, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"valid: {', '.join(sorted(valid))}" if valid else "it takes none"


def _entry(item: Any, dataset: str, where: str, seen: Dict[str, str]) -> Expectation:
    if not isinstance(item, dict) or len(item) != 1:
        _refuse(
            where,
            f"{_shown(item)} came; an entry is one expectation with its parameters, such as "
            "expect_column_values_to_be_unique: {column: event_id}",
        )
    ((kind, raw),) = item.items()
    if not isinstance(kind, str):
        _refuse(where, f"{_shown(kind)} is not the name of an expectation")
    where = f"{where} ({kind})"
    raw = {} if raw is None else raw
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        _refuse(where, f"{_shown(raw)} came; give its parameters as a mapping, such as {{column: event_id}}")
    given = raw.get("severity", CRITICAL)
    severity = SYNONYMS.get(given, given) if isinstance(given, str) else given
    if severity not in SEVERITIES:
        _refuse(where, f"severity is {_shown(given)}; valid: {', '.join((*SEVERITIES, *SYNONYMS))}")
    note = raw.get("note")
    if note is not None and not isinstance(note, str):
        _refuse(where, f"note is {_shown(note)}; give text")
    parameters = {key: value for key, value in raw.items() if key not in OWN_KEYS}
    return Expectation(
        id=_identity(raw.get("id"), kind, parameters, dataset, where, seen),
        type=kind,
        parameters=parameters,
        severity=severity,
        note=note,
        dataset=dataset,
        where=where,
    )


def _identity(
    given: Any, kind: str, parameters: Mapping[str, Any], dataset: str, where: str, seen: Dict[str, str]
) -> str:
    if given is not None:
        if not isinstance(given, str) or not _NAME.match(given):
            _refuse(where, f"id is {_shown(given)}; give a word of letters, digits, '_', '-' and '.'")
        if given in seen:
            _refuse(where, f"id {given!r} is already that of {seen[given]}; ids are unique in a suite")
        identity = given
    else:
        short = kind[len(_TYPE_SUFFIX) :] if kind.startswith(_TYPE_SUFFIX) else kind
        column = _columns(parameters)
        stem = ".".join([dataset, *([column.replace(", ", "+")] if column else []), short])
        identity, again = stem, 1
        while identity in seen:
            again += 1
            identity = f"{stem}.{again}"
    seen[identity] = where
    return identity


def _columns(parameters: Mapping[str, Any]) -> Optional[str]:
    if "column" in parameters:
        return str(parameters["column"])
    if "column_A" in parameters or "column_B" in parameters:
        return f"{parameters.get('column_A')}, {parameters.get('column_B')}"
    names = parameters.get("column_list")
    return ", ".join(map(str, names)) if isinstance(names, list) and names else None


def _filled(value: Any, known: Mapping[str, str], where: str) -> Any:
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _variable(match.group(1), known, where), value)
    if isinstance(value, (list, tuple)):
        return [_filled(item, known, where) for item in value]
    if isinstance(value, Mapping):
        return {key: _filled(item, known, where) for key, item in value.items()}
    return value


def _variable(name: str, known: Mapping[str, str], where: str) -> str:
    if name not in known:
        valid = ", ".join(f"${{{one}}}" for one in known)
        _refuse(where, f"${{{name}}} is not known here; valid: {valid}")
    return known[name]


def _known_keys(mapping: Mapping[Any, Any], valid: Sequence[str], where: str) -> None:
    for key in mapping:
        if key not in valid:
            _refuse(where, f"key {_shown(key)} is unknown; valid: {', '.join(valid)}")


def _parse(text: str, source: str) -> Tuple[Any, Mapping[str, List[int]]]:
    """The document as plain data, and the line on which each entry of each dataset starts."""
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            _refuse(source, "the file is empty; a suite is a mapping with the keys suite and datasets")
        _no_doubles(node, source, set())
        lines: Dict[str, List[int]] = {}
        for dataset, entries in _pairs(_pairs_by_name(node).get("datasets")):
            if isinstance(entries, yaml.SequenceNode):
                lines[dataset] = [entry.start_mark.line + 1 for entry in entries.value]
        return loader.construct_document(node), lines
    except yaml.YAMLError as problem:
        raise ConfigurationError(f"{source}: this is not plain YAML: {problem}") from problem
    finally:
        loader.dispose()


def _no_doubles(node: Any, source: str, visited: set[int]) -> None:
    """YAML readers let the last of two equal keys win in silence, which would drop a rule."""
    import yaml

    if id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    _refuse(
                        f"{source}, line {key.start_mark.line + 1}",
                        f"key {key.value!r} is there twice; merge the two or drop one",
                    )
                keys.add(key.value)
            _no_doubles(value, source, visited)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _no_doubles(item, source, visited)


def _pairs_by_name(node: Any) -> Dict[str, Any]:
    return dict(_pairs(node))


def _pairs(node: Any) -> List[Tuple[str, Any]]:
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return []
    return [(key.value, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _refuse(where: str, problem: str) -> NoReturn:
    raise ConfigurationError(f"{where}: {problem}")
