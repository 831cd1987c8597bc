"""From bytes to values: bodies and query strings, with every way they can be wrong named as a path and a reason."""

import contextlib
import datetime as dt
import json
import re
from collections.abc import Collection, Iterator
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from api.expectations import HINT, allowed_values, hint
from api.patterns import WORDS
from engine.definition import MOMENT_SAMPLE, Moment
from engine.errors import InvalidRequest

T = TypeVar("T")

_DATE_OR_MOMENT = f"a date, such as {MOMENT_SAMPLE[:10]}, or a moment with a zone, such as {MOMENT_SAMPLE}"
DateOrMoment = Annotated[
    str,
    msgspec.Meta(
        min_length=10,
        max_length=40,
        description="A date in UTC, or a moment with a zone (RFC 3339).",
        extra={HINT: _DATE_OR_MOMENT},
        extra_json_schema={"anyOf": [{"format": "date"}, {"format": "date-time"}]},
    ),
]

FREE_FORM_DEPTH_MAX = 16  # levels of objects and arrays inside metadata
_INTEGER_RANGE = range(-(2**53) + 1, 2**53)  # what every JSON reader keeps exactly (RFC 8259, section 6)
_YEARS = range(1970, 9999)
_DAY = dt.timedelta(days=1)
_QUERY_FIELDS_MAX = 32
_AT = re.compile(r"(.*) - at (?:`key` in )?`(.*)`", re.DOTALL)
_PATTERN = re.compile(r"Expected `str` matching regex (.*)", re.DOTALL)
_WORDS_BY_REPR = {repr(pattern): words for pattern, words in WORDS.items()}  # msgspec quotes patterns as Python does
_TYPE = "(?:int|float|str|bool|null|object|array|datetime)"
_TYPES = re.compile(rf"`({_TYPE}(?: \| {_TYPE})*)`")
_NO_MOMENT = frozenset(("Invalid RFC3339 encoded datetime", "Expected `datetime` with a timezone component"))
_JSON_TYPES = {"datetime": "string", "int": "integer", "float": "number", "str": "string", "bool": "boolean"}
_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object without members."""


_nothing = msgspec.json.Decoder(_Nothing)


def decode_body(
    decoder: msgspec.json.Decoder[T], body: bytes, *, fixed: Collection[str] = (), in_parts: bool = False
) -> T:
    """The value of a JSON body; *fixed* are members that are known, and that this request cannot change.

    *in_parts* leaves NUL to whoever decodes the ``msgspec.Raw`` parts of the value with this function.

    Raises:
        InvalidRequest: It is not JSON, or not what the decoder wants.
    """
    if not body:
        raise InvalidRequest("$", "a JSON body is required")
    try:
        value = decoder.decode(body)
    except msgspec.ValidationError as error:
        invalid = invalid_value(error, decoder.type)
        if invalid.path.removeprefix("$.") in fixed:
            raise InvalidRequest(invalid.path, "cannot be changed") from None
        raise invalid from None
    except msgspec.DecodeError as error:
        raise half_a_pair(body) or InvalidRequest("$", why_no_json(error)) from None
    except UnicodeDecodeError:
        raise InvalidRequest("$", "the body is not valid UTF-8") from None
    except RecursionError:
        raise InvalidRequest("$", "the body is nested too deeply") from None
    # Postgres has no text with NUL in it; the escape is the only way to write one.
    if b"\\u0000" in body and not in_parts:
        check_free_form(msgspec.json.decode(body), "$", depth_max=None)
    return value


def require_no_body(body: bytes, query: type[msgspec.Struct] | None) -> None:
    """Refuse the body of a request that takes none, unless it is empty or ``{}``, which many clients send with a POST.

    What is meant for *query*, and stands in the body, would do nothing, or something else than was meant.

    Raises:
        InvalidRequest: There is something in it.
    """
    try:
        decode_body(_nothing, body)
    except InvalidRequest as error:
        reason, name = "this request takes no body", error.path.removeprefix("$.")
        if query is not None and name in query.__struct_encode_fields__:
            reason = f"{reason}: {name} is a parameter of its query"
        raise InvalidRequest(error.path, reason) from None


def decode_query(query_string: bytes, type_: type[T]) -> T:
    """The parameters of a query string as a struct of *type_*; paths are the parameters' names.

    Raises:
        InvalidRequest: A parameter is unknown, given twice, or not what the struct wants.
    """
    try:
        pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX)
    except ValueError:
        raise InvalidRequest("query", f"at most {_QUERY_FIELDS_MAX} parameters") from None
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name in parameters:
            raise InvalidRequest(name, "given twice")
        if "\0" in value:
            raise InvalidRequest(name, "contains NUL")
        parameters[name] = value
    try:
        return msgspec.convert(parameters, type_, strict=False)
    except msgspec.ValidationError as error:
        invalid = invalid_value(error, type_)
        name, reason = invalid.path.removeprefix("$."), invalid.reason
        if (field := _FIELD.fullmatch(reason)) is not None and field[1] == "contains unknown":
            known = ", ".join(sorted(map(str, type_.__struct_encode_fields__)))  # type: ignore[attr-defined]
            reason = f"unknown parameter: there are {known}"
        elif field is not None:
            reason = "a parameter that is required"
        raise InvalidRequest(name, reason) from None


@contextlib.contextmanager
def of_query() -> Iterator[None]:
    """Name a parameter as a parameter, by its name alone, which the engine knows by its path in a body.

    Raises:
        InvalidRequest: As the engine does, with ``from`` in place of ``$.from``.
    """
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(error.path.removeprefix("$."), error.reason) from None


def invalid_value(error: msgspec.ValidationError, type_: Any) -> InvalidRequest:
    """The refusal of JSON that is not of *type_*, in words for whoever wrote it: what would be right is in it."""
    reason, path = str(error), "$"
    if (match := _AT.fullmatch(reason)) is not None:
        reason, path = match[1], match[2]
    if (field := _FIELD.fullmatch(reason)) is not None:
        path = f"{path}.{field[2]}"
    told = hint(type_, path)
    if (pattern := _PATTERN.fullmatch(reason)) is not None and (words := _WORDS_BY_REPR.get(pattern[1])) is not None:
        reason = f"Expected {words}"
    elif reason in _NO_MOMENT:
        reason = f"Expected {told or 'a moment with a zone'}"
    elif reason.startswith("Expected"):  # anything else may quote names of the client's
        reason = _TYPES.sub(_as_json_calls_it, reason)
        if told is not None:
            reason = f"{reason}: {told}"
    elif reason.startswith("Invalid enum value"):
        reason = f"{reason}: must be one of {', '.join(allowed_values(type_, path))}"
    return InvalidRequest(path, reason)


def why_no_json(error: msgspec.DecodeError) -> str:
    """What the decoder could not read, for whoever wrote it."""
    reason = str(error)
    return "JSON is malformed: it ends too early" if reason == "Input data was truncated" else reason


def half_a_pair(text: bytes) -> InvalidRequest | None:
    """The refusal of JSON with an escape such as ``\\ud83d`` alone, where the other half of a character belongs.

    JSON can spell it, and UTF-8 cannot: the decoder stops there, and may say no more than that the text is cut off.
    ``None`` where that is not what is wrong.
    """
    if _SURROGATE_ESCAPE.search(text) is None:
        return None
    try:
        pending = [(json.loads(text), "$")]
    except (ValueError, RecursionError):
        return None
    while pending:
        member, at = pending.pop()
        if isinstance(member, str) and (half := _SURROGATE.search(member)) is not None:
            return InvalidRequest(at, f"contains \\u{ord(half[0]):04x} alone, which is half of a surrogate pair")
        if isinstance(member, dict):
            named = [(f"{at}.{name.encode(errors='backslashreplace').decode()}", name) for name in member]
            pending += [(name, place) for place, name in named]
            pending += [(member[name], place) for place, name in named]
        elif isinstance(member, list):
            pending += [(inner, f"{at}[{number}]") for number, inner in enumerate(member)]
    return None


def check_free_form(value: Any, path: str, *, depth_max: int | None = FREE_FORM_DEPTH_MAX) -> None:
    """Refuse what a client may write as JSON but nobody can store or repeat exactly.

    Raises:
        InvalidRequest: A NUL, an integer beyond 2**53, or too many levels.
    """
    pending = [(value, path, depth_max if depth_max is not None else -1)]
    while pending:
        member, at, levels = pending.pop()
        if isinstance(member, str) and "\0" in member:
            raise InvalidRequest(at, "contains NUL")
        if depth_max is not None and isinstance(member, int) and member not in _INTEGER_RANGE:
            raise InvalidRequest(at, "integers beyond 2**53 lose digits: send a string")
        if not isinstance(member, dict | list):
            continue
        if levels == 0:
            raise InvalidRequest(path, f"nested deeper than {depth_max} levels")
        if isinstance(member, dict):
            pending.extend((name, f"{at}.{name}", 0) for name in member)
            pending.extend((inner, f"{at}.{name}", levels - 1) for name, inner in member.items())
        else:
            pending.extend((inner, f"{at}[{number}]", levels - 1) for number, inner in enumerate(member))


def decode_moment(text: str | None, name: str, *, is_end: bool = False) -> dt.datetime | None:
    """A moment of a query: with a zone, or a date, which begins at midnight UTC.

    With *is_end* it is where a range ends, itself excluded; a date is its last day, which is in it as a whole.

    Raises:
        InvalidRequest: It is neither, or out of the years that can be stored.
    """
    if text is None:
        return None
    is_date = len(text) == len("2027-05-01")
    try:
        if is_date:
            moment = dt.datetime.combine(msgspec.convert(text, dt.date), dt.time(), dt.UTC)
        else:
            moment = msgspec.convert(text, Moment)
    except msgspec.ValidationError:
        raise InvalidRequest(name, f"Expected {_DATE_OR_MOMENT}") from None
    check_moment(moment, name)
    return moment + _DAY if is_end and is_date else moment


def check_moment(moment: dt.datetime, path: str) -> None:
    """Refuse a moment that another zone, or Postgres, could not express.

    Raises:
        InvalidRequest: Its year is not one of 1970 to 9998.
    """
    if moment.year not in _YEARS:
        raise InvalidRequest(path, f"the year must be one of {_YEARS[0]} to {_YEARS[-1]}")


def _as_json_calls_it(match: re.Match[str]) -> str:
    """Python's names of types, which mean nothing to a client, as JSON Schema's: ``integer | null``."""
    return "`" + " | ".join(_JSON_TYPES.get(name, name) for name in match[1].split(" | ")) + "`"
