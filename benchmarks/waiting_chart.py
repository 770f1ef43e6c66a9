"""Draws what ``benchmarks.waiting`` found: calls a minute and the delay of resumption against the number of steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.chart_style import INK, styled
from benchmarks.waiting import MOST_ACTIVE, SCENARIOS

COLORS = {"ours, polling": "#2f81f7", "ours, events": "#2da44e", "official provider, polling": "#db6d28"}
DASHES = {"healthy": [1, 0], "throttled": [5, 4]}
PANELS = {
    "calls_per_minute": "EMR calls a minute",
    "resume_delay_p95_seconds": "p95 from end to resumption, s",
}
TICKS = [mantissa * 10**exponent for exponent in range(-1, 6) for mantissa in (1, 3)]
#: Both scales are logarithmic: what is less is drawn here.
LEAST = {"calls_per_minute": 1.0, "resume_delay_p95_seconds": 0.1}


def points(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What is drawn, a row for each point."""
    values = {figure["figure"]: figure for figure in document["figures"]}
    rows: list[dict[str, Any]] = []
    for figure in PANELS:
        for scenario in SCENARIOS:
            found = {
                f"ours, {'polling' if mode == 'poll' else mode}": values.get(
                    f"{figure}.{scenario.name}.{mode}", {}
                ).get("ours")
                for mode in ("poll", "events")
            }
            polling = values.get(f"{figure}.{scenario.name}.poll", {})
            found["official provider, polling"] = polling.get("peer")
            rows += [
                {
                    "figure": figure,
                    "steps": scenario.steps,
                    "clusters": scenario.clusters,
                    "health": scenario.health,
                    "who": who,
                    "value": max(value, LEAST[figure]),
                }
                for who, value in found.items()
                if value is not None
            ]
    return rows


def draw(document: dict[str, Any], path: Path) -> bool:
    """Write an SVG to ``path``; False, and none, where there are no figures to draw."""
    rows = points(document)
    if not rows:
        return False
    # Of the bench extra: only who draws needs it.
    import altair as alt

    def panel(figure: str, clusters: int) -> Any:
        mine = [row for row in rows if row["figure"] == figure]
        values = [row["value"] for row in mine]
        title = f"{clusters} cluster{'s' if clusters > 1 else ''} (EMR allows {clusters * MOST_ACTIVE:,} active steps)"
        data = alt.Data(values=[row for row in mine if row["clusters"] == clusters])  # type: ignore[no-untyped-call]
        lines = alt.Chart(data).encode(
            x=alt.X(
                "steps:Q",
                title="steps waited for",
                scale=alt.Scale(type="log", domain=[80, 12_500]),
                axis=alt.Axis(values=[100, 1000, 10_000], format=",d", grid=False),
            ),
            y=alt.Y(
                "value:Q",
                title=PANELS[figure] if clusters == 1 else None,
                scale=alt.Scale(type="log", domain=[min(values) / 1.3, max(values) * 1.3]),
                axis=alt.Axis(format=",~g", minExtent=40, values=TICKS),
            ),
            color=alt.Color(
                "who:N", title=None, scale=alt.Scale(domain=list(COLORS), range=list(COLORS.values()))
            ),
        )
        dash = alt.StrokeDash(
            "health:N", title=None, scale=alt.Scale(domain=list(DASHES), range=list(DASHES.values()))
        )
        return alt.layer(
            lines.mark_line(strokeWidth=2).encode(strokeDash=dash), lines.mark_point(size=40, filled=True)
        ).properties(width=230, height=220, title=title if figure == next(iter(PANELS)) else "")

    chart = styled(
        alt.vconcat(
            *(
                alt.hconcat(*(panel(figure, clusters) for clusters in (1, 10, 100)), spacing=24)
                for figure in PANELS
            ),
            spacing=24,
        )
    ).configure_legend(labelColor=INK, labelFontSize=12, orient="bottom", symbolStrokeColor=INK)
    chart.save(str(path), format="svg")
    return True
