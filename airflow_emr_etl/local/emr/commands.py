"""What a step of EMR means on this machine: pure translation of HadoopJarStep into something to run.

Flags that place a job on YARN are dropped, each with a note for the step's controller log. What local AWS cannot
run is refused; no step is ever made to look as if it had run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from airflow_emr_etl.local.emr.records import Params

SQL_CLASS = "org.apache.spark.sql.hive.thriftserver.SparkSQLCLIDriver"

# Options of spark-submit that take a value and reach Spark as they are.
_KEPT_OPTIONS = frozenset(
    (
        *("--class", "--name", "--jars", "--packages", "--exclude-packages"),
        *("--repositories", "--py-files", "--files", "--archives"),
    )
)
# Options that say where on the cluster a job runs, and as whom.
_PLACEMENT_OPTIONS = frozenset(
    (
        *("--master", "--executor-memory", "--executor-cores", "--num-executors", "--total-executor-cores"),
        *("--driver-cores", "--queue", "--keytab", "--principal", "--proxy-user", "--driver-library-path"),
    )
)
_FLAGS = frozenset(("--verbose", "-v", "--supervise", "--load-spark-defaults"))
_MEANT_FOR_YARN = re.compile(
    r"spark\.(master|yarn\..*|executor\.(memory|memoryOverhead|memoryOverheadFactor|cores"
    r"|instances|extraJavaOptions|extraClassPath|extraLibraryPath|defaultJavaOptions)|dynamicAllocation\..*"
    r"|shuffle\.service\..*|driver\.(host|bindAddress|cores|memoryOverhead|memoryOverheadFactor"
    r"|extraLibraryPath)|pyspark\.(python|driver\.python)|local\.dir|blacklist\..*|decommission\..*"
    r"|hadoop\.fs\.(s3|s3a|s3n)\.(impl|endpoint.*|path\.style\.access|aws\..*|access\.key|secret\.key)"
    r"|sql\.(parquet|sources)\.(output\.committer\.class|outputCommitterClass)|sql\.hive\.metastore\..*"
    r"|hadoop\.mapreduce\.outputcommitter\.factory\..*|ui\.enabled)"
)
_APPLICATION_MASTER_VARIABLE = "spark.yarn.appMasterEnv."
_PYTHON_VARIABLES = frozenset(("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON", "PYTHONPATH"))
_EXAMPLES = {
    "SparkPi": "pi.py",
    "JavaSparkPi": "pi.py",
    "SparkALS": "als.py",
    "SparkKMeans": "kmeans.py",
    "SparkPageRank": "pagerank.py",
    "JavaPageRank": "pagerank.py",
    "SparkTC": "transitive_closure.py",
    "JavaTC": "transitive_closure.py",
    "JavaWordCount": "wordcount.py",
}
"""Spark's examples in Scala and Java whose port to Python, which takes the same arguments, comes with PySpark."""
_NOT_HERE = {
    "hive": "Hive",
    "hive-script": "Hive",
    "beeline": "Hive",
    "pig": "Pig",
    "pig-script": "Pig",
    "flink": "Flink",
    "flink-yarn-session": "Flink",
    "presto-cli": "Presto",
    "trino-cli": "Trino",
    "hbase": "HBase",
    "hadoop-streaming": "Hadoop MapReduce",
    "mapred": "Hadoop MapReduce",
    "yarn": "YARN",
    "sqoop": "Sqoop",
    "oozie": "Oozie",
}


class UnsupportedStepError(Exception):
    """Local AWS does not run this step; the message says why and what would run."""


@dataclass
class SparkRun:
    """An application for spark-submit."""

    options: list[str]
    """Options that stay on the command line, such as ``--py-files``."""
    application: list[str]
    """The main file and its arguments."""
    properties: dict[str, str]
    memory: str | None = None
    java_options: list[str] = field(default_factory=list)
    class_path: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    cluster_mode: bool = False
    notes: list[str] = field(default_factory=list)
    is_example: bool = False
    """The main file is one of the Python examples that come with PySpark."""


@dataclass
class ProgramRun:
    """Any other program, found on the step's PATH."""

    command: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    script: str | None = None
    """An s3:// or local script to fetch first; it becomes the program and ``command`` its arguments."""
    notes: list[str] = field(default_factory=list)


Run = SparkRun | ProgramRun


def translate(
    jar: str,
    args: Iterable[str],
    main_class: str | None = None,
    configurations: Iterable[Params] = (),
    *,
    read_text: Callable[[str], str],
) -> Run:
    """What to run for a step. ``read_text`` reads a local file or an object, for ``--properties-file``.

    Raises:
        UnsupportedStepError: nothing here can run it.
    """
    words = list(args)
    defaults, variables, notes = cluster_settings(configurations)
    name = PurePosixPath(jar).name
    if name == "script-runner.jar":
        if not words:
            raise UnsupportedStepError("script-runner.jar needs the path of a script as its first argument.")
        return ProgramRun(words[1:], variables, script=words[0], notes=notes)
    if name != "command-runner.jar" or "://" in jar:
        raise UnsupportedStepError(
            f"Local AWS does not run custom jars ({jar}, main class {main_class or 'of its manifest'}). It runs "
            "command-runner.jar (spark-submit, spark-sql, bash, aws, hadoop fs) and script-runner.jar."
        )
    if not words:
        raise UnsupportedStepError("command-runner.jar needs a command as its first argument.")
    program = PurePosixPath(words[0]).name
    if program in _NOT_HERE:
        raise UnsupportedStepError(
            f"Local AWS does not run {_NOT_HERE[program]} ({words[0]}); this step was not run."
        )
    if program == "spark-submit":
        return _spark(words[1:], defaults, variables, notes, read_text, sql=False)
    if program == "spark-sql":
        return _spark(words[1:], defaults, variables, notes, read_text, sql=True)
    if program in ("spark-example", "run-example"):
        return _example(words, defaults, variables, notes, read_text)
    if program in ("spark-shell", "pyspark", "sparkR"):
        raise UnsupportedStepError(f"Local AWS does not run {program}; use spark-submit or spark-sql.")
    return ProgramRun(words, variables, notes=notes)


def _example(
    words: list[str],
    defaults: Mapping[str, str],
    variables: Mapping[str, str],
    notes: list[str],
    read_text: Callable[[str], str],
) -> SparkRun:
    """``run-example [options of spark-submit] SparkPi [arguments]``: the example's port to Python."""
    if len(words) < 2:
        raise UnsupportedStepError(f"{words[0]} needs the name of an example, such as SparkPi.")
    run = _spark(words[1:], defaults, variables, notes, read_text, sql=False)
    asked = run.application[0]
    name = asked.removeprefix("org.apache.spark.examples.")
    script = _EXAMPLES.get(name)
    if script is None:
        raise UnsupportedStepError(
            f"Local AWS does not run Spark's example {asked}: PySpark, which runs the steps here, brings no port of "
            f"it to Python. It runs {', '.join(_EXAMPLES)}; use spark-submit for programs of your own."
        )
    run.is_example = True
    run.application[0] = script
    run.notes.append(f"{asked} runs as its port to Python, {script} of PySpark's examples.")
    return run


def cluster_settings(configurations: Iterable[Params]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """(spark-defaults, exported variables, notes on what is not applied) of a cluster's ``Configurations``."""
    defaults: dict[str, str] = {}
    variables: dict[str, str] = {}
    notes: list[str] = []
    for configuration in configurations:
        name = configuration.get("Classification", "")
        if name == "spark-defaults":
            defaults.update(configuration.get("Properties") or {})
        elif name in ("spark-env", "hadoop-env", "yarn-env"):
            for nested in configuration.get("Configurations") or []:
                if nested.get("Classification") == "export":
                    variables.update(nested.get("Properties") or {})
        else:
            notes.append(f"The cluster's configuration {name} has no effect here.")
    for variable in sorted(_PYTHON_VARIABLES & variables.keys()):
        del variables[variable]
        notes.append(f"{variable} of the cluster's configuration is replaced by this machine's Python.")
    return defaults, variables, notes


def _spark(
    words: list[str],
    defaults: Mapping[str, str],
    variables: Mapping[str, str],
    notes: list[str],
    read_text: Callable[[str], str],
    *,
    sql: bool,
) -> SparkRun:
    run = SparkRun([], [], {}, variables=dict(variables), notes=list(notes))
    asked: dict[str, str] = {}
    from_file: dict[str, str] = {}
    sql_arguments: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") and not sql:
            run.application = [word, *rest]
            break
        option, has_value, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if option in _FLAGS:
            continue
        if option in _KEPT_OPTIONS or option in _PLACEMENT_OPTIONS or option in _VALUED:
            if not has_value:
                if not rest:
                    raise UnsupportedStepError(f"spark-submit: the option {option} has no value.")
                value = rest.pop(0)
            if option == "--properties-file":
                from_file.update(read_properties(read_text(value)))
            else:
                _take(run, asked, option, value)
        elif sql:
            sql_arguments.append(word)
        else:
            raise UnsupportedStepError(f"spark-submit: unrecognized option {word}.")
    if sql:
        run.options += ["--class", SQL_CLASS]
        run.application = ["spark-internal", *sql_arguments]
    elif not run.application:
        raise UnsupportedStepError("spark-submit: no application file is named.")
    _settle(run, {**defaults, **from_file, **asked})
    return run


_VALUED = frozenset(
    (
        *("--conf", "-c", "--deploy-mode", "--properties-file", "--driver-memory"),
        *("--driver-java-options", "--driver-class-path"),
    )
)


def _take(run: SparkRun, asked: dict[str, str], option: str, value: str) -> None:
    if option in ("--conf", "-c"):
        key, equals, setting = value.partition("=")
        if not equals:
            raise UnsupportedStepError(f"spark-submit: a --conf is KEY=VALUE, not {value!r}.")
        asked[key.strip()] = setting
    elif option in _KEPT_OPTIONS:
        run.options += [option, value]
    elif option == "--deploy-mode":
        asked["spark.submit.deployMode"] = value
    elif option == "--driver-memory":
        asked["spark.driver.memory"] = value
    elif option == "--driver-java-options":
        asked["spark.driver.extraJavaOptions"] = value
    elif option == "--driver-class-path":
        asked["spark.driver.extraClassPath"] = value
    else:
        run.notes.append(f"{option} {value} has no effect here: the step runs on this machine.")


def _settle(run: SparkRun, asked: dict[str, str]) -> None:
    run.cluster_mode = asked.get("spark.submit.deployMode", "client") == "cluster"
    for key, value in asked.items():
        if key == "spark.driver.memory":
            run.memory = value
        elif key in ("spark.driver.extraJavaOptions", "spark.driver.defaultJavaOptions"):
            for option in shlex.split(value):
                # The collector, the heap and the logs of Java are this machine's business.
                if option.startswith("-D"):
                    run.java_options.append(option)
                else:
                    run.notes.append(f"{key}: {option} has no effect here.")
        elif key == "spark.driver.extraClassPath":
            run.class_path += [each for each in value.split(":") if each]
        elif key.startswith(_APPLICATION_MASTER_VARIABLE):
            variable = key.removeprefix(_APPLICATION_MASTER_VARIABLE)
            if variable in _PYTHON_VARIABLES:
                run.notes.append(f"{key} is replaced by this machine's Python.")
            elif run.cluster_mode:
                run.variables[variable] = value
        elif key == "spark.submit.deployMode":
            continue  # seen to by the runner: logs go where YARN would put them
        elif _MEANT_FOR_YARN.fullmatch(key):
            run.notes.append(f"{key}={value} has no effect here: the step runs on this machine.")
        else:
            run.properties[key] = value


def memory_mib(text: str | None, default: int, limit: int) -> int:
    """Spark's memory strings (``2g``, ``512m``, ``1024`` MiB) in MiB, at most ``limit``."""
    match = re.fullmatch(r"\s*(\d+)\s*([kmgt]?)b?\s*", (text or "").lower())
    if not match:
        return min(default, limit)
    factor = {"k": 1 / 1024, "": 1, "m": 1, "g": 1024, "t": 1024 * 1024}[match[2]]
    return max(471, min(int(int(match[1]) * factor), limit))


def read_properties(text: str) -> dict[str, str]:
    """A Spark properties file: ``key value``, ``key=value`` or ``key: value``, and ``#`` comments."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        stripped = line.strip()
        if stripped and not stripped.startswith(("#", "!")):
            match = re.match(r"([^\s=:]+)\s*[=:\s]\s*(.*)", stripped)
            if match:
                found[match[1]] = match[2]
    return found


def write_properties(properties: Mapping[str, str]) -> str:
    """The same for Java to read (:class:`java.util.Properties`, in ASCII)."""
    return "".join(f"{_escape(key, ' =:#!')}={_escape(value)}\n" for key, value in properties.items())


def _escape(text: str, special: str = "") -> str:
    out = []
    for position, character in enumerate(text):
        if character in special or character == "\\" or (character == " " and position == 0):
            out.append("\\" + character)
        elif character in "\n\r\t":
            out.append({"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character])
        elif 32 <= ord(character) < 127:
            out.append(character)
        else:
            encoded = character.encode("utf-16-be")
            out += [f"\\u{encoded[at]:02x}{encoded[at + 1]:02x}" for at in range(0, len(encoded), 2)]
    return "".join(out)
