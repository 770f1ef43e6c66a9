from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_emr_etl.models.intent import (
    ClusterMark,
    Scope,
    StepMark,
    digest_of,
    from_tag_text,
    tag_text,
    tags_for_run,
    tags_in,
    without_mark,
)

SCOPE = Scope("dag", "run", "task")
CLUSTER = ClusterMark(SCOPE.lineage, "0123abcd", 3)
STEP = StepMark(SCOPE.lineage, "0123abcd", 2, 14, "beef", on_hdfs=True)

hexadecimal = st.text("0123456789abcdef", min_size=8, max_size=8)
counts = st.integers(0, 10**6)


@settings(max_examples=50)
@given(st.text(max_size=300), hexadecimal, counts)
def test_a_clusters_mark_comes_back(name: str, spec: str, generation: int) -> None:
    mark = ClusterMark(SCOPE.lineage, spec, generation)
    marked = mark.on(name)
    assert ClusterMark.read(marked) == mark
    assert StepMark.read(marked) is None
    assert len(marked) <= 256
    if len(name) < 200:
        assert without_mark(marked) == name


@settings(max_examples=50)
@given(st.text(max_size=300), hexadecimal, counts, counts, st.booleans())
def test_a_steps_mark_comes_back(name: str, content: str, clears: int, number: int, on_hdfs: bool) -> None:
    mark = StepMark(SCOPE.lineage, content, clears, number, "00ff", on_hdfs)
    marked = mark.on(name)
    assert StepMark.read(marked) == mark
    assert ClusterMark.read(marked) is None
    assert len(marked) <= 256


@pytest.mark.parametrize("mark", [CLUSTER, STEP])
def test_a_name_of_full_length_gives_way_to_the_mark(mark: Any) -> None:
    marked = mark.on("n" * 256)
    assert len(marked) == 256
    assert type(mark).read(marked) == mark
    assert set(without_mark(marked)) == {"n"}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "clickstream",
        "clickstream [emr-etl]",
        "clickstream [emr-etl 0123.0123abcd.g1]",
        f"x [emr-etl {SCOPE.lineage}.0123abcd.g1] renamed",
        f"x [emr-etl {SCOPE.lineage.upper()}Z.0123abcd.g1]",
        f"[emr-etl {SCOPE.lineage}.0123abcd.g1]",
        f"x [emr-etl {SCOPE.lineage}.0123abcd.c1.n1.12345]",
    ],
)
def test_a_name_of_somebody_else_has_no_mark(name: str) -> None:
    assert ClusterMark.read(name) is None
    assert StepMark.read(name) is None
    assert without_mark(name) == name


def test_a_name_that_holds_another_mark_is_read_by_its_last() -> None:
    copied = replace(CLUSTER, generation=4).on(CLUSTER.on("x"))
    read = ClusterMark.read(copied)
    assert read is not None
    assert read.generation == 4


def test_a_cluster_serves_its_own_spec_in_any_generation() -> None:
    assert CLUSTER.serves(replace(CLUSTER, generation=9))
    assert not CLUSTER.serves(replace(CLUSTER, spec="ffffffff"))
    assert not CLUSTER.serves(replace(CLUSTER, lineage="f" * 16))


def test_every_part_of_a_scope_counts() -> None:
    others = [
        replace(SCOPE, dag_id="x"),
        replace(SCOPE, run_id="x"),
        replace(SCOPE, task_id="x"),
        replace(SCOPE, map_index=0),
        replace(SCOPE, site="x"),
        Scope("dagrun", "", "task"),
    ]
    assert len({scope.lineage for scope in [SCOPE, *others]}) == 7
    assert Scope("dag", "run", "task").lineage == SCOPE.lineage
    assert len(SCOPE.lineage) == 16


def test_an_attempt_names_one_addition_alone() -> None:
    others = [replace(STEP, number=15), replace(STEP, nonce="feeb"), replace(STEP, lineage="f" * 16)]
    assert len({mark.attempt for mark in [STEP, *others]}) == 4
    assert all(character.isalnum() or character == "-" for character in STEP.attempt), "part of a path"


def test_a_digest_depends_on_content_and_not_on_order() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of(json.loads('{"b": [2], "a": 1}'))
    assert digest_of([1, 2]) != digest_of([2, 1])
    assert len(digest_of({}, 8)) == 8


def test_tags_say_whose_it_is_within_emrs_length() -> None:
    # One that was cut would be another's name.
    tags = tags_for_run(Scope("d" * 300, "manual__2026", "t", site=""))
    assert tags == {"emr-etl:run": "manual__2026", "emr-etl:task": "t"}
    assert tags_for_run(Scope("d", "r", "t", site="s"))["emr-etl:site"] == "s"


@pytest.mark.parametrize(
    "name", ["manual__2026-01-05T00:00:00+00:00", "a~b", "k=v", "=00007e", "Größe €5", "a\tb"]
)
def test_any_name_fits_into_a_tag_and_comes_back(name: str) -> None:
    text = tag_text(name)
    assert from_tag_text(text) == name
    assert re.fullmatch(r"[\w +\-=.:/@]*", text)


def test_a_usual_name_stays_readable_in_a_tag() -> None:
    assert tag_text("scheduled__2026-01-05T00:00:00+00:00") == "scheduled__2026-01-05T00:00:00+00:00"


def test_tags_are_read_as_emr_tells_them() -> None:
    assert tags_in({"Tags": [{"Key": "a", "Value": "b"}, {"Key": "flag"}]}) == {"a": "b", "flag": ""}
    assert tags_in({"Tags": None}) == tags_in({}) == {}
