"""Every command in the README and the docs exists: a make target, or an ``emr-etl`` command with those options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from airflow_emr_etl.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"```(?:sh|console|bash)\n(.*?)```", text, re.DOTALL)
        lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
        inline = re.findall(r"`((?:make|emr-etl) [^`]+)`", text)
        for line in [*lines, *inline]:
            command = re.sub(r"\s+#.*$", "", line).strip()
            if re.match(r"(make|emr-etl|eval)\b", command):
                found.append((page.name, command))
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_command_exists(page: str, command: str) -> None:
    if command.startswith("make "):
        words = [word for word in shlex.split(command)[1:] if "=" not in word]
        for word in words:
            known = (
                word in TARGETS
                or (ROOT / "benchmarks" / f"{word.removeprefix('bench-').replace('-', '_')}.py").is_file()
            )
            assert known, f"{page}: {command}: no such target"
        return
    if command.startswith("eval"):
        assert command == 'eval "$(emr-etl local env)"'
        return
    if "…" in command or "|" in command:
        command = re.split(r"[…|]", command)[0]
    node: Any = typer.main.get_command(app)
    words = shlex.split(command)[1:]
    while hasattr(node, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        following = node.commands.get(name)
        assert following is not None, f"{page}: {command}: {node.name} has no command {name}"
        node = following
    options = {option for parameter in node.params for option in [*parameter.opts, *parameter.secondary_opts]}
    for word in words:
        if word.startswith("-"):
            assert word.split("=")[0] in {*options, "--help"}, f"{page}: {command}: unknown option {word}"


def test_the_dag_in_the_readme_is_one() -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)

    dag = next(value for value in names.values() if type(value).__name__ == "EmrCluster").dag
    assert set(dag.task_ids) == {"cluster_up", "normalize", "sessionize", "check", "load", "cluster_down"}
    assert dag.get_task("load").upstream_task_ids == {"check"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []
