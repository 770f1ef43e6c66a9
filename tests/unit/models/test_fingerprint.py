"""When one cluster can stand in for another."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_emr_etl import ClusterSpec, EbsVolume, Fleet, InstanceGroup, ManagedScaling
from airflow_emr_etl.models.fingerprint import Fingerprint, digest_of_script, scripts_in_s3

SCRIPT = "s3://code/install.sh"


def fingerprint(content: bytes = b"pip install numpy", **fields: Any) -> Fingerprint:
    spec = ClusterSpec(name=fields.pop("name", "x"), **fields)
    return Fingerprint.of(spec, {path: digest_of_script(content) for path in scripts_in_s3(spec)})


def groups(type: str = "m6g.xlarge", count: int = 2, **fields: Any) -> InstanceGroup:
    return InstanceGroup(type=type, count=count, **fields)


PLAIN = fingerprint()


def test_a_cluster_covers_its_own_spec_and_what_does_not_matter_may_differ() -> None:
    other = fingerprint(name="y", tags={"team": "b"}, idle_timeout=timedelta(hours=5))
    assert other == PLAIN
    assert other.digest == PLAIN.digest
    assert PLAIN.why_not(other) == ()


def test_it_survives_the_register() -> None:
    full = fingerprint(
        core=Fleet(types={"m5.xlarge": 1, "m5.2xlarge": 2}, spot_units=8, ebs=[EbsVolume(size_gib=64)]),
        bootstrap=[SCRIPT],
        configurations={"spark-defaults": {"a": "b"}},
        managed_scaling=ManagedScaling(minimum=1, maximum=9),
        additional_primary_security_groups=["sg-1"],
    )
    again = Fingerprint.model_validate(full.model_dump(mode="json", exclude_defaults=True))
    assert again == full
    assert again.digest == full.digest


@pytest.mark.parametrize(
    ("have", "wanted"),
    [
        ({"applications": ["Spark", "Hive"]}, {"applications": ["spark"]}),
        (
            {"configurations": {"a": {"x": "1", "y": "2"}, "b": {}}},
            {"configurations": {"b": {}, "a": {"y": "2", "x": "1"}}},
        ),
        ({"core": Fleet(on_demand_units=5)}, {"core": Fleet(on_demand_units=2)}),
        ({"core": Fleet(on_demand_units=2)}, {"core": Fleet(spot_units=2)}),
        (
            {"core": Fleet(types=["m7g.2xlarge"], on_demand_units=2)},
            {"core": Fleet(types=["m7g.xlarge"], on_demand_units=4)},
        ),
        (
            {"core": Fleet(types={"m7g.xlarge": 4}, on_demand_units=16)},
            {"core": Fleet(types={"m7g.xlarge": 1}, on_demand_units=4)},
        ),
        (
            {"core": Fleet(types=["m5.xlarge"], on_demand_units=2), "primary": Fleet(on_demand_units=1)},
            {"primary": Fleet(on_demand_units=1)},
        ),
        ({"core": groups(count=3)}, {"core": groups()}),
        ({"core": groups("m6g.2xlarge")}, {"core": groups(), "primary": groups(count=1)}),
        ({"core": groups()}, {"core": Fleet(types=["m6g.xlarge"], on_demand_units=2)}),
        ({"task": Fleet(spot_units=8)}, {}),
        ({"core": groups("m5.metal", 3)}, {"core": groups("m5.metal", 2), "primary": groups("m5.metal", 1)}),
        (
            {"core": Fleet(on_demand_units=2, ebs=[EbsVolume(size_gib=64, count=2)])},
            {"core": Fleet(on_demand_units=2, ebs=[EbsVolume(size_gib=100)])},
        ),
        ({"subnets": ["s-1"]}, {"subnets": ["s-2", "s-1"]}),
        (
            {"additional_core_security_groups": ["a", "b"]},
            {"additional_core_security_groups": ["b", "a"]},
        ),
        ({"root_volume_gib": 100}, {"root_volume_gib": 50}),
        ({"root_volume_gib": 100}, {}),
        (
            {"managed_scaling": ManagedScaling(minimum=2, maximum=20)},
            {"managed_scaling": ManagedScaling(minimum=2, maximum=10, maximum_core=4)},
        ),
    ],
)
def test_as_good_or_better_covers(have: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert fingerprint(**have).why_not(fingerprint(**wanted)) == ()


@pytest.mark.parametrize(
    ("have", "wanted", "reason"),
    [
        ({"release": "emr-7.8.0"}, {}, "release emr-7.8.0, where emr-7.9.0 is wanted"),
        ({}, {"applications": ["Spark", "Hive"]}, "no hive"),
        ({"configurations": {"a": {"x": "1"}}}, {"configurations": {"a": {"x": "2"}}}, "classification a"),
        ({"configurations": {"a": {"x": "1"}}}, {}, "classification a"),
        ({"bootstrap": [SCRIPT]}, {}, "bootstrap"),
        ({"bootstrap": [{"path": SCRIPT, "args": ["1"]}]}, {"bootstrap": [SCRIPT]}, "arguments"),
        ({"bootstrap": ["file:/a", "file:/b"]}, {"bootstrap": ["file:/b", "file:/a"]}, "bootstrap"),
        ({"core": Fleet(on_demand_units=1)}, {}, "core: on-demand capacity of 8, where 16 is wanted"),
        ({"core": Fleet(spot_units=2)}, {}, "core: on-demand capacity of 0"),
        (
            {"core": Fleet(on_demand_units=2)},
            {"core": Fleet(on_demand_units=2, spot_units=1)},
            "core: capacity of 16, where 24 is wanted",
        ),
        (
            {"core": Fleet(types=["m5.large"], on_demand_units=8)},
            {"core": Fleet(types=["m5.xlarge"], on_demand_units=2)},
            "smallest machine",
        ),
        (
            {"core": Fleet(types=["r5.xlarge", "m5.xlarge"], on_demand_units=2)},
            {"core": Fleet(types=["m5.xlarge"], on_demand_units=2)},
            "may be of r5",
        ),
        (
            {"core": Fleet(types={"m5.xlarge": 1, "m5.4xlarge": 8}, on_demand_units=8)},
            {"core": Fleet(types=["m5.xlarge"], on_demand_units=8)},
            "capacity of 32, where 64 is wanted",
        ),
        ({"core": groups("m5.metal")}, {"core": groups("m5.24xlarge")}, "do not compare"),
        ({"core": groups("m5.metal")}, {"core": groups("m5.metal", 3)}, "fewer machines"),
        ({"core": groups(custom_ami_id="ami-1")}, {"core": groups()}, "image"),
        ({}, {"task": Fleet(spot_units=1)}, "task: no such machines"),
        (
            {"core": Fleet(on_demand_units=2, ebs=[EbsVolume(size_gib=64)])},
            {"core": Fleet(on_demand_units=2, ebs=[EbsVolume(size_gib=65)])},
            "64 GiB of gp3 disk",
        ),
        ({"subnets": ["s-1", "s-2"]}, {"subnets": ["s-1"]}, "in s-1, s-2, where s-1 is wanted"),
        ({"subnets": ["s-1"]}, {}, "the default subnet is wanted"),
        ({}, {"subnets": ["s-1"]}, "in the default subnet"),
        ({"job_flow_role": "other"}, {}, "setting job_flow_role"),
        ({}, {"security_configuration": "sec"}, "setting security_configuration"),
        ({"log_uri": "s3://a/"}, {"log_uri": "s3://b/"}, "setting log_uri"),
        ({"additional_core_security_groups": ["a"]}, {}, "security groups"),
        ({"step_concurrency": 10}, {}, "10 steps side by side, where 1 is wanted"),
        ({}, {"root_volume_gib": 50}, "root volume of the default GiB"),
        ({"managed_scaling": ManagedScaling(minimum=1, maximum=2)}, {}, "managed scaling is on"),
        (
            {"managed_scaling": ManagedScaling(minimum=1, maximum=9, maximum_core=2)},
            {"managed_scaling": ManagedScaling(minimum=1, maximum=9)},
            "maximum_core of 2",
        ),
    ],
)
def test_a_misfit_says_why(have: dict[str, Any], wanted: dict[str, Any], reason: str) -> None:
    told = fingerprint(**have).why_not(fingerprint(**wanted))
    assert any(reason in each for each in told), told
    assert not fingerprint(**have).covers(fingerprint(**wanted))


def test_a_bootstrap_script_counts_by_its_bytes() -> None:
    before = fingerprint(b"one", bootstrap=[SCRIPT])
    assert before.covers(fingerprint(b"one", bootstrap=["s3://elsewhere/same.sh"]))
    assert not before.covers(fingerprint(b"two", bootstrap=[SCRIPT]))
    assert before.digest != fingerprint(b"two", bootstrap=[SCRIPT]).digest


def test_a_script_whose_bytes_are_not_given_is_an_error() -> None:
    with pytest.raises(KeyError):
        Fingerprint.of(ClusterSpec(name="x", bootstrap=[SCRIPT]), {})
