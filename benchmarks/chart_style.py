"""How the charts of the benchmarks look."""

from __future__ import annotations

from typing import Any

#: Read on white and on black alike.
INK, GRID = "#7d8590", "#7d859044"


def styled(chart: Any) -> Any:
    """``chart``, a top-level one of Altair's, with the background, fonts and colours of all of them."""
    return (
        chart.configure(background="transparent", font="sans-serif", padding=12)
        .configure_axis(
            labelColor=INK,
            titleColor=INK,
            domainColor=INK,
            tickColor=INK,
            gridColor=GRID,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
        )
        .configure_title(fontSize=12, fontWeight="normal", color=INK, anchor="start", offset=8)
        .configure_view(stroke=None)
    )
