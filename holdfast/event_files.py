"""Events from files, for the command line: definitions in JSON, pretix seating plans, GTFS timetables."""

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from api.decoding import check_free_form, half_a_pair, invalid_value, why_no_json
from engine.currencies import check_currency
from engine.definition import EventDefinition, Policy
from engine.errors import InvalidRequest
from engine.importing.cars import Car
from engine.importing.gtfs_tables import TimetableError
from engine.importing.seating_plan import read_plan, sections_from_plan
from engine.importing.timetable import read_timetable
from engine.importing.timetable_events import events_from_timetable
from engine.layout import compile_layout

_DEFINITION = msgspec.json.Decoder(EventDefinition)
_DEFINITIONS = msgspec.json.Decoder(list[EventDefinition])
_AT_BYTE = re.compile(r"(?P<reason>.*) \(byte (?P<byte>[0-9]+)\)")
_BOM = b"\xef\xbb\xbf"


class ImportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the files do not say; money in minor units.

    Definitions in JSON are complete and take none of it. A seating plan needs ``starts_at``, ``currency`` and
    ``prices`` (by category). A timetable needs the dates, ``cars``, ``currency`` and one of ``price`` and
    ``leg_price``; without ``last_date`` it is one day. What is said and taken by no file is refused.
    """

    currency: str | None = None
    policy: Policy = Policy()

    event_id: str | None = None
    name: str | None = None
    starts_at: dt.datetime | None = None
    ends_at: dt.datetime | None = None
    prices: dict[str, int] = {}

    first_date: dt.date | None = None
    last_date: dt.date | None = None
    trips: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    cars: tuple[Car, ...] = ()
    price: int | None = None
    leg_price: int | None = None
    id_prefix: str = ""


_NO_OPTIONS = ImportOptions()
_OF_BOTH = {"currency": "--currency", "policy": "--policy"}
_OF_PLANS = {
    "event_id": "--id",
    "name": "--name",
    "starts_at": "--starts-at",
    "ends_at": "--ends-at",
    "prices": "--price",
}
_OF_TIMETABLES = {
    "first_date": "--date",
    "last_date": "--until",
    "trips": "--trip",
    "routes": "--route",
    "cars": "--car",
    "price": "--price",
    "leg_price": "--leg-price",
    "id_prefix": "--id-prefix",
}
_OPTIONS = _OF_BOTH | _OF_PLANS | _OF_TIMETABLES
_ONLY_IN_PLANS = frozenset(("size", "categories"))
_ONLY_IN_EVENTS = frozenset(("starts_at", "currency", "sections"))


class EventFileError(Exception):
    """A file does not describe events.

    ``line`` and ``column`` (from 1) say where its text is wrong, ``json_path`` which member, or which option beside it,
    has a wrong value. For a file inside a feed, ``file`` is that file.
    """

    def __init__(
        self,
        file: Path,
        reason: str,
        *,
        line: int | None = None,
        column: int | None = None,
        json_path: str | None = None,
    ) -> None:
        place = ":".join(str(part) for part in (file, line, column) if part is not None)
        super().__init__(f"{place}: {json_path}: {reason}" if json_path else f"{place}: {reason}")
        self.file = file
        self.reason = reason
        self.line = line
        self.column = column
        self.json_path = json_path


def read_event_files(paths: Iterable[Path], *, options: ImportOptions) -> list[EventDefinition]:
    """The events that the files at *paths* describe, in order, each checked as the API would check it.

    A ``.json`` file is an event, a list of events, or a seating plan (it has ``zones``); a directory or ``.zip`` file
    is a timetable in GTFS.

    Raises:
        EventFileError: A file cannot be read or is wrong, two events have one id, or no file takes an option.
    """
    events: list[EventDefinition] = []
    used: dict[str, str] = {}
    file_of: dict[str, Path] = {}
    for path in paths:
        for event in _read_events(path, options, used):
            if event.id is not None:
                if event.id in file_of:
                    raise EventFileError(path, f"event {event.id!r} is in {file_of[event.id]} too")
                file_of[event.id] = path
            events.append(event)
        last = path
    if events:
        _refuse_unused(last, options, used)
    return events


def _read_events(path: Path, options: ImportOptions, used: dict[str, str]) -> Sequence[EventDefinition]:
    """The events of one file; the options that its kind takes are added to *used*."""
    try:
        if path.is_dir() or path.suffix.lower() == ".zip":
            used.update(_OF_BOTH | _OF_TIMETABLES)
            try:
                return _timetable_events(path, options)
            except InvalidRequest as error:  # a feed has no members: what is wrong was said with an option
                option = _OF_TIMETABLES.get(error.path.removeprefix("$."), error.path)
                raise EventFileError(path, error.reason, json_path=option) from error
        if path.suffix.lower() == ".json":
            return _json_events(path, path.read_bytes().removeprefix(_BOM), options, used)
    except InvalidRequest as error:
        raise EventFileError(path, error.reason, json_path=error.path) from error
    except TimetableError as error:
        file = path / error.file if error.file != path.name else path
        raise EventFileError(file, error.reason, line=error.line) from error
    except OSError as error:
        raise EventFileError(path, f"cannot be read: {error.strerror or error}") from error
    if not path.exists():
        raise EventFileError(path, "there is no such file")
    raise EventFileError(path, "must be a .json file, or a timetable in GTFS (a directory or .zip file)")


def _json_events(path: Path, data: bytes, options: ImportOptions, used: dict[str, str]) -> Sequence[EventDefinition]:
    try:
        document = msgspec.json.decode(data.decode())  # decoded here, so that an error knows its byte
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _syntax_error(path, data, error) from error
    if isinstance(document, dict) and "zones" in document:
        used.update(_OF_BOTH | _OF_PLANS)
        return [_plan_event(path, data, options)]
    if isinstance(document, dict) and _looks_like_plan(document):
        raise EventFileError(path, "required: a seating plan has zones", json_path="$.zones")
    if document == []:
        raise EventFileError(path, "there is no event in it")
    decoder: msgspec.json.Decoder[Any] = _DEFINITIONS if isinstance(document, list) else _DEFINITION
    try:
        definitions = decoder.decode(data)
    except msgspec.ValidationError as error:
        raise invalid_value(error, decoder.type) from error
    if not isinstance(document, list):
        return [_checked(definitions, "$")]
    return [_checked(definition, f"$[{number}]") for number, definition in enumerate(definitions)]


def _looks_like_plan(document: dict[str, Any]) -> bool:
    """Whether a document without zones is a plan all the same: it has members that only plans have, none of events."""
    return bool(_ONLY_IN_PLANS & document.keys()) and not _ONLY_IN_EVENTS & document.keys()


def _refuse_unused(path: Path, options: ImportOptions, used: Mapping[str, str]) -> None:
    """An option that no file takes would be ignored, which is a misunderstanding: refuse it by its name."""
    for field, option in _OPTIONS.items():
        if field not in used and getattr(options, field) != getattr(_NO_OPTIONS, field):
            raise EventFileError(path, f"{option} does not apply to a file of this kind")


def _syntax_error(
    path: Path, data: bytes, error: msgspec.DecodeError | UnicodeDecodeError | RecursionError
) -> EventFileError:
    """The error with its line and column; what ends too early is wrong at its end."""
    if (half := half_a_pair(data)) is not None:
        return EventFileError(path, half.reason, json_path=half.path)
    if isinstance(error, RecursionError):
        return EventFileError(path, "is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        reason, byte = "is not UTF-8", error.start
    else:
        match = _AT_BYTE.fullmatch(str(error))
        reason, byte = (match["reason"], int(match["byte"])) if match else (why_no_json(error), len(data))
    before = data[:byte]
    column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
    return EventFileError(path, reason, line=before.count(b"\n") + 1, column=column)


def _plan_event(path: Path, data: bytes, options: ImportOptions) -> EventDefinition:
    plan = read_plan(data)
    if options.starts_at is None:
        raise EventFileError(path, "a seating plan does not say when the event starts: --starts-at is needed")
    if options.currency is None:
        raise EventFileError(path, "a seating plan does not say what its prices are in: --currency is needed")
    definition = EventDefinition(
        id=options.event_id,
        name=options.name if options.name is not None else plan.name,
        starts_at=options.starts_at,
        ends_at=options.ends_at,
        currency=options.currency,
        sections=sections_from_plan(plan, options.prices),
        policy=options.policy,
    )
    try:
        return _checked(msgspec.convert(msgspec.to_builtins(definition), EventDefinition), "$")
    except msgspec.ValidationError as error:
        raise invalid_value(error, EventDefinition) from error


def _timetable_events(path: Path, options: ImportOptions) -> list[EventDefinition]:
    if options.first_date is None:
        raise EventFileError(path, "a timetable makes events for dates: --date is needed")
    if (options.price is None) == (options.leg_price is None):
        raise EventFileError(
            path, "a timetable does not say what a ride costs: one of --price and --leg-price is needed"
        )
    if options.currency is None:
        raise EventFileError(path, "a timetable does not say what the price is in: --currency is needed")
    timetable = read_timetable(path)
    last_date = options.last_date or options.first_date
    events = list(
        events_from_timetable(
            timetable,
            first_date=options.first_date,
            last_date=last_date,
            cars=options.cars,
            currency=options.currency,
            price=options.price,
            leg_price=options.leg_price,
            trips=options.trips,
            routes=options.routes,
            policy=options.policy,
            id_prefix=options.id_prefix,
        )
    )
    if not events:
        raise EventFileError(path, f"no such trip runs from {options.first_date} to {last_date}")
    return events


def _checked(definition: EventDefinition, path: str) -> EventDefinition:
    """*definition* if it compiles; *path* is where it stands in its file."""
    try:
        check_currency(definition.currency)
        compile_layout(definition)
        check_free_form(definition.metadata, "$.metadata")
    except InvalidRequest as error:
        raise InvalidRequest(path + error.path.removeprefix("$"), error.reason) from error
    return definition
