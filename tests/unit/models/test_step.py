from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from airflow_emr_etl.models.step import CommandStep, SparkStep, arguments, step_from


def test_a_spark_step_is_a_spark_submit() -> None:
    step = SparkStep(
        name="n",
        entry="s3://b/job.py",
        args={"input": ["s3://b/a", "s3://b/b"], "inactivity_minutes": 30, "dry_run": True, "limit": None},
        conf={"spark.speculation": True, "spark.executor.cores": 4},
        py_files=["s3://b/a.zip", "s3://b/b.zip"],
    )
    assert step.to_api() == {
        "Name": "n",
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {
            "Jar": "command-runner.jar",
            "Args": [
                "spark-submit", "--deploy-mode", "client",
                "--conf", "spark.speculation=true", "--conf", "spark.executor.cores=4",
                "--py-files", "s3://b/a.zip,s3://b/b.zip",
                "s3://b/job.py",
                "--input", "s3://b/a", "--input", "s3://b/b", "--inactivity-minutes", "30", "--dry-run",
            ],
        },
    }  # fmt: skip


def test_a_command_is_a_list_and_stays_one() -> None:
    step = CommandStep(name="n", command=["bash", "-c", "echo $HOME; ls 'a b'"])
    assert step.to_api()["HadoopJarStep"]["Args"] == ["bash", "-c", "echo $HOME; ls 'a b'"]


def test_a_jar_of_ones_own() -> None:
    step = CommandStep(name="n", jar="s3://b/x.jar", main_class="M", properties={"k": "v"})
    assert step.to_api()["HadoopJarStep"] == {
        "Jar": "s3://b/x.jar",
        "Args": [],
        "MainClass": "M",
        "Properties": [{"Key": "k", "Value": "v"}],
    }


@pytest.mark.parametrize(
    "step",
    [
        SparkStep(name="n", entry="s3://b/{{ ds }}.py", args=["--day", "{{ ds }}"]),
        CommandStep(name="n", command=["ls"]),
        CommandStep(name="n", jar="s3://b/x.jar"),
    ],
)
def test_the_document_makes_the_same_step(step: SparkStep | CommandStep) -> None:
    assert step_from(step.document()) == step


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CommandStep(name="n", command="ls -l"), "arguments are a list"),
        (lambda: CommandStep(name="n"), "nothing to run"),
        (lambda: CommandStep(name="n", command=["x" * 10_281]), "EMR takes 10280"),
        (lambda: SparkStep(name="n", entry="s3://b/x.jar"), "main_class="),
        (lambda: SparkStep(name="n", entry="--conf"), "takes for an option"),
        (lambda: SparkStep(name="n", entry="s3://b/x.py", conf={"a=b": "c"}), "has the key"),
        (lambda: SparkStep(name="x" * 257, entry="s3://b/x.py"), "EMR takes 256"),
        (lambda: SparkStep(name="n", entry="s3://b/x.py", args={"a b": 1}), "not the name of an option"),
        (lambda: SparkStep(name="n", entry="s3://b/x.py", action_on_failure="STOP"), "TERMINATE_CLUSTER"),
    ],
)
def test_what_cannot_be_says_how_to_mend_it(make: Any, said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        make()
    assert said in str(raised.value)


def test_options() -> None:
    assert arguments({"a": False, "b": [], "c": 0, "d": ["x", True]}) == ["--c", "0", "--d", "x", "--d"]
