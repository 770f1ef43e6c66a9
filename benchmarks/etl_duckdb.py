"""The sessions by DuckDB: ``python -m benchmarks.etl_duckdb sessions --input FOLDER --output FOLDER``."""

from __future__ import annotations

from pathlib import Path

from benchmarks.etl_process import arguments, report

# Copies of an event are next to each other once a visitor's are in order, which spares a second hash table of all.
SESSIONS = """
COPY (
  WITH ordered AS (
    SELECT visitor_id, ts, path, is_page_view,
           lag(ts) OVER visits AS previous, lag(event_id) OVER visits IS NOT DISTINCT FROM event_id AS is_copy
    FROM read_parquet('{source}/*.parquet')
    WINDOW visits AS (PARTITION BY visitor_id ORDER BY ts, event_id)
  ), numbered AS (
    SELECT *,
           count(*) FILTER (WHERE previous IS NULL OR ts - previous > INTERVAL 30 MINUTE) OVER visits AS session,
           row_number() OVER visits AS place
    FROM ordered WHERE NOT is_copy
    WINDOW visits AS (PARTITION BY visitor_id ORDER BY ts ROWS UNBOUNDED PRECEDING)
  )
  SELECT visitor_id || '-' || session AS session_id, visitor_id, min(ts) AS started_at, max(ts) AS ended_at,
         count(*) AS hits, count(*) FILTER (WHERE is_page_view) AS page_views,
         coalesce(arg_min(path, place) FILTER (WHERE is_page_view), arg_min(path, place)) AS entry_path,
         coalesce(arg_max(path, place) FILTER (WHERE is_page_view), arg_max(path, place)) AS exit_path
  FROM numbered GROUP BY visitor_id, session
) TO '{target}/sessions.parquet' (FORMAT parquet)
"""


def main() -> None:
    chosen = arguments("sessions")
    import duckdb

    Path(chosen.output).mkdir(parents=True)
    connection = duckdb.connect()
    spill = Path(chosen.output) / "_spill"
    connection.execute(f"SET threads = {chosen.cores}; SET TimeZone = 'UTC'; SET temp_directory = '{spill}'")
    connection.execute("SET preserve_insertion_order = false")
    connection.execute(SESSIONS.format(source=chosen.input, target=chosen.output))
    report({})


if __name__ == "__main__":
    main()
