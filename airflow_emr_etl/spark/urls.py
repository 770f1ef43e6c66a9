"""Pages: the path of a request in a normal form, so that the same page is one page however it was asked for.

RFC 3986, section 6.2.2, and the habits of web servers. Spark's own expressions; an ordinary path costs a few
substring searches. :func:`page` is the same in Python.
"""

from __future__ import annotations

import re
from typing import List, Match, Optional

from pyspark.sql import Column
from pyspark.sql import functions as F

from airflow_emr_etl.spark.binding import bind

_UNRESERVED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"

INDEX_PAGE = r"(?i)/(?:index|default)\.(?:x?html?|php\d?|aspx?|jspx?|cgi)\z"
SESSION_PARAMETER = r"(?i);jsessionid=[^/;]*"

_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_SLASHES = re.compile("//+")
_SESSION_PARAMETER = re.compile(SESSION_PARAMETER, re.ASCII)
_INDEX_PAGE = re.compile(INDEX_PAGE.replace(r"\z", r"\Z"), re.ASCII)


def page_of(path: Column) -> Column:
    """The page of ``path`` (without query); NULL where that does not begin with a slash.

    In this order: a Java session's ``;jsessionid=`` goes; percent-encoded unreserved characters are decoded and
    the digits of all other escapes are upper case; several slashes become one; ``.`` and ``..`` are resolved; an
    index page becomes its folder; a slash at the end goes. Letters keep their case, as most servers tell it.
    """
    odd = path.contains("%") | path.contains("//") | path.contains("/.") | path.contains(";")
    odd = odd | path.endswith("/") | path.rlike(r"(?i)/(?:index|default)\.[a-z\d]{1,5}\z")
    plain = F.regexp_replace(path, SESSION_PARAMETER, "")
    plain = bind(plain, lambda text: F.when(text.contains("%"), _decoded_unreserved(text)).otherwise(text))
    plain = F.regexp_replace(plain, "//+", "/")
    plain = bind(plain, lambda text: F.when(text.contains("/."), _without_dots(text)).otherwise(text))
    plain = F.regexp_replace(F.regexp_replace(plain, INDEX_PAGE, "/"), r"(?s)(?<=.)/\z", "")
    return F.when(path.startswith("/"), F.when(odd, plain).otherwise(path))


def _decoded_unreserved(path: Column) -> Column:
    """``%7e`` to ``~``, ``%2f`` to ``%2F``; what is no escape stays as it is."""
    unreserved = F.create_map(*(F.lit(text) for char in _UNRESERVED for text in (f"{ord(char):02X}", char)))

    def piece(text: Column) -> Column:
        code = F.upper(F.substring(text, 1, 2))
        rest = text.substr(F.lit(3), F.length(text))
        char = F.try_element_at(unreserved, code)
        return (
            F.when(~text.rlike(r"(?s)^[0-9A-Fa-f]{2}"), F.concat(F.lit("%"), text))
            .when(char.isNotNull(), F.concat(char, rest))
            .otherwise(F.concat(F.lit("%"), code, rest))
        )

    def joined(pieces: Column) -> Column:
        return F.concat(pieces[0], F.array_join(F.transform(F.slice(pieces, 2, F.size(pieces)), piece), ""))

    return bind(F.split(path, "%", -1), joined)


def _without_dots(path: Column) -> Column:
    """RFC 3986, section 5.2.4, for a path without empty segments."""
    segments = F.split(path, "/", -1)
    # Behind a dot segment at the end there is an empty one: `/a/.` is `/a/`.
    segments = F.when(path.rlike(r"/\.\.?\z"), F.concat(segments, F.array(F.lit("")))).otherwise(segments)

    def step(done: Column, segment: Column) -> Column:
        return (
            F.when(segment == ".", done)
            # The first element is the empty text before the first slash: `..` never goes above the root.
            .when(segment == "..", F.slice(done, 1, F.greatest(F.size(done) - 1, F.lit(1))))
            .otherwise(F.concat(done, F.array(segment)))
        )

    def kept(every: Column) -> Column:
        return F.aggregate(F.slice(every, 2, F.size(every)), F.array(F.lit("")), step)

    return F.array_join(bind(segments, kept), "/")


def page(path: str) -> Optional[str]:
    """The same as :func:`page_of`, in Python."""
    if not path.startswith("/"):
        return None
    # Of most paths this is all that has to be asked.
    if not any(sign in path for sign in ("%", "//", "/.", ";", ".")) and not path.endswith("/"):
        return path
    path = _SESSION_PARAMETER.sub("", path)
    if "%" in path:
        path = _ESCAPE.sub(_decoded, path)
    path = _SLASHES.sub("/", path)
    if "/." in path:
        path = _resolved(path)
    path = _INDEX_PAGE.sub("/", path)
    return path[:-1] if len(path) > 1 and path.endswith("/") else path


def _decoded(escape: Match[str]) -> str:
    char = chr(int(escape.group(1), 16))
    return char if char in _UNRESERVED else escape.group(0).upper()


def _resolved(path: str) -> str:
    segments = path.split("/")
    if segments[-1] in (".", ".."):
        segments.append("")
    done: List[str] = segments[:1]
    for segment in segments[1:]:
        if segment == "..":
            del done[max(1, len(done) - 1) :]
        elif segment != ".":
            done.append(segment)
    return "/".join(done)
