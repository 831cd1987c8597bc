"""Values of command-line options that are more than text; a wrong one is a usage error that names the option."""

import datetime as dt

import click

from engine.errors import InvalidRequest
from engine.importing.cars import Car, parse_car


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
    try:
        parsed = dt.datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise click.BadParameter(f"{text!r} is no moment with a zone, like 2027-05-01T19:00:00Z")
    return parsed


def date(text: str) -> dt.date:
    """ISO 8601, without a time."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no date like 2027-05-01") from error
