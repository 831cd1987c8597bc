"""Values of command-line options that are more than text; a wrong one is a usage error that names the option."""

import datetime as dt

import click

from engine.errors import InvalidRequest
from engine.importing.cars import Car, parse_car

MOMENT_SAMPLE = "2027-05-01T19:00:00Z"
DATE_SAMPLE = "2027-05-01"


def price(text: str) -> tuple[str | None, int]:
    """``9000``, or ``Premium=9000`` for a category: category, or ``None``, and amount in minor units."""
    category, equals, amount = text.rpartition("=")
    if not (amount.isascii() and amount.isdigit()) or (equals and not category):
        raise click.BadParameter(f"{text!r} is neither an amount in minor units nor CATEGORY=AMOUNT")
    return (category if equals else None), int(amount)


def car(text: str) -> Car:
    """``A1:80x4`` or ``standing:120``."""
    try:
        return parse_car(text)
    except InvalidRequest as error:
        raise click.BadParameter(error.reason) from error


def moment(text: str) -> dt.datetime:
    """RFC 3339, with a zone."""
    if (parsed := _with_zone(text)) is None:
        raise click.BadParameter(f"{text!r} is no moment with a zone, like {MOMENT_SAMPLE}")
    return parsed


def moment_or_date(text: str) -> dt.datetime:
    """The same, or a date without a time: its midnight in UTC."""
    if (parsed := _with_zone(text)) is not None:
        return parsed
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither a moment with a zone, like {MOMENT_SAMPLE}, nor a date, like {DATE_SAMPLE}"
        ) from None
    return dt.datetime.combine(day, dt.time(), dt.UTC)


def _with_zone(text: str) -> dt.datetime | None:
    try:
        parsed = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo is not None else None


def date(text: str) -> dt.date:
    """ISO 8601, without a time."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no date like {DATE_SAMPLE}") from error
