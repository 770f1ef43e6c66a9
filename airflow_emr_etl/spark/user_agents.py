"""What a user agent says of itself: browser, system and device, as the library ua-parser reads it.

The library's answers are taken as they are, NULL where it finds nothing. Its native backend (ua-parser-rs, about
a hundred times faster) is used where it is installed; its pure Python travels in the jobs' zip. Only
``device_class`` is a rule of this module.
"""

from __future__ import annotations

import re
from typing import Optional, Sequence

from pyspark.sql import DataFrame

from airflow_emr_etl.spark.lookup import Answer, ask

COLUMNS = (
    "agent_family",
    "agent_version",
    "os_family",
    "os_version",
    "device_family",
    "device_brand",
    "device_class",
)
"""Versions are the major ones, texts as the library has them: ``143``, ``XP``."""

ROBOT_DEVICE = "Spider"
"""The library's device family for robots."""

_TABLET = re.compile(r"iPad|Tablet|PlayBook|Kindle|Silk/|\bPad\b|\bTab\b|Nexus (?:7|9|10)\b", re.IGNORECASE)
_NO_COMPUTER = re.compile(
    r"\bTV\b|SmartTV|SMART-TV|AppleTV|GoogleTV|HbbTV|BRAVIA|AFT[A-Z]|Roku|CrKey|PlayStation|Xbox|Nintendo"
)
_DESKTOP_SYSTEMS = frozenset(
    {"Windows", "Mac OS X", "Mac OS", "Linux", "Chrome OS", "Ubuntu", "Debian", "Fedora", "Red Hat", "CentOS",
     "SUSE", "Arch Linux", "Gentoo", "Linux Mint", "Mageia", "Mandriva", "Slackware", "PCLinuxOS", "Kubuntu",
     "FreeBSD", "OpenBSD", "NetBSD", "Solaris"}
)  # fmt: skip
_MOBILE_SYSTEMS = frozenset(
    {"iOS", "Android", "Windows Phone", "Windows Mobile", "BlackBerry OS", "Symbian OS", "Symbian^3",
     "Symbian^3 Anna", "Symbian^3 Belle", "Firefox OS", "KaiOS", "Bada", "webOS", "MeeGo", "Nokia Series 40",
     "Brew MP", "Maemo", "HarmonyOS", "OpenHarmony"}
)  # fmt: skip


def parse_agents(agents: DataFrame) -> DataFrame:
    """``agents`` (one column of distinct texts) with :data:`COLUMNS`."""
    return ask(agents, _parser, COLUMNS)


def device_class(
    agent: str, os_family: Optional[str], device_family: Optional[str], device_brand: Optional[str]
) -> str:
    """``robot``, ``tablet``, ``mobile``, ``desktop`` or ``other``: the first that applies.

    robot: the library calls the device a spider. other: televisions and game consoles. tablet: it names itself
    one, or it is Android without the word ``Mobile``, as Google asks of tablets. mobile: a telephone's system, or
    the word ``Mobile`` or ``Phone``. desktop: a computer's system. other: all else (libraries, tools, nothing known).
    """
    if device_family == ROBOT_DEVICE:
        return "robot"
    if _NO_COMPUTER.search(agent):
        return "other"
    if _TABLET.search(agent) or (device_family is not None and "iPad" in device_family):
        return "tablet"
    phone = "Mobile" in agent or "Phone" in agent
    if os_family == "Android" and not phone:
        # A bare "Android" is an app's or an old browser's; only a browser's full text says that it is no phone.
        return "tablet" if agent.startswith("Mozilla/") else "mobile"
    if os_family in _MOBILE_SYSTEMS or phone:
        return "mobile"
    return "desktop" if os_family in _DESKTOP_SYSTEMS else "other"


def _parser() -> Answer:
    import ua_parser

    def answer(agent: str) -> Sequence[Optional[str]]:
        found = ua_parser.parse(agent)
        browser, system, device = found.user_agent, found.os, found.device
        os_family = system.family if system else None
        family, brand = (device.family, device.brand) if device else (None, None)
        return (
            browser.family if browser else None,
            browser.major if browser else None,
            os_family,
            system.major if system else None,
            family,
            brand,
            device_class(agent, os_family, family, brand),
        )

    return answer
