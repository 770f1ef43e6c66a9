"""The sessions by Polars: ``python -m benchmarks.etl_polars sessions --input FOLDER --output FOLDER``."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.etl_process import arguments, report


def main() -> None:
    chosen = arguments("sessions")
    # Read when it is loaded.
    os.environ["POLARS_MAX_THREADS"] = str(chosen.cores)
    import polars as pl

    Path(chosen.output).mkdir(parents=True)
    visitor, ts, page = pl.col("visitor_id"), pl.col("ts"), pl.col("is_page_view")
    path = pl.col("path")
    in_order = (
        pl.scan_parquet(f"{chosen.input}/*.parquet")
        .select("visitor_id", "ts", "event_id", "path", "is_page_view")
        .sort("visitor_id", "ts", "event_id")
        # Copies of an event are next to each other now.
        .filter((pl.col("event_id") != pl.col("event_id").shift()).fill_null(True))
    )
    starts = (visitor != visitor.shift()) | (ts - ts.shift() > pl.duration(minutes=30))
    sessions = (
        in_order.with_columns(session=starts.fill_null(True).cast(pl.UInt32).cum_sum())
        .group_by("session")
        .agg(
            visitor.first(),
            started_at=ts.first(),
            ended_at=ts.last(),
            hits=pl.len(),
            page_views=page.sum(),
            entry_path=pl.coalesce(path.filter(page).first(), path.first()),
            exit_path=pl.coalesce(path.filter(page).last(), path.last()),
        )
        .rename({"session": "session_id"})
    )
    # In memory it takes half the time of the streaming engine.
    sessions.collect(engine="in-memory").write_parquet(f"{chosen.output}/sessions.parquet")
    report({})


if __name__ == "__main__":
    main()
