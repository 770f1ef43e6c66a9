from __future__ import annotations

import pytest

from airflow_emr_etl.local.emr.commands import (
    SQL_CLASS,
    ProgramRun,
    SparkRun,
    UnsupportedStepError,
    memory_mib,
    read_properties,
    translate,
    write_properties,
)

RUNNER = "command-runner.jar"


def no_file(uri: str) -> str:
    raise AssertionError(f"{uri} was read")


def spark(*args: str, **more: object) -> SparkRun:
    run = translate(RUNNER, args, read_text=no_file, **more)  # type: ignore[arg-type]
    assert isinstance(run, SparkRun)
    return run


def test_flags_that_place_a_job_on_yarn_are_dropped_and_noted() -> None:
    run = spark(
        *("spark-submit", "--deploy-mode", "cluster", "--master", "yarn", "--executor-memory=4g"),
        *("--conf", "spark.executor.instances=9", "--conf", "spark.yarn.maxAppAttempts=1"),
        *("--conf", "spark.sql.shuffle.partitions=7", "--driver-memory", "3g", "--name", "n"),
        *("--py-files", "s3://code/a.zip", "--class", "Main", "s3://code/job.py", "--conf", "x", "-v"),
    )
    assert run.application == ["s3://code/job.py", "--conf", "x", "-v"]
    assert run.options == ["--name", "n", "--py-files", "s3://code/a.zip", "--class", "Main"]
    assert run.properties == {"spark.sql.shuffle.partitions": "7"}
    assert run.memory == "3g"
    assert run.cluster_mode
    for dropped in ("--master yarn", "--executor-memory 4g", "spark.executor.instances", "spark.yarn."):
        assert any(dropped in note for note in run.notes), dropped


def test_settings_are_taken_from_the_cluster_then_the_file_then_the_command() -> None:
    configurations = [
        {"Classification": "spark-defaults", "Properties": {"spark.a": "1", "spark.b": "1", "spark.c": "1"}},
        {
            "Classification": "spark-env",
            "Configurations": [
                {
                    "Classification": "export",
                    "Properties": {"STAGE": "dev", "PYSPARK_PYTHON": "/usr/bin/python3"},
                }
            ],
        },
        {"Classification": "hive-site", "Properties": {}},
    ]
    run = translate(
        RUNNER,
        ["spark-submit", "--properties-file", "s3://code/p", "--conf", "spark.c=3", "job.py"],
        configurations=configurations,
        read_text={"s3://code/p": "spark.b 2\nspark.c=2\n"}.__getitem__,
    )
    assert isinstance(run, SparkRun)
    assert run.properties == {"spark.a": "1", "spark.b": "2", "spark.c": "3"}
    assert run.variables == {"STAGE": "dev"}
    assert any("hive-site" in note for note in run.notes)


def test_java_options_keep_only_system_properties() -> None:
    run = spark("spark-submit", "--driver-java-options", "-Da=b -XX:+UseG1GC '-Dc=d e'", "job.py")
    assert run.java_options == ["-Da=b", "-Dc=d e"]
    assert any("UseG1GC" in note for note in run.notes)


def test_variables_of_the_application_master_reach_a_driver_in_cluster_mode_only() -> None:
    conf = (
        "--conf",
        "spark.yarn.appMasterEnv.STAGE=dev",
        "--conf",
        "spark.yarn.appMasterEnv.PYSPARK_PYTHON=x",
    )
    assert spark("spark-submit", "--deploy-mode", "cluster", *conf, "job.py").variables == {"STAGE": "dev"}
    assert spark("spark-submit", *conf, "job.py").variables == {}


def test_spark_sql() -> None:
    run = spark("spark-sql", "--conf", "spark.a=1", "-e", "select 1", "--hivevar", "x=1")
    assert run.options == ["--class", SQL_CLASS]
    assert run.application == ["spark-internal", "-e", "select 1", "--hivevar", "x=1"]


def test_programs_and_scripts() -> None:
    run = translate(RUNNER, ["bash", "-c", "echo a"], read_text=no_file)
    assert run == ProgramRun(["bash", "-c", "echo a"])
    jar = "s3://eu-west-1.elasticmapreduce/libs/script-runner/script-runner.jar"
    run = translate(jar, ["s3://code/run.sh", "a"], read_text=no_file)
    assert run == ProgramRun(["a"], script="s3://code/run.sh")


@pytest.mark.parametrize(
    ("jar", "args", "match"),
    [
        ("s3://code/job.jar", [], "does not run custom jars"),
        (RUNNER, [], "needs a command"),
        (RUNNER, ["hive-script", "--run"], "does not run Hive"),
        (RUNNER, ["pig", "x"], "does not run Pig"),
        (RUNNER, ["spark-submit"], "no application"),
        (RUNNER, ["spark-submit", "--conf"], "--conf has no value"),
        (RUNNER, ["spark-submit", "--conf", "x", "job.py"], "KEY=VALUE"),
        (RUNNER, ["spark-submit", "--bogus", "job.py"], "unrecognized option --bogus"),
        ("script-runner.jar", [], "path of a script"),
    ],
)
def test_what_cannot_be_run_is_refused(jar: str, args: list[str], match: str) -> None:
    with pytest.raises(UnsupportedStepError, match=match):
        translate(jar, args, read_text=no_file)


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        (None, 2048),
        ("1g", 1024),
        ("512m", 512),
        ("1500", 1500),
        ("64g", 8000),
        ("nonsense", 2048),
        ("1k", 471),
    ],
)
def test_memory(text: str | None, mib: int) -> None:
    assert memory_mib(text, 2048, 8000) == mib


def test_properties_are_read_back_as_written() -> None:
    properties = {"spark.a": "x y=z:#!", "spark.b": "", "spark.c": "--add-opens=a/b=ALL"}
    assert read_properties(write_properties(properties)) == properties
    assert write_properties({"k": " é\\\n"}) == "k=\\ \\u00e9\\\\\\n\n"


@pytest.mark.parametrize("program", ["/usr/lib/spark/bin/run-example", "run-example", "spark-example"])
def test_an_example_of_spark_runs_as_its_port_to_python(program: str) -> None:
    run = spark(program, "SparkPi", "10")
    assert (run.is_example, run.application) == (True, ["pi.py", "10"])
    assert "SparkPi runs as its port to Python, pi.py of PySpark's examples." in run.notes
    run = spark(program, "--master", "yarn", "org.apache.spark.examples.JavaWordCount", "s3://data/in/")
    assert run.application == ["wordcount.py", "s3://data/in/"]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["run-example", "SparkLR"], "no port of it to Python. It runs SparkPi, "),
        (["run-example", "streaming.NetworkWordCount", "h", "1"], "does not run Spark's example streaming"),
        (["run-example"], "name of an example"),
        (["run-example", "--master", "yarn"], "no application"),
        (["/usr/lib/spark/bin/spark-shell"], "does not run spark-shell"),
    ],
)
def test_other_examples_are_refused(words: list[str], match: str) -> None:
    with pytest.raises(UnsupportedStepError, match=match):
        spark(*words)


def test_programs_of_spark_can_be_named_by_their_path() -> None:
    run = spark("/usr/lib/spark/bin/spark-submit", "--deploy-mode", "client", "s3://code/job.py", "1")
    assert run.application == ["s3://code/job.py", "1"]
    assert not run.is_example
    assert SQL_CLASS in spark("/usr/lib/spark/bin/spark-sql", "-e", "select 1").options
