r"""What a line of an access log looks like: the expressions that Spark, the splitter and the tests share.

Common Log Format   ``host ident user [time] "request" status bytes``
Combined Log Format the same, then ``"referrer" "user agent"``, then any further fields, which are ignored.
A Common line may have further fields too, as long as they have no quotes. A leading ``vhost:port`` (Apache's
``vhost_combined``) is accepted and ignored. Inside quotes a backslash escapes the next character; servers that
did not escape (before 2004) are read by :data:`LOOSE_LINE`. A user name may hold spaces only where ident is ``-``,
as it nearly always is: otherwise a format with one more field in front would be read silently wrong.

The expressions are written for Java (Spark) with possessive quantifiers, because ``(a|b)*`` on a long line
exhausts the stack of Java's matcher; :func:`python_pattern` gives the same expression for ``re``.
Runs on the cluster: no dependency, valid on Python 3.9.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from re import Pattern

_QUOTED = r'[^"\\]*+(?:\\.[^"\\]*+)*+'
_HEAD = (
    r"(?s)^\uFEFF?(?:[^ :\"\[]++:\d{1,5} (?!- ))?([^ \"]++) "
    r"(?:- [^\[\]\"]{1,255}?|[^ ]++ [^ ]++) \["
)

LINE = (
    _HEAD + rf"([^\]\"]*+)\] \"({_QUOTED})\" ([^ \"]++) ([^ \t\r\"]++)"
    rf"(?: \"({_QUOTED})\" \"({_QUOTED})\"(?: ++(?:\"{_QUOTED}\"|[^ \"]++))*+|(?: ++[^ \"]++)++)?+[ \t]*+\r?\z"
)
"""A whole line. Groups: host, time, request, status, bytes, referrer, user agent (the last two may not be there)."""

LOOSE_LINE = (
    _HEAD + r"(?=.{1,8192}+\z)([^\]\"]*+)\](?!.*\[\d\d/[A-Za-z]{3}/\d{4}:) "
    r"(?>\"(.*?)\" (\d{3}) )(\d++|-)"
    r"(?:(?> \"(.*?)\" \")(.*?)(?<!\\)\"(?: ++(?:\"[^\"]*+\"|[^ \"]++))*+|(?: ++[^ \"]++)*+)[ \t]*+\r?\z"
)
r"""A line with quotes inside its quotes, or a backslash before the last one; the groups of :data:`LINE`.

Only for lines that :data:`LINE` does not match. The request ends at the first quote that a status follows, the
referrer at the first one that the next field follows, and the user agent where nothing but further fields is left.
No second time may stand in the line: that is two lines in one. Nor may an escaped quote end it: that one was cut.
The length is limited, because the time of the search grows with its square.
"""

_PLAIN = (
    r"[ !#-\[\]-~]*+"  # printable ASCII without quote and backslash: nothing to unescape, decode or doubt
)
PLAIN_LINE = (
    r"^(?:[!#-9;-\[\]-~]++:\d{1,5} (?!- ))?([!#-Z\]-~]{1,255}+) - (?:- |[!#-Z\\^-~]++ )\["
    r"([0-3]\d)/([A-Z][a-z]{2})/([12]\d{3}):([01]\d|2[0-3])(:[0-5]\d:[0-5]\d) ([+-](?:0\d|1[0-7]))([0-5]\d)\] "
    r"\"([A-Z][A-Z_-]{0,31}+) (/[!#->@-\[\]-~]*+)(\?[!#-\[\]-~]*+)? ([A-Za-z]{1,16}/\d(?:\.\d)?)\" "
    rf"(\d{{3}}) (\d{{1,18}}+|-)(?: \"({_PLAIN})\" \"({_PLAIN})\"(?: (?:\"{_PLAIN}\"|[!#-\[\]-~]++))*+)?\r?\z"
)
"""Nearly every line of nearly every log, in one pass: what it matches, :data:`LINE` and all further checks accept."""

PLAIN_LINE_GROUPS = (
    *("host", "day", "month", "year", "hour", "rest_of_time", "offset_hours", "offset_minutes"),
    *("method", "path", "query", "protocol", "status", "bytes", "referrer", "user_agent"),
)
"""The groups of :data:`PLAIN_LINE`. The query has its question mark, to tell an empty one from none."""

LINE_GROUPS = ("host", "time", "request", "status", "bytes", "referrer", "user_agent")


def _prefixes(pieces: list[str]) -> str:
    """An expression for every beginning of the sequence of ``pieces``."""
    nested = ""
    for piece in reversed(pieces):
        nested = f"(?:{piece}{nested})?+"
    return nested


_REQUEST_ON = [r"[^\]\"]++", r"\]", " ", '"', rf"{_QUOTED}[\\]?+", '"', " ", r"\d{1,3}+", " ", r"[0-9-]++"]
_REFERRER_ON = [" ", '"', rf"{_QUOTED}[\\]?+", '"', " ", '"', rf"{_QUOTED}[\\]?+"]
TRUNCATED = _HEAD + _prefixes(_REQUEST_ON + _REFERRER_ON) + r"\r?\z"
"""A line that begins like a good one and ends too early. Only for lines that :data:`LINE` does not match."""

REQUEST = (
    r"(?s)^(?:([A-Z][A-Z_-]{0,31}+) ([^ ]++)"
    r"|([A-Za-z][A-Za-z0-9_-]{0,31}+) (.+) ([A-Za-z]{1,16}/\d(?:\.\d)?)) *+\z"
)
"""``METHOD target`` (groups 1, 2) or ``METHOD target PROTOCOL`` (groups 3, 4, 5)."""

TIME = r"^(?:0[1-9]|[12]\d|3[01])/[A-Za-z]{3}/[12]\d{3}:(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d [+-]\d{2}[0-5]\d\z"
"""The form of a time. Whether the day exists in its month is for the calendar to say."""

UTF8 = (
    r"^(?:[\x00-\x7F]|[\xC2-\xDF][\x80-\xBF]|\xE0[\xA0-\xBF][\x80-\xBF]"
    r"|[\xE1-\xEC\xEE\xEF][\x80-\xBF]{2}|\xED[\x80-\x9F][\x80-\xBF]"
    r"|\xF0[\x90-\xBF][\x80-\xBF]{2}|[\xF1-\xF3][\x80-\xBF]{3}|\xF4[\x80-\x8F][\x80-\xBF]{2})*+\z"
)
"""Well-formed UTF-8 (RFC 3629), for bytes that were read as ISO 8859-1."""

ABSOLUTE_URI = r"^[A-Za-z][A-Za-z0-9+.-]*+://[^/?#]*+"
"""Scheme and authority of an absolute URI, as a request to a proxy has them."""

URI_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*+://(?:[^/?#@]*@)?(\[[^\]/?#]*\]|[^/?#:@\[\]]+)"
"""Group 1: the host of an absolute URI, without user and port."""

_ASSETS = (
    "7z apk atom avi avif bmp bz2 class css csv deb dmg doc docx eot exe flac gif gz ico iso jar jpeg jpg js "
    "json m3u8 m4a m4v map mjs mkv mov mp3 mp4 mpeg mpg msi ogg ogv otf pdf png ppt pptx rar rdf rpm rss svg "
    "swf tar tgz tif tiff ts ttf txt wasm wav webm webmanifest webp wmv woff woff2 xls xlsx xml xz zip zst"
)
ASSET_EXTENSIONS = tuple(_ASSETS.split())
"""A path that ends in one of these is no page: what a page loads, a feed, a download, robots.txt."""

MONTHS = {
    name: number
    for number, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), start=1)  # noqa: SIM905
}

_DATED = re.compile(rb"\[(\d{2}/[A-Za-z]{3}/[12]\d{3}:\d{2}:\d{2}:\d{2} [+-]\d{4})\]")
_TIME_PARTS = re.compile(r"(\d{2})/([A-Za-z]{3})/(\d{4}):(\d{2}):(\d{2}):(\d{2}) ([+-])(\d{2})(\d{2})\Z")


def python_pattern(java: str) -> Pattern[str]:
    """``java`` for Python's ``re``: no possessive quantifiers before 3.11, no ``\\z`` before 3.14."""
    return re.compile(re.sub(r"(?<!\\)([*+?}])\+", r"\1", java).replace(r"\z", r"\Z"), re.ASCII)


def read_time(text: str) -> datetime | None:
    """A time such as ``05/Jan/2026:23:59:59 +0530`` in UTC, or None where there is no such time."""
    parts = _TIME_PARTS.match(text)
    if parts is None:
        return None
    day, month, year, hour, minute, second, sign, offset_hours, offset_minutes = parts.groups()
    offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
    # The limit of java.time, so that the splitter and Spark agree.
    month = month.capitalize()
    if month not in MONTHS or int(offset_minutes) > 59 or offset > timedelta(hours=18):
        return None
    try:
        local = datetime(  # noqa: DTZ001 - the offset is applied on the next line
            int(year), MONTHS[month], int(day), int(hour), int(minute), int(second)
        )
    except ValueError:
        return None
    return (local - (offset if sign == "+" else -offset)).replace(tzinfo=timezone.utc)  # noqa: UP017 - UTC is new in 3.11


def find_time(line: bytes | bytearray) -> str | None:
    """The text of the first bracketed time of a raw line, whether or not the calendar has it."""
    found = _DATED.search(line)
    return None if found is None else found.group(1).decode("ascii")
