"""The marts of the clickstream. docs/marts.md is made from these definitions.

Days are those of the event (``ts``) or of the session's start, in UTC, never those of the batch.
"""

from __future__ import annotations

from airflow_emr_etl.exceptions import ConfigurationError
from airflow_emr_etl.models.mart import Funnel, Mart, MartColumn, Scope, in_order, like

_PATH = "VARCHAR(65535)"
_ID = "VARCHAR(64)"


def _columns(*specs: tuple[str, str, str, str]) -> tuple[MartColumn, ...]:
    return tuple(MartColumn(*spec) for spec in specs)


def _page_views(scope: Scope) -> str:
    # The visitor is the session's; named beside it, the windows find the rows where the join has put them.
    # DATEDIFF counts the boundaries of its unit in Redshift and whole units in Spark: alike only in microseconds.
    return f"""
SELECT CAST(v.ts AS DATE) AS dt, v.event_id, v.session_id, v.visitor_id, v.ts, v.path, v.position, v.next_path,
       CAST(FLOOR(DATEDIFF(MICROSECOND, v.ts, v.next_ts) / 1000000) AS BIGINT) AS seconds_on_page,
       v.referrer, v.session_dt
FROM (
    SELECT e.event_id, e.session_id, e.visitor_id, e.ts, e.path, e.referrer,
           CAST(s.started_at AS DATE) AS session_dt,
           ROW_NUMBER() OVER (PARTITION BY e.visitor_id, e.session_id ORDER BY e.ts, e.event_id) AS position,
           LEAD(e.path) OVER (PARTITION BY e.visitor_id, e.session_id ORDER BY e.ts, e.event_id) AS next_path,
           LEAD(e.ts) OVER (PARTITION BY e.visitor_id, e.session_id ORDER BY e.ts, e.event_id) AS next_ts
    FROM {scope["events"]} AS e
    JOIN {scope["sessions"]} AS s ON s.session_id = e.session_id AND s.visitor_id = e.visitor_id
    WHERE e.is_page_view AND {scope.in_reach("e.ts")} AND {scope.overlaps("s.started_at", "s.ended_at")}
) AS v
WHERE {scope.on("v.ts")}"""


PAGE_VIEWS = Mart(
    "page_views",
    grain="one row for each page view",
    columns=_columns(
        ("dt", "DATE", "UTC day", "day of the page view"),
        ("event_id", _ID, "", "the event, as in `analytics.events`"),
        ("session_id", _ID, "", "its session"),
        ("visitor_id", _ID, "", "its visitor"),
        ("ts", "TIMESTAMP", "UTC", "when the page was asked for"),
        ("path", _PATH, "", "path of the page"),
        ("position", "BIGINT", "from 1", "which page view of the session it is, by `ts`, then `event_id`"),
        ("next_path", _PATH, "", "path of the session's next page view; NULL for the last"),
        (
            "seconds_on_page",
            "BIGINT",
            "whole seconds",
            "time to the session's next page view, rounded down; NULL for the last, whose end no log shows",
        ),
        ("referrer", _PATH, "", "the Referer header, as logged"),
        ("session_dt", "DATE", "UTC day", "day on which the session started"),
    ),
    keys=("event_id",),
    reads=("events", "sessions"),
    select=_page_views,
    dist_key="visitor_id",
)


def _user_days(scope: Scope) -> str:
    return f"""
SELECT d.dt, d.visitor_id, MIN(d.started_at) AS first_seen, MAX(d.ended_at) AS last_seen, COUNT(*) AS sessions,
       CAST(SUM(d.hits) AS BIGINT) AS hits, CAST(SUM(d.page_views) AS BIGINT) AS page_views,
       MAX(CASE WHEN d.n = 1 THEN d.entry_path END) AS first_path,
       MAX(CASE WHEN d.n = 1 THEN d.referrer_host END) AS first_referrer_host
FROM (
    SELECT CAST(s.started_at AS DATE) AS dt, s.visitor_id, s.started_at, s.ended_at, s.hits, s.page_views,
           s.entry_path, s.referrer_host,
           ROW_NUMBER() OVER (
               PARTITION BY s.visitor_id, CAST(s.started_at AS DATE) ORDER BY s.started_at, s.session_id
           ) AS n
    FROM {scope["sessions"]} AS s
    WHERE {scope.on("s.started_at")}
) AS d
GROUP BY d.dt, d.visitor_id"""


USER_DAYS = Mart(
    "user_days",
    grain="one row for each visitor and day on which a session of theirs started",
    columns=_columns(
        ("dt", "DATE", "UTC day", "day on which the sessions started"),
        ("visitor_id", _ID, "", "the visitor"),
        ("first_seen", "TIMESTAMP", "UTC", "start of the day's first session"),
        ("last_seen", "TIMESTAMP", "UTC", "end of the day's sessions, which may be on a later day"),
        ("sessions", "BIGINT", "sessions", "that started on this day"),
        ("hits", "BIGINT", "requests", "of these sessions"),
        ("page_views", "BIGINT", "page views", "of these sessions; 0 is rarely a person"),
        ("first_path", _PATH, "", "entry path of the day's first session"),
        ("first_referrer_host", _PATH, "", "referrer's host of the day's first session; NULL for none"),
    ),
    keys=("dt", "visitor_id"),
    reads=("sessions",),
    select=_user_days,
    dist_key="visitor_id",
)


def _users(scope: Scope) -> str:
    return f"""
SELECT d.visitor_id, MIN(d.first_seen) AS first_seen, MAX(d.last_seen) AS last_seen, COUNT(*) AS active_days,
       CAST(SUM(d.sessions) AS BIGINT) AS sessions, CAST(SUM(d.hits) AS BIGINT) AS hits,
       CAST(SUM(d.page_views) AS BIGINT) AS page_views,
       MAX(CASE WHEN d.n = 1 THEN d.first_path END) AS first_path,
       MAX(CASE WHEN d.n = 1 THEN d.first_referrer_host END) AS first_referrer_host
FROM (
    SELECT u.visitor_id, u.first_seen, u.last_seen, u.sessions, u.hits, u.page_views, u.first_path,
           u.first_referrer_host, ROW_NUMBER() OVER (PARTITION BY u.visitor_id ORDER BY u.dt) AS n
    FROM {scope["user_days"]} AS u
) AS d
GROUP BY d.visitor_id"""


USERS = Mart(
    "users",
    grain="one row for each visitor",
    columns=_columns(
        ("visitor_id", _ID, "", "the visitor"),
        ("first_seen", "TIMESTAMP", "UTC", "start of the first session"),
        ("last_seen", "TIMESTAMP", "UTC", "end of the last session"),
        ("active_days", "BIGINT", "days", "days on which a session started"),
        ("sessions", "BIGINT", "sessions", "all sessions"),
        ("hits", "BIGINT", "requests", "all requests"),
        ("page_views", "BIGINT", "page views", "all page views; 0 is rarely a person"),
        ("first_path", _PATH, "", "entry path of the first session"),
        ("first_referrer_host", _PATH, "", "referrer's host of the first session; NULL for none"),
    ),
    keys=("visitor_id",),
    reads=("user_days",),
    select=_users,
    day=None,
    dist_key="visitor_id",
)


def _daily_traffic(scope: Scope) -> str:
    return f"""
SELECT h.dt, h.hits, h.page_views, h.bot_hits, h.visitors, COALESCE(n.sessions, 0) AS sessions, h.bytes,
       h.client_errors, h.server_errors
FROM (
    SELECT CAST(e.ts AS DATE) AS dt, COUNT(*) AS hits,
           COUNT(CASE WHEN e.is_page_view THEN 1 END) AS page_views,
           COUNT(CASE WHEN e.is_bot THEN 1 END) AS bot_hits,
           COUNT(DISTINCT e.visitor_id) AS visitors,
           CAST(COALESCE(SUM(e.bytes), 0) AS BIGINT) AS bytes,
           COUNT(CASE WHEN e.status BETWEEN 400 AND 499 THEN 1 END) AS client_errors,
           COUNT(CASE WHEN e.status BETWEEN 500 AND 599 THEN 1 END) AS server_errors
    FROM {scope["events"]} AS e
    WHERE {scope.on("e.ts")}
    GROUP BY CAST(e.ts AS DATE)
) AS h
LEFT JOIN (
    SELECT CAST(s.started_at AS DATE) AS dt, COUNT(*) AS sessions
    FROM {scope["sessions"]} AS s
    WHERE {scope.on("s.started_at")}
    GROUP BY CAST(s.started_at AS DATE)
) AS n ON n.dt = h.dt"""


DAILY_TRAFFIC = Mart(
    "daily_traffic",
    grain="one row for each day with a request",
    columns=_columns(
        ("dt", "DATE", "UTC day", "day of the requests"),
        ("hits", "BIGINT", "requests", "all valid requests"),
        ("page_views", "BIGINT", "page views", "those that are page views"),
        ("bot_hits", "BIGINT", "requests", "those by robots"),
        ("visitors", "BIGINT", "visitors", "distinct visitors with a request on this day"),
        ("sessions", "BIGINT", "sessions", "that started on this day, so that days add up"),
        ("bytes", "BIGINT", "bytes", "sum of the answers' sizes, where logged"),
        ("client_errors", "BIGINT", "requests", "with a status of 4xx"),
        ("server_errors", "BIGINT", "requests", "with a status of 5xx"),
    ),
    keys=("dt",),
    reads=("events", "sessions"),
    select=_daily_traffic,
)


def _entry_pages(scope: Scope) -> str:
    return f"""
SELECT CAST(s.started_at AS DATE) AS dt, s.entry_path AS path, COUNT(*) AS sessions,
       COUNT(CASE WHEN s.page_views = 1 THEN 1 END) AS bounces, CAST(SUM(s.page_views) AS BIGINT) AS page_views
FROM {scope["sessions"]} AS s
WHERE s.page_views > 0 AND {scope.on("s.started_at")}
GROUP BY CAST(s.started_at AS DATE), s.entry_path"""


ENTRY_PAGES = Mart(
    "entry_pages",
    grain="one row for each day and first page of a session",
    columns=_columns(
        ("dt", "DATE", "UTC day", "day on which the sessions started"),
        ("path", _PATH, "", "path of their first page view"),
        ("sessions", "BIGINT", "sessions", "that began with this page"),
        ("bounces", "BIGINT", "sessions", "those that saw no other page view"),
        ("page_views", "BIGINT", "page views", "of these sessions, this page's included"),
    ),
    keys=("dt", "path"),
    reads=("sessions",),
    select=_entry_pages,
)


def _exit_pages(scope: Scope) -> str:
    return f"""
SELECT CAST(s.started_at AS DATE) AS dt, s.exit_path AS path, COUNT(*) AS sessions
FROM {scope["sessions"]} AS s
WHERE s.page_views > 0 AND {scope.on("s.started_at")}
GROUP BY CAST(s.started_at AS DATE), s.exit_path"""


EXIT_PAGES = Mart(
    "exit_pages",
    grain="one row for each day and last page of a session",
    columns=_columns(
        ("dt", "DATE", "UTC day", "day on which the sessions started"),
        ("path", _PATH, "", "path of their last page view"),
        ("sessions", "BIGINT", "sessions", "that ended with this page"),
    ),
    keys=("dt", "path"),
    reads=("sessions",),
    select=_exit_pages,
)


def _path_transitions(scope: Scope) -> str:
    return f"""
SELECT v.dt, v.path, v.next_path, COUNT(*) AS transitions, COUNT(DISTINCT v.session_id) AS sessions
FROM {scope["page_views"]} AS v
WHERE v.next_path IS NOT NULL AND {scope.of("v.dt")}
GROUP BY v.dt, v.path, v.next_path"""


PATH_TRANSITIONS = Mart(
    "path_transitions",
    grain="one row for each day, page and page that was viewed next in the same session",
    columns=_columns(
        ("dt", "DATE", "UTC day", "day of the page view that comes first"),
        ("path", _PATH, "", "path of the page"),
        ("next_path", _PATH, "", "path of the next page; the same where a page was loaded again"),
        ("transitions", "BIGINT", "page views", "how often"),
        ("sessions", "BIGINT", "sessions", "in how many sessions"),
    ),
    keys=("dt", "path", "next_path"),
    reads=("page_views",),
    select=_path_transitions,
)

PURCHASE = Funnel(
    "purchase",
    {"products": "/products", "product": "/products/*", "cart": "/cart", "checkout": "/checkout"},
)
"""A sample: the shop of the generated logs. Declare your own with :func:`funnels`."""


def funnels(*declared: Funnel) -> Mart:
    """The mart of these funnels. ConfigurationError for none, or for two of one name."""
    names = [funnel.name for funnel in declared]
    if not names or len(set(names)) != len(names):
        raise ConfigurationError(
            f"Give funnels, each with a name of its own; got {', '.join(names) or 'none'}."
        )

    def select(scope: Scope) -> str:
        # Windows over the same rows, one after the other: a join for each step would read all page views again. No
        # other page than those of the steps plays a part, except that a day with any has a row.
        views = f"""FROM {scope["page_views"]} AS v
    WHERE {scope.of("v.session_dt")} AND {scope.in_reach("v.ts")}"""
        steps = dict.fromkeys(pattern for funnel in declared for pattern in funnel.steps.values())
        of_a_step = " OR ".join(f"v.path {like(pattern)}" for pattern in steps)
        rows = f"""
    SELECT v.session_dt AS dt, v.session_id, v.position, v.path
    {views} AND ({of_a_step})"""
        reached, counted, named, chosen = [], [], [], []
        for f, funnel in enumerate(declared, 1):
            for n, (step, pattern) in enumerate(funnel.steps.items(), 1):
                name = f"f{f}_{n}"
                # The earliest view that can be this step leaves the most room for the steps after it.
                later = f"v.position > v.f{f}_{n - 1} AND " if n > 1 else ""
                rows = (
                    f"SELECT v.*, MIN(CASE WHEN {later}v.path {like(pattern)} THEN v.position END) "
                    f"OVER (PARTITION BY v.session_id) AS {name}\nFROM ({rows}) AS v"
                )
                reached.append(f"MAX(v.{name}) AS {name}")
                counted.append(f"COUNT(s.{name}) AS {name}")
                named.append(
                    f"SELECT '{funnel.name}' AS funnel, {n} AS step, '{step}' AS step_name, '{name}' AS name"
                )
                chosen.append(f"WHEN '{name}' THEN c.{name}")
        return f"""
SELECT d.dt, n.funnel, n.step, n.step_name, COALESCE(CASE n.name {" ".join(chosen)} END, 0) AS sessions
FROM (
    SELECT DISTINCT v.session_dt AS dt
    {views}
) AS d
LEFT JOIN (
SELECT s.dt, {", ".join(counted)}
FROM (
SELECT v.dt, v.session_id, {", ".join(reached)}
FROM (
{rows}
) AS v
GROUP BY v.dt, v.session_id
) AS s
GROUP BY s.dt
) AS c ON c.dt = d.dt
CROSS JOIN (
{" UNION ALL ".join(named)}
) AS n"""

    return Mart(
        "funnels",
        grain="one row for each day with page views, funnel and step",
        columns=_columns(
            ("dt", "DATE", "UTC day", "day on which the sessions started"),
            ("funnel", _ID, "", "name of the funnel"),
            ("step", "SMALLINT", "from 1", "number of the step"),
            ("step_name", _ID, "", "name of the step"),
            (
                "sessions",
                "BIGINT",
                "sessions",
                "that reached this step after all before it, in order; 0 for none",
            ),
        ),
        keys=("dt", "funnel", "step"),
        reads=("page_views",),
        select=select,
    )


FUNNELS = funnels(PURCHASE)


def _retention(scope: Scope, unit: str) -> str:
    period = "u.dt" if unit == "day" else "CAST(DATE_TRUNC('week', u.dt) AS DATE)"
    count = "DATEDIFF(DAY, f.cohort, a.period)" + ("" if unit == "day" else " / 7")
    return f"""
WITH active AS (
    SELECT DISTINCT u.visitor_id, {period} AS period FROM {scope["user_days"]} AS u WHERE u.page_views > 0
),
firsts AS (SELECT visitor_id, MIN(period) AS cohort FROM active GROUP BY visitor_id)
SELECT f.cohort, CAST({count} AS BIGINT) AS {unit}s_after, COUNT(*) AS visitors
FROM active AS a
JOIN firsts AS f ON f.visitor_id = a.visitor_id
GROUP BY f.cohort, CAST({count} AS BIGINT)"""


def _retention_mart(unit: str) -> Mart:
    begin = "day" if unit == "day" else "Monday of the week"
    return Mart(
        f"retention_{unit}s",
        grain=f"one row for each first {unit} and number of {unit}s after it on which somebody came back",
        columns=_columns(
            ("cohort", "DATE", "UTC day", f"{begin} of the visitors' first session with a page view"),
            (f"{unit}s_after", "BIGINT", f"{unit}s", f"{unit}s since then; 0 is the first {unit} itself"),
            (
                "visitors",
                "BIGINT",
                "visitors",
                f"of the cohort, with a page view in a session that started in that {unit}; at 0 it is all of them",
            ),
        ),
        keys=("cohort", f"{unit}s_after"),
        reads=("user_days",),
        select=lambda scope: _retention(scope, unit),
        day=None,
    )


RETENTION_DAYS = _retention_mart("day")
RETENTION_WEEKS = _retention_mart("week")


def _sign_ins(scope: Scope) -> str:
    return f"""
SELECT r.dt, r.visitor_id, r.run, r.user_id, MIN(r.ts) AS first_seen, MAX(r.ts) AS last_seen, COUNT(*) AS events
FROM (
    SELECT s.dt, s.visitor_id, s.user_id, s.ts,
           SUM(s.starts) OVER (
               PARTITION BY s.dt, s.visitor_id ORDER BY s.ts, s.user_id, s.event_id ROWS UNBOUNDED PRECEDING
           ) AS run
    FROM (
        SELECT CAST(e.ts AS DATE) AS dt, e.visitor_id, e.user_id, e.ts, e.event_id,
               CASE WHEN e.user_id = LAG(e.user_id) OVER (
                   PARTITION BY CAST(e.ts AS DATE), e.visitor_id ORDER BY e.ts, e.user_id, e.event_id
               ) THEN 0 ELSE 1 END AS starts
        FROM {scope["events"]} AS e
        WHERE e.user_id IS NOT NULL AND {scope.on("e.ts")}
    ) AS s
) AS r
GROUP BY r.dt, r.visitor_id, r.run, r.user_id"""


SIGN_INS = Mart(
    "sign_ins",
    grain="one row for each day, visitor and run of events of one signed-in user",
    columns=_columns(
        ("dt", "DATE", "UTC day", "day of the events"),
        ("visitor_id", _ID, "", "the visitor"),
        (
            "run",
            "BIGINT",
            "from 1",
            "which run of the visitor's day; one ends where another user has an event",
        ),
        ("user_id", _PATH, "", "the user"),
        ("first_seen", "TIMESTAMP", "UTC", "first event of the run that has the user"),
        ("last_seen", "TIMESTAMP", "UTC", "last event of the run that has the user"),
        ("events", "BIGINT", "events", "of the run; those without a user are not among them"),
    ),
    keys=("dt", "visitor_id", "run"),
    reads=("events",),
    select=_sign_ins,
    dist_key="visitor_id",
)


def identities(days: int = 30) -> Mart:
    """The mart of who a visitor was, and when. A user counts for ``days`` before the first and after the last event
    with a sign-in, unless another one signs in. ConfigurationError for days that are not from 1 to 3,650."""
    if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= 3650:
        raise ConfigurationError(f"The window of identities is {days!r}; valid is 1 to 3650 whole days.")

    def select(scope: Scope) -> str:
        # A run of one day goes on in the next one's where the user is the same. LEAST leaves NULL out of account.
        in_order = "PARTITION BY s.visitor_id ORDER BY s.dt, s.run"
        return f"""
SELECT i.visitor_id, i.user_id, i.valid_from, i.valid_to, i.first_seen, i.last_seen
FROM (
    SELECT b.visitor_id, b.user_id, b.first_seen, b.last_seen,
           CASE WHEN b.before_seen IS NULL THEN DATEADD(DAY, -{days}, b.first_seen)
                ELSE GREATEST(
                    DATEADD(DAY, -{days}, b.first_seen), LEAST(DATEADD(DAY, {days}, b.before_seen), b.first_seen)
                ) END AS valid_from,
           LEAST(DATEADD(DAY, {days}, b.last_seen), b.next_seen) AS valid_to
    FROM (
        SELECT m.visitor_id, m.user_id, m.first_seen, m.last_seen,
               LAG(m.last_seen) OVER (PARTITION BY m.visitor_id ORDER BY m.place) AS before_seen,
               LEAD(m.first_seen) OVER (PARTITION BY m.visitor_id ORDER BY m.place) AS next_seen
        FROM (
            SELECT g.visitor_id, g.user_id, g.place, MIN(g.first_seen) AS first_seen, MAX(g.last_seen) AS last_seen
            FROM (
                SELECT s.visitor_id, s.user_id, s.first_seen, s.last_seen,
                       SUM(s.starts) OVER ({in_order} ROWS UNBOUNDED PRECEDING) AS place
                FROM (
                    SELECT s.visitor_id, s.user_id, s.dt, s.run, s.first_seen, s.last_seen,
                           CASE WHEN s.user_id = LAG(s.user_id) OVER ({in_order}) THEN 0 ELSE 1 END AS starts
                    FROM {scope["sign_ins"]} AS s
                ) AS s
            ) AS g
            GROUP BY g.visitor_id, g.user_id, g.place
        ) AS m
    ) AS b
) AS i
WHERE i.valid_from < i.valid_to"""

    return Mart(
        "identities",
        grain="one row for each visitor and span of time in which it is taken for a user",
        columns=_columns(
            ("visitor_id", _ID, "", "the visitor"),
            ("user_id", _PATH, "", "whom it is taken for; of one visitor, no two spans overlap"),
            ("valid_from", "TIMESTAMP", "UTC", "begin of the span, included"),
            ("valid_to", "TIMESTAMP", "UTC", "end of the span, not included"),
            ("first_seen", "TIMESTAMP", "UTC", "first event of the span that has the user"),
            ("last_seen", "TIMESTAMP", "UTC", "last event of the span that has the user"),
        ),
        keys=("visitor_id", "valid_from"),
        reads=("sign_ins",),
        select=select,
        day=None,
        dist_key="visitor_id",
    )


IDENTITIES = identities()

MARTS: tuple[Mart, ...] = in_order(
    (
        PAGE_VIEWS,
        USER_DAYS,
        USERS,
        DAILY_TRAFFIC,
        FUNNELS,
        ENTRY_PAGES,
        EXIT_PAGES,
        PATH_TRANSITIONS,
        RETENTION_DAYS,
        RETENTION_WEEKS,
        SIGN_INS,
        IDENTITIES,
    ),
    (),
)
"""All of them, each after those that it reads."""
