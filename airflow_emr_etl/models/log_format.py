r"""Apache's ``LogFormat`` strings and ``strftime`` formats as regular expressions.

Written for Java (Spark) with possessive quantifiers, so that no line makes a matcher go back and try again;
:func:`airflow_emr_etl.models.access_log.python_pattern` gives the same for ``re``. A directive ends where the
text after it in the format begins: inside quotes at the first quote that no backslash escapes, elsewhere at the
first place that has the whole of that text. So ``%u`` before `` [`` may hold spaces, and ``%h`` before a space
may not. What a field holds is checked later, by the column it is mapped to.
Runs on the cluster: no dependency, valid on Python 3.9.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_emr_etl.exceptions import ConfigurationError

COMMON = '%h %l %u %t "%r" %>s %b'
COMBINED = COMMON + ' "%{Referer}i" "%{User-agent}i"'

_DIRECTIVE = re.compile(
    r"%(?P<before>[0-9,!<>]*)(?:\{(?P<argument>[^}]*(?:%\{[^}]*\}[^}]*)*)\})?(?P<after>[0-9,!<>]*)"
    r"(?P<letter>\^[A-Za-z]{2}|[A-Za-z%])"
)
_PLAIN_LETTERS = "aAbBDfhHIklLmOpPqrRsStTuUvVX"
_LETTERS_WITH_ARGUMENT = "aCehiLnopPtTcx"
_QUOTED = r"[^\"\\]*+(?:\\.[^\"\\]*+)*+"

_TIMES = {
    "Y": r"(?<Y>[12]\d{3})",
    "m": r"(?<m>0[1-9]|1[0-2])",
    "d": r"(?<d>0[1-9]|[12]\d|3[01])",
    "e": r"(?: |(?=\d\d))(?<d>[12]\d|3[01]|[1-9])",
    "b": r"(?<b>[A-Za-z]{3})",
    "H": r"(?<H>[01]\d|2[0-3])",
    "M": r"(?<M>[0-5]\d)",
    "S": r"(?<S>[0-5]\d)",
    "z": r"(?<z>[+-](?:0\d|1[0-8]):?[0-5]\d|Z)",
    "f": r"(?<f>\d{1,9})",
}
_WIDTHS = {"%Y": 4, "%b": 3, "%h": 3, "%B": 3}
_COMPOUND = {"T": "%H:%M:%S", "F": "%Y-%m-%d", "R": "%H:%M"}
_VALID_TIMES = "%Y %m %d %e %b %H %M %S %z %f (a fraction), %T, %F, %R, %n, %t and %%"


@dataclass(frozen=True)
class LineFormat:
    """``expression`` matches a whole line; group n is the text of ``fields[n - 1]``, as it stands in the line.

    ``time_format`` is the form (``strftime``, or ``epoch_s`` and its like) of the texts of ``time_fields`` joined by
    ``time_joint``; None without a time.
    """

    expression: str
    fields: tuple[str, ...]
    time_fields: tuple[str, ...]
    time_format: str | None
    time_joint: str = " "


def compile_log_format(text: str) -> LineFormat:
    """The expression of one of Apache's ``LogFormat`` strings, fields named as in the format (``%>s``).

    Names of headers are in lower case (``%{referer}i``), and ``%t`` and ``%{…}t`` are the pieces of the time.
    Raise ConfigurationError for a directive that Apache does not have.
    """
    tokens = _tokens(text)
    pattern = r"(?s)^\uFEFF?"
    fields: list[str] = []
    times: list[str] = []
    time_formats: list[str] = []
    for index, (literal, directive) in enumerate(tokens):
        if directive is None:
            pattern += re.escape(literal)
            continue
        following = _following(tokens, index)
        before = tokens[index - 1][0] if index and tokens[index - 1][1] is None else ""
        if directive.letter == "t":
            shape, form = _time_piece(directive, following)
            if form is not None and not directive.argument.startswith("end:"):
                times.append(_unique(directive.name, fields))
                time_formats.append(form)
            pattern += shape
        else:
            pattern += _field(directive, before, following)
        fields.append(_unique(directive.name, fields))
    if not fields:
        raise ConfigurationError(
            f"The log format {text!r} has no directive such as %h; see Apache's LogFormat."
        )
    form = " ".join(time_formats) or None
    joint = "." if form == "epoch_s %f" else " "
    if form and form.startswith("epoch"):
        form = form.split(" ")[0]
    return LineFormat(pattern + r"[ \t]*+\r?\z", tuple(fields), tuple(times), form, joint)


@dataclass(frozen=True)
class TimeFormat:
    """``expression`` matches a whole time; ``iso`` is the Java replacement that makes ISO 8601 of it.

    The month is either a number or, with ``month_name``, a name of three letters: ``2026-Jan-05T…``. Without
    ``zoned`` the result has no offset.
    """

    expression: str
    iso: str
    month_name: bool
    zoned: bool


def compile_time_format(text: str) -> TimeFormat:
    """The expression of a ``strftime`` format; raise ConfigurationError where it gives no point in time."""
    plain = text
    for letter, meaning in _COMPOUND.items():
        plain = plain.replace(f"%{letter}", meaning)
    pattern, position = "^", 0
    seen: list[str] = []
    for found in re.finditer(r"%(.?)", plain, re.DOTALL):
        pattern += re.escape(plain[position : found.start()])
        position = found.end()
        letter = {"h": "b", "B": "b"}.get(found[1], found[1])
        if letter in "nt" and letter:
            pattern += r"\s++"
        elif letter == "%":
            pattern += "%"
        elif letter in _TIMES and letter not in seen:
            pattern += _TIMES[letter]
            seen.append("d" if letter == "e" else letter)
        else:
            raise ConfigurationError(
                f"The time format {text!r} has {found[0]!r}, which cannot be read"
                f"{' twice' if letter in seen else ''}; valid is {_VALID_TIMES}."
            )
    pattern += re.escape(plain[position:]) + r"\z"
    month = next((name for name in "mb" if name in seen), None)
    if month is None or not {"Y", "d", "H", "M"} <= set(seen):
        raise ConfigurationError(
            f"The time format {text!r} gives no point in time: it has to have year, month, day, hour and minute. "
            f"Valid is {_VALID_TIMES}."
        )
    day = "${d}"
    second = ":${S}" if "S" in seen else ":00"
    fraction = ".${f}" if "f" in seen else ""
    zone = "${z}" if "z" in seen else ""
    iso = f"${{Y}}-${{{month}}}-{day}T${{H}}:${{M}}{second}{fraction}{zone}"
    return TimeFormat(pattern, iso, month == "b", "z" in seen)


@dataclass(frozen=True)
class _Directive:
    letter: str
    argument: str
    name: str


def _tokens(text: str) -> list[tuple[str, _Directive | None]]:
    """Literal text and directives, in order; neighbouring literals are joined."""
    tokens: list[tuple[str, _Directive | None]] = []
    # As in httpd.conf, where the string stands in quotes.
    text = text.replace('\\"', '"').replace("\\t", "\t")
    position = 0
    while position < len(text):
        literal = text[position]
        found = _DIRECTIVE.match(text, position) if literal == "%" else None
        if literal == "%" and found is None:
            raise ConfigurationError(f"The log format {text!r} has a % without a directive at {position}.")
        if found is not None and found["letter"] != "%":
            tokens.append(("", _directive(text, found)))
        elif tokens and tokens[-1][1] is None:
            tokens[-1] = (tokens[-1][0] + literal, None)
        else:
            tokens.append((literal, None))
        position = found.end() if found is not None else position + 1
    return tokens


def _directive(text: str, found: re.Match[str]) -> _Directive:
    letter, argument = found["letter"], found["argument"]
    valid = _PLAIN_LETTERS if argument is None else _LETTERS_WITH_ARGUMENT
    if letter not in valid and not (letter == "^FB" and argument is None) and letter not in ("^ti", "^to"):
        raise ConfigurationError(
            f"The log format {text!r} has {found[0]!r}, which is no directive of Apache. "
            f"Valid letters are {' '.join(_PLAIN_LETTERS)}, and {' '.join(_LETTERS_WITH_ARGUMENT)} with braces."
        )
    which = (
        "<"
        if "<" in found["before"] + found["after"]
        else ">"
        if ">" in found["before"] + found["after"]
        else ""
    )
    braces = "" if argument is None else "{" + (argument.lower() if letter in "io" else argument) + "}"
    return _Directive(letter, argument or "", f"%{which}{braces}{letter}")


def _unique(name: str, taken: list[str]) -> str:
    number = taken.count(name) + sum(other.startswith(f"{name}#") for other in taken)
    return f"{name}#{number + 1}" if number else name


def _following(tokens: list[tuple[str, _Directive | None]], index: int) -> str:
    """The literal text after a directive; empty at the end of the line, and before another directive."""
    if index + 1 < len(tokens) and tokens[index + 1][1] is None:
        after = tokens[index + 2][1] if index + 2 < len(tokens) else None
        # %t brings its own brackets.
        return tokens[index + 1][0] + ("[" if after and after.letter == "t" and not after.argument else "")
    return "" if index + 1 == len(tokens) else "%"


def _field(directive: _Directive, before: str, following: str) -> str:
    if before.endswith('"') and following.startswith('"'):
        return f"({_QUOTED})"
    if following == "":
        return r"([^ \t\r]++)" if before.endswith(" ") and directive.letter not in "ir" else r"(.*?)"
    if following == "%":  # nothing between two directives: what each may hold has to tell them apart
        return {
            "U": r"([^? ]*+)",
            "q": r"((?:\?[^ ]*+)?+)",
            "X": "([-+X])",
        }.get(directive.letter, r"([^ ?]*)")
    if directive.argument.lower() == "x-forwarded-for" and following.startswith(" "):
        return r"([^ ,]++(?:, ?[^ ,]++)*+)"
    if directive.letter in "haAvV" and following.startswith(":"):
        return r"([^ ]+)"  # an IPv6 address has colons of its own; the last one is the format's
    many = "*+" if directive.letter == "q" else "++"
    if len(following) == 1:
        return f"([^{_in_class(following)}]{many})"
    return f"((?:(?!{re.escape(following)}).){many})"


def _time_piece(directive: _Directive, following: str) -> tuple[str, str | None]:
    """The shape of one piece of the time, loose enough to find a bad one, and its strftime form."""
    argument = directive.argument
    for prefix in ("begin:", "end:"):
        argument = argument[len(prefix) :] if argument.startswith(prefix) else argument
    if not directive.argument:
        return r"\[([^\]\"]*+)\]", "%d/%b/%Y:%H:%M:%S %z"
    numbers = {"sec": "epoch_s", "msec": "epoch_ms", "usec": "epoch_us", "msec_frac": "%f", "usec_frac": "%f"}
    if argument in numbers:
        return r"([0-9-]++)", numbers[argument]
    return f"({_time_shape(argument, following)})", argument


def _time_shape(argument: str, following: str) -> str:
    """Each directive takes all that looks like it; its exact width where it would take of what follows, too."""
    pieces = re.findall(r"%.|[^%]+|%", argument, re.DOTALL)
    shape = ""
    for index, piece in enumerate(pieces):
        after = pieces[index + 1] if index + 1 < len(pieces) else following
        begins = _begins(after)
        if piece == "%%" or not piece.startswith("%"):
            shape += re.escape(piece.replace("%%", "%"))
        elif piece in ("%n", "%t"):
            shape += r"\s++"
        elif piece == "%e":
            shape += "[ 0-9][0-9]"
        elif piece == "%z":
            overlaps = re.search("[A-Za-z0-9:]", begins)
            shape += "(?:Z|[+-][0-9]{2}:?[0-9]{2})" if overlaps else r"[+-]?[A-Za-z0-9:]++"
        elif piece in ("%T", "%F", "%R"):
            overlaps = re.search("[0-9:/-]", begins)
            shape += _time_shape(_COMPOUND[piece[1]], after) if overlaps else r"[0-9:/-]++"
        elif not re.search("[A-Za-z0-9]", begins):
            shape += "[A-Za-z0-9]++"
        elif piece == "%f":
            shape += "[0-9]{1,9}+"
        else:
            shape += f"[A-Za-z0-9]{{{_WIDTHS.get(piece, 2)}}}"
    return shape


def _begins(piece: str) -> str:
    """What a piece of a format can begin with, a character of each kind; ``%`` is a directive that is not known."""
    if piece.startswith("%"):
        return {"%": "+-0Z", "%z": "+-Z", "%e": " 0", "%n": " ", "%t": " ", "%%": "%"}.get(piece, "0Z")
    return piece[:1]


def _in_class(character: str) -> str:
    return "\\" + character if character in r"\]^-[&" else character
