"""What the plain PySpark does in Python for each row."""

from __future__ import annotations

from benchmarks.etl_agents import agent_parts, backend, is_robot
from benchmarks.etl_vocabulary import browsers, robots

CHROME = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36"
)


def test_a_user_agent_s_parts() -> None:
    assert agent_parts(CHROME) == ("Chrome", "120", "Linux", None, None)
    assert agent_parts("?") == (None,) * 5
    assert agent_parts(None) == (None,) * 5


def test_robots_of_the_generator_are_robots_and_browsers_are_not() -> None:
    assert all(is_robot(agent) for agent in robots()[::10])
    assert not any(is_robot(agent) for agent in browsers()[::50])
    assert not is_robot(None)


def test_the_backend_is_told_as_it_is() -> None:
    from ua_parser import parser

    cached = hasattr(parser.resolver, "cache")
    assert backend().endswith("with a cache" if cached else "without a cache")
