"""Draws what ``benchmarks.etl`` found: each contender's seconds, and ours against the number of events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.chart_style import INK, styled

COLORS = {"ours": "#2f81f7", "plain PySpark": "#db6d28", "DuckDB": "#d4a72c", "Polars": "#a371f7"}
BARS = {
    "sessions_parquet": "sessions from Parquet",
    "pipeline_gz_json": "pipeline, gzipped JSON",
    "pipeline_gz_clf": "pipeline, gzipped Combined",
}


def bars(document: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each contender of each group: ``group``, ``who`` and ``seconds``."""
    found: dict[tuple[str, str], float] = {}
    for figure in document["figures"]:
        group = BARS.get(figure["figure"].partition(".")[0])
        # Without the version; the floor is none of the contenders.
        who = (figure["peer_name"] or "").rpartition(" ")[0]
        if group and who in COLORS:
            found[group, "ours"] = figure["ours"]
            found[group, who] = figure["peer"]
    return [{"group": group, "who": who, "seconds": seconds} for (group, who), seconds in found.items()]


def curve(document: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each size: ``events``, ``seconds`` and ``gib``, the peak of memory."""
    return [
        {"events": figure["rows"], "seconds": figure["ours"], "gib": figure["peak_mib"] / 1024}
        for figure in document["figures"]
        if figure["figure"].startswith("curve.")
    ]


def draw(document: dict[str, Any], path: Path) -> bool:
    """Write an SVG to ``path``; False, and none, where there are no figures to draw."""
    seconds, sizes = bars(document), curve(document)
    if not seconds and not sizes:
        return False
    # Of the bench extra: only who draws needs it.
    import altair as alt

    panels: list[Any] = []
    if seconds:
        data = alt.Data(values=seconds)  # type: ignore[no-untyped-call]
        base = alt.Chart(data).encode(
            y=alt.Y("who:N", title=None, sort=list(COLORS)),
            x=alt.X("seconds:Q", title="seconds"),
            color=alt.Color(
                "who:N",
                legend=None,
                scale=alt.Scale(domain=list(COLORS), range=list(COLORS.values())),
            ),
        )
        label = base.mark_text(align="left", dx=4, color=INK).encode(
            text=alt.Text("seconds:Q", format=",.0f"), color=alt.value(INK)
        )
        groups = [group for group in BARS.values() if any(row["group"] == group for row in seconds)]
        panels.append(
            alt.vconcat(
                *(
                    alt.layer(base.mark_bar(height=12), label)
                    .transform_filter(alt.datum.group == group)
                    .properties(width=300, title=group)
                    for group in groups
                ),
                spacing=12,
            )
        )
    if sizes:
        data = alt.Data(values=sizes)  # type: ignore[no-untyped-call]
        ticks = [mantissa * 10**exponent for exponent in range(9) for mantissa in (1, 3)]
        events = alt.X(
            "events:Q",
            title="events",
            scale=alt.Scale(type="log"),
            axis=alt.Axis(format="~s", grid=False, values=ticks),
        )
        panels.append(
            alt.vconcat(
                *(
                    alt.Chart(data)
                    .mark_line(point=True, color=COLORS["ours"])
                    .encode(x=events, y=axis)
                    .properties(width=300, height=150, title=title)
                    for title, axis in (
                        (
                            "sessions from Parquet by ours, seconds",
                            alt.Y(
                                "seconds:Q",
                                title=None,
                                scale=alt.Scale(type="log"),
                                axis=alt.Axis(values=ticks, format=",~g"),
                            ),
                        ),
                        ("peak memory, GiB", alt.Y("gib:Q", title=None)),
                    )
                ),
                spacing=12,
            )
        )
    chart = styled(alt.hconcat(*panels, spacing=40))
    chart.save(str(path), format="svg")
    return True
