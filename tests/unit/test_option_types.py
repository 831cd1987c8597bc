"""Moments and dates as options of commands: what is taken, and what is said of what is not."""

import datetime as dt

import click
import pytest
from click.testing import CliRunner

from holdfast.cli import main
from holdfast.commands.option_types import moment, moment_or_date


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2027-05-01T19:00:00Z", 19),
        ("2027-05-01T21:00:00+02:00", 19),
        ("2027-05-01T19:00:00+0000", 19),
        ("2027-05-01T19:00:00.000Z", 19),
        ("2027-05-01", 0),
    ],
)
def test_moment_or_date_is_a_moment_in_utc(text: str, hour: int) -> None:
    parsed = moment_or_date(text)
    assert parsed == dt.datetime(2027, 5, 1, hour, tzinfo=dt.UTC)
    assert parsed.tzinfo is not None


@pytest.mark.parametrize("text", ["soon", "", "2027-05-01T19:00:00", "2027-05-01 19:00", "2027-02-30", "19:00:00Z"])
def test_moment_without_a_zone_is_refused_with_the_forms_that_are_taken(text: str) -> None:
    with pytest.raises(click.BadParameter) as refused:
        moment_or_date(text)
    assert "like 2027-05-01T19:00:00Z, nor a date, like 2027-05-01" in refused.value.message
    with pytest.raises(click.BadParameter, match="like 2027-05-01T19:00:00Z"):
        moment(text)


def test_date_alone_is_no_moment() -> None:
    with pytest.raises(click.BadParameter, match="no moment with a zone"):
        moment("2027-05-01")


@pytest.mark.parametrize("option", ["--from", "--to"])
def test_replay_says_in_help_and_in_errors_which_moments_it_takes(option: str) -> None:
    told = CliRunner().invoke(main, ["webhooks", "replay", "--help"]).output
    assert f"{option} MOMENT" in told
    assert "2027-05-01T19:00:00Z" in told
    refused = CliRunner().invoke(main, ["webhooks", "replay", option, "soon"])
    assert refused.exit_code == 2
    assert f"'{option}': 'soon' is neither a moment with a zone, like 2027-05-01T19:00:00Z" in refused.output
