"""When a visitor's hits are one session and when they are two.

A rule may only look at what was before: the sessions up to a moment never depend on what comes after it. That is
what makes sessions that were computed night by night equal to those of one run over the whole span.
Runs on the cluster: no dependency, valid on Python 3.9.
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow_emr_etl.exceptions import ConfigurationError

NO_CUT = "none"
CUTS = ("campaign", "referrer", NO_CUT)
"""What :attr:`SessionRules.cut_on` may name. ``none`` adds nothing: a template can name it where it names no cut."""


@dataclass(frozen=True)
class SessionRules:
    """The rules, in whole minutes. Raise ConfigurationError for values that make no sense.

    ``inactivity_minutes``: a longer pause ends a session; a pause of exactly so long does not.
    ``max_minutes``: no session is longer, from its first hit to its last; None sets no limit.
    ``midnight_zone``: sessions end at midnight of this time zone (an IANA name, such as ``UTC``); None lets them go on.
    ``cut_on``: a hit with a campaign (or a referrer) other than the one before it begins a session; what was given as
    ``none`` is left out.
    """

    inactivity_minutes: int = 30
    max_minutes: int | None = None
    midnight_zone: str | None = None
    cut_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.inactivity_minutes < 1:
            raise ConfigurationError(
                f"The inactivity is {self.inactivity_minutes} minutes; valid is 1 and more."
            )
        if self.inactivity_minutes > 24 * 60:
            raise ConfigurationError(
                f"The inactivity is {self.inactivity_minutes} minutes; valid is at most {24 * 60}, a day."
            )
        if self.max_minutes is not None and self.max_minutes < 1:
            raise ConfigurationError(
                f"The greatest length is {self.max_minutes} minutes; valid is 1 and more, or none at all."
            )
        unknown = sorted(set(self.cut_on) - set(CUTS))
        if unknown:
            raise ConfigurationError(
                f"Sessions cannot be cut on {', '.join(unknown)}; valid: {', '.join(CUTS)}."
            )
        object.__setattr__(self, "cut_on", tuple(cut for cut in self.cut_on if cut != NO_CUT))

    @property
    def inactivity_micros(self) -> int:
        return self.inactivity_minutes * 60_000_000

    @property
    def max_micros(self) -> int | None:
        return None if self.max_minutes is None else self.max_minutes * 60_000_000
