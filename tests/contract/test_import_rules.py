"""Who may import whom, read from the source; see the architecture page."""

from __future__ import annotations

import ast
import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_emr_etl

NAME = "airflow_emr_etl"
PACKAGE = Path(airflow_emr_etl.__file__).parent
MODULES = {
    ".".join((NAME, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

AIRFLOW_LAYER = {"hooks", "triggers", "operators", "sensors", "transfers", "links"}
DOMAINS = {"models", "spark", "quality", "warehouse", "clickstream"}
#: For each part of the package, the parts that it may import. ``exceptions`` is open to all.
MAY_IMPORT = {
    "exceptions": set(),
    "provider": set(),
    "retry_policy": set(),
    "models": set(),
    "clickstream": {"models"},
    "spark": {"models"},
    "quality": {"models"},
    "warehouse": {"models"},
    "hooks": DOMAINS,
    "links": {"models"},
    "triggers": {"hooks", "models"},
    "operators": DOMAINS | AIRFLOW_LAYER,
    "sensors": DOMAINS | AIRFLOW_LAYER,
    "transfers": DOMAINS | AIRFLOW_LAYER,
    "local": {"models"},
}
#: Modules that may import one part more, and why.
EXCEPTIONS = {
    f"{NAME}.models.pool": {
        "operators"
    },  # ClusterPool.spark and its like make tasks, and import them only then
    f"{NAME}.models.table": {"transfers"},  # RedshiftTable.load makes the task, and imports it only then
    f"{NAME}.spark.jobs.quality_gate": {"quality"},  # the program that runs quality on the cluster
    f"{NAME}.spark.gate_history": {"quality"},  # reads that program's results
    f"{NAME}.spark.package": {"quality"},  # packs what that program needs
}
#: What the workers of a job do with its rows: loaded there, never with the package.
IN_ARROW = {
    f"{NAME}.spark.{name}"
    for name in (
        "arrow_text",
        "event_pass",
        "line_pass",
        "line_shares",
        "log_chunks",
        "parquet_parts",
        "plain_access_log",
        "plain_json",
        "session_files",
        "session_marks",
        "session_pass",
        "session_shuffle",
        "xxhash64",
    )
}
#: Scripts for spark-submit that run when loaded.
SCRIPTS = {f"{NAME}.local.spark.class_list_job"}


def part_of(module: str) -> str:
    """``airflow_emr_etl.hooks.emr_step`` → ``hooks``; the package itself → empty."""
    return module.removeprefix(NAME).removeprefix(".").partition(".")[0]


def imported(path: Path, module: str, *, at_load: bool) -> Iterator[tuple[str, int]]:
    """Modules that a file imports, with the line; with ``at_load`` only those that loading it loads."""
    tree = ast.parse(path.read_text())
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if at_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_load and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module if path.name == "__init__.py" else module.rpartition(".")[0]
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        nodes += ast.iter_child_nodes(node)


def top(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_parts_import_only_what_they_may(module: str) -> None:
    part = part_of(module)
    if part in ("", "cli"):
        return  # the package's own lazy names, and the program that starts everything
    assert part in MAY_IMPORT, f"say in this test what {part!r} may import"
    allowed = MAY_IMPORT[part] | EXCEPTIONS.get(module, set()) | {part, "exceptions"}
    strangers = [
        f"{module}:{line} imports {name}"
        for name, line in imported(MODULES[module], module, at_load=False)
        if top(name) == NAME
        and name != NAME
        and part_of(name) not in allowed
        and name != f"{NAME}.__version__"
    ]
    assert strangers == []


@pytest.mark.parametrize(
    "module", [name for name in MODULES if part_of(name) in DOMAINS | {"exceptions", "local"}]
)
def test_the_domains_know_nothing_of_airflow(module: str) -> None:
    names = imported(MODULES[module], module, at_load=False)
    assert [f"{module}:{line} imports {name}" for name, line in names if top(name) == "airflow"] == []


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name) not in ("local", "cli")])
def test_heavy_modules_wait_for_their_use(module: str) -> None:
    root = PACKAGE.parent
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    banned = set(settings["flake8-tidy-imports"]["banned-module-level-imports"]) | {"urllib3", "s3transfer"}
    if part_of(module) == "spark":
        banned -= {"pyspark"}  # runs inside Spark
    if module in IN_ARROW:
        banned -= {"numpy", "pyarrow"}
    names = imported(MODULES[module], module, at_load=True)
    assert [f"{module}:{line} imports {name}" for name, line in names if top(name) in banned] == []


@pytest.mark.parametrize("module", sorted(MODULES.keys() - SCRIPTS))
def test_every_module_can_be_imported(module: str) -> None:
    importlib.import_module(module)


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if part_of(name) in ("spark", "quality", "exceptions")]
    + [f"{NAME}.models.manifest"],
)
def test_what_ships_to_the_cluster_is_python_3_9(module: str) -> None:
    ast.parse(MODULES[module].read_text(), feature_version=(3, 9))
